//! The relay streams of one direct connection.
//!
//! - **Owner:** the behaviour decides what is asked of the relay; the handler asks, answers the
//!   relay, and reports.
//! - **Wake-ups:** commands, and its streams.
//! - **Bounds:** [`MAX_HOP`] requests of ours, [`MAX_STOP`] of theirs. Beyond it ours fail as busy
//!   and theirs are reset.
//! - **Disconnect:** dropping the handler drops its streams; a dial that waits learns that its relay
//!   is lost.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::upgrade::ReadyUpgrade,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, ConnectionId, StreamUpgradeError,
        SubstreamProtocol,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Error, hop, stop,
    transport::{Circuit, Incoming},
    wire::{HOP, Limit, Refusal, STOP},
};
use crate::proto;

/// How long a relay may take to grant a reservation: it asks nobody. Chosen freely; Charon waits
/// 60 s (p2p spec, section 5.4), in which a silent relay would not be asked again.
pub const RESERVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to open a circuit. A relay of go-libp2p gives its other side 30 s (p2p
/// spec, section 9.2).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Negotiation of one stream; libp2p's default.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of ours on one connection: as many as a node dials at once, and reservations.
pub const MAX_HOP: usize = 130;
/// Requests of a relay on one connection that are being answered. Each takes a round trip; chosen
/// freely, several times a cluster.
pub const MAX_STOP: usize = 64;

/// What the behaviour asks for.
#[derive(Debug)]
pub enum Command {
    /// A reservation.
    Reserve {
        /// Comes back with the outcome.
        attempt: u64,
    },
    /// A circuit.
    Connect(Connect),
}

/// A circuit that is wanted.
#[derive(Debug)]
pub struct Connect {
    pub(super) to: PeerId,
    pub(super) answer: oneshot::Sender<Result<Circuit, Error>>,
}

/// What the handler reports.
#[derive(Debug)]
pub enum Report {
    /// An attempt to reserve has ended.
    Reserve {
        /// Which.
        attempt: u64,
        /// How.
        result: Result<hop::Grant, hop::Error>,
    },
    /// A circuit of ours was opened.
    Outbound {
        /// To whom.
        to: PeerId,
        /// What the relay allows it.
        limit: Option<Limit>,
    },
    /// Somebody else's was.
    Inbound {
        /// Whose.
        from: PeerId,
        /// What the relay allows it.
        limit: Option<Limit>,
    },
    /// Nothing to tell.
    Nothing,
}

/// Who may bring circuits: the relays that hold a reservation of ours, or are being asked for one,
/// each with its listener. Shared by all handlers: a relay tells of a circuit on any connection, and
/// its word may overtake the one that grants the reservation.
#[derive(Clone, Default)]
pub(super) struct Acceptors(Arc<Mutex<HashMap<PeerId, mpsc::Sender<Incoming>>>>);

impl Acceptors {
    pub(super) fn set(&self, relay: PeerId, listener: Option<mpsc::Sender<Incoming>>) {
        let mut acceptors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match listener {
            Some(listener) => {
                acceptors.insert(relay, listener);
            }
            None => {
                acceptors.remove(&relay);
            }
        }
    }

    fn get(&self, relay: &PeerId) -> Option<mpsc::Sender<Incoming>> {
        let acceptors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        acceptors.get(relay).cloned()
    }
}

/// See the module's documentation.
pub struct Handler {
    relay: PeerId,
    connection: ConnectionId,
    /// The relay's part of the address of circuits on this connection.
    through: Multiaddr,
    acceptors: Acceptors,
    pending_outbound: VecDeque<Command>,
    /// Streams that were asked for.
    opening: usize,
    hop: FuturesUnordered<BoxFuture<'static, Report>>,
    stop: FuturesUnordered<BoxFuture<'static, Report>>,
    pending_events: VecDeque<Report>,
}

impl Handler {
    pub(super) fn new(
        relay: PeerId,
        connection: ConnectionId,
        through: Multiaddr,
        acceptors: Acceptors,
    ) -> Self {
        Self {
            relay,
            connection,
            through,
            acceptors,
            pending_outbound: VecDeque::new(),
            opening: 0,
            hop: FuturesUnordered::new(),
            stop: FuturesUnordered::new(),
            pending_events: VecDeque::new(),
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Command;
    type ToBehaviour = Report;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Command;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, ()> {
        SubstreamProtocol::new(ReadyUpgrade::new(STOP), ())
    }

    fn on_behaviour_event(&mut self, command: Command) {
        let requests = self.pending_outbound.len() + self.opening + self.hop.len();
        match command {
            Command::Connect(connect) if requests >= MAX_HOP => {
                let relay = self.relay;
                // The dial may have been given up.
                let _ = connect.answer.send(Err(Error::Busy {
                    relay,
                    limit: MAX_HOP,
                }));
            }
            // One at a time, so that they need no bound; nor do they wait behind circuits.
            reserve @ Command::Reserve { .. } => self.pending_outbound.push_front(reserve),
            connect @ Command::Connect(_) => self.pending_outbound.push_back(connect),
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), Command>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: stream,
                ..
            }) => self.on_inbound(stream),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                info,
            }) => self.on_outbound(info, stream),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.on_not_opened(info, error);
            }
            _ => {}
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Command, Report>> {
        // 1. Outcomes.
        if let Some(report) = self.pending_events.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report));
        }
        while let Poll::Ready(Some(report)) = self.hop.poll_next_unpin(cx) {
            if !matches!(report, Report::Nothing) {
                return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report));
            }
        }
        // 2. New streams.
        if let Some(command) = self.pending_outbound.pop_front() {
            self.opening += 1;
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(ReadyUpgrade::new(HOP), command)
                    .with_timeout(OPEN_TIMEOUT),
            });
        }
        // 3. Requests of the relay.
        while let Poll::Ready(Some(report)) = self.stop.poll_next_unpin(cx) {
            if !matches!(report, Report::Nothing) {
                return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report));
            }
        }
        Poll::Pending
    }
}

