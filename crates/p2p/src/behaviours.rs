//! Behaviours that a node is composed of.

pub mod optional;
