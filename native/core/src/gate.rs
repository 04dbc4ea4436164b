//! The gate of an app: every commit of every engine passes it, a backup closes it for the
//! milliseconds in which it pins one instant of all engines.
//!
//! Invariant: while [`Gate::close`]'s guard lives, no commit is between its first and its last
//! visible effect. A pass is held over a commit only, never over a wait for a caller.

use parking_lot::{ArcRwLockReadGuard, RawRwLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::sync::Arc;

/// One per app, shared by its engines.
#[derive(Debug, Default)]
pub struct Gate(Arc<RwLock<()>>);

/// Leave to commit.
#[derive(Debug)]
#[must_use]
pub struct GatePass<'a> {
    _pass: RwLockReadGuard<'a, ()>,
}

/// Leave to commit that does not borrow the gate: for a commit that another's code makes, between two
/// of its callbacks.
#[derive(Debug)]
#[must_use]
pub struct OwnedGatePass {
    _pass: ArcRwLockReadGuard<RawRwLock, ()>,
}

impl Gate {
    /// An open gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wait for leave to commit; dropped when the commit is visible.
    pub fn pass(&self) -> GatePass<'_> {
        GatePass { _pass: self.0.read() }
    }

    /// As [`Gate::pass`].
    pub fn pass_owned(&self) -> OwnedGatePass {
        OwnedGatePass { _pass: self.0.read_arc() }
    }

    /// Keep every commit out until the guard is dropped.
    pub fn close(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.write()
    }
}
