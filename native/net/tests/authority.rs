//! The files of an authority and of a node: whole or not there, private, never overwritten.

mod common;

use common::*;
use macula_core::{Disk, Kind, Kinded, RelPath, SystemChance, SystemClock};
use macula_net::{authority, Authority, Identity, Issue, NetError, Role};
use macula_testkit::{CrashMode, Fault, FaultDisk};
use std::sync::Arc;

#[test]
fn keys_are_private_and_nothing_is_overwritten() {
    let cluster = Cluster::new();
    let dir = cluster.issue("a@host", Role::Member);
    let mode = |dir: &RelPath, file: &str| cluster.disk.stat(&dir.join(file).expect("a path")).expect("there").mode;
    let at = path("authority");
    assert_eq!((mode(&at, "ca.key"), mode(&dir, "key.pem"), mode(&dir, "cert.pem")), (0o600, 0o600, 0o644));
    assert_eq!(cluster.disk.stat(&dir).expect("there").mode, 0o700);
    let again = Authority::create(&*cluster.disk, &at, &SystemClock, &SystemChance).expect_err("there");
    assert_eq!(again.kind(), Kind::Exists);
    let wanted = Issue { node: &name("b"), role: Role::Member, days: 1, trust: &[&cluster.authority] };
    let again = cluster.authority.issue(&*cluster.disk, &dir, &wanted, &SystemClock, &SystemChance);
    assert_eq!(again.expect_err("there").kind(), Kind::Exists);
    let peer = cluster.identity(&dir).peer();
    assert_eq!(
        (peer.node.as_bytes(), peer.role, peer.cluster),
        (&b"a@host"[..], Role::Member, cluster.authority.cluster())
    );
    // opened again, it issues what the others trust
    let opened = Authority::open(&*cluster.disk, &at).expect("opens");
    let dir = cluster.issue_from(&opened, "c", Role::Client, &[&cluster.authority], &SystemClock);
    assert_eq!(cluster.identity(&dir).peer().role, Role::Client);
    let key = dir.join("key.pem").expect("a path");
    cluster.disk.open(&key, macula_core::Open::Read).and_then(|file| file.set_mode(0o640)).expect("changed");
    let shown = Identity::load(cluster.disk.clone(), dir, Arc::new(SystemClock)).expect_err("refused");
    assert!(matches!(&shown, NetError::Identity { file, .. } if file == "key.pem"), "{shown:?}");
}

#[test]
fn trust_is_of_one_cluster_and_bounded() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let next = ours.authority.successor(&*ours.disk, &path("next"), &SystemClock, &SystemChance).expect("created");
    let all = [&ours.authority, &next, &next];
    for trust in [&[][..], &[&ours.authority, &theirs.authority], &all] {
        let wanted = Issue { node: &name("a"), role: Role::Member, days: 1, trust };
        let refused = ours.authority.issue(&*ours.disk, &path("x"), &wanted, &SystemClock, &SystemChance);
        assert_eq!(refused.expect_err("refused").kind(), Kind::Invalid);
    }
    assert!(ours.disk.stat(&path("x")).is_err());
}

/// Power is lost at each step of making an authority, a node's files, and of their replacement: each is
/// there whole, or not at all, or as it was.
#[test]
fn a_crash_at_every_step_leaves_the_old_or_the_new() {
    let mut whole = [0; 3];
    for step in 1.. {
        let disk = FaultDisk::new();
        let (at, dir, fresh) = (path("authority"), path("node"), path("fresh"));
        let made = (|| -> Result<(), NetError> {
            disk.fail_at(step, Fault::Crash);
            let authority = Authority::create(&disk, &at, &SystemClock, &SystemChance)?;
            for (days, to) in [(1, &dir), (2, &fresh)] {
                let wanted = Issue { node: &name("a"), role: Role::Member, days, trust: &[&authority] };
                authority.issue(&disk, to, &wanted, &SystemClock, &SystemChance)?;
            }
            authority::install(&disk, &fresh, &dir)
        })();
        for mode in [CrashMode::LoseAll, CrashMode::KeepAll] {
            let after: Arc<dyn Disk> = Arc::new(disk.after_crash(mode));
            match Authority::open(&*after, &at) {
                Ok(_) => whole[0] += 1,
                Err(error) => assert!(after.stat(&at).is_err(), "half an authority: {error}"),
            }
            match Identity::load(after.clone(), dir.clone(), Arc::new(SystemClock)) {
                Ok(identity) => {
                    let validity = identity.validity();
                    let days = (validity.until_ms - validity.from_ms) / 86_400_000;
                    whole[days as usize] += 1;
                    assert!(made.is_err() || days == 2, "what was installed is there");
                }
                Err(error) => assert!(after.stat(&dir).is_err(), "half a node: {error}"),
            }
        }
        if made.is_ok() {
            break;
        }
    }
    assert!(whole.iter().all(|count| *count > 2), "{whole:?}");
}
