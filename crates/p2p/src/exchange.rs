//! The one way to exchange messages: open a stream, write one frame, perhaps read one, close.
//!
//! Spec: p2p, sections 3 and 4; design §4. One instance per feature crate, with all its ids. The
//! core moves bytes; a thin typed layer in the feature encodes and decodes, off the network task.
//!
//! - **Owner:** a request belongs to the [`Behaviour`] until its connection's handler has begun to
//!   write it, and to the *peer*, not to a connection: nothing of it written, it moves to another
//!   connection or waits for one until its deadline. Something written, it is repeated only where
//!   the protocol is [`Repeat::Safe`]; otherwise it ends as [`Error::Interrupted`].
//! - **Wake-ups:** [`Handle::call`] through its channel, the swarm's events, a place that is free again
//!   if somebody waits for one, and one timer for the earliest deadline or retry.
//! - **Bounds:** requests per peer [`MAX_OUTSTANDING`], those handed to a connection
//!   [`MAX_HANDED`]; inbound streams read at once [`MAX_READING`] per connection, waiting unread
//!   [`MAX_WAITING`], being refused [`MAX_REFUSING`]; bytes being received by a shared [`Budget`],
//!   taken as they arrive.
//! - **Disconnect:** see Owner; a command that vanished with its connection is noticed and repeated.
//! - **Cancellation:** dropping a [`Call`] ends its stream. Dropping the behaviour ends every call
//!   with [`Error::Closed`].

mod behaviour;
mod budget;
mod ended;
mod feature;
mod handler;
mod io;
mod job;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use libp2p::{PeerId, StreamProtocol, swarm::ConnectionId};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::io::is_unsupported;
pub use self::{
    behaviour::{Behaviour, Rejected},
    budget::Budget,
    feature::{Core, Feature},
    job::{Call, Handle, QueueFull},
};
use crate::{
    addr::Transport,
    p2p_context::{P2PContext, Path, WhyNotConnected},
    proto::{self, Frame},
};

/// Requests to one peer that are not finished; chosen freely. A burst of ten duties with a few
/// messages each fits many times over.
pub const MAX_OUTSTANDING: usize = 1024;
/// Requests handed to one connection and not finished. Below the 32 places between a behaviour and
/// a handler, which all features share: when they are taken, no behaviour is polled.
pub const MAX_HANDED: usize = 16;
/// Inbound streams of one connection that are read at once.
pub const MAX_READING: usize = 64;
/// Inbound streams of one connection that wait, unread and in order, to be read. With
/// [`MAX_READING`] and what is outbound it stays below the muxer's limit.
pub const MAX_WAITING: usize = 512;
/// Inbound streams of one connection that are being refused; beyond it, and where they go one way, they
/// are reset.
pub const MAX_REFUSING: usize = 16;
/// Requests that were read and not yet taken by their consumer, per feature.
pub const MAX_UNCLAIMED: usize = 256;

/// One kind of exchange: its ids and its rules.
#[derive(Debug, Clone)]
pub struct Protocol {
    /// Its ids, newest first.
    pub ids: Vec<StreamProtocol>,
    /// Whether an answer follows.
    pub shape: Shape,
    /// Whether a request that may have arrived may be sent again.
    pub repeat: Repeat,
    /// The longest frame that is read, in bytes.
    pub max_frame: usize,
    /// How long reading one frame may take, and how long the consumer has to take or answer it.
    pub read_timeout: Duration,
    /// How long writing one frame may take.
    pub write_timeout: Duration,
}

/// What follows a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Nothing: the receiver closes once the message is in its application's queue, and resets the
    /// stream if it is not taken. The sender reads to that end, which confirms delivery. Over QUIC a reset
    /// cannot be made: there a message that is not taken may look delivered.
    OneWay,
    /// One frame.
    RequestResponse,
}

/// Whether a request may be sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// The receiver recognises a repetition.
    Safe,
    /// It must not happen.
    Never,
}

/// The place of a protocol in the list given to [`exchange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub usize);

/// How an exchange ended well: with an answer, or for [`Shape::OneWay`] with the receiver's end of the
/// stream.
#[derive(Debug, Clone)]
pub struct Done {
    /// The body of the answer; empty for [`Shape::OneWay`].
    pub body: Bytes,
    /// The id that was agreed on.
    pub id: StreamProtocol,
    /// The connection it took.
    pub connection: ConnectionId,
    /// From the first byte written to the last read.
    pub elapsed: Duration,
}

/// The part of an exchange in which time ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Waiting for a stream.
    Opening,
    /// Writing the frame.
    Writing,
    /// Waiting for the answer, or for the receiver's end of the stream.
    Reading,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Opening => "opening a stream",
            Self::Writing => "sending",
            Self::Reading => "waiting for the answer",
        })
    }
}

