//! Where copies lie: rendezvous hashing (Thaler and Ravishankar, 1998) over the members that are there.
//!
//! Each member has a rank for each file, drawn from both names. Taken are the highest ranks, of different
//! zones first, of the wanted class of disk before others. Invariant: everybody who knows the same members
//! chooses the same, and one who comes or goes changes one place of the files it takes or had, and no other's.

use crate::record::ReplicaId;
use crate::Name;
use macula_core::{AppName, RelPath};
use serde::{Deserialize, Serialize};

/// What a member's disk is good for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// An SSD: where files go unless told otherwise.
    #[default]
    Fast,
    /// Large and slow.
    Bulk,
}

/// Where the copies of a version shall lie, as its author had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Replicas beside the one where it was written.
    pub copies: u8,
    /// On members with such disks first.
    pub class: Class,
}

/// Where what is written to files beneath a directory of an app shall lie, and what is kept of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The app; nothing: all of them.
    pub app: Option<AppName>,
    /// The directory, or the file; nothing: all of the app's.
    pub prefix: Option<RelPath>,
    /// There.
    pub place: Place,
    /// So many former versions are kept on each member that had them and has this rule.
    pub keep_versions: u8,
}

/// The rule that speaks of a file most precisely.
pub fn rule_of<'a>(rules: &'a [Rule], name: &Name) -> Option<&'a Rule> {
    let is_of = |rule: &&Rule| {
        let is_app = rule.app.as_ref().is_none_or(|app| *app == name.app);
        is_app && rule.prefix.as_ref().is_none_or(|prefix| name.path.is_within(prefix))
    };
    let precision =
        |rule: &&Rule| (rule.app.is_some(), rule.prefix.as_ref().map(|prefix| prefix.as_bytes().len()).unwrap_or(0));
    rules.iter().filter(is_of).max_by_key(precision)
}

/// Who a replica is, in its own words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Its number.
    pub replica: ReplicaId,
    /// The member that has it.
    pub name: String,
    /// Machines of one zone fail together.
    pub zone: String,
    /// Its disk.
    pub class: Class,
}

/// The `count` replicas that shall have the file of this key beside those of `given`, which have it for other
/// reasons and count for their zones. In the order of their ranks.
pub fn choose<'a>(key: &[u8], class: Class, cards: &'a [Card], given: &[ReplicaId], count: usize) -> Vec<&'a Card> {
    let mut ranked: Vec<(u64, &Card)> = cards.iter().map(|card| (rank(key, &card.name), card)).collect();
    ranked.sort_by(|one, other| {
        let order = |(rank, card): &(u64, &Card)| (card.class != class, std::cmp::Reverse(*rank), card.replica);
        order(one).cmp(&order(other))
    });
    let of_given = |card: &&Card| given.contains(&card.replica);
    let mut zones: Vec<&str> = cards.iter().filter(of_given).map(|card| card.zone.as_str()).collect();
    let mut chosen: Vec<(usize, &Card)> = Vec::with_capacity(count);
    for is_first_of_zone in [true, false] {
        for (at, (_, card)) in ranked.iter().enumerate() {
            let is_known = of_given(card) || chosen.iter().any(|(_, other)| other.replica == card.replica);
            let is_new_zone = !zones.contains(&card.zone.as_str());
            if chosen.len() < count && !is_known && (is_new_zone || !is_first_of_zone) {
                chosen.push((at, card));
                zones.push(&card.zone);
            }
        }
    }
    chosen.sort_by_key(|(at, _)| *at);
    chosen.into_iter().map(|(_, card)| card).collect()
}

fn rank(key: &[u8], name: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name.as_bytes());
    hasher.update(key);
    let mut rank = [0; 8];
    rank.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(rank)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn cards(count: u64, zones: u64) -> Vec<Card> {
        let card = |n| Card {
            replica: n + 1,
            name: format!("n{n}@host"),
            zone: format!("z{}", n % zones),
            class: Class::Fast,
        };
        (0..count).map(card).collect()
    }

    fn of(key: u64, cards: &[Card], count: usize) -> Vec<ReplicaId> {
        choose(&key.to_le_bytes(), Class::Fast, cards, &[], count).iter().map(|card| card.replica).collect()
    }

    #[test]
    fn even_and_apart() {
        let cards = cards(9, 3);
        let mut counts = BTreeMap::<ReplicaId, u32>::new();
        for key in 0..9_000 {
            let chosen = of(key, &cards, 3);
            let zones: std::collections::BTreeSet<u64> = chosen.iter().map(|replica| (replica - 1) % 3).collect();
            assert_eq!(zones.len(), 3);
            chosen.iter().for_each(|replica| *counts.entry(*replica).or_default() += 1);
        }
        assert!(counts.values().all(|count| (2_800..3_200).contains(count)), "{counts:?}");
    }

    #[test]
    fn who_goes_moves_only_its_own() {
        for (members, zones) in [(9, 3), (5, 5), (6, 1), (7, 4)] {
            let all = cards(members, zones);
            for gone in 1..=members {
                let left: Vec<Card> = all.iter().filter(|card| card.replica != gone).cloned().collect();
                for key in 0..300 {
                    let (before, after) = (of(key, &all, 3), of(key, &left, 3));
                    let stayed = before.iter().filter(|replica| after.contains(replica)).count();
                    let expected = before.len() - usize::from(before.contains(&gone));
                    assert!(stayed >= expected.saturating_sub(usize::from(zones < members && before.contains(&gone))));
                    assert!(before.contains(&gone) || before == after);
                }
            }
        }
    }

    #[test]
    fn the_class_is_a_wish() {
        let mut cards = cards(4, 4);
        cards[2].class = Class::Bulk;
        let chosen = choose(b"archive.tar", Class::Bulk, &cards, &[1], 2);
        assert_eq!((chosen[0].replica, chosen.len()), (3, 2));
        assert!(choose(b"a", Class::Fast, &cards, &[], 9).len() == 4);
    }
}
