//! What a relay reads and writes: requests on HOP and their answers, and the request on STOP.
//!
//! The messages are those of [`pluto_p2p::relay::wire`]; frames recorded from Charon confirm them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::{Multiaddr, PeerId, StreamProtocol};
use pluto_p2p::relay::{
    Violation,
    wire::{
        pb::{HopMessage, Limit, Reservation, Status, StopMessage, hop_message, stop_message},
        peer_of,
    },
};

/// What a member tells about itself, its cluster among it (p2p spec, section 10).
pub(crate) const PEERINFO: StreamProtocol = StreamProtocol::new("/charon/peerinfo/2.0.0");

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

impl From<CircuitLimit> for Limit {
    fn from(limit: CircuitLimit) -> Self {
        Self {
            duration: Some(u32::try_from(limit.duration.as_secs()).unwrap_or(u32::MAX)),
            data: Some(limit.bytes),
        }
    }
}

/// What is read of a member's peer information.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PeerInfo {
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) lock_hash: Vec<u8>,
}

/// Reads a request; a wrong one comes with the status that it is answered with.
pub(crate) fn request(message: HopMessage) -> Result<Request, (Status, Violation)> {
    use hop_message::Type;
    let found = message.r#type;
    let wrong = Violation::Type { found };
    match found.map(Type::try_from) {
        Some(Ok(Type::Reserve)) => Ok(Request::Reserve),
        Some(Ok(Type::Connect)) => peer_of(message.peer)
            .map(|to| Request::Connect { to })
            .map_err(|violation| (Status::MalformedMessage, violation)),
        Some(Ok(Type::Status)) => Err((Status::UnexpectedMessage, wrong)),
        Some(Err(_)) | None => Err((Status::MalformedMessage, wrong)),
    }
}

/// The answer that gives a place. There is no voucher: nobody asks for one.
pub(crate) fn reserved(lifetime: Duration, addrs: &[Multiaddr], limit: CircuitLimit) -> HopMessage {
    let expires = SystemTime::now() + lifetime;
    let expires = expires.duration_since(UNIX_EPOCH).unwrap_or_default();
    HopMessage {
        reservation: Some(Reservation {
            expire: Some(expires.as_secs()),
            addrs: addrs.iter().map(|addr| addr.to_vec().into()).collect(),
            voucher: None,
        }),
        ..connected(limit)
    }
}

/// The answer that opens a circuit.
pub(crate) fn connected(limit: CircuitLimit) -> HopMessage {
    HopMessage {
        limit: Some(limit.into()),
        ..HopMessage::answer(Status::Ok)
    }
}

/// Asks the far end to take a circuit.
pub(crate) fn stop(from: PeerId, limit: CircuitLimit) -> StopMessage {
    StopMessage {
        limit: Some(limit.into()),
        ..StopMessage::connect(from)
    }
}

/// Whether the far end's answer takes the circuit.
pub(crate) fn accepts(answer: &StopMessage) -> bool {
    answer.r#type == Some(stop_message::Type::Status.into())
        && answer.status == Some(Status::Ok.into())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn requests_are_read_as_recorded() {
        let read = |bytes: &[u8]| request(HopMessage::decode(bytes).unwrap());
        assert_eq!(read(&[0x08, 0x00]), Ok(Request::Reserve));
        let wrong = |found| Violation::Type { found };
        assert_eq!(
            read(&[0x08, 0x01]),
            Err((Status::MalformedMessage, Violation::NoPeer))
        );
        assert_eq!(
            read(&[0x08, 0x02]),
            Err((Status::UnexpectedMessage, wrong(Some(2))))
        );
        assert_eq!(
            read(&[0x08, 0x07]),
            Err((Status::MalformedMessage, wrong(Some(7))))
        );
        assert_eq!(read(&[]), Err((Status::MalformedMessage, wrong(None))));
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
        let message = reserved(Duration::from_secs(3600), &[], limit);
        let bytes = message.encode_to_vec();
        // The end of the recorded answer: one hour, 32 MiB, status 100.
        let end = [
            0x22, 0x08, 0x08, 0x90, 0x1c, 0x10, 0x80, 0x80, 0x80, 0x10, 0x28, 0x64,
        ];
        assert!(bytes.starts_with(&[0x08, 0x02, 0x1a]), "{bytes:x?}");
        assert!(bytes.ends_with(&end), "{bytes:x?}");
    }
}
