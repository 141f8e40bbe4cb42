//! The streams of one connection.
//!
//! - **Owner:** the behaviour decides; the handler opens, writes and reports. Answers are read in tasks of
//!   its own, one for each request.
//! - **Bounds:** at most [`MAX_HANDED`] outbound requests (the behaviour hands no more over); the
//!   inbound bounds of the module above.
//! - **Disconnect:** dropping the handler drops its streams and ends its tasks. The shared [`Job`] tells
//!   the behaviour how far each request had come.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use libp2p::{
    InboundUpgrade, Multiaddr, OutboundUpgrade, PeerId, Stream, StreamProtocol,
    core::UpgradeInfo,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, ConnectionId, StreamUpgradeError,
        SubstreamProtocol,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
            ProtocolsChange,
        },
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tracing::{Instrument, Span};

use super::{
    Budget, Done, Error, MAX_HANDED, MAX_READING, MAX_REFUSING, MAX_WAITING, Protocol, Rejected,
    Rejection, Request, Shape, Slot,
    ended::{Ended, Note},
    io,
    io::Sent,
    job::Job,
};
use crate::{metrics::Attempt, p2p_context::P2PContext, proto};

/// Negotiation of one stream; libp2p's default.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// What the behaviour asks for.
#[derive(Debug)]
pub enum FromBehaviour {
    /// Send this.
    Start(Start),
    /// Serve these ids of a protocol from now on.
    Offer(Slot, Vec<StreamProtocol>),
}

/// A request to be sent, with what the context knows the peer to serve.
#[derive(Debug)]
pub struct Start {
    pub(super) job: Arc<Job>,
    pub(super) ids: Vec<StreamProtocol>,
}

/// A stream that was asked for.
pub struct Opening {
    start: Start,
    /// Measures, if anything is measured.
    attempt: Option<Attempt>,
}

/// What all handlers of one behaviour share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) context: P2PContext,
    pub(super) protocols: Arc<[Protocol]>,
    pub(super) budget: Budget,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) ended: Ended,
}

/// A request on its stream, until it has said how it ended.
type Sending = BoxFuture<'static, ()>;

/// See the module's documentation.
pub struct Handler {
    shared: Shared,
    peer: PeerId,
    connection: ConnectionId,
    /// Names the connection in what its streams log.
    span: Span,
    /// Served ids per protocol.
    offered: Vec<Vec<StreamProtocol>>,
    /// All of them. The swarm asks for them whenever it polls.
    served: AnyOf,
    /// What identify said on this connection; empty until then.
    remote: HashSet<StreamProtocol>,
    pending_outbound: VecDeque<Start>,
    /// Streams that have just been opened.
    opened: VecDeque<Sending>,
    /// Requests that are being sent; each says itself how it ended.
    outbound: JoinSet<()>,
    waiting: VecDeque<(Slot, StreamProtocol, Stream)>,
    inbound: FuturesUnordered<BoxFuture<'static, Result<(), (StreamProtocol, Rejection)>>>,
    refusing: FuturesUnordered<BoxFuture<'static, ()>>,
    rejected: VecDeque<Rejected>,
}

