//! Certificates of a cluster: made and told about in directories that the operator names.
//!
//! Invariant: an authority's key is on no member, so it is neither made nor used in the base directory of
//! this node. What is issued goes there only to where a node looks for its certificate, or over one that is its.

use crate::atoms;
use crate::dir::runtime;
use crate::error::Failure;
use crate::options::{list, machine_path};
use macula_core::{io_kind, Disk, Kind, Kinded, RealDisk, RelPath, SystemChance, SystemClock};
use macula_raft::net::{About, Authority, AuthorityId, Issue, NetError, NodeName, Role, Validity};
use rustler::{Atom, Binary, Encoder, Env, Term};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where in its base directory a node looks for its certificate when it is not told.
const CERTIFICATES: &str = "state/certificates";

/// own thread: a new authority in `dir`: of the cluster of the one in `before`, else of a new one. On a
/// dirty scheduler, because the first call starts threads.
#[rustler::nif(schedule = "DirtyCpu")]
fn authority_create<'a>(
    env: Env<'a>,
    reference: Term<'a>,
    dir: Binary<'a>,
    base: Binary<'a>,
    before: Option<Binary<'a>>,
    days: u32,
) -> Term<'a> {
    let asked = || -> Result<_, Failure> {
        Ok((machine_path(&dir)?, machine_path(&base)?, before.map(|before| machine_path(&before)).transpose()?))
    };
    let asked = asked();
    on_thread(env, reference, asked, move |(dir, base, before)| {
        let place = Place::of(&dir)?;
        place.refuse_key_inside(&base)?;
        let before = before.map(|before| Place::of(&before)?.tell(Authority::open_public)).transpose()?;
        place.tell(|disk, dir| {
            Authority::found(before.as_ref(), days, disk, dir, &SystemClock, &SystemChance)?;
            About::of(disk, dir)
        })
    })
}

/// own thread: a node's certificate of the authority in `dir`, into `out`, in the place of the one before.
/// `trust`: directories of other authorities that the node shall trust.
#[rustler::nif(schedule = "DirtyCpu")]
fn authority_issue<'a>(
    env: Env<'a>,
    reference: Term<'a>,
    dir: Binary<'a>,
    base: Binary<'a>,
    out: Binary<'a>,
    node: (Binary<'a>, Atom, u32),
    trust: Term<'a>,
) -> Term<'a> {
    let asked = || -> Result<_, Failure> {
        let (name, role, days) = node;
        let name = NodeName::new(name.as_slice())?;
        let role = if role == atoms::client() { Role::Client } else { Role::Member };
        let trust = list(trust)?.into_iter().map(|dir| {
            dir.decode::<Binary>().map_err(|_| Failure::invalid("expected a path")).and_then(|dir| machine_path(&dir))
        });
        let trust = trust.collect::<Result<Vec<PathBuf>, Failure>>()?;
        Ok((machine_path(&dir)?, machine_path(&base)?, machine_path(&out)?, (name, role, days), trust))
    };
    let asked = asked();
    on_thread(env, reference, asked, move |(dir, base, out, (node, role, days), trust)| {
        let place = Place::of(&dir)?;
        place.refuse_key_inside(&base)?;
        let authority = place.tell(Authority::open)?;
        let others = trust.iter().map(|dir| Place::of(dir)?.tell(Authority::open_public));
        let others = others.collect::<Result<Vec<_>, Failure>>()?;
        let trust: Vec<_> = std::iter::once(&authority).chain(&others).collect();
        let wanted = Issue { node: &node, role, days, trust: &trust };
        let out = Place::of(&out)?;
        out.refuse_new_inside(&base)?;
        out.tell(|disk, dir| authority.renew(disk, dir, &wanted, &SystemClock, &SystemChance)).map(About::Node)
    })
}

/// own thread: what the directory is.
#[rustler::nif(schedule = "DirtyCpu")]
fn authority_read<'a>(env: Env<'a>, reference: Term<'a>, dir: Binary<'a>) -> Term<'a> {
    on_thread(env, reference, machine_path(&dir), |dir| Place::of(&dir)?.tell(About::of))
}

fn on_thread<'a, T: Send + 'static>(
    env: Env<'a>,
    reference: Term<'a>,
    asked: Result<T, Failure>,
    work: impl FnOnce(T) -> Result<About, Failure> + Send + 'static,
) -> Term<'a> {
    match asked.and_then(|asked| Ok((asked, runtime()?))) {
        Ok((asked, runtime)) => runtime.io(env, reference, move |reply| reply.send_result(work(asked).map(Told))),
        Err(failure) => failure.encode(env),
    }
}

