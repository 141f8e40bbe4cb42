//! How long a connection may take to end.
//!
//! yamux closes by flushing what it still has to write, and the swarm tells of the end of a
//! connection only after that. To a host that froze, and whose buffers are full, nothing can be
//! written: the connection that ping gave up would stay in everybody's picture until TCP gives up
//! too, a quarter of an hour later.
//!
//! - **Owner:** the swarm's task of one connection.
//! - **Wake-ups:** those of the muxer, and one timer from the first [`poll_close`] on.
//! - **Bounds:** [`CLOSING`].
//!
//! [`poll_close`]: StreamMuxer::poll_close

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use tokio::time::Sleep;

/// How long a connection that is closed may still write. Chosen freely: several round trips of a
/// slow link.
pub(crate) const CLOSING: Duration = Duration::from_secs(1);

/// A muxer whose end is bounded in time.
pub(crate) struct Bounded<M> {
    inner: M,
    closing: Option<Pin<Box<Sleep>>>,
}

impl<M> Bounded<M> {
    pub(crate) fn new(inner: M) -> Self {
        Self {
            inner,
            closing: None,
        }
    }
}

impl<M: StreamMuxer + Unpin> StreamMuxer for Bounded<M> {
    type Substream = M::Substream;
    type Error = M::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        Pin::new(&mut self.inner).poll_inbound(cx)
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        Pin::new(&mut self.inner).poll_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if let Poll::Ready(closed) = Pin::new(&mut self.inner).poll_close(cx) {
            return Poll::Ready(closed);
        }
        // Not an error: we wanted the end, and dropping the muxer is one.
        self.closing
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSING)))
            .as_mut()
            .poll(cx)
            .map(Ok)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}
