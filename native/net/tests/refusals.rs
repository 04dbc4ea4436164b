//! Who is kept out, how, and with which words: nobody without a certificate gets any.

mod common;

use common::raw::{config, connect, frame, hello, read_to_end, refusal, welcomed};
use common::*;
use macula_core::{Kind, Kinded, SystemClock};
use macula_net::{Identity, Net, NetError, Options, Purpose, Reason, Role, Transport};
use macula_testkit::SimClock;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

async fn reason(link: &macula_net::Link) -> Reason {
    match refused(link).await {
        NetError::Refused(refusal) => refusal.reason,
        other => panic!("not refused: {other:?}"),
    }
}

async fn tls_error(link: &macula_net::Link) -> String {
    match refused(link).await {
        error @ NetError::Tls(_) => {
            assert_eq!(error.kind(), Kind::Permission);
            error.to_string()
        }
        other => panic!("not by tls: {other:?}"),
    }
}

/// Under TLS 1.3 a client without a certificate thinks that it is connected: its hello must get it nothing.
#[test]
fn no_certificate_gets_an_alert_and_not_a_byte() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let node = listen(cluster.member("b"));
        let mut tls = connect(config(&*cluster.disk, None), node.listener.address()).await.expect("so it seems");
        let from = cluster.member("a").transport.own();
        tls.write_all(&frame(1, 0, 0, &hello([1, 1], 1, &from, "b"))).await.expect("so it seems");
        let mut byte = [0];
        let end = tokio::io::AsyncReadExt::read(&mut tls, &mut byte).await;
        assert!(matches!(&end, Err(error) if error.to_string().contains("CertificateRequired")), "{end:?}");
        until("counted", || node.listener.stats().unproven == 1).await;
        assert_eq!(node.listener.stats().bytes_out, 0);
    });
}

#[test]
fn a_foreign_authority_is_refused_on_both_sides() {
    runtime().block_on(async {
        let (ours, theirs) = (Cluster::new(), Cluster::new());
        let node = listen(ours.member("b"));
        // the dialler notices first
        let link = node.link(&theirs.member("a"), "b", Purpose::Raft);
        assert!(tls_error(&link).await.contains("UnknownIssuer"));
        // and one that does not care is told by an alert
        let dir = theirs.issue("a", Role::Member);
        let mut tls = connect(config(&*theirs.disk, Some(&dir)), node.listener.address()).await.expect("so it seems");
        let own = theirs.member("a").transport.own();
        let _ = tls.write_all(&frame(1, 0, 0, &hello([1, 1], 1, &own, "b"))).await;
        assert_eq!(read_to_end(&mut tls).await, b"");
        assert_eq!(node.listener.stats().linked, 0);
    });
}

#[test]
fn an_expired_certificate_is_refused() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let node = listen(cluster.member("b"));
        let past = Arc::new(SimClock::new(macula_core::Clock::wall_ms(&SystemClock) - 3 * 86_400_000));
        let dir = cluster.issue_from(&cluster.authority, "a", Role::Member, &[&cluster.authority], &*past);
        let expired = Identity::load(cluster.disk.clone(), dir.clone(), Arc::new(SystemClock)).expect_err("expired");
        assert!(expired.to_string().contains("expired"), "{expired}");
        // a node whose clock stands in the past uses it all the same
        Identity::load(cluster.disk.clone(), dir.clone(), past).expect("valid then");
        let mut tls = connect(config(&*cluster.disk, Some(&dir)), node.listener.address()).await.expect("so it seems");
        let _ = tls.write_all(&frame(1, 0, 0, &hello([1, 1], 1, &cluster.member("a").transport.own(), "b"))).await;
        let end = tokio::io::AsyncReadExt::read(&mut tls, &mut [0]).await;
        assert!(matches!(&end, Err(error) if error.to_string().contains("CertificateExpired")), "{end:?}");
    });
}

