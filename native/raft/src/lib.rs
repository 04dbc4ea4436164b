//! Replicated hot state: a tree of terms that a quorum of nodes agrees on.

#![forbid(unsafe_code)]

pub mod machine;
