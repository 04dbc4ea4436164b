//! Many keys of 1 KB: what a node takes of memory, how long it takes to open, and a new one to have it all.

use crate::figures::Spent;
use crate::put;
use crate::site::Site;
use macula_core::Cancel;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const VALUE_LEN: usize = 1000;

pub fn run(thousands: u32, clients: usize) {
    let site = Site::new();
    let node = site.linked(0, "127.0.0.1:0", None);
    let (empty, begun) = (Spent::now(), Instant::now());
    let (done, answered) = channel();
    let (mut next, mut under_way) = (0, 0);
    while next < thousands * 1000 || under_way > 0 {
        while under_way < clients && next < thousands * 1000 {
            let done = done.clone();
            let asked =
                node.propose(put(next, VALUE_LEN), Some(Duration::from_secs(60)), Cancel::new(), move |result| {
                    let _ = done.send(result.is_ok());
                });
            asked.expect("taken");
            (next, under_way) = (next + 1, under_way + 1);
        }
        assert!(answered.recv().expect("an answer"), "applies");
        under_way -= 1;
    }
    let (filled, spent) = (begun.elapsed(), Spent::now());
    println!(
        "keys={next} filled at {:.0}/s, {:.1}us/op; rss empty={}MB filled={}MB",
        f64::from(next) / filled.as_secs_f64(),
        (spent.cpu_us - empty.cpu_us) as f64 / f64::from(next),
        empty.rss_kb >> 10,
        spent.rss_kb >> 10,
    );
    let begun = Instant::now();
    drop(node);
    println!("closed in {:?}", begun.elapsed());
    let begun = Instant::now();
    let mut node = site.linked(0, "127.0.0.1:0", None);
    println!("opened and leading again in {:?}", begun.elapsed());
    let asked = node.propose(put(0, VALUE_LEN), None, Cancel::new(), move |result| {
        let _ = done.send(result.is_ok());
    });
    asked.expect("taken");
    assert!(answered.recv().expect("an answer"), "applies");
    let begun = Instant::now();
    node.kill();
    drop(node);
    let node = site.linked(0, "127.0.0.1:0", None);
    println!("opened and leading again in {:?}, killed and waited for", begun.elapsed());
    let begun = Instant::now();
    let joined = site.joined(1, &node);
    let rate = f64::from(next) * VALUE_LEN as f64 / 1e6 / begun.elapsed().as_secs_f64();
    println!("a new node has it all and votes after {:?}: {rate:.0} MB/s of values", begun.elapsed());
    println!("rss of both={}MB", Spent::now().rss_kb >> 10);
    drop((node, joined));
}
