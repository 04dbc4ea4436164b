//! What is kept of conflicts may be the only copy, and outlives the index.

use crate::common::{all_meet, name, settled, until, Network, Node};
use macula_core::Disk;
use macula_mesh::{Ack, Options, BLOCK_LEN};
use macula_testkit::{CrashMode, Fault, FaultDisk};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn who_lost_its_index_and_is_cut_off_keeps_what_it_kept() {
    let options = || Options { copies: 0, scan_every: Duration::from_millis(200), ..Options::default() };
    let net = Arc::new(Network::default());
    let mut nodes: Vec<Node> = ["a", "b"].iter().map(|name| Node::open(&net, name, options())).collect();
    all_meet(&nodes);
    net.cut("a", "b");
    let loser = vec![1; 2 * BLOCK_LEN + 5];
    let lost = nodes[0].write("f", &loser, Ack::Local).expect("written").dot;
    std::thread::sleep(Duration::from_millis(2));
    nodes[1].write("f", &[2; 90_000], Ack::Local).expect("written");
    net.heal();
    let kept = |node: &Node| node.files.kept().expect("lists").len();
    until("one is kept", || kept(&nodes[0]) == 1);
    settled(&nodes);
    assert_eq!(kept(&nodes[1]), 0, "there is no other copy");
    net.cut("a", "b");
    let (disk, dir) = nodes.remove(0).leave();
    let dir = dir.expect("a directory");
    drop(disk);
    std::fs::remove_dir_all(dir.path().join("mesh")).expect("removed");
    let disk = macula_core::RealDisk::at(dir.path()).expect("opens");
    nodes.insert(0, Node::on(&net, "a", Arc::new(disk), options()));
    // an app of which nothing is known is not looked at
    nodes[0].write("w", b"w", Ack::Local).expect("written");
    // what was kept is looked at after each look for files
    for path in ["x", "y", "z"] {
        std::fs::write(dir.path().join("data/files").join(path), path).expect("written");
        until("it is found", || nodes[0].mesh.stat(&name(path)).is_ok());
    }
    assert_eq!(kept(&nodes[0]), 1);
    net.heal();
    all_meet(&nodes);
    for node in &nodes {
        until("it can be read", || node.read_version("f", Some(lost)).is_ok_and(|read| read == loser));
    }
    // and goes when nobody needs it
    until("the other has it, too, and resolves it", || nodes[1].mesh.resolve(&name("f"), lost).is_ok());
    until("nothing is kept", || kept(&nodes[0]) == 0);
}

/// Who failed to make last what it kept says nothing of it; nor does who finds it there later, unless it lasts.
#[test]
fn what_is_claimed_of_kept_contents_outlives_a_failed_sync() {
    let claimed_after = |n: u64| {
        let (net, disk) = (Arc::<Network>::default(), FaultDisk::new());
        let options = || Options { scan_every: Duration::from_millis(200), ..Options::default() };
        let other = Node::open(&net, "a", options());
        let on = |disk: FaultDisk| Node::on(&net, "b", Arc::new(disk) as Arc<dyn Disk>, options());
        let victim = on(disk.clone());
        net.cut("a", "b");
        let one = other.write("f", &[1; 80_000], Ack::Local).expect("written").dot;
        std::thread::sleep(Duration::from_millis(2));
        victim.write("f", &[2; 90_000], Ack::Local).expect("written");
        let at = disk.operations() + n;
        disk.fail_at(at, Fault::Io);
        net.heal();
        let number = victim.mesh.status().replica;
        let is_claimed = |node: &Node| node.known("f").holders(one).any(|holder| holder == number);
        let begun = Instant::now();
        // it looks for what is kept meanwhile, and more than once
        while !is_claimed(&other) && begun.elapsed() < Duration::from_secs(3) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let (is_claimed, operation) = (is_claimed(&other), disk.operation(at));
        net.cut("a", "b");
        let left = disk.after_crash(CrashMode::LoseAll);
        victim.leave();
        let back = on(left);
        // of a sync of all that failed each file's own next one tells, which this disk does not do
        if is_claimed && operation != Some("sync_tree") {
            // the index may have to find it first
            let what = format!("it is there, n={n} {operation:?}");
            until(&what, || back.read_version("f", Some(one)).is_ok_and(|read| read.len() == 80_000));
        }
        usize::from(is_claimed)
    };
    let claimed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 1..=32 {
            let (claimed, claimed_after) = (&claimed, &claimed_after);
            scope.spawn(move || claimed.fetch_add(claimed_after(n), Ordering::AcqRel));
        }
    });
    assert!(claimed.into_inner() > 4);
}
