//! A behaviour that is enabled and disabled while the node runs and its connections stay open.
//!
//! libp2p's own `Toggle` is decided once, at construction. [`OptionalBehaviour`] can change at any
//! time: enabling installs a handler in every open connection and tells the new behaviour about
//! the connections and addresses that exist already; disabling takes the handlers out again. The
//! ids of the inner protocols come and go in `listen_protocol`, so identify pushes the change.
//!
//! Each enabling is an epoch. Handlers, commands to them, events from them and streams under
//! negotiation carry its number, and what belongs to an earlier epoch is dropped without a word.
//!
//! - **Owner:** [`OptionalBehaviour`] owns the inner behaviour and the record of what it has to be
//!   told; each connection's [`OptionalHandler`] owns the inner handler. [`Switch`] only asks.
//! - **Wake-ups:** the switch's channel, the inner behaviour, and [`OptionalBehaviour::enable`] and
//!   [`OptionalBehaviour::disable`] through the stored waker. A connection task polls its handler
//!   after each command, and there compares `listen_protocol` with what it last saw.
//! - **Bounds:** `SWITCH_QUEUE` waiting requests, further callers wait; one record and at most one
//!   undelivered command per open connection; one record per listener, listen address and confirmed
//!   external address; these are limited by the swarm's own connections and listeners. The last
//!   `CANDIDATES` candidates for external addresses.
//! - **Disconnect:** the connection's record and its undelivered command go in the same call. The
//!   inner behaviour hears of it when it was told of the connection.
//! - **Cancellation:** [`Switch::enable`] and [`Switch::disable`] may be dropped at any await. Before
//!   the request is queued nothing happens, afterwards it happens unobserved.
//!
//! # What a late handler does not see
//!
//! The swarm reports the protocols of the remote, and those of the other local behaviours, only when
//! they change, and `ProtocolsAdded` cannot be constructed outside libp2p-swarm. A handler that is
//! installed in an open connection therefore has no `RemoteProtocolsChange` for what the remote
//! announced before. Its behaviour has to learn that elsewhere (`P2PContext` keeps what identify
//! reported) or simply open a stream and see.
//!
//! A behaviour that is enabled late also has not been asked about pending connections
//! (`handle_pending_*`) that were established before or are being dialled.

use std::{
    collections::VecDeque,
    fmt, mem,
    task::{Context, Poll, Waker},
};

use either::Either;
use futures::future;
use libp2p::{
    Multiaddr, PeerId,
    core::{
        ConnectedPoint, Endpoint,
        transport::{ListenerId, PortUse},
        upgrade::DeniedUpgrade,
    },
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent,
        ConnectionId, ExpiredListenAddr, ExternalAddrExpired, FromSwarm, ListenerClosed,
        NetworkBehaviour, NewExternalAddrCandidate, NewListenAddr, NotifyHandler,
        SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::{ConnectionEstablished, ExternalAddrConfirmed, NewListener},
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
            ListenUpgradeError, SendWrapper,
        },
    },
};
use tokio::sync::{mpsc, oneshot};

use crate::p2p_context::NodeGone;

/// Requests that may wait for the behaviour to be polled.
///
/// Chosen freely: switching is rare, and a caller that finds the queue full waits.
const SWITCH_QUEUE: usize = 4;

/// Candidates for external addresses that are remembered; as many as DCUtR keeps.
const CANDIDATES: usize = 20;

/// Enables and disables an [`OptionalBehaviour`] from outside the swarm.
pub struct Switch<B> {
    requests: mpsc::Sender<Request<B>>,
}

impl<B> Clone for Switch<B> {
    fn clone(&self) -> Self {
        Self {
            requests: self.requests.clone(),
        }
    }
}

impl<B> fmt::Debug for Switch<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").finish_non_exhaustive()
    }
}

impl<B> Switch<B> {
    /// Enables `behaviour`, in place of the present one if there is one.
    ///
    /// Resolves when it is in place and each connection has been sent its handler: a stream that the
    /// remote opens from then on is served.
    pub async fn enable(&self, behaviour: B) -> Result<(), NodeGone> {
        self.request(Change::Enable(Box::new(behaviour))).await
    }

    /// Disables and drops the present behaviour, if there is one.
    ///
    /// Resolves when it is dropped and each connection has been told to drop its handler: a stream
    /// that the remote opens from then on is refused.
    pub async fn disable(&self) -> Result<(), NodeGone> {
        self.request(Change::Disable).await
    }

    async fn request(&self, change: Change<B>) -> Result<(), NodeGone> {
        let (done, happened) = oneshot::channel();
        self.requests
            .send(Request { change, done })
            .await
            .map_err(|_| NodeGone)?;
        happened.await.map_err(|_| NodeGone)
    }
}

/// A behaviour that may be absent; see the [module](self) documentation.
pub struct OptionalBehaviour<B: NetworkBehaviour> {
    inner: Option<B>,
    /// The epoch of `inner`, or of the last one there was.
    epoch: Epoch,

    /// Open connections, in the order in which they were established.
    connections: Vec<Connection>,
    listeners: Vec<ListenerId>,
    listen_addrs: Vec<(ListenerId, Multiaddr)>,
    external_addrs: Vec<Multiaddr>,
    /// What may be one, the last one heard of last. The swarm tells each once, and a hole can be
    /// punched only with them.
    candidates: Vec<Multiaddr>,

    /// At most one command per open connection: a change of mind replaces what was not delivered.
    pending_commands: VecDeque<(PeerId, ConnectionId, Command<THandler<B>>)>,

    requests: mpsc::Receiver<Request<B>>,
    /// Kept so that a switch can be had at any time, and so that `requests` never ends.
    switch: Switch<B>,
    /// Answered when `pending_commands` has been handed to the swarm.
    inflight: Option<oneshot::Sender<()>>,
    waker: Option<Waker>,
}

