//! Peers that mean harm, strangers and members alike: each ends its own connection, nothing grows, and
//! a good peer's link beside them goes on.

mod common;

use common::raw::{config, connect, frame, hello, read_to_end, refusal, welcomed};
use common::*;
use macula_core::{Clock, SystemClock};
use macula_net::{Limits, Link, Options, Peer, Purpose, Role, Transport};
use rustls::ClientConfig;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A listener `b`, a good link to it, and what a hostile member `a` needs.
struct Scene {
    _cluster: Cluster,
    node: Node,
    good: Link,
    config: Arc<ClientConfig>,
    own: Peer,
}

async fn scene(options: Options) -> Scene {
    let cluster = Cluster::new();
    let node = listen(cluster.net("b", Role::Member, options));
    let good = node.link(&cluster.member("good"), "b", Purpose::Raft);
    assert!(good.connected(SOON).await);
    let dir = cluster.issue("a", Role::Member);
    let own = net(Transport::Tls(cluster.identity(&dir)), common::options()).transport.own();
    let config = config(&*cluster.disk, Some(&dir));
    Scene { _cluster: cluster, node, good, config, own }
}

impl Scene {
    async fn member(&self) -> raw::Tls {
        welcomed(self.config.clone(), self.node.listener.address(), &self.own, "b").await
    }

    /// The good link never noticed, and of the others nothing is left.
    async fn unharmed(&self) {
        assert_eq!(echo(&self.good, b"good").await.expect("answered"), &b"good"[..]);
        assert_eq!(self.good.status().connections, 1);
        until("all are gone", || {
            let stats = self.node.listener.stats();
            (stats.handshakes_now, stats.links_now) == (0, 1)
        })
        .await;
    }
}

fn since(began: Duration) -> Duration {
    SystemClock.monotonic() - began
}

fn noise(rng: &mut fastrand::Rng, len_max: usize) -> Vec<u8> {
    (0..rng.usize(1..=len_max)).map(|_| rng.u8(..)).collect()
}

#[test]
fn random_bytes_from_strangers() {
    let mut rng = fastrand::Rng::with_seed(seed());
    runtime().block_on(async {
        let scene = scene(options()).await;
        for _ in 0..count(200, 20_000) {
            let mut tcp = TcpStream::connect(scene.node.listener.address()).await.expect("connects");
            let mut bytes = noise(&mut rng, 600);
            if rng.bool() {
                // looks like a TLS record of a handshake
                bytes.splice(0..0, [22, 3, 1, 0, rng.u8(..), 1, 0, 0]);
            }
            let _ = tcp.write_all(&bytes).await;
            let _ = tcp.shutdown().await;
            let answer = read_to_end(&mut tcp).await;
            assert!(answer.len() < 4000 && !answer.windows(8).any(|bytes| bytes == b"MACULALN"), "{answer:?}");
        }
        scene.unharmed().await;
    });
}

#[test]
fn random_bytes_and_broken_frames_from_members() {
    let mut rng = fastrand::Rng::with_seed(seed());
    runtime().block_on(async {
        let scene = scene(options()).await;
        for _ in 0..count(150, 10_000) {
            let greeted = rng.bool();
            let mut tls = match greeted {
                true => scene.member().await,
                false => connect(scene.config.clone(), scene.node.listener.address()).await.expect("connects"),
            };
            let mut bytes = match rng.u8(..3) {
                0 => noise(&mut rng, 2000),
                1 => frame(1, 0, 0, &hello([1, 1], 1, &scene.own, "b")),
                _ => [frame(4, ECHO, 1, &noise(&mut rng, 500)), frame(7, 0, 1, b"")].concat(),
            };
            for _ in 0..rng.usize(0..4) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            bytes.truncate(rng.usize(1..=bytes.len()));
            let _ = tls.write_all(&bytes).await;
            let _ = tls.shutdown().await;
            read_to_end(&mut tls).await;
        }
        scene.unharmed().await;
    });
}

/// What a member said to the listener, said again word for word: TLS lets nobody in by it.
#[test]
fn a_recorded_handshake_opens_nothing() {
    runtime().block_on(async {
        let scene = scene(options()).await;
        let proxy = TcpListener::bind(any_port()).await.expect("listens");
        let at = proxy.local_addr().expect("bound");
        let link = scene._cluster.member("d").link(name("b"), at.to_string(), Purpose::Raft);
        let (from, _) = proxy.accept().await.expect("accepts");
        let to = TcpStream::connect(scene.node.listener.address()).await.expect("connects");
        let ((mut from_read, mut from_write), (mut to_read, mut to_write)) = (from.into_split(), to.into_split());
        let answers = tokio::spawn(async move { tokio::io::copy(&mut to_read, &mut from_write).await });
        let words = tokio::spawn(async move {
            let (mut recorded, mut chunk) = (Vec::new(), [0; 4096]);
            while let Ok(len @ 1..) = from_read.read(&mut chunk).await {
                recorded.extend(&chunk[..len]);
                if to_write.write_all(&chunk[..len]).await.is_err() {
                    break;
                }
            }
            recorded
        });
        assert!(link.connected(SOON).await);
        assert_eq!(echo(&link, b"recorded").await.expect("answered"), &b"recorded"[..]);
        drop((link, proxy));
        let recorded = words.await.expect("recorded");
        answers.abort();
        let (seen, linked) = (scene.node.echo.count.load(Ordering::SeqCst), scene.node.listener.stats().linked);
        assert!(seen == 1 && linked == 2 && recorded.len() > 800, "{seen} {linked} {}", recorded.len());
        let mut again = TcpStream::connect(scene.node.listener.address()).await.expect("connects");
        again.write_all(&recorded).await.expect("written");
        read_to_end(&mut again).await;
        until("counted", || scene.node.listener.stats().unproven == 1).await;
        assert_eq!(scene.node.listener.stats().linked, linked);
        assert_eq!(scene.node.echo.count.load(Ordering::SeqCst), seen);
        scene.unharmed().await;
    });
}

