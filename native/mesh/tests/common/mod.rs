//! Members of one process: each with a disk, an app and a mesh, joined by a carrier that can be cut.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use macula_core::{
    create_dir_all, AppFiles, AppFilesError, AppName, Apps, Disk, Gate, Kind, Kinded, Ledger, MemberAt, Members, Open,
    RealDisk, RelPath, SystemChance, SystemClock, Task,
};
use macula_files::Files;
use macula_kv::{Seams as KvSeams, Store, Threads};
use macula_mesh::{Ack, Carrier, Content, Dot, Mesh, MeshError, Name, Options, Record, Scrubbed, Seams, Written};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{mpsc, Arc};
use std::time::{Duration, Instant};

/// What a member could not take, because its disk was full, it gets with a comparison: one each 15 s, if not
/// [`comparing`] more often.
pub const SOON: Duration = Duration::from_secs(45);

/// Who lies, what it was asked, and what it would say.
type Lie = Box<dyn Fn(&str, &[u8], Vec<u8>) -> Vec<u8> + Send>;
/// A member that is none of ours, and what it answers a request with: nothing when it is silent.
pub type Puppet = Arc<dyn Fn(&Bytes) -> Option<Vec<u8>> + Send + Sync>;
/// Who is silent is given up after so long here, whatever the deadline.
pub const SILENCE: Duration = Duration::from_secs(1);

/// What joins the members.
#[derive(Default)]
pub struct Network {
    meshes: Mutex<BTreeMap<String, Arc<Mesh>>>,
    cut: Mutex<BTreeSet<(String, String)>>,
    names: Mutex<Vec<String>>,
    pub bytes: AtomicU64,
    pub calls: AtomicU64,
    /// Changes an answer on its way: a member that lies.
    pub lie: Mutex<Option<Lie>>,
    puppets: Mutex<BTreeMap<String, Puppet>>,
}

impl Network {
    fn is_cut(&self, from: &str, to: &str) -> bool {
        self.cut.lock().contains(&(from.to_owned(), to.to_owned()))
    }

    pub fn cut(&self, one: &str, other: &str) {
        let mut cut = self.cut.lock();
        cut.insert((one.to_owned(), other.to_owned()));
        cut.insert((other.to_owned(), one.to_owned()));
    }

    pub fn heal(&self) {
        self.cut.lock().clear();
    }

    fn is_there(&self, name: &str) -> bool {
        self.meshes.lock().contains_key(name) || self.puppets.lock().contains_key(name)
    }

    /// A member that is none of ours comes.
    pub fn join(&self, name: &str, puppet: Puppet) {
        self.puppets.lock().insert(name.to_owned(), puppet);
        self.set_member(name, true);
    }

    /// It is no member any more, or again.
    pub fn set_member(&self, name: &str, is_member: bool) {
        let mut names = self.names.lock();
        names.retain(|other| other != name);
        names.extend(is_member.then(|| name.to_owned()));
    }
}

struct Loopback {
    net: Arc<Network>,
    from: String,
}

fn lost() -> MeshError {
    MeshError::Internal("lost on its way".into())
}

