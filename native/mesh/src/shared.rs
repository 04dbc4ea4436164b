//! What all parts of a mesh have in common: the index, who is there, and who is to hear of a change.
//!
//! Invariant: whatever changes a row goes through [`Shared::save`], so that the tree of fingerprints, those
//! who wait for replicas, the peers and the fetches hear of it.

use crate::arriving::Arrivals;
use crate::care::Cared;
use crate::events::Listeners;
use crate::fingerprints::{digest, Fingerprints};
use crate::floor::{Floor, InMaking};
use crate::in_hand::InHand;
use crate::index::{Change, Index};
use crate::peers::Peers;
use crate::placement::{choose, rule_of, Card, Class, Place, Rule};
use crate::ranges::Digest;
use crate::record::{Dot, Record, ReplicaId, Version};
use crate::refusals::Refusals;
use crate::rounds::Rounds;
use crate::row::Row;
use crate::short_writes::ShortWrites;
use crate::traffic::Traffic;
use crate::tree::Trees;
use crate::unsynced::Unsynced;
use crate::waiters::Waiters;
use crate::wanted::{Fetches, Why};
use crate::watch::Watched;
use crate::{ContentId, MeshError, Name, Stamp, Stamps};
use macula_core::{AppFiles, AppName, Apps, Chance, Clock, Members};
use macula_kv::{Durability, Store};
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::collections::BTreeSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;

/// Former versions of what was deleted are kept for so long.
const FORMER_DELETED_MS: u64 = 30 * 24 * 3_600_000;
/// How long members are waited for with what is not urgent.
const MEETING_MAX: Duration = Duration::from_secs(10);
/// Turns that are held at once, at most.
const LOCKS: usize = 1 << 16;
/// Stamps are reserved so far ahead, milliseconds: one sync for all that are given meanwhile.
const RESERVED_MS: u64 = 2_000;

/// What a mesh stands on.
pub struct Seams {
    /// Of its index.
    pub store: Store,
    /// The files of this node's apps.
    pub apps: Arc<dyn Apps>,
    /// Who else is there.
    pub members: Arc<dyn Members>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
}

/// How a mesh behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Machines of one zone fail together; empty: a zone of its own.
    pub zone: String,
    /// What this node's disk is good for.
    pub class: Class,
    /// Replicas beside the one where a file was written.
    pub copies: usize,
    /// What is written here to other files than most: where it shall lie.
    pub rules: Vec<Rule>,
    /// How long a member that cannot be reached counts as one that has its files; then others get them.
    pub grace: Duration,
    /// Between two comparisons with one peer.
    pub compare_every: Duration,
    /// Between two looks for what other programs did to files.
    pub scan_every: Duration,
    /// Whether to look at what the kernel tells of other programs meanwhile.
    pub watch: bool,
    /// Between the beginnings of two scrubs of all that is here; `None`: nobody does that by itself.
    pub scrub_every: Option<Duration>,
    /// What such a scrub reads in a second at most, bytes; a file counts for 32 KiB at least.
    pub scrub_rate: u64,
    /// Bytes of blocks in a second, at most: that are fetched to be kept here, and that are sent to those who do the
    /// same. `None`: as many as there are.
    pub bandwidth: Option<u64>,
    /// Of those that are fetched because members came or went, or a caller read them, bytes in a second.
    pub repair_rate: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            zone: String::new(),
            class: Class::Fast,
            copies: 2,
            rules: Vec::new(),
            grace: Duration::from_secs(600),
            compare_every: Duration::from_secs(15),
            scan_every: Duration::from_secs(600),
            watch: false,
            scrub_every: Some(Duration::from_secs(7 * 24 * 3600)),
            scrub_rate: 8 << 20,
            bandwidth: None,
            repair_rate: 32 << 20,
        }
    }
}

