//! What other members ask of this one.
//!
//! Invariant: an answer is made of what is durable here; what is asked for is checked before it is looked for,
//! and a request costs no more memory than its longest answer.

use crate::merge::Told;
use crate::peers::blocking;
use crate::shared::Shared;
use crate::wire::{fitting, name_of, Answer, Of, Pushed, Reply, Request, BLOCKS_MAX, MANIFEST_PART};
use crate::{reconcile, MeshError, Record, BLOCK_LEN};
use bytes::Bytes;
use macula_core::Opened;
use std::sync::Arc;
use std::time::Duration;

const NOT_HERE: Reply = Reply::Answer(Answer::NotHere);

impl Shared {
    /// Answer a request of the member `from`.
    pub async fn serve(self: &Arc<Self>, from: &str, request: &Bytes) -> Vec<u8> {
        self.traffic.count_received(request.len());
        let reply = match Request::decode(request) {
            Ok((Request::Ahead(ahead), piece)) => self.arrives(from, ahead, piece).await,
            Ok((request, _)) => self.answer(from, request).await,
            Err(error) => Err(error),
        };
        let refuse = |error: MeshError| {
            self.refusals.note_error(from, &error);
            Reply::Answer(Answer::Refused(error.to_string()))
        };
        let reply = reply.unwrap_or_else(refuse).encode();
        self.traffic.count_sent(reply.len());
        reply
    }

    async fn answer(self: &Arc<Self>, from: &str, request: Request) -> Result<Reply, MeshError> {
        let shared = self.clone();
        match request {
            Request::Greet(card) if card.name != from || card.replica == self.own() => {
                Err(MeshError::Invalid(format!("{from} greets as {}", card.name)))
            }
            Request::Greet(card) => {
                blocking(move || shared.meet(card)).await?;
                Ok(Reply::Answer(Answer::Greeted(self.card())))
            }
            Request::Push(changes) => Ok(Reply::Answer(Answer::Took(self.take(from, changes).await?))),
            Request::Compare(question) => blocking(move || reconcile::answer(&shared, &question)).await,
            Request::Records(keys) => blocking(move || shared.records(&keys)).await,
            Request::Manifest(of, from) => blocking(move || shared.manifest_part(&of, from)).await,
            Request::Blocks(of, first, count) => self.send_blocks(of, first, count).await,
            Request::Read(of, first, count) => {
                blocking(move || shared.find(&of, first, count)?.map_or(Ok(NOT_HERE), Found::read)).await
            }
            Request::Seen => blocking(move || Ok(Reply::Answer(Answer::Seen(shared.floor()?)))).await,
            Request::Ahead(ahead) => self.arrives(from, ahead, Bytes::new()).await,
        }
    }

    /// What is known then, of those of which that is something else than they say.
    async fn take(self: &Arc<Self>, from: &str, changes: Vec<Pushed>) -> Result<Vec<Option<Record>>, MeshError> {
        let (mut told, mut said) = (Vec::with_capacity(changes.len()), Vec::with_capacity(changes.len()));
        for Pushed { key, record, content } in changes {
            said.push((name_of(&key)?, record.clone()));
            told.push(Told { name: name_of(&key)?, record, content });
        }
        let merged = self.merge_all(told, from).await?;
        let shared = self.clone();
        blocking(move || {
            let known = merged.into_iter().zip(said).map(|(known, (name, record))| {
                // what could not be taken now is found by the next comparison
                let known = known.or_else(|_| shared.record(&name))?;
                Ok((known != record).then_some(known))
            });
            Ok(fitting(known.collect::<Result<_, MeshError>>()?))
        })
        .await
    }

    fn records(&self, keys: &[Vec<u8>]) -> Result<Reply, MeshError> {
        let record = |key: &Vec<u8>| Ok(self.index.row_of_key(key)?.map(|row| row.record));
        let records = keys.iter().take(crate::wire::PUSH_MAX).map(record).collect::<Result<_, MeshError>>()?;
        Ok(Reply::Answer(Answer::Records(fitting(records))))
    }

    fn manifest_part(&self, of: &Of, from: u64) -> Result<Reply, MeshError> {
        let Some(manifest) = self.index.manifest(&of.id)? else { return Ok(Reply::Answer(Answer::NotHere)) };
        let encoded = manifest.encode();
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(encoded.len());
        let to = encoded.len().min(from + MANIFEST_PART);
        let mut bytes = Reply::bytes(to - from);
        bytes.extend_from_slice(&encoded[from..to]);
        Ok(Reply::Bytes(bytes))
    }

    /// To a member that wants to have them: as fast as that may go.
    async fn send_blocks(self: &Arc<Self>, of: Of, first: u64, count: u32) -> Result<Reply, MeshError> {
        let shared = self.clone();
        let reply = blocking(move || {
            let Some(found) = shared.find(&of, first, count)? else { return Ok(Ok(NOT_HERE)) };
            match shared.traffic.may_send(&*shared.clock, found.len as u64) {
                Ok(Duration::ZERO) => found.read().map(Ok),
                Ok(wait) => Ok(Err((found, wait))),
                Err(wait) => Ok(Ok(Reply::Answer(Answer::Later(u32::try_from(wait.as_millis()).unwrap_or(u32::MAX))))),
            }
        });
        match reply.await? {
            Ok(reply) => Ok(reply),
            Err((found, wait)) => {
                tokio::time::sleep(wait).await;
                blocking(move || found.read()).await
            }
        }
    }

    fn find(&self, of: &Of, first: u64, count: u32) -> Result<Option<Found>, MeshError> {
        let name = name_of(&of.key)?;
        let Some(opened) = self.open_content(&name, &of.id)? else { return Ok(None) };
        let offset = first.checked_mul(BLOCK_LEN as u64).ok_or_else(|| MeshError::Invalid("no such block".into()))?;
        // another program may have cut it off
        let Some(left) = opened.look().len.checked_sub(offset) else { return Ok(None) };
        let len = left.min(u64::from(count.min(BLOCKS_MAX)) * BLOCK_LEN as u64) as usize;
        Ok(Some(Found { opened, offset, len }))
    }
}

/// Blocks that are here.
struct Found {
    opened: Box<dyn Opened>,
    offset: u64,
    len: usize,
}

impl Found {
    /// Not compared with their hashes: who asks does that, and whatever it gets from whomever.
    fn read(self) -> Result<Reply, MeshError> {
        let mut bytes = Reply::bytes(self.len);
        bytes.resize(1 + self.len, 0);
        match self.opened.read_at(&mut bytes[1..], self.offset)? {
            read if read == self.len => Ok(Reply::Bytes(bytes)),
            _ => Ok(NOT_HERE),
        }
    }
}

/// Hears other members over our links, on the tasks that read them.
pub struct Door {
    pub(crate) shared: Arc<Shared>,
    pub(crate) runtime: tokio::runtime::Handle,
}

impl macula_net::Handler for Door {
    fn handle(&self, caller: &macula_net::Caller, kind: u8, payload: Bytes, reply: macula_net::Reply) {
        if kind != crate::carrier::KIND_REQUEST || caller.purpose != macula_net::Purpose::Bulk {
            return;
        }
        let Ok(from) = String::from_utf8(caller.peer.node.as_bytes().to_vec()) else { return };
        let shared = self.shared.clone();
        self.runtime.spawn(async move { reply.send(shared.serve(&from, &payload).await) });
    }
}