impl Carrier for Loopback {
    fn call(&self, to: &str, request: Bytes, deadline: Duration) -> BoxFuture<'static, Result<Bytes, MeshError>> {
        let (net, from, to) = (self.net.clone(), self.from.clone(), to.to_owned());
        Box::pin(async move {
            let puppet = net.puppets.lock().get(&to).cloned();
            if let Some(puppet) = puppet {
                let answer = tokio::task::spawn_blocking(move || puppet(&request)).await.map_err(|_| lost())?;
                if answer.is_none() {
                    tokio::time::sleep(deadline.min(SILENCE)).await;
                }
                return answer.map(Bytes::from).ok_or_else(lost);
            }
            let mesh = net.meshes.lock().get(&to).cloned().filter(|_| !net.is_cut(&from, &to)).ok_or_else(lost)?;
            net.calls.fetch_add(1, Ordering::Relaxed);
            net.bytes.fetch_add(request.len() as u64, Ordering::Relaxed);
            let (answer, answered) = tokio::sync::oneshot::channel();
            mesh.serve(&from, request.clone(), move |bytes| drop(answer.send(bytes)));
            drop(mesh);
            let bytes = tokio::time::timeout(deadline, answered).await.map_err(|_| lost())?.map_err(|_| lost())?;
            if net.is_cut(&to, &from) {
                return Err(lost());
            }
            net.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            let bytes = match &*net.lie.lock() {
                Some(lie) => lie(&to, &request, bytes),
                None => bytes,
            };
            Ok(Bytes::from(bytes))
        })
    }

    fn reachable(&self, to: &str) -> BoxFuture<'static, ()> {
        let (net, from, to) = (self.net.clone(), self.from.clone(), to.to_owned());
        Box::pin(async move {
            while net.is_cut(&from, &to) || !net.is_there(&to) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    }

    fn lost(&self, to: &str) -> BoxFuture<'static, ()> {
        let (net, from, to) = (self.net.clone(), self.from.clone(), to.to_owned());
        Box::pin(async move {
            while !net.is_cut(&from, &to) && net.is_there(&to) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    }

    fn learn(&self, _others: &[MemberAt]) {}
}

struct Known(Arc<Network>, String);

impl Members for Known {
    fn own(&self) -> String {
        self.1.clone()
    }

    fn members(&self) -> Vec<MemberAt> {
        self.0.names.lock().iter().map(|name| MemberAt { name: name.clone(), address: String::new() }).collect()
    }
}

/// Every app has the same files; one that is called `locked` cannot be opened while it is so.
#[derive(Debug)]
struct OneApp(Files, Arc<AtomicBool>);

impl Apps for OneApp {
    fn files_of(&self, app: &AppName) -> Result<Arc<dyn AppFiles>, AppFilesError> {
        if app.as_str() == "locked" && self.1.load(Ordering::Acquire) {
            return Err(AppFilesError { kind: Kind::Locked, message: "another process has it".into() });
        }
        Ok(Arc::new(self.0.clone()))
    }

    fn opened(&self, app: &AppName) -> Option<Arc<dyn AppFiles>> {
        self.files_of(app).ok()
    }

    fn was_used(&self, _app: &AppName) -> bool {
        false
    }
}

/// A member.
pub struct Node {
    pub name: String,
    pub disk: Arc<dyn Disk>,
    pub mesh: Arc<Mesh>,
    pub files: Files,
    /// Whether the app `locked` cannot be opened.
    pub is_locked: Arc<AtomicBool>,
    net: Arc<Network>,
    writes: AtomicU64,
    dir: Option<tempfile::TempDir>,
}

pub fn threads() -> Threads {
    static THREADS: Mutex<Option<Threads>> = Mutex::new(None);
    let mut threads = THREADS.lock();
    threads.get_or_insert_with(|| Threads::start(4, 2, Arc::new(SystemClock)).expect("starts")).clone()
}

impl Node {
    pub fn open(net: &Arc<Network>, name: &str, options: Options) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::at(dir.path()).expect("opens"));
        let mut node = Self::on(net, name, disk, options);
        node.dir = Some(dir);
        node
    }

    pub fn on(net: &Arc<Network>, name: &str, disk: Arc<dyn Disk>, options: Options) -> Self {
        Self::try_on(net, name, disk, options).expect("opens")
    }

    /// On a disk that may fail.
    pub fn try_on(net: &Arc<Network>, name: &str, disk: Arc<dyn Disk>, options: Options) -> Result<Self, MeshError> {
        let (clock, chance) = (Arc::new(SystemClock), Arc::new(SystemChance));
        let failed = |error: std::io::Error| MeshError::Internal(error.to_string());
        for dir in ["data", "mesh"] {
            create_dir_all(&*disk, &RelPath::literal(dir)).map_err(failed)?;
        }
        let data = disk.subtree(&RelPath::literal("data")).map_err(failed)?;
        let files = Files::open(data, Arc::default(), Arc::new(Ledger::new()), clock.clone(), chance.clone());
        let files = files.map_err(AppFilesError::from)?;
        let kv = KvSeams {
            disk: disk.subtree(&RelPath::literal("mesh")).map_err(failed)?,
            gate: Arc::new(Gate::new()),
            clock: clock.clone(),
            chance: chance.clone(),
            threads: threads(),
        };
        let store = Store::open(kv, macula_mesh::store_options())?;
        let is_locked = Arc::<AtomicBool>::default();
        let apps = Arc::new(OneApp(files.clone(), is_locked.clone()));
        let members = Arc::new(Known(net.clone(), name.to_owned()));
        let mesh = Arc::new(Mesh::open(Seams { store, apps, members, clock, chance }, options)?);
        {
            let mut names = net.names.lock();
            if !names.contains(&name.to_owned()) {
                names.push(name.to_owned());
            }
        }
        net.meshes.lock().insert(name.to_owned(), mesh.clone());
        mesh.carry(Arc::new(Loopback { net: net.clone(), from: name.to_owned() }));
        Ok(Self {
            name: name.to_owned(),
            disk,
            mesh,
            files,
            is_locked,
            net: net.clone(),
            writes: AtomicU64::new(0),
            dir: None,
        })
    }

    /// Gone; its disk stays with who has it.
    pub fn leave(mut self) -> (Arc<dyn Disk>, Option<tempfile::TempDir>) {
        (self.disk.clone(), self.dir.take())
    }

    pub fn write(&self, path: &str, bytes: &[u8], ack: Ack) -> Result<Written, MeshError> {
        let bytes = bytes.to_vec();
        // every other short one as the NIFs have those
        let is_short =
            self.mesh.takes_short(bytes.len()) && self.writes.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        let dot = match is_short {
            true => wait(|reply| self.mesh.write_short((name(path), bytes), (None, None), || false, reply))?,
            false => self.work(path, move |mesh, name| mesh.write(name, &bytes))?,
        };
        self.acknowledged(path, dot, ack)
    }

    /// As the NIFs have it: on a thread of the mesh.
    pub fn work<T: Send + 'static>(
        &self,
        path: &str,
        job: impl FnOnce(&Mesh, &Name) -> Result<T, MeshError> + Send + 'static,
    ) -> Result<T, MeshError> {
        let (mesh, name) = (self.mesh.clone(), name(path));
        wait(|reply| {
            let on = self.mesh.work(move || {
                let done = job(&mesh, &name);
                // whoever waits has it still: no mesh ends on a thread of its own
                drop(mesh);
                reply(done);
            });
            on.expect("room");
        })
    }

    pub fn delete(&self, path: &str, ack: Ack) -> Result<Written, MeshError> {
        let dot = self.mesh.delete(&name(path))?;
        self.acknowledged(path, dot, ack)
    }

    pub fn acknowledged(&self, path: &str, dot: Dot, ack: Ack) -> Result<Written, MeshError> {
        wait(|reply| self.mesh.acknowledged(&name(path), dot, Some(ack), SOON, reply))
    }

    pub fn read(&self, path: &str) -> Result<Vec<u8>, MeshError> {
        self.read_version(path, None)
    }

    pub fn read_version(&self, path: &str, dot: Option<Dot>) -> Result<Vec<u8>, MeshError> {
        let reading = Arc::new(self.mesh.reading(&name(path), dot)?);
        let mut whole = Vec::new();
        loop {
            let at = (whole.len() as u64, 1 << 20);
            let part = wait(|reply| self.mesh.read_part(&reading, at, reply))?;
            if part.is_empty() {
                return Ok(whole);
            }
            whole.extend(part);
        }
    }

    /// What is known of a file, of one that was forgotten or soon will be nothing.
    pub fn known(&self, path: &str) -> Record {
        let record = self.mesh.record(&name(path)).expect("known");
        if record.versions().is_empty() {
            Record::default()
        } else {
            record
        }
    }

    pub fn content(&self, path: &str) -> Option<Content> {
        self.mesh.stat(&name(path)).ok().map(|stat| stat.content)
    }

    /// A byte changes on the disk, and nothing says so.
    pub fn rot(&self, path: &str) {
        let path = RelPath::new(format!("data/files/{path}")).expect("a path");
        let file = self.disk.open(&path, Open::ReadWrite).expect("opens");
        let before = file.stat().expect("stat");
        let mut byte = [0];
        file.read_exact_at(&mut byte, before.len - 1).expect("reads");
        file.write_all_at(&[byte[0] ^ 1], before.len - 1).expect("writes");
        file.set_mtime(before.mtime_ns).expect("set");
    }

    /// Read all that is here, and mend it.
    pub fn scrub(&self) -> Result<Scrubbed, MeshError> {
        wait(|reply| self.mesh.scrub(Duration::ZERO, Task::quiet(), reply))
    }

    /// What lies in its tree, as any program sees it.
    pub fn tree(&self) -> BTreeMap<String, Vec<u8>> {
        let page = self.files.list(None, None, 1_000_000).expect("lists");
        let read = |path: &RelPath| match self.files.read(path, 1 << 30) {
            Ok(bytes) => Some((path.to_string(), bytes)),
            // removed since it was listed
            Err(error) if error.kind() == Kind::NotFound => None,
            Err(error) => panic!("reads {path}: {error}"),
        };
        page.names.iter().filter_map(read).collect()
    }
}

