//! The gate of an app: every commit of every engine passes it, a backup closes it for the
//! milliseconds in which it pins one instant of all engines.
//!
//! Invariant: while [`Gate::close`]'s guard lives, no commit is between its first and its last
//! visible effect. A pass is held over a commit only, never over a wait for a caller.

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// One per app, shared by its engines.
#[derive(Debug, Default)]
pub struct Gate(RwLock<()>);

/// Leave to commit.
#[derive(Debug)]
#[must_use]
pub struct GatePass<'a> {
    _pass: RwLockReadGuard<'a, ()>,
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

    /// Keep every commit out until the guard is dropped.
    pub fn close(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.write()
    }
}
