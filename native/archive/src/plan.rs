//! Which items go into which group.
//!
//! Invariant: a group holds whole entries of one slice's length in all, or one slice of one large
//! file. Symlinks come last, when it is known where each of them leads: what is packed can be
//! unpacked.

use crate::error::{io_at, refused, ArchiveError, Result};
use crate::group::{meta_of, Job, LargeFile};
use crate::head::{HEAD, MANIFEST};
use crate::header::{self, BLOCK};
use crate::index::GroupKind;
use crate::item::{Item, Source, Tree};
use crate::manifest::{ManifestEntry, Remark};
use crate::names::{is_too_deep, Links};
use crate::pack::Large;
use crate::slices::{slice_count, SLICE};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

pub(crate) struct Plan<'a> {
    head: Option<Item>,
    items: &'a mut dyn Iterator<Item = io::Result<Item>>,
    tree: &'a dyn Tree,
    /// The group that is being filled.
    group: Vec<Item>,
    group_bytes: usize,
    /// An item that did not fit into it.
    held: Option<Item>,
    /// The large file that is being cut, and its next slice.
    large: Option<(Large, u64)>,
    links: Vec<Item>,
    /// Links that stay inside, once all items are in.
    good_links: Option<VecDeque<Item>>,
    left_out: Vec<ManifestEntry>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(head: Item, items: &'a mut dyn Iterator<Item = io::Result<Item>>, tree: &'a dyn Tree) -> Self {
        Self {
            head: Some(head),
            items,
            tree,
            group: Vec::new(),
            group_bytes: 0,
            held: None,
            large: None,
            links: Vec::new(),
            good_links: None,
            left_out: Vec::new(),
        }
    }

    /// The manifest's lines for what is not packed, after the last job.
    pub(crate) fn left_out(self) -> Vec<ManifestEntry> {
        self.left_out
    }

    pub(crate) fn next(&mut self) -> Result<Option<Job>> {
        if let Some(head) = self.head.take() {
            return Ok(Some(Job::Entries { kind: GroupKind::Head, items: vec![head] }));
        }
        loop {
            if let Some(job) = self.next_slice() {
                return Ok(Some(job));
            }
            let Some(item) = self.next_item()? else { return Ok(self.flush()) };
            let Some(cost) = self.cost(&item)? else { continue };
            let full = self.group_bytes + cost > SLICE;
            if full && !self.group.is_empty() {
                self.held = Some(item);
                return Ok(self.flush());
            }
            if item.source == Source::File && item.len > SLICE as u64 {
                self.begin_large(item)?;
                continue;
            }
            self.group.push(item);
            self.group_bytes += cost;
        }
    }

    fn next_slice(&mut self) -> Option<Job> {
        let (large, index) = self.large.take()?;
        if index + 1 < slice_count(large.meta.len) {
            self.large = Some((Arc::clone(&large), index + 1));
        }
        Some(Job::Slice { large, index })
    }

    fn next_item(&mut self) -> Result<Option<Item>> {
        if let Some(item) = self.held.take() {
            return Ok(Some(item));
        }
        if let Some(links) = &mut self.good_links {
            return Ok(links.pop_front());
        }
        loop {
            match self.items.next() {
                Some(Ok(item)) if matches!(item.source, Source::Symlink { .. }) => self.links.push(item),
                Some(Ok(item)) => return Ok(Some(item)),
                Some(Err(error)) => return Err(io_at("listing the tree", b"")(error)),
                None => return Ok(self.sort_links().pop_front()),
            }
        }
    }

    /// Leaves out the links that lead outside.
    fn sort_links(&mut self) -> &mut VecDeque<Item> {
        let links = std::mem::take(&mut self.links);
        let by_path: HashMap<&[u8], &[u8]> =
            links.iter().filter_map(|link| Some((link.path.as_bytes(), target(link)?))).collect();
        let by_path = Links(by_path);
        let stays = |link: &Item| target(link).is_some_and(|target| by_path.stays_inside(&link.path, target));
        let verdicts: Vec<bool> = links.iter().map(stays).collect();
        let mut good = VecDeque::new();
        for (link, stays) in links.into_iter().zip(verdicts) {
            if stays {
                good.push_back(link);
            } else {
                self.leave_out(&link, Remark::LeadsOutside);
            }
        }
        self.good_links.insert(good)
    }

    fn leave_out(&mut self, item: &Item, remark: Remark) {
        self.left_out.push(ManifestEntry::new(&meta_of(item), None, Some(remark)));
    }

    /// Bytes of the tar that an item takes, or a little more; `None` when it cannot be packed.
    fn cost(&mut self, item: &Item) -> Result<Option<usize>> {
        let path = item.path.as_bytes();
        if path == HEAD || path == MANIFEST {
            self.leave_out(item, Remark::ReservedName);
            return Ok(None);
        }
        if is_too_deep(path) {
            // no restore would take it, and it may be anybody's data: not left out in silence
            return refused("deeper than 128 directories", path);
        }
        let too_long = |got: usize| ArchiveError::Invalid {
            what: "an item of bytes must be at most 4 MiB",
            got: format!("len={got} path={}", item.path),
        };
        let len = match &item.source {
            Source::Bytes(bytes) if bytes.len() > SLICE => return Err(too_long(bytes.len())),
            Source::Bytes(bytes) => bytes.len(),
            Source::File => item.len.min(2 * SLICE as u64) as usize,
            Source::Dir | Source::Symlink { .. } => 0,
        };
        let names = path.len() + target(item).map_or(0, <[u8]>::len);
        Ok(Some(header::header_len_max(names) + len.next_multiple_of(BLOCK)))
    }

    fn flush(&mut self) -> Option<Job> {
        self.group_bytes = 0;
        let items = std::mem::take(&mut self.group);
        (!items.is_empty()).then_some(Job::Entries { kind: GroupKind::Entries, items })
    }

    fn begin_large(&mut self, item: Item) -> Result<()> {
        match self.tree.open(&item).map_err(io_at("opening a file", item.path.as_bytes()))? {
            Some(file) => self.large = Some((Arc::new(LargeFile::new(item, file)), 0)),
            None => self.leave_out(&item, Remark::Vanished),
        }
        Ok(())
    }
}

fn target(item: &Item) -> Option<&[u8]> {
    match &item.source {
        Source::Symlink { target } => Some(target.as_os_str().as_bytes()),
        Source::Dir | Source::File | Source::Bytes(_) => None,
    }
}
