//! Relays, seen from a node that uses them.

use libp2p::PeerId;

/// Why a relay gave no reservation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReserveError {
    /// It did not answer in time.
    #[error("relay {relay} did not answer in time")]
    TimedOut {
        /// The relay.
        relay: PeerId,
    },
}
