//! The other members: who is there, and what each has not heard of yet.
//!
//! Invariant: a change that was told is sent, or the peer is compared with as a whole; so what a peer missed, for
//! whatever reason, it gets with the next comparison at the latest.

use crate::carrier::Carrier;
use crate::merge::Told;
use crate::near::Near;
use crate::reconcile;
use crate::record::{Dot, ReplicaId};
use crate::refusals::Refusals;
use crate::shared::Shared;
use crate::traffic::Traffic;
use crate::wire::{answer, Answer, Pushed, Request, INLINE_MAX, PUSH_BYTES_MAX, PUSH_MAX};
use crate::{MeshError, Name};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

/// For words; for blocks see [`crate::fetch`].
pub(crate) const ASK_WAIT: Duration = Duration::from_secs(20);
/// Between two looks for members.
const LOOK: Duration = Duration::from_millis(250);
/// After a failure of a peer that can be reached.
const PAUSE: Duration = Duration::from_millis(300);
/// Changes that one peer has not heard of: beyond that, it is compared with instead.
const OUTBOX_MAX: usize = 100_000;
/// Requests with changes under way to one peer: what comes meanwhile goes with the next.
const PUSHES_MAX: usize = 3;

/// Who did not give what it said that it has is asked for contents only when nobody else has them, for so long.
const DOUBT: Duration = Duration::from_secs(300);

/// A file of which a peer is to hear, and whether it changed just now: then a short content goes along.
type News = (Name, bool);

/// All others.
#[derive(Default)]
pub(crate) struct Peers {
    open: RwLock<BTreeMap<String, Arc<Peer>>>,
}

/// Another member.
pub(crate) struct Peer {
    pub name: String,
    pub carrier: Arc<dyn Carrier>,
    /// How soon it answers who reads.
    pub near: Near,
    traffic: Arc<Traffic>,
    refusals: Arc<Refusals>,
    /// Its replica's number, once it said so.
    replica: AtomicU64,
    is_here: AtomicBool,
    /// When it was last heard, or known, milliseconds of the monotonic clock.
    heard_ms: AtomicU64,
    /// Until when it is doubted, the same.
    doubted_ms: AtomicU64,
    outbox: Mutex<Outbox>,
    /// Changes that are being sent.
    sending: AtomicUsize,
    wake: Notify,
    task: Mutex<Option<AbortHandle>>,
    /// Differences that the last comparison found.
    pub found: AtomicU64,
}

/// What came of a question for bytes.
pub(crate) enum Came {
    /// They.
    Bytes(Bytes),
    /// It does not have them.
    NotHere,
    /// It is to be asked again after that time.
    Later(Duration),
}

#[derive(Default)]
struct Outbox {
    /// See [`News`].
    names: BTreeMap<Name, bool>,
    /// Some were dropped.
    is_short: bool,
}

impl Peers {
    /// Every peer but one is to hear of a file.
    pub fn tell(&self, name: &Name, but: Option<&str>) {
        for peer in self.open.read().values().filter(|peer| Some(&peer.name[..]) != but) {
            peer.tell(name);
        }
    }

    /// For how long a member has not been heard; since it was known when it never was. `None`: it is no member.
    pub fn silence(&self, name: &str, now: Duration) -> Option<Duration> {
        self.open.read().get(name).map(|peer| peer.silence(now))
    }

    /// Those that can be asked now.
    pub fn here(&self) -> Vec<Arc<Peer>> {
        self.open.read().values().filter(|peer| peer.is_here.load(Ordering::Acquire)).cloned().collect()
    }

    /// The one that has a replica, if it can be asked now.
    pub fn of(&self, replica: ReplicaId) -> Option<Arc<Peer>> {
        self.here().into_iter().find(|peer| peer.replica() == replica)
    }

    /// Those that have one of some replicas and can be asked now; last those that did not give what they said they have.
    pub fn of_all(&self, replicas: impl Iterator<Item = ReplicaId>, now: Duration) -> Vec<Arc<Peer>> {
        let mut peers: Vec<_> = replicas.filter_map(|replica| self.of(replica)).collect();
        peers.sort_by_key(|peer| peer.is_doubted(now));
        peers
    }

    /// What waits to be sent, and is not answered yet, changes.
    pub fn waiting(&self) -> usize {
        let of = |peer: &Arc<Peer>| peer.outbox.lock().names.len() + peer.sending.load(Ordering::Acquire);
        self.open.read().values().map(of).sum()
    }

