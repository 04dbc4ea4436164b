//! A row of the index: what is known of a name, and what of it lies on this machine.
//!
//! The record is shared: it goes to every member and merges. The rest is this replica's own and is told to
//! nobody but as a claim. Invariant: what `placed` and `kept` name is on the disk, durably; while `pending`
//! is there, the file is that or what `pending` says, and whoever has the name's next turn makes it the latter.

use crate::record::{Content, Dot, Record, Version};
use crate::{ContentId, MeshError, Name};
use macula_core::Look;
use serde::{Deserialize, Serialize};

/// The version of the encoding, and the one before, which had no former versions.
const VERSION: u8 = 2;
const VERSION_BEFORE: u8 = 1;

/// What lies under the name in the app's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Which version it is.
    pub dot: Dot,
    /// Its content.
    pub content: Content,
    /// How the file looked when it was put there: length is the content's.
    pub mtime_ns: i128,
    /// Its inode number.
    pub ino: u64,
}

/// A change of the file under the name that has begun, and is finished by whoever comes next if need be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// What is known of the name then: the file is to be what its winner says. Nobody is told of it before.
    pub record: Record,
    /// The name of the staged content, unless what is to be there is kept, or nothing.
    pub staged: Option<String>,
    /// A caller here asked for it: it replaces whatever is there. What comes from elsewhere replaces only what was
    /// known to be there.
    pub is_own: bool,
}

/// What this replica has of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    /// Under the name.
    pub placed: Option<Placed>,
    /// Contents that are kept beside it.
    pub kept: Vec<ContentId>,
    /// What is being changed.
    pub pending: Option<Pending>,
}

/// A version that was replaced or deleted, whose content is kept here: no other member is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// Which version it was.
    pub dot: Dot,
    /// Its content, one of those that are kept.
    pub content: Content,
}

/// What is known of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// By all.
    pub record: Record,
    /// By this replica.
    pub here: Here,
    /// Former versions that are kept, the one first that was replaced first.
    pub former: Vec<Former>,
}

impl Placed {
    /// A version that was put in place, and looks like this.
    pub fn new(dot: Dot, content: Content, look: Look) -> Self {
        Self { dot, content, mtime_ns: look.mtime_ns, ino: look.ino }
    }

    /// How the file looks as long as it is this.
    pub fn look(&self) -> Look {
        Look { len: self.content.len, mtime_ns: self.mtime_ns, ino: self.ino }
    }

    /// Whether a file that looks like this is still it.
    pub fn is(&self, look: &Look) -> bool {
        self.look() == *look
    }
}

impl Row {
    /// As it is stored.
    ///
    /// # Errors
    /// [`MeshError::Internal`] when it cannot be encoded: a defect.
    pub fn encode(&self) -> Result<Vec<u8>, MeshError> {
        postcard::to_extend(self, vec![VERSION]).map_err(|error| MeshError::Internal(format!("a row: {error}")))
    }

    /// Of what was stored.
    ///
    /// # Errors
    /// [`MeshError::NewerFormat`]; [`MeshError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MeshError> {
        let malformed = |error| MeshError::Malformed(format!("a row of the index: {error}"));
        match bytes.split_first() {
            Some((&VERSION, row)) => postcard::from_bytes(row).map_err(malformed),
            Some((&VERSION_BEFORE, row)) => {
                let (record, here) = postcard::from_bytes(row).map_err(malformed)?;
                Ok(Self { record, here, former: Vec::new() })
            }
            Some((version, _)) => Err(MeshError::NewerFormat(*version)),
            None => Err(MeshError::Malformed("an empty row of the index".into())),
        }
    }

    /// Of what was stored the record, encoded; nothing of one without versions. The rest is not looked at.
    ///
    /// # Errors
    /// As [`Row::decode`].
    pub fn record_of(bytes: &[u8]) -> Result<Option<&[u8]>, MeshError> {
        let Some((&(VERSION | VERSION_BEFORE), row)) = bytes.split_first() else {
            return Self::decode(bytes).map(|_| None);
        };
        let malformed = |error| MeshError::Malformed(format!("a row of the index: {error}"));
        let (record, rest) = postcard::take_from_bytes::<Record>(row).map_err(malformed)?;
        Ok((!record.versions().is_empty()).then(|| &row[..row.len() - rest.len()]))
    }

    /// Whether this replica has what a version holds. Of a deletion: whether no file is there.
    pub fn has(&self, version: &Version) -> bool {
        match version.content {
            Some(content) => self.has_content(&content.id),
            None => self.here.pending.is_none(),
        }
    }

    /// Whether a content is here, under the name or kept.
    pub fn has_content(&self, id: &ContentId) -> bool {
        let is_placed = self.here.placed.is_some_and(|placed| placed.content.id == *id);
        (is_placed && self.here.pending.is_none()) || self.here.kept.contains(id)
    }

    /// Whether what the name shows is kept beside what is in its place.
    pub fn keeps_shown(&self) -> bool {
        let shown = self.record.shown().filter(|shown| self.here.kept.contains(&shown.id));
        self.here.pending.is_none() && shown.is_some() && self.here.placed.map(|placed| placed.content) != shown
    }

    /// The version of a dot, also a former one.
    pub fn version(&self, dot: &Dot) -> Option<Version> {
        let former = || self.former.iter().find(|former| former.dot == *dot).map(Former::version);
        self.record.version(dot).cloned().or_else(former)
    }

    /// `record` is what is known from now on, and what was `placed` before is not any more: what it has no more is
    /// former, where its content `is_kept`, the last `count` of them.
    pub fn retire(
        &mut self,
        record: &Record,
        placed: Option<Placed>,
        count: usize,
        is_kept: impl Fn(&ContentId) -> bool,
    ) {
        let Self { record: before, here, former } = self;
        let known = before.versions().iter().filter_map(|version| Some((version.dot, version.content?)));
        // of that one the record may have known no more for long: another was on its way
        let all = placed.map(|placed| (placed.dot, placed.content)).into_iter().chain(known);
        let is_gone = |dot: &Dot, id: &ContentId| record.version(dot).is_none() && here.kept.contains(id);
        for (dot, content) in all.filter(|(dot, of)| count > 0 && is_gone(dot, &of.id) && is_kept(&of.id)) {
            // one that came back has one content
            former.retain(|other| other.content != content);
            former.push(Former { dot, content });
        }
        let is_left = |content: Content| record.versions().iter().any(|version| version.content == Some(content));
        former.retain(|of| here.kept.contains(&of.content.id) && !is_left(of.content));
        former.drain(..former.len().saturating_sub(count));
    }

    /// The versions that this replica has.
    pub fn had(&self) -> Vec<Dot> {
        self.record.versions().iter().filter(|version| self.has(version)).map(|version| version.dot).collect()
    }
}

impl Former {
    /// As a version.
    pub fn version(&self) -> Version {
        Version { dot: self.dot, content: Some(self.content), over: Vec::new(), place: None }
    }
}

/// Digits of the names of contents that are kept.
pub const ASIDE_DIGITS: usize = 64;

/// The name of a content that is staged or kept for a file: no two files share one, so each can let go of its own.
pub fn aside(name: &Name, id: &ContentId) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&id.to_bytes());
    hasher.update(name.path.as_bytes());
    hasher.finalize().to_hex().to_string()
}
