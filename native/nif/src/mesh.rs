//! Replicated files: what waits for the disk or for other members runs on threads of the mesh.
//!
//! Contents cross without a copy: the job holds the caller's binary until it is written.

use crate::atoms;
use crate::base::{BaseHandle, Opened};
use crate::error::Failure;
use crate::files::{Bytes, Held};
use crate::handle::{dispose, Handle};
use crate::mesh_carrier::Carried;
use crate::options::{app_name, rel_path};
use crate::reply::Reply;
use crate::state::{OpenState, StateHandle};
use macula_core::{AppFiles, AppFilesError, AppName, Apps, Kind, RelPath};
use macula_mesh::{
    Ack, Class, Dot, Mesh, MeshError, Name, Options, Place, Reading, Rule, Seams, Stamp, Version, Writing, Written,
};
use macula_store::{AppFilesOf, Base, NodeDir};
use parking_lot::Mutex;
use rustler::{Atom, Binary, Encoder, Env, Resource, ResourceArc, Term};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of one read.
const PART_BYTES_MAX: usize = 1 << 20;

/// The replicated files that this VM has opened, until its state is closed.
pub struct OpenMesh {
    open: Mutex<Option<(Arc<Mesh>, NodeDir)>>,
    is_linked: Mutex<bool>,
    /// Instead of links, where an application has a transport of its own.
    pub carried: Carried,
}

/// The replicated files, in Elixir's hands.
pub type MeshHandle = Handle<Arc<OpenMesh>>;

#[rustler::resource_impl]
impl Resource for MeshHandle {}

/// A file that is being written until it is committed.
type Begun = Arc<Mutex<Option<Writing>>>;

/// A file being written; dropped or aborted, it leaves no trace.
pub struct WritingHandle(Handle<(Begun, Arc<OpenMesh>)>);

#[rustler::resource_impl]
impl Resource for WritingHandle {}

/// A version of a file that is being read.
pub struct ReadingHandle(Handle<(Arc<Reading>, Arc<OpenMesh>)>);

#[rustler::resource_impl]
impl Resource for ReadingHandle {}

/// The apps of a base.
#[derive(Debug)]
struct AppsOf(Arc<Base>);

impl Apps for AppsOf {
    fn files_of(&self, app: &AppName) -> Result<Arc<dyn AppFiles>, AppFilesError> {
        Ok(Arc::new(AppFilesOf::new(self.0.app(app)?)))
    }

    fn opened(&self, app: &AppName) -> Option<Arc<dyn AppFiles>> {
        self.0.app_if_open(app).map(|app| Arc::new(AppFilesOf::new(app)) as Arc<dyn AppFiles>)
    }

    fn was_used(&self, app: &AppName) -> bool {
        self.0.was_used(app)
    }
}

impl OpenMesh {
    /// Open them, as a member of the cluster of that state.
    pub fn open(opened: &Opened, state: &OpenState, options: Options) -> Result<Self, Failure> {
        let (dir, store) = opened.base.own_mesh(macula_mesh::store_options())?;
        let seams = Seams {
            store,
            apps: Arc::new(AppsOf(opened.base.clone())),
            members: state.members()?,
            clock: Arc::new(macula_core::SystemClock),
            chance: Arc::new(macula_core::SystemChance),
        };
        let mesh = Mesh::open(seams, options)?;
        Ok(Self {
            open: Mutex::new(Some((Arc::new(mesh), dir))),
            is_linked: Mutex::new(false),
            carried: Carried::default(),
        })
    }

    /// Reach other members by the links of that state, and be reached, once it has some.
    pub fn link(&self, state: &OpenState) -> Result<(), Failure> {
        let mut is_linked = self.is_linked.lock();
        let Some(net) = state.net()?.filter(|_| !*is_linked) else { return Ok(()) };
        self.with(|mesh| {
            if let Some(door) = mesh.door() {
                state.serve_bulk(door)?;
            }
            mesh.link(net);
            *is_linked = true;
            Ok(())
        })
    }

