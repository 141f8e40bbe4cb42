//! The behaviours that every node has, around the one that makes it what it is.

#![expect(
    missing_docs,
    reason = "the derive generates an event enum without them"
)]

use libp2p::{
    autonat, connection_limits, dcutr,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};

use super::{identify, optional::OptionalBehaviour, ping};
use crate::{conn_logger, dialer, gater, quic_upgrade::QuicUpgrade, relay};

/// The common behaviours around `inner`.
///
/// The order is the order in which events are told: `conn_logger` first, so that all others see a
/// context that is true; the gate second, so that a stranger costs nothing more; `inner` last.
#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
pub struct PlutoBehaviour<B: NetworkBehaviour> {
    /// Keeps the context true.
    pub conn_logger: conn_logger::Behaviour,
    /// Lets in who belongs.
    pub gater: gater::Behaviour,
    /// Bounds connections.
    pub limits: connection_limits::Behaviour,
    /// The one dialler.
    pub dialer: dialer::Behaviour,
    /// Who peers are and where.
    pub identify: identify::Behaviour,
    /// Whether they answer.
    pub ping: ping::Behaviour,
    /// Whether we are reachable; version 1, which is what Charon serves.
    pub autonat: autonat::Behaviour,
    /// The half of the relay client that is a behaviour; absent in servers.
    pub relay: Toggle<relay::Behaviour>,
    /// Hole punching, begun by the side that accepted a circuit. It dials by itself, both sides at
    /// one moment, which no planner could; where addresses can be dialled it only makes connections
    /// that nobody needs. So it is switched on by the first peer that cannot be reached directly, and
    /// begins anew with later ones.
    pub dcutr: OptionalBehaviour<dcutr::Behaviour>,
    /// TCP to QUIC.
    pub quic_upgrade: OptionalBehaviour<QuicUpgrade>,
    /// What the node is for.
    pub inner: OptionalBehaviour<B>,
}
