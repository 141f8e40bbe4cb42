//! The half of the relay client that is a behaviour.
//!
//! - **Owner:** it feeds each relay's [`MutableRelayReservation`] and does what that says; which
//!   connection a relay is asked on is read off the context, the best direct one.
//! - **Wake-ups:** swarm events, requests of the transport, changes of the context, one timer.
//! - **Bounds:** relays are those of the context, and listeners that others opened; one attempt to
//!   reserve per relay at a time.
//! - **Disconnect:** a reservation ends with the connection that it was granted on, and is asked for
//!   again on the next. What was asked on a closed connection fails with it.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use either::Either;
use libp2p::{
    Multiaddr, PeerId,
    core::{
        Endpoint,
        transport::{ListenerId, PortUse},
    },
    multiaddr::Protocol,
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, ListenOpts, ListenerClosed,
        ListenerError, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, behaviour::ConnectionEstablished, dummy,
    },
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::{mpsc, watch},
    time::Sleep,
};

use super::{
    Error, ReserveError,
    handler::{Acceptors, Command, Connect, Handler, Report},
    hop,
    reservation::{self, Action, MutableRelayReservation, Notice},
    transport::{Dial, Incoming, Listen, Request, Told},
    wire::{Limit, through},
};
use crate::{
    addr,
    exchange::choose,
    p2p_context::{Changes, P2PContext, Path, ReservationState, View, Writer},
};

/// What happens with relays.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// We can be reached through the relay.
    Reserved {
        /// The relay.
        relay: PeerId,
        /// Whether it was so before.
        renewal: bool,
        /// For how long, unless it is renewed.
        term: Duration,
        /// What the relay allows each circuit.
        limit: Option<Limit>,
    },
    /// The relay did not grant a reservation. It is asked again.
    NotReserved {
        /// The relay.
        relay: PeerId,
        /// Why.
        trouble: ReserveError,
        /// Whether the one before still holds.
        held: bool,
    },
    /// The connection to the relay, or the listener on it, is gone, and the reservation with that.
    Lost {
        /// The relay.
        relay: PeerId,
    },
    /// The reservation was not renewed in time.
    Expired {
        /// The relay.
        relay: PeerId,
    },
    /// A circuit of ours was opened.
    Outbound {
        /// The relay.
        relay: PeerId,
        /// To whom.
        to: PeerId,
        /// What the relay allows it.
        limit: Option<Limit>,
    },
    /// A circuit of somebody else was.
    Inbound {
        /// The relay.
        relay: PeerId,
        /// Whose.
        from: PeerId,
        /// What the relay allows it.
        limit: Option<Limit>,
    },
}

/// See the module's documentation.
pub struct Behaviour {
    local: PeerId,
    context: P2PContext,
    writer: Writer,
    changes: Changes<Arc<View>>,
    requests: mpsc::Receiver<Request>,
    relays: Vec<Relay>,
    acceptors: Acceptors,
    seeds: SmallRng,
    /// What the relays' actions make: a few each.
    pending_events: VecDeque<ToSwarm<Event, Either<Command, std::convert::Infallible>>>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Behaviour")
            .field("local", &self.local)
            .field("relays", &self.relays.len())
            .finish_non_exhaustive()
    }
}

/// One relay, and what belongs to the reservation on it.
struct Relay {
    whose: Whose,
    life: MutableRelayReservation,
    /// Where it is, without its id.
    address: Multiaddr,
    listener: Option<(watch::Sender<Told>, mpsc::Sender<Incoming>)>,
    /// Who may bring circuits to the listener.
    accepted: Option<PeerId>,
    /// Under which we can be reached, while it is reserved.
    addresses: Vec<Multiaddr>,
    /// The last failure that was logged loudly.
    said: Option<ReserveError>,
}

/// Whose wish it is to be reached through a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The node's, whose context has it at this place.
    Ours(usize),
    /// Somebody listens on a circuit of it.
    Somebodys,
}

impl Behaviour {
    pub(super) fn new(
        local: PeerId,
        context: P2PContext,
        requests: mpsc::Receiver<Request>,
        seed: u64,
    ) -> Self {
        let mut behaviour = Self {
            local,
            changes: Changes::new(context.changes()),
            writer: context.writer(),
            context,
            requests,
            relays: Vec::new(),
            acceptors: Acceptors::default(),
            seeds: SmallRng::seed_from_u64(seed),
            pending_events: VecDeque::new(),
            timer: None,
        };
        behaviour.configure(Instant::now());
        behaviour
    }