/// The network has every mesh, and every mesh the network: neither would end by itself.
impl Drop for Node {
    fn drop(&mut self) {
        let mut meshes = self.net.meshes.lock();
        if meshes.get(&self.name).is_some_and(|mesh| Arc::ptr_eq(mesh, &self.mesh)) {
            meshes.remove(&self.name);
        }
        drop(meshes);
        // a call that is under way to it may have it still
        self.mesh.close();
    }
}

pub fn name(path: &str) -> Name {
    Name { app: AppName::new("app").expect("a name"), path: RelPath::new(path).expect("a path") }
}

pub fn wait<T: Send + 'static>(ask: impl FnOnce(Box<dyn FnOnce(Result<T, MeshError>) + Send>)) -> Result<T, MeshError> {
    let (answer, answered) = mpsc::channel();
    ask(Box::new(move |result| drop(answer.send(result))));
    answered.recv_timeout(SOON * 2).expect("an answer")
}

#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < SOON, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Members that know each other.
pub fn cluster(names: &[&str]) -> (Arc<Network>, Vec<Node>) {
    cluster_with(names, &Options::default())
}

/// What waits for the next comparison comes soon.
pub fn comparing() -> Options {
    Options { compare_every: Duration::from_millis(300), ..Options::default() }
}

pub fn cluster_with(names: &[&str], options: &Options) -> (Arc<Network>, Vec<Node>) {
    let net = Arc::new(Network::default());
    let nodes: Vec<Node> = names.iter().map(|name| Node::open(&net, name, options.clone())).collect();
    all_meet(&nodes);
    (net, nodes)
}

