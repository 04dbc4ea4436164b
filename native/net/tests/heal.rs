//! Links that break: restarts, pauses, cuts and one-way losses, by a proxy in between. They notice,
//! say so, and come back by themselves.

mod common;

use common::*;
use macula_core::{Clock, SystemClock};
use macula_net::{Link, NetError, Options, Purpose, Role};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the proxy does with the bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Weather {
    Fair,
    /// Each chunk that much later.
    Slow(Duration),
    /// What the dialler sends is lost.
    NoWords,
    /// What the listener sends is lost.
    NoAnswers,
    /// Nothing passes, nobody is told.
    Dark,
    /// Every connection is cut.
    Cut,
}

struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
}

impl Proxy {
    async fn to(target: SocketAddr) -> Self {
        let socket = TcpListener::bind(any_port()).await.expect("listens");
        let address = socket.local_addr().expect("bound");
        let weather = watch::Sender::new(Weather::Fair);
        let seen = weather.subscribe();
        tokio::spawn(async move {
            while let Ok((from, _)) = socket.accept().await {
                let Ok(to) = TcpStream::connect(target).await else { continue };
                let mut seen = seen.clone();
                tokio::spawn(async move {
                    let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
                    tokio::select! {
                        () = pump(from_read, to_write, seen.clone(), Weather::NoWords) => {}
                        () = pump(to_read, from_write, seen.clone(), Weather::NoAnswers) => {}
                        _ = seen.wait_for(|weather| *weather == Weather::Cut) => {}
                    }
                });
            }
        });
        Self { address, weather }
    }

    fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut weather: watch::Receiver<Weather>,
    lossy: Weather,
) {
    let mut chunk = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut chunk).await {
        let now = *weather.borrow();
        match now {
            Weather::Slow(by) => tokio::time::sleep(by).await,
            // as on a wire that is cut: later bytes of that connection never make sense again
            now if now == lossy || now == Weather::Dark => {
                let _ = weather.wait_for(|weather| *weather == Weather::Cut).await;
                return;
            }
            _ => {}
        }
        if to.write_all(&chunk[..len]).await.is_err() {
            return;
        }
    }
}

fn through(proxy: &Proxy, from: &macula_net::Net) -> Link {
    from.link(name("b"), proxy.address.to_string(), Purpose::Raft)
}

#[test]
fn a_restarted_listener_is_found_again() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let side = cluster.member("b");
        let mut node = listen(side.clone());
        let address = node.listener.address();
        let link =
            node.link(&cluster.net("a", Role::Member, Options { retry_ms_max: 1000, ..options() }), "b", Purpose::Raft);
        assert!(link.connected(SOON).await);
        for gone_ms in [0, 10, 1500] {
            node.listener.close().await;
            assert!(link.disconnected(SOON).await);
            tokio::time::sleep(Duration::from_millis(gone_ms)).await;
            let fast = link.call(ECHO, &b"x"[..], SOON).await;
            assert!(matches!(fast, Err(NetError::Unreachable { .. })), "{fast:?}");
            node = listen_at(side.clone(), address);
            assert!(link.connected(Duration::from_millis(1300)).await, "{gone_ms} {:?}", link.status());
            assert_eq!(echo(&link, b"back").await.expect("answered"), &b"back"[..]);
        }
    });
}

#[test]
fn a_poke_tries_at_once() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let side = cluster.member("b");
        let node = listen(side.clone());
        let address = node.listener.address();
        node.listener.close().await;
        let slow = Options { retry_ms_min: 60_000, retry_ms_max: 60_000, ..options() };
        let link = cluster.net("a", Role::Member, slow).link(name("b"), address.to_string(), Purpose::Raft);
        refused(&link).await;
        let node = listen_at(side, address);
        assert!(!link.connected(Duration::from_millis(300)).await);
        link.poke();
        assert!(link.connected(Duration::from_secs(1)).await);
        assert_eq!(node.listener.links().len(), 1);
        // and an address that changed, too
        node.listener.close().await;
        assert!(link.disconnected(SOON).await);
        let moved = listen(cluster.member("b"));
        link.set_address(moved.listener.address().to_string());
        assert!(link.connected(Duration::from_secs(1)).await);
    });
}