    /// Stop its threads, then let go of its directory.
    pub fn close(&self) {
        let taken = self.open.lock().take();
        if let Some((mesh, dir)) = taken {
            mesh.close();
            drop(dir);
        }
    }

    /// If it is open. It may be closed meanwhile: nobody waits for nobody here, and what is asked of it then is refused.
    pub fn with<T>(&self, act: impl FnOnce(&Mesh) -> Result<T, Failure>) -> Result<T, Failure> {
        let mesh = self.open.lock().as_ref().map(|(mesh, _dir)| mesh.clone());
        act(&*mesh.ok_or_else(|| Failure::outcome(Kind::Closed))?)
    }
}

/// own thread: open the replicated files, as a member of the cluster of a state, in a zone, on a disk of a class,
/// with so many copies beside each file's first; link them to the others if the state is linked, unless somebody else
/// carries what they ask of each other. In the background it reads all that is here once in so many milliseconds (`nil`:
/// never), so many bytes in a second at most; sends and fetches copies at so many bytes in a second (`nil`: as fast as
/// can be), those that move at so many. With `watch` it looks at what the kernel tells of other programs.
#[rustler::nif]
fn mesh_open<'a>(
    env: Env<'a>,
    base: ResourceArc<BaseHandle>,
    state: ResourceArc<StateHandle>,
    reference: Term<'a>,
    (zone, class, copies, rules): (String, Atom, usize, Vec<RuleTerm<'a>>),
    ((scrub_every_ms, scrub_rate), (bandwidth, repair_rate)): ((Option<u64>, u64), (Option<u64>, u64)),
    (watch, by_links): (bool, bool),
) -> Term<'a> {
    let (opened, state) = match base.get().and_then(|opened| Ok((opened, state.get()?))) {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    let rules = match rules.into_iter().map(rule_of).collect() {
        Ok(rules) => rules,
        Err(failure) => return Failure::encode(&failure, env),
    };
    let class = class_of(class);
    let scrub_every = scrub_every_ms.map(Duration::from_millis);
    let rates = Options { scrub_every, scrub_rate, bandwidth, repair_rate, watch, ..Options::default() };
    let options = Options { zone, class, copies, rules, ..rates };
    let of = opened.clone();
    opened.runtime.io(env, reference, move |reply| {
        let open = || -> Result<_, Failure> {
            let mesh = of.mesh(&state, options)?;
            if by_links {
                mesh.link(&state)?;
            }
            Ok(ResourceArc::new(MeshHandle::new(mesh)))
        };
        reply.send_result(open());
    })
}

/// own thread: write a whole file, to lie at so many others, on such disks first; answers its version, and how many others have it, once those are as many as `ack`
/// asks for.
#[rustler::nif]
fn mesh_write<'a>(
    env: Env<'a>,
    mesh: ResourceArc<MeshHandle>,
    reference: Term<'a>,
    name: (&'a str, Binary<'a>),
    content: Term<'a>,
    (ack, timeout_ms): (Term<'a>, u64),
    place: PlaceTerm,
) -> Term<'a> {
    let ack = ack_of(ack);
    if let Some(begun) = write_short(env, &mesh, reference, &name, content, (ack, timeout_ms), place) {
        return begun;
    }
    let content = Held::new(content);
    changing(env, &mesh, reference, name, (ack, timeout_ms), move |mesh, name| {
        let mut writing = begin(mesh, name, place)?;
        content.with(|bytes| writing.write(bytes))??;
        Ok(writing.commit()?)
    })
}

