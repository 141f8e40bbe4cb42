//! The peer-to-peer runtime of a distributed validator node.
//!
//! - [`p2p`] has [`Node`], the owner of the swarm. Start here.
//! - [`p2p_context`] has [`P2PContext`]: who is connected, and why not.
//! - [`behaviours`] is what every node is composed of, around your own behaviour.
//! - [`exchange`] is the one way to exchange messages, and [`proto`] has its frames.
//! - [`bootnode`] finds relays, [`relay`] uses them.
//! - [`dialer`], [`gater`] and [`conn_logger`] decide who is dialled, who may come in, what stays.
//! - [`metrics`] has what a node measures, for a registry of yours.
//! - [`cores`] runs what takes long off the network task.
//! - [`addr`] reads and filters addresses; [`identity`] makes key files and ENRs into peers.

pub mod addr;
mod bandwidth;
pub mod behaviours;
pub mod bootnode;
pub mod conn_logger;
pub mod cores;
pub mod dialer;
pub mod exchange;
pub mod force_direct;
pub mod gater;
pub mod identity;
pub mod metrics;
mod muxer;
pub mod p2p;
pub mod p2p_context;
pub mod proto;
pub mod quic_upgrade;
pub mod relay;

pub use self::{
    addr::filter_private_addrs,
    behaviours::{optional::OptionalBehaviour, pluto::PlutoBehaviour},
    bootnode::{RelaySource, Routing},
    force_direct::ForceDirect,
    metrics::Metrics,
    p2p::{Control, MAX_MUXER_STREAMS, Node, NodeBuilder, NodeConfig, NodeError},
    p2p_context::P2PContext,
    quic_upgrade::QuicUpgrade,
    relay::RelayRouter,
};
