//! The place of the TCP to QUIC upgrade in a node. It does nothing yet: smart dialling already
//! prefers QUIC where a peer is known to listen on it.

#![expect(
    missing_docs,
    reason = "the derive generates an event enum without them"
)]

use libp2p::swarm::{NetworkBehaviour, dummy};

/// Does nothing yet; nodes carry it switched off.
#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
pub struct QuicUpgrade {
    nothing: dummy::Behaviour,
}
