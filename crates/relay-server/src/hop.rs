//! The relay's half of circuit relay v2: places (HOP RESERVE) and circuits (HOP CONNECT, STOP).
//!
//! Ours, not libp2p's server behaviour, for what its configuration cannot reach: renewals that are
//! refused when the relay is full, one byte limit for both directions together, circuits that are
//! bounded only for the side that asks, no account of bytes, and a reservation that expires just as
//! it is renewed ends the process.
//!
//! - [`ledger`] decides; it knows no sockets and no clock.
//! - [`behaviour`] asks the ledger and tells the connections.
//! - [`handler`] owns one connection's streams; [`circuit`] moves a circuit's bytes.
//! - [`wire`] has the messages.

pub(crate) mod behaviour;
pub(crate) mod circuit;
pub(crate) mod handler;
pub(crate) mod ledger;
pub(crate) mod wire;
