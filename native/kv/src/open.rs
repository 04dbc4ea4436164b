//! Opening a store and closing it: redb, then what the log has beyond it.
//!
//! Invariant: after a crash, redb holds everything up to the revision it names and the log
//! everything after; what was seen by nobody for certain is decided here, once. A store that was
//! closed properly has all of it in redb.

use crate::compact::Compaction;
use crate::drain;
use crate::engine::{Engine, Tuning};
use crate::record;
use crate::shared::{Shared, State};
use crate::store::{Options, Seams};
use crate::sweep;
use crate::table::Table;
use crate::view::{Now, Stack};
use crate::writer::{lay_over, Writer, SEQUENCE_BITS, SEQUENCE_MAX};
use crate::KvError;
use macula_core::Chance;
use macula_wal::{Log, Replayed, WalError};
use parking_lot::{Condvar, Mutex, RwLock};
use std::sync::Arc;

/// A copy begins at most as many epochs after what it was copied from.
const COPY_EPOCHS: u8 = 64;

/// Open what is there, or create it.
pub(crate) fn open(seams: Seams, options: Options) -> Result<Arc<Shared>, KvError> {
    let Seams { disk, gate, clock, chance, threads } = seams;
    let tuning = Tuning { cache_bytes: options.cache_bytes, compress_len_min: options.compress_len_min };
    let (engine, is_clean) = Engine::open(&*disk, &*chance, tuning)?;
    let now = Arc::new(Now::new(clock.clone()));
    let table = Arc::new(Table::new(&threads));
    let mut state = State {
        stack: Arc::new(Stack { tables: vec![table], base: engine.base()?, now: now.clone() }),
        revision: engine.revision,
        poisoned: None,
        is_closed: false,
    };
    let after = engine.revision & SEQUENCE_MAX;
    let mut replay = |replayed: Replayed<'_>| replay(&mut state, replayed);
    let mut log = Log::open(disk.clone(), clock.clone(), &*chance, options.log.clone(), after, &mut replay)?;
    let others = same_log(&engine, &log, &*chance)?;
    let epoch = begin_epoch(&mut log, state.revision, others + u64::from(!is_clean))?;
    // now, so that the first group does not wait for it
    match log.spares().refill() {
        // who only reads needs none
        Ok(()) | Err(WalError::DiskFull) => {}
        Err(error) => return Err(error.into()),
    }
    let compaction = Compaction::default();
    compaction.measure(&engine, state.stack.base.len)?;
    let (auto_compact, durability) = (options.auto_compact, options.durability);
    let shared = Arc::new(Shared {
        state: RwLock::new(state),
        queue: Mutex::default(),
        idle: Condvar::new(),
        engine: Mutex::new(engine),
        closing: Mutex::new(false),
        spares: log.spares(),
        log_bytes: log.begun_bytes().into(),
        writer: Mutex::new(Writer { log, epoch, is_dirty: false }),
        threads,
        disk,
        gate,
        clock,
        chance,
        options,
        now,
        drain_asked: Default::default(),
        is_drain_full: false.into(),
        is_refilling: false.into(),
        is_freeze_due: false.into(),
        is_sync_due: false.into(),
        log_pin: u64::MAX.into(),
        compaction,
        auto_compact: Mutex::new(auto_compact),
        durability: Mutex::new(durability),
        counters: Default::default(),
        counted: Mutex::new(None),
        sweeper: Mutex::default(),
        subscribers: Mutex::default(),
    });
    shared.begin_table();
    if shared.frozen(0).is_some() {
        drain::ask(&shared);
    }
    sweep::ask(&shared, 0);
    Ok(shared)
}

/// Lay what a record of the log says over what is there.
fn replay(state: &mut State, replayed: Replayed<'_>) -> Result<(), KvError> {
    let Replayed::Record(record) = replayed else {
        return Err(KvError::corrupt("the log", None, "records taken back, which a store never does"));
    };
    let (found, ops) = record::decode(&record)?;
    if found <= state.revision || found & SEQUENCE_MAX != record.sequence {
        let reason = format!("revision {found} in record {} after revision {}", record.sequence, state.revision);
        return Err(KvError::corrupt("the log", None, reason));
    }
    state.revision = found;
    lay_over(&mut state.stack, ops, found);
    Ok(())
}

/// A store whose log was removed would open without what was acknowledged last. How many epochs to
/// leave out: in a store that was copied from another, some, because the other may go on, or went on
/// before it was replaced by this one, and who saw a revision there must not take one of here for it.
fn same_log(engine: &Engine, log: &Log, chance: &dyn Chance) -> Result<u64, KvError> {
    match engine.log_id()? {
        None => {
            engine.set_log_id(log.id())?;
            if engine.revision == 0 {
                return Ok(0);
            }
            let mut some = [0];
            chance.fill(&mut some);
            Ok(u64::from(some[0] % COPY_EPOCHS) + 1)
        }
        Some(id) if id == log.id() => Ok(0),
        Some(_) => Err(KvError::corrupt("wal.meta", None, "the log is missing, or it is another store's")),
    }
}

/// The upper part of the revisions from now on: `others` later than before, durable before its first use.
fn begin_epoch(log: &mut Log, revision: u64, others: u64) -> Result<u64, KvError> {
    let stored = log.meta().try_into().map_or(0, u64::from_le_bytes);
    let mut epoch = stored.max(revision >> SEQUENCE_BITS);
    if others > 0 {
        epoch += others;
        log.set_meta(&epoch.to_le_bytes())?;
    }
    Ok(epoch << SEQUENCE_BITS)
}

impl Shared {
    /// Close it, once; whoever comes second waits for the first.
    pub fn close(self: &Arc<Self>) {
        let mut is_done = self.closing.lock();
        if *is_done {
            return;
        }
        *is_done = true;
        self.close_queue();
        self.state.write().is_closed = true;
        self.close_subscribers();
        self.compaction.stop();
        // failing here, it is opened like after a crash
        let synced = self.sync(true);
        let mut engine = self.engine.lock();
        let drained = synced.and_then(|()| self.drain(&mut engine));
        let is_good = drained.is_ok() && self.sound().is_ok();
        let stack = {
            let mut state = self.state.write();
            let (base, now) = (state.stack.base.clone(), state.stack.now.clone());
            std::mem::replace(&mut state.stack, Arc::new(Stack { tables: Vec::new(), base, now }))
        };
        drop(stack);
        engine.blocks.detach();
        match is_good {
            true => drop(engine.close()),
            false => engine.drop_db(),
        }
    }
}