/// How an exchange failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The deadline passed without a connection; nothing was sent.
    #[error("peer {peer} was not connected in time")]
    NoPath {
        /// The receiver.
        peer: PeerId,
        /// Why, as the context tells it.
        #[source]
        why: Option<Box<WhyNotConnected>>,
    },
    /// The peer serves none of the ids; nothing was processed.
    #[error("peer {peer} does not speak {}", .offered.iter().map(|id| id.as_ref()).collect::<Vec<_>>().join(" or "))]
    Unsupported {
        /// The receiver.
        peer: PeerId,
        /// What was offered.
        offered: Vec<StreamProtocol>,
    },
    /// The peer read the request and closed without an answer.
    #[error("peer {peer} refused the request")]
    Refused {
        /// The receiver.
        peer: PeerId,
    },
    /// The stream broke after the first byte; the peer may have acted.
    #[error("the stream to peer {peer} broke; it may have received the message")]
    Interrupted {
        /// The receiver.
        peer: PeerId,
        /// What broke.
        #[source]
        source: std::io::Error,
    },
    /// The deadline passed. Unless the step is [`Step::Opening`] the peer may have acted.
    #[error("peer {peer} took too long ({step})")]
    TimedOut {
        /// The receiver.
        peer: PeerId,
        /// Where it stood.
        step: Step,
    },
    /// The answer is longer than the protocol allows.
    #[error("peer {peer} answers with {len} bytes, more than the {max} allowed")]
    TooLong {
        /// The receiver.
        peer: PeerId,
        /// What it announced.
        len: u64,
        /// The limit.
        max: usize,
    },
    /// The answer is no frame.
    #[error("peer {peer} sent a malformed answer")]
    Malformed {
        /// The receiver.
        peer: PeerId,
        /// What is wrong with it.
        #[source]
        source: proto::Error,
    },
    /// The feature was switched off or the node is gone.
    #[error("the node has shut down or the protocol was switched off")]
    Closed,
}

