//! Durable one-row transactions and point selects per second at 1, 8 and 64 clients.
//! `cargo run --release -p macula_sqlite --example bench_rows [seconds per row] [normal]`
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used)]

use macula_core::{Gate, SystemClock};
use macula_sqlite::{Database, Options, Params, Request, Synchronous, Value};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn per_second(clients: i64, seconds: f64, act: impl Fn(i64) + Sync) -> f64 {
    let done = AtomicU64::new(0);
    let start = Instant::now();
    let span = Duration::from_secs_f64(seconds);
    std::thread::scope(|scope| {
        for client in 0..clients {
            let (done, act) = (&done, &act);
            scope.spawn(move || {
                for n in 0.. {
                    if start.elapsed() >= span {
                        return;
                    }
                    act(n * clients + client);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

fn main() {
    let mut args = std::env::args().skip(1);
    let seconds = args.next().map_or(2.0, |text| text.parse().unwrap());
    let synchronous = if args.next().is_some() { Synchronous::Normal } else { Synchronous::Full };
    println!("synchronous={synchronous:?}");
    for clients in [1, 8, 64] {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().canonicalize().unwrap().join("app.db");
        let options = Options { synchronous, ..Options::default() };
        let db = Database::open(&path, Arc::new(Gate::new()), Arc::new(SystemClock), options).unwrap();
        db.run(Request::execute("CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT)")).unwrap();
        let writes = per_second(clients, seconds, |n| {
            let params = Params::Positional(vec![Value::Integer(n), Value::text("x".repeat(100))]);
            db.run(Request::execute("INSERT OR REPLACE INTO t VALUES (?, ?)").params(params)).unwrap();
        });
        let reads = per_second(clients, seconds, |n| {
            let params = Params::Positional(vec![Value::Integer(n * 7919 % 5000)]);
            db.run(Request::query("SELECT * FROM t WHERE id = ?").params(params)).unwrap();
        });
        println!("clients={clients:>2}  one-row writes/s={writes:>9.0}  point selects/s={reads:>9.0}");
    }
}
