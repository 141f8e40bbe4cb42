//! The one dialler: only this behaviour decides to dial a peer of the cluster.
//!
//! Design §3. The [`planner`] decides, this shell feeds it.
//!
//! - **Owner:** one back-off per peer; static addresses from the configuration and from
//!   [`Book`], then what identify taught the context.
//! - **Wake-ups:** swarm events, changes of the context (addresses, wishes), [`Book`], one timer.
//! - **Bounds:** targets are the context's known peers; one dial per peer, [`planner::MAX_DIALING`]
//!   in all; static addresses per peer [`MAX_STATIC`].
//! - **Disconnect:** the last lost connection plans a dial at once, or after a grace by the peer with
//!   the larger id.

pub mod planner;

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm,
        NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished,
        dial_opts::{DialOpts, PeerCondition},
        dummy,
    },
};
use tokio::{sync::watch, time::Sleep};

use self::planner::{Plan, Planner};
use crate::p2p_context::{Changes, DialState, P2PContext, View, Writer};

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
    /// Dials of ours, so that a foreign failure is never taken for one.
    dialing: HashMap<ConnectionId, PeerId>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Behaviour {
    /// Dials the context's known peers where the book and identify say they are.
    pub fn new(context: P2PContext, local: PeerId, book: Book, seed: u64) -> Self {
        let known: Vec<_> = context.view().known().map(|peer| peer.id).collect();
        let mut behaviour = Self {
            writer: context.writer(),
            planner: Planner::new(local, known, Instant::now(), seed),
            book_changes: Changes::new(book.0.subscribe()),
            view_changes: Changes::new(context.changes()),
            wishes: Changes::new(context.wanted()),
            wished: Arc::default(),
            book,
            context,
            dialing: HashMap::new(),
            timer: None,
        };
        behaviour.learn();
        behaviour.publish();
        behaviour
    }

    /// Tells the planner where peers are.
    fn learn(&mut self) {
        let (view, now) = (self.context.view(), Instant::now());
        for peer in view.known() {
            let book = self.book.0.borrow();
            let given = book.get(&peer.id).into_iter().flatten().take(MAX_STATIC);
            let mut addresses: Vec<Multiaddr> = given.cloned().collect();
            drop(book);
            for address in &peer.addresses {
                if !addresses.contains(address) {
                    addresses.push(address.clone());
                }
            }
            self.planner.handle_addresses(peer.id, addresses, now);
        }
    }

    fn publish(&self) {
        for peer in self.context.view().known() {
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
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

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
        let now = Instant::now();
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                ..
            }) => {
                self.planner.handle_connected(peer_id, now);
                if self.dialing.remove(&connection_id).is_some() {
                    self.planner.handle_dialed(peer_id);
                }
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, .. }) => {
                self.planner.handle_disconnected(peer_id, now);
            }
            FromSwarm::DialFailure(DialFailure {
                connection_id,
                error,
                ..
            }) => {
                if let Some(peer) = self.dialing.remove(&connection_id) {
                    if let DialError::DialPeerConditionFalse(_) = error {
                        // Somebody else is at it: not a failure.
                        self.planner.handle_dialed(peer);
                    } else {
                        self.planner.handle_failed(peer, now);
                    }
                }
            }
            _ => return,
        }
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

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        // 1. Where peers are, and who is wanted.
        let moved = self.book_changes.poll_changed(cx).is_ready()
            | self.view_changes.poll_changed(cx).is_ready();
        if moved {
            // Register for the next change.
            while self.book_changes.poll_changed(cx).is_ready()
                || self.view_changes.poll_changed(cx).is_ready()
            {}
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
        loop {
            // 2. What is due.
            if let Some(dial) = self.planner.next_action(Instant::now()) {
                let opts = DialOpts::peer_id(dial.peer)
                    .addresses(dial.addresses)
                    // The planner knows what is open and what is under way.
                    .condition(PeerCondition::Always)
                    .build();
                self.dialing.insert(opts.connection_id(), dial.peer);
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