#[test]
fn an_oversized_length_is_refused_before_it_is_read() {
    runtime().block_on(async {
        let scene = scene(options()).await;
        for (of, len) in [(4u8, options().raft.frame_len_max + 1), (4, u32::MAX), (7, 1)] {
            let mut tls = scene.member().await;
            let mut head = frame(of, 0, 1, b"");
            head[..4].copy_from_slice(&u32::to_le_bytes(len));
            tls.write_all(&head).await.expect("written");
            let (code, words) = refusal(&mut tls).await;
            assert!(code == 8 && words.contains(&format!("len={len}")), "{code} {words}");
        }
        let mut tls = connect(scene.config.clone(), scene.node.listener.address()).await.expect("connects");
        let mut head = frame(1, 0, 0, b"");
        head[..4].copy_from_slice(&1025u32.to_le_bytes());
        tls.write_all(&head).await.expect("written");
        assert_eq!(refusal(&mut tls).await.0, 8);
        scene.unharmed().await;
    });
}

/// A byte now and then keeps no frame open for ever, and a connection that says nothing goes sooner.
#[test]
fn slow_and_silent_members_are_cut() {
    runtime().block_on(async {
        let scene = scene(Options { frame_ms_max: 700, ..options() }).await;
        let began = SystemClock.monotonic();
        let mut silent = scene.member().await;
        let mut slow = scene.member().await;
        let slowly = async {
            for byte in frame(4, ECHO, 1, &[0; 1000]) {
                if slow.write_all(&[byte]).await.is_err() || slow.flush().await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            panic!("the frame was taken");
        };
        slowly.await;
        read_to_end(&mut silent).await;
        assert!(since(began) < Duration::from_secs(4), "{:?}", since(began));
        until("both are cut", || scene.node.listener.stats().cut == 2).await;
        scene.unharmed().await;
    });
}

/// Asking without reading the answers: they do not pile up here.
#[test]
fn a_member_that_takes_no_answers_is_bounded_and_cut() {
    runtime().block_on(async {
        let small =
            Limits { frame_len_max: 1 << 20, calls_max: 1000, calls_bytes_max: 1 << 20, answers_bytes_max: 4 << 20 };
        let scene = scene(Options { raft: small, frame_ms_max: 500, ..options() }).await;
        let mut tls = scene.member().await;
        let ask = frame(4, LONG, 1, &(900_000u32).to_le_bytes());
        let began = SystemClock.monotonic();
        let asking = async { while tls.write_all(&ask).await.is_ok() && tls.flush().await.is_ok() {} };
        // whichever comes first: too many answers wait, or the one being written is not taken
        tokio::time::timeout(SOON * 2, asking).await.expect("cut off");
        assert!(since(began) < Duration::from_secs(9), "{:?}", since(began));
        scene.unharmed().await;
    });
}

#[test]
fn more_open_requests_than_allowed_end_the_link() {
    runtime().block_on(async {
        let small = Limits { calls_max: 10, ..Limits::raft() };
        let scene = scene(Options { raft: small, ..options() }).await;
        let mut tls = scene.member().await;
        let asks: Vec<u8> = (0..11).flat_map(|id| frame(4, KEEP, id, b"x")).collect();
        tls.write_all(&asks).await.expect("written");
        let (code, words) = refusal(&mut tls).await;
        assert!(code == 8 && words.contains("calls=10"), "{code} {words}");
        assert_eq!(scene.node.echo.kept.lock().expect("whole").len(), 10);
        // answers to nobody do no harm
        scene.node.echo.kept.lock().expect("whole").drain(..).for_each(|reply| reply.send(&b"x"[..]));
        scene.unharmed().await;
    });
}

/// Five hundred connections that say nothing: a good peer is in within a second, and what the flood
/// holds is bounded.
#[test]
fn a_flood_of_half_open_connections_keeps_nobody_out() {
    runtime().block_on(async {
        let scene = scene(options()).await;
        let address = scene.node.listener.address();
        let mut flood = Vec::new();
        for nth in 0..500 {
            let mut tcp = TcpStream::connect(address).await.expect("connects");
            if nth % 2 == 0 {
                tcp.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).await.expect("written");
            }
            flood.push(tcp);
        }
        let began = SystemClock.monotonic();
        let link = scene.node.link(&scene._cluster.member("late"), "b", Purpose::Raft);
        assert!(link.connected(Duration::from_secs(1)).await, "{:?}", link.status());
        assert_eq!(echo(&link, b"in").await.expect("answered"), &b"in"[..]);
        assert!(since(began) < Duration::from_secs(1), "{:?}", since(began));
        let stats = scene.node.listener.stats();
        assert!(stats.handshakes_now <= options().handshakes_max && stats.displaced >= 370, "{stats:?}");
        drop(link);
        drop(flood);
        scene.unharmed().await;
    });
}
