//! The state machine: by rule, beside a naive model, by its bytes.

mod bytes;
mod common;
mod data;
mod given;
mod limits;
mod model;
mod naive;
mod rules;
