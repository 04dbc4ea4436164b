//! Nodes in this process, each in a directory of its own, over real sockets and TLS.

use macula_core::{Cancel, Disk, RealDisk, RelPath, SystemChance, SystemClock};
use macula_raft::net::{Authority, Identity, Issue, NodeName, Role, Transport};
use macula_raft::{Alone, ClusterId, Engine, LinkOptions, Options, RaftError, Seams};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::Arc;
use std::time::Duration;

/// For a node to catch up.
const PATIENCE: Duration = Duration::from_secs(600);

pub struct Site {
    /// Removed with the site.
    _dir: tempfile::TempDir,
    base: PathBuf,
    disk: Arc<dyn Disk>,
    authority: Authority,
}

fn rel(text: &str) -> RelPath {
    RelPath::new(text).expect("a path")
}

pub fn name_of(nth: usize) -> String {
    format!("n{nth}@load")
}

impl Site {
    /// Beneath `MACULA_LOAD_DIR`, or where temporary files are.
    pub fn new() -> Self {
        let dir = match std::env::var_os("MACULA_LOAD_DIR") {
            Some(base) => tempfile::tempdir_in(base).expect("a directory"),
            None => tempfile::tempdir().expect("a directory"),
        };
        let base = dir.path().to_owned();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::at(&base).expect("opens"));
        let authority = Authority::create(&*disk, &rel("authority"), &SystemClock, &SystemChance).expect("created");
        Self { _dir: dir, base, disk, authority }
    }

    pub fn base(&self) -> &Path {
        &self.base
    }

    fn seams(&self, nth: usize) -> Seams {
        let state = self.base.join(format!("state-{nth}"));
        std::fs::create_dir_all(&state).expect("makes");
        let disk = Arc::new(RealDisk::at(&state).expect("opens"));
        Seams { disk, clock: Arc::new(SystemClock), chance: Arc::new(SystemChance), transport: Arc::new(Alone) }
    }

    fn identity(&self, nth: usize) -> Arc<Identity> {
        let certificates = rel(&format!("certificates-{nth}"));
        if self.disk.stat(&certificates).is_err() {
            let node = NodeName::new(name_of(nth).as_bytes()).expect("a name");
            let wanted = Issue { node: &node, role: Role::Member, days: 1, trust: &[&self.authority] };
            self.authority.issue(&*self.disk, &certificates, &wanted, &SystemClock, &SystemChance).expect("issued");
        }
        Identity::load(self.disk.clone(), certificates, Arc::new(SystemClock)).expect("loads")
    }

    /// A node without links.
    pub fn alone(&self) -> Engine {
        Engine::open(self.seams(0), Options::of(name_of(0)), Box::new(|_| {})).expect("opens")
    }

    /// A node with links, at default settings.
    pub fn linked(&self, nth: usize, listen: &str, joins: Option<ClusterId>) -> Engine {
        let transport = Transport::Tls(self.identity(nth));
        let (listen, host) = (listen.parse().expect("an address"), "127.0.0.1".to_owned());
        let links = LinkOptions { listen, host, port: None, transport, options: Default::default() };
        let options = Options { joins, ..Options::of(name_of(nth)) };
        let node = Engine::open(self.seams(nth), options, Box::new(|_| {})).expect("opens");
        node.listen(links).expect("listens");
        node
    }

    /// A new node that has joined the cluster of another and votes.
    pub fn joined(&self, nth: usize, inviter: &Engine) -> Engine {
        let node = self.linked(nth, "127.0.0.1:0", Some(inviter.status().cluster));
        let invitation = answer(|reply| inviter.invite(PATIENCE, Some(PATIENCE), Cancel::new(), reply));
        answer(|reply| node.join(invitation, Some(PATIENCE), Cancel::new(), reply));
        node
    }

    /// So many members, the first of which leads.
    pub fn cluster(&self, count: usize) -> Vec<Engine> {
        if count == 1 {
            return vec![self.alone()];
        }
        let mut nodes = vec![self.linked(0, "127.0.0.1:0", None)];
        for nth in 1..count {
            nodes.push(self.joined(nth, &nodes[0]));
        }
        nodes
    }
}

fn answer<T: Send + 'static>(
    ask: impl FnOnce(Box<dyn FnOnce(Result<T, RaftError>) + Send>) -> Result<(), RaftError>,
) -> T {
    let (done, answered) = channel();
    let asked = ask(Box::new(move |result| {
        let _ = done.send(result);
    }));
    asked.expect("taken");
    answered.recv().expect("an answer").expect("done")
}