impl<B: NetworkBehaviour> OptionalBehaviour<B> {
    /// Starts without a behaviour.
    pub fn disabled() -> Self {
        let (requests, receiver) = mpsc::channel(SWITCH_QUEUE);
        Self {
            inner: None,
            epoch: Epoch(0),
            connections: Vec::new(),
            listeners: Vec::new(),
            listen_addrs: Vec::new(),
            external_addrs: Vec::new(),
            candidates: Vec::new(),
            pending_commands: VecDeque::new(),
            requests: receiver,
            switch: Switch { requests },
            inflight: None,
            waker: None,
        }
    }

    /// Starts with `behaviour`.
    pub fn enabled(behaviour: B) -> Self {
        let mut optional = Self::disabled();
        optional.enable(behaviour);
        optional
    }

    /// A handle that switches from outside the swarm.
    pub fn switch(&self) -> Switch<B> {
        self.switch.clone()
    }

    /// Whether there is a behaviour.
    pub fn is_enabled(&self) -> bool {
        self.inner.is_some()
    }

    /// The present behaviour.
    pub fn as_ref(&self) -> Option<&B> {
        self.inner.as_ref()
    }

    /// The present behaviour.
    ///
    /// As with any behaviour, a change made here is acted on when the swarm is polled next.
    pub fn as_mut(&mut self) -> Option<&mut B> {
        self.inner.as_mut()
    }

    /// Enables `behaviour`; one that was enabled before is disabled first and dropped.
    ///
    /// A connection that `behaviour` denies stays open without it: it has no handler there and hears
    /// nothing of that connection.
    pub fn enable(&mut self, behaviour: B) {
        self.on_enable(behaviour);
        self.wake();
    }

