//! What a node does by itself while it runs.
//!
//! Invariant: nothing here fails for good: what could not be done is tried at the next look.

use crate::machine::Command;
use crate::members::Change;
use crate::node::Node;
use crate::types::Member;
use crate::way::Way;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Longest between two looks.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// Shortest, so that many short lives are ended together.
const LOOK_MIN: Duration = Duration::from_millis(10);
/// While there is somebody who is to vote, or a change of the members is to be heard of.
const LOOK_JOINING: Duration = Duration::from_millis(50);
/// For one thing that others are asked to do.
const ASK_WAIT: Duration = Duration::from_secs(5);
/// Looks between two readings of the certificates.
const LOOKS_PER_RELOAD: u32 = 60;

/// Look after a node until it is closed.
pub(crate) async fn keep(node: Arc<Node>, way: Arc<Way>, mut closed: watch::Receiver<bool>) {
    let (mut members, mut knows) = (BTreeMap::new(), false);
    let (mut looks, mut applied) = (0_u32, 0);
    loop {
        tokio::select! {
            _ = tokio::time::sleep(pause(&node)) => {}
            _ = node.state.members_changed.notified() => {}
            _ = way.changed() => {}
            _ = closed.changed() => return,
        }
        learn(&node, &way, &mut members);
        if node.knows_members() != knows {
            knows = !knows;
            way.look_again();
        }
        node.look_who_leads();
        looks = looks.wrapping_add(1);
        // nothing is going on
        let before = std::mem::replace(&mut applied, node.applied());
        if applied == before {
            crate::engine::blocking(|| node.state.trim());
        }
        if looks.is_multiple_of(LOOKS_PER_RELOAD) {
            way.reload();
        }
        let look = async {
            say_where(&node, &way, &members).await;
            if node.is_leader() {
                // who leads next tries again
                let _ = node.promote().await;
                if matches!(node.next_expiry(), Ok(Some(Duration::ZERO))) {
                    let _ = node.propose(&Command::Tick, &Arc::default()).await;
                }
            }
        };
        let _ = tokio::time::timeout(ASK_WAIT, look).await;
    }
}

/// Have a checkpoint made whenever much is in memory only, until the node is closed.
pub(crate) async fn make_checkpoints(node: Arc<Node>, mut closed: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            made = node.checkpoint_when_full() => if made.is_err() { return },
            _ = closed.changed() => return,
        }
    }
}

/// How long until something is to be done.
fn pause(node: &Node) -> Duration {
    if node.is_leader() && node.is_changing() {
        return LOOK_JOINING;
    }
    match node.next_expiry() {
        Ok(Some(left)) => left.clamp(LOOK_MIN, LOOK_MAX),
        Ok(None) | Err(_) => LOOK_MAX,
    }
}

/// Let the links know who the members are.
fn learn(node: &Node, way: &Way, members: &mut BTreeMap<u64, Member>) {
    let now = node.members();
    if now != *members {
        *members = now;
        if let Some(links) = way.links() {
            links.learn(members, node.number());
            way.look_again();
        }
    }
}

/// Have the members agree on where this one is.
async fn say_where(node: &Arc<Node>, way: &Way, members: &BTreeMap<u64, Member>) {
    let (Some(address), Some(own)) = (way.address(), members.get(&node.number())) else { return };
    if own.address != address || own.name != node.name {
        // else at the next look
        let member = Member { name: node.name.clone(), address };
        let _ = node.change(Change::Move { number: node.number(), member }).await;
    }
}
