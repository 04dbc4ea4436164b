//! Commands, queries and answers of the replicated state as terms. Elixir's side: `MaculaStorage.Khepri.Wire`.

use super::invalid;
use crate::atoms;
use crate::error::Failure;
use crate::options::list;
use macula_raft::machine::{
    Command, Compare, Component, Condition, Event, EventKind, Guard, ImportEntry, MachineError, Node, Op, OpResult,
    Part, Path, Pattern, Refusal, Response, Status,
};
use macula_raft::{Found, Query};
use rustler::types::tuple::get_tuple;
use rustler::{Atom, Binary, Encoder, Env, NewBinary, Term};

/// How deep conditions of Elixir's may nest before the machine itself looks.
const DEPTH_MAX: usize = 32;

fn bytes(term: Term) -> Result<Vec<u8>, Failure> {
    let bytes: Binary = term.decode().map_err(|_| invalid("binary"))?;
    Ok(bytes.as_slice().to_vec())
}

fn number(term: Term) -> Result<u64, Failure> {
    term.decode().map_err(|_| invalid("number"))
}

/// `nil`: none.
fn optional<'a, T>(term: Term<'a>, decode: impl FnOnce(Term<'a>) -> Result<T, Failure>) -> Result<Option<T>, Failure> {
    match term.decode::<Atom>() {
        Ok(atom) if atom == atoms::nil() => Ok(None),
        _ => decode(term).map(Some),
    }
}

fn each<'a, T>(term: Term<'a>, decode: impl Fn(Term<'a>) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
    list(term)?.into_iter().map(decode).collect()
}

/// A tuple's first element, an atom, and those that follow.
fn tagged<'a>(term: Term<'a>, what: &'static str) -> Result<(Atom, Vec<Term<'a>>), Failure> {
    if let Ok(tag) = term.decode::<Atom>() {
        return Ok((tag, Vec::new()));
    }
    let mut elements = get_tuple(term).map_err(|_| invalid(what))?;
    if elements.is_empty() {
        return Err(invalid(what));
    }
    let tag = elements.remove(0).decode().map_err(|_| invalid(what))?;
    Ok((tag, elements))
}

fn path(term: Term) -> Result<Path, Failure> {
    Ok(Path::new(&each(term, bytes)?)?)
}

fn compare(term: Term) -> Result<Compare, Failure> {
    let by: Atom = term.decode().map_err(|_| invalid("comparison"))?;
    let known = [
        (atoms::eq(), Compare::Eq),
        (atoms::ne(), Compare::Ne),
        (atoms::lt(), Compare::Lt),
        (atoms::le(), Compare::Le),
        (atoms::gt(), Compare::Gt),
        (atoms::ge(), Compare::Ge),
    ];
    known.into_iter().find(|(atom, _)| *atom == by).map(|(_, by)| by).ok_or_else(|| invalid("comparison"))
}

fn condition(term: Term) -> Result<Condition, Failure> {
    condition_at(term, 0)
}

fn condition_at<'a>(term: Term<'a>, depth: usize) -> Result<Condition, Failure> {
    const WHAT: &str = "condition";
    if depth > DEPTH_MAX {
        return Err(invalid(WHAT));
    }
    let inner = |term: Term<'a>| condition_at(term, depth + 1);
    let (tag, rest) = tagged(term, WHAT)?;
    let figure = |make: fn(Compare, u64) -> Condition, by: Term, n: Term| Ok(make(compare(by)?, number(n)?));
    match rest[..] {
        [] if tag == atoms::exists() => Ok(Condition::Exists),
        [] if tag == atoms::has_data() => Ok(Condition::HasData),
        [value] if tag == atoms::value() => Ok(Condition::ValueIs(bytes(value)?)),
        [pattern] if tag == atoms::matches() => Ok(Condition::Matches(bytes(pattern)?)),
        [by, n] if tag == atoms::version() => figure(Condition::Version, by, n),
        [by, n] if tag == atoms::created() => figure(Condition::Created, by, n),
        [by, n] if tag == atoms::modified() => figure(Condition::Modified, by, n),
        [by, n] if tag == atoms::children() => figure(Condition::Children, by, n),
        [of] if tag == atoms::not() => Ok(Condition::Not(Box::new(inner(of)?))),
        [of] if tag == atoms::all() => Ok(Condition::All(each(of, inner)?)),
        [of] if tag == atoms::any() => Ok(Condition::Any(each(of, inner)?)),
        _ => Err(invalid(WHAT)),
    }
}

fn part(term: Term) -> Result<Part, Failure> {
    const WHAT: &str = "part of a pattern";
    let (tag, rest) = tagged(term, WHAT)?;
    match rest[..] {
        [name] if tag == atoms::exact() => Ok(Part::Exact(Component::new(&bytes(name)?)?)),
        [of] if tag == atoms::any() => Ok(Part::Any(optional(of, condition)?)),
        [] if tag == atoms::many() => Ok(Part::AnyDepth),
        _ => Err(invalid(WHAT)),
    }
}

