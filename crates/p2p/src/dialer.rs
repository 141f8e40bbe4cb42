//! The one dialler: only this behaviour decides to dial a peer of the cluster.
//!
//! Design §3. The [`planner`] decides, this shell feeds it. Relays, direct paths and QUIC are its
//! policies: [`RelayRouter`](crate::relay::RelayRouter), [`ForceDirect`](crate::force_direct::ForceDirect),
//! [`QuicUpgrade`].
//!
//! - **Owner:** one back-off per peer and path; static addresses from the configuration and from
//!   [`Book`], then what identify taught the context.
//! - **Wake-ups:** swarm events, changes of the context (addresses, wishes), [`Book`], one timer.
//! - **Bounds:** targets are the context's known peers and relays; one dial per peer and path,
//!   [`planner::MAX_DIALING`] in all; static addresses per peer [`MAX_STATIC`].
//! - **Disconnect:** the last lost connection plans a dial at once, or after a grace by the peer with
//!   the larger id.
//! - **End:** while the node says farewell nothing is dialled.

pub(crate) mod lane;
pub mod planner;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm, NetworkBehaviour,
        THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished,
        dial_opts::{DialOpts, PeerCondition},
        dummy,
    },
};
use tokio::{sync::watch, time::Sleep};

use self::planner::{Cause, Dial, Open, Outcome, Plan, Planner, Way};
use crate::{
    conn_logger,
    p2p_context::{
        Changes, DialState, Failure, FailureCause, P2PContext, ReservationState, View, Writer,
    },
    quic_upgrade::QuicUpgrade,
    relay::Via,
};

/// Static addresses kept per peer; an operator gives one or two.
pub const MAX_STATIC: usize = 8;

/// Static addresses of peers, which may change while the node runs.
#[derive(Debug, Clone)]
pub struct Book(watch::Sender<BTreeMap<PeerId, Vec<Multiaddr>>>);

impl Book {
    /// A book with these addresses.
    pub fn new(addresses: impl IntoIterator<Item = (PeerId, Vec<Multiaddr>)>) -> Self {
        Self(watch::Sender::new(addresses.into_iter().collect()))
    }

    /// Replaces a peer's addresses; at most [`MAX_STATIC`] are used.
    pub fn set(&self, peer: PeerId, addresses: Vec<Multiaddr>) {
        self.0.send_modify(|book| {
            book.insert(peer, addresses);
        });
    }
}

/// What came of a dial that was to make a connection better.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A peer that was connected through relays only answers on a direct connection; the relayed one
    /// is drained.
    Direct {
        /// The peer.
        peer: PeerId,
        /// The direct connection.
        connection: ConnectionId,
    },
    /// It could not be reached directly; it stays relayed, and is tried again.
    NotDirect {
        /// The peer.
        peer: PeerId,
        /// The dial.
        connection: ConnectionId,
        /// Why, by address.
        failures: Vec<Failure>,
    },
    /// A peer answers over QUIC; the TCP connection is drained.
    Quic {
        /// The peer.
        peer: PeerId,
        /// The QUIC connection.
        connection: ConnectionId,
    },
    /// It could not be reached over QUIC; it stays on TCP, and is tried again.
    NotQuic {
        /// The peer.
        peer: PeerId,
        /// The dial.
        connection: ConnectionId,
        /// Why.
        cause: NotQuic,
    },
}

/// Why a connection stays on TCP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotQuic {
    /// It could not be reached (is UDP let through?).
    #[error("not reached over QUIC (is UDP let through?)")]
    Failed {
        /// Why, by address.
        failures: Vec<Failure>,
    },
    /// It is slower.
    #[error("QUIC takes {quic:?} to and fro, TCP {tcp:?}")]
    Worse {
        /// The round-trip time over QUIC.
        quic: Duration,
        /// That over TCP.
        tcp: Duration,
    },
}

/// See the module's documentation.
pub struct Behaviour {
    context: P2PContext,
    writer: Writer,
    planner: Planner,
    book: Book,
    book_changes: Changes<BTreeMap<PeerId, Vec<Multiaddr>>>,
    view_changes: Changes<Arc<View>>,
    wishes: Changes<Arc<BTreeMap<PeerId, u64>>>,
    wished: Arc<BTreeMap<PeerId, u64>>,
    /// How many want TCP to be replaced by QUIC.
    upgrades: watch::Sender<usize>,
    upgrade_changes: Changes<usize>,
    /// Dials of ours, so that a foreign failure is never taken for one.
    dialing: HashMap<ConnectionId, Dial>,
    /// Dials leave from the port that is listened on, which NATs map alike. Where somebody has that port
    /// on another address of this host they cannot; from then on each takes a port of its own.
    new_ports: bool,
    /// The node says farewell.
    ending: bool,
    pending_events: VecDeque<Event>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Behaviour")
            .field("planner", &self.planner)
            .finish_non_exhaustive()
    }
}

