//! Alone in its process, because it looks at the memory of all of it.

mod common;

use common::raw::{config, frame, welcomed};
use common::*;
use macula_net::{Role, Transport};
use tokio::io::AsyncWriteExt;

/// The same again and again leaves no trace: no connection, no byte of memory that grows with it.
#[test]
fn memory_does_not_grow_with_hostile_connections() {
    runtime().block_on(async {
        let cluster = Cluster::new();
        let node = listen(cluster.member("b"));
        let dir = cluster.issue("a", Role::Member);
        let own = net(Transport::Tls(cluster.identity(&dir)), options()).transport.own();
        let config = config(&*cluster.disk, Some(&dir));
        let round = async || {
            for _ in 0..count(150, 5000) {
                let mut tls = welcomed(config.clone(), node.listener.address(), &own, "b").await;
                let mut head = frame(4, ECHO, 1, b"");
                head[..4].copy_from_slice(&(16u32 << 20).to_le_bytes());
                // announced sixteen MiB, sent a few bytes
                let _ = tls.write_all(&[&head[..], &[7; 5000]].concat()).await;
                drop(tls);
            }
            until("all are gone", || node.listener.stats().links_now == 0).await;
        };
        round().await;
        let before = resident_kib();
        round().await;
        let grown = resident_kib().saturating_sub(before);
        assert!(grown < 8 << 10, "grown_kib={grown}");
    });
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("read");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("there");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
