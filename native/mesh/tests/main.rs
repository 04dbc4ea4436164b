//! Members of one process, and what becomes of their files: a module for each thing that must hold.
//!
//! One program: each of its own would be linked with all the crate's dependencies.

#![allow(clippy::disallowed_methods)]

mod ahead;
mod bandwidth;
mod cache;
mod care;
mod chaos;
mod collect;
mod common;
mod events;
mod every_n;
mod forgotten;
mod former;
mod hostile;
mod kept;
mod mesh;
mod nearest;
mod placed;
mod places;
mod ranges;
mod record;
mod relay;
mod rounds;
mod silent;
mod together;
mod watch;