    /// Disables the present behaviour and returns it.
    ///
    /// It is told that its connections have closed and its addresses have expired, which they have as
    /// far as it is concerned. So its waiters fail, and it may be enabled again.
    pub fn disable(&mut self) -> Option<B> {
        let inner = self.on_disable()?;
        self.wake();
        Some(inner)
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for OptionalBehaviour<B> {
    type ConnectionHandler = OptionalHandler<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection_id: ConnectionId,
        local_addr: &Multiaddr,
        remote_addr: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        match &mut self.inner {
            Some(inner) => {
                inner.handle_pending_inbound_connection(connection_id, local_addr, remote_addr)
            }
            None => Ok(()),
        }
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection_id: ConnectionId,
        peer: PeerId,
        local_addr: &Multiaddr,
        remote_addr: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let Some(inner) = &mut self.inner else {
            return Ok(OptionalHandler { inner: None });
        };
        let handler = inner.handle_established_inbound_connection(
            connection_id,
            peer,
            local_addr,
            remote_addr,
        )?;
        Ok(OptionalHandler {
            inner: Some((self.epoch, handler)),
        })
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection_id: ConnectionId,
        maybe_peer: Option<PeerId>,
        addresses: &[Multiaddr],
        effective_role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        match &mut self.inner {
            Some(inner) => inner.handle_pending_outbound_connection(
                connection_id,
                maybe_peer,
                addresses,
                effective_role,
            ),
            None => Ok(Vec::new()),
        }
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection_id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role_override: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let Some(inner) = &mut self.inner else {
            return Ok(OptionalHandler { inner: None });
        };
        let handler = inner.handle_established_outbound_connection(
            connection_id,
            peer,
            addr,
            role_override,
            port_use,
        )?;
        Ok(OptionalHandler {
            inner: Some((self.epoch, handler)),
        })
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(event) => self.on_connection_established(event),
            FromSwarm::ConnectionClosed(event) => self.on_connection_closed(event),
            FromSwarm::AddressChange(event) => {
                let connection = self
                    .connections
                    .iter_mut()
                    .find(|c| c.id == event.connection_id);
                let Some(connection) = connection else {
                    return;
                };
                connection.endpoint = event.new.clone();
                if connection.known {
                    self.forward(FromSwarm::AddressChange(event));
                }
            }
            FromSwarm::NewListener(NewListener { listener_id }) => {
                self.listeners.push(listener_id);
                self.forward(event);
            }
            FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr }) => {
                self.listen_addrs.push((listener_id, addr.clone()));
                self.forward(event);
            }
            FromSwarm::ExpiredListenAddr(ExpiredListenAddr { listener_id, addr }) => {
                self.listen_addrs
                    .retain(|(id, known)| *id != listener_id || known != addr);
                self.forward(event);
            }
            FromSwarm::ListenerClosed(ListenerClosed { listener_id, .. }) => {
                self.listeners.retain(|id| *id != listener_id);
                self.listen_addrs.retain(|(id, _)| *id != listener_id);
                self.forward(event);
            }
            FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr }) => {
                self.candidates.retain(|known| known != addr);
                if self.candidates.len() == CANDIDATES {
                    self.candidates.remove(0);
                }
                self.candidates.push(addr.clone());
                self.forward(event);
            }
            FromSwarm::ExternalAddrConfirmed(ExternalAddrConfirmed { addr }) => {
                if !self.external_addrs.contains(addr) {
                    self.external_addrs.push(addr.clone());
                }
                self.forward(event);
            }
            FromSwarm::ExternalAddrExpired(ExternalAddrExpired { addr }) => {
                self.external_addrs.retain(|known| known != addr);
                self.forward(event);
            }
            event => self.forward(event),
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer_id: PeerId,
        connection_id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        if event.epoch != self.epoch {
            return;
        }
        if let Some(inner) = &mut self.inner {
            inner.on_connection_handler_event(peer_id, connection_id, event.event);
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }

        loop {
            // 1. Handlers come and go before the behaviour speaks to them.
            if let Some((peer_id, connection_id, command)) = self.pending_commands.pop_front() {
                self.on_command_delivered(connection_id, &command);
                return Poll::Ready(ToSwarm::NotifyHandler {
                    peer_id,
                    handler: NotifyHandler::One(connection_id),
                    event: command,
                });
            }
            // 2. The swarm has taken them all, or it would not have polled: the change has happened.
            if let Some(done) = self.inflight.take() {
                // The caller may have stopped waiting.
                let _ = done.send(());
            }
            // 3. The next change.
            let Poll::Ready(Some(Request { change, done })) = self.requests.poll_recv(cx) else {
                break;
            };
            match change {
                Change::Enable(behaviour) => self.on_enable(*behaviour),
                Change::Disable => drop(self.on_disable()),
            }
            self.inflight = Some(done);
        }

        // 4. The behaviour itself.
        let Some(inner) = &mut self.inner else {
            return Poll::Pending;
        };
        match inner.poll(cx) {
            Poll::Ready(action) => Poll::Ready(self.on_action(action)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<B: NetworkBehaviour> OptionalBehaviour<B> {
    fn on_enable(&mut self, behaviour: B) {
        drop(self.take_inner());

        self.epoch = self.epoch.next();
        let inner = self.inner.insert(behaviour);
        for &listener_id in &self.listeners {
            inner.on_swarm_event(FromSwarm::NewListener(NewListener { listener_id }));
        }
        for &(listener_id, ref addr) in &self.listen_addrs {
            inner.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr {
                listener_id,
                addr,
            }));
        }
        for addr in &self.candidates {
            let candidate = NewExternalAddrCandidate { addr };
            inner.on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
        }
        for addr in &self.external_addrs {
            inner.on_swarm_event(FromSwarm::ExternalAddrConfirmed(ExternalAddrConfirmed {
                addr,
            }));
        }

        self.pending_commands.clear();
        for index in 0..self.connections.len() {
            self.install(index);
        }
    }

    fn on_disable(&mut self) -> Option<B> {
        let inner = self.take_inner()?;

        self.pending_commands.clear();
        for index in 0..self.connections.len() {
            self.remove(index);
        }
        Some(inner)
    }

    fn on_connection_established(&mut self, event: ConnectionEstablished<'_>) {
        // The swarm asks for a handler and reports the connection in one go, so the handler it got is
        // the one that belongs to the present state.
        let handler_epoch = self.inner.is_some().then_some(self.epoch);
        let other_established = self.count_known(event.peer_id);
        self.connections.push(Connection {
            id: event.connection_id,
            peer: event.peer_id,
            endpoint: event.endpoint.clone(),
            known: handler_epoch.is_some(),
            handler_epoch,
        });
        self.forward(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            other_established,
            ..event
        }));
    }

    fn on_connection_closed(&mut self, event: ConnectionClosed<'_>) {
        let index = self
            .connections
            .iter()
            .position(|c| c.id == event.connection_id);
        let Some(index) = index else {
            return;
        };
        let connection = self.connections.remove(index);
        self.pending_commands
            .retain(|(_, id, _)| *id != event.connection_id);
        if connection.known {
            let remaining_established = self.count_known(event.peer_id);
            self.forward(FromSwarm::ConnectionClosed(ConnectionClosed {
                remaining_established,
                ..event
            }));
        }
    }

    fn on_command_delivered(&mut self, id: ConnectionId, command: &Command<THandler<B>>) {
        if let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) {
            match command.0 {
                Instruction::Install(epoch, _) => connection.handler_epoch = Some(epoch),
                Instruction::Remove(_) => connection.handler_epoch = None,
                Instruction::Event(..) => {}
            }
        }
    }

    fn on_action(
        &self,
        action: ToSwarm<B::ToSwarm, THandlerInEvent<B>>,
    ) -> ToSwarm<B::ToSwarm, Command<THandler<B>>> {
        let action = action.map_in(|event| Command(Instruction::Event(self.epoch, event)));
        match action {
            ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::Any,
                event,
            } => ToSwarm::NotifyHandler {
                peer_id,
                handler: self.any_known(peer_id),
                event,
            },
            action => action,
        }
    }

    /// "Any" connection to `peer` must not become one that has no inner handler.
    fn any_known(&self, peer: PeerId) -> NotifyHandler {
        let mut of_peer = self.connections.iter().filter(|c| c.peer == peer);
        if of_peer.clone().all(|c| c.known) {
            return NotifyHandler::Any;
        }
        of_peer
            .find(|c| c.known)
            .map_or(NotifyHandler::Any, |c| NotifyHandler::One(c.id))
    }

    /// Offers the connection at `index` to the inner behaviour, as the swarm would a new one.
    fn install(&mut self, index: usize) {
        let Some(inner) = &mut self.inner else {
            return;
        };
        let connection = &self.connections[index];
        let (id, peer) = (connection.id, connection.peer);
        let handler = match &connection.endpoint {
            ConnectedPoint::Listener {
                local_addr,
                send_back_addr,
            } => inner.handle_established_inbound_connection(id, peer, local_addr, send_back_addr),
            ConnectedPoint::Dialer {
                address,
                role_override,
                port_use,
            } => inner.handle_established_outbound_connection(
                id,
                peer,
                address,
                *role_override,
                *port_use,
            ),
        };
        let handler = match handler {
            Ok(handler) => handler,
            Err(reason) => {
                tracing::debug!(%peer, connection = %id, %reason, "connection stays without the enabled behaviour");
                self.remove(index);
                return;
            }
        };
        let command = Command(Instruction::Install(self.epoch, Box::new(handler)));
        self.pending_commands.push_back((peer, id, command));

        let other_established = self.count_known(peer);
        let connection = &mut self.connections[index];
        connection.known = true;
        if let Some(inner) = &mut self.inner {
            inner.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id: peer,
                connection_id: id,
                endpoint: &connection.endpoint,
                failed_addresses: &[],
                other_established,
            }));
        }
    }

    /// Takes the inner handler of an earlier epoch out of the connection at `index`.
    fn remove(&mut self, index: usize) {
        let connection = &self.connections[index];
        if let Some(epoch) = connection.handler_epoch {
            let command = Command(Instruction::Remove(epoch));
            self.pending_commands
                .push_back((connection.peer, connection.id, command));
        }
    }

    /// Takes the inner behaviour, and takes back what it was told, last things first.
    fn take_inner(&mut self) -> Option<B> {
        let mut inner = self.inner.take()?;
        for index in (0..self.connections.len()).rev() {
            if !mem::take(&mut self.connections[index].known) {
                continue;
            }
            let connection = &self.connections[index];
            inner.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id: connection.peer,
                connection_id: connection.id,
                endpoint: &connection.endpoint,
                cause: None,
                remaining_established: self.count_known(connection.peer),
            }));
        }
        for addr in self.external_addrs.iter().rev() {
            inner.on_swarm_event(FromSwarm::ExternalAddrExpired(ExternalAddrExpired { addr }));
        }
        for &(listener_id, ref addr) in self.listen_addrs.iter().rev() {
            inner.on_swarm_event(FromSwarm::ExpiredListenAddr(ExpiredListenAddr {
                listener_id,
                addr,
            }));
        }
        for &listener_id in self.listeners.iter().rev() {
            inner.on_swarm_event(FromSwarm::ListenerClosed(ListenerClosed {
                listener_id,
                reason: Ok(()),
            }));
        }
        Some(inner)
    }

    /// How many connections to `peer` the inner behaviour has been told of.
    fn count_known(&self, peer: PeerId) -> usize {
        self.connections
            .iter()
            .filter(|c| c.known && c.peer == peer)
            .count()
    }

    fn forward(&mut self, event: FromSwarm<'_>) {
        if let Some(inner) = &mut self.inner {
            inner.on_swarm_event(event);
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The connection's side of an [`OptionalBehaviour`].
pub struct OptionalHandler<H> {
    inner: Option<(Epoch, H)>,
}

impl<H: ConnectionHandler> ConnectionHandler for OptionalHandler<H> {
    type FromBehaviour = Command<H>;
    type ToBehaviour = Tagged<H::ToBehaviour>;
    type InboundProtocol = Either<SendWrapper<H::InboundProtocol>, SendWrapper<DeniedUpgrade>>;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = Either<(Epoch, H::InboundOpenInfo), ()>;
    type OutboundOpenInfo = (Epoch, H::OutboundOpenInfo);

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        match &self.inner {
            Some((epoch, inner)) => inner
                .listen_protocol()
                .map_upgrade(|upgrade| Either::Left(SendWrapper(upgrade)))
                .map_info(|info| Either::Left((*epoch, info))),
            None => {
                SubstreamProtocol::new(Either::Right(SendWrapper(DeniedUpgrade)), Either::Right(()))
            }
        }
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner
            .as_ref()
            .is_some_and(|(_, inner)| inner.connection_keep_alive())
    }

    fn on_behaviour_event(&mut self, command: Self::FromBehaviour) {
        match command.0 {
            Instruction::Install(epoch, handler) => self.inner = Some((epoch, *handler)),
            Instruction::Remove(epoch) => {
                if self.of_epoch(epoch).is_some() {
                    self.inner = None;
                }
            }
            Instruction::Event(epoch, event) => {
                if let Some(inner) = self.of_epoch(epoch) {
                    inner.on_behaviour_event(event);
                }
            }
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(event) => {
                self.on_fully_negotiated_inbound(event)
            }
            ConnectionEvent::ListenUpgradeError(event) => self.on_listen_upgrade_error(event),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol,
                info: (epoch, info),
            }) => self.forward(
                epoch,
                ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                    protocol,
                    info,
                }),
            ),
            ConnectionEvent::DialUpgradeError(DialUpgradeError {
                info: (epoch, info),
                error,
            }) => self.forward(
                epoch,
                ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }),
            ),
            ConnectionEvent::AddressChange(change) => {
                self.forward_present(ConnectionEvent::AddressChange(change))
            }
            ConnectionEvent::LocalProtocolsChange(change) => {
                self.forward_present(ConnectionEvent::LocalProtocolsChange(change))
            }
            ConnectionEvent::RemoteProtocolsChange(change) => {
                self.forward_present(ConnectionEvent::RemoteProtocolsChange(change))
            }
            // The enum is open. What we do not know we cannot translate.
            _ => tracing::debug!("connection event of an unknown kind was not passed on"),
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<
        ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>,
    > {
        // Without an inner handler only a command can change anything, and after one we are polled.
        let Some((epoch, inner)) = &mut self.inner else {
            return Poll::Pending;
        };
        let epoch = *epoch;
        inner.poll(cx).map(|event| {
            event
                .map_outbound_open_info(|info| (epoch, info))
                .map_custom(|event| Tagged { epoch, event })
        })
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        let Some((epoch, inner)) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let epoch = *epoch;
        inner
            .poll_close(cx)
            .map(|event| event.map(|event| Tagged { epoch, event }))
    }
}