    /// How it stands with the reservation on a relay; `None` if none is wanted.
    pub fn reservation(&self, relay: &PeerId) -> Option<ReservationState> {
        let mut relays = self.relays.iter();
        let relay = relays.find(|known| known.life.relay() == Some(*relay))?;
        Some(relay.life.state())
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Either<Handler, dummy::ConnectionHandler>;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(connection, peer, remote, addr::is_relayed(local)))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(connection, peer, remote, addr::is_relayed(remote)))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let now = Instant::now();
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, .. }) => {
                self.update(Some(peer_id), now);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id,
                ..
            }) => self.on_closed(peer_id, connection_id, now),
            FromSwarm::ListenerClosed(ListenerClosed { listener_id, .. })
            | FromSwarm::ListenerError(ListenerError { listener_id, .. }) => {
                self.on_listener_closed(listener_id, now);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        relay: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        let report = match event {
            Either::Left(report) => report,
            Either::Right(never) => match never {},
        };
        match report {
            Report::Reserve { attempt, result } => {
                self.on_answer(relay, connection, attempt, result, Instant::now());
            }
            Report::Outbound { to, limit } => self.tell(Event::Outbound { relay, to, limit }),
            Report::Inbound { from, limit } => self.tell(Event::Inbound { relay, from, limit }),
            Report::Nothing => {}
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        loop {
            // 1. What was decided.
            if let Some(event) = self.pending_events.pop_front() {
                return Poll::Ready(event);
            }
            // 2. A relay that became another one; a path that was proven or drained, which may
            //    change on which one it is asked.
            if self.changes.poll_changed(cx).is_ready() {
                let now = Instant::now();
                self.configure(now);
                self.update(None, now);
                continue;
            }
            // 3. Who dials or listens.
            if let Poll::Ready(Some(request)) = self.requests.poll_recv(cx) {
                self.on_request(request, Instant::now());
                continue;
            }
            // 4. What is due.
            let deadlines = self
                .relays
                .iter()
                .filter_map(|relay| relay.life.next_deadline());
            let Some(at) = deadlines.min() else {
                return Poll::Pending;
            };
            let at = tokio::time::Instant::from_std(at);
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            std::task::ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            for index in 0..self.relays.len() {
                self.relays[index].life.handle_timeout(now);
                self.act(index);
            }
        }
    }
}

impl Behaviour {
    fn handler(
        &self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        relayed: bool,
    ) -> Either<Handler, dummy::ConnectionHandler> {
        // No circuits inside circuits.
        if relayed {
            return Either::Right(dummy::ConnectionHandler);
        }
        let through = through(remote.clone(), peer);
        Either::Left(Handler::new(
            peer,
            connection,
            through,
            self.acceptors.clone(),
        ))
    }

    /// The context's relays, each once, and each other's listener is left alone.
    fn configure(&mut self, now: Instant) {
        let view = self.context.view();
        for (place, configured) in view.relays.iter().enumerate() {
            let peer = configured.peer.filter(|peer| {
                let first = view
                    .relays
                    .iter()
                    .position(|relay| relay.peer == Some(*peer));
                let somebodys = |relay: &Relay| {
                    relay.whose == Whose::Somebodys && relay.life.relay() == Some(*peer)
                };
                first == Some(place) && !self.relays.iter().any(somebodys)
            });
            let mut relays = self.relays.iter();
            let index = match relays.position(|relay| relay.whose == Whose::Ours(place)) {
                Some(index) => index,
                None => {
                    let life = MutableRelayReservation::new(self.seeds.random());
                    self.relays
                        .push(Relay::new(life, Multiaddr::empty(), Whose::Ours(place)));
                    self.relays.len() - 1
                }
            };
            let relay = &mut self.relays[index];
            if let Some(address) = configured.addresses.first() {
                relay.address.clone_from(address);
            }
            relay.life.handle_relay(peer, now);
            self.act(index);
        }
    }

    /// Shows in the context how it stands with each relay that is known.
    fn publish(&self) {
        for (place, configured) in self.context.view().relays.iter().enumerate() {
            let state = configured.peer.and_then(|peer| self.reservation(&peer));
            if let Some(state) = state {
                self.writer.reservation(place, state);
            }
        }
    }

