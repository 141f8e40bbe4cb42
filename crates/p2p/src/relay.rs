//! Relays, seen from a node that uses them.

mod router;

use libp2p::PeerId;

pub(crate) use self::router::Routes;
pub use self::router::{RelayRouter, Via};

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