impl Handler {
    fn on_outbound(&mut self, command: Command, mut stream: Stream) {
        self.opening = self.opening.saturating_sub(1);
        let (relay, connection) = (self.relay, self.connection);
        self.hop.push(match command {
            Command::Reserve { attempt } => Box::pin(async move {
                let result = hop::reserve(&mut stream, RESERVE_TIMEOUT).await;
                Report::Reserve { attempt, result }
            }),
            Command::Connect(connect) => Box::pin(open(relay, connection, connect, stream)),
        });
    }

    fn on_not_opened(&mut self, command: Command, error: StreamUpgradeError<Infallible>) {
        self.opening = self.opening.saturating_sub(1);
        let error = match error {
            StreamUpgradeError::NegotiationFailed => hop::Error::Unsupported,
            StreamUpgradeError::Timeout => hop::Error::TimedOut {
                limit: OPEN_TIMEOUT,
            },
            StreamUpgradeError::Io(error) => proto::Error::Io(error).into(),
            StreamUpgradeError::Apply(never) => match never {},
        };
        match command {
            Command::Reserve { attempt } => self.pending_events.push_back(Report::Reserve {
                attempt,
                result: Err(error),
            }),
            Command::Connect(Connect { to, answer }) => {
                let _ = answer.send(Err(Error::Connect {
                    relay: self.relay,
                    to,
                    source: error,
                }));
            }
        }
    }

    fn on_inbound(&mut self, mut stream: Stream) {
        if self.stop.len() >= MAX_STOP {
            tracing::debug!(relay = %self.relay, connection = %self.connection, limit = MAX_STOP, "too many circuits at once: one is reset");
            return;
        }
        let (relay, connection) = (self.relay, self.connection);
        let (through, acceptors) = (self.through.clone(), self.acceptors.clone());
        self.stop.push(Box::pin(async move {
            match admit(&mut stream, relay, &acceptors).await {
                Ok((asked, place)) => {
                    let circuit = Circuit {
                        stream,
                        relay,
                        connection,
                        limit: asked.limit,
                    };
                    place.send(Incoming {
                        circuit,
                        from: asked.from,
                        through,
                    });
                    Report::Inbound {
                        from: asked.from,
                        limit: asked.limit,
                    }
                }
                Err(error) => {
                    tracing::debug!(%relay, %connection, error = &error as &dyn std::error::Error, "no circuit");
                    Report::Nothing
                }
            }
        }));
    }
}

/// One circuit of ours.
async fn open(
    relay: PeerId,
    connection: ConnectionId,
    Connect { to, mut answer }: Connect,
    mut stream: Stream,
) -> Report {
    let opened = tokio::select! {
        biased;
        // Nobody waits for it any more.
        () = answer.closed() => return Report::Nothing,
        opened = hop::connect(&mut stream, to, CONNECT_TIMEOUT) => opened,
    };
    match opened {
        Ok(limit) => {
            let circuit = Circuit {
                stream,
                relay,
                connection,
                limit,
            };
            match answer.send(Ok(circuit)) {
                Ok(()) => Report::Outbound { to, limit },
                Err(_) => Report::Nothing,
            }
        }
        Err(source) => {
            let _ = answer.send(Err(Error::Connect { relay, to, source }));
            Report::Nothing
        }
    }
}

/// Reads whom a relay brings, and answers. A place is taken before the relay hears yes.
async fn admit(
    stream: &mut Stream,
    relay: PeerId,
    acceptors: &Acceptors,
) -> Result<(stop::Asked, mpsc::OwnedPermit<Incoming>), stop::Error> {
    let asked = stop::read(stream).await?;
    let place = match acceptors.get(&relay).map(mpsc::Sender::try_reserve_owned) {
        Some(Ok(place)) => Ok(place),
        Some(Err(mpsc::error::TrySendError::Full(_))) => Err(Refusal::ResourceLimitExceeded),
        // The listener is closed, or we never asked for circuits.
        Some(Err(mpsc::error::TrySendError::Closed(_))) | None => Err(Refusal::NoReservation),
    };
    match place {
        Ok(place) => {
            stop::accept(stream).await?;
            Ok((asked, place))
        }
        Err(refusal) => {
            stop::refuse(stream, refusal).await;
            Err(stop::Error::Refused {
                from: asked.from,
                refusal,
            })
        }
    }
}