    /// The connections to relays may have changed; to one, or to any.
    fn update(&mut self, peer: Option<PeerId>, now: Instant) {
        let view = self.context.view();
        for index in 0..self.relays.len() {
            let life = &mut self.relays[index].life;
            let Some(relay) = life
                .relay()
                .filter(|relay| peer.is_none_or(|peer| peer == *relay))
            else {
                continue;
            };
            let best = best(&view, &relay, life.connection());
            life.handle_connection(best, now);
            if life
                .held_on()
                .is_some_and(|held| drains(&view, &relay, held))
            {
                life.handle_draining(now);
            }
            self.act(index);
        }
    }

    fn on_closed(&mut self, peer: PeerId, closed: ConnectionId, now: Instant) {
        let view = self.context.view();
        for index in 0..self.relays.len() {
            let life = &mut self.relays[index].life;
            if life.relay() == Some(peer) {
                life.handle_closed(closed, best(&view, &peer, life.connection()), now);
                self.act(index);
            }
        }
    }

    fn on_listener_closed(&mut self, listener: ListenerId, now: Instant) {
        let mut relays = self.relays.iter();
        let Some(index) = relays.position(|relay| relay.life.listener() == Some(listener)) else {
            return;
        };
        let relay = &mut self.relays[index];
        relay.listener = None;
        relay.life.handle_listener_closed(listener, now);
        self.act(index);
        if self.relays[index].whose == Whose::Somebodys {
            // It is not ours to open again.
            self.relays.swap_remove(index);
        }
    }

    fn on_request(&mut self, request: Request, now: Instant) {
        match request {
            Request::Listen(listen) => self.on_listen(listen, now),
            Request::Dial(Dial { relay, to, answer }) => {
                let Some(connection) = best(&self.context.view(), &relay, None) else {
                    // The dial may have been given up.
                    let _ = answer.send(Err(Error::NotConnected { relay }));
                    return;
                };
                self.notify(relay, connection, Command::Connect(Connect { to, answer }));
            }
        }
    }

    fn on_listen(&mut self, listen: Listen, now: Instant) {
        if listen.told.is_closed() {
            // Closed meanwhile.
            return;
        }
        let Listen {
            id,
            relay,
            address,
            told,
            incoming,
        } = listen;
        let mut relays = self.relays.iter();
        let ours = relays.position(|relay| relay.life.listener() == Some(id));
        let index = match ours {
            Some(index) => index,
            None if self.reservation(&relay).is_some() => {
                told.send_modify(|told| told.taken = true);
                return;
            }
            None => {
                let seed = self.seeds.random();
                self.relays.push(Relay::new(
                    MutableRelayReservation::of_listener(relay, id, seed),
                    address,
                    Whose::Somebodys,
                ));
                self.relays.len() - 1
            }
        };
        self.relays[index].listener = Some((told, incoming));
        self.relays[index].life.handle_listener_open(id, now);
        self.act(index);
        self.update(Some(relay), now);
    }

    fn on_answer(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        attempt: u64,
        result: Result<hop::Grant, hop::Error>,
        now: Instant,
    ) {
        let mut relays = self.relays.iter_mut();
        let Some(index) = relays.position(|relay| relay.life.relay() == Some(peer)) else {
            return;
        };
        let relay = &mut self.relays[index];
        match result {
            Ok(grant) => {
                let since_1970 = SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default();
                let term = reservation::term(grant.expires_unix_secs, since_1970);
                if term == reservation::ASSUMED_TERM {
                    tracing::warn!(relay = %peer, expires_unix_secs = grant.expires_unix_secs, "the relay's clock and ours disagree: its reservation is renewed often");
                }
                let mut addresses = grant.addresses;
                if addresses.is_empty() {
                    // Charon's relays name none without a public one: it is where we reached it.
                    addresses.extend(remote(&self.context.view(), &peer, connection));
                }
                relay.addresses = addresses
                    .into_iter()
                    .filter(|address| !addr::is_relayed(address))
                    .map(|address| through(address, peer).with(Protocol::P2p(self.local)))
                    .collect();
                relay.life.handle_granted(attempt, term, grant.limit, now);
            }
            Err(error) => {
                tracing::debug!(relay = %peer, %connection, error = &error as &dyn std::error::Error, "no reservation");
                relay
                    .life
                    .handle_failed(attempt, ReserveError::from(&error), now);
            }
        }
        self.act(index);
    }

