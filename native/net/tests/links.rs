//! What links do when nobody means harm: calls, their limits, and what their state says.

mod common;

use common::*;
use macula_core::{Kind, Kinded};
use macula_net::{Limits, NetError, Options, Peer, Purpose, Role, Transport};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn thousands_of_calls_both_ways() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let nodes = [listen(cluster.member("a@host")), listen(cluster.member("b@host"))];
        let links = [
            Arc::new(nodes[1].link(&nodes[0].net, "b@host", Purpose::Raft)),
            Arc::new(nodes[0].link(&nodes[1].net, "a@host", Purpose::Raft)),
        ];
        let mut calls = tokio::task::JoinSet::new();
        for link in &links {
            assert!(link.connected(SOON).await, "{:?}", link.status());
            for nth in 0..3000u32 {
                let link = link.clone();
                calls.spawn(async move {
                    let text = vec![nth as u8; (nth as usize * 37) % 3000];
                    assert_eq!(echo(&link, &text).await.expect("answered"), text);
                });
            }
        }
        while let Some(done) = calls.join_next().await {
            done.expect("answered");
        }
        for (node, link) in nodes.iter().zip(&links) {
            assert_eq!(node.echo.count.load(Ordering::SeqCst), 3000);
            let (stats, status) = (node.listener.stats(), link.status());
            assert_eq!((stats.linked, stats.links_now, stats.requests, stats.cut), (1, 1, 3000, 0));
            assert_eq!((status.connections, status.calls_now, status.failures), (1, 0, 0));
            assert!(status.connected_since.is_some() && status.bytes_in > 4_000_000 && status.rtt_us.is_some());
        }
    });
}

#[test]
fn requests_are_handled_in_the_order_of_their_calls_with_the_peer_of_the_certificate() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let node = listen(cluster.member("b"));
        let client = cluster.net("\u{e4} client", Role::Client, options());
        let link = node.link(&client, "b", Purpose::Client);
        assert!(link.connected(SOON).await);
        for nth in 0..500u32 {
            // polled once, so sent; nobody waits for the answer
            let call = link.call(KEEP, nth.to_le_bytes().to_vec(), SOON);
            assert!(tokio::time::timeout(Duration::ZERO, call).await.is_err());
        }
        until("all are there", || node.echo.seen.lock().expect("whole").len() == 500).await;
        for (nth, (peer, payload)) in node.echo.seen.lock().expect("whole").iter().enumerate() {
            assert_eq!(payload[..], (nth as u32).to_le_bytes());
            assert_eq!((peer.node.as_bytes(), peer.role), ("\u{e4} client".as_bytes(), Role::Client));
        }
        // their callers are gone; the answers still free what they took
        node.echo.kept.lock().expect("whole").drain(..).for_each(|reply| reply.send(&b"late"[..]));
        until("settled", || link.status().calls_now == 0).await;
        assert_eq!(echo(&link, b"on").await.expect("goes on"), &b"on"[..]);
    });
}

#[test]
fn what_a_call_can_meet_has_a_name_each() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let small = Limits { frame_len_max: 1000, calls_max: 2, calls_bytes_max: 1000, answers_bytes_max: 1500 };
        let options = Options { raft: small, ..options() };
        let node = listen(cluster.net("b", Role::Member, options));
        let link = node.link(&cluster.member("a"), "b", Purpose::Raft);
        let nobody = cluster.member("a").link(name("b"), "127.0.0.1:1", Purpose::Raft);
        let unreachable = nobody.call(ECHO, &b"x"[..], SOON).await;
        assert!(matches!(unreachable, Err(NetError::Unreachable { .. })), "{unreachable:?}");
        assert!(link.connected(SOON).await);
        assert!(matches!(link.call(DROP, &b"x"[..], SOON).await, Err(NetError::Failed(_))));
        let long = link.call(ECHO, vec![0; 1001], SOON).await;
        assert!(matches!(long, Err(NetError::TooLarge { len: 1001, len_max: 1000 })), "{long:?}");
        assert_eq!(link.call(ECHO, vec![1; 1000], SOON).await.expect("just fits").len(), 1000);
        let late = link.call(KEEP, &b"x"[..], Duration::from_millis(50)).await;
        assert!(matches!(late, Err(NetError::Timeout { .. })), "{late:?}");
        let late = link.call(KEEP, vec![0; 998], Duration::from_millis(50)).await.expect_err("no answer");
        assert_eq!(late.kind(), Kind::Timeout);
        // two are open: none goes out
        let busy = link.call(ECHO, &b""[..], Duration::from_millis(50)).await;
        assert!(matches!(busy, Err(NetError::Busy { .. })), "{busy:?}");
        assert_eq!(node.listener.stats().requests, 4);
        node.echo.kept.lock().expect("whole").pop();
        assert_eq!(echo(&link, b"room").await.expect("room"), &b"room"[..]);
        node.echo.kept.lock().expect("whole").clear();
        drop(node);
        assert!(link.disconnected(SOON).await);
        let gone = link.call(ECHO, &b"x"[..], SOON).await;
        assert!(matches!(gone, Err(NetError::Unreachable { .. })), "{gone:?}");
    });
}

