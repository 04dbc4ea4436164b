//! One instant of an app, packed into a file.
//!
//! Invariant: everything that engines hold is of the moment in which the gate was closed; everything
//! else is as it was when it was read, and marked when it changed meanwhile.

use crate::backup::BackupOptions;
use crate::plain::Scope;
use crate::tree::{channel, AppTree, Found, LeftOut, Scratch, LEFT_OUT_MAX};
use crate::{App, StoreError};
use crossbeam_channel::Receiver;
use macula_archive::{ManifestEntry, PackOptions, Packed, Remark, Totals};
use macula_core::{DiskFile, RelPath, Task};
use std::io;
use std::sync::Arc;

/// What it takes to pack an app.
pub(crate) struct Pack<'a> {
    pub app: &'a App,
    pub scratch: &'a Arc<Scratch>,
    pub options: &'a BackupOptions,
    /// When the instant is, microseconds since 1970.
    pub at_us: u64,
    pub task: &'a Task,
}

/// What was packed.
pub(crate) struct Done {
    pub totals: Totals,
    /// What is there and could not be archived, and why: 1,000 lines, and one that counts the others.
    pub left_out: Vec<String>,
}

impl Pack<'_> {
    /// Pin, stage, pack into `out`. `name` is the archive's file name.
    pub fn run(&self, out: &dyn DiskFile, name: &RelPath) -> Result<Done, StoreError> {
        let pinned = self.app.pin()?;
        let mut tree = AppTree::new(self.app.disk()?, self.app.path().to_owned(), self.scratch.clone());
        let mut first = Vec::new();
        for pin in pinned {
            tree.add(pin.stage(self.scratch, self.task)?, &mut first)?;
        }
        let pack = self.pack_options(name)?;
        let scope = Scope { cache: self.options.cache };
        let (items, wanted) = channel();
        let packed = std::thread::scope(|threads| {
            let tree = &tree;
            threads.spawn(move || tree.produce(first, scope, self.task, &items));
            let mut failure = None;
            // owned by the closure, so that a pack that fails lets the walk end too
            let packed = pack_items(wanted, &mut failure, tree, out, &pack, self.task);
            failure.map_or(packed, Err)
        })?;
        Ok(Done { totals: packed.totals, left_out: left_out(tree.left_out(), &packed) })
    }

    fn pack_options(&self, name: &RelPath) -> Result<PackOptions, StoreError> {
        let (app, options) = (self.app, self.options);
        let name = name.to_string();
        let stem = name.strip_suffix(options.format.suffix()).unwrap_or(&name).trim_start_matches('.');
        let mut pack = PackOptions::new(stem).format(options.format.of_archive());
        pack.level = options.level.unwrap_or(pack.level);
        pack.about =
            serde_json::json!({ "app": app.name().as_str(), "created_us": self.at_us, "cache": options.cache });
        // for the progress only: what is known will do
        pack.bytes_total = crate::usage::read(app).total;
        Ok(pack)
    }
}

fn pack_items(
    wanted: Receiver<Found>,
    failure: &mut Option<StoreError>,
    tree: &AppTree,
    out: &dyn DiskFile,
    options: &PackOptions,
    task: &Task,
) -> Result<Packed, StoreError> {
    let mut items = wanted.into_iter().flat_map(|found| {
        let (items, error) = match found {
            Ok(items) => (items, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let told = error.map(|error| {
            let told = io::Error::other(error.to_string());
            *failure = Some(error);
            Err(told)
        });
        items.into_iter().map(Ok).chain(told)
    });
    Ok(macula_archive::pack(&mut items, tree, out, options, task)?)
}

/// What the walk and the archive left out. What vanished was removed by somebody, as files are.
fn left_out(walk: LeftOut, packed: &Packed) -> Vec<String> {
    let count = walk.count + packed.totals.left_out;
    let mut lines = walk.names;
    lines.extend(packed.remarked.iter().filter_map(why_left_out));
    lines.truncate(LEFT_OUT_MAX);
    match count.saturating_sub(lines.len() as u64) {
        0 => {}
        more => lines.push(format!("and {more} more")),
    }
    lines
}

fn why_left_out(entry: &ManifestEntry) -> Option<String> {
    let why = match entry.remark? {
        Remark::LeadsOutside => "a link that leads outside the app",
        Remark::ReservedName => "a name of the archive's own",
        Remark::Changed | Remark::Corrupt | Remark::Vanished => return None,
    };
    Some(format!("{}: {why}", String::from_utf8_lossy(&entry.path())))
}