    /// Does what a relay's reservation wants done, and shows how it stands.
    fn act(&mut self, index: usize) {
        while let Some(action) = self.relays[index].life.next_action() {
            match action {
                Action::Listen(relay) => {
                    let at = through(self.relays[index].address.clone(), relay);
                    let opts = ListenOpts::new(at);
                    let listener = opts.listener_id();
                    self.relays[index].life.handle_listening(listener);
                    self.pending_events.push_back(ToSwarm::ListenOn { opts });
                }
                Action::Unlisten(id) => {
                    self.relays[index].listener = None;
                    self.pending_events
                        .push_back(ToSwarm::RemoveListener { id });
                }
                Action::Want(relay) => self.context.want(relay),
                Action::Reserve {
                    relay,
                    connection,
                    attempt,
                } => self.notify(relay, connection, Command::Reserve { attempt }),
                Action::Tell(relay, notice) => self.on_notice(index, relay, notice),
            }
        }
        self.relays[index].show(&self.acceptors);
        self.publish();
    }

    fn on_notice(&mut self, index: usize, relay: PeerId, notice: Notice) {
        let state = &mut self.relays[index];
        let event = match notice {
            Notice::Reserved { renewal, term } => {
                state.said = None;
                let limit = match state.life.state() {
                    ReservationState::Reserved { limit, .. } => limit,
                    _ => None,
                };
                if renewal {
                    tracing::debug!(%relay, ?term, "renewed the reservation on the relay");
                } else {
                    let limit = limit.unwrap_or_default();
                    tracing::info!(%relay, ?term, circuits = %limit, "reserved: peers can reach this node through the relay");
                }
                Event::Reserved {
                    relay,
                    renewal,
                    term,
                    limit,
                }
            }
            Notice::Failed { trouble, held } => {
                if state.said == Some(trouble) {
                    tracing::debug!(%relay, reason = %trouble, held, "still no new reservation on the relay");
                } else {
                    state.said = Some(trouble);
                    tracing::warn!(%relay, reason = %trouble, held, "no new reservation on the relay; it is asked again");
                }
                Event::NotReserved {
                    relay,
                    trouble,
                    held,
                }
            }
            Notice::Lost => {
                tracing::info!(%relay, "lost the reservation on the relay; it is asked for again");
                Event::Lost { relay }
            }
            Notice::Expired => {
                tracing::warn!(%relay, "the reservation on the relay has expired; it is asked for again");
                Event::Expired { relay }
            }
        };
        self.tell(event);
    }

    fn tell(&mut self, event: Event) {
        self.pending_events.push_back(ToSwarm::GenerateEvent(event));
    }

    fn notify(&mut self, peer_id: PeerId, connection: ConnectionId, command: Command) {
        self.pending_events.push_back(ToSwarm::NotifyHandler {
            peer_id,
            handler: NotifyHandler::One(connection),
            event: Either::Left(command),
        });
    }
}

impl Relay {
    fn new(life: MutableRelayReservation, address: Multiaddr, whose: Whose) -> Self {
        Self {
            whose,
            life,
            address,
            listener: None,
            accepted: None,
            addresses: Vec::new(),
            said: None,
        }
    }

    /// Tells the listener and the handlers how the reservation stands.
    fn show(&mut self, acceptors: &Acceptors) {
        let accepted = self.life.relay().filter(|_| self.life.accepts());
        if let Some(before) = self.accepted.filter(|before| Some(*before) != accepted) {
            acceptors.set(before, None);
        }
        let incoming = self.listener.as_ref().map(|(_, incoming)| incoming.clone());
        if let Some(relay) = accepted {
            acceptors.set(relay, incoming);
        }
        self.accepted = accepted;

        if self.life.held_on().is_none() {
            self.addresses.clear();
        }
        if let Some((told, _)) = &self.listener {
            told.send_if_modified(|told| {
                let changed = told.addresses != self.addresses;
                told.addresses.clone_from(&self.addresses);
                changed
            });
        }
    }
}