/// A machine without a battery for its clock wakes up in 1970: its own certificate tells it better.
#[test]
fn a_clock_that_fell_back_keeps_nobody_out() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let node = listen(cluster.member("b"));
        let dir = cluster.issue("a", Role::Member);
        let identity = Identity::load(cluster.disk.clone(), dir, Arc::new(SimClock::new(0))).expect("loads");
        let validity = identity.validity();
        assert!(validity.until_ms > validity.from_ms + 86_400_000);
        let link = node.link(&net(Transport::Tls(identity), options()), "b", Purpose::Raft);
        assert!(link.connected(SOON).await, "{:?}", link.status());
    });
}

/// Both authorities are in the bundle, as one careless operator may put them there.
#[test]
fn a_trusted_authority_of_another_cluster_opens_nothing() {
    runtime().block_on(async {
        let (ours, theirs) = (Cluster::new(), Cluster::new());
        let read = |cluster: &Cluster, dir: &str, file: &str| {
            let file = path(dir).join(file).expect("a path");
            macula_core::read_all(&*cluster.disk, &file, 1 << 20).expect("read")
        };
        let both = [read(&ours, "authority", "ca.pem"), read(&theirs, "authority", "ca.pem")].concat();
        let careless = |cluster: &Cluster, node: &str| {
            let dir = cluster.issue(node, Role::Member);
            let (ca, new) = (dir.join("ca.pem").expect("a path"), dir.join("new").expect("a path"));
            macula_core::write_durably(&*cluster.disk, &ca, &new, &both).expect("written");
            (net(Transport::Tls(cluster.identity(&dir)), options()), dir)
        };
        let node = listen(careless(&ours, "b").0);
        let (stranger, dir) = careless(&theirs, "a");
        assert_eq!(reason(&node.link(&stranger, "b", Purpose::Raft)).await, Reason::Cluster);
        // one that does not look at our certificate is told at hello
        let mut tls = connect(config(&*theirs.disk, Some(&dir)), node.listener.address()).await.expect("connects");
        tls.write_all(&frame(1, 0, 0, &hello([1, 1], 1, &stranger.transport.own(), "b"))).await.expect("written");
        let (code, words) = refusal(&mut tls).await;
        assert!(code == 2 && words.contains("another cluster"), "{code} {words}");
        until("counted", || node.listener.stats().refused == 1).await;
    });
}

#[test]
fn roles_names_and_versions() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let node = listen(cluster.member("b"));
        let client = cluster.net("c", Role::Client, options());
        for (purpose, wanted) in [(Purpose::Raft, false), (Purpose::Bulk, false), (Purpose::Client, true)] {
            let link = node.link(&client, "b", purpose);
            match wanted {
                true => assert!(link.connected(SOON).await),
                false => assert_eq!(reason(&link).await, Reason::Purpose),
            }
        }
        // the node at that address is another than the one dialled
        let link = node.link(&cluster.member("a"), "x", Purpose::Raft);
        assert_eq!(reason(&link).await, Reason::Node);
        // a client's certificate cannot listen
        let fake = listen(cluster.net("m", Role::Client, options()));
        let link = fake.link(&cluster.member("a"), "m", Purpose::Raft);
        assert!(matches!(refused(&link).await, NetError::Refused(_) | NetError::Tls(_)));
        let dir = cluster.issue("a", Role::Member);
        let own = net(Transport::Tls(cluster.identity(&dir)), options()).transport.own();
        let mut claim = own.clone();
        claim.node = name("z");
        for (versions, from, to, code) in [([2, 3], &own, "b", 1), ([1, 1], &claim, "b", 3), ([1, 1], &own, "y", 4)] {
            let mut tls = connect(config(&*cluster.disk, Some(&dir)), node.listener.address()).await.expect("connects");
            tls.write_all(&frame(1, 0, 0, &hello(versions, 1, from, to))).await.expect("written");
            let (found, words) = refusal(&mut tls).await;
            assert_eq!(found, code, "{words}");
            assert_eq!(read_to_end(&mut tls).await, b"");
        }
        // a newer dialler that still speaks our version may say more than we know
        let mut tls = connect(config(&*cluster.disk, Some(&dir)), node.listener.address()).await.expect("connects");
        let more = [&hello([1, 9], 1, &own, "b")[..], b"more"].concat();
        tls.write_all(&frame(1, 0, 0, &more)).await.expect("written");
        assert_eq!(raw::read_frame(&mut tls).await.expect("an answer").0, 2);
    });
}

