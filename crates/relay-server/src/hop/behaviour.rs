//! Asks the ledger, and tells the connections.
//!
//! - **Owner:** the behaviour owns the ledger, and for each connection its meter and address.
//! - **Wake-ups:** swarm events, events of handlers, the next expiry of a place, and
//!   [`Behaviour::drain`] and [`Behaviour::advertise_private`], after which the swarm is polled.
//! - **Bounds:** the ledger's; connections per address ([`PER_IP`]); one command for each event.
//! - **Disconnect:** circuits and the hold on a place end in the same call. A circuit whose far end
//!   is gone before it heard of it ends with it.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::ListenerId, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionId, DialFailure,
        ExpiredListenAddr, ExternalAddrExpired, FromSwarm, ListenFailure, ListenerClosed,
        NetworkBehaviour, NewListenAddr, NotifyHandler, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        behaviour::{ConnectionEstablished, ExternalAddrConfirmed},
    },
};
use pluto_p2p::{
    addr::{self, Transport},
    relay::wire::pb::Status,
};
use tokio::time::{Sleep, sleep_until};

use super::{
    circuit::{Account, Ended},
    handler::{Handler, In, Opening, Out},
    ledger::{Circuit, Ledger, Refused},
    wire::{CircuitLimit, Request},
};
use crate::{
    config::Limits,
    metrics::{Meter, Metrics},
};

/// Connections from one address for each place that it may have: a node keeps one, and for a while
/// two when it changes its path. Strangers without a place idle out.
const PER_IP: usize = 2;

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    Reserved {
        peer: PeerId,
        renewal: bool,
    },
    ReservationRefused {
        peer: PeerId,
        why: Refused,
    },
    ReservationLost {
        peer: PeerId,
    },
    CircuitOpened {
        src: PeerId,
        dst: PeerId,
    },
    CircuitRefused {
        src: PeerId,
        dst: PeerId,
        why: Refused,
    },
    CircuitFailed {
        src: PeerId,
        dst: PeerId,
    },
    CircuitEnded {
        src: PeerId,
        dst: PeerId,
        how: Ended,
    },
}

/// Why a connection was not let in.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("the relay is shutting down")]
    Draining,
    #[error("{limit} connections from {ip} are open")]
    TooManyFrom { ip: IpAddr, limit: usize },
}

/// How much is given at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) connections: usize,
    pub(crate) reservations: usize,
    pub(crate) circuits: usize,
}

/// See the module's documentation.
pub(crate) struct Behaviour {
    local: PeerId,
    limits: Limits,
    metrics: Metrics,
    ledger: Ledger,
    connections: HashMap<ConnectionId, Connection>,
    per_peer: HashMap<PeerId, usize>,
    per_ip: HashMap<IpAddr, usize>,
    /// Of connections that are let in and not established yet.
    entering: HashMap<ConnectionId, Arc<Meter>>,
    /// With the transport that each listens on.
    listeners: HashMap<ListenerId, Transport>,
    private: bool,
    bound: Vec<Multiaddr>,
    external: Vec<Multiaddr>,
    expiry: Option<(Instant, Pin<Box<Sleep>>)>,
    pending_events: VecDeque<ToSwarm<Event, In>>,
}

struct Connection {
    peer: PeerId,
    ip: Option<IpAddr>,
    meter: Arc<Meter>,
}

impl Behaviour {
    pub(crate) fn new(local: PeerId, limits: Limits, metrics: Metrics) -> Self {
        metrics.serving(true);
        Self {
            local,
            ledger: Ledger::new(limits.clone()),
            limits,
            metrics,
            connections: HashMap::new(),
            per_peer: HashMap::new(),
            per_ip: HashMap::new(),
            entering: HashMap::new(),
            listeners: HashMap::new(),
            private: false,
            bound: Vec::new(),
            external: Vec::new(),
            expiry: None,
            pending_events: VecDeque::new(),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            connections: self.connections.len(),
            reservations: self.ledger.reservations(),
            circuits: self.ledger.circuits(),
        }
    }