/// An event of the inner handler, for the inner handler's type `H`.
type InnerEvent<'a, H> = ConnectionEvent<
    'a,
    <H as ConnectionHandler>::InboundProtocol,
    <H as ConnectionHandler>::OutboundProtocol,
    <H as ConnectionHandler>::InboundOpenInfo,
    <H as ConnectionHandler>::OutboundOpenInfo,
>;

impl<H: ConnectionHandler> OptionalHandler<H> {
    fn on_fully_negotiated_inbound(
        &mut self,
        event: FullyNegotiatedInbound<
            <Self as ConnectionHandler>::InboundProtocol,
            <Self as ConnectionHandler>::InboundOpenInfo,
        >,
    ) {
        let protocol = match event.protocol {
            future::Either::Left(protocol) => protocol,
            future::Either::Right(never) => match never {},
        };
        if let Either::Left((epoch, info)) = event.info {
            self.forward(
                epoch,
                ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info }),
            );
        }
    }

    fn on_listen_upgrade_error(
        &mut self,
        event: ListenUpgradeError<
            <Self as ConnectionHandler>::InboundOpenInfo,
            <Self as ConnectionHandler>::InboundProtocol,
        >,
    ) {
        let error = match event.error {
            Either::Left(error) => error,
            Either::Right(never) => match never {},
        };
        if let Either::Left((epoch, info)) = event.info {
            self.forward(
                epoch,
                ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error }),
            );
        }
    }

    /// Passes on an event about a stream, if it began in the present epoch.
    fn forward(&mut self, epoch: Epoch, event: InnerEvent<'_, H>) {
        if let Some(inner) = self.of_epoch(epoch) {
            inner.on_connection_event(event);
        }
    }

    /// Passes on an event about the connection.
    fn forward_present(&mut self, event: InnerEvent<'_, H>) {
        if let Some((_, inner)) = &mut self.inner {
            inner.on_connection_event(event);
        }
    }

    fn of_epoch(&mut self, epoch: Epoch) -> Option<&mut H> {
        match &mut self.inner {
            Some((present, inner)) if *present == epoch => Some(inner),
            _ => None,
        }
    }
}

