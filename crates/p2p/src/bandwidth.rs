//! Counts what passes on the streams of a connection, per protocol.
//!
//! Spec: p2p, section 12. A muxer sees streams before their protocol is agreed on, so that each
//! stream listens to its own negotiation: the side that did not open it ends the negotiation by
//! repeating the id. What was counted before belongs to that id; a stream that ends without one is
//! counted under the empty id, as Charon does.
//!
//! - **Owner:** the transport wraps the muxer of a member of the cluster once it is authenticated.
//!   Other connections, and all of them in a node without metrics, are not wrapped.
//! - **Bounds:** per stream at most [`MAX_NEGOTIATION`] bytes each way are kept, and only until the
//!   id is known. Only an id that we said ourselves becomes a label.
//! - **Disconnect:** a stream counts itself down when it is dropped.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    PeerId,
    core::{
        ConnectedPoint,
        muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent},
    },
};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use crate::{
    addr::{self, Transport},
    metrics::Link,
    p2p_context::P2PContext,
};

/// What is kept of a negotiation. Ours and Charon's take about a hundred bytes.
const MAX_NEGOTIATION: usize = 1024;
/// What multistream-select begins with.
const HEADER: &[u8] = b"/multistream/1.0.0\n";

/// Boxes an authenticated connection; counts it if the node measures and the peer is a member.
pub(crate) fn counted<M>(
    context: &P2PContext,
    peer: PeerId,
    muxer: M,
    endpoint: &ConnectedPoint,
) -> StreamMuxerBox
where
    M: StreamMuxer + Send + Unpin + 'static,
    M::Substream: Send + Unpin + 'static,
    M::Error: Send + Sync + 'static,
{
    match context.metrics_of(&peer) {
        None => StreamMuxerBox::new(muxer),
        Some(metrics) => {
            let transport = Transport::of(addr::of_endpoint(endpoint));
            StreamMuxerBox::new(Counted {
                inner: muxer,
                link: Arc::new(metrics.link(peer, transport)),
            })
        }
    }
}

/// A muxer whose streams are counted.
struct Counted<M> {
    inner: M,
    link: Arc<Link>,
}

impl<M> StreamMuxer for Counted<M>
where
    M: StreamMuxer + Unpin,
    M::Substream: Unpin,
{
    type Substream = Stream<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_inbound(cx))?;
        Poll::Ready(Ok(Stream::new(stream, Direction::Inbound, &self.link)))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_outbound(cx))?;
        Poll::Ready(Ok(Stream::new(stream, Direction::Outbound, &self.link)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// Who opened a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    /// Capitalised, as Charon's (p2p spec, section 12).
    fn label(self) -> &'static str {
        match self {
            Self::Inbound => "Inbound",
            Self::Outbound => "Outbound",
        }
    }
}

/// A stream that counts.
struct Stream<S> {
    inner: S,
    direction: Direction,
    link: Arc<Link>,
    state: State,
}

enum State {
    Negotiating(Negotiation),
    Agreed {
        received: Counter,
        sent: Counter,
        open: Gauge,
    },
    /// There will be no id.
    Lost {
        received: Counter,
        sent: Counter,
    },
}

impl<S> Stream<S> {
    fn new(inner: S, direction: Direction, link: &Arc<Link>) -> Self {
        Self {
            inner,
            direction,
            link: link.clone(),
            state: State::Negotiating(Negotiation::default()),
        }
    }

    fn on_received(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Agreed { received, .. } | State::Lost { received, .. } => {
                received.inc_by(bytes.len() as u64);
            }
            State::Negotiating(negotiation) => {
                negotiation.received.push(bytes);
                self.negotiate();
            }
        }
    }

    fn on_sent(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Agreed { sent, .. } | State::Lost { sent, .. } => {
                sent.inc_by(bytes.len() as u64);
            }
            State::Negotiating(negotiation) => {
                negotiation.sent.push(bytes);
                self.negotiate();
            }
        }
    }

    fn negotiate(&mut self) {
        let State::Negotiating(negotiation) = &self.state else {
            return;
        };
        let state = match negotiation.outcome(self.direction) {
            Outcome::Open => return,
            Outcome::Agreed(id) => {
                let (received, sent) = self.link.bytes(id);
                let open = self.link.streams(id, self.direction.label());
                open.inc();
                negotiation.count(&received, &sent);
                State::Agreed {
                    received,
                    sent,
                    open,
                }
            }
            Outcome::Lost => {
                let (received, sent) = self.link.bytes("");
                negotiation.count(&received, &sent);
                State::Lost { received, sent }
            }
        };
        self.state = state;
    }
}