    /// What clients are told, in the order of Go's (p2p spec, section 2.3).
    pub(crate) fn advertised(&self) -> Vec<Multiaddr> {
        let mut told = self.external.clone();
        told.sort_by_cached_key(Multiaddr::to_vec);
        told
    }

    /// Tells clients private addresses too, now and later.
    pub(crate) fn advertise_private(&mut self) {
        if self.private {
            return;
        }
        self.private = true;
        for address in self.bound.clone() {
            self.confirm(address);
        }
    }

    /// Takes nothing new: the TCP ports are given up, HOP is withdrawn, and whoever carries no circuit
    /// is sent away, so that it looks for another relay at once.
    pub(crate) fn drain(&mut self) {
        if self.ledger.is_draining() {
            return;
        }
        self.ledger.drain();
        self.metrics.serving(false);
        // A QUIC listener and its connections are one socket, and end together: it stays, and lets
        // nobody in.
        for (id, transport) in self.listeners.drain() {
            if transport == Transport::Tcp {
                self.pending_events
                    .push_back(ToSwarm::RemoveListener { id });
            }
        }
        let connections: Vec<_> = self.connections.keys().copied().collect();
        for connection in connections {
            if self.ledger.carries(connection) {
                self.tell(connection, In::Close);
            } else {
                self.send_away(connection);
            }
        }
    }

    fn confirm(&mut self, address: Multiaddr) {
        if self.private && !self.external.contains(&address) && addr::is_dialable(&address) {
            // At once, so that nobody is told of some and not of others.
            self.external.push(address.clone());
            self.pending_events
                .push_back(ToSwarm::ExternalAddrConfirmed(address));
        }
    }

    fn send_away(&mut self, connection: ConnectionId) {
        if let Some(state) = self.connections.get(&connection) {
            self.pending_events.push_back(ToSwarm::CloseConnection {
                peer_id: state.peer,
                connection: CloseConnection::One(connection),
            });
        }
    }

    fn tell(&mut self, connection: ConnectionId, event: In) {
        if let Some(state) = self.connections.get(&connection) {
            self.pending_events.push_back(ToSwarm::NotifyHandler {
                peer_id: state.peer,
                handler: NotifyHandler::One(connection),
                event,
            });
        }
    }

    fn report(&mut self, event: Event) {
        self.pending_events.push_back(ToSwarm::GenerateEvent(event));
    }

    fn enter(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        remote: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        if self.ledger.is_draining() {
            return Err(ConnectionDenied::new(Denied::Draining));
        }
        let limit = self.limits.max_reservations_per_ip.saturating_mul(PER_IP);
        if let Some(ip) = addr::ip_of(remote).map(addr::counted_as)
            && self.per_ip.get(&ip).copied().unwrap_or_default() >= limit
        {
            return Err(ConnectionDenied::new(Denied::TooManyFrom { ip, limit }));
        }
        let meter = self.metrics.connected(peer);
        self.entering.insert(connection, meter.clone());
        Ok(Handler::new(true, meter))
    }

    fn limit(&self) -> CircuitLimit {
        CircuitLimit {
            duration: self.limits.circuit_duration,
            bytes: self.limits.circuit_bytes,
        }
    }

    fn on_established(&mut self, peer: PeerId, connection: ConnectionId, remote: &Multiaddr) {
        let Some(meter) = self.entering.remove(&connection) else {
            return;
        };
        let ip = addr::ip_of(remote).map(addr::counted_as);
        if let Some(ip) = ip {
            *self.per_ip.entry(ip).or_default() += 1;
        }
        *self.per_peer.entry(peer).or_default() += 1;
        self.connections
            .insert(connection, Connection { peer, ip, meter });
    }

    fn on_closed(&mut self, peer: PeerId, connection: ConnectionId) {
        let Some(state) = self.connections.remove(&connection) else {
            return;
        };
        if let Some(ip) = state.ip {
            release(&mut self.per_ip, &ip);
        }
        let last = release(&mut self.per_peer, &peer);
        self.metrics.disconnected(peer, &state.meter, last);
        let (circuits, lost) = self.ledger.disconnected(peer, connection, Instant::now());
        if lost {
            self.metrics.reservation_closed();
            self.report(Event::ReservationLost { peer });
        }
        for circuit in circuits {
            self.on_ended(circuit, Ended::Broken);
        }
    }