pub(crate) struct Shared {
    pub index: Index,
    pub clock: Arc<dyn Clock>,
    pub chance: Arc<dyn Chance>,
    pub members: Arc<dyn Members>,
    pub options: Options,
    pub peers: Peers,
    pub fetches: Fetches,
    pub traffic: Arc<Traffic>,
    pub refusals: Arc<Refusals>,
    pub waiters: Waiters,
    pub listeners: Arc<Listeners>,
    pub cared: Mutex<Cared>,
    pub watched: Mutex<Watched>,
    pub rounds: Mutex<Rounds>,
    pub unsynced: Unsynced,
    pub short_writes: ShortWrites,
    pub floor: Mutex<Floor>,
    pub in_making: InMaking,
    /// Replicas of which all that they know was merged by this process.
    pub told_by: Mutex<BTreeSet<ReplicaId>>,
    /// When it was opened.
    began: Duration,
    pub in_hand: InHand,
    /// Files of which a content is being replaced because it rotted.
    pub mending: Mutex<BTreeSet<Name>>,
    pub fingerprints: Fingerprints,
    pub trees: Trees,
    pub arrivals: Arrivals,
    apps: Arc<dyn Apps>,
    stamps: Stamps,
    reserved: Mutex<Stamp>,
    cards: RwLock<Vec<Card>>,
    locks: Vec<Mutex<()>>,
}

/// A row to be written.
pub(crate) struct Saving<'a> {
    pub name: &'a Name,
    pub row: &'a Row,
    /// What others were told of it.
    pub told: Option<Digest>,
    /// The content that lay under the name before.
    pub placed_before: Option<ContentId>,
    /// A short content that the index keeps for its file, until that is synced.
    pub short: Option<(Dot, &'a [u8])>,
}

impl<'a> Saving<'a> {
    fn change(&self, is_wanted: bool) -> Change<'a> {
        let Self { name, row, placed_before, short, .. } = *self;
        Change { name, row, is_wanted, placed_before, short }
    }
}

impl Shared {
    pub fn open(seams: Seams, options: Options) -> Result<Arc<Self>, MeshError> {
        let (index, stamped) = Index::open(seams.store, &*seams.chance)?;
        let cards = RwLock::new(index.cards()?);
        let unsynced = Unsynced::of_former(index.shorts()?);
        let (floor, began) = (Mutex::new(index.floor()?), seams.clock.monotonic());
        let rounds = match index.rounds()? {
            Some(rounds) => rounds,
            None => {
                // what was just written is read once in a while like the rest
                let rounds = Rounds { since_ms: seams.clock.wall_ms(), ..Rounds::default() };
                index.put_rounds(&rounds)?;
                rounds
            }
        };
        let shared = Self {
            stamps: Stamps::after(stamped, seams.clock.clone()),
            reserved: Mutex::new(stamped),
            cards,
            index,
            refusals: Arc::new(Refusals::new(seams.clock.clone())),
            clock: seams.clock,
            chance: seams.chance,
            members: seams.members,
            apps: seams.apps,
            traffic: Arc::new(Traffic::new(options.bandwidth, options.repair_rate)),
            options,
            peers: Peers::default(),
            fetches: Fetches::default(),
            waiters: Waiters::default(),
            listeners: Arc::default(),
            cared: Mutex::default(),
            watched: Mutex::default(),
            rounds: Mutex::new(rounds),
            unsynced,
            short_writes: ShortWrites::default(),
            floor,
            in_making: InMaking::default(),
            told_by: Mutex::default(),
            began,
            in_hand: InHand::default(),
            mending: Mutex::default(),
            fingerprints: Fingerprints::default(),
            trees: Trees::default(),
            arrivals: Arrivals::default(),
            locks: (0..LOCKS).map(|_| Mutex::new(())).collect(),
        };
        for name in shared.index.wanted()? {
            shared.fetches.want(name, Why::Moved);
        }
        shared.meet(shared.card())?;
        Ok(Arc::new(shared))
    }

    /// Whether those who are there were compared with since it was opened, or that takes too long: then what is read for
    /// itself, all files, keeps nobody waiting for what he missed.
    pub fn has_met(&self) -> bool {
        let told_by = self.told_by.lock();
        let is_late = self.clock.monotonic().saturating_sub(self.began) >= MEETING_MAX;
        is_late || self.peers.here().iter().all(|peer| told_by.contains(&peer.replica()))
    }

    /// This replica's number.
    pub fn own(&self) -> ReplicaId {
        self.index.replica()
    }

    /// Who this replica is.
    pub fn card(&self) -> Card {
        let name = self.members.own();
        let zone = if self.options.zone.is_empty() { name.clone() } else { self.options.zone.clone() };
        Card { replica: self.own(), name, zone, class: self.options.class }
    }