pub fn pattern(term: Term) -> Result<Pattern, Failure> {
    let (parts, filter): (Term, Term) = term.decode().map_err(|_| invalid("pattern"))?;
    Ok(Pattern::new(each(parts, part)?, optional(filter, condition)?)?)
}

fn watched(term: Term) -> Result<(Path, Condition), Failure> {
    let (of, holds): (Term, Term) = term.decode().map_err(|_| invalid("condition on a path"))?;
    Ok((path(of)?, condition(holds)?))
}

fn guard(term: Term) -> Result<Guard, Failure> {
    const WHAT: &str = "guard";
    let (tag, rest) = tagged(term, WHAT)?;
    match rest[..] {
        [of, holds] if tag == atoms::node() => Ok(Guard::Node(path(of)?, condition(holds)?)),
        [of, since] if tag == atoms::unchanged() => {
            Ok(Guard::Unchanged { pattern: pattern(of)?, since: number(since)? })
        }
        _ => Err(invalid(WHAT)),
    }
}

fn op(term: Term) -> Result<Op, Failure> {
    const WHAT: &str = "operation";
    let (tag, rest) = tagged(term, WHAT)?;
    match rest[..] {
        [to, value, ttl_ms, lease, keep_while] if tag == atoms::put() => Ok(Op::Put {
            path: path(to)?,
            value: bytes(value)?,
            ttl_ms: optional(ttl_ms, number)?,
            lease: optional(lease, number)?,
            keep_while: each(keep_while, watched)?,
        }),
        [of] if tag == atoms::delete() => Ok(Op::Delete { path: path(of)? }),
        [of, value] if tag == atoms::put_many() => Ok(Op::PutMany { pattern: pattern(of)?, value: bytes(value)? }),
        [of] if tag == atoms::delete_many() => Ok(Op::DeleteMany { pattern: pattern(of)? }),
        [of] if tag == atoms::get() => Ok(Op::Get { path: path(of)? }),
        [of, limit] if tag == atoms::get_many() => Ok(Op::GetMany { pattern: pattern(of)?, limit: number(limit)? }),
        _ => Err(invalid(WHAT)),
    }
}

fn import_entry(term: Term) -> Result<ImportEntry, Failure> {
    let (to, value, expires_ms): (Term, Term, Term) = term.decode().map_err(|_| invalid("entry"))?;
    Ok(ImportEntry { path: path(to)?, value: bytes(value)?, expires_ms: optional(expires_ms, number)? })
}

pub fn command_of(term: Term) -> Result<Command, Failure> {
    const WHAT: &str = "command";
    let (tag, rest) = tagged(term, WHAT)?;
    match rest[..] {
        [conditions, then, otherwise] if tag == atoms::txn() => Ok(Command::Txn {
            conditions: each(conditions, guard)?,
            then: each(then, op)?,
            otherwise: each(otherwise, op)?,
        }),
        [ttl_ms, owner, parent] if tag == atoms::lease_grant() => Ok(Command::LeaseGrant {
            ttl_ms: optional(ttl_ms, number)?,
            owner: bytes(owner)?,
            parent: optional(parent, number)?,
        }),
        [ids] if tag == atoms::lease_keep_alive() => Ok(Command::LeaseKeepAlive { ids: each(ids, number)? }),
        [id] if tag == atoms::lease_revoke() => Ok(Command::LeaseRevoke { id: number(id)? }),
        [entries] if tag == atoms::import() => Ok(Command::Import { entries: each(entries, import_entry)? }),
        _ => Err(invalid(WHAT)),
    }
}

pub fn query_of(term: Term) -> Result<Query, Failure> {
    const WHAT: &str = "query";
    let (tag, rest) = tagged(term, WHAT)?;
    match rest[..] {
        [of] if tag == atoms::get() => Ok(Query::Get(path(of)?)),
        [of, behind, limit] if tag == atoms::get_many() => {
            Ok(Query::GetMany(pattern(of)?, optional(behind, path)?, number(limit)?))
        }
        [of] if tag == atoms::count() => Ok(Query::Count(pattern(of)?)),
        [of, behind, limit] if tag == atoms::list() => {
            let behind = optional(behind, |name| Ok(Component::new(&bytes(name)?)?))?;
            Ok(Query::List(optional(of, path)?, behind, number(limit)?))
        }
        [from, limit] if tag == atoms::history() => Ok(Query::History(number(from)?, number(limit)? as usize)),
        [] if tag == atoms::status() => Ok(Query::Status),
        _ => Err(invalid(WHAT)),
    }
}

fn binary<'a>(env: Env<'a>, bytes: &[u8]) -> Term<'a> {
    let mut binary = NewBinary::new(env, bytes.len());
    binary.as_mut_slice().copy_from_slice(bytes);
    binary.into()
}

