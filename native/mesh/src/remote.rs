//! Waiting for others: until they have a version, or for the manifest of a content.
//!
//! Invariant: a manifest is the one that was asked for, whoever sent it.

use crate::mesh::{Ack, Written};
use crate::peers::{blocking, Peer};
use crate::record::{Dot, Version};
use crate::shared::Shared;
use crate::turn::Turn;
use crate::waiters::Waiter;
use crate::wire::{Of, Request, MANIFEST_PART};
use crate::{Content, Manifest, MeshError, Name, Record};
use std::sync::Arc;
use std::time::Duration;

impl Shared {
    /// Finish what a former process had begun; what cannot be now is finished by the file's next turn.
    pub fn finish_pending(&self) -> Result<(), MeshError> {
        for name in self.index.pending()?.into_iter().chain(self.unsynced.former()) {
            let _ = Turn::of(self, &name);
        }
        Ok(())
    }

    /// Whether so many others have a version, or something else replaced it; else how many have it, and shall.
    pub fn replicated(
        &self,
        name: &Name,
        record: &Record,
        dot: Dot,
        ack: Option<Ack>,
    ) -> Result<Written, (usize, usize)> {
        let Some(version) = record.version(&dot) else {
            // replaced: who has the newer one needs this one no more
            return Ok(Written { dot, replicas: 0 });
        };
        let have = record.holders(dot).filter(|replica| *replica != self.own()).count();
        let wanted = self.wanted_others(name, version, ack);
        if have >= wanted {
            Ok(Written { dot, replicas: have })
        } else {
            Err((have, wanted))
        }
    }

    /// Wait until that is so.
    pub async fn acknowledged(
        &self,
        mut waiter: Waiter,
        (dot, ack): (Dot, Option<Ack>),
        deadline: Duration,
        (mut have, mut wanted): (usize, usize),
    ) -> Result<Written, MeshError> {
        let until = tokio::time::Instant::now() + deadline;
        while let Ok(record) = tokio::time::timeout_at(until, waiter.heard()).await {
            match self.replicated(&waiter.name, &record, dot, ack) {
                Ok(written) => return Ok(written),
                Err(missing) => (have, wanted) = missing,
            }
        }
        Err(MeshError::NotReplicated { path: waiter.name.path.clone(), have, wanted })
    }

    fn wanted_others(&self, name: &Name, version: &Version, ack: Option<Ack>) -> usize {
        let all = self.members.members().len().max(1);
        let shall = self.holders(name, version).len().max((self.place(version.place).0 + 1).min(all));
        match ack {
            None => usize::from(all > 1 && self.place(version.place).0 > 0),
            Some(Ack::Local) => 0,
            Some(Ack::Others(count)) => count,
            Some(Ack::Quorum) => shall / 2,
            Some(Ack::All) => shall - 1,
        }
    }

    /// The manifest of a content, known here or asked of a peer.
    pub async fn manifest_of(
        self: &Arc<Self>,
        name: &Name,
        content: Content,
        peer: &Peer,
    ) -> Result<Manifest, MeshError> {
        let id = content.id;
        if let Some(manifest) = Manifest::of_one(content.len, &id) {
            return Ok(manifest);
        }
        let of = self.clone();
        if let Some(manifest) = blocking(move || of.index.manifest(&id)).await? {
            return Ok(manifest);
        }
        let (len, mut bytes) = (crate::id::manifest_len(content.len), Vec::new());
        while (bytes.len() as u64) < len {
            let of = Of { key: name.key(), id };
            let part_len = (len - bytes.len() as u64).min(MANIFEST_PART as u64);
            match peer.ask_bytes(&Request::Manifest(of, bytes.len() as u64)).await? {
                // who sent less each time would never come to an end
                Some(part) if part.len() as u64 == part_len => bytes.extend(&part),
                Some(_) => return Err(MeshError::Malformed(format!("{} has another manifest", peer.name))),
                // it may have replaced that content
                None => {
                    return Err(MeshError::Refused { by: peer.name.clone(), why: "it has no manifest of it".into() })
                }
            }
        }
        let manifest = Manifest::decode(&bytes, &id)?;
        if manifest.len() != content.len {
            return Err(MeshError::Malformed(format!("{} has a manifest of another length", peer.name)));
        }
        let (of, known) = (self.clone(), manifest.clone());
        blocking(move || of.index.put_manifest(&known)).await?;
        Ok(manifest)
    }
}
