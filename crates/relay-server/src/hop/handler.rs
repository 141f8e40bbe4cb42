//! One connection's streams: what its peer asks on HOP, what it is asked on STOP, and the circuits
//! that end at it.
//!
//! - **Owner:** the handler owns each stream it was given. A circuit lives at its *far* end: the
//!   stream of who asked for it is handed there together with the request.
//! - **Wake-ups:** its futures, commands, and one timer for the end of its place.
//! - **Bounds:** [`MAX_REQUESTS`] requests are read at a time, further streams are dropped; above
//!   [`BURST`] and [`RATE`] they are refused unread; circuits are bounded by the ledger; each step by [`STEP`].
//! - **Disconnect:** dropping it drops all streams; the other ends of its circuits see theirs break.
//! - **Keep-alive:** the connection of a peer that holds a place is kept; any other for as long as it
//!   has streams.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{AsyncWriteExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use libp2p::{
    InboundUpgrade, Multiaddr, PeerId, StreamProtocol,
    core::{UpgradeInfo, upgrade::ReadyUpgrade},
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, Stream, StreamUpgradeError, SubstreamProtocol,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
            ProtocolsChange,
        },
    },
};
use pluto_p2p::{
    proto::{self, Frame, read_protobuf_with_max_size, write_frame, write_protobuf},
    relay::{
        HOP, MAX_FRAME, STOP, Violation,
        wire::pb::{HopMessage, Status, StopMessage},
    },
};
use tokio::time::{Instant, Sleep, timeout};

use super::{
    circuit::{Account, Circuit, Ended},
    ledger::CircuitId,
    wire::{self, CircuitLimit, PEERINFO, PeerInfo, Request},
};
use crate::metrics::Meter;

/// Requests of one connection that are read at a time. A node asks for one place and
/// for a circuit to each member of its cluster.
const MAX_REQUESTS: usize = 32;
/// Requests of one connection in a row. A node that comes back asks for each member of its cluster.
const BURST: u32 = 256;
/// Requests of one connection in a second, in the long run. A node repeats one for a member that is
/// not there after 100 ms at the soonest.
const RATE: u32 = 32;
/// How long one message may take, either way. Charon's relay allows a minute.
const STEP: Duration = Duration::from_secs(30);
/// The hexadecimal digits of a cluster's label, Charon's (p2p spec, section 9.4).
const CLUSTER_DIGITS: usize = 7;

/// What the behaviour tells a connection.
#[derive(Debug)]
pub(crate) enum In {
    /// The peer has a place until then.
    Reserved {
        stream: Stream,
        lifetime: Duration,
        addresses: Vec<Multiaddr>,
        limit: CircuitLimit,
    },
    /// What was asked for is not given.
    Refused { stream: Stream, status: Status },
    /// The peer is the far end of a circuit.
    Open(Box<Opening>),
    /// Nothing more is taken on HOP.
    Close,
}

/// A circuit that is to be opened.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) id: CircuitId,
    pub(crate) src: PeerId,
    /// Where it was asked for; it becomes the circuit's near end.
    pub(crate) stream: Stream,
    pub(crate) limit: CircuitLimit,
    pub(crate) account: Account,
}

/// What a connection tells the behaviour.
#[derive(Debug)]
pub(crate) enum Out {
    /// Its peer asks for something.
    Asked { stream: Stream, request: Request },
    /// Both ends have agreed on a circuit.
    Opened { id: CircuitId },
    /// The far end did not take a circuit, and who asked was told.
    Failed { id: CircuitId },
    /// A circuit that was open is not any more.
    Ended { id: CircuitId, how: Ended },
}

/// Why a stream is opened.
#[derive(Debug)]
pub(crate) enum Purpose {
    Stop(Box<Opening>),
    Peerinfo,
}

/// HOP, while it is served.
#[derive(Debug, Clone)]
pub(crate) struct Hop {
    open: bool,
}

impl UpgradeInfo for Hop {
    type Info = StreamProtocol;
    type InfoIter = std::option::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.open.then_some(HOP).into_iter()
    }
}

impl InboundUpgrade<Stream> for Hop {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}

/// Why a request could not be read.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error(transparent)]
    Frame(proto::Error),
    #[error(transparent)]
    Message(Violation),
}

/// What a piece of work came to.
enum Done {
    Read(Result<(Stream, Request), Wrong>),
    /// An answer was written, or could not be.
    Answered,
    /// The far end's answer.
    Agreed(Box<Opening>, Option<Stream>),
    /// What came of the near end's.
    Running(Box<Opening>, Option<Stream>),
    Refused(CircuitId),
    Ended(CircuitId, Ended),
    Told(Option<String>),
}

