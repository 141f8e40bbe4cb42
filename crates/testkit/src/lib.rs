//! For tests only: real nodes in one process, peers without manners, and links that fail.
//!
//! - [`TestNode`] is a [`pluto_p2p::Node`] on loopback with its task, context and control.
//! - [`RawPeer`] speaks any protocol by hand, as slowly, as much or as wrongly as a test wants.
//! - [`Link`] forwards TCP connections until it is told to fall silent, to stall or to cut them;
//!   [`UdpLink`] does so for QUIC.
//! - [`Cluster`] is nodes that know nothing but relays.
//! - [`TestRelay`] is a relay that can be killed and started again where it was.
//!
//! Everything that waits is bounded by [`LIMIT`]; see [`within`].

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

mod cluster;
mod link;
mod node;
mod raw;
mod relay;

use std::time::Duration;

use libp2p::{Multiaddr, PeerId, identity::Keypair};

/// What a [`TestRelay`] gives, and how it stands.
pub use pluto_relay_server::{Limits, State};

pub use self::{
    cluster::{Cluster, for_all_pairs, is_direct},
    link::{Link, UdpLink},
    node::{TestNode, config, introduce, met},
    raw::RawPeer,
    relay::TestRelay,
};

/// The longest that a test waits for one thing; far above what it takes on a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(20);

/// TCP on loopback, any port.
pub const TCP: &str = "/ip4/127.0.0.1/tcp/0";
/// QUIC on loopback, any port.
pub const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
/// Both, for tests that must hold over either.
pub const TRANSPORTS: [&str; 2] = [TCP, QUIC];

/// Waits for the future, for at most [`LIMIT`].
///
/// # Panics
///
/// If it takes longer.
#[track_caller]
pub fn within<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let place = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(LIMIT, future).await {
            Ok(output) => output,
            Err(_) => panic!("nothing happened within {LIMIT:?} at {place}"),
        }
    }
}

/// A fresh identity.
pub fn key() -> Keypair {
    Keypair::generate_secp256k1()
}

/// `n` fresh identities, the smaller peer id first: the first is the one that retires surplus
/// connections, and the one that dials where only one may.
pub fn keys<const N: usize>() -> [Keypair; N] {
    let mut keys = [(); N].map(|()| key());
    keys.sort_by_key(|key| key.public().to_peer_id().to_bytes());
    keys
}

/// The peer ids of identities, in their order.
pub fn ids(keys: &[Keypair]) -> Vec<PeerId> {
    keys.iter().map(|key| key.public().to_peer_id()).collect()
}

/// Reads an address.
///
/// # Panics
///
/// If it is none.
#[track_caller]
pub fn addr(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

/// Shows what the crates log when `RUST_LOG` says so.
pub fn logs() {
    // A second test in the process finds it set.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
}
