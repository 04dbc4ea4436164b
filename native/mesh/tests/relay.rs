//! Requests that somebody else carries: each ends once, whatever becomes of who carries it.

use crate::common::{cluster, name, until};
use bytes::Bytes;
use macula_core::{Kind, Kinded, MemberAt};
use macula_mesh::{Ack, Answered, Carrier, Courier, MeshError, Relay, MESSAGE_LEN_MAX, UNDER_WAY_MAX};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc};
use std::time::Duration;
use tokio::task::JoinHandle;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(30);

type Call = JoinHandle<Result<Bytes, MeshError>>;

/// Takes what it is given, until it is deaf.
#[derive(Default)]
struct Taker {
    taken: Mutex<Vec<(u64, String, Bytes)>>,
    called_back: Mutex<BTreeSet<u64>>,
    is_deaf: AtomicBool,
}

impl Courier for Taker {
    fn carry(&self, number: u64, to: &str, request: &[u8], _within: Duration) -> bool {
        self.taken.lock().push((number, to.to_owned(), Bytes::copy_from_slice(request)));
        !self.is_deaf.load(Ordering::SeqCst)
    }

    fn call_back(&self, number: u64) {
        self.called_back.lock().insert(number);
    }
}

impl Taker {
    /// The number of what was taken as the n-th, once that is.
    async fn nth(&self, n: usize) -> u64 {
        let taken = async {
            loop {
                if let Some((number, _, _)) = self.taken.lock().get(n) {
                    return *number;
                }
                tokio::task::yield_now().await;
            }
        };
        ends(taken).await
    }

    fn is_called_back(&self, number: u64) -> bool {
        self.called_back.lock().contains(&number)
    }
}

fn with_taker() -> (Relay, Arc<Taker>, u64) {
    let (relay, taker) = (Relay::default(), Arc::new(Taker::default()));
    let courier = relay.attach(taker.clone());
    relay.tell(courier, "b", true);
    (relay, taker, courier)
}

fn call(relay: &Relay, to: &str, deadline: Duration) -> Call {
    tokio::spawn(relay.call(to, Bytes::from_static(b"request"), deadline))
}

fn words(bytes: &'static [u8]) -> Answered {
    Ok(Box::new(move || Ok(Bytes::from_static(bytes))))
}

/// What ends, or the test does.
async fn ends<T>(future: impl std::future::Future<Output = T>) -> T {
    tokio::time::timeout(crate::common::SOON, future).await.expect("ends")
}

async fn why(call: Call) -> String {
    let error = ends(call).await.expect("ends").expect_err("no answer");
    assert_eq!(error.kind(), Kind::Unreachable);
    error.to_string()
}

#[tokio::test]
async fn what_is_answered_comes_once() {
    let (relay, taker, _) = with_taker();
    let asked = call(&relay, "b", LONG);
    let number = taker.nth(0).await;
    assert_eq!(taker.taken.lock()[0], (number, "b".to_owned(), Bytes::from_static(b"request")));
    assert!(relay.answered(number, words(b"answer")));
    assert_eq!(asked.await.expect("ends").expect("answered"), Bytes::from_static(b"answer"));
    assert!(!relay.answered(number, words(b"another")));
    assert!(!relay.answered(12_345, words(b"to nobody")));
    assert!(!taker.is_called_back(number));
    assert_eq!(relay.under_way(), 0);
}

#[tokio::test]
async fn what_is_no_answer_is_an_error_with_its_reason() {
    let (relay, taker, _) = with_taker();
    let late: Answered = Ok(Box::new(|| Err("it cannot be read".to_owned())));
    let long: Answered = Ok(Box::new(|| Ok(Bytes::from(vec![0; MESSAGE_LEN_MAX + 1]))));
    for (n, (answer, part)) in
        [(Err("it broke".to_owned()), "to b: it broke"), (late, "cannot be read"), (long, "2097153 bytes")]
            .into_iter()
            .enumerate()
    {
        let asked = call(&relay, "b", LONG);
        assert!(relay.answered(taker.nth(n).await, answer));
        let why = why(asked).await;
        assert!(why.contains(part), "{why}");
    }
}

#[tokio::test]
async fn what_is_not_answered_ends_at_its_deadline_and_is_called_back() {
    let (relay, taker, _) = with_taker();
    let asked = call(&relay, "b", SHORT);
    let number = taker.nth(0).await;
    assert!(why(asked).await.contains("no answer within 30 ms"));
    assert!(taker.is_called_back(number));
    assert!(!relay.answered(number, words(b"late")));
    assert_eq!(relay.under_way(), 0);
}

#[tokio::test]
async fn who_gives_up_calls_it_back() {
    let (relay, taker, _) = with_taker();
    let asked = call(&relay, "b", LONG);
    let number = taker.nth(0).await;
    asked.abort();
    assert!(asked.await.expect_err("aborted").is_cancelled());
    assert!(taker.is_called_back(number));
    assert_eq!(relay.under_way(), 0);
}