/// A peer that is stopped, or whose cable is out, sends no end: the pings find out, on both sides, also
/// when only one direction is lost.
#[test]
fn silence_is_noticed_and_healed() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let node = listen(cluster.member("b"));
        let proxy = Proxy::to(node.listener.address()).await;
        let link = Arc::new(through(&proxy, &cluster.member("a")));
        for weather in [Weather::Dark, Weather::NoWords, Weather::NoAnswers, Weather::Cut] {
            assert!(link.connected(SOON).await, "{weather:?} {:?}", link.status());
            let waiting = tokio::spawn({
                let link = link.clone();
                async move { link.call(KEEP, &b"x"[..], SOON * 10).await }
            });
            until("it is under way", || link.status().calls_now == 1).await;
            let began = SystemClock.monotonic();
            proxy.set(weather);
            assert!(link.disconnected(Duration::from_secs(3)).await, "{weather:?}");
            let lost = waiting.await.expect("no panic");
            assert!(matches!(lost, Err(NetError::Lost(_))), "{weather:?} {lost:?}");
            assert!(SystemClock.monotonic() - began < Duration::from_millis(2500), "{weather:?}");
            proxy.set(Weather::Cut);
            until("the other side noticed", || node.listener.stats().links_now == 0).await;
            proxy.set(Weather::Fair);
            assert!(link.connected(Duration::from_millis(2500)).await, "{weather:?} {:?}", link.status());
            assert_eq!(echo(&link, b"back").await.expect("answered"), &b"back"[..]);
        }
    });
}

/// The listener finds a dead dialler without anybody's help.
#[test]
fn a_dialler_that_vanished_is_let_go() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let node = listen(cluster.member("b"));
        let proxy = Proxy::to(node.listener.address()).await;
        let link = through(&proxy, &cluster.member("a"));
        assert!(link.connected(SOON).await);
        proxy.set(Weather::NoWords);
        until("it is let go", || node.listener.stats().links_now == 0).await;
        assert_eq!(node.listener.stats().cut, 1);
    });
}

/// Long frames on a slow wire are not silence: each side sends signs of life while they pass.
#[test]
fn a_slow_wire_is_not_a_dead_one() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let node = listen(cluster.member("b"));
        let proxy = Proxy::to(node.listener.address()).await;
        let link = through(&proxy, &cluster.member("a"));
        assert!(link.connected(SOON).await);
        proxy.set(Weather::Slow(Duration::from_millis(40)));
        let began = SystemClock.monotonic();
        let answer = link.call(ECHO, vec![7; 4 << 20], SOON * 6).await.expect("answered");
        assert_eq!(answer.len(), 4 << 20);
        let took = SystemClock.monotonic() - began;
        assert!(took > Duration::from_millis(options().silence_ms_max), "{took:?}");
        assert_eq!(link.status().connections, 1);
    });
}

#[test]
fn a_link_shakes_hands_again_at_its_age_and_no_call_notices() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let node = listen(cluster.member("b"));
        let young = Options { link_age_ms_max: 100, ..options() };
        let link = node.link(&cluster.net("a", Role::Member, young), "b", Purpose::Raft);
        assert!(link.connected(SOON).await);
        let mut calls = 0;
        while link.status().connections < 10 {
            echo(&link, b"x").await.expect("answered");
            calls += 1;
        }
        assert!(calls > 10);
        until("former ones are gone", || node.listener.stats().links_now <= 2).await;
        let since = link.status().connected_since.expect("connected");
        assert!(SystemClock.monotonic() - since > Duration::from_millis(500), "renewals are no interruption");
    });
}
