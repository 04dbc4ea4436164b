//! Usage, archives, restores: commands, performed here or by the process that owns the app.

use crate::atoms;
use crate::base::BaseHandle;
use crate::error::Failure;
use crate::files::Bytes;
use crate::options::{machine_path, span};
use crate::reply::Reply;
use macula_control::{Command, Outcome};
use macula_core::{AppName, Progress, Task};
use macula_store::{BackupInfo, BackupOptions, Format, RestoreInfo, RestoreOptions, Usage};
use parking_lot::Mutex;
use rustler::{Atom, Binary, Encoder, Env, ResourceArc, Term};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

/// own thread: bytes by part.
#[rustler::nif]
fn usage<'a>(
    env: Env<'a>,
    base: ResourceArc<BaseHandle>,
    reference: Term<'a>,
    app: String,
    fresh: bool,
    timeout_ms: u64,
) -> Term<'a> {
    perform(env, &base, reference, Command::Usage { app, fresh }, span(timeout_ms))
}

/// own thread: archive to `dest`, or back up when it is nil.
#[rustler::nif]
fn archive<'a>(
    env: Env<'a>,
    base: ResourceArc<BaseHandle>,
    reference: Term<'a>,
    app: String,
    dest: Option<Binary<'a>>,
    options: Term<'a>,
    timeout_ms: u64,
) -> Term<'a> {
    let command = || -> Result<Command, Failure> {
        let options = backup_options(options)?;
        Ok(match dest {
            None => Command::Backup { app, options },
            Some(dest) => Command::Archive { app, dest: machine_path(&dest)?, options },
        })
    };
    match command() {
        Ok(command) => perform(env, &base, reference, command, span(timeout_ms)),
        Err(failure) => failure.encode(env),
    }
}

/// own thread: restore from the archive at `path`.
#[rustler::nif]
fn restore<'a>(
    env: Env<'a>,
    base: ResourceArc<BaseHandle>,
    reference: Term<'a>,
    app: String,
    path: Binary<'a>,
    options: Term<'a>,
    timeout_ms: u64,
) -> Term<'a> {
    let command = || -> Result<Command, Failure> {
        Ok(Command::Restore { app, path: machine_path(&path)?, options: restore_options(options)? })
    };
    match command() {
        Ok(command) => perform(env, &base, reference, command, span(timeout_ms)),
        Err(failure) => failure.encode(env),
    }
}

/// own thread: the app's backups, newest first.
#[rustler::nif]
fn backups<'a>(env: Env<'a>, base: ResourceArc<BaseHandle>, reference: Term<'a>, app: String) -> Term<'a> {
    perform(env, &base, reference, Command::Backups { app }, None)
}

fn perform<'a>(
    env: Env<'a>,
    base: &ResourceArc<BaseHandle>,
    reference: Term<'a>,
    command: Command,
    deadline: Option<Duration>,
) -> Term<'a> {
    let opened = match base.get() {
        Ok(opened) => opened,
        Err(failure) => return failure.encode(env),
    };
    let job_base = opened.base.clone();
    let lane = command.app().unwrap_or_default().to_owned();
    let name = AppName::new(&lane);
    // what is answered from memory does not wait behind backups, and what another process has to
    // answer, which may hang, keeps nobody's files waiting
    let ours = name.is_ok_and(|name| opened.base.app_if_open(&name).is_some());
    let quick = matches!(command, Command::Usage { fresh: false, .. } | Command::Backups { .. });
    let job = move |reply: Reply| {
        with_progress(reply, |task| macula_control::perform(&job_base, &command, deadline, task).map(Answer));
    };
    match (ours, quick) {
        (true, true) => opened.runtime.io(env, reference, job),
        (true, false) => opened.runtime.long(env, reference, &lane, job),
        (false, _) => opened.runtime.ask(env, reference, &lane, job),
    }
}

/// Run a long work that tells its progress, and send its result.
pub fn with_progress<T: Encoder, E: Into<Failure>>(reply: Reply, work: impl FnOnce(&Task) -> Result<T, E>) {
    with_progress_to(reply, work, Reply::send_result);
}

/// As [`with_progress`], the answer sent by `send`.
pub fn with_progress_to<T>(reply: Reply, work: impl FnOnce(&Task) -> T, send: impl FnOnce(Reply, T)) {
    let cancel = reply.call().cancel_token();
    let reply = Arc::new(Mutex::new(Some(reply)));
    let teller = reply.clone();
    let task = Task::new(cancel, move |progress| {
        if let Some(reply) = teller.lock().as_ref() {
            tell(reply, progress);
        }
    });
    let result = work(&task);
    let owed = reply.lock().take();
    if let Some(reply) = owed {
        send(reply, result);
    }
}

