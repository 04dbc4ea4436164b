//! Nodes in this process, each in a directory of its own, over real sockets and TLS.

use macula_core::{Disk, RealDisk, RelPath, SystemChance, SystemClock};
use macula_raft::net::{Authority, Identity, Issue, NodeName, Role, Transport};
use macula_raft::{Alone, Engine, LinkOptions, Member, Options, Seams};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

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
    pub fn linked(&self, nth: usize, listen: &str) -> Engine {
        let transport = Transport::Tls(self.identity(nth));
        let links = LinkOptions { listen: listen.parse().expect("an address"), transport, options: Default::default() };
        let options = Options { begins_alone: nth == 0, ..Options::of(name_of(nth)) };
        Engine::open_linked(self.seams(nth), options, Box::new(|_| {}), links).expect("opens")
    }

    /// So many members, the first of which leads.
    pub fn cluster(&self, count: usize) -> Vec<Engine> {
        if count == 1 {
            return vec![self.alone()];
        }
        let nodes: Vec<Engine> = (0..count).map(|nth| self.linked(nth, "127.0.0.1:0")).collect();
        nodes[0].set_member(nodes[0].number(), member(&nodes[0], 0)).expect("tells where it is");
        for (nth, node) in nodes.iter().enumerate().skip(1) {
            nodes[0].join(node.number(), member(node, nth)).expect("joins");
        }
        nodes[0].wait_for_leader(Duration::from_secs(10)).expect("leads");
        nodes
    }
}

pub fn member(node: &Engine, nth: usize) -> Member {
    Member { name: name_of(nth), address: node.address().expect("listens").to_string() }
}