impl<S> Drop for Stream<S> {
    fn drop(&mut self) {
        match &self.state {
            State::Agreed { open, .. } => {
                open.dec();
            }
            State::Negotiating(negotiation) => {
                let (received, sent) = self.link.bytes("");
                negotiation.count(&received, &sent);
            }
            State::Lost { .. } => {}
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.on_received(&buf[..read]);
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.on_sent(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// What both sides said on a stream so far.
#[derive(Debug, Default)]
struct Negotiation {
    received: Said,
    sent: Said,
}

/// The beginning of what one side said, and how much it was.
#[derive(Debug, Default)]
struct Said {
    beginning: Vec<u8>,
    bytes: u64,
}

impl Said {
    fn push(&mut self, bytes: &[u8]) {
        let room = MAX_NEGOTIATION.saturating_sub(self.beginning.len());
        self.beginning
            .extend_from_slice(&bytes[..room.min(bytes.len())]);
        self.bytes += bytes.len() as u64;
    }

    fn is_cut(&self) -> bool {
        self.bytes > self.beginning.len() as u64
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome<'a> {
    Open,
    Agreed(&'a str),
    Lost,
}

impl Negotiation {
    fn count(&self, received: &Counter, sent: &Counter) {
        received.inc_by(self.received.bytes);
        sent.inc_by(self.sent.bytes);
    }

    fn outcome(&self, direction: Direction) -> Outcome<'_> {
        let listener = match direction {
            Direction::Inbound => &self.sent,
            Direction::Outbound => &self.received,
        };
        match accepted(&listener.beginning) {
            Outcome::Open if listener.is_cut() => Outcome::Lost,
            // What a peer accepts must be something that we offered, or it could invent labels.
            Outcome::Agreed(id)
                if direction == Direction::Outbound && !offers(&self.sent.beginning, id) =>
            {
                Outcome::Lost
            }
            outcome => outcome,
        }
    }
}

/// The id that the listening side accepts: a header, refusals and lists, then the id.
fn accepted(mut said: &[u8]) -> Outcome<'_> {
    loop {
        let (length, rest) = match unsigned_varint::decode::usize(said) {
            Ok(decoded) => decoded,
            Err(unsigned_varint::decode::Error::Insufficient) => return Outcome::Open,
            Err(_) => return Outcome::Lost,
        };
        if length > MAX_NEGOTIATION {
            return Outcome::Lost;
        }
        let Some((message, rest)) = rest.split_at_checked(length) else {
            return Outcome::Open;
        };
        if message != HEADER
            && let Some((b'\n', id)) = message.split_last()
            && id.starts_with(b"/")
            && !id.contains(&b'\n')
        {
            return match std::str::from_utf8(id) {
                Ok(id) => Outcome::Agreed(id),
                Err(_) => Outcome::Lost,
            };
        }
        said = rest;
    }
}

/// Whether the opening side offered the id.
fn offers(said: &[u8], id: &str) -> bool {
    let line = [id.as_bytes(), b"\n"].concat();
    said.windows(line.len()).any(|window| window == line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_id_follows_the_header_and_refusals() {
        let said = [line("/multistream/1.0.0"), line("na"), line("/a/1")].concat();
        for cut in 0..said.len() {
            assert_eq!(accepted(&said[..cut]), Outcome::Open, "{cut}");
        }
        let more = [said, b"whatever\nfollows".to_vec()].concat();
        assert_eq!(accepted(&more), Outcome::Agreed("/a/1"));
    }

    #[test]
    fn a_list_of_ids_is_no_agreement() {
        // Forty-six bytes, so that the list's first byte is a slash.
        let id = format!("/{}", "x".repeat(45));
        let list = [line(&id), b"\n".to_vec()].concat();
        let said = [line("/multistream/1.0.0"), framed(&list), line("/a/1")].concat();
        assert_eq!(accepted(&said), Outcome::Agreed("/a/1"));
    }

    #[test]
    fn an_id_that_we_did_not_offer_is_no_label() {
        let mut negotiation = Negotiation::default();
        negotiation.sent.push(&line("/multistream/1.0.0"));
        negotiation.sent.push(&line("/a/1"));
        negotiation.received.push(&line("/multistream/1.0.0"));
        assert_eq!(negotiation.outcome(Direction::Outbound), Outcome::Open);
        negotiation.received.push(&line("/b/1"));
        assert_eq!(negotiation.outcome(Direction::Outbound), Outcome::Lost);
        negotiation.sent.push(&line("/b/1"));
        assert_eq!(
            negotiation.outcome(Direction::Outbound),
            Outcome::Agreed("/b/1")
        );
    }

    #[test]
    fn a_negotiation_without_end_is_given_up() {
        let mut negotiation = Negotiation::default();
        for _ in 0..MAX_NEGOTIATION / line("na").len() {
            negotiation.received.push(&line("na"));
            assert_eq!(negotiation.outcome(Direction::Outbound), Outcome::Open);
        }
        negotiation.received.push(&line("na"));
        assert_eq!(negotiation.outcome(Direction::Outbound), Outcome::Lost);
        assert!(negotiation.received.beginning.len() <= MAX_NEGOTIATION);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(said in proptest::collection::vec(any::<u8>(), 0..64)) {
            accepted(&said);
        }
    }

    fn line(text: &str) -> Vec<u8> {
        framed(format!("{text}\n").as_bytes())
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut buffer = unsigned_varint::encode::usize_buffer();
        let length = unsigned_varint::encode::usize(message.len(), &mut buffer);
        [length, message].concat()
    }
}