/// The same of a short one, whose bytes are copied here; nothing when it is none, or too many wait.
fn write_short<'a>(
    env: Env<'a>,
    mesh: &ResourceArc<MeshHandle>,
    reference: Term<'a>,
    name: &(&'a str, Binary<'a>),
    content: Term<'a>,
    wait: (Option<Ack>, u64),
    (copies, class): PlaceTerm,
) -> Option<Term<'a>> {
    let (of, name) = (mesh.get().ok()?, name_of(name).ok()?);
    let content = content.decode::<Binary>().ok()?;
    of.with(|mesh| Ok(mesh.takes_short(content.len()))).ok().filter(|takes| *takes)?;
    let (content, place) = (content.to_vec(), (copies, class.map(class_of)));
    let (mesh, changed) = (of.clone(), name.clone());
    Some(crate::runtime::owe(env, reference, move |reply| {
        let call = reply.call().clone();
        let written = move |made: Result<Dot, MeshError>| match made {
            Ok(dot) => acknowledge(&mesh, reply, &changed, dot, wait),
            Err(error) => reply.send_result(Err::<(), _>(Failure::from(error))),
        };
        of.with(|mesh| {
            mesh.write_short((name, content), place, move || call.is_cancelled(), written);
            Ok(())
        })
    }))
}

/// Copies and class of disk, where they are told.
type PlaceTerm = (Option<u8>, Option<Atom>);
/// App, prefix, copies, class, former versions that are kept.
type RuleTerm<'a> = (Option<String>, Option<Binary<'a>>, u8, Atom, u8);

fn class_of(class: Atom) -> Class {
    if class == atoms::bulk() {
        Class::Bulk
    } else {
        Class::Fast
    }
}

fn rule_of((app, prefix, copies, class, keep_versions): RuleTerm<'_>) -> Result<Rule, Failure> {
    let app = app.map(|app| app_name(&app)).transpose()?;
    let prefix = prefix.map(|prefix| rel_path(&prefix)).transpose()?;
    Ok(Rule { app, prefix, place: Place { copies, class: class_of(class) }, keep_versions })
}

fn begin(mesh: &Mesh, name: &Name, (copies, class): PlaceTerm) -> Result<Writing, Failure> {
    let mut writing = mesh.writing(name)?;
    writing.put_place(copies, class.map(class_of));
    Ok(writing)
}

/// own thread: delete a file; answers as `mesh_write`.
#[rustler::nif]
fn mesh_delete<'a>(
    env: Env<'a>,
    mesh: ResourceArc<MeshHandle>,
    reference: Term<'a>,
    name: (&'a str, Binary<'a>),
    (ack, timeout_ms): (Term<'a>, u64),
) -> Term<'a> {
    let ack = ack_of(ack);
    changing(env, &mesh, reference, name, (ack, timeout_ms), |mesh, name| Ok(mesh.delete(name)?))
}

/// own thread: let a file have one of its versions instead of all; answers as `mesh_write`.
#[rustler::nif]
fn mesh_resolve<'a>(
    env: Env<'a>,
    mesh: ResourceArc<MeshHandle>,
    reference: Term<'a>,
    name: (&'a str, Binary<'a>),
    chosen: (u64, u64),
    (ack, timeout_ms): (Term<'a>, u64),
) -> Term<'a> {
    let ack = ack_of(ack);
    changing(env, &mesh, reference, name, (ack, timeout_ms), move |mesh, name| Ok(mesh.resolve(name, dot_of(chosen))?))
}

/// own thread: give a file's content, which is here, to another name of the app too; answers as `mesh_write`.
#[rustler::nif]
fn mesh_copy<'a>(
    env: Env<'a>,
    mesh: ResourceArc<MeshHandle>,
    reference: Term<'a>,
    name: (&'a str, Binary<'a>),
    to: Binary<'a>,
    (ack, timeout_ms): (Term<'a>, u64),
) -> Term<'a> {
    changing_to(env, &mesh, reference, (name, to), (ack, timeout_ms), |mesh, from, to| Ok(mesh.copy(from, to)?))
}

