//! Staged content that gets another name.
#![allow(clippy::unwrap_used)]

mod support;

use macula_core::{Expected::Anything, Kind, Kinded};
use macula_testkit::{path, FaultDisk};
use std::sync::Arc;
use support::{content, Rig};

#[test]
fn it_goes_on_under_the_other_name() {
    let rig = Rig::open(Arc::new(FaultDisk::new())).unwrap();
    let files = &rig.files;
    let whole = content(1, 9_000);
    let staged = files.stage("a1").unwrap();
    staged.write_at(&whole[..5_000], 0).unwrap();
    files.stage("b2").unwrap().write_at(b"of a former try", 0).unwrap();
    files.restage("a1", "b2").unwrap();
    rig.check_ledger();
    assert_eq!(files.staged().unwrap(), ["b2"]);
    assert_eq!(staged.write_at(b"x", 0).unwrap_err().kind(), Kind::Closed, "it is another's");
    let again = files.stage("b2").unwrap();
    assert_eq!(again.len().unwrap(), 5_000);
    again.write_at(&whole[5_000..], 5_000).unwrap();
    files.restage("b2", "b2").unwrap();
    again.seal(whole.len() as u64, None).unwrap();
    files.put(&path("a"), "b2", None, Anything).unwrap();
    assert_eq!(files.read(&path("a"), 1 << 20).unwrap(), whole);
    rig.check_ledger();
    assert_eq!(files.restage("b2", "c3").unwrap_err().kind(), Kind::NotFound);
    assert_eq!(files.restage("../b2", "c3").unwrap_err().kind(), Kind::Invalid);
}
