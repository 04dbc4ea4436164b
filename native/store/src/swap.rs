//! Putting a restored directory in an app's place: wholly the old or wholly the new, at any instant.
//!
//! The staging sibling `apps/.restore-<app>` is complete and synced before anything here runs. Where
//! two directories can be exchanged in one step that step decides. Elsewhere a durable intent says
//! that the staging directory is complete; opening the app finishes what it says.
//! Invariant: a staging directory is rubbish only while there is no intent; `.old-<app>` is removed
//! only while the app's own directory is there.

use crate::{Base, Layout, StoreError};
use macula_core::{remove_tree, write_durably, AppName, RelPath};
use std::io;

const INTENT: &[u8] = b"macula restore intent 1\n";

/// Put the staging directory in the app's place. Durable on return; the old tree is then rubbish.
///
/// # Errors
/// [`StoreError::Unknown`] when the new tree is in place but that could not be made durable; any
/// other error leaves the old tree in place.
pub(crate) fn swap(base: &Base, app: &AppName) -> Result<(), StoreError> {
    let (live, staging) = (Layout::app(app), Layout::staging(app));
    if !is_there(base, &live)? {
        rename(base, &staging, &live)?;
        return settle(base, app);
    }
    match base.disk.exchange(&staging, &live) {
        Ok(()) => settle(base, app),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => swap_by_intent(base, app),
        Err(error) => Err(failed(base, "exchange", &live)(error)),
    }
}

/// After a crash: finish a swap that had decided, remove what no decision protects.
pub(crate) fn recover(base: &Base, app: &AppName) -> Result<(), StoreError> {
    if is_there(base, &Layout::intent(app))? {
        finish(base, app)?;
    }
    discard_rubbish(base, app);
    Ok(())
}

/// Remove an unfinished unpacking, or the tree that was replaced. What cannot be removed now takes
/// room until the next restore or opening, and harms nobody: no error.
pub(crate) fn discard_rubbish(base: &Base, app: &AppName) {
    if matches!(is_there(base, &Layout::intent(app)), Ok(false)) {
        let _ = remove_tree(&*base.disk, &Layout::staging(app));
    }
    if matches!(is_there(base, &Layout::app(app)), Ok(true)) {
        let _ = remove_tree(&*base.disk, &Layout::old(app));
    }
}

fn swap_by_intent(base: &Base, app: &AppName) -> Result<(), StoreError> {
    let intent = Layout::intent(app);
    let temporary = RelPath::new(format!("{intent}.new"))?;
    let decided = write_durably(&*base.disk, &intent, &temporary, INTENT).map_err(failed(base, "write", &intent));
    let swapped = decided.and_then(|()| finish(base, app));
    let Err(error) = swapped else { return Ok(()) };
    match undo(base, app) {
        Ok(()) => Err(error),
        // the next opening decides by what is on the disk
        Err(_) => Err(StoreError::Unknown(error.to_string())),
    }
}

/// Take the decision back after a step of [`finish`] failed: the old tree in its place, no intent.
fn undo(base: &Base, app: &AppName) -> Result<(), StoreError> {
    let (live, staging, old) = (Layout::app(app), Layout::staging(app), Layout::old(app));
    if !is_there(base, &staging)? {
        // the new tree has taken its place already
        return Err(StoreError::Unknown("the new directory is in place".into()));
    }
    if is_there(base, &old)? && !is_there(base, &live)? {
        rename(base, &old, &live)?;
        sync_apps(base)?;
    }
    remove_intent(base, app)
}

/// Each step can be repeated after a crash at any point of it.
fn finish(base: &Base, app: &AppName) -> Result<(), StoreError> {
    let (live, staging, old) = (Layout::app(app), Layout::staging(app), Layout::old(app));
    if is_there(base, &staging)? {
        if is_there(base, &live)? {
            remove_tree(&*base.disk, &old).map_err(failed(base, "remove", &old))?;
            rename(base, &live, &old)?;
        }
        rename(base, &staging, &live)?;
    }
    sync_apps(base)?;
    remove_intent(base, app)
}

fn remove_intent(base: &Base, app: &AppName) -> Result<(), StoreError> {
    let intent = Layout::intent(app);
    match base.disk.remove_file(&intent) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(base, "remove", &intent)(error)),
        _ => {}
    }
    base.disk.sync_dir(&intent.parent()).map_err(failed(base, "sync", &intent))
}

/// The new tree is in place; make that durable.
fn settle(base: &Base, app: &AppName) -> Result<(), StoreError> {
    sync_apps(base).map_err(|error| StoreError::Unknown(format!("the restored app {app} is in place, but {error}")))
}

fn is_there(base: &Base, path: &RelPath) -> Result<bool, StoreError> {
    match base.disk.stat(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(base, "look for", path)(error)),
    }
}

fn rename(base: &Base, from: &RelPath, to: &RelPath) -> Result<(), StoreError> {
    base.disk.rename(from, to).map_err(failed(base, "rename", from))
}

fn sync_apps(base: &Base) -> Result<(), StoreError> {
    let apps = RelPath::literal(crate::layout::APPS);
    base.disk.sync_dir(&apps).map_err(failed(base, "sync", &apps))
}

fn failed<'a>(base: &'a Base, verb: &'static str, path: &'a RelPath) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::io(verb, base.layout.absolute(path), source)
}