/// A directory of the operator's: the nearest one above it that is there, and the way from that.
struct Place {
    disk: RealDisk,
    dir: RelPath,
    /// Where it leads, links followed.
    real: PathBuf,
}

impl Place {
    fn of(path: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| os_failure(&error, path);
        let real = leads_to(path).map_err(failed)?;
        // the directory itself is replaced by a rename, so it is reached from one above
        let above = real.ancestors().skip(1).find(|above| above.is_dir());
        let above = above.ok_or_else(|| Failure::invalid("expected a directory other than the root"))?;
        let dir = real.strip_prefix(above).unwrap_or(&real);
        let dir = RelPath::new(dir.as_os_str().as_bytes())?;
        Ok(Self { disk: RealDisk::at(above).map_err(failed)?, dir, real })
    }

    /// Do it there; a failure tells where that was.
    fn tell<T>(&self, act: impl FnOnce(&dyn Disk, &RelPath) -> Result<T, NetError>) -> Result<T, Failure> {
        act(&self.disk, &self.dir).map_err(failure(&self.real))
    }

    fn is_inside(&self, base: &Path) -> bool {
        leads_to(base).is_ok_and(|base| self.real.starts_with(base))
    }

    fn refuse_key_inside(&self, base: &Path) -> Result<(), Failure> {
        if !self.is_inside(base) {
            return Ok(());
        }
        Err(refusal(
            "an authority's key is on no member: directory inside the base directory",
            &self.real,
            "keep the authority on a machine of the operator's, outside of the base directory",
        ))
    }

    fn refuse_new_inside(&self, base: &Path) -> Result<(), Failure> {
        let is_its = leads_to(&base.join(CERTIFICATES)).is_ok_and(|its| self.real == its);
        if !self.is_inside(base) || is_its || self.real.exists() {
            return Ok(());
        }
        Err(refusal(
            "the base directory is the library's own: certificates lie in its state/certificates only",
            &self.real,
            "issue to that, or to a directory outside of the base directory",
        ))
    }
}

/// Where a path leads that need not be there.
fn leads_to(path: &Path) -> io::Result<PathBuf> {
    let mut missing = PathBuf::new();
    for above in path.ancestors() {
        match above.canonicalize() {
            Ok(real) if missing.as_os_str().is_empty() => return Ok(real),
            Ok(real) => return Ok(real.join(missing)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let name = above.file_name().ok_or(error)?;
                missing = if missing.as_os_str().is_empty() { name.into() } else { Path::new(name).join(missing) };
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn refusal(what: &str, path: &Path, hint: &str) -> Failure {
    let message = format!("{what}, dir={}", path.display());
    Failure::Of { kind: Kind::Invalid, message, hint: Some(hint.into()), details: None }
}

fn failure(path: &Path) -> impl Fn(NetError) -> Failure + '_ {
    move |error| {
        let message = format!("{error}, dir={}", path.display());
        Failure::Of { kind: error.kind(), message, hint: error.hint(), details: None }
    }
}

fn os_failure(error: &io::Error, path: &Path) -> Failure {
    let message = format!("could not reach a directory: {error}, dir={}", path.display());
    Failure::Of { kind: io_kind(error), message, hint: None, details: None }
}

struct Told(About);

impl Encoder for Told {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let pairs = match &self.0 {
            About::Authority(facts) => vec![
                (atoms::kind(), atoms::authority().encode(env)),
                (atoms::cluster(), facts.cluster.to_string().encode(env)),
                (atoms::id(), facts.id.to_string().encode(env)),
                (atoms::has_key(), facts.has_key.encode(env)),
            ],
            About::Node(facts) => vec![
                (atoms::kind(), atoms::certificate().encode(env)),
                (atoms::cluster(), facts.peer.cluster.to_string().encode(env)),
                (atoms::node(), crate::files::Bytes(facts.peer.node.as_bytes().to_vec()).encode(env)),
                (atoms::role(), role(facts.peer.role).encode(env)),
                (atoms::issued_by(), facts.issued_by.to_string().encode(env)),
                (atoms::trusts(), facts.trusts.iter().map(AuthorityId::to_string).collect::<Vec<_>>().encode(env)),
            ],
        };
        let Validity { from_ms, until_ms } = match &self.0 {
            About::Authority(facts) => facts.validity,
            About::Node(facts) => facts.validity,
        };
        let span = [(atoms::from_ms(), from_ms.encode(env)), (atoms::until_ms(), until_ms.encode(env))];
        let pairs: Vec<_> = pairs.into_iter().chain(span).collect();
        Term::map_from_pairs(env, &pairs).unwrap_or_else(|_| atoms::nil().encode(env))
    }
}

fn role(role: Role) -> Atom {
    match role {
        Role::Member => atoms::member(),
        Role::Client => atoms::client(),
    }
}
