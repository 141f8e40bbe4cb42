//! The messages of circuit relay v2.
//!
//! Source: libp2p's circuit relay v2 specification, confirmed by frames recorded from Charon.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::{Multiaddr, PeerId, StreamProtocol};

/// What clients ask a relay on.
pub(crate) const HOP: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/hop");
/// What a relay asks the far end of a circuit on.
pub(crate) const STOP: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/stop");
/// What a member tells about itself, its cluster among it (p2p spec, section 10).
pub(crate) const PEERINFO: StreamProtocol = StreamProtocol::new("/charon/peerinfo/2.0.0");
/// The longest message, Charon's value (p2p spec, section 9.2).
pub(crate) const MAX_MESSAGE: usize = 4096;

const RESERVE: i32 = 0;
const CONNECT: i32 = 1;
const HOP_STATUS: i32 = 2;
const STOP_CONNECT: i32 = 0;
const STOP_STATUS: i32 = 1;

/// Answers of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Status {
    Ok,
    ReservationRefused,
    ResourceLimitExceeded,
    PermissionDenied,
    ConnectionFailed,
    NoReservation,
    MalformedMessage,
    UnexpectedMessage,
}

impl Status {
    pub(crate) fn code(self) -> i32 {
        match self {
            Self::Ok => 100,
            Self::ReservationRefused => 200,
            Self::ResourceLimitExceeded => 201,
            Self::PermissionDenied => 202,
            Self::ConnectionFailed => 203,
            Self::NoReservation => 204,
            Self::MalformedMessage => 400,
            Self::UnexpectedMessage => 401,
        }
    }
}

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Reserve,
    Connect { to: PeerId },
}

/// What a circuit may take, as both its ends are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CircuitLimit {
    pub(crate) duration: Duration,
    /// In each direction.
    pub(crate) bytes: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HopMessage {
    // Explicit, as libp2p writes it: absent and 0 are not the same in proto2.
    #[prost(int32, optional, tag = "1")]
    pub(crate) kind: Option<i32>,
    #[prost(message, optional, tag = "2")]
    pub(crate) peer: Option<Peer>,
    #[prost(message, optional, tag = "3")]
    pub(crate) reservation: Option<Reservation>,
    #[prost(message, optional, tag = "4")]
    pub(crate) limit: Option<Limit>,
    #[prost(int32, optional, tag = "5")]
    pub(crate) status: Option<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StopMessage {
    #[prost(int32, optional, tag = "1")]
    pub(crate) kind: Option<i32>,
    #[prost(message, optional, tag = "2")]
    pub(crate) peer: Option<Peer>,
    #[prost(message, optional, tag = "3")]
    pub(crate) limit: Option<Limit>,
    #[prost(int32, optional, tag = "4")]
    pub(crate) status: Option<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Peer {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub(crate) id: Option<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(crate) addrs: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Reservation {
    /// Seconds since 1970.
    #[prost(uint64, optional, tag = "1")]
    pub(crate) expire: Option<u64>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(crate) addrs: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Limit {
    /// Seconds.
    #[prost(uint32, optional, tag = "1")]
    pub(crate) duration: Option<u32>,
    /// Bytes in each direction.
    #[prost(uint64, optional, tag = "2")]
    pub(crate) data: Option<u64>,
}

/// What is read of a member's peer information.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PeerInfo {
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) lock_hash: Vec<u8>,
}

impl From<CircuitLimit> for Limit {
    fn from(limit: CircuitLimit) -> Self {
        Self {
            duration: Some(u32::try_from(limit.duration.as_secs()).unwrap_or(u32::MAX)),
            data: Some(limit.bytes),
        }
    }
}

impl HopMessage {
    /// Reads a request; the status is what a wrong one is answered with.
    pub(crate) fn request(&self) -> Result<Request, Status> {
        match self.kind {
            Some(RESERVE) => Ok(Request::Reserve),
            Some(CONNECT) => {
                let id = self.peer.as_ref().and_then(|peer| peer.id.as_deref());
                let to = id.and_then(|id| PeerId::from_bytes(id).ok());
                to.map(|to| Request::Connect { to })
                    .ok_or(Status::MalformedMessage)
            }
            Some(HOP_STATUS) => Err(Status::UnexpectedMessage),
            _ => Err(Status::MalformedMessage),
        }
    }

    /// An answer without more.
    pub(crate) fn answer(status: Status) -> Self {
        Self {
            kind: Some(HOP_STATUS),
            status: Some(status.code()),
            ..Self::default()
        }
    }

    /// The answer that gives a place. There is no voucher: nobody asks for one.
    pub(crate) fn reserved(lifetime: Duration, addrs: &[Multiaddr], limit: CircuitLimit) -> Self {
        let expires = SystemTime::now() + lifetime;
        let expires = expires.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            reservation: Some(Reservation {
                expire: Some(expires.as_secs()),
                addrs: addrs.iter().map(Multiaddr::to_vec).collect(),
            }),
            limit: Some(limit.into()),
            ..Self::answer(Status::Ok)
        }
    }

    /// The answer that opens a circuit.
    pub(crate) fn connected(limit: CircuitLimit) -> Self {
        Self {
            limit: Some(limit.into()),
            ..Self::answer(Status::Ok)
        }
    }
}

impl StopMessage {
    /// Asks the far end to take a circuit.
    pub(crate) fn connect(from: PeerId, limit: CircuitLimit) -> Self {
        Self {
            kind: Some(STOP_CONNECT),
            peer: Some(Peer {
                id: Some(from.to_bytes()),
                addrs: Vec::new(),
            }),
            limit: Some(limit.into()),
            status: None,
        }
    }

    /// Whether it is an answer that takes the circuit.
    pub(crate) fn accepts(&self) -> bool {
        self.kind == Some(STOP_STATUS) && self.status == Some(Status::Ok.code())
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn requests_are_read_as_recorded() {
        let read = |bytes: &[u8]| HopMessage::decode(bytes).unwrap().request();
        assert_eq!(read(&[0x08, 0x00]), Ok(Request::Reserve));
        assert_eq!(read(&[0x08, 0x01]), Err(Status::MalformedMessage));
        assert_eq!(read(&[0x08, 0x02]), Err(Status::UnexpectedMessage));
        assert_eq!(read(&[]), Err(Status::MalformedMessage));
        let to = PeerId::random();
        let mut bytes = vec![0x08, 0x01, 0x12, to.to_bytes().len() as u8 + 2, 0x0a];
        bytes.push(to.to_bytes().len() as u8);
        bytes.extend(to.to_bytes());
        assert_eq!(read(&bytes), Ok(Request::Connect { to }));
    }

    #[test]
    fn a_place_is_told_as_charon_tells_it() {
        let limit = CircuitLimit {
            duration: Duration::from_secs(3600),
            bytes: 32 << 20,
        };
        let message = HopMessage::reserved(Duration::from_secs(3600), &[], limit);
        let bytes = message.encode_to_vec();
        // The end of the recorded answer: one hour, 32 MiB, status 100.
        let end = [
            0x22, 0x08, 0x08, 0x90, 0x1c, 0x10, 0x80, 0x80, 0x80, 0x10, 0x28, 0x64,
        ];
        assert!(bytes.starts_with(&[0x08, 0x02, 0x1a]), "{bytes:x?}");
        assert!(bytes.ends_with(&end), "{bytes:x?}");
    }
}
