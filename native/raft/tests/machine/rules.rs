//! The rules of the tree, one by one, in words.

use crate::common::{delete, node, not, path, pattern, put, put_with, value, words, Machine, Term};
use macula_raft::machine::{
    leases, next_expiry, read, Command, Compare, Component, Condition, Guard, ImportEntry, Op, OpResult, Part, Path,
    Pattern, Refusal, Response, CONDITION_DEPTH_MAX, PATH_BYTES_MAX,
};
use std::ops::ControlFlow;
use Compare::{Eq, Gt};
use Condition::{Children, Exists, HasData, Modified, ValueIs, Version};

fn grant(ttl_ms: Option<u64>, parent: Option<u64>) -> Command {
    Command::LeaseGrant { ttl_ms, owner: b"me".to_vec(), parent }
}

fn found(machine: &Machine, pattern: &Pattern) -> Vec<String> {
    let page = read::get_many(&machine.table, pattern, None, 1000).expect("reads");
    page.nodes.iter().map(|(path, _)| words(path)).collect()
}

#[test]
fn parents_come_and_go_with_their_children() {
    let mut machine = Machine::default();
    machine.txn(vec![put("a/b/c", "1"), put("a/b/d", "2")]);
    assert_eq!(machine.told(), ["Put a/b/c", "Put a/b/d"]);
    let parent = read::get(&machine.table, &path("a/b")).expect("reads").expect("is there");
    assert_eq!((parent.value, parent.version, parent.created, parent.children), (None, 0, 1, 2));
    machine.txn(vec![delete("a/b/c")]);
    assert!(machine.has("a/b"));
    let gone = machine.txn(vec![delete("a/b/d")]);
    assert!(!machine.has("a/b") && !machine.has("a"));
    assert!(
        matches!(&gone, Response::Txn { results, .. } if matches!(results[0], OpResult::Deleted { removed: 3, .. }))
    );

    // a parent with data stays
    machine.txn(vec![put("a", "1"), put("a/b/c", "1")]);
    machine.txn(vec![delete("a/b/c")]);
    assert!(machine.has("a") && !machine.has("a/b"));
    machine.txn(vec![put("a/b/c", "1"), delete("a")]);
    assert_eq!(machine.told(), ["Put a/b/c", "Deleted a", "Deleted a/b/c"]);
    assert!(!machine.has("a/b/c"));
}