    pub fn lock(&self, name: &Name) -> MutexGuard<'_, ()> {
        self.lock_of(name).lock()
    }

    /// The same, if nobody else has it.
    pub fn try_lock(&self, name: &Name) -> Option<MutexGuard<'_, ()>> {
        self.lock_of(name).try_lock()
    }

    fn lock_of(&self, name: &Name) -> &Mutex<()> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
        &self.locks[hash as usize % LOCKS]
    }

    pub fn files(&self, app: &AppName) -> Result<Arc<dyn AppFiles>, MeshError> {
        Ok(self.apps.files_of(app)?)
    }

    /// The same, if the app is open.
    pub fn opened(&self, app: &AppName) -> Option<Arc<dyn AppFiles>> {
        self.apps.opened(app)
    }

    /// Whether somebody used it since this process began.
    pub fn was_used(&self, app: &AppName) -> bool {
        self.apps.was_used(app)
    }

    /// A stamp of now, which is never given again.
    pub fn stamp(&self) -> Result<Stamp, MeshError> {
        let stamp = self.stamps.next();
        let mut reserved = self.reserved.lock();
        if stamp > *reserved {
            let ahead = Stamp(stamp.0 + Stamp::at(RESERVED_MS).0);
            self.index.reserve(ahead)?;
            *reserved = ahead;
        }
        Ok(stamp)
    }

    /// None behind it was given before, also by a former process, nor will one before it be given.
    pub fn last_reserved(&self) -> Stamp {
        self.stamps.last().min(*self.reserved.lock())
    }

    /// Whether what somebody else knows of this replica can be.
    pub fn may_be_known(&self, record: &Record) -> bool {
        self.stamps.may_have_given(record.last_stamp_of(self.own()))
    }

    /// What came from another replica was stamped there.
    pub fn observe(&self, record: &Record) {
        self.stamps.observe(record.last());
    }

    /// The fingerprint of what is known of a name; none of nothing that is there.
    pub fn digest(&self, name: &Name, record: &Record) -> Option<Digest> {
        digest(&name.key(), record)
    }

    /// Write rows, all or none. Gives what others are to be told of each, where that is something else than before by
    /// whoever has its turn.
    pub fn save(&self, saving: &[Saving<'_>], durability: Durability) -> Result<Vec<Option<Digest>>, MeshError> {
        let keys: Vec<Vec<u8>> = saving.iter().map(|of| of.name.key()).collect();
        let now: Vec<_> = saving.iter().zip(&keys).map(|(of, key)| digest(key, &of.row.record)).collect();
        let is_wanted =
            |of: &Saving<'_>| of.row.here.pending.is_none() && self.wanted(of.name, of.row).next().is_some();
        let changes: Vec<Change<'_>> = saving.iter().map(|of| of.change(is_wanted(of))).collect();
        let rows = || saving.iter().zip(&keys).map(|(of, key)| (of, &key[..]));
        self.fingerprints.begin(rows().map(|(of, key)| (key, of.told)));
        let written = self.index.write(&changes, durability);
        // of one that may or may not have been written others may hear too much, or with the next opening
        let is_written = written.is_ok();
        let told = rows().zip(&now).map(|((of, key), now)| (key, if is_written { *now } else { of.told }));
        let ended = self.fingerprints.end(&self.index, told);
        written.and(ended)?;
        for change in changes.iter().filter(|change| change.is_wanted) {
            self.fetches.want(change.name.clone(), Why::New);
        }
        for (of, _) in saving.iter().zip(&now).filter(|(of, now)| of.told != **now) {
            self.waiters.tell(of.name, &of.row.record);
        }
        Ok(now)
    }

    /// Versions whose content this replica shall have and has not.
    pub fn wanted<'a>(&'a self, name: &'a Name, row: &'a Row) -> impl Iterator<Item = &'a Version> + 'a {
        let winner = row.record.winner().map(|winner| winner.dot);
        let missing = row.record.versions().iter().filter(|version| version.content.is_some() && !row.has(version));
        missing.filter(move |version| {
            // what lies here follows what is written elsewhere
            let follows = Some(version.dot) == winner && row.here.placed.is_some();
            follows || self.holders(name, version).contains(&self.own())
        })
    }

    /// The replicas that shall have a version: of those that are there the one that made it, and so many others; one
    /// more where that one is not there.
    pub fn holders(&self, name: &Name, version: &Version) -> Vec<ReplicaId> {
        self.holders_of(name, version.dot.replica, version.place)
    }

    /// Where what is written here to a file shall lie; what is told goes before the rules.
    pub fn place_for(&self, name: &Name, copies: Option<u8>, class: Option<Class>) -> Option<Place> {
        let ruled = rule_of(&self.options.rules, name).map(|rule| rule.place);
        if copies.is_none() && class.is_none() {
            return ruled;
        }
        let usual = u8::try_from(self.options.copies).unwrap_or(u8::MAX);
        let usual = ruled.unwrap_or(Place { copies: usual, class: Class::Fast });
        Some(Place { copies: copies.unwrap_or(usual.copies), class: class.unwrap_or(usual.class) })
    }

    /// So many former versions of a file are kept here, when this is known of it: of what was deleted long ago none.
    pub fn keeps(&self, name: &Name, record: &Record) -> usize {
        let deleted = record.winner().filter(|winner| winner.content.is_none()).map(|winner| winner.dot.stamp);
        let is_over = |since: Stamp| self.clock.wall_ms().saturating_sub(since.wall_ms()) > FORMER_DELETED_MS;
        match rule_of(&self.options.rules, name) {
            Some(rule) if !deleted.is_some_and(is_over) => rule.keep_versions.into(),
            _ => 0,
        }
    }

    /// Replicas that a version shall have beside the one that made it, and on which disks first.
    pub fn place(&self, place: Option<Place>) -> (usize, Class) {
        place.map_or((self.options.copies, Class::Fast), |place| (place.copies.into(), place.class))
    }

    /// The same of what a replica writes.
    pub fn holders_of(&self, name: &Name, author: ReplicaId, place: Option<Place>) -> Vec<ReplicaId> {
        let (live, (copies, class)) = (self.live(), self.place(place));
        let mut holders: Vec<ReplicaId> = live.iter().map(|card| card.replica).filter(|of| *of == author).collect();
        let others = copies + 1 - holders.len();
        let chosen = choose(&name.key(), class, &live, &holders.clone(), others);
        holders.extend(chosen.iter().map(|card| card.replica));
        holders
    }

    /// Who is there, this replica among them.
    pub fn live(&self) -> Vec<Card> {
        let now = self.clock.monotonic();
        let is_live = |card: &&Card| {
            let silent = || self.peers.silence(&card.name, now);
            card.replica == self.own() || silent().is_some_and(|silence| silence < self.options.grace)
        };
        self.cards.read().iter().filter(is_live).cloned().collect()
    }

    /// Everybody who was ever met and not succeeded by another of that name.
    pub fn cards(&self) -> Vec<Card> {
        self.cards.read().clone()
    }

    /// Know who a replica is. One that lost its index comes as somebody else under the same name, one whose machine was
    /// renamed under another.
    ///
    /// # Errors
    /// [`MeshError::Invalid`]: its number is that of another member. Whoever is taken for that is taken for one that has
    /// its files.
    pub fn meet(&self, card: Card) -> Result<(), MeshError> {
        if self.cards.read().contains(&card) {
            return Ok(());
        }
        let members = self.members.members();
        let is_member = |name: &str| members.iter().any(|member| member.name == name);
        let mut cards = self.cards.write();
        let mut others = cards.iter().filter(|other| other.replica == card.replica && other.name != card.name);
        let is_renamed = |other: &Card| is_member(&card.name) && !is_member(&other.name);
        // whose number this one's is was its own before, whatever it is called now
        if let Some(other) = others.find(|other| card.replica != self.own() && !is_renamed(other)) {
            return Err(MeshError::Invalid(format!("{} greets with the number of {}", card.name, other.name)));
        }
        let is_former = |other: &Card| other.name == card.name || other.replica == card.replica;
        let former: Vec<ReplicaId> = cards.iter().filter(|other| is_former(other)).map(|other| other.replica).collect();
        let gone: Vec<ReplicaId> = former.into_iter().filter(|replica| *replica != card.replica).collect();
        self.index.put_card(&card, &gone)?;
        cards.retain(|other| !is_former(other));
        cards.push(card);
        cards.sort_by_key(|card| card.replica);
        Ok(())
    }
}
