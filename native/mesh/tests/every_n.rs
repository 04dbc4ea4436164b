//! One run of two members, and at its n-th operation on a disk, of the one or of the other, for every n: the power goes,
//! the operation fails, or the disk is full from there on. Then all is mended, and what was acknowledged is there.
//!
//! Threads take turns by chance, so n is not the same operation in each run. `MACULA_CASE` runs one case again, as it
//! was printed; `MACULA_TORTURE` runs every n instead of some.

use crate::common::{all_meet, name, settled, until, Network, Node};
use macula_core::{AppFiles, Disk, Kind, Kinded};
use macula_mesh::{Ack, Class, ContentId, Dot, Hashing, MeshError, Options, Place, Rule, BLOCK_LEN};
use macula_testkit::{CrashMode, Fault, FaultDisk};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

const NAMES: [&str; 2] = ["a", "b"];
/// How long a writer waits for the other, who may be gone.
const ACK_WAIT: Duration = Duration::from_millis(300);
/// Cases of a normal run, of each kind of fault and side.
const SLICE: u64 = 5;
/// They wait most of the time.
const AT_ONCE: usize = 48;

/// What happens, and what is left of the disk then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    LosePower,
    KeepAll,
    Random,
    /// An operation fails; then the process ends.
    Fail,
    /// An operation fails; then the power goes.
    FailAndLosePower,
    Full,
    /// And the process ends before there is room again.
    FullAndKill,
}

const ALL: [What; 7] =
    [What::LosePower, What::KeepAll, What::Random, What::Fail, What::FailAndLosePower, What::Full, What::FullAndKill];

#[derive(Debug, Clone, Copy)]
struct Case {
    victim: usize,
    what: usize,
    n: u64,
}

/// A change that somebody asked for.
struct Try {
    dot: Option<Dot>,
    content: Option<Vec<u8>>,
    /// Of whom it was asked.
    at: usize,
    /// Changes before it that it may have replaced.
    over: usize,
    /// It may have happened though nobody said so.
    is_unknown: bool,
    /// The other said that it has it, too.
    has_other: bool,
}

struct Run {
    net: Arc<Network>,
    nodes: Vec<Node>,
    disks: Vec<FaultDisk>,
    tries: BTreeMap<String, Vec<Try>>,
    is_over: bool,
    case: Case,
    /// The operation that met it.
    fault: Option<&'static str>,
}

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.u8(..)).collect()
}

/// Of some files former versions are kept.
fn options() -> Options {
    let place = Place { copies: 2, class: Class::Fast };
    let rule = |prefix: &str| Rule { app: None, prefix: Some(name(prefix).path), place, keep_versions: 2 };
    Options { rules: vec![rule("long"), rule("dir")], ..Options::default() }
}

fn unknown(error: &MeshError) -> MeshError {
    macula_core::AppFilesError { kind: Kind::UnknownResult, message: error.to_string() }.into()
}

fn id_of(bytes: &[u8]) -> ContentId {
    let mut hashing = Hashing::default();
    hashing.update(bytes);
    hashing.finish().id()
}

impl Run {
    fn new(case: Case) -> Self {
        let net = Arc::new(Network::default());
        let disks: Vec<FaultDisk> = NAMES.iter().map(|_| FaultDisk::new()).collect();
        let on = |(name, disk): (&&str, &FaultDisk)| Node::on(&net, name, Arc::new(disk.clone()), options());
        let nodes: Vec<Node> = NAMES.iter().zip(&disks).map(on).collect();
        all_meet(&nodes);
        Self { nodes, net, disks, tries: BTreeMap::new(), is_over: false, case, fault: None }
    }

    /// A change is asked of a member: it counts as acknowledged when its answer is heard.
    fn change(&mut self, at: usize, path: &str, content: Option<Vec<u8>>, over: Option<usize>) {
        if self.is_over {
            return;
        }
        let node = &self.nodes[at];
        let done = match &content {
            Some(content) => node.mesh.write(&name(path), content),
            None => node.mesh.delete(&name(path)),
        };
        self.heard(at, path, content, done, over);
    }

