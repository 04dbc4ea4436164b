//! Putting a restored directory in an app's place: wholly the old or wholly the new, at any instant.
//!
//! The staging sibling `apps/.restore-<app>` is complete and synced before anything here runs. Where
//! two directories can be exchanged in one step that step decides. Elsewhere a durable intent says
//! that the staging directory is complete; opening the app finishes what it says. A staging
//! directory without an intent is rubbish: an unfinished unpacking, or the old tree.

use crate::{Base, Layout, StoreError};
use macula_core::{remove_tree, write_durably, AppName, RelPath};
use std::io;

const INTENT: &[u8] = b"macula restore intent 1\n";

/// Put the staging directory in the app's place. Durable on return; the old tree is then at
/// [`Layout::staging`] or gone.
pub(crate) fn swap(base: &Base, app: &AppName) -> Result<(), StoreError> {
    let (live, staging) = (Layout::app(app), Layout::staging(app));
    if !base.is_dir(&live) {
        rename(base, &staging, &live)?;
        return sync_apps(base);
    }
    match base.disk.exchange(&staging, &live) {
        Ok(()) => sync_apps(base),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            let intent = Layout::intent(app);
            let temporary = RelPath::new(format!("{intent}.new"))?;
            write_durably(&*base.disk, &intent, &temporary, INTENT).map_err(failed(base, "write", &intent))?;
            finish(base, app)
        }
        Err(error) => Err(failed(base, "exchange", &live)(error)),
    }
}

/// After a crash: finish a swap that had decided, remove what no decision protects.
pub(crate) fn recover(base: &Base, app: &AppName) -> Result<(), StoreError> {
    if base.disk.stat(&Layout::intent(app)).is_ok() {
        finish(base, app)?;
    }
    discard_staging(base, app)
}

/// Remove the staging directory: an unfinished unpacking, or the tree that was replaced.
pub(crate) fn discard_staging(base: &Base, app: &AppName) -> Result<(), StoreError> {
    let staging = Layout::staging(app);
    remove_tree(&*base.disk, &staging).map_err(failed(base, "remove", &staging))
}

/// Each step can be repeated after a crash at any point of it.
fn finish(base: &Base, app: &AppName) -> Result<(), StoreError> {
    let (live, staging, old) = (Layout::app(app), Layout::staging(app), Layout::old(app));
    if base.is_dir(&staging) {
        if base.is_dir(&live) {
            remove_tree(&*base.disk, &old).map_err(failed(base, "remove", &old))?;
            rename(base, &live, &old)?;
        }
        rename(base, &staging, &live)?;
        sync_apps(base)?;
    }
    let intent = Layout::intent(app);
    base.disk.remove_file(&intent).map_err(failed(base, "remove", &intent))?;
    base.disk.sync_dir(&intent.parent()).map_err(failed(base, "sync", &intent))?;
    remove_tree(&*base.disk, &old).map_err(failed(base, "remove", &old))
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
