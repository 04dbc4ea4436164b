//! What happens to replicated files without the doing of who listens, read in pages by the process that does.
//!
//! It is sent the atom `mesh_events` when there is more to read, once until it has read all. A listening ends with its
//! term, which its process holds and nobody else.

use crate::error::Failure;
use crate::files::Bytes;
use crate::handle::Handle;
use crate::mesh::MeshHandle;
use crate::options::{app_name, rel_path};
use crate::{atoms, stop};
use macula_mesh::{Dot, Event, Listening, Told, What, Wish};
use rustler::{Atom, Binary, Encoder, Env, OwnedEnv, Resource, ResourceArc, Term};
use std::sync::Arc;

/// Events of one page.
const PAGE: usize = 64;

/// One who listens, in Elixir's hands.
pub type ListeningHandle = Handle<Arc<Listening>>;

#[rustler::resource_impl]
impl Resource for ListeningHandle {}

/// memory: listen to what happens to the files of an app, at or below a path; answers the listening. Of each kind whether
/// it is told: conflict, changed, deleted, rotten, mended.
#[rustler::nif]
fn mesh_listen<'a>(
    env: Env<'a>,
    mesh: ResourceArc<MeshHandle>,
    app: &'a str,
    prefix: Option<Binary<'a>>,
    kinds: Vec<Atom>,
) -> Term<'a> {
    let owner = env.pid();
    let listen = || -> Result<_, Failure> {
        let prefix = prefix.map(|prefix| rel_path(&prefix)).transpose()?;
        let kinds = all_kinds().map(|kind| kinds.contains(&kind));
        let wish = Wish { app: app_name(app)?, prefix, kinds };
        let wake = move || {
            stop::unless_stopped(|| {
                // who is gone lets go of it soon
                let _ = OwnedEnv::new().send_and_clear(&owner, |env| atoms::mesh_events().encode(env));
            });
        };
        let listening = mesh.get()?.with(|mesh| Ok(mesh.listen(wish, wake)))?;
        Ok(ResourceArc::new(ListeningHandle::new(Arc::new(listening))))
    };
    crate::error::result(env, listen())
}

/// memory: `{events, missed, more, is_over}`, see `told`.
#[rustler::nif]
fn mesh_listen_next<'a>(env: Env<'a>, listening: ResourceArc<ListeningHandle>) -> Term<'a> {
    crate::error::result(env, listening.get().map(|listening| Page(listening.next(PAGE))))
}

fn all_kinds() -> [Atom; 5] {
    [atoms::conflict(), atoms::changed(), atoms::deleted(), atoms::rotten(), atoms::mended()]
}

struct Page(Told);

impl Encoder for Page {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let Told { events, missed, more, is_over } = &self.0;
        let events: Vec<Term> = events.iter().map(|event| told(env, event)).collect();
        (events, *missed, *more, *is_over).encode(env)
    }
}

/// `{kind, path}`, `{deleted, path, version}`, `{conflict, path, winner, loser}`, `{changed, path, version, size, here}`.
fn told<'a>(env: Env<'a>, event: &Event) -> Term<'a> {
    let path = Bytes(event.path.as_bytes().to_vec());
    let version = |dot: Dot| (dot.stamp.0, dot.replica);
    match event.what {
        What::Conflict { winner, loser } => (atoms::conflict(), path, version(winner), version(loser)).encode(env),
        What::Changed { version: dot, content, is_here } => {
            (atoms::changed(), path, version(dot), content.len, is_here).encode(env)
        }
        What::Deleted { version: dot } => (atoms::deleted(), path, version(dot)).encode(env),
        What::Rotten => (atoms::rotten(), path).encode(env),
        What::Mended => (atoms::mended(), path).encode(env),
    }
}