#[test]
fn who_left_is_cut_off_before_its_next_frame_and_does_not_come_back() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let node = listen(cluster.net("b", Role::Member, Options { ping_ms: 100_000, ..options() }));
        let slow = Options { ping_ms: 100_000, silence_ms_max: 200_000, ..options() };
        let from = cluster.net("a", Role::Member, slow);
        let (link, other) = (node.link(&from, "b", Purpose::Raft), node.link(&cluster.member("d"), "b", Purpose::Raft));
        assert!(link.connected(SOON).await && other.connected(SOON).await);
        assert_eq!(echo(&link, b"member").await.expect("answered"), &b"member"[..]);
        node.members.leave("a");
        // neither side's timer runs: the frame itself is refused
        let cut = echo(&link, b"left").await.expect_err("refused");
        assert!(matches!(&cut, NetError::Lost(why) if why.contains("it left")), "{cut:?}");
        assert_eq!(reason(&link).await, Reason::NotAdmitted);
        assert_eq!(echo(&other, b"stays").await.expect("answered"), &b"stays"[..]);
        assert_eq!(node.echo.count.load(std::sync::atomic::Ordering::SeqCst), 2);
    });
}

#[test]
fn who_left_is_cut_off_also_when_it_is_silent() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let node = listen(cluster.member("b"));
        let slow = Options { ping_ms: 100_000, silence_ms_max: 200_000, ..options() };
        let from = cluster.net("a", Role::Member, slow);
        let link = node.link(&from, "b", Purpose::Raft);
        assert!(link.connected(SOON).await);
        node.members.leave("a");
        assert!(link.disconnected(Duration::from_secs(1)).await);
        until("counted", || node.listener.stats().cut == 1 && node.listener.stats().links_now == 0).await;
    });
}

#[test]
fn one_peer_has_so_many_links_and_no_more() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let node = listen(cluster.net("b", Role::Member, Options { links_per_peer_max: 3, ..options() }));
        let from: Net = cluster.member("a");
        let links: Vec<_> = (0..3).map(|_| node.link(&from, "b", Purpose::Client)).collect();
        for link in &links {
            assert!(link.connected(SOON).await);
        }
        let fourth = node.link(&from, "b", Purpose::Client);
        assert_eq!(reason(&fourth).await, Reason::TooMany);
        drop(links);
        assert!(fourth.connected(SOON).await, "there is room again");
    });
}

/// The wire format from outside: a request of a member by hand, its answer, and what is not due.
#[test]
fn frames_by_hand() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let node = listen(cluster.member("b"));
        let dir = cluster.issue("a", Role::Member);
        let own = net(Transport::Tls(cluster.identity(&dir)), options()).transport.own();
        let config = config(&*cluster.disk, Some(&dir));
        let mut tls = welcomed(config, node.listener.address(), &own, "b").await;
        tls.write_all(&[frame(4, ECHO, 77, b"by hand"), frame(7, 0, 5, b""), frame(4, DROP, 78, b"")].concat())
            .await
            .expect("written");
        let mut got = Vec::new();
        while got.len() < 3 {
            let (of, id, payload) = raw::read_frame(&mut tls).await.expect("a frame");
            if (of, id) != (8, 0) {
                got.push((of, id, payload));
            }
        }
        assert_eq!(got[0], (5, 77, b"by hand".to_vec()));
        assert_eq!((got[1].0, got[1].1, got[2].0, got[2].1), (8, 5, 6, 78));
        // an answer from the dialler is not due
        tls.write_all(&frame(5, 0, 1, b"")).await.expect("written");
        assert_eq!(refusal(&mut tls).await.0, 8);
    });
}