#[tokio::test]
async fn nothing_is_handed_over_for_who_is_not_there() {
    let (relay, taker, courier) = with_taker();
    assert!(why(call(&relay, "c", LONG)).await.contains("cannot be reached"));
    relay.tell(courier, "c", true);
    let asked = call(&relay, "c", LONG);
    let number = taker.nth(0).await;
    let lost = tokio::spawn(relay.lost("c"));
    relay.tell(courier, "c", false);
    assert!(why(asked).await.contains("cannot be reached"));
    ends(lost).await.expect("ends");
    assert!(taker.is_called_back(number));
    let there = tokio::spawn(relay.reachable("c"));
    relay.tell(courier, "c", true);
    ends(there).await.expect("ends");
}

#[tokio::test]
async fn all_ends_with_the_courier_and_the_next_one_begins_with_nobody() {
    let (relay, taker, first) = with_taker();
    let asked = call(&relay, "b", LONG);
    let number = taker.nth(0).await;
    relay.detach(first);
    assert!(why(asked).await.starts_with("the transport, to b: "));
    assert!(!relay.answered(number, words(b"late")));
    ends(relay.lost("b")).await;

    let second = relay.attach(taker.clone());
    // the former's word counts no more, and its end is no end of this one
    relay.tell(first, "b", true);
    assert!(why(call(&relay, "b", LONG)).await.contains("cannot be reached"));
    relay.tell(second, "b", true);
    relay.detach(first);
    let asked = call(&relay, "b", LONG);
    let third_number = taker.nth(1).await;

    // taken over by another one
    let third = relay.attach(taker.clone());
    relay.tell(third, "b", true);
    assert!(why(asked).await.contains("who carried it is gone"));
    assert!(!relay.answered(third_number, words(b"late")));

    taker.is_deaf.store(true, Ordering::SeqCst);
    assert!(why(call(&relay, "b", LONG)).await.contains("gone"));
    assert_eq!(relay.under_way(), 0);
}

#[tokio::test]
async fn one_that_does_not_answer_takes_only_its_own_places() {
    let (relay, taker, courier) = with_taker();
    let hung: Vec<Call> = (0..UNDER_WAY_MAX).map(|_| call(&relay, "b", LONG)).collect();
    taker.nth(UNDER_WAY_MAX - 1).await;
    // its deadline counts from when it came
    assert!(why(call(&relay, "b", SHORT)).await.contains("no answer"));
    assert_eq!(relay.under_way(), UNDER_WAY_MAX);
    assert_eq!(taker.taken.lock().len(), UNDER_WAY_MAX);

    relay.tell(courier, "c", true);
    let other = call(&relay, "c", LONG);
    assert!(relay.answered(taker.nth(UNDER_WAY_MAX).await, words(b"c's")));
    assert_eq!(other.await.expect("ends").expect("answered"), Bytes::from_static(b"c's"));

    let next = call(&relay, "b", LONG);
    hung[3].abort();
    assert!(relay.answered(taker.nth(UNDER_WAY_MAX + 1).await, words(b"next")));
    next.await.expect("ends").expect("answered");

    // who is no member any more is waited for by nobody
    let waits = call(&relay, "b", LONG);
    let last = call(&relay, "b", LONG);
    taker.nth(UNDER_WAY_MAX + 2).await;
    relay.learn(&[MemberAt { name: "c".to_owned(), address: String::new() }]);
    let ended = ends(async {
        tokio::select! { ended = waits => ended, ended = last => ended }
    })
    .await;
    assert!(ended.expect("ends").expect_err("no member").to_string().contains("no member"));
}

#[test]
fn only_members_are_answered() {
    let (net, nodes) = cluster(&["a", "b"]);
    nodes[0].write("f", b"f", Ack::All).expect("written");
    let asked: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    let heard = asked.clone();
    // what b is asked is looked at
    *net.lie.lock() = Some(Box::new(move |_who, request, answer| {
        heard.lock().push(Bytes::copy_from_slice(request));
        answer
    }));
    nodes[0].write("g", b"g", Ack::All).expect("written");
    let push = asked.lock().last().cloned().expect("asked");

    let answer = |from: &str, request: Bytes| {
        let (sent, came) = mpsc::channel();
        nodes[0].mesh.answer(from, request, move |answer| drop(sent.send(answer)));
        came.recv_timeout(crate::common::SOON).expect("an answer")
    };
    for from in ["c", "a", ""] {
        let error = answer(from, push.clone()).expect_err("no other member");
        assert_eq!(error.kind(), Kind::Invalid);
    }
    assert_eq!(answer("b", Bytes::from(vec![1; MESSAGE_LEN_MAX + 1])).expect_err("too long").kind(), Kind::Invalid);
    for junk in [&b""[..], b"\0", b"\x01\xff\xff", b"\x02\x00"] {
        assert!(!answer("b", Bytes::copy_from_slice(junk)).expect("refused in words").is_empty());
    }
    assert!(!answer("b", push).expect("answered").is_empty());
    until("both have it", || nodes[1].read("g").is_ok_and(|bytes| bytes == b"g"));
    assert_eq!(nodes[1].mesh.stat(&name("g")).expect("known").conflicts, 0);
}