/// Why an inbound stream came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The frame could not be read.
    #[error("the frame could not be read")]
    Frame(#[source] proto::Error),
    /// Too many streams were waiting already.
    #[error("too many streams are waiting ({MAX_WAITING})")]
    Overload,
    /// The consumer did not take the request in time.
    #[error("the application did not take the request in time")]
    Unclaimed,
    /// The consumer is gone: it has dropped its [`Inbound`].
    #[error("the application takes no requests any more")]
    NoConsumer,
    /// The consumer did not answer in time.
    #[error("the application did not answer in time")]
    Unanswered,
    /// The answer could not be written.
    #[error("the answer could not be written")]
    Answer(#[source] proto::Error),
}

/// The requests of other peers, bounded by [`MAX_UNCLAIMED`]. Dropping it refuses all that follow.
pub type Inbound = mpsc::Receiver<Request>;

/// One request of another peer. Dropping it refuses.
#[derive(Debug)]
pub struct Request {
    /// The authenticated sender.
    pub peer: PeerId,
    /// The connection it came on.
    pub connection: ConnectionId,
    /// The protocol's place.
    pub slot: Slot,
    /// The id that was agreed on.
    pub id: StreamProtocol,
    /// The frame's body.
    pub body: Bytes,
    reply: Option<oneshot::Sender<Frame>>,
    _hold: budget::Hold,
}

impl Request {
    /// Answers.
    pub fn respond(mut self, frame: Frame) {
        if let Some(reply) = self.reply.take() {
            // The stream may be gone; then there is nobody to tell.
            let _ = reply.send(frame);
        }
    }

    /// Closes cleanly without an answer. On a one-way protocol both ends see the same.
    pub fn refuse(self) {}
}

/// Makes the parts of one feature's exchange.
pub fn exchange(
    context: P2PContext,
    budget: Budget,
    protocols: Vec<Protocol>,
) -> (Behaviour, Handle, Inbound) {
    let (requests, inbound) = mpsc::channel(MAX_UNCLAIMED);
    let (handle, commands) = job::channel();
    let protocols: Arc<[Protocol]> = protocols.into();
    let behaviour = Behaviour::new(context, budget, protocols, commands, requests);
    (behaviour, handle, inbound)
}

/// Chooses the connection for a new stream: those that are not draining first; a direct one on
/// which a ping has come back before a relayed one before an unproven direct one; among proven
/// direct ones QUIC before TCP unless it is clearly slower; then the smaller round-trip time, where
/// the `last` choice stays unless another is clearly better.
pub fn choose(paths: &[Arc<Path>], last: Option<ConnectionId>) -> Option<ConnectionId> {
    let class = |path: &Path| match (path.is_relayed(), path.rtt()) {
        (false, Some(_)) => 0,
        (true, _) => 1,
        (false, None) => 2,
    };
    let rank = |path: &Path| (path.draining, class(path));
    let order = |path: &Path| (path.rtt().unwrap_or(Duration::MAX), path.since);
    let fastest = paths.iter().min_by_key(|path| (rank(path), order(path)))?;
    let quic = paths.iter().filter(|path| {
        let equal = rank(path) == rank(fastest) && class(path) == 0;
        let slow =
            matches!((path.rtt(), fastest.rtt()), (Some(rtt), Some(best)) if is_worse(rtt, best));
        equal && path.transport == Transport::Quic && !slow
    });
    let best = quic.min_by_key(|path| order(path)).unwrap_or(fastest);
    let near = |path: &Path| match (path.rtt(), best.rtt()) {
        (Some(rtt), Some(best)) => rtt <= best + best / 4 + Duration::from_millis(1),
        _ => true,
    };
    let kept = last
        .and_then(|last| paths.iter().find(|path| path.connection == last))
        .filter(|kept| rank(kept) == rank(best))
        .filter(|kept| near(kept))
        // Unproven and relayed ones are alike.
        .filter(|kept| class(kept) != 0 || kept.transport == best.transport);
    Some(kept.unwrap_or(best).connection)
}

/// Whether QUIC is worse than TCP by so much that it is not the moment's noise: twice as slow, and
/// a tenth of a second more. Chosen freely; one ping on a busy machine is easily off by tens of
/// milliseconds, and where UDP is throttled it is far more.
pub(crate) fn is_worse(quic: Duration, tcp: Duration) -> bool {
    quic > tcp * 2 + Duration::from_millis(100)
}

#[cfg(test)]
mod tests {
    use libp2p::{Multiaddr, core::Endpoint};

    use super::*;

    #[test]
    fn a_draining_path_is_only_the_last_resort() {
        let draining = path(1, None, Some(1));
        let mut draining = Arc::try_unwrap(draining).unwrap();
        draining.draining = true;
        let draining = Arc::new(draining);
        let unproven = path(2, None, None);

        assert_eq!(choose(std::slice::from_ref(&draining), None), id(1));
        assert_eq!(choose(&[draining, unproven], None), id(2));
    }

    #[test]
    fn a_relayed_path_serves_until_the_direct_one_is_proven() {
        let relayed = path(1, Some(PeerId::random()), Some(5));
        let direct = path(2, None, None);
        let paths = [relayed, direct.clone()];

        assert_eq!(choose(&paths, None), id(1));
        direct.set_rtt(Duration::from_millis(90));
        assert_eq!(choose(&paths, id(1)), id(2));
    }

    #[test]
    fn a_slightly_better_path_does_not_move_anything() {
        let paths = [path(1, None, Some(100)), path(2, None, Some(81))];
        assert_eq!(choose(&paths, id(1)), id(1), "100 <= 81 + 20.25 + 1");
        let paths = [path(1, None, Some(100)), path(2, None, Some(79))];
        assert_eq!(choose(&paths, id(1)), id(2), "100 > 79 + 19.75 + 1");
    }

    #[test]
    fn quic_is_chosen_unless_it_is_clearly_slower() {
        let tcp = path(1, None, Some(100));
        let near = over_quic(path(2, None, Some(299)));
        let far = over_quic(path(3, None, Some(301)));
        assert_eq!(choose(&[tcp.clone(), near.clone()], id(1)), id(2));
        assert_eq!(choose(&[tcp.clone(), near], id(2)), id(2));
        assert_eq!(choose(&[tcp.clone(), far.clone()], id(1)), id(1));
        assert_eq!(choose(&[tcp, far], id(3)), id(1), "301 > 200 + 100");
    }

    #[test]
    fn there_is_no_choice_among_none() {
        assert_eq!(choose(&[], id(1)), None);
    }

    fn id(n: usize) -> Option<ConnectionId> {
        Some(ConnectionId::new_unchecked(n))
    }

    fn over_quic(path: Arc<Path>) -> Arc<Path> {
        let mut path = Arc::try_unwrap(path).unwrap();
        path.transport = Transport::Quic;
        Arc::new(path)
    }

    fn path(n: usize, relay: Option<PeerId>, rtt_ms: Option<u64>) -> Arc<Path> {
        let path = Path::new(
            ConnectionId::new_unchecked(n),
            Endpoint::Dialer,
            relay,
            Transport::Tcp,
            Multiaddr::empty(),
        );
        if let Some(ms) = rtt_ms {
            path.set_rtt(Duration::from_millis(ms));
        }
        Arc::new(path)
    }
}