    /// Changes of short files that come at once.
    fn change_together(&mut self, at: usize, changes: &[(&str, Vec<u8>)]) {
        if self.is_over {
            return;
        }
        let node = &self.nodes[at];
        let write = |(path, content): &(&str, Vec<u8>)| {
            let (reply, done) = std::sync::mpsc::channel();
            let told = move |done| drop(reply.send(done));
            node.mesh.write_short((name(path), content.clone()), (None, None), || false, told);
            done
        };
        let asked: Vec<_> = changes.iter().map(write).collect();
        let done: Vec<_> = asked.iter().map(|done| done.recv().expect("each is answered")).collect();
        for ((path, content), done) in changes.iter().zip(done) {
            self.heard(at, path, Some(content.clone()), done, None);
        }
    }

    fn heard(
        &mut self,
        at: usize,
        path: &str,
        content: Option<Vec<u8>>,
        done: Result<Dot, MeshError>,
        over: Option<usize>,
    ) {
        let disk = &self.disks[self.case.victim];
        let kind = done.as_ref().err().map(Kinded::kind);
        let has_fault = disk.operations() >= self.case.n;
        assert!(has_fault || kind.is_none_or(|kind| kind == Kind::NotFound), "{path}: {kind:?}");
        // of any other error nothing changed
        let is_unknown = kind == Some(Kind::UnknownResult) || (kind.is_some() && disk.has_crashed());
        let dot = done.ok();
        let has_other = dot.is_some_and(|dot| {
            let asked =
                |reply| self.nodes[at].mesh.acknowledged(&name(path), dot, Some(Ack::Others(1)), ACK_WAIT, reply);
            crate::common::wait(asked).is_ok_and(|written| written.replicas > 0)
        });
        let tries = self.tries.entry(path.to_owned()).or_default();
        let over = over.unwrap_or(tries.len());
        tries.push(Try { dot, content, at, over, is_unknown, has_other });
        self.is_over |= disk.has_crashed();
    }

    fn script(&mut self) {
        self.change(0, "short", Some(bytes(100, 1)), None);
        self.change(0, "long", Some(bytes(3 * BLOCK_LEN + 5, 2)), None);
        self.change(0, "dir/gone", Some(bytes(70_000, 3)), None);
        self.change(0, "both", Some(bytes(10, 4)), None);
        self.change(0, "short", Some(bytes(200, 5)), None);
        self.change(0, "long", Some(bytes(2 * BLOCK_LEN + 9, 6)), None);
        self.change(0, "dir/gone", None, None);
        self.rename("short", "dir/renamed");
        let at_once = ["one", "dir/two", "three"].map(|path| (path, bytes(60, path.len() as u64)));
        self.change_together(0, &at_once);
        self.net.cut("a", "b");
        self.change(0, "both", Some(bytes(80_000, 7)), None);
        let known = self.tries.get("both").map_or(0, Vec::len).saturating_sub(1);
        self.change(1, "both", Some(bytes(90_000, 8)), Some(known));
        self.net.heal();
        self.resolve("both");
        self.change(1, "late", Some(bytes(50, 9)), None);
    }

    fn rename(&mut self, from: &str, to: &str) {
        if self.is_over {
            return;
        }
        let Some(content) = self.nodes[0].read(from).ok() else { return };
        let done = self.nodes[0].mesh.rename(&name(from), &name(to));
        let (made, gone) = match done {
            Ok((made, gone)) => (Ok(made), Ok(gone)),
            // it may have both names
            Err(error) => (Err(unknown(&error)), Err(unknown(&error))),
        };
        self.heard(0, to, Some(content), made, None);
        self.heard(0, from, None, gone, None);
    }

    /// The one that is not shown is chosen, where it comes in time.
    fn resolve(&mut self, path: &str) {
        let versions = |run: &Self| run.nodes[0].mesh.versions(&name(path)).unwrap_or_default();
        let begun = std::time::Instant::now();
        while !self.is_over && versions(self).len() < 2 && begun.elapsed() < ACK_WAIT * 3 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let Some(chosen) = versions(self).get(1).map(|version| version.dot) else { return };
        let Ok(content) = self.nodes[0].read_version(path, Some(chosen)) else { return };
        let done = self.nodes[0].mesh.resolve(&name(path), chosen);
        self.heard(0, path, Some(content), done, None);
    }