    fn on_ended(&mut self, circuit: Circuit, how: Ended) {
        let Circuit { src, dst, .. } = circuit;
        match circuit.opened {
            Some(opened) => {
                self.metrics.circuit_closed(opened.elapsed());
                self.report(Event::CircuitEnded { src, dst, how });
            }
            None => {
                let status = Status::ConnectionFailed;
                self.metrics.circuit_refused(status, "connection failed");
                self.report(Event::CircuitFailed { src, dst });
            }
        }
        self.let_go(circuit.src_connection);
        self.let_go(circuit.dst_connection);
    }

    /// A draining relay sends away whoever carries no circuit any more.
    fn let_go(&mut self, connection: ConnectionId) {
        if self.ledger.is_draining() && !self.ledger.carries(connection) {
            self.send_away(connection);
        }
    }

    fn on_asked(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        stream: libp2p::swarm::Stream,
        request: Request,
    ) {
        let now = Instant::now();
        self.expire(now);
        match request {
            Request::Reserve => {
                let ip = self.connections.get(&connection).and_then(|state| state.ip);
                match self.ledger.reserve(peer, connection, ip, now) {
                    Ok(given) => {
                        self.metrics.reserved(given.renewal);
                        let addresses = self.advertised();
                        let local = Protocol::P2p(self.local);
                        let told = addresses.into_iter().map(|told| told.with(local.clone()));
                        let answer = In::Reserved {
                            stream,
                            lifetime: given.until - now,
                            addresses: told.collect(),
                            limit: self.limit(),
                        };
                        self.tell(connection, answer);
                        self.report(Event::Reserved {
                            peer,
                            renewal: given.renewal,
                        });
                    }
                    Err(why) => {
                        let status = why.status();
                        self.metrics.reservation_refused(status, why.reason());
                        self.tell(connection, In::Refused { stream, status });
                        self.report(Event::ReservationRefused { peer, why });
                    }
                }
            }
            Request::Connect { to } => match self.ledger.connect(peer, connection, to, now) {
                Ok((id, circuit)) => {
                    let meter = |connection| {
                        let state = self.connections.get(&connection);
                        state.map(|state: &Connection| state.meter.clone())
                    };
                    let opening = Opening {
                        id,
                        src: peer,
                        stream,
                        limit: self.limit(),
                        account: Account {
                            src: meter(connection).unwrap_or_default(),
                            dst: meter(circuit.dst_connection).unwrap_or_default(),
                            all: self.metrics.transferred.clone(),
                        },
                    };
                    self.tell(circuit.dst_connection, In::Open(Box::new(opening)));
                }
                Err(why) => {
                    let status = why.status();
                    self.metrics.circuit_refused(status, why.reason());
                    self.tell(connection, In::Refused { stream, status });
                    self.report(Event::CircuitRefused {
                        src: peer,
                        dst: to,
                        why,
                    });
                }
            },
        }
    }

    fn on_out(&mut self, peer: PeerId, connection: ConnectionId, event: Out) {
        match event {
            Out::Asked { stream, request } => self.on_asked(peer, connection, stream, request),
            Out::Opened { id } => {
                if let Some(circuit) = self.ledger.opened(id, Instant::now()) {
                    self.metrics.circuit_opened();
                    self.report(Event::CircuitOpened {
                        src: circuit.src,
                        dst: circuit.dst,
                    });
                }
            }
            Out::Failed { id } => {
                if let Some(circuit) = self.ledger.ended(id) {
                    self.on_ended(circuit, Ended::Broken);
                }
            }
            Out::Ended { id, how } => {
                if let Some(circuit) = self.ledger.ended(id) {
                    self.on_ended(circuit, how);
                }
            }
        }
    }