/// See the module's documentation.
pub(crate) struct Handler {
    open: bool,
    meter: Arc<Meter>,
    /// The end of the peer's place.
    place: Option<Pin<Box<Sleep>>>,
    requests: usize,
    bucket: Bucket,
    asked: bool,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    pending_events: VecDeque<ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, Purpose, Out>>,
}

impl Handler {
    pub(crate) fn new(open: bool, meter: Arc<Meter>) -> Self {
        Self {
            open,
            meter,
            place: None,
            requests: 0,
            bucket: Bucket::new(Instant::now()),
            asked: false,
            work: FuturesUnordered::new(),
            pending_events: VecDeque::new(),
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = In;
    type ToBehaviour = Out;
    type InboundProtocol = Hop;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Purpose;

    fn listen_protocol(&self) -> SubstreamProtocol<Hop, ()> {
        SubstreamProtocol::new(Hop { open: self.open }, ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.place.is_some()
    }

    fn on_behaviour_event(&mut self, event: In) {
        match event {
            In::Reserved {
                stream,
                lifetime,
                addresses,
                limit,
            } => {
                self.place = Some(Box::pin(tokio::time::sleep(lifetime)));
                self.answer(stream, wire::reserved(lifetime, &addresses, limit));
            }
            In::Refused { stream, status } => self.answer(stream, HopMessage::answer(status)),
            In::Open(opening) => self.ask(STOP, Purpose::Stop(opening)),
            In::Close => {
                self.open = false;
                self.place = None;
            }
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, Purpose, Out>> {
        if let Some(place) = &mut self.place
            && place.as_mut().poll(cx).is_ready()
        {
            self.place = None;
        }
        loop {
            if let Some(event) = self.pending_events.pop_front() {
                return Poll::Ready(event);
            }
            match self.work.poll_next_unpin(cx) {
                Poll::Ready(Some(done)) => self.on_done(done),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Hop, ReadyUpgrade<StreamProtocol>, (), Purpose>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: stream,
                ..
            }) => self.on_request(stream),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                info: Purpose::Stop(opening),
            }) => self.work.push(Box::pin(stop(stream, opening))),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                info: Purpose::Peerinfo,
            }) => self.work.push(Box::pin(peerinfo(stream))),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.on_dial_error(info, &error);
            }
            ConnectionEvent::RemoteProtocolsChange(ProtocolsChange::Added(mut added)) => {
                // Once for each connection; a node belongs to one cluster.
                let tells = added.any(|protocol| *protocol == PEERINFO);
                if tells && !self.asked {
                    self.asked = true;
                    self.ask(PEERINFO, Purpose::Peerinfo);
                }
            }
            _ => {}
        }
    }
}

impl Handler {
    fn on_request(&mut self, stream: Stream) {
        if self.requests >= MAX_REQUESTS {
            tracing::debug!(
                limit = MAX_REQUESTS,
                "too many requests at a time, one is dropped"
            );
            return;
        }
        if !self.bucket.take(Instant::now()) {
            tracing::debug!(rate = RATE, "requests come too fast, one is refused");
            let message = HopMessage::answer(Status::ResourceLimitExceeded);
            self.answer(stream, message);
            return;
        }
        self.requests += 1;
        self.work.push(Box::pin(read(stream)));
    }

    fn on_dial_error(&mut self, purpose: Purpose, error: &StreamUpgradeError<Infallible>) {
        match purpose {
            Purpose::Stop(opening) => {
                tracing::debug!(circuit = ?opening.id, %error, "the far end takes no stream");
                self.refuse(*opening);
            }
            Purpose::Peerinfo => self.meter.in_cluster(None),
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Read(Ok((stream, request))) => {
                self.requests -= 1;
                self.tell(Out::Asked { stream, request });
            }
            Done::Read(Err(error)) => {
                self.requests -= 1;
                tracing::debug!(%error, "no request could be read");
            }
            Done::Answered => {}
            Done::Agreed(opening, Some(far)) => {
                self.work.push(Box::pin(accept(opening, far)));
            }
            Done::Agreed(opening, None) => self.refuse(*opening),
            Done::Running(opening, Some(far)) => {
                let id = opening.id;
                self.work.push(Box::pin(run(*opening, far)));
                self.tell(Out::Opened { id });
            }
            // Who asked is gone.
            Done::Running(opening, None) => self.tell(Out::Failed { id: opening.id }),
            Done::Refused(id) => self.tell(Out::Failed { id }),
            Done::Ended(id, how) => self.tell(Out::Ended { id, how }),
            Done::Told(cluster) => self.meter.in_cluster(cluster),
        }
    }

    fn tell(&mut self, event: Out) {
        self.pending_events
            .push_back(ConnectionHandlerEvent::NotifyBehaviour(event));
    }