/// own thread: give a file another name of the app; answers as `mesh_write`, of the new name.
#[rustler::nif]
fn mesh_rename<'a>(
    env: Env<'a>,
    mesh: ResourceArc<MeshHandle>,
    reference: Term<'a>,
    name: (&'a str, Binary<'a>),
    to: Binary<'a>,
    (ack, timeout_ms): (Term<'a>, u64),
) -> Term<'a> {
    changing_to(env, &mesh, reference, (name, to), (ack, timeout_ms), |mesh, from, to| {
        Ok(mesh.rename(from, to).map(|(made, _gone)| made)?)
    })
}

/// own thread: open a version of a file, or the one that its name shows, to be read, and with `cache` kept here then;
/// answers the reader and the version.
#[rustler::nif]
fn mesh_reader<'a>(
    env: Env<'a>,
    mesh: ResourceArc<MeshHandle>,
    reference: Term<'a>,
    name: (&'a str, Binary<'a>),
    (version, cache): (Option<(u64, u64)>, bool),
) -> Term<'a> {
    let name = match name_of(&name) {
        Ok(name) => name,
        Err(failure) => return failure.encode(env),
    };
    working(env, &mesh, reference, move |mesh, reply| {
        let reading = mesh.with(|of| Ok(of.reading(&name, version.map(dot_of))?));
        reply.send_result(reading.map(|reading| {
            if cache {
                reading.have_kept();
            }
            let told = Told(reading.version.clone());
            (ResourceArc::new(ReadingHandle(Handle::new((Arc::new(reading), mesh.clone())))), told)
        }));
    })
}

/// own thread: at most a mebibyte at an offset, from wherever it is; empty at the end.
#[rustler::nif]
fn mesh_read_part<'a>(
    env: Env<'a>,
    reader: ResourceArc<ReadingHandle>,
    reference: Term<'a>,
    offset: u64,
    len: usize,
) -> Term<'a> {
    let (reading, mesh) = match reader.0.get() {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    crate::runtime::owe(env, reference, move |reply| {
        mesh.with(|mesh| {
            let part = (offset, len.min(PART_BYTES_MAX));
            mesh.read_part(&reading, part, move |bytes| reply.send_result(bytes.map(Bytes)));
            Ok(())
        })
    })
}

/// own thread: what is known of a file.
#[rustler::nif]
fn mesh_stat<'a>(
    env: Env<'a>,
    mesh: ResourceArc<MeshHandle>,
    reference: Term<'a>,
    name: (&'a str, Binary<'a>),
) -> Term<'a> {
    looking(env, &mesh, reference, name, |mesh, name| {
        let stat = mesh.stat(name)?;
        let replicas = stat.replicas.into_iter().map(NodeName).collect::<Vec<_>>();
        Ok(((Told(stat.version), replicas), (stat.is_here, stat.conflicts)))
    })
}

/// own thread: the versions of a file that nothing replaced, the one it shows first, and former ones that are kept here.
#[rustler::nif]
fn mesh_versions<'a>(
    env: Env<'a>,
    mesh: ResourceArc<MeshHandle>,
    reference: Term<'a>,
    name: (&'a str, Binary<'a>),
) -> Term<'a> {
    looking(env, &mesh, reference, name, |mesh, name| {
        let beside = std::iter::once(atoms::shown()).chain(std::iter::repeat(atoms::conflict()));
        let former = mesh.former(name)?.into_iter().zip(std::iter::repeat(atoms::former()));
        let all = mesh.versions(name)?.into_iter().zip(beside).chain(former);
        Ok(all.map(|(version, state)| (Told(version), state)).collect::<Vec<_>>())
    })
}

/// own thread: begin to write a file in chunks.
#[rustler::nif]
fn mesh_writer<'a>(
    env: Env<'a>,
    mesh: ResourceArc<MeshHandle>,
    reference: Term<'a>,
    name: (&'a str, Binary<'a>),
    place: PlaceTerm,
) -> Term<'a> {
    let name = match name_of(&name) {
        Ok(name) => name,
        Err(failure) => return failure.encode(env),
    };
    working(env, &mesh, reference, move |mesh, reply| {
        let writing = mesh.with(|mesh| begin(mesh, &name, place));
        let handle = |writing| WritingHandle(Handle::new((Arc::new(Mutex::new(Some(writing))), mesh.clone())));
        reply.send_result(writing.map(|writing| ResourceArc::new(handle(writing))));
    })
}

