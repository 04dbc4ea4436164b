//! Certificates brought to their place, told about, and refused: by files that are whole, half or another's.

mod common;

use common::*;
use macula_core::{Clock, Disk, Kind, Kinded, Open, RelPath, SystemChance, SystemClock};
use macula_net::{About, Authority, Identity, Issue, NetError, Role};
use macula_testkit::{CrashMode, Fault, FaultDisk, SimClock};
use std::sync::Arc;

const DAY_MS: u64 = 86_400_000;

fn renew(from: &Authority, disk: &dyn Disk, dir: &str, node: &str, trust: &[&Authority]) -> Result<(), NetError> {
    let wanted = Issue { node: &name(node), role: Role::Member, days: 7, trust };
    from.renew(disk, &path(dir), &wanted, &SystemClock, &SystemChance).map(drop)
}

fn files_of(disk: &dyn Disk, dir: &str) -> Vec<(String, Vec<u8>)> {
    let names = disk.list(&path(dir)).expect("listed");
    let read = |name: &std::ffi::OsStr| {
        let text = name.to_str().expect("ours").to_owned();
        let bytes = macula_core::read_all(disk, &path(dir).join(&text).expect("a path"), 1 << 20).unwrap_or_default();
        (text, bytes)
    };
    names.iter().map(|entry| read(&entry.name)).collect()
}

fn put(disk: &dyn Disk, file: &str, bytes: &[u8]) {
    macula_core::write_durably(disk, &path(file), &path("temporary"), bytes).expect("written");
}

#[test]
fn a_directory_tells_whose_it_is() {
    let cluster = Cluster::new();
    let (disk, old) = (&*cluster.disk, &cluster.authority);
    let new = Authority::found(Some(old), 30, disk, &path("next"), &SystemClock, &SystemChance).expect("created");
    let Ok(About::Authority(facts)) = About::of(disk, &path("next")) else { panic!("an authority") };
    assert_eq!((facts.cluster, facts.id, facts.has_key), (old.cluster(), new.id(), true));
    assert_ne!(new.id(), old.id());
    let days = (facts.validity.until_ms - facts.validity.from_ms) / DAY_MS;
    assert_eq!(days, 30);
    renew(&new, disk, "node", "a@host", &[&new, old]).expect("issued");
    let Ok(About::Node(facts)) = About::of(disk, &path("node")) else { panic!("a node's") };
    assert_eq!((facts.peer.node, facts.peer.role), (name("a@host"), Role::Member));
    assert_eq!((facts.issued_by, facts.trusts), (new.id(), vec![new.id(), old.id()]));
    assert_eq!((facts.validity.until_ms - facts.validity.from_ms) / DAY_MS, 7);
    // an authority whose key is lost is still trusted and followed, and issues nothing
    disk.remove_file(&path("next/ca.key")).expect("removed");
    let Ok(About::Authority(facts)) = About::of(disk, &path("next")) else { panic!("an authority") };
    assert!(!facts.has_key);
    let public = Authority::open_public(disk, &path("next")).expect("opens");
    renew(old, disk, "node", "a@host", &[old, &public]).expect("issued");
    let lost = renew(&public, disk, "node", "a@host", &[&public]).expect_err("no key");
    assert!(matches!(&lost, NetError::Identity { file, .. } if file == "ca.key"), "{lost}");
    Authority::open(disk, &path("next")).expect_err("no key");
}

#[test]
fn what_is_no_directory_of_ours_is_told_as_such() {
    let cluster = Cluster::new();
    let disk = &*cluster.disk;
    disk.create_dir(&path("empty")).expect("made");
    let kind = |dir: &str| About::of(disk, &path(dir)).expect_err("refused").kind();
    assert_eq!(kind("missing"), Kind::NotFound);
    assert_eq!(kind("empty"), Kind::Invalid);
    assert_eq!(kind("authority/ca.pem"), Kind::Invalid);
    let about = String::from_utf8(macula_core::read_all(disk, &path("authority/authority"), 999).expect("read"));
    let about = about.expect("text");
    for (text, expected) in [
        (about.replacen(" 1\n", " 2\n", 1), Kind::NewerFormat),
        (about.replacen(" 1\n", " x\n", 1), Kind::Invalid),
        (about.replacen("label ", "name ", 1), Kind::Invalid),
        (String::new(), Kind::Invalid),
    ] {
        put(disk, "authority/authority", text.as_bytes());
        assert_eq!(kind("authority"), expected, "{text}");
        assert_eq!(Authority::open(disk, &path("authority")).expect_err("refused").kind(), expected);
    }
    // its files do not fit together
    put(disk, "authority/authority", about.as_bytes());
    let other = Cluster::new();
    let pem = macula_core::read_all(&*other.disk, &path("authority/ca.pem"), 9999).expect("read");
    put(disk, "authority/ca.pem", &pem);
    assert_eq!(kind("authority"), Kind::Invalid);
}