impl Behaviour {
    /// Dials the context's known peers where the book and identify say they are, and through its
    /// relays.
    pub fn new(context: P2PContext, local: PeerId, book: Book, seed: u64) -> Self {
        let known: Vec<_> = context.view().known().map(|peer| peer.id).collect();
        let upgrades = watch::Sender::new(0);
        let mut behaviour = Self {
            writer: context.writer(),
            planner: Planner::new(local, known, Instant::now(), seed),
            book_changes: Changes::new(book.0.subscribe()),
            view_changes: Changes::new(context.changes()),
            wishes: Changes::new(context.wanted()),
            wished: Arc::default(),
            upgrade_changes: Changes::new(upgrades.subscribe()),
            upgrades,
            book,
            context,
            dialing: HashMap::new(),
            new_ports: false,
            ending: false,
            pending_events: VecDeque::new(),
            timer: None,
        };
        behaviour.learn();
        behaviour.publish();
        behaviour
    }

    /// Reaches members through relays only, whatever addresses are known.
    pub(crate) fn relayed_only(&mut self) {
        self.planner.relayed_only();
    }

    /// Dials nobody any more.
    pub(crate) fn end(&mut self) {
        self.ending = true;
    }

    /// The switch of the QUIC upgrade, on for as long as it exists.
    pub fn quic_upgrade(&self) -> QuicUpgrade {
        QuicUpgrade::new(self.upgrades.clone())
    }

    /// Tells the planner where peers are and what is open.
    fn learn(&mut self) {
        let (view, now) = (self.context.view(), Instant::now());
        let relays: Vec<_> = view.relay_peers().map(|relay| relay.id).collect();
        self.planner
            .handle_relays(relays.iter().copied(), routes(&view), now);
        self.planner.handle_upgrades(*self.upgrades.borrow() > 0);
        for peer in view.peers().filter(|peer| peer.is_wanted()) {
            let book = self.book.0.borrow();
            let given = book.get(&peer.id).into_iter().flatten().take(MAX_STATIC);
            let mut addresses: Vec<Multiaddr> = given.cloned().collect();
            drop(book);
            let relays = view.relays.iter();
            let relay = relays.filter(|relay| relay.peer == Some(peer.id));
            let configured = relay.flat_map(|relay| &relay.addresses);
            for address in configured.chain(&peer.addresses) {
                if !addresses.contains(address) {
                    addresses.push(address.clone());
                }
            }
            let open = peer.paths.iter().map(|path| Open::from(&**path)).collect();
            self.planner.handle_open(peer.id, open, now);
            self.planner.handle_addresses(peer.id, addresses, now);
        }
        for (peer, outcome) in self.planner.outcomes() {
            self.pending_events.push_back(match outcome {
                Outcome::Direct { connection } => Event::Direct { peer, connection },
                Outcome::Quic { connection } => Event::Quic { peer, connection },
                Outcome::QuicIsWorse {
                    connection,
                    quic,
                    tcp,
                } => Event::NotQuic {
                    peer,
                    connection,
                    cause: NotQuic::Worse { quic, tcp },
                },
            });
        }
    }

    fn publish(&self) {
        let view = self.context.view();
        for peer in view.peers().filter(|peer| peer.is_wanted()) {
            let state = match self.planner.plan(&peer.id) {
                None | Some(Plan::Connected) => DialState::Idle,
                Some(Plan::NoAddress) => DialState::NoAddress,
                Some(Plan::Dialing { addresses }) => DialState::Dialing { addresses },
                Some(Plan::At { at, attempts }) => DialState::Waiting {
                    until: at,
                    attempts,
                },
            };
            self.writer.dialing(peer.id, state);
        }
    }

    fn on_failure(&mut self, connection: ConnectionId, error: &DialError) {
        let Some(dial) = self.dialing.remove(&connection) else {
            return;
        };
        let peer = dial.peer;
        if let DialError::DialPeerConditionFalse(_) = error {
            // Somebody else is at it: not a failure.
            self.planner.handle_dialed(dial.attempt);
            return;
        }
        let failures = conn_logger::failures_of(error);
        let any = |is: fn(&FailureCause) -> bool| failures.iter().any(|it| is(&it.cause));
        self.new_ports |= any(
            |cause| matches!(cause, FailureCause::Io { kind } if *kind == io::ErrorKind::AddrInUse),
        );
        let not_yet = any(|cause| matches!(cause, FailureCause::NoReservation { .. }));
        let cause = match not_yet {
            true => Cause::NotYet,
            false => Cause::Other,
        };
        self.planner
            .handle_failed(dial.attempt, cause, Instant::now());
        match dial.way {
            Way::Direct | Way::Relayed { .. } => {}
            Way::ForceDirect => self.pending_events.push_back(Event::NotDirect {
                peer,
                connection,
                failures,
            }),
            Way::QuicUpgrade => self.pending_events.push_back(Event::NotQuic {
                peer,
                connection,
                cause: NotQuic::Failed { failures },
            }),
        }
    }
}

