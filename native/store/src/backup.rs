//! Backups: one instant of an app, as one verified archive.
//!
//! The instant is pinned in all engines under the closed gate, which takes milliseconds; copying and
//! compressing follow while the app goes on. The archive is written under a hidden name, synced,
//! read back and compared, and only then given its own name: what lists as a backup is one.

use crate::backup_name::BackupName;
use crate::layout::BACKUPS;
use crate::plain::Scope;
use crate::restore::machine_dir;
use crate::tree::{channel, AppTree, Scratch};
use crate::{App, Base, StoreError};
use macula_archive::{PackOptions, Packed, UnpackOptions};
use macula_core::{create_dir_all, remove_tree, AppName, Disk, Open, RelPath, Task};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `.tar.zst`
    #[default]
    Zst,
    /// `.tar.gz`
    Gz,
}

impl Format {
    /// How file names of that format end.
    pub fn suffix(self) -> &'static str {
        self.of_archive().extension()
    }

    /// The format of a suffix.
    pub fn of_suffix(suffix: &str) -> Option<Self> {
        [Format::Zst, Format::Gz].into_iter().find(|format| format.suffix() == suffix)
    }

    fn of_archive(self) -> macula_archive::Format {
        match self {
            Format::Zst => macula_archive::Format::Zst,
            Format::Gz => macula_archive::Format::Gz,
        }
    }
}

/// How a backup or archive is made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupOptions {
    /// Compression.
    pub format: Format,
    /// Its level; `None`: the format's default.
    pub level: Option<i32>,
    /// `cache/` as well.
    pub cache: bool,
    /// Read the archive back and compare before it gets its name.
    pub verify: bool,
    /// Replace what is at the destination.
    pub overwrite: bool,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self { format: Format::Zst, level: None, cache: false, verify: true, overwrite: false }
    }
}

/// A backup as it lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupInfo {
    /// File name.
    pub name: String,
    /// Absolute path.
    pub path: PathBuf,
    /// Bytes of the archive.
    pub bytes: u64,
    /// When its instant was, microseconds since 1970.
    pub at_us: u64,
    /// Whether it was read back and compared; `None` when the disk keeps no such mark.
    pub verified: Option<bool>,
    /// Entries; 0 in listings, which open no archive.
    pub entries: u64,
    /// Bytes before compression; 0 in listings.
    pub bytes_in: u64,
    /// Entries that other programs changed while they were read.
    pub changed: u64,
    /// What could not be archived, and why.
    pub left_out: Vec<String>,
}

/// The extended attribute that says that an archive was read back: the length it had.
const VERIFIED: &str = "verified";

impl Base {
    /// Back the app up into `backups/`.
    pub fn backup(
        self: &Arc<Self>,
        name: &AppName,
        options: &BackupOptions,
        task: &Task,
    ) -> Result<BackupInfo, StoreError> {
        let dir = self.layout.absolute(&RelPath::literal(BACKUPS));
        let mut at_us = self.seams.clock.wall_ms() * 1000;
        loop {
            let backup = BackupName::new(name, at_us, options.format);
            match self.archive(name, &dir.join(backup.to_string()), options, task) {
                // two backups in one instant of the clock: the next microsecond is free
                Err(StoreError::Exists(_)) => at_us += 1,
                result => return result.map(|info| BackupInfo { at_us, ..info }),
            }
        }
    }

    /// Archive the app to `dest`, a path on the machine.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when something is there and `overwrite` was not asked for.
    pub fn archive(
        self: &Arc<Self>,
        name: &AppName,
        dest: &Path,
        options: &BackupOptions,
        task: &Task,
    ) -> Result<BackupInfo, StoreError> {
        let (dir, file_name) = machine_dir(dest)?;
        if !options.overwrite && dir.stat(&file_name).is_ok() {
            return Err(StoreError::Exists(dest.to_owned()));
        }
        let app = self.app(name)?;
        let _turn = app.backup_turn(task)?;
        let scratch = self.scratch(name)?;
        let result = self.write_archive(&app, &dir, &file_name, dest, &scratch, options, task);
        // scratch copies of a failed archive are removed by the next one at the latest
        let _ = remove_tree(&*self.disk, &scratch_path(name)?);
        result
    }

