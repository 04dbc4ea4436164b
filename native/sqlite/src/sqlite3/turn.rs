//! The app's writer lends its turn to a low-level connection that writes to the same file.
//!
//! Invariant: while a [`Turn`] lives, the app's writer has no transaction open and starts none. It is given
//! back when the borrower's transaction ends, or taken back, its transaction rolled back, when the
//! borrower leaves it idle, or the database is closed.

use super::Conn;
use crate::queue::Waiting;
use crate::request::{Patience, Reply};
use crate::rival::Log;
use crate::writer::Writer;
use crate::SqliteError;
use parking_lot::{Condvar, Mutex};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often a borrower is looked after.
const TICK: Duration = Duration::from_millis(10);

/// A borrower that waits for its turn.
pub(crate) struct Lend {
    pub(crate) patience: Patience,
    pub(crate) reply: Reply<Turn>,
    pub(crate) borrower: Weak<Conn>,
}

impl Waiting for Lend {
    fn patience(&self) -> &Patience {
        &self.patience
    }

    fn answer(self, error: SqliteError) {
        self.reply.send(Err(error));
    }

    fn forget(self) {
        self.reply.forget();
    }
}

/// Leave to write, until dropped.
pub(crate) struct Turn {
    lent: Arc<Lent>,
    /// Where what is committed goes.
    pub(super) log: Log,
}

#[derive(Default)]
struct Lent {
    returned: Mutex<bool>,
    changed: Condvar,
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.lent.returned.lock() = true;
        self.lent.changed.notify_one();
    }
}

impl Writer {
    /// Lend the turn and wait until it is back.
    pub(crate) fn lend(&mut self, lend: Lend) {
        if !self.log_is_durable {
            if let Err(error) = self.begin_one(&lend.patience) {
                return lend.answer(error);
            }
            self.connection.rollback();
        }
        let lent = Arc::new(Lent::default());
        lend.reply.send(Ok(Turn { lent: lent.clone(), log: self.rival.log.clone() }));
        let idle_max = self.shared.options.transaction_idle_max;
        loop {
            let mut returned = lent.returned.lock();
            if !*returned {
                lent.changed.wait_for(&mut returned, TICK);
            }
            if *returned {
                break;
            }
            drop(returned);
            let now = self.now();
            self.shared.sweep(now);
            let Some(borrower) = lend.borrower.upgrade() else { continue };
            let waits = || self.shared.sweep(self.now());
            if self.shared.closing_error().is_some() {
                borrower.take_back("the app's database was closed", waits);
            } else if borrower.idle_for(now) >= idle_max {
                borrower.take_back("it was idle", waits);
            }
        }
        self.committed = true;
        self.count_log();
    }
}