    fn ask(&mut self, protocol: StreamProtocol, purpose: Purpose) {
        self.pending_events
            .push_back(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(ReadyUpgrade::new(protocol), purpose)
                    .with_timeout(STEP),
            });
    }

    fn answer(&mut self, stream: Stream, message: HopMessage) {
        self.work.push(Box::pin(async {
            write_and_close(stream, message).await;
            Done::Answered
        }));
    }

    fn refuse(&mut self, opening: Opening) {
        let Opening { id, stream, .. } = opening;
        let message = HopMessage::answer(Status::ConnectionFailed);
        self.work.push(Box::pin(async move {
            write_and_close(stream, message).await;
            Done::Refused(id)
        }));
    }
}

/// How many requests may come now.
struct Bucket {
    /// When the burst that is used up would be forgotten.
    until: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { until: now }
    }

    /// Takes one, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        let one = Duration::from_secs(1) / RATE;
        let until = self.until.max(now) + one;
        let fits = until - now <= one * BURST;
        if fits {
            self.until = until;
        }
        fits
    }
}

/// Reads a request; a wrong one is answered here.
async fn read(mut stream: Stream) -> Done {
    let message = read_protobuf_with_max_size(&mut stream, MAX_FRAME, STEP).await;
    let (status, wrong) = match message {
        Ok(message) => match wire::request(message) {
            Ok(request) => return Done::Read(Ok((stream, request))),
            Err((status, violation)) => (status, Wrong::Message(violation)),
        },
        Err(error) => (Status::MalformedMessage, Wrong::Frame(error)),
    };
    write_and_close(stream, HopMessage::answer(status)).await;
    Done::Read(Err(wrong))
}

/// The last message on a stream. If it cannot be written nobody waits for it.
async fn write_and_close(mut stream: Stream, message: HopMessage) {
    if write_protobuf(&mut stream, &message, STEP).await.is_ok() {
        let _ = timeout(STEP, stream.close()).await;
    }
}

/// Asks the far end to take a circuit.
async fn stop(mut far: Stream, opening: Box<Opening>) -> Done {
    let agreed = async {
        let message = wire::stop(opening.src, opening.limit);
        write_protobuf(&mut far, &message, STEP).await?;
        read_protobuf_with_max_size::<StopMessage>(&mut far, MAX_FRAME, STEP).await
    };
    match agreed.await {
        Ok(message) if wire::accepts(&message) => Done::Agreed(opening, Some(far)),
        Ok(message) => {
            tracing::debug!(circuit = ?opening.id, status = ?message.status, "the far end refused");
            Done::Agreed(opening, None)
        }
        Err(error) => {
            tracing::debug!(circuit = ?opening.id, %error, "the far end did not answer");
            Done::Agreed(opening, None)
        }
    }
}

/// Tells who asked that the circuit is there. From here on its bytes are the two ends'.
async fn accept(mut opening: Box<Opening>, far: Stream) -> Done {
    let message = wire::connected(opening.limit);
    let told = write_protobuf(&mut opening.stream, &message, STEP).await;
    Done::Running(opening, told.is_ok().then_some(far))
}

async fn run(opening: Opening, far: Stream) -> Done {
    let Opening {
        id,
        stream,
        limit,
        account,
        ..
    } = opening;
    let circuit = Circuit::new(stream, far, limit.bytes, account);
    let how = timeout(limit.duration, circuit).await;
    Done::Ended(id, how.unwrap_or(Ended::Time))
}

/// Asks once which cluster the peer is of (p2p spec, section 10.6).
async fn peerinfo(mut stream: Stream) -> Done {
    let told = async {
        write_frame(&mut stream, &Frame::from_body(&[]), STEP).await?;
        read_protobuf_with_max_size::<PeerInfo>(&mut stream, MAX_FRAME, STEP).await
    };
    let told = told.await;
    let _ = timeout(STEP, stream.close()).await;
    Done::Told(told.ok().and_then(|info| label(&info.lock_hash)))
}

/// The label of a cluster.
fn label(lock_hash: &[u8]) -> Option<String> {
    let bytes = lock_hash.get(..CLUSTER_DIGITS.div_ceil(2))?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.get(..CLUSTER_DIGITS).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_in_a_burst_and_then_at_a_rate() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now);
        let taken = |bucket: &mut Bucket, at| (0..1000).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(&mut bucket, now), BURST as usize);
        let second = Duration::from_secs(1);
        assert_eq!(taken(&mut bucket, now + second), RATE as usize);
        assert_eq!(taken(&mut bucket, now + 60 * second), BURST as usize);
    }

    #[test]
    fn a_cluster_has_seven_digits() {
        let hash = [0xab, 0xcd, 0xef, 0x12, 0x34];
        assert_eq!(label(&hash).as_deref(), Some("abcdef1"));
        assert_eq!(label(&hash[..3]), None);
    }
}
