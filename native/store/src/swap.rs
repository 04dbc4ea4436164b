//! Putting a restored directory in an app's place: wholly the old or wholly the new, at any instant.
//!
//! The staging sibling `apps/.restore-<app>` is complete and synced before anything here runs. Where
//! two directories can be exchanged in one step that step decides. Elsewhere its rename to
//! `apps/.ready-<app>` does: opening the app finishes what that name says.
//! Invariant: all names are in `apps/`, so that one sync of it makes them durable in their order; a
//! staging directory is rubbish; `.old-<app>` is rubbish only after the new tree is in place.

pub(crate) mod rubbish;

use crate::{Base, Layout, StoreError};
use macula_core::{AppName, Kind, Kinded, RelPath};
use rubbish::set_aside;
use std::io;

const READY: &str = ".ready-";
/// How often what others put in the app's place is moved away before giving up.
const INTRUDERS_MAX: u32 = 3;

/// Put the staging directory in the app's place. Durable on return; the old tree is then rubbish.
///
/// # Errors
/// [`StoreError::Unknown`] when the next opening decides which tree it is: nothing may be written
/// before. Any other error leaves the old tree in place, durably.
pub(crate) fn swap(base: &Base, app: &AppName) -> Result<(), StoreError> {
    let (live, staging) = (Layout::app(app), Layout::staging(app));
    if !is_there(base, &live)? {
        // somebody removed it: with an empty one in its place there is one way only
        base.disk.create_dir(&live).map_err(failed(base, "create", &live))?;
    }
    match base.disk.exchange(&staging, &live) {
        Ok(()) => sync_apps(base)
            .map_err(|error| StoreError::Unknown(format!("the restored app {app} is in place, but {error}"))),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => swap_by_renames(base, app),
        Err(error) => Err(failed(base, "exchange", &live)(error)),
    }
}

/// After a crash, or a swap of unknown outcome: finish one that had decided, give the rest rubbish
/// names. The app is to be used only after a sync of `apps/`, which the caller makes.
pub(crate) fn recover(base: &Base, app: &AppName) -> Result<(), StoreError> {
    let (live, old) = (Layout::app(app), Layout::old(app));
    if is_there(base, &ready(app))? {
        finish(base, app)?;
    } else if is_there(base, &old)? && !is_there(base, &live)? {
        rename(base, &old, &live)?;
    }
    unless_forbidden(rubbish::renew(base, app))?;
    unless_forbidden(clear_the_way(base, app))
}

/// What we may not rename is of no swap of ours. It is in the way of the next restore, which says so.
fn unless_forbidden(result: Result<(), StoreError>) -> Result<(), StoreError> {
    match result {
        Err(error) if error.kind() == Kind::Permission => Ok(()),
        result => result,
    }
}

/// Nothing lies where the next restore unpacks, or where it puts the old tree.
///
/// # Errors
/// What is there cannot even be renamed: it must not be unpacked into.
pub(crate) fn clear_the_way(base: &Base, app: &AppName) -> Result<(), StoreError> {
    set_aside(base, app, &Layout::staging(app))?;
    if !is_there(base, &Layout::app(app))? {
        return Ok(());
    }
    set_aside(base, app, &Layout::old(app))
}

/// Whether the app's directory is there, or a crash or a swap of unknown outcome keeps it under
/// another name until the app is opened.
pub(crate) fn has_directory(base: &Base, app: &AppName) -> bool {
    [Layout::app(app), ready(app), Layout::old(app)].iter().any(|path| base.is_dir(path))
}

/// The app that a name in `apps/` is the directory of, or is about to be.
pub(crate) fn app_of(name: &str) -> Option<AppName> {
    AppName::new(name.strip_prefix(READY).unwrap_or(name)).ok()
}

/// `apps/.ready-<app>`: the staging directory after the decision, where exchanging is not supported.
fn ready(app: &AppName) -> RelPath {
    let staging = Layout::staging(app);
    let name = format!("{READY}{app}");
    staging.parent().join(name).unwrap_or_else(|error| panic!("a validated name is a component: {error}"))
}

fn swap_by_renames(base: &Base, app: &AppName) -> Result<(), StoreError> {
    // one that stayed from an earlier restore; the app's own directory was seen
    set_aside(base, app, &Layout::old(app))?;
    let decided = rename(base, &Layout::staging(app), &ready(app)).and_then(|()| sync_apps(base));
    let Err(error) = decided.and_then(|()| finish(base, app)) else { return Ok(()) };
    match undo(base, app) {
        Ok(()) => Err(error),
        // the next opening decides by what is on the disk
        Err(_) => Err(StoreError::Unknown(error.to_string())),
    }
}

/// Take the decision back after a step of [`finish`] failed: the old tree in its place, durably.
fn undo(base: &Base, app: &AppName) -> Result<(), StoreError> {
    let (live, old) = (Layout::app(app), Layout::old(app));
    if !is_there(base, &ready(app))? {
        if is_there(base, &Layout::staging(app))? {
            // nothing was decided
            return Ok(());
        }
        return Err(StoreError::Unknown("the new directory is in place".into()));
    }
    if is_there(base, &old)? {
        put_in_place(base, app, &old, &live)?;
    }
    rename(base, &ready(app), &Layout::staging(app))?;
    sync_apps(base)
}

/// Each step can be repeated after a crash at any point of it.
fn finish(base: &Base, app: &AppName) -> Result<(), StoreError> {
    let (live, old) = (Layout::app(app), Layout::old(app));
    // with the old tree at its place already, what is at the app's is another's
    if is_there(base, &live)? && !is_there(base, &old)? {
        rename(base, &live, &old)?;
    }
    put_in_place(base, app, &ready(app), &live)?;
    sync_apps(base)
}

/// Rename a tree to the app's place. Between two renames the place is free, and who makes `uploads/`
/// there takes it: that is moved away and kept, it may hold files of a program that knew no better.
fn put_in_place(base: &Base, app: &AppName, tree: &RelPath, live: &RelPath) -> Result<(), StoreError> {
    let in_the_way =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory);
    let mut intruders = 0;
    loop {
        match base.disk.rename(tree, live) {
            Err(error) if in_the_way(&error) && intruders < INTRUDERS_MAX => {
                intruders += 1;
                rubbish::keep_aside(base, app, live)?;
            }
            result => return result.map_err(failed(base, "rename", tree)),
        }
    }
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