    /// What becomes of the victim; it is alone when it is back.
    fn mend(&mut self) {
        let Case { victim, what, n } = self.case;
        let disk = &self.disks[victim];
        self.fault = disk.operation(n);
        let left = match ALL[what] {
            // whose sync of all files failed is told so by each file's own next one, which this disk does not do
            What::FailAndLosePower if disk.operation(n) == Some("sync_tree") => disk.kill(),
            What::LosePower | What::FailAndLosePower => disk.after_crash(CrashMode::LoseAll),
            What::KeepAll => disk.after_crash(CrashMode::KeepAll),
            What::Random => disk.after_crash(CrashMode::Random(n)),
            What::Fail | What::FullAndKill => disk.kill(),
            What::Full => return disk.heal(),
        };
        left.heal();
        self.net.cut("a", "b");
        // what it still does, it does to a disk that nobody looks at any more
        let other = self.nodes.pop().expect("two");
        let one = self.nodes.pop().expect("two");
        let (died, lives) = if victim == 0 { (one, other) } else { (other, one) };
        died.leave();
        self.disks[victim] = left.clone();
        let back = Node::on(&self.net, NAMES[victim], Arc::new(left) as Arc<dyn Disk>, options());
        self.nodes = if victim == 0 { vec![back, lives] } else { vec![lives, back] };
        self.check_alone();
        self.net.heal();
    }

    /// What the victim said that it has, it has without the other.
    fn check_alone(&self) {
        let victim = &self.nodes[self.case.victim];
        for (path, tries) in &self.tries {
            let Some(last) = tries.last().filter(|last| last.dot.is_some()) else { continue };
            if (self.case.victim == 1 && !last.has_other) || (path == "both" && tries.len() < 4) || path == "late" {
                continue;
            }
            let read = victim.read(path);
            let is_it = read.as_ref().ok() == last.content.as_ref();
            let told = (read.map(|read| read.len()), last.content.as_ref().map(Vec::len), self.fault);
            assert!(is_it, "{path} where it was acknowledged: {told:?}");
        }
    }

    fn check(&self) {
        all_meet(&self.nodes);
        let paths: Vec<&String> = self.tries.keys().collect();
        until("all know the same", || {
            let known = |node: &Node| -> Vec<_> { paths.iter().map(|path| node.known(path)).collect() };
            known(&self.nodes[0]) == known(&self.nodes[1])
        });
        settled(&self.nodes);
        let tree = self.nodes[0].tree();
        for path in tree.keys() {
            assert!(self.tries.contains_key(path), "{path} was written by nobody");
        }
        for (path, tries) in &self.tries {
            self.check_name(path, tries, tree.get(path));
        }
        let all: Vec<&String> = self.tries.keys().collect();
        self.nodes.iter().for_each(|node| check_index(node, &all));
    }

    fn check_name(&self, path: &str, tries: &[Try], there: Option<&Vec<u8>>) {
        let record = self.nodes[0].known(path);
        // shown is what nothing acknowledged replaced
        let acknowledged = || tries.iter().filter(|of| of.dot.is_some());
        // one of which nobody was told may come to be after what was written elsewhere meanwhile
        let knew = |n: usize, later: &Try| n < later.over && (tries[n].dot.is_some() || tries[n].at == later.at);
        let is_replaced = |n: usize| tries[n + 1..].iter().any(|later| later.dot.is_some() && knew(n, later));
        let may = |n: &usize| (tries[*n].dot.is_some() || tries[*n].is_unknown) && !is_replaced(*n);
        let mut may_be = (0..tries.len()).filter(may).map(|n| tries[n].content.as_ref());
        let may_be_none = acknowledged().next().is_none() && there.is_none();
        let told = |of: &Try| (of.dot, of.content.as_ref().map(Vec::len), of.over, of.is_unknown);
        let told = || (there.map(Vec::len), tries.iter().map(told).collect::<Vec<_>>(), &self.fault);
        assert!(may_be_none || may_be.any(|content| content == there), "{path}: {:?} {record:?}", told());
        if record.versions().is_empty() {
            let may_be_last = (0..tries.len()).filter(may).any(|n| tries[n].content.is_none());
            assert!(may_be_last || acknowledged().next().is_none(), "{path} was forgotten");
            return;
        }
        for (n, of) in tries.iter().enumerate() {
            let Some(dot) = of.dot else { continue };
            assert!(record.last_of(dot.replica).is_some_and(|last| last >= dot.stamp), "{path} {dot:?} was forgotten");
            if record.version(&dot).is_none() {
                let by = |later: &Try| n < later.over && (later.dot.is_some() || later.is_unknown);
                let told = || tries.iter().map(|of| (of.dot, of.over, of.is_unknown)).collect::<Vec<_>>();
                let is_replaced = tries[n + 1..].iter().any(by);
                assert!(is_replaced, "{path} {n} was replaced by nobody: {:?} {record:?}", told());
                continue;
            }
            let Some(content) = &of.content else { continue };
            for node in &self.nodes {
                let read = node.read_version(path, Some(dot)).expect("readable");
                assert!(read == *content, "{path} {dot:?} on {}", node.name);
            }
        }
    }
}