/// What an [`OptionalBehaviour`] tells its handlers.
pub struct Command<H: ConnectionHandler>(Instruction<H>);

impl<H: ConnectionHandler> fmt::Debug for Command<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Instruction::Install(epoch, _) => f.debug_tuple("Install").field(epoch).finish(),
            Instruction::Remove(epoch) => f.debug_tuple("Remove").field(epoch).finish(),
            Instruction::Event(epoch, event) => {
                f.debug_tuple("Event").field(epoch).field(event).finish()
            }
        }
    }
}

/// An event of an inner handler, with the epoch of that handler.
#[derive(Debug)]
pub struct Tagged<E> {
    epoch: Epoch,
    event: E,
}

/// Counts how often a behaviour was enabled; tells what belongs to which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(u64);

impl Epoch {
    fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

enum Instruction<H: ConnectionHandler> {
    /// Boxed, so that the other commands do not take the room of a handler in every channel.
    Install(Epoch, Box<H>),
    Remove(Epoch),
    Event(Epoch, H::FromBehaviour),
}

/// What the swarm has told us about a connection, and who knows of it.
struct Connection {
    id: ConnectionId,
    peer: PeerId,
    endpoint: ConnectedPoint,
    /// Whether the present inner behaviour was told of it.
    known: bool,
    /// The epoch of the inner handler in it, once it has received what the swarm took from us.
    handler_epoch: Option<Epoch>,
}

struct Request<B> {
    change: Change<B>,
    done: oneshot::Sender<()>,
}

enum Change<B> {
    /// Boxed, because the channel reserves room for many requests at once.
    Enable(Box<B>),
    Disable,
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        future::{Future, Ready, ready},
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
        time::Duration,
    };

