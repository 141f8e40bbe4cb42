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
    let request = pb::HopMessage {
        r#type: Some(pb::hop_message::Type::Reserve.into()),
        ..pb::HopMessage::default()
    };
    let answer = ask(stream, &request, limit).await;
    end(stream).await;
    let answer = answer?;
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
    let request = pb::HopMessage {
        r#type: Some(pb::hop_message::Type::Connect.into()),
        peer: Some(pb::Peer {
            id: Some(to.to_bytes().into()),
            addrs: Vec::new(),
        }),
        ..pb::HopMessage::default()
    };
    match ask(stream, &request, limit).await {
        Ok(answer) => Ok(answer.limit.map(Limit::of)),
        Err(error) => {
            end(stream).await;
            Err(error)
        }
    }
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
        Some(refusal) => Err(refusal.into()),
    }
}

async fn end(stream: &mut (impl AsyncWrite + Unpin)) {
    // Nothing more will be said on it, whether the relay hears that or not.
    let _ = timeout(CLOSING, stream.close()).await;
}
