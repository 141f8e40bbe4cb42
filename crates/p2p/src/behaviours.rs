//! Behaviours that a node is composed of.

pub mod identify;
pub mod optional;
pub mod ping;
pub mod pluto;
mod wrap;

pub use wrap::{Observe, Observed};
