//! Where copies lie, as an app, a directory, a file or a write has it.

use crate::common::{all_meet, name, until, Network, Node};
use macula_core::{AppName, RelPath};
use macula_mesh::{Ack, Class, Options, Place, Rule};
use std::sync::Arc;

fn rule(app: Option<&str>, prefix: Option<&str>, copies: u8, class: Class) -> Rule {
    let app = app.map(|app| AppName::new(app).expect("a name"));
    Rule {
        app,
        prefix: prefix.map(|prefix| RelPath::new(prefix).expect("a path")),
        place: Place { copies, class },
        keep_versions: 0,
    }
}

/// Four members, of which two have large, slow disks.
fn nodes(rules: &[Rule]) -> Vec<Node> {
    let net = Arc::new(Network::default());
    let class = |name: &str| if name < "c" { Class::Fast } else { Class::Bulk };
    let options = |name| Options { copies: 1, class: class(name), rules: rules.to_vec(), ..Options::default() };
    let nodes: Vec<Node> = ["a", "b", "c", "d"].iter().map(|name| Node::open(&net, name, options(name))).collect();
    all_meet(&nodes);
    nodes
}

fn have<'a>(nodes: &'a [Node], path: &str) -> Vec<&'a str> {
    nodes.iter().filter(|node| node.tree().contains_key(path)).map(|node| &node.name[..]).collect()
}

#[test]
fn a_directory_has_copies_of_its_own_number_on_disks_of_its_own_class() {
    let rules = [
        rule(None, Some("film"), 3, Class::Fast),
        rule(Some("app"), Some("films"), 2, Class::Bulk),
        rule(Some("app"), Some("films/drafts"), 0, Class::Fast),
        rule(Some("other"), None, 0, Class::Fast),
    ];
    let nodes = nodes(&rules);
    for path in ["films/1", "films/2", "films/drafts/1", "film", "filmsnot", "note"] {
        nodes[0].write(path, path.as_bytes(), Ack::All).expect("written");
    }
    settled_places(&nodes);
    assert_eq!(have(&nodes, "films/1"), ["a", "c", "d"]);
    assert_eq!(have(&nodes, "films/2"), ["a", "c", "d"]);
    assert_eq!(have(&nodes, "films/drafts/1"), ["a"]);
    assert_eq!(have(&nodes, "film").len(), 4);
    assert_eq!(have(&nodes, "filmsnot"), ["a", "b"], "one copy, on the fast disk");
    assert_eq!(have(&nodes, "note"), ["a", "b"]);
}

/// Who places it elsewhere is obeyed by members that know no rule, also for what is made of it.
#[test]
fn a_write_says_it_for_all_members() {
    let nodes = nodes(&[]);
    let write = |path: &str, copies: Option<u8>, class: Option<Class>| {
        let content = [path.as_bytes(), &[7; 300_000]].concat();
        let dot = nodes[0].work(path, move |mesh, name| {
            let mut writing = mesh.writing(name)?;
            writing.put_place(copies, class);
            writing.write(&content)?;
            writing.commit()
        });
        nodes[0].acknowledged(path, dot.expect("written"), Ack::All).expect("acknowledged")
    };
    assert_eq!(write("own", Some(0), None).replicas, 0);
    assert_eq!(write("all", Some(9), None).replicas, 3);
    assert_eq!(write("bulk", None, Some(Class::Bulk)).replicas, 1);
    nodes[0].mesh.copy(&name("own"), &name("copied")).expect("copied");
    settled_places(&nodes);
    assert_eq!(have(&nodes, "own"), ["a"]);
    assert_eq!(have(&nodes, "copied"), ["a"]);
    assert_eq!(have(&nodes, "all").len(), 4);
    let bulk = have(&nodes, "bulk");
    assert!(bulk == ["a", "c"] || bulk == ["a", "d"], "{bulk:?}");
    // written anew it is as any other
    nodes[0].write("own", b"anew", Ack::All).expect("written");
    assert_eq!(have(&nodes, "own"), ["a", "b"]);
}

fn settled_places(nodes: &[Node]) {
    until("nothing is under way", || {
        nodes.iter().map(|node| node.mesh.status()).all(|status| status.untold == 0 && status.fetching == 0)
    });
}
