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
    let answer = pb::StopMessage::answer(pb::Status::Ok);
    proto::write_protobuf(stream, &answer, TIMEOUT).await
}

/// Says no, and why, and ends the stream.
pub(super) async fn refuse(stream: &mut (impl AsyncWrite + Unpin), refusal: Refusal) {
    let answer = pb::StopMessage::answer(refusal.status());
    if let Err(error) = proto::write_protobuf(stream, &answer, TIMEOUT).await {
        tracing::trace!(%error, "a refusal was not heard");
        return;
    }
    let _ = timeout(TIMEOUT, stream.close()).await;
}

#[cfg(test)]
mod tests {
    use futures::AsyncReadExt;
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

    use super::*;

    #[tokio::test]
    async fn the_first_bytes_behind_the_request_are_the_circuits() {
        let from = PeerId::random();
        let (mut near, mut far) = pipe();
        let request = pb::StopMessage {
            limit: Some(pb::Limit {
                duration: Some(60),
                data: None,
            }),
            ..pb::StopMessage::connect(from)
        };
        let mut said = proto::Frame::encode(&request).as_bytes().to_vec();
        said.extend_from_slice(b"hello");
        far.write_all(&said).await.unwrap();

        let asked = read(&mut near).await.unwrap();
        accept(&mut near).await.unwrap();

        assert_eq!(asked.from, from);
        let limit = asked.limit.unwrap();
        assert_eq!(
            (limit.duration, limit.bytes),
            (Some(Duration::from_secs(60)), None)
        );
        assert_eq!(answered(&mut far).await, 100);
        let mut first = [0; 5];
        near.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"hello");
    }

    #[tokio::test]
    async fn a_request_that_is_none_is_answered_with_why() {
        let request = pb::StopMessage {
            r#type: Some(0),
            ..pb::StopMessage::default()
        };
        let nobody = proto::Frame::encode(&request);
        let odd = proto::Frame::encode(&pb::StopMessage {
            peer: Some(pb::Peer {
                id: Some(vec![1, 2, 3].into()),
                addrs: Vec::new(),
            }),
            ..request
        });
        let answer = proto::Frame::encode(&pb::StopMessage::answer(100));
        let empty = proto::Frame::from_body(&[]);
        let garbage = proto::Frame::from_body(&[0xff; 9]);
        for (said, code) in [
            (nobody, 400),
            (odd, 400),
            (garbage, 400),
            (answer, 401),
            (empty, 401),
        ] {
            let (mut near, mut far) = pipe();
            far.write_all(said.as_bytes()).await.unwrap();
            assert!(read(&mut near).await.is_err());
            assert_eq!(answered(&mut far).await, code, "{said:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_says_nothing_costs_the_time_out_and_no_more() {
        let (mut near, _far) = pipe();
        let error = read(&mut near).await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::Frame(proto::Error::TimedOut { limit: TIMEOUT })
            ),
            "{error}"
        );
    }

    async fn answered(far: &mut Compat<tokio::io::DuplexStream>) -> i32 {
        let answer: pb::StopMessage = proto::read_protobuf_with_max_size(far, MAX_FRAME, TIMEOUT)
            .await
            .unwrap();
        assert_eq!(answer.r#type, Some(1));
        answer.status.unwrap()
    }

    fn pipe() -> (
        Compat<tokio::io::DuplexStream>,
        Compat<tokio::io::DuplexStream>,
    ) {
        let (near, far) = tokio::io::duplex(2 * MAX_FRAME);
        (near.compat(), far.compat())
    }
}
