//! Certificates and authorities are replaced while calls go on, and those left behind are cut off.

mod common;

use common::*;
use macula_core::{RelPath, SystemChance, SystemClock};
use macula_net::{authority, Authority, Identity, Link, NetError, Purpose, Role, Transport};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// A node whose directory is replaced as an operator does it.
struct Rotating {
    name: &'static str,
    dir: RelPath,
    identity: Arc<Identity>,
}

impl Rotating {
    fn new(cluster: &Cluster, name: &'static str) -> Self {
        let dir = cluster.issue(name, Role::Member);
        let identity = cluster.identity(&dir);
        Self { name, dir, identity }
    }

    fn rotate(&self, cluster: &Cluster, from: &Authority, trust: &[&Authority]) {
        let fresh = cluster.issue_from(from, self.name, Role::Member, trust, &SystemClock);
        authority::install(&*cluster.disk, &fresh, &self.dir).expect("installed");
        self.identity.reload().expect("reloaded");
    }
}

/// Calls one after the other until told to stop; how many, none of which failed.
fn traffic(link: &Arc<Link>) -> (Arc<AtomicBool>, tokio::task::JoinHandle<u64>) {
    let (stop, link) = (Arc::new(AtomicBool::new(false)), link.clone());
    let stopped = stop.clone();
    let calls = tokio::spawn(async move {
        let mut count = 0;
        while !stopped.load(Ordering::SeqCst) {
            let answers = futures(&link, count).await;
            assert!(answers.iter().all(Result::is_ok), "{answers:?}");
            count += answers.len() as u64;
        }
        count
    });
    (stop, calls)
}

async fn futures(link: &Arc<Link>, nth: u64) -> Vec<Result<bytes::Bytes, NetError>> {
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let link = link.clone();
        calls.spawn(async move { echo(&link, &vec![nth as u8; 3000]).await });
    }
    calls.join_all().await
}

#[test]
fn the_authority_is_replaced_under_traffic() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let nodes = [Rotating::new(&cluster, "a"), Rotating::new(&cluster, "b")];
        let node = listen(net(Transport::Tls(nodes[1].identity.clone()), options()));
        let from = net(Transport::Tls(nodes[0].identity.clone()), options());
        let link = Arc::new(node.link(&from, "b", Purpose::Raft));
        assert!(link.connected(SOON).await);
        let (stop, calls) = traffic(&link);
        let old = &cluster.authority;
        let new = old.successor(&*cluster.disk, &path("next"), &SystemClock, &SystemChance).expect("created");
        assert_eq!(new.cluster(), old.cluster());
        // everyone trusts both; everyone shows the new one's; nobody trusts the old
        for (issuer, trust) in [(old, &[old, &new][..]), (&new, &[old, &new]), (&new, &[&new])] {
            for rotating in &nodes {
                let before = link.status().connections;
                rotating.rotate(&cluster, issuer, trust);
                if rotating.name == "a" {
                    until("renewed", || link.status().connections > before).await;
                }
            }
        }
        // a connection from before the last reload of the listener's side is not renewed by the dialler
        until("the stale one is gone", || node.listener.stats().links_now == 1).await;
        assert!(echo(&link, b"on").await.is_ok());
        stop.store(true, Ordering::SeqCst);
        let calls = calls.await.expect("none failed");
        assert!(calls > 100, "{calls}");
        // who was left behind is a stranger now
        let left = node.link(&cluster.member("c"), "b", Purpose::Raft);
        assert!(matches!(refused(&left).await, NetError::Tls(_)));
    });
}

/// A node that does not renew is cut off by the other side within the stated time.
#[test]
fn a_link_of_an_old_certificate_does_not_live_on() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let listener = Rotating::new(&cluster, "b");
        let node = listen(net(Transport::Tls(listener.identity.clone()), options()));
        let link = node.link(&cluster.member("a"), "b", Purpose::Raft);
        assert!(link.connected(SOON).await);
        let new = cluster.authority.successor(&*cluster.disk, &path("next"), &SystemClock, &SystemChance);
        let new = new.expect("created");
        listener.rotate(&cluster, &new, &[&new]);
        assert!(echo(&link, b"for a while").await.is_ok());
        let renew = Duration::from_millis(options().renew_ms_max * 2 + options().ping_ms * 3);
        assert!(link.disconnected(renew * 2).await, "twice the time to renew");
        until("it does not come back", || matches!(link.status().last_error, Some(NetError::Tls(_)))).await;
    });
}

#[test]
fn a_reload_that_finds_anything_wrong_changes_nothing() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let rotating = Rotating::new(&cluster, "a");
        let node = listen(cluster.member("b"));
        let from = net(Transport::Tls(rotating.identity.clone()), options());
        let link = node.link(&from, "b", Purpose::Raft);
        assert!(link.connected(SOON).await);
        let foreign = Cluster::new();
        let replace = |file: &str, bytes: &[u8]| {
            let (at, new) = (rotating.dir.join(file).expect("a path"), rotating.dir.join("new").expect("a path"));
            macula_core::write_durably(&*cluster.disk, &at, &new, bytes).expect("written");
        };
        let read = |cluster: &Cluster, dir: &RelPath, file: &str| {
            macula_core::read_all(&*cluster.disk, &dir.join(file).expect("a path"), 1 << 20).expect("read")
        };
        let other = cluster.issue("a", Role::Member);
        let named = cluster.issue("z", Role::Member);
        let stranger = foreign.issue("a", Role::Member);
        for (files, from, of) in [
            (&["key.pem"][..], (&cluster, &other), "cert.pem"),
            (&["cert.pem", "key.pem"], (&cluster, &named), "cert.pem"),
            (&["ca.pem"], (&foreign, &stranger), "cert.pem"),
            (&["ca.pem"], (&cluster, &RelPath::literal("missing")), "ca.pem"),
        ] {
            let kept: Vec<_> = files.iter().map(|file| read(&cluster, &rotating.dir, file)).collect();
            for file in files {
                match from.1.as_bytes() == b"missing" {
                    true => replace(file, b"-----BEGIN CERTIFICATE-----\nrubbish\n"),
                    false => replace(file, &read(from.0, from.1, file)),
                }
            }
            let error = rotating.identity.reload().expect_err("refused");
            assert!(matches!(&error, NetError::Identity { file, .. } if file == of), "{error:?}");
            files.iter().zip(kept).for_each(|(file, bytes)| replace(file, &bytes));
        }
        rotating.identity.reload().expect("good again");
        until("renewed", || link.status().connections == 2).await;
        assert_eq!(echo(&link, b"on").await.expect("answered"), &b"on"[..]);
    });
}
