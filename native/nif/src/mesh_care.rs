//! Replicated files: which there are, how they are, and what is done about them by hand that is else done by itself.

use crate::archive::tell;
use crate::error::Failure;
use crate::files::Bytes;
use crate::mesh::{working, MeshHandle, NodeName};
use crate::options::{app_name, rel_path};
use crate::reply::Reply;
use crate::{atoms, stop};
use macula_core::Task;
use macula_mesh::{Mesh, Page, Refusal, Rounds, Scrubbed};
use parking_lot::Mutex;
use rustler::{Binary, Encoder, Env, ResourceArc, Term};
use std::sync::Arc;
use std::time::Duration;

/// own thread: read all files that are here and compare, a pause after each; answers what was found, and tells how far
/// it is.
#[rustler::nif]
fn mesh_scrub<'a>(env: Env<'a>, mesh: ResourceArc<MeshHandle>, reference: Term<'a>, pause_us: u64) -> Term<'a> {
    let mesh = match mesh.get() {
        Ok(mesh) => mesh,
        Err(failure) => return failure.encode(env),
    };
    crate::runtime::owe(env, reference, move |reply| {
        let cancel = reply.call().cancel_token();
        let reply: Arc<Mutex<Option<Reply>>> = Arc::new(Mutex::new(Some(reply)));
        let teller = reply.clone();
        let task = Task::new(cancel, move |progress| {
            if let Some(reply) = teller.lock().as_ref() {
                tell(reply, progress);
            }
        });
        mesh.with(|mesh| {
            mesh.scrub(Duration::from_micros(pause_us), task, move |scrubbed| {
                let owed = reply.lock().take();
                if let Some(owed) = owed {
                    owed.send_result(scrubbed.map(Found));
                }
            });
            Ok(())
        })
    })
}

/// own thread: how the replicated files are.
#[rustler::nif]
fn mesh_status<'a>(env: Env<'a>, mesh: ResourceArc<MeshHandle>, reference: Term<'a>) -> Term<'a> {
    working(env, &mesh, reference, move |mesh, reply| {
        let status = mesh.with(|mesh| Ok(mesh.status()));
        let peers = |names: Vec<String>| names.into_iter().map(NodeName).collect::<Vec<_>>();
        reply.send_result(status.map(|status| {
            let here = (status.replica, peers(status.peers), status.untold, status.fetching);
            let cared = (status.cared.files, status.cared.under_replicated, status.cared.bytes_here);
            let watched = (status.watched.dirs, status.watched.partly);
            let refused: Vec<Refused> = status.refused.into_iter().map(Refused).collect();
            (here, (status.failed, status.sent, status.received), (cared, watched), Told(status.rounds), refused)
        }));
    })
}

/// memory: have the calling process hear what is refused of other members, `{refused, refusal}`, instead of who did
/// before.
#[rustler::nif]
fn mesh_hear_refusals<'a>(env: Env<'a>, mesh: ResourceArc<MeshHandle>) -> Term<'a> {
    let listener = env.pid();
    let hear = move |refusal: &Refusal| {
        // who is gone is followed by another
        stop::tell(&listener, |env| (atoms::refused(), Refused(refusal.clone())).encode(env));
    };
    let listen = |mesh: &Mesh| {
        mesh.hear_refusals(hear);
        Ok(())
    };
    match mesh.get().and_then(|open| open.with(listen)) {
        Ok(()) => atoms::ok().encode(env),
        Err(failure) => failure.encode(env),
    }
}

/// own thread: look for what other programs did to the files of an app; with `deletions`, what is missing was deleted.
#[rustler::nif]
fn mesh_scan<'a>(
    env: Env<'a>,
    mesh: ResourceArc<MeshHandle>,
    reference: Term<'a>,
    app: &'a str,
    deletions: bool,
) -> Term<'a> {
    let app = match app_name(app) {
        Ok(app) => app,
        Err(failure) => return failure.encode(env),
    };
    working(env, &mesh, reference, move |mesh, reply| {
        let cancel = reply.call().cancel_token();
        let scanned = mesh.with(|mesh| Ok(mesh.scan(&app, deletions, &cancel)?));
        reply.send_result(scanned.map(|told| (told.known, told.found, told.changed, told.deleted, told.lost)));
    })
}

/// own thread: a page of names, and whether there are more; with `conflicts`, of those of more than one version.
#[rustler::nif]
fn mesh_list<'a>(
    env: Env<'a>,
    mesh: ResourceArc<MeshHandle>,
    reference: Term<'a>,
    app: &'a str,
    (prefix, after): (Option<Binary<'a>>, Option<Binary<'a>>),
    limit: usize,
    conflicts: bool,
) -> Term<'a> {
    let path = |path: Option<Binary>| path.map(|path| rel_path(&path)).transpose();
    let decoded = || Ok((app_name(app)?, path(prefix)?, path(after)?));
    let (app, prefix, after) = match decoded() {
        Ok(found) => found,
        Err(failure) => return Failure::encode(&failure, env),
    };
    working(env, &mesh, reference, move |mesh, reply| {
        let list = if conflicts { Mesh::conflicts } else { Mesh::list };
        let page = mesh.with(|mesh| Ok(list(mesh, &app, prefix.as_ref(), after.as_ref(), limit)?));
        let told = |page: Page| {
            let paths = page.paths.iter().map(|path| Bytes(path.as_bytes().to_vec())).collect::<Vec<_>>();
            (paths, page.more)
        };
        reply.send_result(page.map(told));
    })
}

/// `{files, bytes, mended, rotten, skipped}`.
struct Found(Scrubbed);

impl Encoder for Found {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let Scrubbed { files, bytes, mended, rotten, skipped } = self.0;
        (files, bytes, mended, rotten, skipped).encode(env)
    }
}

/// `{member, count, why, at_ms}`.
struct Refused(Refusal);

impl Encoder for Refused {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let Refusal { member, count, why, at_ms } = &self.0;
        (NodeName(member.clone()), *count, Bytes(why.as_bytes().to_vec()), *at_ms).encode(env)
    }
}

/// `{since_ms, {begun_ms, found} | nil, {begun_ms, ended_ms, found} | nil}`.
struct Told(Rounds);

impl Encoder for Told {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let Rounds { since_ms, present, last } = &self.0;
        let present = present.as_ref().map(|round| (round.begun_ms, Found(round.found)));
        let last = last.map(|ended| (ended.begun_ms, ended.ended_ms, Found(ended.found)));
        (since_ms, present, last).encode(env)
    }
}
