//! The client of circuit relays, version 2: how we are reached through relays, and reach others.
//!
//! Spec: p2p, sections 5 and 9.2; design §3. libp2p's client is not used: it refuses a reservation
//! that names no addresses, which is what a relay of Charon without a public one sends, it does not
//! tell when a reservation ends or why it was refused, and only one may answer STOP.
//!
//! - `transport` is the half that is a transport: [`Transport`] dials and listens on `/p2p-circuit`
//!   addresses, and yields a [`Circuit`].
//! - `behaviour` is the other half, [`Behaviour`]: it knows connections, and decides.
//! - `handler` owns the streams of one connection; [`hop`] and [`stop`] have what is said on them,
//!   [`wire`] the messages, which the relay's side uses too.
//! - [`reservation`] has the life of a reservation as a pure state machine,
//!   [`MutableRelayReservation`].
//!
//! Nothing here dials a relay: the one dialler does, for ever. A circuit through a relay that is
//! not connected fails at once.

mod behaviour;
mod handler;
pub mod hop;
pub mod reservation;
mod router;
pub mod stop;
mod transport;
pub mod wire;

use std::io;

use libp2p::{Multiaddr, PeerId};

pub(crate) use self::router::Routes;
pub use self::{
    behaviour::{Behaviour, Event},
    handler::{CONNECT_TIMEOUT, MAX_HOP, MAX_STOP, RESERVE_TIMEOUT},
    reservation::{MutableRelayReservation, ReserveError},
    router::{RelayRouter, Via},
    transport::{Circuit, Transport},
    wire::{HOP, Limit, MAX_FRAME, Refusal, STOP, Violation},
};
use crate::p2p_context::P2PContext;

/// Why there is no circuit, or no listener.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address does not say which relay.
    #[error("{address} names no relay: put /p2p/<its peer id> before /p2p-circuit")]
    NoRelay {
        /// The address.
        address: Multiaddr,
    },
    /// The address does not say who is to be reached.
    #[error("{address} names no destination: put /p2p/<its peer id> after /p2p-circuit")]
    NoDestination {
        /// The address.
        address: Multiaddr,
    },
    /// The address leads through several relays.
    #[error("{address} leads through more than one relay")]
    Nested {
        /// The address.
        address: Multiaddr,
    },
    /// There is no connection to the relay. Nothing was asked.
    #[error("relay {relay} is not connected")]
    NotConnected {
        /// The relay.
        relay: PeerId,
    },
    /// The relay was asked for a circuit, in vain.
    #[error("no circuit to peer {to} through relay {relay}")]
    Connect {
        /// The relay.
        relay: PeerId,
        /// Who was to be reached.
        to: PeerId,
        /// What the relay said.
        #[source]
        source: hop::Error,
    },
    /// The connection to the relay was closed before it answered.
    #[error("the connection to relay {relay} was lost")]
    Lost {
        /// The relay.
        relay: PeerId,
    },
    /// Too much is being asked of the relay.
    #[error("{limit} requests to relay {relay} are under way")]
    Busy {
        /// The relay.
        relay: PeerId,
        /// The bound.
        limit: usize,
    },
    /// Another listener is there already; one is enough.
    #[error("there is a listener on relay {relay} already")]
    Taken {
        /// The relay.
        relay: PeerId,
    },
    /// The behaviour is gone.
    #[error("the node has shut down")]
    Gone,
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::NoRelay { .. } | Error::NoDestination { .. } | Error::Nested { .. } => {
                io::ErrorKind::InvalidInput
            }
            Error::NotConnected { .. } => io::ErrorKind::NotConnected,
            Error::Connect { source, .. } => source.kind(),
            Error::Lost { .. } => io::ErrorKind::ConnectionReset,
            Error::Busy { .. } => io::ErrorKind::QuotaExceeded,
            Error::Taken { .. } => io::ErrorKind::AddrInUse,
            Error::Gone => io::ErrorKind::BrokenPipe,
        };
        Self::new(kind, error)
    }
}

/// The relay client's error inside an error of a node's dial or listener, which the transports around
/// it have wrapped. (In a swarm of your own it may be hidden: an `Either` shows only what is wrapped
/// by what it holds.)
pub fn error_of(error: &io::Error) -> Option<&Error> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// What a relay refused with, if that is why a dial failed. [`Refusal::NoReservation`] is "not yet":
/// the peer may reserve any moment.
pub fn refusal_of(error: &io::Error) -> Option<Refusal> {
    chain(error).find_map(|error| match error.downcast_ref() {
        Some(hop::Error::Refused(refusal)) => Some(*refusal),
        _ => None,
    })
}

/// What an error wraps, outermost first. An I/O error names the source of what it wraps as its own,
/// which is therefore asked for.
fn chain(error: &io::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    fn inner(error: &io::Error) -> Option<&(dyn std::error::Error + 'static)> {
        error.get_ref().map(|inner| inner as _)
    }
    std::iter::successors(inner(error), |error| {
        match error.downcast_ref::<io::Error>() {
            Some(io) => inner(io),
            None => error.source(),
        }
    })
}

/// Both halves of the client of the node `local`. Use them in one swarm, in which the context is
/// kept true. The seed is for the jitter.
pub fn new(local: PeerId, context: P2PContext, seed: u64) -> (Transport, Behaviour) {
    let (transport, requests) = Transport::new();
    (transport, Behaviour::new(local, context, requests, seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_found_however_deep_it_is_wrapped() {
        let relay = PeerId::random();
        let error = Error::Connect {
            relay,
            to: PeerId::random(),
            source: hop::Error::Refused(Refusal::NoReservation),
        };
        let mut error = io::Error::from(error);
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        for _ in 0..3 {
            assert_eq!(refusal_of(&error), Some(Refusal::NoReservation));
            error = io::Error::other(error);
        }

        let other = io::Error::other(io::Error::from(Error::NotConnected { relay }));
        assert_eq!(refusal_of(&other), None);
        assert!(matches!(error_of(&other), Some(Error::NotConnected { .. })));
        assert!(error_of(&io::ErrorKind::NotConnected.into()).is_none());
    }
}