    use libp2p::{
        core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo},
        swarm::{AddressChange, Stream, StreamUpgradeError},
    };

    use super::*;

    #[test]
    fn late_behaviour_is_told_of_the_last_candidates_before_any_connection() {
        let mut optional = OptionalBehaviour::disabled();
        connect(&mut optional, 1, PeerId::random());
        // The first is heard of again.
        let heard = (0..=CANDIDATES).chain([1]);
        for port in heard {
            let candidate = NewExternalAddrCandidate {
                addr: &addr(u16::try_from(port).expect("is small")),
            };
            optional.on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
        }

        optional.enable(Recorder::default());

        let told = (2..=CANDIDATES).chain([1]);
        let told = told.map(|port| Seen::Candidate(addr(u16::try_from(port).expect("is small"))));
        let told: Vec<_> = told.chain([Seen::Established(1, 0)]).collect();
        assert_eq!(seen(&optional), told);
    }

    #[test]
    fn late_behaviour_is_told_of_addresses_and_connections_in_order() {
        let mut optional = OptionalBehaviour::disabled();
        let (a, b) = (PeerId::random(), PeerId::random());
        let listener_id = ListenerId::next();
        connect(&mut optional, 1, a);
        connect(&mut optional, 2, b);
        connect(&mut optional, 3, a);
        optional.on_swarm_event(FromSwarm::NewListener(NewListener { listener_id }));
        for addr in [&addr(1), &addr(2)] {
            optional.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr {
                listener_id,
                addr,
            }));
        }
        optional.on_swarm_event(FromSwarm::ExpiredListenAddr(ExpiredListenAddr {
            listener_id,
            addr: &addr(1),
        }));
        for addr in [&addr(3), &addr(3)] {
            optional.on_swarm_event(FromSwarm::ExternalAddrConfirmed(ExternalAddrConfirmed {
                addr,
            }));
        }

        optional.enable(Recorder::default());

        let told = [
            Seen::Listener,
            Seen::ListenAddr(addr(2)),
            Seen::ExternalAddr(addr(3)),
            Seen::Established(1, 0),
            Seen::Established(2, 0),
            Seen::Established(3, 1),
        ];
        assert_eq!(seen(&optional), told);
        assert_eq!(
            commands(&mut optional),
            ["1 Install", "2 Install", "3 Install"]
        );

        let disabled = optional.disable().expect("is enabled");

        let taken_back = [
            Seen::Closed(3, 1),
            Seen::Closed(2, 0),
            Seen::Closed(1, 0),
            Seen::ExternalAddrGone(addr(3)),
            Seen::ListenAddrGone(addr(2)),
            Seen::ListenerGone,
        ];
        assert_eq!(disabled.seen[told.len()..], taken_back);
        assert_eq!(
            commands(&mut optional),
            ["1 Remove", "2 Remove", "3 Remove"]
        );
    }

    #[test]
    fn connection_that_the_enabled_behaviour_denies_stays_without_it() {
        let peer = PeerId::random();
        let mut optional = OptionalBehaviour::enabled(Recorder::default());
        for id in [1, 2, 3] {
            connect(&mut optional, id, peer);
        }

        optional.enable(Recorder {
            denied: vec![1],
            notify: Some(peer),
            ..Recorder::default()
        });

        assert_eq!(
            seen(&optional),
            [Seen::Established(2, 0), Seen::Established(3, 1)]
        );
        // The denied one loses the handler of the behaviour before; "any" is not the denied one.
        assert_eq!(
            commands(&mut optional),
            ["1 Remove", "2 Install", "3 Install", "2 Event"]
        );

        change_address(&mut optional, 1, peer);
        close(&mut optional, 1, peer);
        change_address(&mut optional, 2, peer);
        close(&mut optional, 2, peer);

        assert_eq!(seen(&optional)[2..], [Seen::Address(2), Seen::Closed(2, 1)]);
    }

    #[test]
    fn any_connection_is_left_to_the_swarm_when_all_have_a_handler() {
        let peer = PeerId::random();
        let mut optional = OptionalBehaviour::enabled(Recorder::default());
        connect(&mut optional, 1, peer);
        optional.as_mut().expect("is enabled").notify = Some(peer);

        assert_eq!(commands(&mut optional), ["any Event"]);
    }

    #[test]
    fn handler_events_of_an_earlier_epoch_are_dropped() {
        let peer = PeerId::random();
        let mut optional = OptionalBehaviour::enabled(Recorder::default());
        connect(&mut optional, 1, peer);
        let first = optional.epoch;
        let event = |epoch, event| Tagged { epoch, event };

        optional.disable();
        optional.on_connection_handler_event(peer, id(1), event(first, 10));
        optional.enable(Recorder::default());
        optional.on_connection_handler_event(peer, id(1), event(first, 11));
        optional.on_connection_handler_event(peer, id(1), event(optional.epoch, 12));

        assert_eq!(seen(&optional), [Seen::Established(1, 0), Seen::Event(12)]);
    }

    #[test]
    fn change_of_mind_replaces_commands_that_were_not_delivered() {
        let peer = PeerId::random();
        let mut optional = OptionalBehaviour::disabled();
        connect(&mut optional, 1, peer);
        connect(&mut optional, 2, peer);

        optional.enable(Recorder::default());
        optional.disable();
        assert_eq!(commands(&mut optional), [""; 0]);

        optional.enable(Recorder::default());
        optional.enable(Recorder::default());
        assert_eq!(optional.pending_commands.len(), 2);
        assert_eq!(commands(&mut optional), ["1 Install", "2 Install"]);

        optional.disable();
        optional.enable(Recorder::default());
        close(&mut optional, 1, peer);
        assert_eq!(commands(&mut optional), ["2 Install"]);
    }

    #[test]
    fn direct_switch_wakes_the_task_that_polled_last() {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let mut cx = Context::from_waker(&waker);
        let mut optional = OptionalBehaviour::<Recorder>::disabled();

        optional.enable(Recorder::default());
        assert!(optional.poll(&mut cx).is_pending());
        assert_eq!(wakes.count(), 0);

        optional.disable();
        assert_eq!(wakes.count(), 1);
        assert!(optional.poll(&mut cx).is_pending());
        optional.enable(Recorder::default());
        assert_eq!(wakes.count(), 2);
    }

    #[tokio::test]
    async fn switch_resolves_when_the_commands_have_been_taken() {
        let peer = PeerId::random();
        let mut optional = OptionalBehaviour::disabled();
        connect(&mut optional, 1, peer);
        let switch = optional.switch();
        let mut cx = Context::from_waker(Waker::noop());

        let enable = switch.enable(Recorder::default());
        tokio::pin!(enable);
        assert!(enable.as_mut().poll(&mut cx).is_pending());
        assert!(optional.poll(&mut cx).is_ready());
        assert!(enable.as_mut().poll(&mut cx).is_pending());
        assert!(optional.poll(&mut cx).is_pending());

        assert_eq!(enable.as_mut().poll(&mut cx), Poll::Ready(Ok(())));
        assert!(optional.is_enabled());
    }

    #[tokio::test]
    async fn switch_says_that_the_node_is_gone() {
        let optional = OptionalBehaviour::<Recorder>::disabled();
        let switch = optional.switch();
        let mut waiting = Box::pin(switch.disable());
        assert!(
            waiting
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );

        drop(optional);

        let outcome = tokio::time::timeout(Duration::from_secs(5), async {
            (waiting.await, switch.enable(Recorder::default()).await)
        });
        assert_eq!(outcome.await, Ok((Err(NodeGone), Err(NodeGone))));
    }

    #[tokio::test]
    async fn queued_request_happens_though_its_caller_has_gone() {
        let mut optional = OptionalBehaviour::enabled(Recorder::default());
        let switch = optional.switch();
        let mut cx = Context::from_waker(Waker::noop());
        let mut dropped = Box::pin(switch.disable());
        assert!(dropped.as_mut().poll(&mut cx).is_pending());
        drop(dropped);

        assert!(optional.poll(&mut cx).is_pending());

        assert!(!optional.is_enabled());
    }

    #[test]
    fn streams_negotiated_for_an_earlier_epoch_are_dropped() {
        let mut handler = OptionalHandler { inner: None };
        let (first, second) = (Epoch(1), Epoch(2));

        install(&mut handler, first);
        stream_events(&mut handler, first);
        assert_eq!(handler.inner.as_ref().map(|i| i.1.streams), Some(4));

        install(&mut handler, second);
        stream_events(&mut handler, first);
        assert_eq!(handler.inner.as_ref().map(|i| i.1.streams), Some(0));
        stream_events(&mut handler, second);
        assert_eq!(handler.inner.as_ref().map(|i| i.1.streams), Some(4));

        handler.on_behaviour_event(Command(Instruction::Remove(second)));
        stream_events(&mut handler, second);
        assert!(handler.inner.is_none());
    }

    #[test]
    fn commands_of_an_earlier_epoch_do_not_reach_the_later_handler() {
        let mut handler = OptionalHandler { inner: None };
        let (first, second) = (Epoch(1), Epoch(2));
        install(&mut handler, second);

        handler.on_behaviour_event(Command(Instruction::Event(first, 1)));
        handler.on_behaviour_event(Command(Instruction::Remove(first)));
        handler.on_behaviour_event(Command(Instruction::Event(second, 2)));

        let inner = handler.inner.as_ref().map(|i| i.1.commands.clone());
        assert_eq!(inner, Some(vec![2]));
    }

    #[test]
    fn handler_offers_its_protocol_and_closes_only_while_it_is_installed() {
        let mut handler = OptionalHandler { inner: None };
        let mut cx = Context::from_waker(Waker::noop());
        let protocols = |handler: &OptionalHandler<RecordingHandler>| {
            handler.listen_protocol().upgrade().protocol_info().count()
        };

        assert_eq!(protocols(&handler), 0);
        assert!(matches!(handler.poll_close(&mut cx), Poll::Ready(None)));
        assert!(!handler.connection_keep_alive());

        install(&mut handler, Epoch(7));
        assert_eq!(protocols(&handler), 1);
        assert!(handler.connection_keep_alive());
        assert!(matches!(
            handler.poll_close(&mut cx),
            Poll::Ready(Some(Tagged {
                epoch: Epoch(7),
                event: 99
            }))
        ));
        assert!(matches!(handler.poll_close(&mut cx), Poll::Ready(None)));

        handler.on_behaviour_event(Command(Instruction::Remove(Epoch(7))));
        assert_eq!(protocols(&handler), 0);
    }

    type Optional = OptionalBehaviour<Recorder>;

    fn id(id: usize) -> ConnectionId {
        ConnectionId::new_unchecked(id)
    }

    fn addr(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}")
            .parse()
            .expect("valid address")
    }

    /// Odd ones are inbound, even ones outbound.
    fn endpoint(id: usize) -> ConnectedPoint {
        if id.is_multiple_of(2) {
            ConnectedPoint::Dialer {
                address: addr(1),
                role_override: Endpoint::Listener,
                port_use: PortUse::New,
            }
        } else {
            ConnectedPoint::Listener {
                local_addr: addr(1),
                send_back_addr: addr(2),
            }
        }
    }

    /// Does what the swarm does with a new connection.
    fn connect(optional: &mut Optional, connection: usize, peer: PeerId) {
        let endpoint = endpoint(connection);
        let handler = match &endpoint {
            ConnectedPoint::Listener {
                local_addr,
                send_back_addr,
            } => optional.handle_established_inbound_connection(
                id(connection),
                peer,
                local_addr,
                send_back_addr,
            ),
            ConnectedPoint::Dialer {
                address,
                role_override,
                port_use,
            } => optional.handle_established_outbound_connection(
                id(connection),
                peer,
                address,
                *role_override,
                *port_use,
            ),
        };
        assert_eq!(
            handler.expect("not denied").inner.is_some(),
            optional.is_enabled()
        );
        optional.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: peer,
            connection_id: id(connection),
            endpoint: &endpoint,
            failed_addresses: &[],
            other_established: 0,
        }));
    }

    fn close(optional: &mut Optional, connection: usize, peer: PeerId) {
        optional.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
            peer_id: peer,
            connection_id: id(connection),
            endpoint: &endpoint(connection),
            cause: None,
            remaining_established: 0,
        }));
    }

    fn change_address(optional: &mut Optional, connection: usize, peer: PeerId) {
        optional.on_swarm_event(FromSwarm::AddressChange(AddressChange {
            peer_id: peer,
            connection_id: id(connection),
            old: &endpoint(connection),
            new: &endpoint(connection),
        }));
    }

    fn seen(optional: &Optional) -> &[Seen] {
        &optional.as_ref().expect("is enabled").seen
    }

    /// What the swarm is asked to send to handlers, until nothing is left.
    fn commands(optional: &mut Optional) -> Vec<String> {
        let mut commands = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(action) = optional.poll(&mut cx) {
            let ToSwarm::NotifyHandler { handler, event, .. } = action else {
                panic!("unexpected {action:?}");
            };
            let connection = match handler {
                NotifyHandler::One(id) => id.to_string(),
                NotifyHandler::Any => "any".to_owned(),
            };
            let kind = match event.0 {
                Instruction::Install(..) => "Install",
                Instruction::Remove(..) => "Remove",
                Instruction::Event(..) => "Event",
            };
            commands.push(format!("{connection} {kind}"));
        }
        commands
    }

    fn install(handler: &mut OptionalHandler<RecordingHandler>, epoch: Epoch) {
        let command = Instruction::Install(epoch, Box::default());
        handler.on_behaviour_event(Command(command));
    }

    /// One of each kind of event about a stream, as if it had begun in `epoch`.
    fn stream_events(handler: &mut OptionalHandler<RecordingHandler>, epoch: Epoch) {
        handler.on_connection_event(ConnectionEvent::FullyNegotiatedInbound(
            FullyNegotiatedInbound {
                protocol: future::Either::Left(()),
                info: Either::Left((epoch, ())),
            },
        ));
        handler.on_connection_event(ConnectionEvent::ListenUpgradeError(ListenUpgradeError {
            info: Either::Left((epoch, ())),
            error: Either::Left(Refused),
        }));
        handler.on_connection_event(ConnectionEvent::FullyNegotiatedOutbound(
            FullyNegotiatedOutbound {
                protocol: (),
                info: (epoch, ()),
            },
        ));
        handler.on_connection_event(ConnectionEvent::DialUpgradeError(DialUpgradeError {
            info: (epoch, ()),
            error: StreamUpgradeError::Timeout,
        }));
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wakes {
        fn count(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[derive(Debug, PartialEq)]
    enum Seen {
        Listener,
        ListenerGone,
        ListenAddr(Multiaddr),
        ListenAddrGone(Multiaddr),
        Candidate(Multiaddr),
        ExternalAddr(Multiaddr),
        ExternalAddrGone(Multiaddr),
        /// Connection, and how many others the peer had.
        Established(usize, usize),
        Address(usize),
        /// Connection, and how many the peer still has.
        Closed(usize, usize),
        Event(u32),
    }

    /// Writes down what it is told; denies what it is set to deny.
    #[derive(Default)]
    struct Recorder {
        seen: Vec<Seen>,
        denied: Vec<usize>,
        /// Sends one command to any connection of this peer.
        notify: Option<PeerId>,
    }

    impl Recorder {
        fn handler(&self, connection: ConnectionId) -> Result<RecordingHandler, ConnectionDenied> {
            if self.denied.contains(&number(connection)) {
                return Err(ConnectionDenied::new(Refused));
            }
            Ok(RecordingHandler::default())
        }
    }

    fn number(connection: ConnectionId) -> usize {
        connection.to_string().parse().expect("ids are numbers")
    }

    #[derive(Debug, thiserror::Error)]
    #[error("refused")]
    struct Refused;

    impl NetworkBehaviour for Recorder {
        type ConnectionHandler = RecordingHandler;
        type ToSwarm = Infallible;

        fn handle_established_inbound_connection(
            &mut self,
            connection: ConnectionId,
            _: PeerId,
            local_addr: &Multiaddr,
            _: &Multiaddr,
        ) -> Result<RecordingHandler, ConnectionDenied> {
            assert_eq!(local_addr, &addr(1));
            self.handler(connection)
        }

        fn handle_established_outbound_connection(
            &mut self,
            connection: ConnectionId,
            _: PeerId,
            _: &Multiaddr,
            role_override: Endpoint,
            port_use: PortUse,
        ) -> Result<RecordingHandler, ConnectionDenied> {
            assert_eq!(
                (role_override, port_use),
                (Endpoint::Listener, PortUse::New)
            );
            self.handler(connection)
        }

        fn on_swarm_event(&mut self, event: FromSwarm) {
            self.seen.push(match event {
                FromSwarm::NewListener(_) => Seen::Listener,
                FromSwarm::ListenerClosed(_) => Seen::ListenerGone,
                FromSwarm::NewListenAddr(e) => Seen::ListenAddr(e.addr.clone()),
                FromSwarm::ExpiredListenAddr(e) => Seen::ListenAddrGone(e.addr.clone()),
                FromSwarm::NewExternalAddrCandidate(e) => Seen::Candidate(e.addr.clone()),
                FromSwarm::ExternalAddrConfirmed(e) => Seen::ExternalAddr(e.addr.clone()),
                FromSwarm::ExternalAddrExpired(e) => Seen::ExternalAddrGone(e.addr.clone()),
                FromSwarm::ConnectionEstablished(e) => {
                    Seen::Established(number(e.connection_id), e.other_established)
                }
                FromSwarm::AddressChange(e) => Seen::Address(number(e.connection_id)),
                FromSwarm::ConnectionClosed(e) => {
                    Seen::Closed(number(e.connection_id), e.remaining_established)
                }
                event => panic!("unexpected {event:?}"),
            });
        }

        fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: u32) {
            self.seen.push(Seen::Event(event));
        }

        fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, u32>> {
            match self.notify.take() {
                Some(peer_id) => Poll::Ready(ToSwarm::NotifyHandler {
                    peer_id,
                    handler: NotifyHandler::Any,
                    event: 0,
                }),
                None => Poll::Pending,
            }
        }
    }

    #[derive(Default)]
    struct RecordingHandler {
        streams: usize,
        commands: Vec<u32>,
        closed: bool,
    }

    impl ConnectionHandler for RecordingHandler {
        type FromBehaviour = u32;
        type ToBehaviour = u32;
        type InboundProtocol = Token;
        type OutboundProtocol = Token;
        type InboundOpenInfo = ();
        type OutboundOpenInfo = ();

        fn listen_protocol(&self) -> SubstreamProtocol<Token> {
            SubstreamProtocol::new(Token, ())
        }

        fn connection_keep_alive(&self) -> bool {
            true
        }

        fn on_behaviour_event(&mut self, command: u32) {
            self.commands.push(command);
        }

        fn on_connection_event(&mut self, event: ConnectionEvent<Token, Token>) {
            if event.is_inbound() || event.is_outbound() {
                self.streams += 1;
            }
        }

        fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Token, (), u32>> {
            Poll::Pending
        }

        fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Option<u32>> {
            let first = !mem::replace(&mut self.closed, true);
            Poll::Ready(first.then_some(99))
        }
    }

    /// A protocol whose streams need no bytes.
    struct Token;

    impl UpgradeInfo for Token {
        type Info = &'static str;
        type InfoIter = [&'static str; 1];

        fn protocol_info(&self) -> Self::InfoIter {
            ["/token"]
        }
    }

    impl InboundUpgrade<Stream> for Token {
        type Output = ();
        type Error = Refused;
        type Future = Ready<Result<(), Refused>>;

        fn upgrade_inbound(self, _: Stream, _: &'static str) -> Self::Future {
            ready(Ok(()))
        }
    }

    impl OutboundUpgrade<Stream> for Token {
        type Output = ();
        type Error = Refused;
        type Future = Ready<Result<(), Refused>>;

        fn upgrade_outbound(self, _: Stream, _: &'static str) -> Self::Future {
            ready(Ok(()))
        }
    }
}