/// `%{entries_done, bytes_done, bytes_total}` on the way to the caller.
pub fn tell(reply: &Reply, progress: Progress) {
    reply.send_progress(|env| {
        map(
            env,
            &[
                (atoms::entries_done(), progress.entries_done.encode(env)),
                (atoms::bytes_done(), progress.bytes_done.encode(env)),
                (atoms::bytes_total(), progress.bytes_total.encode(env)),
            ],
        )
    });
}

fn backup_options(term: Term) -> Result<BackupOptions, Failure> {
    let format: Atom = get(term, atoms::format())?;
    Ok(BackupOptions {
        format: if format == atoms::gz() { Format::Gz } else { Format::Zst },
        level: get(term, atoms::level())?,
        cache: get(term, atoms::cache())?,
        verify: get(term, atoms::verify())?,
        overwrite: get(term, atoms::overwrite())?,
    })
}

fn restore_options(term: Term) -> Result<RestoreOptions, Failure> {
    Ok(RestoreOptions {
        foreign: get(term, atoms::foreign())?,
        from_other_app: get(term, atoms::from_other_app())?,
        bytes_max: get(term, atoms::bytes_max())?,
    })
}

fn get<'a, T: rustler::Decoder<'a>>(map: Term<'a>, key: Atom) -> Result<T, Failure> {
    map.map_get(key).and_then(|value| value.decode()).map_err(|_| Failure::invalid("a missing or bad option"))
}

fn map<'a>(env: Env<'a>, pairs: &[(Atom, Term<'a>)]) -> Term<'a> {
    Term::map_from_pairs(env, pairs).unwrap_or_else(|_| atoms::nil().encode(env))
}

struct Answer(Outcome);

impl Encoder for Answer {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match &self.0 {
            Outcome::Usage(usage) => usage_term(env, usage),
            Outcome::Backup(info) => backup_term(env, info),
            Outcome::Backups(infos) => infos.iter().map(|info| backup_term(env, info)).collect::<Vec<_>>().encode(env),
            Outcome::Restored(info) => restored_term(env, info),
            Outcome::Pong { .. } | Outcome::Verified => atoms::ok().encode(env),
        }
    }
}

fn usage_term<'a>(env: Env<'a>, usage: &Usage) -> Term<'a> {
    let part = |(name, bytes): (&String, &u64)| Some((part_atom(name)?, bytes.encode(env)));
    let parts: Vec<_> = usage.parts.iter().filter_map(part).collect();
    let pairs = [
        (atoms::total(), usage.total.encode(env)),
        (atoms::parts(), map(env, &parts)),
        (atoms::age_ms(), usage.age_ms.encode(env)),
    ];
    map(env, &pairs)
}

fn part_atom(name: &str) -> Option<Atom> {
    macula_core::Part::ALL.into_iter().find(|part| part.name() == name).map(|part| match part {
        macula_core::Part::Kv => atoms::kv(),
        macula_core::Part::Sqlite => atoms::sqlite(),
        macula_core::Part::Files => atoms::files(),
        macula_core::Part::Uploads => atoms::uploads(),
        macula_core::Part::Cache => atoms::cache(),
        macula_core::Part::Other => atoms::other(),
    })
}

fn backup_term<'a>(env: Env<'a>, info: &BackupInfo) -> Term<'a> {
    let left_out: Vec<_> = info.left_out.iter().map(|what| what.encode(env)).collect();
    let pairs = [
        (atoms::name(), info.name.encode(env)),
        (atoms::path(), Bytes(info.path.as_os_str().as_bytes().to_vec()).encode(env)),
        (atoms::bytes(), info.bytes.encode(env)),
        (atoms::at_us(), info.at_us.encode(env)),
        (atoms::verified(), info.verified.encode(env)),
        (atoms::entries(), info.entries.encode(env)),
        (atoms::bytes_in(), info.bytes_in.encode(env)),
        (atoms::changed(), info.changed.encode(env)),
        (atoms::left_out(), left_out.encode(env)),
    ];
    map(env, &pairs)
}

fn restored_term<'a>(env: Env<'a>, info: &RestoreInfo) -> Term<'a> {
    let pairs = [
        (atoms::entries(), info.entries.encode(env)),
        (atoms::bytes(), info.bytes.encode(env)),
        (atoms::verified(), info.verified.encode(env)),
    ];
    map(env, &pairs)
}
