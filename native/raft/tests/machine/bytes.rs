//! The bytes of commands and responses: those of version 1 as they were, and those that nobody wrote.

use crate::common::{count, delete, node, not, path, pattern, put, seed, value};
use crate::given::Given;
use crate::naive::Naive;
use macula_core::{Kind, Kinded};
use macula_raft::machine::{
    apply, verify, Command, Compare, Component, Condition, Guard, ImportEntry, Limit, MachineError, MemoryTable, Node,
    Op, OpResult, Part, Pattern, Refusal, Response, Stamp,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

fn commands() -> Vec<(&'static str, Command)> {
    let txn = |conditions, then, otherwise| Command::Txn { conditions, then, otherwise };
    let with = |ttl_ms, lease, keep_while| Op::Put { path: path("a/0"), value: value("1"), ttl_ms, lease, keep_while };
    let exact = Part::Exact(Component::new(&value("a")).expect("a component"));
    let parts = vec![exact, Part::Any(None), Part::Any(Some(Condition::HasData)), Part::AnyDepth];
    let all = Pattern::new(parts, Some(Condition::Exists)).expect("a pattern");
    let conditions = Condition::All(vec![
        Condition::Exists,
        Condition::HasData,
        Condition::ValueIs(value("1")),
        Condition::Matches(value("_")),
        Condition::Version(Compare::Eq, 1),
        Condition::Created(Compare::Ne, 2),
        Condition::Modified(Compare::Lt, 300),
        Condition::Children(Compare::Le, 4),
        not(Condition::Any(vec![Condition::Version(Compare::Gt, 5), Condition::Version(Compare::Ge, 6)])),
    ]);
    vec![
        ("01000001000520610100010383610100000000", txn(vec![], vec![put("a", "1")], vec![])),
        ("01000001000820610100011200010383610101e807010701052062010001010000", txn(vec![], vec![with(Some(1000), Some(7), vec![(path("b"), Condition::Exists)])], vec![])),
        ("010001000520610100010d09090001020383610103048377015f0400010501020602ac02070304080a02040405040506000101052061010001", txn(vec![node("a", conditions)], vec![], vec![delete("a")])),
        ("01000101040005206101000101000101010102010100090000", txn(vec![Guard::Unchanged { pattern: all, since: 9 }], vec![], vec![])),
        (
            "01000004020101000003836101030102000405206101000105010005206101000100f40300",
            txn(
                vec![],
                vec![
                    Op::PutMany { pattern: pattern("*"), value: value("1") },
                    Op::DeleteMany { pattern: pattern("**") },
                    Op::Get { path: path("a") },
                    Op::GetMany { pattern: pattern("a"), limit: 500 },
                ],
                vec![],
            ),
        ),
        ("0101018001026d6500", Command::LeaseGrant { ttl_ms: Some(128), owner: b"me".to_vec(), parent: None }),
        ("010100000103", Command::LeaseGrant { ttl_ms: None, owner: vec![], parent: Some(3) }),
        ("01020201ac02", Command::LeaseKeepAlive { ids: vec![1, 300] }),
        ("0103ac02", Command::LeaseRevoke { id: 300 }),
        ("0104", Command::Tick),
        (
            "0105010520610100010383610101808080808020",
            Command::Import {
                entries: vec![ImportEntry { path: path("a"), value: value("1"), expires_ms: Some(1 << 40) }],
            },
        ),
    ]
}

fn responses() -> Vec<(&'static str, Response)> {
    let node = Node {
        value: Some(value("1")),
        version: 1,
        created: 2,
        modified: 300,
        children: 4,
        expires_ms: Some(5),
        lease: Some(6),
    };
    let results = vec![
        OpResult::Put { version: 1, created: 2, previous: None },
        OpResult::Deleted { removed: 3, previous: Some(Node { value: None, ..node.clone() }) },
        OpResult::PutMany { count: 4 },
        OpResult::DeletedMany { removed: 5 },
        OpResult::Got { node: Some(node.clone()) },
        OpResult::GotMany { nodes: vec![(path("a"), node)], more: true },
    ];
    let refused = |refusal| Response::Refused(refusal);
    let too_large = |what| refused(Refusal::TooLarge { what, len: 300, len_max: 2 });
    vec![
        ("0100010600010200010301000102ac02040105010602040305040101038361010102ac020401050106050105206101000101038361010102ac02040105010601", Response::Txn { succeeded: true, results }),
        ("01010000ac0202", too_large(Limit::ValueBytes)),
        ("01010001ac0202", too_large(Limit::WriteBytes)),
        ("01010002ac0202", too_large(Limit::KeepWhile)),
        ("01010003ac0202", too_large(Limit::ResultBytes)),
        ("01010109", refused(Refusal::LeaseUnknown { id: 9 })),
        ("010102", refused(Refusal::LeaseWithoutEnd)),
        ("010103052061010001", refused(Refusal::KeepWhileNotMet { watched: path("a") })),
        ("01020901ac02", Response::LeaseGranted { id: 9, expires_ms: Some(300) }),
        ("01030109", Response::LeasesKept { gone: vec![9] }),
        ("01040102", Response::LeaseRevoked { found: true, removed: 2 }),
        ("01050201", Response::Ticked { removed: 2, more: true }),
        ("010602", Response::Imported { entries: 2 }),
    ]
}

#[test]
fn commands_of_version_1_are_read_and_written_as_they_were() {
    for (bytes, command) in commands() {
        assert_eq!(hex(&command.encode()), bytes, "{command:?}");
        assert_eq!(Command::decode(&unhex(bytes)), Ok(command));
    }
}

#[test]
fn responses_of_version_1_are_read_and_written_as_they_were() {
    for (bytes, response) in responses() {
        assert_eq!(hex(&response.encode()), bytes, "{response:?}");
        assert_eq!(Response::decode(&unhex(bytes)), Ok(response));
    }
}

/// The rows that a few commands leave, whole.
#[test]
fn rows_of_version_1_are_as_they_were() {
    let mut table = MemoryTable::default();
    let keep_while = vec![(path("a"), Condition::Exists)];
    let put_kept = Op::Put { path: path("a/0"), value: value("1"), ttl_ms: Some(256), lease: Some(1), keep_while };
    let commands = [
        Command::LeaseGrant { ttl_ms: Some(1000), owner: b"me".to_vec(), parent: None },
        Command::LeaseGrant { ttl_ms: None, owner: vec![], parent: Some(1) },
        Command::Txn { conditions: vec![], then: vec![put_kept, put("b", "2"), put("b/c", "3")], otherwise: vec![] },
        Command::Txn { conditions: vec![], then: vec![delete("b/c")], otherwise: vec![] },
    ];
    for (at, command) in commands.iter().enumerate() {
        apply(&mut table, Stamp { revision: at as u64 + 1, time_ms: 1000 }, command).expect("applies");
    }
    verify(&table).expect("rows agree");
    let rows: Vec<String> = table.rows().map(|(key, row)| format!("{} {}", hex(key), hex(row))).collect();
    assert_eq!(rows, ROWS);
}

const ROWS: &[&str] = &[
    "01 0104e8070306020102000055",
    "102061010001 000003030100000000",
    "102061010001120001 01010303000001e8090101010520610100010100836101",
    "102062010001 010103030004000000836102",
    "2000000000000004e8012061010001120001 ",
    "2000000000000007d0020000000000000001 ",
    "300000000000000001 01e80701d00f00026d65",
    "300000000000000002 0000010100",
    "3100000000000000012061010001120001 ",
    "3200000000000000010000000000000002 ",
    "402061010001002061010001120001 ",
    "500000000000000003 03082061010001120001000103836101010305206201000100010383610201030a206201000120630100010001038361030103",
    "500000000000000004 010a2062010001206301000101000103",
];

#[test]
fn later_versions_are_refused_by_name() {
    let mut bytes = Command::Tick.encode();
    bytes[0] = 2;
    let error = Command::decode(&bytes).expect_err("is newer");
    assert_eq!(error, MachineError::NewerVersion { what: "command", found: 2, known: 1 });
    assert_eq!(error.kind(), Kind::NewerFormat);
    let error = Response::decode(&[9]).expect_err("is newer");
    assert_eq!(error.to_string(), "written by a newer version: what=response found=9 known=1");
    for bytes in [&[][..], &[0], &[1], &[0, 4], &[1, 4, 4], &[1, 99]] {
        assert_eq!(Command::decode(bytes).expect_err("is none").kind(), Kind::Invalid, "{bytes:?}");
    }
}

/// Whatever a peer sends is answered, and what is read can be applied.
#[test]
fn bytes_that_nobody_wrote() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let (mut read, mut table, mut revision) = (0, MemoryTable::default(), 0);
    let naive = Naive::default();
    for round in 0..count(60_000, 5_000_000) {
        let mut bytes = match rng.u8(0..4) {
            0 => (0..rng.usize(..60)).map(|_| rng.u8(..)).collect(),
            1 => commands()[rng.usize(..11)].1.encode(),
            _ => Given { rng: &mut rng, naive: &naive }.command().encode(),
        };
        for _ in 0..rng.usize(0..4) {
            match rng.u8(0..4) {
                0 => bytes.truncate(rng.usize(..=bytes.len())),
                1 => bytes.insert(rng.usize(..=bytes.len()), rng.u8(..)),
                _ if bytes.is_empty() => {}
                2 => drop(bytes.remove(rng.usize(..bytes.len()))),
                _ => {
                    let at = rng.usize(..bytes.len());
                    bytes[at] = [0, 1, 0x7f, 0x80, 0xff, rng.u8(..)][rng.usize(..6)];
                }
            }
        }
        if let Some(first) = bytes.first_mut().filter(|_| rng.u8(0..10) > 0) {
            *first = 1;
        }
        let _ = Response::decode(&bytes);
        let Ok(command) = Command::decode(&bytes) else { continue };
        read += 1;
        command.check().expect("what is read may be proposed");
        assert_eq!(Command::decode(&command.encode()).as_ref(), Ok(&command));
        revision += 1;
        apply(&mut table, Stamp { revision, time_ms: revision }, &command).expect("applies");
        if round % 1000 == 0 {
            verify(&table).expect("rows agree");
            table = MemoryTable::default();
        }
    }
    eprintln!("{read} were read");
    assert!(read > 1000);
}

/// A million times "not", of which the stack would be full.
#[test]
fn deep_conditions_are_refused_flat() {
    let mut bytes = vec![1, 0, 1, 0, 5, 0x20, 0x61, 0x01, 0x00, 0x01];
    bytes.extend([0xff, 0xff, 0x3f]);
    bytes.extend(vec![8; 0xfffff]);
    Command::decode(&bytes).expect_err("is too deep");
}
