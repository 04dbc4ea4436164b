//! A node that is no member: what it asks, a member answers, which asks who leads when it must.
//!
//! Invariant: a command goes to another member only when it is certain that none has taken it. Of which cluster the
//! members are is learned from the first that answers, and told them from then on: nobody else is asked.

use crate::calls::{Calls, Ends};
use crate::feed::FeedPage;
use crate::machine::{Command, MachineError, Pattern, Response as Answer};
use crate::network::Unreached;
use crate::node::LEADER_PAUSE;
use crate::propose::Stage;
use crate::query::{Consistency, Found, Query};
use crate::rpc::{Envelope, Request, Response};
use crate::types::{ClusterId, Proposal};
use crate::RaftError;
use macula_core::{Cancel, Clock};
use macula_net::{Link, Net, NodeName, Purpose};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// For a member to answer: as long as it waits for who leads, and some.
const ANSWER_WAIT: Duration = Duration::from_secs(12);

/// Whom a client asks.
pub struct ClientOptions {
    /// Members, name and `host:port`.
    pub members: Vec<(String, String)>,
    /// Who it is, and how it proves it.
    pub transport: macula_net::Transport,
    /// Limits and times.
    pub options: macula_net::Options,
}

/// The seams of a client.
pub struct ClientSeams {
    /// Its time.
    pub clock: Arc<dyn Clock>,
    /// Its chance.
    pub chance: Arc<dyn macula_core::Chance>,
}

/// A client that runs.
pub struct Client {
    runtime: Option<Runtime>,
    asking: Arc<Asking>,
    calls: Calls,
}

struct Asking {
    clock: Arc<dyn Clock>,
    links: Vec<Link>,
    /// Longest request, bytes.
    len_max: usize,
    /// Who is asked first.
    first: AtomicUsize,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    cluster: Option<ClusterId>,
    /// The members' numbers, where their links are.
    numbers: Vec<Option<u64>>,
}

/// Why one of them did not answer.
enum Failed {
    /// It did nothing: the next may be asked.
    NotTaken,
    /// It may have.
    Unknown,
    /// Nobody will, whoever is asked.
    Never(RaftError),
}

impl Client {
    /// Connect to members, by and by; nothing is asked yet.
    pub fn open(seams: ClientSeams, options: ClientOptions) -> Result<Self, RaftError> {
        let runtime = crate::engine::threads()?;
        let ClientSeams { clock, chance } = seams;
        let ClientOptions { members, transport, options } = options;
        let net = Net { runtime: runtime.handle().clone(), clock: clock.clone(), chance, transport, options };
        let _entered = runtime.enter();
        let len_max = net.options.client.frame_len_max as usize;
        let links = members
            .into_iter()
            .map(|(name, address)| Ok(net.link(NodeName::new(name.as_bytes())?, address, Purpose::Client)));
        let links = links.collect::<Result<Vec<_>, RaftError>>()?;
        if links.is_empty() {
            return Err(RaftError::Refused("a client needs a member to ask".into()));
        }
        let known = Mutex::new(Known { cluster: None, numbers: vec![None; links.len()] });
        let asking = Arc::new(Asking { clock, links, len_max, first: AtomicUsize::new(0), known });
        Ok(Self { runtime: Some(runtime), asking, calls: Calls::default() })
    }

    /// Have a command applied; as [`crate::Engine::propose`].
    pub fn propose(
        &self,
        command: Command,
        deadline: Option<Duration>,
        cancel: Cancel,
        reply: impl FnOnce(Result<Answer, RaftError>) + Send + 'static,
    ) -> Result<(), RaftError> {
        let asking = self.asking.clone();
        let stage = Arc::new(Stage::default());
        let sending = stage.clone();
        let work = async move { asking.propose(&command, &sending).await };
        self.calls.run(self.runtime.as_ref(), work, deadline, Ends::of_command(stage), cancel, reply)
    }

    /// Read; [`Consistency::Local`]: what the member has that is asked.
    pub fn query(
        &self,
        query: Query,
        consistency: Consistency,
        deadline: Option<Duration>,
        cancel: Cancel,
        reply: impl FnOnce(Result<Found, RaftError>) + Send + 'static,
    ) -> Result<(), RaftError> {
        let asking = self.asking.clone();
        let work = async move {
            match asking.ask(&Request::Query(query, consistency)).await? {
                Response::Found(found) => Ok(found),
                other => Err(other.refusal()),
            }
        };
        self.calls.run(self.runtime.as_ref(), work, deadline, Ends::no_quorum(), cancel, reply)
    }