/// The direct connection to a relay that is best now.
fn best(view: &View, relay: &PeerId, last: Option<ConnectionId>) -> Option<ConnectionId> {
    let direct: Vec<_> = view
        .peer(relay)?
        .paths
        .iter()
        .filter(|path| !path.is_relayed())
        .cloned()
        .collect();
    choose(&direct, last)
}

fn path<'a>(view: &'a View, relay: &PeerId, connection: ConnectionId) -> Option<&'a Arc<Path>> {
    let mut paths = view.peer(relay)?.paths.iter();
    paths.find(|path| path.connection == connection)
}

fn drains(view: &View, relay: &PeerId, connection: ConnectionId) -> bool {
    path(view, relay, connection).is_some_and(|path| path.draining)
}

fn remote(view: &View, relay: &PeerId, connection: ConnectionId) -> Option<Multiaddr> {
    path(view, relay, connection).map(|path| path.address.clone())
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker;
    use libp2p::Transport as _;

    use super::*;
    use crate::{p2p_context::RelayView, relay};

    #[test]
    fn a_relay_that_becomes_another_one_gets_another_listener() {
        let (mut world, [first, second]) = World::with(1);

        world.name(0, first);
        let [listener] = world.listens()[..] else {
            panic!("one listener")
        };
        assert_eq!(world.reservation(0), ReservationState::Dialing);
        world.name(0, first);
        assert_eq!(world.listens(), [], "nothing has changed");

        world.name(0, second);
        let Some(ToSwarm::RemoveListener { id }) = world.next() else {
            panic!("the old listener stays")
        };
        assert_eq!(id, listener);
        assert_eq!(world.listens().len(), 1);
        assert_eq!(world.behaviour.reservation(&first), None);
    }

    #[test]
    fn two_names_of_one_relay_are_one_reservation() {
        let (mut world, [first, second]) = World::with(2);
        world.name(0, first);
        world.name(1, first);
        assert_eq!(world.listens().len(), 1);
        assert_eq!(
            world.reservation(1),
            ReservationState::Dialing,
            "it is told at both"
        );

        world.name(0, second);
        let removed = std::iter::from_fn(|| world.next())
            .filter(|event| matches!(event, ToSwarm::RemoveListener { .. }));
        assert_eq!(removed.count(), 1);
        assert!(
            world.behaviour.reservation(&first).is_some(),
            "its other name stands"
        );
        assert!(world.behaviour.reservation(&second).is_some());
    }

    #[test]
    fn a_listener_that_somebody_else_has_opened_is_left_alone() {
        let (mut world, [first, _]) = World::with(1);
        let theirs = ListenerId::next();
        let at = format!("/p2p/{first}/p2p-circuit").parse().unwrap();
        world.transport.listen_on(theirs, at).unwrap();
        assert_eq!(world.listens(), []);

        world.name(0, first);
        assert_eq!(world.listens(), []);
        assert_eq!(world.reservation(0), ReservationState::Dialing);
    }

    struct World {
        context: P2PContext,
        transport: relay::Transport,
        behaviour: Behaviour,
    }

    impl World {
        fn with(relays: usize) -> (Self, [PeerId; 2]) {
            let context = P2PContext::default();
            let (transport, behaviour) = relay::new(PeerId::random(), context.clone(), 1);
            let names = (0..relays).map(|name| name.to_string().into());
            context.writer().relays(names);
            let world = Self {
                context,
                transport,
                behaviour,
            };
            (world, [PeerId::random(), PeerId::random()])
        }

        fn name(&self, place: usize, peer: PeerId) {
            let name = |relay: &mut RelayView| relay.peer = Some(peer);
            self.context.writer().relay(place, name);
        }

        fn next(&mut self) -> Option<ToSwarm<Event, Either<Command, std::convert::Infallible>>> {
            match self.behaviour.poll(&mut Context::from_waker(&noop_waker())) {
                Poll::Ready(event) => Some(event),
                Poll::Pending => None,
            }
        }

        /// What it listens on now.
        fn listens(&mut self) -> Vec<ListenerId> {
            let listen = |event| match event {
                ToSwarm::ListenOn { opts } => Some(opts.listener_id()),
                _ => None,
            };
            std::iter::from_fn(|| self.next())
                .filter_map(listen)
                .collect()
        }

        fn reservation(&self, place: usize) -> ReservationState {
            self.context.view().relays[place].reservation.clone()
        }
    }
}
