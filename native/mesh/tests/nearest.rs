//! Who is asked for a file that is not here.

use crate::common::{cluster, until};
use macula_mesh::Ack;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// What a request for blocks begins with, behind its version.
const READ: u8 = 6;

#[test]
fn who_answers_soonest_is_asked_and_the_next_when_it_has_nothing() {
    let (net, nodes) = cluster(&["a", "b", "c", "d"]);
    let content = vec![7; 100_000];
    nodes[0].write("f", &content, Ack::All).expect("written");
    let have = || nodes.iter().filter(|node| node.tree().contains_key("f")).count();
    until("three have it", || have() == 3);
    let (mut holders, others): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.tree().contains_key("f"));
    let reader = others[0];
    until("the reader knows who", || {
        reader.mesh.stat(&crate::common::name("f")).is_ok_and(|stat| stat.replicas.len() == 3)
    });
    // it would be the first otherwise
    holders.sort_by_key(|node| node.mesh.status().replica);
    let slow = holders[0].name.clone();
    let (asked, are_liars) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(false)));
    let (told, of, lying) = (asked.clone(), slow.clone(), are_liars.clone());
    *net.lie.lock() = Some(Box::new(move |from, request, bytes| {
        if request.get(1) != Some(&READ) {
            return bytes;
        }
        told.lock().push(from.to_owned());
        if from == of {
            std::thread::sleep(Duration::from_millis(300));
        } else if *lying.lock() {
            return vec![0];
        }
        bytes
    }));
    for _ in 0..3 {
        assert_eq!(reader.read("f").expect("reads"), content);
    }
    assert_eq!(asked.lock().iter().filter(|name| **name == slow).count(), 1, "each is tried");
    for _ in 0..10 {
        assert_eq!(reader.read("f").expect("reads"), content);
    }
    assert_eq!(asked.lock().iter().filter(|name| **name == slow).count(), 1, "{asked:?}");
    *are_liars.lock() = true;
    assert_eq!(reader.read("f").expect("from the slow one"), content);
    assert_eq!(asked.lock().last(), Some(&slow));
    // who failed is not asked before it
    asked.lock().clear();
    assert_eq!(reader.read("f").expect("from the slow one"), content);
    assert_eq!(*asked.lock(), [slow]);
}