    /// What happened behind a revision and matches; a member waits so long for the first of it.
    pub fn watch(
        &self,
        pattern: Pattern,
        after: u64,
        wait: Duration,
        cancel: Cancel,
        reply: impl FnOnce(Result<FeedPage, RaftError>) + Send + 'static,
    ) -> Result<(), RaftError> {
        let asking = self.asking.clone();
        let work = async move {
            let request = Request::Watch { pattern, after, wait_ms: wait.as_millis() as u64 };
            match asking.ask(&request).await? {
                Response::Events { events, through, more } => Ok(FeedPage { events, through, more }),
                other => Err(other.refusal()),
            }
        };
        let deadline = Some(wait + 2 * ANSWER_WAIT);
        self.calls.run(self.runtime.as_ref(), work, deadline, Ends::timeout(), cancel, reply)
    }

    /// Answer what is under way and stop. Blocks.
    pub fn close(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.close();
    }
}

impl Asking {
    async fn propose(&self, command: &Command, stage: &Stage) -> Result<Answer, RaftError> {
        let request = Request::Propose(Proposal::of(command, &*self.clock)?);
        loop {
            for at in self.turns() {
                // nobody gives it up but who drops this
                let _ = stage.send();
                let outcome = match self.ask_one(at, &request).await {
                    Ok(Response::Outcome(outcome)) => outcome,
                    Ok(other) => return Err(other.refusal()),
                    Err(Failed::NotTaken) => {
                        stage.take_back();
                        continue;
                    }
                    Err(Failed::Unknown) => return Err(RaftError::Unknown),
                    Err(Failed::Never(error)) => return Err(error),
                };
                self.first.store(at, Ordering::Relaxed);
                match outcome.answer()? {
                    Some(answer) => return Ok(Answer::decode(&answer.0)?),
                    None => stage.take_back(),
                }
            }
            tokio::time::sleep(LEADER_PAUSE).await;
        }
    }

    /// What changes nothing: it may be asked of another again.
    async fn ask(&self, request: &Request) -> Result<Response, RaftError> {
        loop {
            for at in self.turns() {
                match self.ask_one(at, request).await {
                    Ok(response) => {
                        self.first.store(at, Ordering::Relaxed);
                        return Ok(response);
                    }
                    Err(Failed::NotTaken | Failed::Unknown) => {}
                    Err(Failed::Never(error)) => return Err(error),
                }
            }
            tokio::time::sleep(LEADER_PAUSE).await;
        }
    }

    fn turns(&self) -> impl Iterator<Item = usize> {
        let (first, len) = (self.first.load(Ordering::Relaxed), self.links.len());
        (0..len).map(move |nth| (first + nth) % len)
    }

    async fn ask_one(&self, at: usize, request: &Request) -> Result<Response, Failed> {
        let envelope = self.greeted(at).await?;
        match self.call(at, envelope, request).await? {
            Response::WrongNode => {
                // somebody else lives there now
                self.known.lock().numbers[at] = None;
                Err(Failed::NotTaken)
            }
            response => Ok(response),
        }
    }

    /// Whom a request to it is for.
    async fn greeted(&self, at: usize) -> Result<Envelope, Failed> {
        let known = {
            let known = self.known.lock();
            known.cluster.zip(known.numbers[at])
        };
        let (cluster, to) = match known {
            Some(known) => known,
            None => self.greet(at).await?,
        };
        Ok(Envelope { cluster, from: 0, to })
    }

    async fn greet(&self, at: usize) -> Result<(ClusterId, u64), Failed> {
        let nobody = Envelope { cluster: ClusterId::default(), from: 0, to: 0 };
        // who did not answer that has taken nothing
        let answer = self.call(at, nobody, &Request::Greet).await;
        match answer.map_err(|_| Failed::NotTaken)? {
            Response::Here { cluster, number } => {
                let mut known = self.known.lock();
                if *known.cluster.get_or_insert(cluster) != cluster {
                    return Err(Failed::NotTaken);
                }
                known.numbers[at] = Some(number);
                Ok((cluster, number))
            }
            // all that may ask are answered that
            Response::WrongNode => {
                let why = "this node's certificate is neither a client's nor a present member's";
                Err(Failed::Never(RaftError::Refused(why.into())))
            }
            _ => Err(Failed::NotTaken),
        }
    }

    async fn call(&self, at: usize, envelope: Envelope, request: &Request) -> Result<Response, Failed> {
        let bytes = request.encode(envelope).map_err(Failed::Never)?;
        let (len, len_max) = (bytes.len(), self.len_max);
        if len > len_max {
            return Err(Failed::Never(MachineError::TooLarge { what: "request of a client", len, len_max }.into()));
        }
        match crate::links::ask_over(&self.links[at], bytes, ANSWER_WAIT).await {
            Ok(bytes) => Response::decode(&bytes).map_err(|_| Failed::Unknown),
            Err(Unreached::NotSent(_)) => Err(Failed::NotTaken),
            Err(Unreached::Lost(_)) => Err(Failed::Unknown),
        }
    }
}
