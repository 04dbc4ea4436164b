//! An operator's command, carried out wherever the app is: here when nobody owns it, otherwise in
//! the process that does.
//!
//! Invariant: a command is carried out by one process, the owner of the app at that time; it is
//! repeated only when the process that was asked is not there, or has let go of the app.

use crate::client::{Client, Patience};
use crate::link::now;
use crate::server::Handler;
use crate::{Command, ControlError, Outcome};
use macula_core::{AppName, Clock, Kind, SystemClock, Task};
use macula_store::{Base, Owner, StoreError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often an owner that is not there is looked for again: it may have just ended, or just begun
/// and not yet written down who it is.
const TRIES: usize = 3;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(50);

/// Carry out `command`, in this process or in the owner of its app. `deadline` bounds the waiting for
/// another process (`None`: for as long as it gives signs of life); in this process only
/// `task.cancel` ends a command early.
///
/// # Errors
/// What the command fails with, here or there; [`ControlError::Locked`] when the owner cannot be
/// asked; [`ControlError::Timeout`] when it does not answer.
pub fn perform(
    base: &Arc<Base>,
    command: &Command,
    deadline: Option<Duration>,
    task: &Task,
) -> Result<Outcome, ControlError> {
    let ends_at = deadline.map(|deadline| now() + deadline);
    let mut tries = 0;
    loop {
        let owner = match perform_here(base, command, task) {
            Err(ControlError::Store(StoreError::Locked(owner))) => owner,
            result => return result,
        };
        tries += 1;
        let left = ends_at.map(|ends_at| ends_at.saturating_sub(now()));
        match forward(base, command, owner.as_ref(), left, task) {
            Err(error) if tries == TRIES || task.cancel.is_cancelled() || !has_let_go(&error) => return Err(error),
            Err(_) => SystemClock.sleep(PAUSE),
            outcome => return outcome,
        }
    }
}

/// Ask the owner.
fn forward(
    base: &Base,
    command: &Command,
    owner: Option<&Owner>,
    deadline: Option<Duration>,
    task: &Task,
) -> Result<Outcome, ControlError> {
    let locked = |reason| {
        let app = command.app().unwrap_or_default().to_owned();
        ControlError::Locked { pid: owner.map(|owner| owner.pid), app, reason }
    };
    let Some(owner) = owner else { return Err(locked("has not written down who it is")) };
    let Some(socket) = &owner.socket else { return Err(locked("has no control socket")) };
    let patience = Patience { deadline, ..Patience::default() };
    let called = Client::connect(&run_dir(base), socket, patience).and_then(|client| client.call(command, task));
    called.map_err(|error| match error {
        ControlError::Gone(_) => locked("does not listen on its control socket"),
        ControlError::Timeout { verb, pid: None } => ControlError::Timeout { verb, pid: Some(owner.pid) },
        error => error,
    })
}

/// Whether the app may have no owner by now, or another one.
fn has_let_go(error: &ControlError) -> bool {
    matches!(error, ControlError::Locked { .. } | ControlError::Remote { kind: Kind::Closed, .. })
}

fn run_dir(base: &Base) -> PathBuf {
    base.layout().root().join("run")
}

/// Carry out `command` in this process, which owns its app from then on.
fn perform_here(base: &Arc<Base>, command: &Command, task: &Task) -> Result<Outcome, ControlError> {
    let name = |app: &str| AppName::new(app).map_err(StoreError::from);
    let outcome = match command {
        Command::Ping => Outcome::Pong { pid: std::process::id() },
        Command::Usage { app, fresh } => {
            let app = base.existing_app(&name(app)?)?;
            if *fresh {
                app.reconcile_for(task)?;
            }
            Outcome::Usage(app.usage()?)
        }
        Command::Backup { app, options } => Outcome::Backup(base.backup(&name(app)?, options, task)?),
        Command::Archive { app, dest, options } => {
            Outcome::Backup(base.archive(&name(app)?, absolute(dest)?, options, task)?)
        }
        Command::Restore { app, path, options } => {
            Outcome::Restored(base.restore(&name(app)?, absolute(path)?, options, task)?)
        }
        Command::Backups { app } => Outcome::Backups(base.backups(&name(app)?)?),
        Command::Verify { app } => {
            base.existing_app(&name(app)?)?.verify(task)?;
            Outcome::Verified
        }
    };
    Ok(outcome)
}

/// The working directory of the process that carries it out is not the caller's.
fn absolute(path: &Path) -> Result<&Path, ControlError> {
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(ControlError::Relative(path.to_owned()))
    }
}

/// Serves the apps that a base has open, and never opens another for a stranger.
pub(crate) struct Owned(pub Arc<Base>);

impl Handler for Owned {
    fn handle(&self, command: &Command, task: &Task) -> Result<Outcome, ControlError> {
        if let (Some(app), true) = (command.app(), command.needs_owner()) {
            let name = AppName::new(app).map_err(StoreError::from)?;
            if self.0.app_if_open(&name).is_none() {
                return Err(ControlError::NotOwned(app.to_owned()));
            }
        }
        perform_here(&self.0, command, task)
    }
}
