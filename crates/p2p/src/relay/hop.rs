//! What a client says to its relay: one request, one answer, on a stream of its own.
//!
//! - **Bounds:** frames of [`MAX_FRAME`] bytes, [`MAX_ADDRESSES`] addresses of an answer.
//! - **Time:** the caller's `limit` covers the exchange.
//! - **Cancellation:** a dropped call leaves the stream in its middle; drop the stream too, which
//!   resets it.

use std::{io, time::Duration};

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt};
use libp2p::{Multiaddr, PeerId};
use tokio::time::timeout;

use super::wire::{Limit, MAX_FRAME, Refusal, Violation, pb};
use crate::{exchange::is_unsupported, proto};

/// Addresses of a relay that are kept of its answer; a relay has a few.
pub const MAX_ADDRESSES: usize = 8;
/// How long ending a stream politely may take after everything was said.
const CLOSING: Duration = Duration::from_secs(1);

/// Why a request to a relay came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is no relay, or is not one now: a server of libp2p speaks HOP only with a public address.
    #[error("it does not speak {}", super::wire::HOP)]
    Unsupported,
    /// Its answer is no frame, or the stream broke.
    #[error("the stream to it came to a bad end")]
    Frame(#[source] proto::Error),
    /// Its answer is none.
    #[error("it broke the protocol")]
    Malformed(#[from] Violation),
    /// It is silent.
    #[error("it did not answer within {limit:?}")]
    TimedOut {
        /// The time-out.
        limit: Duration,
    },
}

impl From<proto::Error> for Error {
    fn from(error: proto::Error) -> Self {
        match error {
            proto::Error::Io(error) if is_unsupported(&error) => Self::Unsupported,
            proto::Error::TimedOut { limit } => Self::TimedOut { limit },
            error => Self::Frame(error),
        }
    }
}

impl Error {
    /// The kind of I/O error that says the same.
    pub(super) fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Refused(_) => io::ErrorKind::ConnectionRefused,
            Self::Unsupported => io::ErrorKind::Unsupported,
            Self::Frame(proto::Error::Io(error)) => error.kind(),
            Self::Frame(_) | Self::Malformed(_) => io::ErrorKind::InvalidData,
            Self::TimedOut { .. } => io::ErrorKind::TimedOut,
        }
    }
}

/// What a relay has granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Until when, in seconds since 1970 by the relay's clock.
    pub expires_unix_secs: u64,
    /// Where the relay can be reached. Charon's relays say nothing here unless they have a public
    /// address.
    pub addresses: Vec<Multiaddr>,
    /// What it allows each circuit.
    pub limit: Option<Limit>,
}

/// Asks for a reservation, or for more of it.
pub(super) async fn reserve<S>(stream: &mut S, limit: Duration) -> Result<Grant, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answer = ask(stream, &pb::HopMessage::reserve(), limit).await?;
    end(stream).await;
    let reservation = answer.reservation.ok_or(Violation::NoReservation)?;
    let addresses = reservation.addrs.into_iter();
    Ok(Grant {
        // Without one it is as old as can be, which the caller takes for a clock that is wrong.
        expires_unix_secs: reservation.expire.unwrap_or(0),
        addresses: addresses
            .filter_map(|address| Multiaddr::try_from(address.to_vec()).ok())
            .take(MAX_ADDRESSES)
            .collect(),
        limit: answer.limit.map(Limit::of),
    })
}

/// Asks to be connected. After that the stream is the circuit: exactly the answer was read of it.
pub(super) async fn connect<S>(
    stream: &mut S,
    to: PeerId,
    limit: Duration,
) -> Result<Option<Limit>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answer = ask(stream, &pb::HopMessage::connect(to), limit).await?;
    Ok(answer.limit.map(Limit::of))
}

