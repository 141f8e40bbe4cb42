//! What a relay says to its client: somebody wants to reach it. One request, one answer, then the
//! stream is the circuit.
//!
//! - **Bounds:** frames of [`MAX_FRAME`] bytes.
//! - **Time:** [`TIMEOUT`] for the request, and again for the answer.
//! - **Cancellation:** a dropped call leaves the stream in its middle; drop the stream too.

use std::time::Duration;

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt};
use libp2p::PeerId;
use tokio::time::timeout;

use super::wire::{Limit, MAX_FRAME, Refusal, Violation, pb, peer_of};
use crate::proto;

/// How long a relay may take to say what it opened the stream for; it does so at once. Relays of
/// go-libp2p wait up to 60 s for the answer (p2p spec, section 9.2).
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Why an inbound circuit came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request is no frame, or the stream broke.
    #[error("the stream came to a bad end")]
    Frame(#[from] proto::Error),
    /// The request is none.
    #[error("the protocol was broken")]
    Malformed(#[from] Violation),
    /// We said no.
    #[error("refused a circuit from peer {from}: {refusal}")]
    Refused {
        /// Who wanted to reach us.
        from: PeerId,
        /// What we said.
        refusal: Refusal,
    },
}

/// Who wants to reach us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) from: PeerId,
    pub(super) limit: Option<Limit>,
}

/// Reads the request. A message that is none is answered before it is an error.
pub(super) async fn read<S>(stream: &mut S) -> Result<Asked, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let message: pb::StopMessage =
        match proto::read_protobuf_with_max_size(stream, MAX_FRAME, TIMEOUT).await {
            Ok(message) => message,
            Err(error @ proto::Error::Decode(_)) => {
                refuse(stream, Refusal::MalformedMessage).await;
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        };
    if message.r#type != Some(pb::stop_message::Type::Connect.into()) {
        refuse(stream, Refusal::UnexpectedMessage).await;
        return Err(Violation::Type {
            found: message.r#type,
        }
        .into());
    }
    match peer_of(message.peer) {
        Ok(from) => Ok(Asked {
            from,
            limit: message.limit.map(Limit::of),
        }),
        Err(violation) => {
            refuse(stream, Refusal::MalformedMessage).await;
            Err(violation.into())
        }
    }
}

/// Says yes.
pub(super) async fn accept(stream: &mut (impl AsyncWrite + Unpin)) -> Result<(), proto::Error> {
    proto::write_protobuf(stream, &status(pb::Status::Ok.into()), TIMEOUT).await
}

/// Says no, and why, and ends the stream.
pub(super) async fn refuse(stream: &mut (impl AsyncWrite + Unpin), refusal: Refusal) {
    let answer = status(refusal.status());
    if let Err(error) = proto::write_protobuf(stream, &answer, TIMEOUT).await {
        tracing::trace!(%error, "a refusal was not heard");
        return;
    }
    let _ = timeout(TIMEOUT, stream.close()).await;
}

fn status(code: i32) -> pb::StopMessage {
    pb::StopMessage {
        r#type: Some(pb::stop_message::Type::Status.into()),
        status: Some(code),
        ..pb::StopMessage::default()
    }
}