    /// Sleeps until the next place expires, and forgets those that have.
    fn poll_expiry(&mut self, cx: &mut Context<'_>) {
        while let Some(at) = self.ledger.next_expiry() {
            let sleep = match &mut self.expiry {
                Some((until, sleep)) if *until == at => sleep,
                expiry => {
                    let sleep = Box::pin(sleep_until(at.into()));
                    &mut expiry.insert((at, sleep)).1
                }
            };
            if sleep.as_mut().poll(cx).is_pending() {
                return;
            }
            self.expiry = None;
            // The timer may run ahead of the clock by less than its resolution.
            self.expire(Instant::now().max(at));
        }
        self.expiry = None;
    }

    fn expire(&mut self, now: Instant) {
        for peer in self.ledger.expire(now) {
            self.metrics.reservation_closed();
            self.report(Event::ReservationLost { peer });
        }
    }
}

/// Counts one down; whether it was the last.
fn release<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) -> bool {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => {
            *count -= 1;
            false
        }
        _ => {
            counts.remove(key);
            true
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_pending_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if self.ledger.is_draining() {
            return Err(ConnectionDenied::new(Denied::Draining));
        }
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.enter(peer, connection, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.enter(peer, connection, remote)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            }) => self.on_established(peer_id, connection_id, endpoint.get_remote_address()),
            FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id,
                ..
            }) => self.on_closed(peer_id, connection_id),
            // Another behaviour refused after this one let it in.
            FromSwarm::ListenFailure(ListenFailure {
                connection_id,
                peer_id: Some(peer),
                ..
            })
            | FromSwarm::DialFailure(DialFailure {
                connection_id,
                peer_id: Some(peer),
                ..
            }) => {
                if let Some(meter) = self.entering.remove(&connection_id) {
                    let last = !self.per_peer.contains_key(&peer);
                    self.metrics.disconnected(peer, &meter, last);
                }
            }
            FromSwarm::ListenerClosed(ListenerClosed { listener_id, .. }) => {
                self.listeners.remove(&listener_id);
            }
            FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr }) => {
                self.listeners.insert(listener_id, Transport::of(addr));
                if !self.bound.contains(addr) {
                    self.bound.push(addr.clone());
                }
                self.confirm(addr.clone());
            }
            FromSwarm::ExpiredListenAddr(ExpiredListenAddr { addr, .. }) => {
                self.bound.retain(|bound| bound != addr);
                // What is public the node has told, and withdraws.
                if addr::is_private(addr) && self.external.contains(addr) {
                    self.external.retain(|known| known != addr);
                    self.pending_events
                        .push_back(ToSwarm::ExternalAddrExpired(addr.clone()));
                }
            }
            FromSwarm::ExternalAddrConfirmed(ExternalAddrConfirmed { addr })
                if !self.external.contains(addr) =>
            {
                self.external.push(addr.clone());
            }
            FromSwarm::ExternalAddrExpired(ExternalAddrExpired { addr }) => {
                self.external.retain(|known| known != addr);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.on_out(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        self.poll_expiry(cx);
        match self.pending_events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn a_private_address_that_is_lost_is_told_no_more() {
        let metrics = Metrics::register(&mut Registry::default());
        let mut relay = Behaviour::new(PeerId::random(), Limits::default(), metrics);
        relay.advertise_private();
        let listener_id = ListenerId::next();
        let [old, new] = ["10.0.0.1", "10.0.0.2"]
            .map(|ip| format!("/ip4/{ip}/tcp/3610").parse::<Multiaddr>().unwrap());
        for addr in [&old, &new] {
            relay.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr {
                listener_id,
                addr,
            }));
        }
        assert_eq!(relay.advertised(), [old.clone(), new.clone()]);

        relay.on_swarm_event(FromSwarm::ExpiredListenAddr(ExpiredListenAddr {
            listener_id,
            addr: &old,
        }));

        assert_eq!(relay.advertised(), [new]);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut expired = Vec::new();
        while let Poll::Ready(event) = relay.poll(&mut cx) {
            if let ToSwarm::ExternalAddrExpired(addr) = event {
                expired.push(addr);
            }
        }
        assert_eq!(expired, [old]);
    }
}
