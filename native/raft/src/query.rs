//! What is read of the state, and what was found.

use crate::machine::{self, read, Component, Event, Path, Pattern, View};
use crate::{RaftError, Reading, HOT_BYTES_MAX};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::time::Duration;

/// How fresh a read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consistency {
    /// Holds every write that was answered anywhere before the read began.
    Linearizable,
    /// Holds every write that was answered anywhere so long before the read began.
    Stale(Duration),
    /// What this node has.
    Local,
}

/// What is read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Query {
    /// One node.
    Get(Path),
    /// Nodes that match, behind a path, so many.
    GetMany(Pattern, Option<Path>, u64),
    /// How many match.
    Count(Pattern),
    /// Names of children, behind a name, so many.
    List(Option<Path>, Option<Component>, u64),
    /// Events from a revision on, so many.
    History(u64, usize),
    /// Figures.
    Status,
}

/// What was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Found {
    /// Of [`Query::Get`].
    Node(Option<machine::Node>),
    /// Of [`Query::GetMany`].
    Nodes(read::Page),
    /// Of [`Query::Count`].
    Count(u64),
    /// Of [`Query::List`].
    Names(Vec<Component>),
    /// Of [`Query::History`]; whether there are more.
    Events(Vec<Event>, bool),
    /// Of [`Query::Status`].
    Status(machine::Status),
}

impl Query {
    /// What it finds in a view.
    pub fn of(&self, rows: &Reading) -> Result<Found, RaftError> {
        rows.look(|view| find_in(view, self))
    }

    /// The same from memory, without waiting; `None`: by [`Query::of`] only.
    pub(crate) fn hot(&self, rows: &Reading) -> Result<Option<Found>, RaftError> {
        let Self::Get(path) = self else { return Ok(None) };
        rows.look_now(HOT_BYTES_MAX, |rows| Ok(Found::Node(read::get(rows, path)?)))
    }
}

fn find_in(view: &dyn View, query: &Query) -> Result<Found, RaftError> {
    Ok(match query {
        Query::Get(path) => Found::Node(read::get(view, path)?),
        Query::GetMany(pattern, after, limit) => Found::Nodes(read::get_many(view, pattern, after.as_ref(), *limit)?),
        Query::Count(pattern) => Found::Count(read::count(view, pattern)?),
        Query::List(path, after, limit) => Found::Names(read::list(view, path.as_ref(), after.as_ref(), *limit)?),
        Query::History(from, limit) => history(view, *from, *limit)?,
        Query::Status => Found::Status(machine::status(view)?),
    })
}

/// Whole revisions, so that who goes on behind the last one misses nothing.
fn history(view: &dyn View, from: u64, limit: usize) -> Result<Found, RaftError> {
    let (mut events, mut more) = (Vec::<Event>::new(), false);
    machine::history(view, from, &mut |event| {
        if events.len() >= limit && events.last().is_some_and(|last| last.revision < event.revision) {
            more = true;
            return ControlFlow::Break(());
        }
        events.push(event);
        ControlFlow::Continue(())
    })?;
    Ok(Found::Events(events, more))
}