    #[allow(clippy::too_many_arguments)] // one step of `archive`, split for length
    fn write_archive(
        &self,
        app: &Arc<App>,
        dir: &dyn Disk,
        name: &RelPath,
        dest: &Path,
        scratch: &Arc<Scratch>,
        options: &BackupOptions,
        task: &Task,
    ) -> Result<BackupInfo, StoreError> {
        let failed = |verb| move |e: io::Error| StoreError::io(verb, dest, e);
        let partial = RelPath::new(format!(".{name}.partial"))?;
        remove_tree(dir, &partial).map_err(failed("clear the way for"))?;
        let at_us = self.seams.clock.wall_ms() * 1000;
        let write = || -> Result<(Packed, Vec<String>, u64), StoreError> {
            let file = dir.open(&partial, Open::CreateNew).map_err(failed("create"))?;
            let (packed, left_out) = self.pack(app, &*file, name, scratch, options, at_us, task)?;
            file.set_mode(0o600).and_then(|()| file.sync_data()).map_err(failed("sync"))?;
            let bytes = file.len().map_err(failed("read"))?;
            if options.verify {
                let archive = dir.open(&partial, Open::Read).map_err(failed("read back"))?;
                macula_archive::verify(&archive, &UnpackOptions::default(), task)?;
                // a disk without extended attributes keeps no mark: the listing then says so
                let _ = file.set_tag(VERIFIED, &bytes.to_le_bytes());
            }
            publish(dir, &partial, name, options.overwrite).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => StoreError::Exists(dest.to_owned()),
                _ => failed("name")(error),
            })?;
            Ok((packed, left_out, bytes))
        };
        let written = write();
        if written.is_err() {
            let _ = dir.remove_file(&partial);
        }
        let (packed, left_out, bytes) = written?;
        Ok(BackupInfo {
            name: name.to_string(),
            path: dest.to_owned(),
            bytes,
            at_us,
            verified: Some(options.verify),
            entries: packed.totals.entries,
            bytes_in: packed.totals.bytes,
            changed: packed.totals.changed,
            left_out,
        })
    }

    #[allow(clippy::too_many_arguments)] // one step of `archive`, split for length
    fn pack(
        &self,
        app: &Arc<App>,
        out: &dyn macula_core::DiskFile,
        name: &RelPath,
        scratch: &Arc<Scratch>,
        options: &BackupOptions,
        at_us: u64,
        task: &Task,
    ) -> Result<(Packed, Vec<String>), StoreError> {
        let pinned = {
            let engines = app.engines_on_disk()?;
            let _closed = app.gate().close();
            engines.iter().map(|engine| engine.pin()).collect::<Result<Vec<_>, _>>()?
        };
        let mut tree = AppTree::new(app.disk()?, app.path().to_owned(), scratch.clone());
        let mut first = Vec::new();
        for pin in pinned {
            tree.add(pin.stage(scratch, task)?, &mut first)?;
        }
        let stem = name.to_string();
        let stem = stem.strip_suffix(options.format.suffix()).unwrap_or(&stem).trim_start_matches('.');
        let mut pack = PackOptions::new(stem).format(options.format.of_archive());
        pack.level = options.level.unwrap_or(pack.level);
        pack.about = serde_json::json!({ "app": app.name().as_str(), "created_us": at_us, "cache": options.cache });
        pack.bytes_total = app.usage()?.total;
        let (items, wanted) = channel();
        let scope = Scope { cache: options.cache };
        let packed = std::thread::scope(|threads| {
            let tree = &tree;
            threads.spawn(move || tree.produce(first, scope, task, &items));
            let mut failure = None;
            let mut items = wanted.into_iter().map(|item| {
                item.map_err(|error| {
                    let told = io::Error::other(error.to_string());
                    failure = Some(error);
                    told
                })
            });
            let packed = macula_archive::pack(&mut items, tree, out, &pack, task);
            drop(items);
            match failure {
                Some(error) => Err(error),
                None => Ok(packed?),
            }
        })?;
        let mut left_out = tree.left_out();
        let remarked = packed.remarked.iter().filter(|entry| entry.remark.is_some_and(|remark| !remark.is_packed()));
        left_out
            .extend(remarked.map(|entry| format!("{}: {:?}", String::from_utf8_lossy(&entry.path()), entry.remark)));
        Ok((packed, left_out))
    }

    /// A fresh scratch directory. One archive of an app is made at a time.
    fn scratch(&self, name: &AppName) -> Result<Arc<Scratch>, StoreError> {
        let path = scratch_path(name)?;
        let at = self.layout.absolute(&path);
        let failed = |e| StoreError::io("create", &at, e);
        remove_tree(&*self.disk, &path).map_err(failed)?;
        self.remove_partials(name);
        create_dir_all(&*self.disk, &path).map_err(failed)?;
        let disk = self.disk.subtree(&path).map_err(failed)?;
        Ok(Arc::new(Scratch { disk, path: at.clone() }))
    }

    /// What interrupted backups of this app left behind.
    fn remove_partials(&self, name: &AppName) {
        let dir = RelPath::literal(BACKUPS);
        for entry in self.disk.list(&dir).unwrap_or_default() {
            let partial = entry.name.to_str().and_then(|n| n.strip_prefix('.')?.strip_suffix(".partial"));
            if partial.is_some_and(|partial| BackupName::parse(name, partial).is_some()) {
                if let Ok(path) = dir.join(entry.name.to_str().unwrap_or_default()) {
                    let _ = self.disk.remove_file(&path);
                }
            }
        }
    }

    /// The app's backups, newest first.
    pub fn backups(&self, name: &AppName) -> Result<Vec<BackupInfo>, StoreError> {
        let dir = RelPath::literal(BACKUPS);
        let at = self.layout.absolute(&dir);
        let entries = self.disk.list(&dir).map_err(|e| StoreError::io("list", &at, e))?;
        let names = entries.iter().filter_map(|entry| BackupName::parse(name, entry.name.to_str()?));
        let mut names: Vec<_> = names.collect();
        names.sort_by(|a, b| b.cmp(a));
        Ok(names.iter().filter_map(|backup| self.backup_info(backup)).collect())
    }

    fn backup_info(&self, backup: &BackupName) -> Option<BackupInfo> {
        let path = RelPath::literal(BACKUPS).join(backup.to_string()).ok()?;
        let file = self.disk.open(&path, Open::Read).ok()?;
        let bytes = file.len().ok()?;
        let mark = file.tag(VERIFIED).ok().flatten();
        Some(BackupInfo {
            name: backup.to_string(),
            path: self.layout.absolute(&path),
            bytes,
            at_us: backup.at_us,
            verified: mark.map(|mark| mark == bytes.to_le_bytes()),
            entries: 0,
            bytes_in: 0,
            changed: 0,
            left_out: Vec::new(),
        })
    }
}

fn scratch_path(name: &AppName) -> Result<RelPath, StoreError> {
    Ok(RelPath::literal(BACKUPS).join(format!(".scratch-{name}"))?)
}

/// Give the finished archive its name, without ever replacing another unless asked to.
pub(crate) fn publish(dir: &dyn Disk, partial: &RelPath, name: &RelPath, overwrite: bool) -> io::Result<()> {
    if overwrite {
        dir.rename(partial, name)?;
    } else {
        dir.hard_link(partial, name)?;
        dir.remove_file(partial)?;
    }
    dir.sync_dir(&RelPath::root())
}