#[test]
fn only_this_nodes_own_directory_is_replaced() {
    let cluster = Cluster::new();
    let (disk, authority) = (&*cluster.disk, &cluster.authority);
    disk.create_dir(&path("mine")).expect("made");
    renew(authority, disk, "mine", "a@host", &[authority]).expect("into an empty one");
    let first = files_of(disk, "mine");
    renew(authority, disk, "mine", "a@host", &[authority]).expect("again");
    let second = files_of(disk, "mine");
    assert_ne!(first, second);
    assert_eq!(disk.stat(&path("mine")).expect("there").mode, 0o700);

    let refused = |from: &Authority, dir: &str, node: &str| {
        let before = files_of(disk, dir);
        let error = renew(from, disk, dir, node, &[from]).expect_err("refused");
        assert!(matches!(error, NetError::Taken(_)), "{error}");
        assert_eq!(files_of(disk, dir), before);
    };
    refused(authority, "mine", "b@host");
    refused(&Cluster::new().authority, "mine", "a@host");
    refused(authority, "authority", "a@host");
    let client = Issue { node: &name("a@host"), role: Role::Client, days: 7, trust: &[authority] };
    let error = authority.renew(disk, &path("mine"), &client, &SystemClock, &SystemChance).expect_err("a member's");
    assert!(matches!(error, NetError::Taken(_)), "{error}");
    put(disk, "mine/notes", b"kept");
    refused(authority, "mine", "a@host");
    disk.remove_file(&path("mine/notes")).expect("removed");
    // one that lost its key is of no use to its node, and is made whole
    disk.remove_file(&path("mine/key.pem")).expect("removed");
    renew(authority, disk, "mine", "a@host", &[authority]).expect("made whole");
    cluster.identity(&path("mine"));
    let left: Vec<_> = disk.list(&RelPath::root()).expect("listed").into_iter().map(|entry| entry.name).collect();
    assert_eq!(left, ["authority", "mine"], "nothing else stays");
}

/// The key was exchanged for another: what it issued would have met the nodes' refusal only.
#[test]
fn what_its_node_could_not_use_is_not_put_in_place() {
    let cluster = Cluster::new();
    let (disk, other) = (&*cluster.disk, Cluster::new());
    renew(&cluster.authority, disk, "node", "a@host", &[&cluster.authority]).expect("issued");
    let key = macula_core::read_all(&*other.disk, &path("authority/ca.key"), 9999).expect("read");
    put(disk, "authority/ca.key", &key);
    let file = disk.open(&path("authority/ca.key"), Open::Read).expect("opens");
    file.set_mode(0o600).expect("changed");
    let wrong = Authority::open(disk, &path("authority")).expect("opens");
    let before = files_of(disk, "node");
    for dir in ["node", "other"] {
        let error = renew(&wrong, disk, dir, "a@host", &[&wrong]).expect_err("refused");
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
    }
    assert_eq!(files_of(disk, "node"), before);
    let left: Vec<_> = disk.list(&RelPath::root()).expect("listed").into_iter().map(|entry| entry.name).collect();
    assert_eq!(left, ["authority", "node"], "nothing else stays");
}

#[test]
fn an_authority_issues_until_its_time_is_over() {
    let cluster = Cluster::new();
    let (disk, chance) = (&*cluster.disk, &SystemChance);
    let short = Authority::found(None, 1, disk, &path("short"), &SystemClock, chance).expect("created");
    let wanted = Issue { node: &name("a"), role: Role::Member, days: 7, trust: &[&short] };
    let later = |days: u64| SimClock::new(SystemClock.wall_ms() + days * DAY_MS);
    let error = short.issue(disk, &path("late"), &wanted, &later(2), chance).expect_err("over");
    assert!(matches!(error, NetError::Expired { .. }) && error.hint().is_some(), "{error}");
    short.renew(disk, &path("node"), &wanted, &SystemClock, chance).expect("in time");
    // a certificate that has run out opens no links, and is still told
    let late = Identity::load(cluster.disk.clone(), path("node"), Arc::new(later(8))).expect_err("over");
    assert!(matches!(late, NetError::Identity { .. }), "{late}");
    assert!(matches!(About::of(disk, &path("node")), Ok(About::Node(_))));
}

/// Power is lost at each step of a renewal: the node's files are the old or the new.
#[test]
fn a_crash_at_every_step_of_a_renewal_leaves_the_old_or_the_new() {
    let mut seen = [0; 2];
    for step in 1.. {
        let disk = FaultDisk::new();
        let authority = Authority::create(&disk, &path("authority"), &SystemClock, &SystemChance).expect("created");
        renew(&authority, &disk, "node", "a", &[&authority]).expect("issued");
        let old = files_of(&disk, "node");
        disk.fail_at(disk.operations() + step, Fault::Crash);
        let renewed = renew(&authority, &disk, "node", "a", &[&authority]);
        for mode in [CrashMode::LoseAll, CrashMode::KeepAll] {
            let after: Arc<dyn Disk> = Arc::new(disk.after_crash(mode));
            Identity::load(after.clone(), path("node"), Arc::new(SystemClock)).expect("whole");
            let is_new = files_of(&*after, "node") != old;
            seen[usize::from(is_new)] += 1;
            assert!(renewed.is_err() || is_new, "what was answered is there");
        }
        if renewed.is_ok() {
            break;
        }
    }
    assert!(seen.iter().all(|count| *count > 2), "{seen:?}");
}