    fn end(&self, is_gone: impl Fn(&str) -> bool) {
        self.open.write().retain(|name, peer| {
            let stays = !is_gone(name);
            if let (false, Some(task)) = (stays, peer.task.lock().take()) {
                task.abort();
            }
            stays
        });
    }

    /// No more peers.
    pub fn close(&self) {
        self.end(|_| true);
    }
}

/// Keep a task for each member that there is.
pub(crate) async fn keep(shared: Arc<Shared>, carrier: Arc<dyn Carrier>) {
    let mut known = Vec::new();
    loop {
        let own = shared.members.own();
        let mut others = shared.members.members();
        others.retain(|member| member.name != own);
        if others != known {
            carrier.learn(&others);
            shared.peers.end(|name| !others.iter().any(|other| other.name == name));
            for other in &others {
                let mut open = shared.peers.open.write();
                if !open.contains_key(&other.name) {
                    let peer = Arc::new(Peer::new(&other.name, &carrier, &shared));
                    peer.hear(shared.clock.monotonic());
                    let task = tokio::spawn(peer.clone().talk(shared.clone()));
                    *peer.task.lock() = Some(task.abort_handle());
                    open.insert(other.name.clone(), peer);
                }
            }
            known = others;
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Peer {
    fn new(name: &str, carrier: &Arc<dyn Carrier>, shared: &Shared) -> Self {
        Self {
            name: name.to_owned(),
            carrier: carrier.clone(),
            near: Near::default(),
            traffic: shared.traffic.clone(),
            refusals: shared.refusals.clone(),
            replica: AtomicU64::new(0),
            is_here: AtomicBool::new(false),
            heard_ms: AtomicU64::new(0),
            doubted_ms: AtomicU64::new(0),
            outbox: Mutex::default(),
            sending: AtomicUsize::new(0),
            wake: Notify::new(),
            task: Mutex::default(),
            found: AtomicU64::new(0),
        }
    }

    /// The number of its replica, 0 while it is not known.
    pub fn replica(&self) -> ReplicaId {
        self.replica.load(Ordering::Acquire)
    }

    fn silence(&self, now: Duration) -> Duration {
        match self.is_here.load(Ordering::Acquire) {
            true => Duration::ZERO,
            false => now.saturating_sub(Duration::from_millis(self.heard_ms.load(Ordering::Acquire))),
        }
    }

    /// It did not give what it said that it has.
    pub fn doubt(&self, now: Duration) {
        self.doubted_ms.store((now + DOUBT).as_millis() as u64, Ordering::Release);
    }

    /// What it gave, or said that it has, cannot be so.
    pub fn refuse(&self, now: Duration, why: &str) {
        self.refusals.note(&self.name, why);
        self.doubt(now);
    }

    /// The same, if the error is of its doing; else it is doubted only.
    pub fn refuse_by(&self, now: Duration, error: &MeshError) {
        self.refusals.note_error(&self.name, error);
        self.doubt(now);
    }

    /// Whether that was so lately.
    pub fn is_doubted(&self, now: Duration) -> bool {
        (now.as_millis() as u64) < self.doubted_ms.load(Ordering::Acquire)
    }

    fn hear(&self, now: Duration) {
        self.heard_ms.store(now.as_millis() as u64, Ordering::Release);
    }

    /// It is to hear of a change of a file.
    pub fn tell(&self, name: &Name) {
        self.tell_of(name, self.is_here.load(Ordering::Acquire));
    }

    /// It is to hear of what may have changed long ago.
    pub fn tell_again(&self, name: &Name) {
        self.tell_of(name, false);
    }

    fn tell_of(&self, name: &Name, is_new: bool) {
        let mut outbox = self.outbox.lock();
        if outbox.names.len() < OUTBOX_MAX {
            *outbox.names.entry(name.clone()).or_default() |= is_new;
        } else {
            outbox.is_short = true;
        }
        drop(outbox);
        self.wake.notify_one();
    }

    async fn call(&self, request: Bytes) -> Result<Result<Answer, Bytes>, MeshError> {
        self.traffic.count_sent(request.len());
        let came = self.carrier.call(&self.name, request, ASK_WAIT).await?;
        self.traffic.count_received(came.len());
        answer(came)
    }

    /// Ask, and wait for words.
    pub async fn ask(&self, request: &Request) -> Result<Answer, MeshError> {
        self.ask_encoded(request.encode()?).await
    }

    /// The same of a request that is encoded.
    pub async fn ask_encoded(&self, request: Bytes) -> Result<Answer, MeshError> {
        match self.call(request).await? {
            Ok(Answer::Refused(why)) => Err(MeshError::Refused { by: self.name.clone(), why }),
            Ok(words) => Ok(words),
            Err(_) => Err(MeshError::Malformed(format!("{} answered with bytes", self.name))),
        }
    }

    /// Ask, and wait for bytes; none when it does not have them.
    pub async fn ask_bytes(&self, request: &Request) -> Result<Option<Bytes>, MeshError> {
        match self.ask_blocks(request).await? {
            Came::Bytes(bytes) => Ok(Some(bytes)),
            Came::NotHere | Came::Later(_) => Ok(None),
        }
    }

    /// Ask for bytes that may be put off.
    pub async fn ask_blocks(&self, request: &Request) -> Result<Came, MeshError> {
        match self.call(request.encode()?).await? {
            Err(bytes) => Ok(Came::Bytes(bytes)),
            Ok(Answer::NotHere) => Ok(Came::NotHere),
            Ok(Answer::Later(ms)) => Ok(Came::Later(Duration::from_millis(ms.into()))),
            Ok(Answer::Refused(why)) => Err(MeshError::Refused { by: self.name.clone(), why }),
            Ok(_) => Err(MeshError::Malformed(format!("{} answered with words", self.name))),
        }
    }

    /// For as long as it is a member.
    async fn talk(self: Arc<Self>, shared: Arc<Shared>) {
        loop {
            self.carrier.reachable(&self.name).await;
            let ended = tokio::select! {
                ended = self.meet(&shared) => ended,
                () = self.carrier.lost(&self.name) => Ok(()),
            };
            if self.is_here.load(Ordering::Acquire) {
                self.hear(shared.clock.monotonic());
            }
            self.is_here.store(false, Ordering::Release);
            match ended {
                Ok(()) => {}
                Err(MeshError::Closed) => return,
                Err(error) => self.refusals.note_error(&self.name, &error),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Until something fails.
    async fn meet(self: &Arc<Self>, shared: &Arc<Shared>) -> Result<(), MeshError> {
        let Answer::Greeted(card) = self.ask(&Request::Greet(shared.card())).await? else {
            return Err(MeshError::Malformed(format!("{} does not greet", self.name)));
        };
        if card.name != self.name || card.replica == shared.own() {
            return Err(MeshError::Malformed(format!("{} greets as {}", self.name, card.name)));
        }
        let (of, replica) = (shared.clone(), card.replica);
        blocking(move || of.meet(card)).await?;
        self.replica.store(replica, Ordering::Release);
        self.is_here.store(true, Ordering::Release);
        shared.fetches.look();
        let (mut compared, every): (Option<Duration>, _) = (None, shared.options.compare_every);
        loop {
            let now = shared.clock.monotonic();
            let is_due = compared.is_none_or(|at| now.saturating_sub(at) >= every);
            if is_due || std::mem::take(&mut self.outbox.lock().is_short) {
                // what is in the outbox is found by it, too, but its content would not come along
                let found = reconcile::with(shared, self).await?;
                self.found.store(found, Ordering::Release);
                compared = Some(shared.clock.monotonic());
            }
            self.push_all(shared).await?;
            let _ = tokio::time::timeout(every, self.wake.notified()).await;
        }
    }

    /// Until there is nothing to be sent.
    async fn push_all(self: &Arc<Self>, shared: &Arc<Shared>) -> Result<(), MeshError> {
        let mut pushes: JoinSet<Result<(), MeshError>> = JoinSet::new();
        let mut failed = None;
        loop {
            let names = match pushes.len() < PUSHES_MAX && failed.is_none() {
                true => self.take(),
                false => Vec::new(),
            };
            if !names.is_empty() {
                let (sending, shared) = (Sending(self.clone(), names.len()), shared.clone());
                pushes.spawn(async move { sending.0.push(&shared, names).await });
                continue;
            }
            let ended = tokio::select! {
                ended = pushes.join_next() => ended,
                _ = self.wake.notified(), if pushes.len() < PUSHES_MAX && failed.is_none() && !pushes.is_empty() => continue,
            };
            match ended {
                None => return failed.map_or(Ok(()), Err),
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => failed = Some(error),
                Some(Err(error)) => failed = Some(MeshError::Internal(format!("a push ended: {error}"))),
            }
        }
    }

    fn take(&self) -> Vec<News> {
        let mut outbox = self.outbox.lock();
        let mut names = Vec::new();
        while names.len() < PUSH_MAX {
            let Some(told) = outbox.names.pop_first() else { break };
            names.push(told);
        }
        self.sending.fetch_add(names.len(), Ordering::AcqRel);
        names
    }

    async fn push(&self, shared: &Arc<Shared>, names: Vec<News>) -> Result<(), MeshError> {
        let (of, replica, again) = (shared.clone(), self.replica(), names.clone());
        let (changes, rest) = blocking(move || of.to_push(&names, replica)).await?;
        rest.iter().for_each(|(name, is_new)| self.tell_of(name, *is_new));
        if changes.is_empty() {
            return Ok(());
        }
        let sent: Vec<Vec<u8>> = changes.iter().map(|change| change.key.clone()).collect();
        let took = match self.ask(&Request::Push(changes)).await {
            Ok(Answer::Took(took)) if took.len() == sent.len() => took,
            Ok(_) => return Err(MeshError::Malformed(format!("{} took something else", self.name))),
            Err(error) => {
                // it may be back soon; the comparison finds what is forgotten
                again.iter().for_each(|(name, _)| self.tell_again(name));
                return Err(error);
            }
        };
        let news = sent.iter().zip(took).filter_map(|(key, record)| {
            let record = record?;
            Some(Name::of_key(key).map(|name| Told { name, record, content: None }))
        });
        // what cannot be merged now is found by the next comparison
        shared.merge_all(news.collect::<Result<_, _>>()?, &self.name).await.map(drop)
    }
}

/// Changes that are being sent, until it is dropped.
struct Sending(Arc<Peer>, usize);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.sending.fetch_sub(self.1, Ordering::AcqRel);
    }
}

impl Shared {
    /// What a replica is to hear of these; and those that did not fit.
    fn to_push(&self, names: &[News], to: ReplicaId) -> Result<(Vec<Pushed>, Vec<News>), MeshError> {
        let (mut changes, mut bytes) = (Vec::new(), 0);
        for (at, (name, is_new)) in names.iter().enumerate() {
            let Some(row) = self.index.row(name)? else { continue };
            if row.record.versions().is_empty() && row.record.last() == crate::Stamp::default() {
                continue;
            }
            let content = row.record.winner().filter(|version| {
                let is_short = version.content.is_some_and(|content| content.len <= INLINE_MAX);
                let has = row.record.holders(version.dot).any(|replica| replica == to);
                is_short && !has && self.holders(name, version).contains(&to)
            });
            let may_go = |len| *is_new || self.traffic.may_send_along(&*self.clock, len);
            let content = content.filter(|version| version.content.is_some_and(|content| may_go(content.len)));
            // one that cannot be read now is fetched later, and keeps no other change from being told
            let whole = |(dot, content)| self.whole(name, dot, &content).unwrap_or_default();
            let content = content.and_then(|version| Some((version.dot, version.content?))).and_then(whole);
            let len = name.path.as_bytes().len() + 100 + row.record.len_max() + content.as_ref().map_or(0, Bytes::len);
            if bytes > 0 && bytes + len > PUSH_BYTES_MAX {
                return Ok((changes, names[at..].to_vec()));
            }
            bytes += len;
            changes.push(Pushed { key: name.key(), record: row.record, content });
        }
        Ok((changes, Vec::new()))
    }

    /// A short content, if it is here. The index has what was written just now.
    fn whole(&self, name: &Name, dot: Dot, content: &crate::Content) -> Result<Option<Bytes>, MeshError> {
        if let Some(bytes) = self.index.short(name, &dot)? {
            return Ok(Some(bytes.into()));
        }
        let Some(opened) = self.open_content(name, &content.id)? else { return Ok(None) };
        let mut bytes = vec![0; content.len as usize];
        let len = opened.read_at(&mut bytes, 0)?;
        Ok((len == bytes.len()).then(|| Bytes::from(bytes)))
    }
}

/// Work that may wait for the disk, on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MeshError> + Send + 'static,
) -> Result<T, MeshError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(MeshError::Internal(format!("work ended: {error}"))),
    }
}
