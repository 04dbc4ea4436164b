//! How fast a link is: round trips of 200 bytes and calls of 1 MiB, with TLS and without.
//!
//! Both nodes are in this process, on loopback. Prints one line a measurement.

#![allow(clippy::print_stdout)]

use bytes::Bytes;
use macula_core::{Chance, Clock, Disk, RealDisk, RelPath, SystemChance, SystemClock};
use macula_net::{
    Admit, Authority, Caller, Handler, Identity, Issue, Link, Net, NodeName, Options, Peer, Purpose, Refusal, Reply,
    Role, Transport,
};
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

const ROUNDS: usize = 20_000;
const CALLS: usize = 512;
const DEADLINE: Duration = Duration::from_secs(10);
const ECHO: u8 = 1;
const SINK: u8 = 2;

struct Everyone;

impl Admit for Everyone {
    fn admit(&self, _: &Peer, _: Purpose) -> Result<(), Refusal> {
        Ok(())
    }

    fn generation(&self) -> u64 {
        0
    }
}

struct Answers;

impl Handler for Answers {
    fn handle(&self, _: &Caller, kind: u8, payload: Bytes, reply: Reply) {
        match kind {
            ECHO => reply.send(payload),
            _ => reply.send(Bytes::new()),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(measure())
}

async fn measure() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::at(dir.path())?);
    let authority = Authority::create(&*disk, &RelPath::literal("authority"), &SystemClock, &SystemChance)?;
    let cluster = authority.cluster();
    let names = [NodeName::new(b"a")?, NodeName::new(b"b")?];
    for tls in [false, true] {
        let mut nets = Vec::new();
        for node in &names {
            let transport = if tls {
                let at = RelPath::new(format!("{node}-{:x}", SystemChance.next_u64()))?;
                let wanted = Issue { node, role: Role::Member, days: 1, trust: &[&authority] };
                authority.issue(&*disk, &at, &wanted, &SystemClock, &SystemChance)?;
                Transport::Tls(Identity::load(disk.clone(), at, Arc::new(SystemClock))?)
            } else {
                Transport::PlainLoopback(Peer { node: node.clone(), role: Role::Member, cluster })
            };
            let (clock, chance) = (Arc::new(SystemClock), Arc::new(SystemChance));
            nets.push(Net { runtime: Handle::current(), clock, chance, transport, options: Options::default() });
        }
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = nets[1].listen(any, Arc::new(Everyone), Arc::new(Answers))?;
        let address = listener.address().to_string();
        for purpose in [Purpose::Raft, Purpose::Bulk] {
            let link = Arc::new(nets[0].link(names[1].clone(), address.clone(), purpose));
            if !link.connected(DEADLINE).await {
                return Err(format!("not connected: {:?}", link.status()).into());
            }
            let over = if tls { "tls" } else { "tcp" };
            match purpose {
                Purpose::Raft => {
                    round_trips(over, &link).await?;
                    together(over, &link).await?;
                }
                _ => chunks(over, &link).await?,
            }
        }
        listener.close().await;
    }
    Ok(())
}

async fn round_trips(over: &str, link: &Link) -> Result<(), Box<dyn Error>> {
    let text = Bytes::from(vec![7; 200]);
    let mut took_us = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let began = SystemClock.monotonic();
        link.call(ECHO, text.clone(), DEADLINE).await?;
        took_us.push((SystemClock.monotonic() - began).as_nanos() as f64 / 1000.0);
    }
    took_us.sort_by(f64::total_cmp);
    let at = |part: f64| took_us[(part * (ROUNDS - 1) as f64) as usize];
    println!("{over} round trip of 200 bytes: p50_us={:.1} p99_us={:.1}", at(0.5), at(0.99));
    Ok(())
}

async fn together(over: &str, link: &Arc<Link>) -> Result<(), Box<dyn Error>> {
    let began = SystemClock.monotonic();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let link = link.clone();
        callers.spawn(async move {
            let text = Bytes::from(vec![7; 200]);
            for _ in 0..2000 {
                link.call(ECHO, text.clone(), DEADLINE).await.map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(())
        });
    }
    for done in callers.join_all().await {
        done?;
    }
    let seconds = (SystemClock.monotonic() - began).as_secs_f64();
    println!("{over} 64 callers of 200 bytes: calls_per_s={:.0}", 64.0 * 2000.0 / seconds);
    Ok(())
}

async fn chunks(over: &str, link: &Arc<Link>) -> Result<(), Box<dyn Error>> {
    let chunk = Bytes::from(vec![7; 1 << 20]);
    let began = SystemClock.monotonic();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (link, chunk) = (link.clone(), chunk.clone());
        callers.spawn(async move {
            for _ in 0..CALLS / 8 {
                link.call(SINK, chunk.clone(), DEADLINE).await.map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(())
        });
    }
    for done in callers.join_all().await {
        done?;
    }
    let seconds = (SystemClock.monotonic() - began).as_secs_f64();
    println!("{over} calls of 1 MiB: mb_per_s={:.0}", CALLS as f64 * 1.048576 / seconds);
    Ok(())
}