fn binaries<'a>(env: Env<'a>, path: &Path) -> Term<'a> {
    let terms = path.terms().map(|terms| terms.iter().map(|term| binary(env, term)).collect::<Vec<_>>());
    terms.unwrap_or_default().encode(env)
}

/// `{value, version, created, modified, children, expires_ms, lease}`.
fn node<'a>(env: Env<'a>, node: &Node) -> Term<'a> {
    let value = node.value.as_ref().map(|value| binary(env, value));
    (value, node.version, node.created, node.modified, node.children, node.expires_ms, node.lease).encode(env)
}

fn op_result<'a>(env: Env<'a>, result: &OpResult) -> Term<'a> {
    let before = |previous: &Option<Node>| previous.as_ref().map(|previous| node(env, previous));
    match result {
        OpResult::Put { version, created, previous } => (atoms::put(), version, created, before(previous)).encode(env),
        OpResult::Deleted { removed, previous } => (atoms::delete(), removed, before(previous)).encode(env),
        OpResult::PutMany { count } => (atoms::put_many(), count).encode(env),
        OpResult::DeletedMany { removed } => (atoms::delete_many(), removed).encode(env),
        OpResult::Got { node: found } => (atoms::get(), before(found)).encode(env),
        OpResult::GotMany { nodes: found, more } => (atoms::get_many(), nodes(env, found), more).encode(env),
    }
}

fn nodes<'a>(env: Env<'a>, nodes: &[(Path, Node)]) -> Term<'a> {
    nodes.iter().map(|(path, found)| (binaries(env, path), node(env, found))).collect::<Vec<_>>().encode(env)
}

fn refusal<'a>(env: Env<'a>, refusal: &Refusal) -> Term<'a> {
    match refusal {
        Refusal::TooLarge { .. } => atoms::too_large().encode(env),
        Refusal::LeaseUnknown { .. } => atoms::lease_unknown().encode(env),
        Refusal::LeaseWithoutEnd => atoms::lease_without_end().encode(env),
        Refusal::KeepWhileNotMet { watched } => (atoms::keep_while_not_met(), binaries(env, watched)).encode(env),
    }
}

/// An answer as a term.
pub struct ResponseTerm(pub Response);

impl Encoder for ResponseTerm {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match &self.0 {
            Response::Txn { succeeded, results } => {
                let results: Vec<_> = results.iter().map(|result| op_result(env, result)).collect();
                (atoms::txn(), succeeded, results).encode(env)
            }
            Response::Refused(why) => (atoms::refused(), refusal(env, why)).encode(env),
            Response::LeaseGranted { id, expires_ms } => (atoms::lease_grant(), id, expires_ms).encode(env),
            Response::LeasesKept { gone } => (atoms::lease_keep_alive(), gone).encode(env),
            Response::LeaseRevoked { found, removed } => (atoms::lease_revoke(), found, removed).encode(env),
            Response::Ticked { removed, more } => (atoms::expired(), removed, more).encode(env),
            Response::Imported { entries } => (atoms::import(), entries).encode(env),
        }
    }
}

/// `{revision, kind, path, value, version, created}`.
pub fn event<'a>(env: Env<'a>, event: &Event) -> Term<'a> {
    let kind = match event.kind {
        EventKind::Put => atoms::put(),
        EventKind::Deleted => atoms::delete(),
        EventKind::Expired => atoms::expired(),
    };
    let value = event.value.as_ref().map(|value| binary(env, value));
    (event.revision, kind, binaries(env, &event.path), value, event.version, event.created).encode(env)
}

fn status<'a>(env: Env<'a>, status: &Status) -> Term<'a> {
    let fields = [
        (atoms::revision(), status.revision),
        (atoms::time_ms(), status.time_ms),
        (atoms::nodes(), status.nodes),
        (atoms::live_bytes(), status.payload_bytes),
        (atoms::leases(), status.leases),
        (atoms::history_first(), status.history_first),
        (atoms::history_bytes(), status.history_bytes),
    ];
    Term::map_from_pairs(env, &fields).unwrap_or_else(|_| atoms::nil().encode(env))
}

/// What a query found, as a term.
pub struct FoundTerm(pub Found);

impl Encoder for FoundTerm {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match &self.0 {
            Found::Node(found) => found.as_ref().map(|found| node(env, found)).encode(env),
            Found::Nodes(page) => (nodes(env, &page.nodes), page.more).encode(env),
            Found::Count(count) => count.encode(env),
            Found::Names(names) => {
                let names: Result<Vec<_>, MachineError> =
                    names.iter().map(|name| Ok(binary(env, &name.term()?))).collect();
                names.unwrap_or_default().encode(env)
            }
            Found::Events(events, more) => {
                (events.iter().map(|told| event(env, told)).collect::<Vec<_>>(), more).encode(env)
            }
            Found::Status(figures) => status(env, figures),
        }
    }
}
