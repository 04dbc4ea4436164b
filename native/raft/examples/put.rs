//! Puts a second of one node, 1 and 64 clients. `cargo run --release --example put`
#![allow(clippy::disallowed_methods, clippy::print_stdout, missing_docs)]
use macula_core::{RealDisk, SystemChance, SystemClock};
use macula_raft::machine::{Command, Op, Path};
use macula_raft::{Node, Options, Seams};
use std::sync::Arc;
use std::time::Instant;

fn main() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let seams = Seams {
            disk: Arc::new(RealDisk::at(dir.path()).unwrap()),
            clock: Arc::new(SystemClock),
            chance: Arc::new(SystemChance),
        };
        let options = Options::of("one");
        let begun = Instant::now();
        let node = Arc::new(Node::open(seams, options, Box::new(|_| {})).await.unwrap());
        node.wait_for_leader(std::time::Duration::from_secs(5)).await.unwrap();
        println!("leader after {:?}", begun.elapsed());
        for clients in [1_usize, 8, 64] {
            let begun = Instant::now();
            let tasks: Vec<_> = (0..clients)
                .map(|client| {
                    let node = node.clone();
                    tokio::spawn(async move {
                        let mut n = 0_u64;
                        while begun.elapsed().as_secs() < 3 {
                            let key = format!("{client}/{}", n % 1000).into_bytes();
                            node.propose(&put(&key)).await.unwrap();
                            n += 1;
                        }
                        n
                    })
                })
                .collect();
            let mut total = 0;
            for task in tasks {
                total += task.await.unwrap();
            }
            println!("{clients} clients: {:.0}/s", total as f64 / begun.elapsed().as_secs_f64());
        }
    });
}

fn put(key: &[u8]) -> Command {
    let mut etf = vec![131, 109];
    etf.extend((key.len() as u32).to_be_bytes());
    etf.extend(key);
    let mut value = vec![131, 109, 0, 0, 0, 100];
    value.extend([7; 100]);
    let path = Path::new(&[etf]).unwrap();
    let op = Op::Put { path, value, ttl_ms: None, lease: None, keep_while: vec![] };
    Command::Txn { conditions: vec![], then: vec![op], otherwise: vec![] }
}