impl Handler {
    pub(super) fn new(
        shared: Shared,
        offered: Vec<Vec<StreamProtocol>>,
        peer: PeerId,
        connection: ConnectionId,
        path: &Multiaddr,
    ) -> Self {
        Self {
            shared,
            peer,
            connection,
            span: tracing::debug_span!("exchange", %peer, %connection, %path),
            served: AnyOf(offered.concat().into()),
            offered,
            remote: HashSet::new(),
            pending_outbound: VecDeque::new(),
            opened: VecDeque::new(),
            outbound: JoinSet::new(),
            waiting: VecDeque::new(),
            inbound: FuturesUnordered::new(),
            refusing: FuturesUnordered::new(),
            rejected: VecDeque::new(),
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = FromBehaviour;
    type ToBehaviour = Rejected;
    type InboundProtocol = AnyOf;
    type OutboundProtocol = AnyOf;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Opening;

    fn listen_protocol(&self) -> SubstreamProtocol<AnyOf, ()> {
        SubstreamProtocol::new(self.served.clone(), ())
    }

    fn on_behaviour_event(&mut self, event: FromBehaviour) {
        match event {
            FromBehaviour::Start(start) => self.pending_outbound.push_back(start),
            FromBehaviour::Offer(slot, ids) => {
                if let Some(offered) = self.offered.get_mut(slot.0) {
                    *offered = ids;
                    self.served = AnyOf(self.offered.concat().into());
                }
            }
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, AnyOf, AnyOf, (), Opening>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (id, stream),
                ..
            }) => self.on_inbound(id, stream),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (id, stream),
                info,
            }) => self.on_outbound(info, id, stream),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.on_not_opened(info.start, error);
            }
            ConnectionEvent::RemoteProtocolsChange(ProtocolsChange::Added(added)) => {
                self.remote.extend(added.cloned());
            }
            ConnectionEvent::RemoteProtocolsChange(ProtocolsChange::Removed(removed)) => {
                for id in removed {
                    self.remote.remove(id);
                }
            }
            _ => {}
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<AnyOf, Opening, Rejected>> {
        // 1. What has ended.
        if let Some(rejected) = self.rejected.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(rejected));
        }
        while self.outbound.try_join_next().is_some() {}
        // 2. Streams that were opened. The frame is written here, so that it leaves when the muxer is
        //    polled, which is next; the answer is read in a task, so that it does not take another
        //    round through all handlers of the connection.
        while let Some(mut sending) = self.opened.pop_front() {
            if sending.poll_unpin(cx).is_pending() {
                self.outbound.spawn(sending);
            }
        }
        // 3. New streams.
        while let Some(Start { job, ids }) = self.pending_outbound.pop_front() {
            if job.is_finished() {
                self.note(job.id, Ok(()));
                continue;
            }
            let left = job.by.saturating_duration_since(Instant::now());
            let ids = self.newest_common(ids);
            let attempt = self
                .shared
                .context
                .metrics_of(&self.peer)
                .zip(ids.first())
                .map(|(metrics, id)| metrics.attempt(self.peer, id.as_ref()));
            let opening = Opening {
                start: Start {
                    job,
                    ids: ids.clone(),
                },
                attempt,
            };
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(AnyOf(ids.into()), opening)
                    .with_timeout(OPEN_TIMEOUT.min(left)),
            });
        }
        // 4. Requests of the peer; each that ends makes room for one that waits.
        loop {
            while self.inbound.len() < MAX_READING
                && let Some((slot, id, stream)) = self.waiting.pop_front()
            {
                self.read(slot, id, stream);
            }
            match self.inbound.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(()))) => {}
                Poll::Ready(Some(Err((id, cause)))) => {
                    let rejected = self.rejected(id, cause);
                    return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(rejected));
                }
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        while let Poll::Ready(Some(())) = self.refusing.poll_next_unpin(cx) {}
        Poll::Pending
    }
}

impl Handler {
    /// The request has left this connection.
    fn note(&self, job: u64, outcome: std::io::Result<()>) {
        self.shared.ended.push(Note {
            job,
            peer: self.peer,
            connection: self.connection,
            outcome,
        });
    }

    fn rejected(&self, id: StreamProtocol, cause: Rejection) -> Rejected {
        Rejected {
            peer: self.peer,
            connection: self.connection,
            id,
            cause,
        }
    }

    /// The newest of our ids that the peer is known to serve; all of them while nothing is known,
    /// or when it claims to serve none, since what it says may be older than what it does.
    fn newest_common(&self, ids: Vec<StreamProtocol>) -> Vec<StreamProtocol> {
        match ids.iter().find(|id| self.remote.contains(id)) {
            Some(newest) => vec![newest.clone()],
            None => ids,
        }
    }

    /// Whether identify is in and lists none of the ids.
    fn serves_none(&self, ids: &[StreamProtocol]) -> bool {
        if !self.remote.is_empty() {
            return !ids.iter().any(|id| self.remote.contains(id));
        }
        // A handler that was installed late never hears of them.
        let view = self.shared.context.view();
        let who = view.peer(&self.peer).and_then(|it| it.identified.clone());
        who.is_some_and(|who| !ids.iter().any(|id| who.protocols.contains(id)))
    }

    fn on_outbound(&mut self, opening: Opening, id: StreamProtocol, stream: Stream) {
        let Opening { start, mut attempt } = opening;
        let Some(protocol) = self.shared.protocols.get(start.job.slot.0).cloned() else {
            return;
        };
        if let Some(attempt) = &mut attempt {
            attempt.agreed(id.as_ref());
        }
        let (peer, connection, ended) = (self.peer, self.connection, self.shared.ended.clone());
        let send = async move {
            let job = start.job.id;
            let outcome = send(start, protocol, id, connection, stream).await;
            drop(attempt);
            ended.push(Note {
                job,
                peer,
                connection,
                outcome,
            });
        };
        self.opened
            .push_back(Box::pin(send.instrument(self.span.clone())));
    }

