//! How other processes of the machine (mix tasks, an operator's command line) reach an app that a
//! running process owns: a socket under `run/`, and [`perform`], which carries out a command here or
//! there.
//!
//! Invariants: only the same user and root are heard; no wait is without a bound; a frame is
//! believed no further than its bytes have arrived. The bytes are in `docs/formats.md`.

mod client;
mod command;
mod error;
mod frame;
mod kinds;
mod link;
mod perform;
mod place;
mod server;

pub use client::{Client, Patience};
pub use command::{Command, Outcome};
pub use error::ControlError;
pub use perform::perform;
pub use place::socket_name;
pub use server::{Handler, Server};