/// What the index says is in the tree, and nothing else; nothing is under way, and nothing is kept for nobody.
fn check_index(node: &Node, all: &[&String]) {
    let listed = node.mesh.list(&name("x").app, None, None, 1_000).expect("lists");
    let tree = node.tree();
    let paths: Vec<String> = listed.paths.iter().map(ToString::to_string).collect();
    assert!(paths.iter().eq(tree.keys()), "{}: {paths:?} {:?}", node.name, tree.keys());
    for (path, content) in &tree {
        let stat = node.mesh.stat(&name(path)).expect("known");
        assert_eq!((stat.content.id, stat.content.len, stat.is_here), (id_of(content), content.len() as u64, true));
    }
    let files: &dyn AppFiles = &node.files;
    until(&format!("nothing is staged any more: {:?}", files.staged()), || files.staged().expect("lists").is_empty());
    let versions = |path: &String| node.mesh.versions(&name(path)).expect("known").len() - 1;
    let losers: usize = tree.keys().map(versions).sum();
    until("kept is what is not shown, or former", || {
        let former: usize = all.iter().map(|path| node.mesh.former(&name(path)).expect("known").len()).sum();
        files.kept().expect("lists").len() <= losers + former
    });
    for path in all {
        for of in node.mesh.former(&name(path)).expect("known") {
            node.read_version(path, Some(of.dot)).expect("a former version is there, whole");
        }
    }
}

/// Whether the fault came before the end.
fn run(case: Case) -> bool {
    let mut run = Run::new(case);
    let fault = match ALL[case.what] {
        What::LosePower | What::KeepAll | What::Random => Fault::Crash,
        What::Fail | What::FailAndLosePower => Fault::Io,
        What::Full | What::FullAndKill => Fault::Full,
    };
    let first = run.disks[case.victim].operations();
    run.case.n = first + case.n;
    run.disks[case.victim].fail_at(run.case.n, fault);
    run.script();
    let met = run.disks[case.victim].operations() >= run.case.n;
    run.mend();
    run.check();
    met
}

/// Operations of a run without a fault, about.
fn operations(victim: usize) -> u64 {
    let mut run = Run::new(Case { victim, what: 0, n: u64::MAX });
    let before = run.disks[victim].operations();
    run.script();
    assert!(run.tries.values().flatten().all(|of| of.dot.is_some() && of.content.is_some() | of.has_other));
    assert_eq!(run.tries["both"].len(), 4);
    run.check();
    run.disks[victim].operations() - before
}

fn cases() -> Vec<Case> {
    if let Ok(case) = std::env::var("MACULA_CASE") {
        let words: Vec<u64> = case.split(' ').map(|word| word.parse().expect("a number")).collect();
        return vec![Case { victim: words[0] as usize, what: words[1] as usize, n: words[2] }];
    }
    let is_torture = std::env::var_os("MACULA_TORTURE").is_some();
    let mut cases = Vec::new();
    for victim in [0, 1] {
        let count = operations(victim);
        assert!(count > 60, "operations={count}");
        let step = if is_torture { 1 } else { count / SLICE };
        for what in 0..ALL.len() {
            let first = fastrand::u64(1..=step);
            cases.extend((first..=count + 5).step_by(step as usize).map(|n| Case { victim, what, n }));
        }
    }
    cases
}