/// own thread: append a chunk.
#[rustler::nif]
fn mesh_writer_chunk<'a>(
    env: Env<'a>,
    writer: ResourceArc<WritingHandle>,
    reference: Term<'a>,
    bytes: Term<'a>,
) -> Term<'a> {
    let bytes = Held::new(bytes);
    writing(env, &writer, reference, move |writing, _mesh, reply| {
        let write = || -> Result<(), Failure> {
            let mut writing = writing.lock();
            let writing = writing.as_mut().ok_or_else(|| Failure::outcome(Kind::Closed))?;
            Ok(bytes.with(|bytes| writing.write(bytes))??)
        };
        reply.send_done(write());
    })
}

/// own thread: make the file visible and durable; answers as `mesh_write`.
#[rustler::nif]
fn mesh_writer_commit<'a>(
    env: Env<'a>,
    writer: ResourceArc<WritingHandle>,
    reference: Term<'a>,
    (ack, timeout_ms): (Term<'a>, u64),
) -> Term<'a> {
    let ack = ack_of(ack);
    writing(env, &writer, reference, move |writing, mesh, reply| {
        let taken = writing.lock().take().ok_or_else(|| Failure::outcome(Kind::Closed));
        let committed = taken.and_then(|writing| {
            let name = writing.name().clone();
            Ok((name, writing.commit()?))
        });
        match committed {
            Ok((name, dot)) => acknowledge(mesh, reply, &name, dot, (ack, timeout_ms)),
            Err(failure) => reply.send_result(Err::<(), _>(failure)),
        }
    })
}

/// memory: give up; what was written is removed on the closer thread.
#[rustler::nif]
fn mesh_writer_abort(writer: ResourceArc<WritingHandle>) -> Atom {
    if let Some(inner) = writer.0.take() {
        dispose(Box::new(inner));
    }
    atoms::ok()
}

/// On a thread of the mesh.
pub fn working<'a>(
    env: Env<'a>,
    mesh: &ResourceArc<MeshHandle>,
    reference: Term<'a>,
    job: impl FnOnce(&Arc<OpenMesh>, Reply) + Send + 'static,
) -> Term<'a> {
    let mesh = match mesh.get() {
        Ok(mesh) => mesh,
        Err(failure) => return failure.encode(env),
    };
    let of = mesh.clone();
    crate::runtime::owe(env, reference, |reply| {
        mesh.with(|mesh| {
            let work = mesh.work(move || {
                if !reply.call().is_cancelled() {
                    job(&of, reply);
                }
            });
            work.map_err(Failure::from)
        })
    })
}

/// A question about one file.
fn looking<'a, T: Encoder>(
    env: Env<'a>,
    mesh: &ResourceArc<MeshHandle>,
    reference: Term<'a>,
    name: (&'a str, Binary<'a>),
    look: impl FnOnce(&Mesh, &Name) -> Result<T, Failure> + Send + 'static,
) -> Term<'a> {
    let name = match name_of(&name) {
        Ok(name) => name,
        Err(failure) => return failure.encode(env),
    };
    working(env, mesh, reference, move |mesh, reply| reply.send_result(mesh.with(|mesh| look(mesh, &name))))
}

/// A change of one file, and the wait for others to have it.
fn changing<'a>(
    env: Env<'a>,
    mesh: &ResourceArc<MeshHandle>,
    reference: Term<'a>,
    name: (&'a str, Binary<'a>),
    wait: (Option<Ack>, u64),
    change: impl FnOnce(&Mesh, &Name) -> Result<Dot, Failure> + Send + 'static,
) -> Term<'a> {
    let name = match name_of(&name) {
        Ok(name) => name,
        Err(failure) => return failure.encode(env),
    };
    working(env, mesh, reference, move |mesh, reply| match mesh.with(|mesh| change(mesh, &name)) {
        Ok(dot) => acknowledge(mesh, reply, &name, dot, wait),
        Err(failure) => reply.send_result(Err::<(), _>(failure)),
    })
}

