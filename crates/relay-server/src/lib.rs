//! A circuit relay for distributed validator clusters: the meeting point of nodes that cannot reach
//! each other.
//!
//! Spec: p2p, section 9. Peers that hold a place ([`Limits`]) are reached through it by others, over
//! TCP and QUIC, as through Charon's relay, and clients of Charon find it as they find theirs.
//!
//! - [`RelayServer`] is the relay: [`new`](RelayServer::new) binds its ports, [`run`](RelayServer::run)
//!   serves until it has drained.
//! - [`Config`] says what it listens on and gives; embedded in a program it needs neither HTTP nor
//!   metrics.
//! - [`Control`] shows what it does, and ends it.

mod config;
mod hop;
mod http;
mod metrics;
mod server;

pub use self::{
    config::{Config, Limits},
    metrics::{MAX_PEERS, OTHER},
    server::{Control, Outcome, Phase, Reach, RelayError, RelayServer, State},
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