#[test]
fn whatever_a_disk_does_at_whichever_operation() {
    let (cases, next, met) = (cases(), AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = parking_lot::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match std::panic::catch_unwind(|| run(*case)) {
                        Ok(is_met) => drop(met.fetch_add(usize::from(is_met), Ordering::Relaxed)),
                        Err(_) => {
                            let Case { victim, what, n } = case;
                            let what_is = ALL[*what];
                            eprintln!("MACULA_CASE=\"{victim} {what} {n}\" victim={} what={what_is:?}", NAMES[*victim]);
                            failed.lock().push(*case);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert!(failed.is_empty(), "{} of {} cases: {failed:?}", failed.len(), cases.len());
    assert!(met.into_inner() * 4 >= cases.len() * 3 || cases.len() == 1, "too few were met");
}

/// A short file is durable by the index before it is synced: whatever a power loss leaves of it, it is put again, and
/// what is left is nobody's edit.
#[test]
fn what_power_loss_leaves_of_a_short_file_is_no_version() {
    for before in [None, Some(bytes(3_000, 1))] {
        let net = Arc::new(Network::default());
        let disks = [FaultDisk::new(), FaultDisk::new()];
        let on = |n: usize, disk: &FaultDisk| Node::on(&net, NAMES[n], Arc::new(disk.clone()), Options::default());
        let nodes = vec![on(0, &disks[0]), on(1, &disks[1])];
        all_meet(&nodes);
        if let Some(before) = &before {
            nodes[0].write("f", before, Ack::All).expect("written");
            settled(&nodes);
        }
        let content = bytes(9_000, 2);
        nodes[0].write("f", &content, Ack::All).expect("written");
        let lost: Vec<FaultDisk> = (0..60).map(|seed| disks[1].after_crash(CrashMode::Random(seed))).collect();
        net.cut("a", "b");
        for (seed, disk) in lost.iter().enumerate() {
            let back = on(1, disk);
            let read = back.read("f").map(|read| (read.len(), read == content));
            assert!(read.as_ref().is_ok_and(|read| read.1), "before={} seed={seed} {read:?}", before.is_some());
            assert_eq!(back.mesh.versions(&name("f")).expect("known").len(), 1, "seed={seed}");
            assert!(back.tree().get("f") == Some(&content), "seed={seed}");
            back.leave();
        }
    }
}

/// A version that comes from elsewhere replaces the one that is shown, which was made at once with it and is kept. Who
/// finished that after a crash took what was in its place already for an edit of the one that was kept, and let go of it.
#[test]
fn the_version_that_loses_outlives_a_crash_at_any_operation() {
    let cut_off_at = |n: u64| {
        let net = Arc::new(Network::default());
        let disks = [FaultDisk::new(), FaultDisk::new()];
        let on = |n: usize, disk: &FaultDisk| Node::on(&net, NAMES[n], Arc::new(disk.clone()), Options::default());
        let (first, second) = (on(0, &disks[0]), on(1, &disks[1]));
        net.cut("a", "b");
        let contents = [bytes(80_000, 1), bytes(90_000, 2)];
        let one = first.write("f", &contents[0], Ack::Local).expect("written");
        // later than the other in each case
        std::thread::sleep(Duration::from_millis(2));
        let other = second.write("f", &contents[1], Ack::Local).expect("written");
        disks[0].fail_at(disks[0].operations() + n, Fault::Crash);
        net.heal();
        let has_both = |node: &Node| node.mesh.versions(&name("f")).is_ok_and(|versions| versions.len() == 2);
        until("it comes, or not", || disks[0].has_crashed() || has_both(&first));
        let is_met = disks[0].has_crashed();
        let left = disks[0].after_crash(CrashMode::KeepAll);
        first.leave();
        let nodes = [on(0, &left), second];
        all_meet(&nodes);
        settled(&nodes);
        for (dot, content) in [(one.dot, &contents[0]), (other.dot, &contents[1])] {
            let read = nodes[0].read_version("f", Some(dot));
            assert!(read.is_ok_and(|read| read == *content), "n={n} len={}", content.len());
        }
        is_met
    };
    let met = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 1..=24 {
            let (met, cut_off_at) = (&met, &cut_off_at);
            scope.spawn(move || met.fetch_add(usize::from(cut_off_at(n)), Ordering::Relaxed));
        }
    });
    assert!(met.into_inner() > 15);
}
