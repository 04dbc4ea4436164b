//! Finds with one peer what the two know differently, and makes it the same.
//!
//! Invariant: what they have and we do not is merged here, what we have is sent by the outbox; so both sides hear of
//! each difference in one comparison, whoever began it. What changes meanwhile is told by its own way.

use crate::merge::Told;
use crate::peers::{blocking, Peer};
use crate::ranges::{self, Asker, Difference, Limits, Step};
use crate::record::Record;
use crate::shared::Shared;
use crate::wire::{name_of, Answer, Reply, Request, PUSH_MAX};
use crate::MeshError;
use std::sync::Arc;

/// Answer what a peer asks.
pub(crate) fn answer(shared: &Shared, question: &ranges::Question) -> Result<Reply, MeshError> {
    let answer = shared
        .fingerprints
        .with(&shared.index, |rows, tree| ranges::answer(rows, tree, question, &Limits::default()))?;
    Ok(Reply::Answer(Answer::Compared(answer)))
}

/// Compare with a peer; how many files were known differently.
pub(crate) async fn with(shared: &Arc<Shared>, peer: &Arc<Peer>) -> Result<u64, MeshError> {
    // asked before: what it has seen then is in all that it answers from now on
    let theirs = match peer.ask(&Request::Seen).await {
        Ok(Answer::Seen(floor)) if floor.is_sound() => Some(floor),
        // it cannot say now
        Ok(_) | Err(MeshError::Refused { .. } | MeshError::Malformed(_)) => None,
        Err(error) => return Err(error),
    };
    let (found, is_merged) = compare(shared, peer).await?;
    if is_merged {
        shared.told_by.lock().insert(peer.replica());
    }
    if let Some(theirs) = theirs.filter(|_| is_merged) {
        let shared = shared.clone();
        blocking(move || shared.raise_floor(theirs)).await?;
    }
    Ok(found)
}

/// How many files were known differently, and whether all that the peer knew of them is known here now.
async fn compare(shared: &Arc<Shared>, peer: &Arc<Peer>) -> Result<(u64, bool), MeshError> {
    let (mut asker, mut found, mut is_merged) = (Asker::new(Limits::default()), 0, true);
    loop {
        let of = shared.clone();
        let step;
        (asker, step) = blocking(move || {
            let step = of.fingerprints.with(&of.index, |rows, tree| asker.step(rows, tree))?;
            Ok((asker, step))
        })
        .await?;
        match step {
            Step::Done => return Ok((found, is_merged)),
            Step::Ask(question) => match peer.ask(&Request::Compare(question)).await? {
                Answer::Compared(answer) => asker.answered(answer)?,
                _ => return Err(MeshError::Malformed(format!("{} compares nothing", peer.name))),
            },
            Step::Found(differences) => {
                found += differences.len() as u64;
                is_merged &= settle(shared, peer, differences).await?;
            }
        }
    }
}

/// Whether all that the peer knew is known here now.
async fn settle(shared: &Arc<Shared>, peer: &Arc<Peer>, differences: Vec<Difference>) -> Result<bool, MeshError> {
    let (mut theirs, mut ours, mut is_merged) = (Vec::new(), Vec::new(), true);
    for Difference { key, ours: own, theirs: other } in differences {
        if own.is_some() {
            ours.push(name_of(&key)?);
        }
        if other.is_some() {
            theirs.push(key);
        }
    }
    for keys in theirs.chunks(PUSH_MAX) {
        let records = match peer.ask(&Request::Records(keys.to_vec())).await? {
            Answer::Records(records) if records.len() == keys.len() => records,
            _ => return Err(MeshError::Malformed(format!("{} has other records", peer.name))),
        };
        let (mut told, mut said) = (Vec::new(), Vec::new());
        for (key, record) in keys.iter().zip(records) {
            match record.filter(|record| *record != Record::default()) {
                Some(record) => {
                    said.push((name_of(key)?, record.clone()));
                    told.push(Told { name: name_of(key)?, record, content: None });
                }
                // it did not fit into the answer, or is forgotten since
                None => is_merged = false,
            }
        }
        for (known, (name, record)) in shared.merge_all(told, &peer.name).await?.into_iter().zip(said) {
            match known {
                // it does not know that a version is gone, of which nothing else is left here
                Ok(known) if known.versions() != record.versions() => ours.push(name),
                Ok(_) => {}
                // of a name that cannot be changed now the next comparison is told; the others go on
                Err(_) => is_merged = false,
            }
        }
    }
    ours.iter().for_each(|name| peer.tell_again(name));
    Ok(is_merged)
}