pub fn all_meet(nodes: &[Node]) {
    until("all know each other", || nodes.iter().all(|node| node.mesh.status().peers.len() == nodes.len() - 1));
}

/// All have the same, and nothing is under way.
#[track_caller]
pub fn settled(nodes: &[Node]) {
    let begun = Instant::now();
    loop {
        let statuses: Vec<_> = nodes.iter().map(|node| node.mesh.status()).collect();
        let is_quiet = statuses.iter().all(|status| status.untold == 0 && status.fetching == 0);
        let trees: Vec<_> = nodes.iter().map(Node::tree).collect();
        if is_quiet && trees.iter().all(|tree| *tree == trees[0]) {
            return;
        }
        if begun.elapsed() > SOON {
            for (node, status) in nodes.iter().zip(statuses) {
                eprintln!(
                    "{}: replica={:x} untold={} fetching={}",
                    node.name, status.replica, status.untold, status.fetching
                );
            }
            let paths: BTreeSet<&String> = trees.iter().flat_map(BTreeMap::keys).collect();
            for path in paths {
                let lens: Vec<_> = trees.iter().map(|tree| tree.get(path).map(Vec::len)).collect();
                eprintln!("{path}: lens={lens:?}");
                for node in nodes {
                    let record = node.mesh.record(&name(path)).expect("known");
                    for version in record.versions() {
                        let len = version.content.map(|content| content.len);
                        let holders: Vec<_> = record.holders(version.dot).map(|of| format!("{of:x}")).collect();
                        let by = version.dot.replica;
                        eprintln!(
                            "  on {} by {by:x} at {} len={len:?} holders={holders:?}",
                            node.name, version.dot.stamp.0
                        );
                    }
                }
            }
            panic!("not all have the same");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