#[test]
fn create_update_and_compare_and_swap_are_conditions() {
    let mut machine = Machine::default();
    let put_if = |machine: &mut Machine, condition: Condition, word: &str| {
        let conditions = vec![node("a", condition)];
        let otherwise = vec![Op::Get { path: path("a") }];
        machine.command(&Command::Txn { conditions, then: vec![put("a", word)], otherwise })
    };
    let done = |response: &Response| matches!(response, Response::Txn { succeeded: true, .. });
    assert!(!done(&put_if(&mut machine, HasData, "1")));
    assert!(done(&put_if(&mut machine, not(Exists), "1")));
    let refused = put_if(&mut machine, not(Exists), "2");
    match refused {
        Response::Txn { succeeded: false, results } => match &results[0] {
            OpResult::Got { node: Some(node) } => assert_eq!(node.value, Some(value("1"))),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
    assert!(done(&put_if(&mut machine, ValueIs(value("1")), "2")));
    assert!(!done(&put_if(&mut machine, ValueIs(value("1")), "3")));
    assert!(done(&put_if(&mut machine, Version(Eq, 2), "4")));
    assert!(!done(&put_if(&mut machine, Version(Eq, 2), "5")));
    let now = read::get(&machine.table, &path("a")).expect("reads").expect("is there");
    assert_eq!((now.value, now.version, now.created, now.modified), (Some(value("4")), 3, 2, 6));
}

#[test]
fn operations_see_those_before_them() {
    let mut machine = Machine::default();
    let response = machine.txn(vec![
        put("a", "1"),
        Op::Get { path: path("a") },
        delete("a"),
        Op::Get { path: path("a") },
        put("a", "2"),
        Op::GetMany { pattern: pattern("**"), limit: 5 },
    ]);
    let Response::Txn { results, .. } = response else { panic!("{response:?}") };
    assert!(matches!(&results[1], OpResult::Got { node: Some(node) } if node.value == Some(value("1"))));
    assert!(matches!(&results[2], OpResult::Deleted { previous: Some(node), .. } if node.value == Some(value("1"))));
    assert_eq!(results[3], OpResult::Got { node: None });
    assert!(matches!(&results[4], OpResult::Put { version: 1, previous: None, .. }));
    assert!(matches!(&results[5], OpResult::GotMany { nodes, more: false } if nodes.len() == 1));
}

#[test]
fn patterns() {
    let mut machine = Machine::default();
    for at in ["a", "a/x", "a/x/1", "a/y/1/z", "a/y/2", "b/x"] {
        machine.txn(vec![put(at, "1")]);
    }
    let is = |words: &str, expected: &[&str]| assert_eq!(found(&machine, &pattern(words)), expected, "{words}");
    is("a", &["a"]);
    is("c", &[]);
    is("", &[]);
    is("*", &["a", "b"]);
    is("*/x", &["a/x", "b/x"]);
    is("a/*", &["a/x", "a/y"]);
    is("a/**", &["a", "a/x", "a/x/1", "a/y", "a/y/1", "a/y/1/z", "a/y/2"]);
    is("a/*/1", &["a/x/1", "a/y/1"]);
    is("a/**/1", &["a/x/1", "a/y/1"]);
    is("**/x", &["a/x", "b/x"]);
    is("**/*/1/**", &["a/x/1", "a/y/1", "a/y/1/z"]);
    is("**/**", &["a", "a/x", "a/x/1", "a/y", "a/y/1", "a/y/1/z", "a/y/2", "b", "b/x"]);

    let exact = |word: &str| Part::Exact(Component::new(&value(word)).expect("a component"));
    let with = |parts, filter| Pattern::new(parts, filter).expect("a pattern");
    let empty = not(HasData);
    assert_eq!(found(&machine, &with(vec![exact("a"), Part::Any(Some(empty.clone()))], None)), ["a/y"]);
    assert_eq!(
        found(&machine, &with(vec![exact("a"), Part::Any(Some(empty.clone())), Part::Any(None)], None)),
        ["a/y/1", "a/y/2"]
    );
    assert_eq!(found(&machine, &with(vec![Part::AnyDepth], Some(empty))), ["a/y", "a/y/1", "b"]);
    assert_eq!(found(&machine, &Pattern::exact(&path("a/y"))), ["a/y"]);
}

#[test]
fn many_are_put_and_deleted() {
    let mut machine = Machine::default();
    machine.txn(vec![put("a/x", "1"), put("a/y/z", "1"), put_with("a/w", Some(9), None, &[])]);
    machine.txn(vec![Op::PutMany { pattern: pattern("a/*"), value: value("7") }]);
    assert_eq!(machine.told(), ["Put a/w", "Put a/x", "Put a/y"]);
    // its time stays
    assert_eq!(next_expiry(&machine.table), Ok(Some(9)));
    machine.txn(vec![put("a/w", "8")]);
    assert_eq!(next_expiry(&machine.table), Ok(None));
    let response = machine.txn(vec![Op::DeleteMany { pattern: pattern("a/**") }]);
    assert_eq!(response, Response::Txn { succeeded: true, results: vec![OpResult::DeletedMany { removed: 5 }] });
}

#[test]
fn time_never_goes_back_and_only_a_tick_removes() {
    let mut machine = Machine { time_ms: 1000, ..Machine::default() };
    machine.txn(vec![put_with("a", Some(50), None, &[]), put("a/b", "1")]);
    assert_eq!(next_expiry(&machine.table), Ok(Some(1050)));
    machine.time_ms = 2000;
    machine.txn(vec![put("c", "1")]);
    assert!(machine.has("a"));
    machine.time_ms = 5;
    assert_eq!(machine.command(&Command::Tick), Response::Ticked { removed: 2, more: false });
    assert_eq!(machine.told(), ["Expired a", "Expired a/b"]);
    machine.txn(vec![put_with("a", Some(u64::MAX), None, &[])]);
    assert_eq!(next_expiry(&machine.table), Ok(Some(u64::MAX)));
}

#[test]
fn a_lease_takes_its_keys_and_its_children_along() {
    let mut machine = Machine::default();
    assert_eq!(machine.command(&grant(Some(100), None)), Response::LeaseGranted { id: 1, expires_ms: Some(100) });
    assert_eq!(machine.command(&grant(None, Some(1))), Response::LeaseGranted { id: 2, expires_ms: None });
    assert_eq!(machine.command(&grant(None, Some(9))), Response::Refused(Refusal::LeaseUnknown { id: 9 }));
    assert_eq!(machine.command(&grant(None, None)), Response::Refused(Refusal::LeaseWithoutEnd));
    machine.txn(vec![put_with("n", None, Some(1), &[]), put_with("n/p", None, Some(2), &[]), put("n/q", "1")]);
    machine.txn(vec![put_with("p", None, Some(2), &[])]);
    let refused = machine.txn(vec![put("z", "1"), put_with("x", None, Some(9), &[])]);
    assert_eq!(refused, Response::Refused(Refusal::LeaseUnknown { id: 9 }));
    assert!(!machine.has("z"));

    machine.time_ms = 90;
    let kept = machine.command(&Command::LeaseKeepAlive { ids: vec![1, 2, 9] });
    assert_eq!(kept, Response::LeasesKept { gone: vec![9] });
    machine.time_ms = 189;
    machine.command(&Command::Tick);
    assert!(machine.has("p"));
    assert_eq!(next_expiry(&machine.table), Ok(Some(190)));
    machine.time_ms = 190;
    assert_eq!(machine.command(&Command::Tick), Response::Ticked { removed: 4, more: false });
    assert_eq!(machine.told(), ["Expired n", "Expired n/p", "Expired n/q", "Expired p"]);
    assert_eq!(next_expiry(&machine.table), Ok(None));
    assert_eq!(machine.command(&Command::LeaseRevoke { id: 2 }), Response::LeaseRevoked { found: false, removed: 0 });
}

#[test]
fn a_key_that_is_put_anew_leaves_its_lease() {
    let mut machine = Machine::default();
    machine.command(&grant(Some(100), None));
    machine.txn(vec![put_with("a", None, Some(1), &[]), put_with("b", None, Some(1), &[])]);
    machine.txn(vec![put("a", "2")]);
    assert_eq!(machine.command(&Command::LeaseRevoke { id: 1 }), Response::LeaseRevoked { found: true, removed: 1 });
    assert_eq!(machine.told(), ["Deleted b"]);
    assert!(machine.has("a"));
}

#[test]
fn leases_are_told() {
    let mut machine = Machine::default();
    machine.command(&grant(Some(100), None));
    machine.command(&grant(None, Some(1)));
    let mut told = Vec::new();
    leases(&machine.table, &mut |lease| {
        told.push((lease.id, lease.parent, lease.owner));
        ControlFlow::Continue(())
    })
    .expect("reads");
    assert_eq!(told, [(1, None, b"me".to_vec()), (2, Some(1), b"me".to_vec())]);
}

#[test]
fn a_node_goes_when_what_keeps_it_does() {
    let mut machine = Machine::default();
    let refused = machine.txn(vec![put("z", "1"), put_with("a", None, None, &[("b", Exists)])]);
    assert_eq!(refused, Response::Refused(Refusal::KeepWhileNotMet { watched: path("b") }));
    assert!(!machine.has("z"));
    machine.txn(vec![put("b", "1"), put_with("a", None, None, &[("b", Exists)])]);
    machine.txn(vec![put_with("c", None, None, &[("a", Exists)]), put_with("c/d", None, None, &[("c", Exists)])]);
    // what holds again at the end has held
    machine.txn(vec![delete("b"), put("b", "2")]);
    assert!(machine.has("c/d"));
    machine.txn(vec![delete("b")]);
    assert_eq!(machine.told(), ["Deleted b", "Deleted a", "Deleted c", "Deleted c/d"]);

    // children count, also those that come
    machine.txn(vec![put("p/1", "1"), put_with("lonely", None, None, &[("p", Children(Eq, 1))])]);
    machine.txn(vec![put("p/1", "2")]);
    assert!(machine.has("lonely"));
    machine.txn(vec![put("p/2", "1")]);
    assert_eq!(machine.told(), ["Put p/2", "Deleted lonely"]);
}

/// Two that keep each other while they exist, and two that can not both be: no loop has no end.
#[test]
fn keepers_in_a_circle() {
    let mut machine = Machine::default();
    machine.txn(vec![put("a", "1"), put_with("b", None, None, &[("a", Exists)])]);
    machine.txn(vec![put_with("a", None, None, &[("b", Exists)])]);
    machine.txn(vec![delete("a")]);
    assert_eq!(machine.told(), ["Deleted a", "Deleted b"]);

    let alone = |other: &'static str| [(other, not(Exists))];
    machine.txn(vec![put_with("x", None, None, &alone("y"))]);
    machine.txn(vec![put("y", "1")]);
    assert_eq!(machine.told(), ["Put y", "Deleted x"]);
    // a node that keeps itself while it is of version 1
    machine.txn(vec![put_with("self", None, None, &[("self", Version(Eq, 1))])]);
    machine.txn(vec![Op::PutMany { pattern: pattern("self"), value: value("2") }]);
    assert_eq!(machine.told(), ["Put self", "Deleted self"]);
}

#[test]
fn expiry_and_leases_end_what_they_keep() {
    let mut machine = Machine::default();
    machine.command(&grant(Some(10), None));
    machine.txn(vec![put_with("a", None, Some(1), &[]), put_with("b", None, None, &[("a", HasData)])]);
    machine.time_ms = 10;
    machine.command(&Command::Tick);
    assert_eq!(machine.told(), ["Expired a", "Deleted b"]);
}

#[test]
fn one_that_was_read_and_one_that_was_not_there() {
    let mut machine = Machine::default();
    machine.txn(vec![put("a", "1")]);
    assert!(machine.asks(vec![node("a", Modified(Eq, 1)), node("b", Modified(Eq, 0))]));
    machine.txn(vec![delete("a")]);
    assert!(!machine.asks(vec![node("a", Modified(Eq, 1))]));
    machine.txn(vec![put("b", "1")]);
    assert!(!machine.asks(vec![node("b", Modified(Eq, 0))]));
    assert!(machine.asks(vec![node("b", Condition::All(vec![Version(Gt, 0), not(Version(Gt, 1))]))]));
    assert!(machine.asks(vec![node("b", Condition::Any(vec![ValueIs(value("9")), HasData]))]));
}

/// Deleting leaves nothing behind that could say when; a model test found the last of these.
#[test]
fn many_that_were_read() {
    let unchanged = |machine: &mut Machine, words: &str, since: u64| {
        machine.asks(vec![Guard::Unchanged { pattern: pattern(words), since }])
    };
    let mut machine = Machine::default();
    machine.txn(vec![put("a/x", "1"), put("a/y/z", "1"), put("b/x", "1")]);
    assert!(unchanged(&mut machine, "a/*", 1));
    assert!(unchanged(&mut machine, "a/**", 1));
    assert!(!unchanged(&mut machine, "a/*", 0));
    machine.txn(vec![put("b/x", "2"), put("b/y", "1"), delete("b/y")]);
    assert!(unchanged(&mut machine, "a/**", 1));
    assert!(!unchanged(&mut machine, "b/**", 1));

    let since = machine.revision;
    machine.txn(vec![put("a/y/w", "1"), delete("a/y/w")]);
    assert!(unchanged(&mut machine, "a/*", since), "beneath what was read");
    assert!(!unchanged(&mut machine, "a/**", since));

    let since = machine.revision;
    machine.txn(vec![delete("a/x")]);
    assert!(!unchanged(&mut machine, "a/*", since));
    assert!(!unchanged(&mut machine, "a/x", since));

    let since = machine.revision;
    machine.txn(vec![delete("a")]);
    machine.txn(vec![put("a/q", "1")]);
    assert!(!unchanged(&mut machine, "a/y/z", since), "its parent went and came again");
    let since = machine.revision;
    machine.txn(vec![delete("a")]);
    assert!(!unchanged(&mut machine, "**", since));
    assert!(!unchanged(&mut machine, "a/*", since));
}

/// What the pattern found went with a node that is there again, and nothing that it finds is new.
#[test]
fn what_went_with_the_first_node_of_a_pattern() {
    let mut machine = Machine::default();
    machine.txn(vec![put("a/x/w", "1")]);
    let guard = || vec![Guard::Unchanged { pattern: pattern("a/*/w"), since: 1 }];
    assert!(machine.asks(guard()));
    machine.txn(vec![delete("a")]);
    machine.txn(vec![put("a/q", "1")]);
    assert!(!machine.asks(guard()));
}

/// A model test found this: data put in a node on the way opened it.
#[test]
fn a_condition_on_the_way_is_part_of_what_was_read() {
    let mut machine = Machine::default();
    machine.txn(vec![put("a/m/k", "1")]);
    let a = Part::Exact(Component::new(&value("a")).expect("a component"));
    let parts = vec![a, Part::Any(Some(HasData)), Part::Any(None)];
    let with_data = Pattern::new(parts, None).expect("a pattern");
    assert_eq!(found(&machine, &with_data), [""; 0]);
    let guard = || vec![Guard::Unchanged { pattern: with_data.clone(), since: 1 }];
    assert!(machine.asks(guard()));
    machine.txn(vec![put("a/m", "1")]);
    assert_eq!(found(&machine, &with_data), ["a/m/k"]);
    assert!(!machine.asks(guard()));
}

#[test]
fn import_puts_with_the_time_of_the_export() {
    let mut machine = Machine::default();
    let entry = |at: &str, expires_ms| ImportEntry { path: path(at), value: value("1"), expires_ms };
    let entries = vec![entry("a/b", Some(700)), entry("c", None)];
    assert_eq!(machine.command(&Command::Import { entries }), Response::Imported { entries: 2 });
    assert_eq!(next_expiry(&machine.table), Ok(Some(700)));
    assert_eq!(machine.told(), ["Put a/b", "Put c"]);
}

#[test]
fn paths_stand_in_term_order_and_come_back() {
    let bin = |data: &[u8]| Term::Bin(data.to_vec());
    let pair = |a: Term, b: Term| Term::Pair(Box::new(a), Box::new(b));
    let mut terms = vec![bin(b""), bin(&[0]), bin(&[0, 1]), bin(&[0, 255]), bin(&[1]), bin(&[0, 0]), bin(&[255])];
    terms.extend([0, 1, 2, 255].map(Term::Int));
    terms.extend(["a", "b", "ab", "_"].map(|text| Term::Atom(text.into())));
    terms.extend([pair(Term::Int(0), bin(&[0])), pair(Term::Int(0), Term::Int(9))]);
    terms.sort();
    let of = |terms: &[&Term]| Path::new(&terms.iter().map(|term| term.etf()).collect::<Vec<_>>()).expect("a path");
    let paths: Vec<Path> = terms.iter().map(|term| of(&[term])).collect();
    assert!(paths.windows(2).all(|two| two[0] < two[1]));
    for (term, single) in terms.iter().zip(&paths) {
        let deeper: Vec<Path> = terms.iter().map(|below| of(&[term, below])).collect();
        assert!(deeper.windows(2).all(|two| two[0] < two[1]));
        // between the parent and its next sibling
        assert!(deeper.iter().all(|path| path > single && path.key().starts_with(single.key())));
        assert!(paths.iter().filter(|next| *next > single).all(|next| deeper.iter().all(|path| path < next)));
        assert!(deeper.iter().all(|path| path.parent().as_ref() == Some(single)));
        assert_eq!(single.parent(), None);
        assert_eq!(single.terms().expect("terms"), [term.etf()]);
        assert!(deeper.iter().all(|path| Path::from_key(path.key().to_vec()).as_ref() == Ok(path)));
    }
}

#[test]
fn paths_that_are_none_are_refused() {
    assert!(Path::new::<Vec<u8>>(&[]).is_err());
    assert!(Path::new(&vec![value("a"); 64]).is_ok());
    assert!(Path::new(&vec![value("a"); 65]).is_err());
    assert!(Path::new(&[vec![131]]).is_err());
    assert!(Path::new(&[Term::Bin(vec![7; PATH_BYTES_MAX]).etf()]).is_err());
    let good = path("a/0").key().to_vec();
    for cut in 1..good.len() {
        // a whole component is a path too
        let whole = good[..cut].ends_with(&[0, 1]);
        assert_eq!(Path::from_key(good[..cut].to_vec()).is_ok(), whole, "{cut}");
    }
    for bytes in [&[][..], &[0, 1], &[0x12, 0, 2], &[0x12, 0, 0, 0, 1], &[0x12], &[0x12, 0, 255, 0, 1], &[0xff, 0, 1]] {
        assert!(Path::from_key(bytes.to_vec()).is_err(), "{bytes:?}");
    }
}

#[test]
fn conditions_are_checked_before_they_are_proposed() {
    let nested = |depth| (0..depth).fold(Exists, |inner, _| not(inner));
    let asks = |condition| Command::Txn { conditions: vec![node("a", condition)], then: vec![], otherwise: vec![] };
    asks(nested(CONDITION_DEPTH_MAX)).check().expect("as deep as may be");
    let deep = asks(nested(CONDITION_DEPTH_MAX + 1));
    deep.check().expect_err("too deep");
    Command::decode(&deep.encode()).expect_err("too deep");
    let wide = |count| asks(Condition::All(vec![Exists; count]));
    wide(1023).check().expect("as many as may be");
    assert!(Command::decode(&wide(1023).encode()).is_ok());
    wide(1024).check().expect_err("too many");
    Command::decode(&wide(1024).encode()).expect_err("too many");
    let kept = put_with("a", None, None, &[("b", nested(40))]);
    Command::Txn { conditions: vec![], then: vec![], otherwise: vec![kept] }.check().expect_err("too deep");
}