/// The same of a file that is made of another one of its app.
fn changing_to<'a>(
    env: Env<'a>,
    mesh: &ResourceArc<MeshHandle>,
    reference: Term<'a>,
    (name, to): ((&'a str, Binary<'a>), Binary<'a>),
    (ack, timeout_ms): (Term<'a>, u64),
    change: impl FnOnce(&Mesh, &Name, &Name) -> Result<Dot, Failure> + Send + 'static,
) -> Term<'a> {
    let from = match name_of(&name) {
        Ok(from) => from,
        Err(failure) => return failure.encode(env),
    };
    let wait = (ack_of(ack), timeout_ms);
    changing(env, mesh, reference, (name.0, to), wait, move |mesh, to| change(mesh, &from, to))
}

/// On a thread of the mesh, with one of its files.
fn writing<'a>(
    env: Env<'a>,
    writer: &ResourceArc<WritingHandle>,
    reference: Term<'a>,
    job: impl FnOnce(&Mutex<Option<Writing>>, &Arc<OpenMesh>, Reply) + Send + 'static,
) -> Term<'a> {
    // not taken here: a refusal must leave the writer as it was
    let (writing, mesh) = match writer.0.get() {
        Ok(found) => found,
        Err(failure) => return failure.encode(env),
    };
    let of = mesh.clone();
    crate::runtime::owe(env, reference, |reply| mesh.with(|mesh| Ok(mesh.work(move || job(&writing, &of, reply))?)))
}

fn acknowledge(mesh: &Arc<OpenMesh>, reply: Reply, name: &Name, dot: Dot, (ack, timeout_ms): (Option<Ack>, u64)) {
    let told = |written: Written| ((written.dot.stamp.0, written.dot.replica), written.replicas);
    let deadline = Duration::from_millis(timeout_ms);
    // what is durable here stays so, whatever becomes of the mesh meanwhile
    let _ = mesh.with(|mesh| {
        mesh.acknowledged(name, dot, ack, deadline, move |result: Result<Written, MeshError>| {
            reply.send_result(result.map(told));
        });
        Ok(())
    });
}

fn name_of((app, path): &(&str, Binary)) -> Result<Name, Failure> {
    let path: RelPath = rel_path(path)?;
    Ok(Name { app: app_name(app)?, path })
}

fn dot_of((stamp, replica): (u64, u64)) -> Dot {
    Dot { stamp: Stamp(stamp), replica }
}

/// `local`, `quorum`, `all`, a number, or what is usual (`nil`).
fn ack_of(term: Term) -> Option<Ack> {
    match (term.decode::<usize>(), term.decode::<Atom>()) {
        (Ok(count), _) => Some(Ack::Others(count)),
        (_, Ok(atom)) if atom == atoms::local() => Some(Ack::Local),
        (_, Ok(atom)) if atom == atoms::quorum() => Some(Ack::Quorum),
        (_, Ok(atom)) if atom == atoms::all() => Some(Ack::All),
        _ => None,
    }
}

/// A member's name: an atom, as of any node; one that would be none stays text.
pub struct NodeName(pub String);

impl Encoder for NodeName {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        Atom::from_str(env, &self.0).map_or_else(|_| self.0.encode(env), |name| name.encode(env))
    }
}

/// A version: `{{stamp, replica}, wall_ms, {id, len} | nil}`.
struct Told(Version);

impl Encoder for Told {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let Version { dot, content, .. } = &self.0;
        let content = content.map(|content| (Bytes(content.id.to_bytes().to_vec()), content.len));
        ((dot.stamp.0, dot.replica), dot.stamp.wall_ms(), content).encode(env)
    }
}
