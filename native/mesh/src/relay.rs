//! A carrier whose requests somebody else carries: an application, by its own call.
//!
//! Invariant: a request that was handed to a courier ends once: answered, given up, or with the courier. One that
//! was given up is called back, and what is answered to it then is dropped. To a member that nobody says is there
//! nothing is handed, and one that does not answer takes no other's places.

use crate::carrier::{Carrier, MESSAGE_LEN_MAX};
use crate::MeshError;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use macula_core::MemberAt;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch, Semaphore};
use tokio::time::{timeout_at, Instant};

/// Requests under way to one member: more than blocks and changes need at once, for readers.
pub const UNDER_WAY_MAX: usize = 32;

/// Of couriers and requests: none has another's, also not of another relay.
static NUMBER: AtomicU64 = AtomicU64::new(1);

fn number() -> u64 {
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// Who carries requests. None of this may wait.
pub trait Courier: Send + Sync {
    /// Take a request to a member, which is to be answered by [`Relay::answered`] within a time; whether it is heard.
    fn carry(&self, number: u64, to: &str, request: &[u8], within: Duration) -> bool;

    /// Nobody waits for that one any more.
    fn call_back(&self, number: u64);
}

/// What was answered, made where it is awaited; or why nothing was.
pub type Answered = Result<Box<dyn FnOnce() -> Result<Bytes, String> + Send>, String>;

/// A carrier for a courier, who may come later, and go.
#[derive(Clone)]
pub struct Relay(Arc<State>);

struct State {
    table: Mutex<Table>,
    /// Members that can be reached, as the courier says.
    up: watch::Sender<BTreeSet<String>>,
}

#[derive(Default)]
struct Table {
    courier: Option<(u64, Arc<dyn Courier>)>,
    under_way: BTreeMap<u64, oneshot::Sender<Answered>>,
    places: BTreeMap<String, Arc<Semaphore>>,
}

impl Default for Relay {
    fn default() -> Self {
        Self(Arc::new(State { table: Mutex::default(), up: watch::channel(BTreeSet::new()).0 }))
    }
}

impl Relay {
    /// Another courier takes the place of the former, and knows nobody yet. Its number.
    pub fn attach(&self, courier: Arc<dyn Courier>) -> u64 {
        let (number, mut table) = (number(), self.0.table.lock());
        table.courier = Some((number, courier));
        self.end_all(table);
        number
    }

    /// That courier is gone, with all that it carries.
    pub fn detach(&self, courier: u64) {
        let mut table = self.0.table.lock();
        if table.courier.as_ref().is_some_and(|(number, _)| *number == courier) {
            table.courier = None;
            self.end_all(table);
        }
    }

    /// Not by `up` alone: who is told again at once was never seen to be gone.
    fn end_all(&self, mut table: MutexGuard<'_, Table>) {
        let ended = std::mem::take(&mut table.under_way);
        self.0.up.send_modify(BTreeSet::clear);
        drop(table);
        drop(ended);
    }

    /// A courier says that a member can be reached, or not any more.
    pub fn tell(&self, courier: u64, name: &str, is_up: bool) {
        let table = self.0.table.lock();
        if table.courier.as_ref().is_none_or(|(number, _)| *number != courier) {
            return;
        }
        self.0.up.send_if_modified(|up| match is_up {
            true => up.insert(name.to_owned()),
            false => up.remove(name),
        });
    }

    /// What became of a request. Whether somebody waits for it still.
    pub fn answered(&self, number: u64, answer: Answered) -> bool {
        let waits = self.0.table.lock().under_way.remove(&number);
        waits.is_some_and(|waits| waits.send(answer).is_ok())
    }

    /// Requests that are being carried.
    pub fn under_way(&self) -> usize {
        self.0.table.lock().under_way.len()
    }
}

/// A request that is being carried. Dropped, it is called back unless it was answered.
struct UnderWay {
    state: Arc<State>,
    courier: Arc<dyn Courier>,
    number: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let is_awaited = self.state.table.lock().under_way.remove(&self.number).is_some();
        if is_awaited {
            self.courier.call_back(self.number);
        }
    }
}

impl State {
    fn places(&self, to: &str) -> Arc<Semaphore> {
        let mut table = self.table.lock();
        let new = || Arc::new(Semaphore::new(UNDER_WAY_MAX));
        table.places.entry(to.to_owned()).or_insert_with(new).clone()
    }

    /// Give it to the courier.
    fn hand(
        self: &Arc<Self>,
        to: &str,
        request: &Bytes,
        within: Duration,
    ) -> Result<(UnderWay, oneshot::Receiver<Answered>), MeshError> {
        let (waits, answer) = oneshot::channel();
        let (number, courier) = {
            let mut table = self.table.lock();
            let Some((_, courier)) = &table.courier else { return Err(failed(to, "nobody carries requests")) };
            let courier = courier.clone();
            let number = number();
            table.under_way.insert(number, waits);
            (number, courier)
        };
        let under_way = UnderWay { state: self.clone(), courier, number };
        match under_way.courier.carry(number, to, request, within) {
            true => Ok((under_way, answer)),
            false => Err(failed(to, "who carries requests is gone")),
        }
    }

    async fn becomes(&self, to: &str, is_up: bool) {
        // never the error of a sender that is gone: this one has it
        let _ = self.up.subscribe().wait_for(|up| up.contains(to) == is_up).await;
    }
}

fn failed(to: &str, why: &str) -> MeshError {
    MeshError::Carrier { to: to.to_owned(), why: why.to_owned() }
}

impl Carrier for Relay {
    fn call(&self, to: &str, request: Bytes, deadline: Duration) -> BoxFuture<'static, Result<Bytes, MeshError>> {
        let (state, to) = (self.0.clone(), to.to_owned());
        Box::pin(async move {
            let until = Instant::now() + deadline;
            let late = || failed(&to, &format!("no answer within {} ms", deadline.as_millis()));
            let answered = async {
                let place = timeout_at(until, state.places(&to).acquire_owned()).await.map_err(|_| late())?;
                let _place = place.map_err(|_| failed(&to, "it is no member any more"))?;
                let within = until.saturating_duration_since(Instant::now());
                let (_under_way, answer) = state.hand(&to, &request, within)?;
                timeout_at(until, answer).await.map_err(|_| late())?.map_err(|_| failed(&to, "who carried it is gone"))
            };
            let answer = tokio::select! {
                biased;
                () = state.becomes(&to, false) => Err(failed(&to, "it cannot be reached")),
                answer = answered => answer,
            };
            match answer?.and_then(|bytes| bytes()) {
                Ok(bytes) if bytes.len() > MESSAGE_LEN_MAX => {
                    Err(failed(&to, &format!("an answer of {} bytes", bytes.len())))
                }
                Ok(bytes) => Ok(bytes),
                Err(why) => Err(failed(&to, &why)),
            }
        })
    }

    fn reachable(&self, to: &str) -> BoxFuture<'static, ()> {
        let (state, to) = (self.0.clone(), to.to_owned());
        Box::pin(async move { state.becomes(&to, true).await })
    }

    fn lost(&self, to: &str) -> BoxFuture<'static, ()> {
        let (state, to) = (self.0.clone(), to.to_owned());
        Box::pin(async move { state.becomes(&to, false).await })
    }

    fn learn(&self, others: &[MemberAt]) {
        let mut table = self.0.table.lock();
        table.places.retain(|name, places| {
            let stays = others.iter().any(|other| other.name == *name);
            if !stays {
                places.close();
            }
            stays
        });
    }
}