/// The relays that peers may be dialled through now.
fn routes(view: &View) -> Vec<Via> {
    let relays = view.relay_peers().filter_map(|relay| {
        let path = relay.best()?;
        let mut configured = view.relays.iter();
        let reserved = configured.find_map(|it| match it.reservation {
            ReservationState::Reserved { since, .. } if it.peer == Some(relay.id) => Some(since),
            _ => None,
        });
        Some(Via {
            relay: relay.id,
            address: path.address.clone(),
            rtt: path.rtt(),
            reserved,
        })
    });
    relays.collect()
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { connection_id, .. }) => {
                if let Some(dial) = self.dialing.remove(&connection_id) {
                    self.planner.handle_dialed(dial.attempt);
                }
            }
            FromSwarm::ConnectionClosed(_) => {}
            FromSwarm::DialFailure(DialFailure {
                connection_id,
                error,
                ..
            }) => self.on_failure(connection_id, error),
            _ => return,
        }
        // The context is true already.
        self.learn();
        self.publish();
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        // 1. Where peers are, and who is wanted.
        let mut moved = false;
        // Until each has registered for its next change.
        while self.book_changes.poll_changed(cx).is_ready()
            | self.view_changes.poll_changed(cx).is_ready()
            | self.upgrade_changes.poll_changed(cx).is_ready()
        {
            moved = true;
        }
        if moved {
            self.learn();
            self.publish();
        }
        while self.wishes.poll_changed(cx).is_ready() {
            let wanted = self.context.wanted().borrow().clone();
            for (peer, count) in wanted.iter() {
                if self.wished.get(peer) != Some(count) {
                    self.planner.handle_wanted(*peer, Instant::now());
                }
            }
            self.wished = wanted;
        }
        if let Some(event) = self.pending_events.pop_front() {
            tracing::debug!(?event, "a better connection");
            return Poll::Ready(ToSwarm::GenerateEvent(event));
        }
        if self.ending {
            return Poll::Pending;
        }
        loop {
            // 2. What is due.
            if let Some(dial) = self.planner.next_action(Instant::now()) {
                tracing::debug!(peer = %dial.peer, way = ?dial.way, addresses = ?dial.addresses, "dialling");
                let opts = DialOpts::peer_id(dial.peer)
                    .addresses(dial.addresses.clone())
                    // The planner knows what is open and what is under way.
                    .condition(PeerCondition::Always);
                let opts = match self.new_ports {
                    true => opts.allocate_new_port().build(),
                    false => opts.build(),
                };
                self.dialing.insert(opts.connection_id(), dial);
                self.publish();
                return Poll::Ready(ToSwarm::Dial { opts });
            }
            // 3. Be woken for the next.
            let Some(at) = self.planner.next_deadline() else {
                return Poll::Pending;
            };
            let at = tokio::time::Instant::from_std(at);
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use libp2p::{core::transport::TransportError, swarm::ConnectionId};

    use super::*;
    use crate::{addr::Transport, p2p_context::Path};

    #[tokio::test]
    async fn what_could_not_be_made_better_is_told_with_the_causes() {
        let peer = PeerId::random();
        let address: Multiaddr = "/ip4/10.0.0.1/udp/1/quic-v1".parse().unwrap();
        for relayed in [true, false] {
            let mut local = PeerId::random();
            while local.to_bytes() > peer.to_bytes() {
                local = PeerId::random();
            }
            let context = P2PContext::new([local, peer]);
            context.bind(local).unwrap();
            let book = Book::new([(peer, vec![address.clone()])]);
            let mut dialer = Behaviour::new(context.clone(), local, book, 1);
            let _switch = dialer.quic_upgrade();
            let path = Path::new(
                ConnectionId::new_unchecked(usize::MAX),
                Endpoint::Dialer,
                relayed.then(PeerId::random),
                Transport::Tcp,
                Multiaddr::empty(),
            );
            path.set_rtt(Duration::from_millis(5));
            context.writer().connected(peer, path);
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready(ToSwarm::Dial { opts }) = dialer.poll(&mut cx) else {
                panic!("nothing is dialled");
            };
            let connection = opts.connection_id();
            let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
            let error =
                DialError::Transport(vec![(address.clone(), TransportError::Other(refused))]);

            dialer.on_swarm_event(FromSwarm::DialFailure(DialFailure {
                peer_id: Some(peer),
                error: &error,
                connection_id: connection,
            }));

            let Poll::Ready(ToSwarm::GenerateEvent(event)) = dialer.poll(&mut cx) else {
                panic!("nothing is told");
            };
            let (of, on, failures) = match event {
                Event::NotDirect {
                    peer,
                    connection,
                    failures,
                } if relayed => (peer, connection, failures),
                Event::NotQuic {
                    peer,
                    connection,
                    cause: NotQuic::Failed { failures },
                } if !relayed => (peer, connection, failures),
                other => panic!("{other:?}"),
            };
            assert_eq!((of, on), (peer, connection));
            let causes: Vec<_> = failures
                .into_iter()
                .map(|failure| (failure.address, failure.cause))
                .collect();
            assert_eq!(causes, [(Some(address.clone()), FailureCause::Refused)]);
        }
    }
}