    fn on_not_opened(
        &mut self,
        Start { job, ids }: Start,
        error: StreamUpgradeError<std::convert::Infallible>,
    ) {
        let outcome = match error {
            // Where several are offered this may also be the end of the stream in their midst, of which
            // nothing was sent. Only who is known to serve none of them has said so.
            StreamUpgradeError::NegotiationFailed if !self.serves_none(&ids) => {
                Err(std::io::ErrorKind::ConnectionReset.into())
            }
            StreamUpgradeError::NegotiationFailed => {
                job.finish(Err(Error::Unsupported {
                    peer: job.peer,
                    offered: ids,
                }));
                Ok(())
            }
            StreamUpgradeError::Timeout => Err(std::io::ErrorKind::TimedOut.into()),
            StreamUpgradeError::Io(error) => Err(error),
            StreamUpgradeError::Apply(never) => match never {},
        };
        self.note(job.id, outcome);
    }

    fn on_inbound(&mut self, id: StreamProtocol, stream: Stream) {
        let slot = self
            .shared
            .protocols
            .iter()
            .position(|protocol| protocol.ids.contains(&id));
        let Some(slot) = slot.map(Slot) else {
            return;
        };
        if self.inbound.len() < MAX_READING && self.waiting.is_empty() {
            self.read(slot, id, stream);
        } else if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back((slot, id, stream));
        } else {
            // A clean end of a one-way stream says that it was taken: it is reset instead.
            let refusable = self.shared.protocols[slot.0].shape == Shape::RequestResponse;
            if refusable && self.refusing.len() < MAX_REFUSING {
                let protocol = self.shared.protocols[slot.0].clone();
                let refuse = async move { io::refuse(stream, &protocol).await };
                self.refusing
                    .push(Box::pin(refuse.instrument(self.span.clone())));
            }
            // One report for many: this queue must not grow by what the peer does.
            if self.rejected.len() < MAX_REFUSING {
                let rejected = self.rejected(id, Rejection::Overload);
                self.rejected.push_back(rejected);
            }
        }
    }

    fn read(&mut self, slot: Slot, id: StreamProtocol, stream: Stream) {
        let shared = self.shared.clone();
        let (peer, connection) = (self.peer, self.connection);
        let receive = async move {
            receive(shared, peer, connection, slot, id.clone(), stream)
                .await
                .map_err(|rejection| (id, rejection))
        };
        self.inbound
            .push(Box::pin(receive.instrument(self.span.clone())));
    }
}

/// One outbound request on its stream, until its end, its deadline or its cancellation.
async fn send(
    Start { job, ids }: Start,
    protocol: Protocol,
    id: StreamProtocol,
    connection: ConnectionId,
    mut stream: Stream,
) -> Result<(), std::io::Error> {
    let began = Instant::now();
    let exchange = io::send(&mut stream, &job.frame, &protocol, |step| {
        job.set_step(step)
    });
    let sent = tokio::select! {
        biased;
        () = job.finished() => return Ok(()),
        sent = timeout_at(job.by, exchange) => sent.unwrap_or(Sent::TimedOut),
    };
    let peer = job.peer;
    let all_said = matches!(sent, Sent::Answer(_) | Sent::Refused);
    let result = match sent {
        Sent::Answer(body) => Ok(Done {
            body,
            id,
            connection,
            elapsed: began.elapsed(),
        }),
        // Of several ids the last is taken to be served until the first read.
        Sent::Unsupported => Err(Error::Unsupported { peer, offered: ids }),
        Sent::Refused => Err(Error::Refused { peer }),
        Sent::TooLong { len, max } => Err(Error::TooLong { peer, len, max }),
        Sent::Malformed(source) => Err(Error::Malformed { peer, source }),
        Sent::TimedOut => Err(Error::TimedOut {
            peer,
            step: job.step(),
        }),
        Sent::Broken(error) => return Err(error),
    };
    // Who waits need not wait for the stream's end.
    job.finish(result);
    if all_said {
        io::close(&mut stream, protocol.write_timeout).await;
    }
    Ok(())
}

/// One inbound request: read it, hand it over, answer, end the stream; without a reset unless it goes one
/// way and is lost.
async fn receive(
    shared: Shared,
    peer: PeerId,
    connection: ConnectionId,
    slot: Slot,
    id: StreamProtocol,
    mut stream: Stream,
) -> Result<(), Rejection> {
    let protocol = &shared.protocols[slot.0];
    let mut hold = shared.budget.hold(peer);
    // A frame that cannot be read ends in a reset: the stream is dropped in its middle.
    let body = io::receive(&mut stream, protocol, &mut hold)
        .await
        .map_err(Rejection::Frame)?;
    let (reply, answer) = oneshot::channel();
    let request = Request {
        peer,
        connection,
        slot,
        id,
        body,
        reply: Some(reply),
        _hold: hold,
    };
    let taken = timeout(protocol.read_timeout, shared.requests.send(request)).await;
    let rejection = match (taken, protocol.shape) {
        // Dropped before it is ended, the stream is reset: a clean end would say that it was taken.
        // Who sends one way and is a Charon reads neither.
        (Err(_), Shape::OneWay) => return Err(Rejection::Unclaimed),
        (Ok(Err(_)), Shape::OneWay) => return Err(Rejection::NoConsumer),
        (Err(_), Shape::RequestResponse) => Err(Rejection::Unclaimed),
        (Ok(Err(_)), Shape::RequestResponse) => Err(Rejection::NoConsumer),
        (Ok(Ok(())), Shape::OneWay) => Ok(()),
        (Ok(Ok(())), Shape::RequestResponse) => {
            match timeout(protocol.read_timeout, answer).await {
                Ok(Ok(frame)) => proto::write_frame(&mut stream, &frame, protocol.write_timeout)
                    .await
                    .map_err(Rejection::Answer),
                // Refused by the application, which knows why.
                Ok(Err(_)) => Ok(()),
                Err(_) => Err(Rejection::Unanswered),
            }
        }
    };
    io::finish(&mut stream).await;
    rejection
}

