//! The peer-to-peer runtime of a distributed validator node

pub mod behaviours;
