//! Walking the tree with a pattern.
//!
//! Only the range of the longest exact prefix is read, and of it no subtree that the pattern can not
//! reach into. Parents stand before their children, so that the places a path has reached follow
//! from its parent's, which are kept for the nodes above the current one.

use super::pattern::Places;
use super::row::NodeRef;
use super::{key, path, Pattern, TableError, View};
use std::ops::ControlFlow;

/// What is met on the way.
pub(super) struct Met<'a> {
    /// Its row.
    pub key: &'a [u8],
    pub node: &'a NodeRef<'a>,
    pub matches: bool,
    /// Something beneath it can match.
    pub goes_on: bool,
}

/// How a visitor wants to go on.
#[derive(Clone, Copy)]
pub(super) enum Next {
    On,
    /// Not into what is beneath this one.
    Past,
    Stop,
}

/// How a walk takes the conditions of its pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Conditions {
    Asked,
    /// As if all held.
    Ignored,
}

/// Meets all nodes that match, and those on the way to them, in the order of their paths; with `after`
/// only those behind that path.
pub(super) fn walk(
    view: &dyn View,
    pattern: &Pattern,
    conditions: Conditions,
    after: Option<&[u8]>,
    visit: &mut dyn FnMut(Met<'_>) -> Next,
) -> Result<(), TableError> {
    let mut trail = Trail::new(pattern, conditions);
    let base = trail.current.clone();
    let end = match trail.whole {
        true => key::after(&base),
        false => key::behind(&base),
    };
    let mut from = base;
    if let Some(after) = after.filter(|after| *after >= from.as_slice()) {
        trail.enter(view, after)?;
        from = key::after(after);
    }
    loop {
        let mut past = None;
        let mut failure = None;
        view.scan(&from, &end, false, &mut |key, row| {
            let node = match NodeRef::parse(row) {
                Ok(node) => node,
                Err(error) => {
                    failure = Some(error);
                    return ControlFlow::Break(());
                }
            };
            let (matches, goes_on) = trail.meet(key, Some(&node));
            let next = match matches || goes_on {
                true => visit(Met { key, node: &node, matches, goes_on }),
                false => Next::On,
            };
            match next {
                Next::Stop => return ControlFlow::Break(()),
                Next::On if goes_on => return ControlFlow::Continue(()),
                _ if node.head.children == 0 => return ControlFlow::Continue(()),
                Next::On | Next::Past => past = Some(key::behind(key)),
            }
            ControlFlow::Break(())
        })?;
        match (failure, past) {
            (Some(error), _) => return Err(error),
            (None, Some(key)) => from = key,
            (None, None) => return Ok(()),
        }
    }
}

struct Trail<'a> {
    pattern: &'a Pattern,
    conditions: Conditions,
    /// The pattern is exact components only.
    whole: bool,
    current: Vec<u8>,
    /// Of each node above the current one and of itself: how long its key is, and its places.
    above: Vec<(usize, Places)>,
}

impl<'a> Trail<'a> {
    fn new(pattern: &'a Pattern, conditions: Conditions) -> Self {
        let (prefix, parts) = pattern.exact_prefix();
        let current = key::node(&prefix);
        let above = vec![(current.len(), pattern.place(parts))];
        Self { pattern, conditions, whole: parts == pattern.parts().len(), current, above }
    }

    /// Whether the node matches, and whether something beneath it can. One that is not there does neither.
    fn meet(&mut self, key: &[u8], node: Option<&NodeRef<'_>>) -> (bool, bool) {
        let shared = self.current.iter().zip(key).take_while(|(a, b)| a == b).count();
        while self.above.len() > 1 && self.above.last().is_some_and(|(len, _)| *len > shared) {
            self.above.pop();
        }
        let Some(&(len, mut places)) = self.above.last() else { return (false, false) };
        let holds = |condition: &super::Condition| match self.conditions {
            Conditions::Asked => condition.holds(node),
            Conditions::Ignored => true,
        };
        if key.len() > len {
            places = match node {
                Some(_) => self.pattern.step(places, &key[len..], &holds),
                None => 0,
            };
            self.above.push((key.len(), places));
            self.current.clear();
            self.current.extend_from_slice(key);
        }
        let matches = self.pattern.is_end(places) && self.pattern.filter().is_none_or(holds);
        (matches, self.pattern.goes_on(places))
    }

    /// Meets the nodes on the way to a path beneath the prefix.
    fn enter(&mut self, view: &dyn View, to: &[u8]) -> Result<(), TableError> {
        if !to.starts_with(&self.current) {
            return Ok(());
        }
        let mut len = self.current.len();
        let lens: Vec<usize> = path::components(&to[len..]).map(<[u8]>::len).collect();
        for component in lens {
            len += component;
            let row = view.get(&to[..len])?;
            let node = row.as_deref().map(NodeRef::parse).transpose()?;
            self.meet(&to[..len], node.as_ref());
        }
        Ok(())
    }
}