/// Offers or accepts one of several ids and says which it was. The dialler's order decides.
#[derive(Debug, Clone)]
pub struct AnyOf(Arc<[StreamProtocol]>);

impl UpgradeInfo for AnyOf {
    type Info = StreamProtocol;
    type InfoIter = Ids;

    fn protocol_info(&self) -> Ids {
        Ids {
            all: self.0.clone(),
            next: 0,
        }
    }
}

/// The ids of [`AnyOf`], in their order.
#[derive(Debug)]
pub struct Ids {
    all: Arc<[StreamProtocol]>,
    next: usize,
}

impl Iterator for Ids {
    type Item = StreamProtocol;

    fn next(&mut self) -> Option<StreamProtocol> {
        let id = self.all.get(self.next)?.clone();
        self.next += 1;
        Some(id)
    }
}

impl InboundUpgrade<Stream> for AnyOf {
    type Output = (StreamProtocol, Stream);
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: Stream, id: StreamProtocol) -> Self::Future {
        std::future::ready(Ok((id, stream)))
    }
}

impl OutboundUpgrade<Stream> for AnyOf {
    type Output = (StreamProtocol, Stream);
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, stream: Stream, id: StreamProtocol) -> Self::Future {
        std::future::ready(Ok((id, stream)))
    }
}

// What is open at once on one connection of one feature, five features to a node, stays below the
// muxer's limit, which ends the connection.
const _: () =
    assert!(5 * (MAX_READING + MAX_WAITING + MAX_REFUSING + MAX_HANDED) < crate::MAX_MUXER_STREAMS);

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::exchange::{
        Repeat,
        job::{self, Command},
    };

    /// Of several ids the end of the stream looks like the refusal of all of them.
    #[tokio::test]
    async fn only_who_is_known_to_serve_none_of_several_ids_does_not_speak_them() {
        let ids = ["/two/2", "/two/1"].map(StreamProtocol::new);
        let other = StreamProtocol::new("/other");
        let cases = [
            (vec![], true),
            (vec![other.clone(), ids[1].clone()], true),
            (vec![other], false),
        ];
        for (served, again) in cases {
            let (mut handler, ended) = handler(&ids);
            handler.remote.extend(served.clone());
            let (calls, mut commands) = job::channel();
            let (peer, by) = (handler.peer, Instant::now() + Duration::from_secs(60));
            let frame = proto::Frame::from_body(b"x");
            let call = calls.call(peer, Slot(0), frame, by).unwrap();
            let Ok(Command::Call(job)) = commands.try_recv() else {
                panic!("it was not called");
            };
            let start = Start {
                job: job.clone(),
                ids: ids.to_vec(),
            };

            handler.on_not_opened(start, StreamUpgradeError::NegotiationFailed);

            let mut cx = Context::from_waker(Waker::noop());
            let notes = ended.take(&mut cx, false);
            assert_eq!(notes[0].outcome.is_err(), again, "{served:?}");
            assert_eq!(job.is_finished(), !again, "{served:?}");
            if !again {
                let error = call.await.unwrap_err();
                assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            }
        }
    }

    fn handler(ids: &[StreamProtocol]) -> (Handler, Ended) {
        let protocol = Protocol {
            ids: ids.to_vec(),
            shape: Shape::RequestResponse,
            repeat: Repeat::Never,
            max_frame: 16,
            read_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(1),
        };
        let ended = Ended::default();
        let shared = Shared {
            context: P2PContext::default(),
            protocols: Arc::from([protocol]),
            budget: Budget::default(),
            requests: mpsc::channel(1).0,
            ended: ended.clone(),
        };
        let connection = ConnectionId::new_unchecked(1);
        let offered = vec![ids.to_vec()];
        let peer = PeerId::random();
        let handler = Handler::new(shared, offered, peer, connection, &Multiaddr::empty());
        (handler, ended)
    }
}