async fn ask<S>(
    stream: &mut S,
    request: &pb::HopMessage,
    limit: Duration,
) -> Result<pb::HopMessage, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let exchange = async {
        proto::write_protobuf(stream, request, limit).await?;
        proto::read_protobuf_with_max_size::<pb::HopMessage>(stream, MAX_FRAME, limit).await
    };
    let answer = timeout(limit, exchange)
        .await
        .map_err(|_| Error::TimedOut { limit })??;
    if answer.r#type != Some(pb::hop_message::Type::Status.into()) {
        return Err(Violation::Type {
            found: answer.r#type,
        }
        .into());
    }
    match Refusal::of(answer.status.ok_or(Violation::NoStatus)?) {
        None => Ok(answer),
        Some(refusal) => {
            end(stream).await;
            Err(refusal.into())
        }
    }
}

/// Ends a stream on which the relay has answered. One that broke is dropped instead: closing a
/// stream whose lazy negotiation failed is a panic in multistream-select 0.14.
async fn end(stream: &mut (impl AsyncWrite + Unpin)) {
    // Nothing more will be said on it, whether the relay hears that or not.
    let _ = timeout(CLOSING, stream.close()).await;
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use futures::AsyncReadExt;
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn what_charons_relays_answer_is_a_grant() {
        let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
        let path = std::env::var_os("PLUTO_VECTORS").map_or_else(|| default.into(), PathBuf::from);
        let path = path.join("charon/relay.json");
        if !path.is_file() {
            println!("skipped: no vectors at {}", path.display());
            return;
        }
        let text = std::fs::read_to_string(path).unwrap();
        let vectors: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut seen = 0;
        for case in vectors["cases"].as_array().unwrap() {
            let recorded = &case["reservation"];
            let (mut near, mut far) = pipe();
            let answer = async {
                let mut asked = vec![0; 3];
                far.read_exact(&mut asked).await.unwrap();
                far.write_all(&bytes(&recorded["response_frame"]))
                    .await
                    .unwrap();
                asked
            };
            let (grant, asked) = tokio::join!(reserve(&mut near, LIMIT), answer);

            assert_eq!(asked, bytes(&recorded["request_frame"]));
            let grant = grant.unwrap();
            assert_eq!(
                grant.expires_unix_secs,
                recorded["expire_unix"].as_u64().unwrap()
            );
            let addresses: Vec<_> = recorded["addrs"]
                .as_array()
                .unwrap()
                .iter()
                .map(bytes)
                .collect();
            let read: Vec<_> = grant.addresses.iter().map(Multiaddr::to_vec).collect();
            assert_eq!(read, addresses);
            let limit = &recorded["limit"];
            let limit = Limit {
                duration: limit["duration_s"].as_u64().map(Duration::from_secs),
                bytes: limit["data_bytes"].as_u64(),
            };
            assert_eq!(grant.limit, Some(limit));
            seen += 1;
        }
        assert!(seen >= 8, "{seen}");
    }

    #[tokio::test]
    async fn the_first_bytes_behind_the_answer_are_the_circuits() {
        let to = PeerId::random();
        let (mut near, mut far) = pipe();
        let answer = async {
            let request: pb::HopMessage =
                proto::read_protobuf_with_max_size(&mut far, MAX_FRAME, LIMIT)
                    .await
                    .unwrap();
            assert_eq!(request.r#type, Some(1));
            assert_eq!(&request.peer.unwrap().id.unwrap()[..], to.to_bytes());
            let mut said = proto::Frame::encode(&pb::HopMessage::answer(100))
                .as_bytes()
                .to_vec();
            said.extend_from_slice(b"hello");
            far.write_all(&said).await.unwrap();
        };
        let (limit, ()) = tokio::join!(connect(&mut near, to, LIMIT), answer);

        assert_eq!(limit.unwrap(), None);
        let mut first = [0; 5];
        near.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"hello");
    }

    #[tokio::test]
    async fn each_status_is_told_in_words() {
        for (code, refusal) in [
            (200, Refusal::ReservationRefused),
            (201, Refusal::ResourceLimitExceeded),
            (202, Refusal::PermissionDenied),
            (203, Refusal::ConnectionFailed),
            (204, Refusal::NoReservation),
            (400, Refusal::MalformedMessage),
            (401, Refusal::UnexpectedMessage),
            (0, Refusal::Unknown(0)),
            (-7, Refusal::Unknown(-7)),
        ] {
            let error = told(proto::Frame::encode(&pb::HopMessage::answer(code)).as_bytes()).await;
            assert!(
                matches!(error, Error::Refused(said) if said == refusal),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_none_is_told_from_a_stream_that_broke() {
        let frame = |message: pb::HopMessage| proto::Frame::encode(&message).as_bytes().to_vec();
        let bare = frame(pb::HopMessage {
            status: None,
            ..pb::HopMessage::answer(100)
        });
        assert!(matches!(
            told(&bare).await,
            Error::Malformed(Violation::NoStatus)
        ));
        for kind in [None, Some(0), Some(1), Some(9)] {
            let message = frame(pb::HopMessage {
                r#type: kind,
                ..pb::HopMessage::answer(100)
            });
            let error = told(&message).await;
            assert!(
                matches!(error, Error::Malformed(Violation::Type { found }) if found == kind),
                "{error}"
            );
        }
        let empty = frame(pb::HopMessage::answer(100));
        assert!(matches!(
            told(&empty).await,
            Error::Malformed(Violation::NoReservation)
        ));

        assert!(matches!(told(&[]).await, Error::Frame(proto::Error::Empty)));
        let garbage = told(&[3, 0xff, 0xff, 0xff]).await;
        assert!(
            matches!(garbage, Error::Frame(proto::Error::Decode(_))),
            "{garbage}"
        );
        // 2^62, of which nothing is taken.
        let huge = told(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40]).await;
        assert!(
            matches!(huge, Error::Frame(proto::Error::TooLong { len, max: MAX_FRAME }) if len == 1 << 62),
            "{huge}"
        );
        let long = told(proto::Frame::from_body(&[0; MAX_FRAME + 1]).as_bytes()).await;
        assert!(
            matches!(long, Error::Frame(proto::Error::TooLong { .. })),
            "{long}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_relay_costs_the_time_out_and_no_more() {
        let (mut near, _far) = pipe();
        let error = reserve(&mut near, LIMIT).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { limit: LIMIT }), "{error}");
    }

    #[tokio::test]
    async fn of_many_addresses_a_few_are_kept_and_of_broken_ones_none() {
        let address: Multiaddr = "/ip4/1.2.3.4/tcp/9".parse().unwrap();
        let mut addrs = vec![bytes::Bytes::from_static(b"\xff\xff\xff")];
        addrs.resize(MAX_ADDRESSES + 5, address.to_vec().into());
        let answer = pb::HopMessage {
            reservation: Some(pb::Reservation {
                expire: None,
                addrs,
                voucher: None,
            }),
            ..pb::HopMessage::answer(100)
        };
        let (mut near, mut far) = pipe();
        let frame = proto::Frame::encode(&answer);
        far.write_all(frame.as_bytes()).await.unwrap();
        let grant = reserve(&mut near, LIMIT).await.unwrap();
        assert_eq!(grant.addresses, vec![address; MAX_ADDRESSES]);
        assert_eq!((grant.expires_unix_secs, grant.limit), (0, None));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_answers_end_in_an_error(answer: Vec<u8>) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            runtime.unwrap().block_on(async {
                told(&answer).await;
                told(proto::Frame::from_body(&answer).as_bytes()).await;
            });
        }
    }

    async fn told(answer: &[u8]) -> Error {
        let (mut near, mut far) = pipe();
        far.write_all(answer).await.unwrap();
        far.close().await.unwrap();
        reserve(&mut near, LIMIT).await.unwrap_err()
    }

    fn pipe() -> (
        Compat<tokio::io::DuplexStream>,
        Compat<tokio::io::DuplexStream>,
    ) {
        let (near, far) = tokio::io::duplex(2 * MAX_FRAME);
        (near.compat(), far.compat())
    }

    fn bytes(hex: &serde_json::Value) -> Vec<u8> {
        let hex = hex.as_str().unwrap();
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }
}
