//! What happens on one stream, as plain functions over bytes.

use std::{io, time::Duration};

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, FutureExt};
use libp2p::core::upgrade::NegotiationError;
use tokio::time::timeout;

use super::{Protocol, Shape, Step};
use crate::proto::{self, Frame, Meter, NoMeter};

/// How long an end waits for the other to close after everything was said.
const LINGER: Duration = Duration::from_secs(5);
/// What may still follow after the frame that counts: Charon's zero-length answers, not more.
const MAX_TRAILING: usize = 1024;

/// How sending ended, as far as this stream can tell.
#[derive(Debug)]
pub(super) enum Sent {
    /// The answer, or nothing for one-way.
    Answer(Bytes),
    /// The peer serves none of the offered ids.
    Unsupported,
    /// A clean end without an answer.
    Refused,
    /// The stream broke.
    Broken(io::Error),
    /// The answer is longer than allowed.
    TooLong { len: u64, max: usize },
    /// The answer is no frame.
    Malformed(proto::Error),
    /// Time ran out.
    TimedOut,
}

/// Writes a frame, reads the answer or the receiver's end. What was answered or refused is to be
/// [closed](close) then.
///
/// Our half is closed last, for three reasons. yamux reads a reset as an end of the stream, and only
/// an open half of ours tells the two apart. It answers a stream that is dropped half closed with
/// nothing, so that the peer would not learn of a cancellation. And over QUIC closing after the
/// receiver has stopped reading fails, and takes the answer with it. No receiver waits for the end:
/// only the first frame of a stream counts (p2p spec, section 4.1).
pub(super) async fn send<S>(
    stream: &mut S,
    frame: &Frame,
    protocol: &Protocol,
    on_step: impl Fn(Step),
) -> Sent
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    on_step(Step::Writing);
    if let Err(error) = proto::write_frame(stream, frame, protocol.write_timeout).await {
        return match error {
            proto::Error::Io(error) => not_written(stream, error).await,
            error => failed(error),
        };
    }
    on_step(Step::Reading);
    match protocol.shape {
        // The receiver ends its half once it has taken the frame. With lazy negotiation this is
        // also where an unsupported id shows.
        Shape::OneWay => match read_to_end(stream).await {
            Ok(()) => match reset(stream) {
                None => Sent::Answer(Bytes::new()),
                Some(error) => Sent::Broken(error),
            },
            Err(error) => failed(proto::Error::Io(error)),
        },
        Shape::RequestResponse => {
            // Bounded by the deadline of the whole request.
            let limit = Duration::from_secs(u32::MAX.into());
            match proto::read_body(stream, protocol.max_frame, limit, &mut NoMeter).await {
                Ok(body) => Sent::Answer(body),
                Err(proto::Error::Empty) => match reset(stream) {
                    None => Sent::Refused,
                    Some(error) => Sent::Broken(error),
                },
                Err(error) => failed(error),
            }
        }
    }
}

/// Ends our half after all was said. The receiver may have gone, which on QUIC is an error here.
pub(super) async fn close(stream: &mut (impl AsyncWrite + Unpin), limit: Duration) {
    match timeout(limit, stream.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::trace!(%error, "stream did not close cleanly"),
        Err(_) => tracing::trace!("stream did not close in time"),
    }
}

/// With lazy negotiation a long frame meets the end of the stream while it is being written: a peer
/// that serves no such id takes it for another proposal. What it said before is what counts.
async fn not_written(stream: &mut (impl AsyncRead + Unpin), error: io::Error) -> Sent {
    match timeout(LINGER, stream.read(&mut [0])).await {
        Ok(Err(said)) if is_unsupported(&said) => Sent::Unsupported,
        _ => Sent::Broken(error),
    }
}

/// Whether the end of their half that was just read is that of the whole stream: then yamux takes
/// nothing for it any more, not even nothing. QUIC reports a reset as such when it is read.
fn reset(stream: &mut (impl AsyncWrite + Unpin)) -> Option<io::Error> {
    match stream.write(&[]).now_or_never() {
        Some(Err(error)) if error.kind() == io::ErrorKind::WriteZero => {
            Some(io::Error::new(io::ErrorKind::ConnectionReset, error))
        }
        _ => None,
    }
}

fn failed(error: proto::Error) -> Sent {
    match error {
        proto::Error::Io(error) if is_unsupported(&error) => Sent::Unsupported,
        proto::Error::Io(error) => Sent::Broken(error),
        proto::Error::Empty => Sent::Refused,
        proto::Error::TooLong { len, max } => Sent::TooLong { len, max },
        proto::Error::TimedOut { .. } => Sent::TimedOut,
        error @ (proto::Error::Truncated { .. } | proto::Error::TruncatedLength) => {
            Sent::Broken(io::Error::new(io::ErrorKind::UnexpectedEof, error))
        }
        error => Sent::Malformed(error),
    }
}

/// With lazy negotiation a refused protocol is an I/O error of the first read.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<NegotiationError>())
        .is_some_and(|error| matches!(error, NegotiationError::Failed))
}

/// Reads one frame of at most the protocol's maximum.
pub(super) async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
    protocol: &Protocol,
    meter: &mut impl Meter,
) -> Result<Bytes, proto::Error> {
    proto::read_body(stream, protocol.max_frame, protocol.read_timeout, meter).await
}

/// Ends a stream without a reset: closes our half and reads to the end of theirs. Charon takes a
/// reset for relay noise and sends again.
pub(super) async fn finish(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let quiet = async {
        stream.close().await?;
        read_to_end(stream).await
    };
    match timeout(LINGER, quiet).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::trace!(%error, "stream did not end cleanly"),
        Err(_) => tracing::trace!("stream was not closed by the peer"),
    }
}

/// Reads and drops one frame, answers nothing.
pub(super) async fn refuse<S>(mut stream: S, protocol: &Protocol)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // A peer that does not finish is reset, which is what the bound is for.
    match proto::skip_body(&mut stream, protocol.max_frame, protocol.read_timeout).await {
        Ok(()) => finish(&mut stream).await,
        Err(error) => tracing::trace!(%error, "refused stream is reset"),
    }
}

async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut scratch = [0; 64];
    let mut seen = 0;
    loop {
        match stream.read(&mut scratch).await? {
            0 => return Ok(()),
            read => seen += read,
        }
        if seen > MAX_TRAILING {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}
