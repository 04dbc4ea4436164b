//! What a mesh does by itself: looks for what other programs did, sees to it that each file is where it shall be. What
//! lies here is read once in a while by `rounds.rs`.
//!
//! Invariant: nothing here is needed for what was acknowledged to last; it is done at a pace, so that callers do not
//! wait for it, and what could not be done now is done the next time.

use crate::peers::blocking;
use crate::placement::Card;
use crate::scan::Scanned;
use crate::shared::Shared;
use crate::wanted::Why;
use crate::MeshError;
use macula_core::Cancel;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks whether there is something to do.
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two for what was begun and not ended.
const SWEEP_LOOKS: u32 = 10;
/// Members that come and go at once are one change.
const CALM_LOOKS: u32 = 2;
/// Rows at once, and between two such pieces of work.
const PIECE: usize = 1_000;
const PAUSE: Duration = Duration::from_millis(5);

/// What the last look at all files found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cared {
    /// Files that are shown, of all apps.
    pub files: u64,
    /// Those that fewer members have than shall.
    pub under_replicated: u64,
    /// Bytes of files that lie here, under their names.
    pub bytes_here: u64,
}

/// Until the mesh is closed.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let (mut placed_for, mut calm, mut live_before): (Option<Vec<Card>>, u32, Vec<Card>) = (None, 0, Vec::new());
    let (mut scanned, mut looks, mut is_swept): (Option<Duration>, u32, bool) = (None, 0, true);
    loop {
        tokio::time::sleep(LOOK).await;
        looks = looks.wrapping_add(1);
        if looks % SWEEP_LOOKS == 1 {
            let of = shared.clone();
            // what could not be ended, on a full disk, and what is of no use any more
            let _ = blocking(move || {
                of.end_silent_arrivals();
                of.finish_pending().and(of.sweep_staged())
            })
            .await;
            let of = shared.clone();
            if !is_swept && of.is_told_by_all() {
                is_swept = blocking(move || of.sweep_kept()).await.unwrap_or(false);
            }
        }
        let live = shared.live();
        calm = if live == live_before { calm + 1 } else { 0 };
        live_before.clone_from(&live);
        if calm >= CALM_LOOKS && placed_for.as_ref() != Some(&live) && place_all(&shared).await.is_ok() {
            placed_for = Some(live);
        }
        let now = shared.clock.monotonic();
        let is_due = |at| now.saturating_sub(at) >= shared.options.scan_every;
        if scanned.map_or_else(|| shared.has_met(), is_due) {
            let (of, is_first) = (shared.clone(), scanned.is_none());
            is_swept = blocking(move || of.scan_all(is_first).and(of.sweep_kept())).await.unwrap_or(false);
            scanned = Some(shared.clock.monotonic());
            // and what became of the files since the last look
            placed_for = None;
        }
    }
}

/// Where each file shall be may have changed: fetch what shall be here now.
async fn place_all(shared: &Arc<Shared>) -> Result<(), MeshError> {
    let (mut after, mut cared) = (Vec::new(), Cared::default());
    loop {
        let (of, from) = (shared.clone(), after);
        let piece = blocking(move || of.place_piece(&from)).await?;
        cared.files += piece.1.files;
        cared.under_replicated += piece.1.under_replicated;
        cared.bytes_here += piece.1.bytes_here;
        match piece.0 {
            Some(last) => after = last,
            None => break,
        }
        tokio::time::sleep(PAUSE).await;
    }
    *shared.cared.lock() = cared;
    Ok(())
}

impl Shared {
    /// The rows after a key: the last key, unless it was the last of all.
    fn place_piece(&self, after: &[u8]) -> Result<(Option<Vec<u8>>, Cared), MeshError> {
        let rows = self.index.page((Bound::Excluded(after), Bound::Unbounded), PIECE)?;
        let (live, members, mut cared) = (self.live(), self.members_replicas(), Cared::default());
        for (name, row) in &rows {
            if row.former.len() > self.keeps(name, &row.record) && self.opened(&name.app).is_some() {
                // what cannot be written now is let go of later
                let _ = self.forget_former(name);
            }
            if let Some(members) = members.as_ref().filter(|members| self.is_over(&row.record, members)) {
                self.forget(name, members)?;
                continue;
            }
            cared.bytes_here += row.here.placed.map_or(0, |placed| placed.content.len);
            if row.here.pending.is_none() && self.wanted(name, row).next().is_some() {
                self.fetches.want(name.clone(), Why::Moved);
            }
            if row.keeps_shown() && self.opened(&name.app).is_some() {
                // a disk that takes nothing now keeps no other file from it
                let _ = self.show_kept(name);
            }
            let Some(shown) = row.record.winner().filter(|winner| winner.content.is_some()) else { continue };
            let have = row.record.holders(shown.dot).filter(|replica| live.iter().any(|card| card.replica == *replica));
            let shall = (self.place(shown.place).0 + 1).min(live.len());
            cared.files += 1;
            cared.under_replicated += u64::from(have.count() < shall);
        }
        let last = rows.last().map(|(name, _)| name.key()).filter(|_| rows.len() == PIECE);
        Ok((last, cared))
    }

    /// Look through the files of all apps of which something is known, and that are open; for the first time of those,
    /// too, that nobody used yet.
    fn scan_all(&self, is_first: bool) -> Result<(), MeshError> {
        for app in self.apps()? {
            if self.opened(&app).is_some() || (is_first && !self.was_used(&app)) {
                // an app that another process has, or that is damaged, keeps no other from it
                let _: Result<Scanned, MeshError> = self.scan(&app, false, &Cancel::new());
            }
        }
        Ok(())
    }
}
