//! Commands, their outcomes, and the JSON in which both cross between processes.
//!
//! Invariant: a command means the same in every process: names of apps, absolute paths, no handles.

use crate::kinds;
use crate::ControlError;
use macula_core::{Kind, Kinded, Progress};
use macula_store::{BackupInfo, BackupOptions, RestoreInfo, RestoreOptions, Usage};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What an operator can ask for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Whether the process answers.
    Ping,
    /// Bytes by part.
    Usage {
        /// The app.
        app: String,
        /// Walk the tree first, so that what other programs wrote is counted.
        fresh: bool,
    },
    /// A backup into `backups/`.
    Backup {
        /// The app.
        app: String,
        /// How.
        options: BackupOptions,
    },
    /// An archive at a path of the caller's.
    Archive {
        /// The app.
        app: String,
        /// Where to, absolute.
        dest: PathBuf,
        /// How.
        options: BackupOptions,
    },
    /// Replace the app by what an archive holds.
    Restore {
        /// The app.
        app: String,
        /// The archive, absolute.
        path: PathBuf,
        /// What is accepted.
        options: RestoreOptions,
    },
    /// The app's backups, newest first.
    Backups {
        /// The app.
        app: String,
    },
    /// Read everything and compare with its checksums.
    Verify {
        /// The app.
        app: String,
    },
}

impl Command {
    /// The app that it is about.
    pub fn app(&self) -> Option<&str> {
        match self {
            Self::Ping => None,
            Self::Usage { app, .. }
            | Self::Backup { app, .. }
            | Self::Archive { app, .. }
            | Self::Restore { app, .. }
            | Self::Backups { app }
            | Self::Verify { app } => Some(app),
        }
    }

    /// Whether only the app's owner can carry it out.
    pub fn needs_owner(&self) -> bool {
        !matches!(self, Self::Ping | Self::Backups { .. })
    }
}

/// What a command answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It answers.
    Pong {
        /// The process id of who performed the command.
        pid: u32,
    },
    /// Bytes by part.
    Usage(Usage),
    /// The backup or archive that was made.
    Backup(BackupInfo),
    /// What was restored.
    Restored(RestoreInfo),
    /// Newest first.
    Backups(Vec<BackupInfo>),
    /// Everything is as it was written.
    Verified,
}

/// Body of a `Hello` frame.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub pid: u32,
}

/// Body of a `Progress` frame.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    pub entries_done: u64,
    pub bytes_done: u64,
    pub bytes_total: u64,
}

impl From<Progress> for Told {
    fn from(at: Progress) -> Self {
        Self { entries_done: at.entries_done, bytes_done: at.bytes_done, bytes_total: at.bytes_total }
    }
}

impl From<Told> for Progress {
    fn from(told: Told) -> Self {
        Self { entries_done: told.entries_done, bytes_done: told.bytes_done, bytes_total: told.bytes_total }
    }
}

/// Body of a `Reply` frame.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Ok(Outcome),
    Error { kind: String, message: String, hint: Option<String> },
}

/// Longest message or hint that crosses, bytes.
const TEXT_LEN_MAX: usize = 4096;

impl Reply {
    pub fn of_error(error: &dyn Kinded) -> Self {
        Self::Error {
            kind: kinds::word(error.kind()).to_owned(),
            message: shortened(error.to_string()),
            hint: error.hint().map(shortened),
        }
    }

    pub fn into_result(self) -> Result<Outcome, ControlError> {
        match self {
            Self::Ok(outcome) => Ok(outcome),
            Self::Error { kind, message, hint } => match kinds::kind(&kind) {
                Some(kind) => Err(ControlError::Remote { kind, message, hint }),
                None => {
                    let message = format!("{message} (of a kind that this version does not know: {kind})");
                    Err(ControlError::Remote { kind: Kind::Internal, message, hint })
                }
            },
        }
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > TEXT_LEN_MAX {
        let end = (0..=TEXT_LEN_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" [...]");
    }
    text
}