#[test]
fn a_lost_connection_answers_every_call_on_it() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let node = listen(cluster.member("b"));
        let link = Arc::new(node.link(&cluster.member("a"), "b", Purpose::Raft));
        assert!(link.connected(SOON).await);
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let link = link.clone();
            calls.spawn(async move { link.call(KEEP, &b"x"[..], SOON * 10).await });
        }
        until("all are there", || node.echo.seen.lock().expect("whole").len() == 100).await;
        node.listener.close().await;
        while let Some(done) = calls.join_next().await {
            let lost = done.expect("no panic").expect_err("no answer");
            assert!(matches!(&lost, NetError::Lost(why) if why.contains("stops")), "{lost:?}");
            assert_eq!(lost.kind(), Kind::UnknownResult);
        }
    });
}

#[test]
fn a_handler_that_panics_ends_the_link_of_its_caller_only() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let node = listen(cluster.member("b"));
        let (one, other) = (cluster.member("a"), cluster.member("c"));
        let links = [node.link(&one, "b", Purpose::Raft), node.link(&other, "b", Purpose::Raft)];
        assert!(links[0].connected(SOON).await && links[1].connected(SOON).await);
        let lost = links[0].call(PANIC, &b"x"[..], SOON).await;
        assert!(matches!(lost, Err(NetError::Lost(_))), "{lost:?}");
        until("it is back", || links[0].status().connections == 2).await;
        for link in &links {
            assert_eq!(echo(link, b"on").await.expect("answered"), &b"on"[..]);
        }
        assert_eq!((links[0].status().connections, links[1].status().connections), (2, 1));
        until("its place is free", || node.listener.stats().links_now == 2).await;
    });
}

#[test]
fn an_answer_is_bounded_by_what_the_caller_takes() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let node = listen(cluster.member("b"));
        let small = Limits { frame_len_max: 100_000, ..Limits::raft() };
        let from = cluster.net("a", Role::Member, Options { raft: small, ..options() });
        let link = node.link(&from, "b", Purpose::Raft);
        assert!(link.connected(SOON).await);
        let answer = link.call(LONG, 100_000u32.to_le_bytes().to_vec(), SOON).await;
        assert_eq!(answer.expect("fits").len(), 100_000);
        let answer = link.call(LONG, 100_001u32.to_le_bytes().to_vec(), SOON).await;
        assert!(matches!(&answer, Err(NetError::Failed(why)) if why.contains("len=100001")), "{answer:?}");
        assert_eq!(link.status().connections, 1);
    });
}

#[test]
fn plain_links_stay_on_this_machine_and_work_there() {
    runtime().block_on(async {
        let id = macula_net::ClusterId([1; 16]);
        let plain = |node: &str| {
            let peer = Peer { node: name(node), role: Role::Member, cluster: id };
            net(Transport::PlainLoopback(peer), options())
        };
        let open = SocketAddr::from(([0, 0, 0, 0], 0));
        let (members, handler) = (Arc::new(Members::default()), Arc::new(Echo::default()));
        let refused = plain("b").listen(open, members, handler).expect_err("refused");
        assert!(matches!(refused, NetError::PlainNotLoopback(_)), "{refused:?}");
        let away = plain("a").link(name("b"), "192.0.2.1:1", Purpose::Raft);
        assert!(matches!(common::refused(&away).await, NetError::PlainNotLoopback(_)));
        let node = listen(plain("b"));
        let link = node.link(&plain("a"), "b", Purpose::Raft);
        assert!(link.connected(SOON).await, "{:?}", link.status());
        assert_eq!(echo(&link, b"plain").await.expect("answered"), &b"plain"[..]);
        let other = node.link(&plain("a"), "c", Purpose::Raft);
        assert!(matches!(common::refused(&other).await, NetError::Refused(refusal) if refusal.reason == macula_net::Reason::Target));
    });
}
