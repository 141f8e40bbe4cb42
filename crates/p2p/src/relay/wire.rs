//! The messages of circuit relay v2, and what its status codes mean, for clients and for relays.
//!
//! The `.proto` file is written from the public specification (libp2p specs, `relay/circuit-v2.md`);
//! frames are those of [`proto`](crate::proto).

use std::{fmt, time::Duration};

use libp2p::{Multiaddr, PeerId, StreamProtocol, multiaddr::Protocol};

/// The generated messages.
#[allow(missing_docs, reason = "generated")]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/circuit.v2.rs"));
}

/// What a client asks its relay on.
pub const HOP: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/hop");
/// What a relay asks its client on.
pub const STOP: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/stop");
/// The longest message, as in go-libp2p (p2p spec, section 9.2).
pub const MAX_FRAME: usize = 4096;

impl pb::HopMessage {
    /// Asks for a reservation.
    pub fn reserve() -> Self {
        Self {
            r#type: Some(pb::hop_message::Type::Reserve.into()),
            ..Self::default()
        }
    }

    /// Asks for a circuit.
    pub fn connect(to: PeerId) -> Self {
        Self {
            r#type: Some(pb::hop_message::Type::Connect.into()),
            peer: Some(to.into()),
            ..Self::default()
        }
    }

    /// An answer without more; a status is a [`pb::Status`] or its code.
    pub fn answer(status: impl Into<i32>) -> Self {
        Self {
            r#type: Some(pb::hop_message::Type::Status.into()),
            status: Some(status.into()),
            ..Self::default()
        }
    }
}

impl pb::StopMessage {
    /// Asks the far end to take a circuit.
    pub fn connect(from: PeerId) -> Self {
        Self {
            r#type: Some(pb::stop_message::Type::Connect.into()),
            peer: Some(from.into()),
            ..Self::default()
        }
    }

    /// An answer; a status is a [`pb::Status`] or its code.
    pub fn answer(status: impl Into<i32>) -> Self {
        Self {
            r#type: Some(pb::stop_message::Type::Status.into()),
            status: Some(status.into()),
            ..Self::default()
        }
    }
}

impl From<PeerId> for pb::Peer {
    fn from(id: PeerId) -> Self {
        Self {
            id: Some(id.to_bytes().into()),
            addrs: Vec::new(),
        }
    }
}

/// Why a relay refuses: the status codes of the specification other than OK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// 200.
    #[error("reservation refused")]
    ReservationRefused,
    /// 201.
    #[error("resource limit exceeded (the relay is full, or has enough of this peer)")]
    ResourceLimitExceeded,
    /// 202.
    #[error("permission denied")]
    PermissionDenied,
    /// 203.
    #[error("the relay has a reservation of the peer but did not reach it")]
    ConnectionFailed,
    /// 204: not yet, or no longer, but perhaps soon.
    #[error("the peer has no reservation on the relay")]
    NoReservation,
    /// 400.
    #[error("the relay takes our message for malformed")]
    MalformedMessage,
    /// 401.
    #[error("the relay did not expect our message")]
    UnexpectedMessage,
    /// A code that the specification does not have.
    #[error("unknown status {0}")]
    Unknown(i32),
}

impl Refusal {
    /// Reads a status code; `None` is OK.
    pub fn of(code: i32) -> Option<Self> {
        use pb::Status;
        Some(match Status::try_from(code) {
            Ok(Status::Ok) => return None,
            Ok(Status::ReservationRefused) => Self::ReservationRefused,
            Ok(Status::ResourceLimitExceeded) => Self::ResourceLimitExceeded,
            Ok(Status::PermissionDenied) => Self::PermissionDenied,
            Ok(Status::ConnectionFailed) => Self::ConnectionFailed,
            Ok(Status::NoReservation) => Self::NoReservation,
            Ok(Status::MalformedMessage) => Self::MalformedMessage,
            Ok(Status::UnexpectedMessage) => Self::UnexpectedMessage,
            Ok(Status::Unused) | Err(_) => Self::Unknown(code),
        })
    }

    pub(crate) fn status(self) -> i32 {
        use pb::Status;
        let status = match self {
            Self::ReservationRefused => Status::ReservationRefused,
            Self::ResourceLimitExceeded => Status::ResourceLimitExceeded,
            Self::PermissionDenied => Status::PermissionDenied,
            Self::ConnectionFailed => Status::ConnectionFailed,
            Self::NoReservation => Status::NoReservation,
            Self::MalformedMessage => Status::MalformedMessage,
            Self::UnexpectedMessage => Status::UnexpectedMessage,
            Self::Unknown(code) => return code,
        };
        status.into()
    }
}

/// How a message breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The message is not of the type that belongs here.
    #[error("a message of type {found:?} where another belongs")]
    Type {
        /// The number of its type, if it has one.
        found: Option<i32>,
    },
    /// An answer has no status.
    #[error("an answer without a status")]
    NoStatus,
    /// A reservation was granted without saying anything of it.
    #[error("a granted reservation without its data")]
    NoReservation,
    /// A request names no peer, or something that is no peer id.
    #[error("a request that names no peer")]
    NoPeer,
}

/// What a relay allows one circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limit {
    /// How long it may last; `None` is for ever.
    pub duration: Option<Duration>,
    /// Bytes in each direction; `None` is any number.
    pub bytes: Option<u64>,
}

impl Limit {
    pub(super) fn of(limit: pb::Limit) -> Self {
        Self {
            duration: limit
                .duration
                .filter(|secs| *secs > 0)
                .map(|secs| Duration::from_secs(secs.into())),
            bytes: limit.data.filter(|bytes| *bytes > 0),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.duration, self.bytes) {
            (None, None) => f.write_str("none"),
            (Some(duration), None) => write!(f, "{duration:?}"),
            (None, Some(bytes)) => write!(f, "{bytes} bytes"),
            (Some(duration), Some(bytes)) => write!(f, "{duration:?}, {bytes} bytes"),
        }
    }
}

/// The peer that a request names.
pub fn peer_of(peer: Option<pb::Peer>) -> Result<PeerId, Violation> {
    peer.and_then(|peer| peer.id)
        .and_then(|id| PeerId::from_bytes(&id).ok())
        .ok_or(Violation::NoPeer)
}

/// The relay's part of a circuit address, whether or not `address` ends in its id.
pub(super) fn through(mut address: Multiaddr, relay: PeerId) -> Multiaddr {
    if address.iter().last() != Some(Protocol::P2p(relay)) {
        address.push(Protocol::P2p(relay));
    }
    address.with(Protocol::P2pCircuit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_comes_back_from_its_refusal() {
        for code in [200, 201, 202, 203, 204, 400, 401, 0, 7, -1, i32::MAX] {
            assert_eq!(Refusal::of(code).unwrap().status(), code);
        }
        assert_eq!(Refusal::of(100), None);
    }

    #[test]
    fn a_limit_of_zero_is_none() {
        let limit = Limit::of(pb::Limit {
            duration: Some(0),
            data: Some(0),
        });
        assert_eq!(limit, Limit::default());
    }

    #[test]
    fn the_relays_id_is_in_its_address_once() {
        let relay = PeerId::random();
        let bare: Multiaddr = "/ip4/1.2.3.4/tcp/9".parse().unwrap();
        let full = bare.clone().with(Protocol::P2p(relay));
        let expected = full.clone().with(Protocol::P2pCircuit);
        assert_eq!(through(bare, relay), expected);
        assert_eq!(through(full, relay), expected);
    }
}
