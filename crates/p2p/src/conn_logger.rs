//! Keeps [`P2PContext`] true, and keeps or drains connections.
//!
//! Design §3. It is the first field of `PlutoBehaviour`: the derive delegates in field order, so
//! every later field sees a context that already holds what it is being told.
//!
//! - **Owner:** the only writer of paths. A connection counts once it is established, not in
//!   `handle_established_*`, where a later gate may still refuse it.
//! - **Keep-alive:** one flag per connection, held by its handler. To drain is to clear it: the
//!   swarm closes the connection once no stream has been active for the idle time. Nothing is cut.
//! - **One decider per pair:** only the side with the smaller peer id retires surplus connections,
//!   towards a Charon always we. It keeps the best proven direct one and drains the rest.
//! - **Wake-ups:** swarm events and changes of the context.
//! - **Bounds:** at most one command per connection is pending.
//! - **End:** dropping it marks the context as gone, which ends every wait on it, unless the node that
//!   it was made for could not be built.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use libp2p::{
    Multiaddr, PeerId, TransportError,
    core::{ConnectedPoint, Endpoint, transport::PortUse, upgrade::DeniedUpgrade},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent,
        ConnectionId, DialError, DialFailure, FromSwarm, NetworkBehaviour, NotifyHandler,
        SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished, handler::ConnectionEvent,
    },
};

use crate::{
    addr::{self, Transport},
    dialer::planner::STABLE,
    exchange::choose,
    p2p_context::{Changes, Failure, FailureCause, Hold, P2PContext, Path, PeerView, View, Writer},
    relay::{self, Refusal},
};

/// See the module's documentation.
pub struct Behaviour {
    context: P2PContext,
    writer: Writer,
    changes: Changes<Arc<View>>,
    /// The flag that each connection's handler has now.
    kept: BTreeMap<(PeerId, ConnectionId), bool>,
    pending_events: std::collections::VecDeque<(PeerId, ConnectionId, bool)>,
    hold: Hold,
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Behaviour")
            .field("kept", &self.kept)
            .finish_non_exhaustive()
    }
}

impl Behaviour {
    /// Feeds this context.
    pub fn new(context: P2PContext) -> Self {
        let hold = Hold::running(&context);
        Self::held(context, hold)
    }

    /// Feeds the context of a node that is being built.
    pub(crate) fn held(context: P2PContext, hold: Hold) -> Self {
        Self {
            writer: context.writer(),
            changes: Changes::new(context.changes()),
            context,
            kept: BTreeMap::new(),
            pending_events: std::collections::VecDeque::new(),
            hold,
        }
    }

    /// The node is built: from now on its end is told.
    pub(crate) fn runs(&mut self) {
        self.hold.runs();
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.context.is_wanted(&peer)))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.context.is_wanted(&peer)))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            }) => {
                let path = path_of(connection_id, endpoint);
                tracing::debug!(peer = %peer_id, connection = %connection_id, path = %path.address, "connected");
                self.kept
                    .insert((peer_id, connection_id), self.context.is_wanted(&peer_id));
                self.writer.connected(peer_id, path);
                self.decide(peer_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id,
                endpoint,
                cause,
                ..
            }) => {
                let path = endpoint.get_remote_address();
                tracing::debug!(peer = %peer_id, connection = %connection_id, %path, cause = ?cause, "disconnected");
                self.kept.remove(&(peer_id, connection_id));
                let cause = cause.map(|_| self.lost(peer_id, connection_id));
                self.writer.disconnected(peer_id, connection_id, cause);
                self.decide(peer_id);
            }
            FromSwarm::DialFailure(DialFailure {
                peer_id: Some(peer),
                error,
                ..
            }) => {
                for failure in failures_of(error) {
                    self.writer.failed(peer, failure);
                }
            }
            _ => {}
        }
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
        // A peer that was identified or a path that was proven may change what is surplus.
        while self.changes.poll_changed(cx).is_ready() {
            let peers: Vec<PeerId> = self.kept.keys().map(|(peer, _)| *peer).collect();
            for peer in peers {
                self.decide(peer);
            }
        }
        match self.pending_events.pop_front() {
            Some((peer_id, connection, keep)) => Poll::Ready(ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::One(connection),
                event: keep,
            }),
            None => Poll::Pending,
        }
    }
}

impl Behaviour {
    /// What the end of a connection says that nobody here has asked for.
    fn lost(&self, peer: PeerId, connection: ConnectionId) -> FailureCause {
        let view = self.context.view();
        let mut paths = view.peer(&peer).into_iter().flat_map(|peer| &peer.paths);
        match paths.find(|path| path.connection == connection) {
            // The dialler's handshake is over before the other side's gate decides.
            Some(path) if path.rtt().is_none() && path.since.elapsed() < STABLE => {
                FailureCause::Handshake
            }
            _ => FailureCause::Lost,
        }
    }

    fn decide(&mut self, peer: PeerId) {
        let (view, local) = (self.context.view(), self.context.local_peer_id());
        let (Some(state), Some(local)) = (view.peer(&peer), local) else {
            return;
        };
        let survivor = match state.known {
            true => survivor(local, state),
            // A reservation hangs on one connection, so that those to relays all stay.
            false => None,
        };
        for path in &state.paths {
            // One that has not proven itself may be the better one: it is decided on when it has, or
            // ping closes it. Draining it now would close it in the moment in which it is chosen.
            let undecided = !path.is_relayed() && path.rtt().is_none();
            let survives = survivor.is_none_or(|survivor| survivor == path.connection);
            // A relay that is no longer one is let go.
            let keep = state.is_wanted() && (survives || undecided);
            let Some(kept) = self.kept.get_mut(&(peer, path.connection)) else {
                continue;
            };
            if *kept != keep {
                *kept = keep;
                tracing::debug!(%peer, connection = %path.connection, path = %path.address, keep, "surplus connections decided");
                self.writer.draining(peer, path.connection, !keep);
                self.pending_events.push_back((peer, path.connection, keep));
            }
        }
    }
}

/// The one connection that stays, if it is ours to decide and a direct one is proven.
fn survivor(local: PeerId, peer: &PeerView) -> Option<ConnectionId> {
    if peer.paths.len() < 2 || peer.identified.is_none() {
        return None;
    }
    // Raw bytes, as Charon compares them (p2p spec, section 1.3).
    let decides = peer.is_charon() || local.to_bytes() < peer.id.to_bytes();
    if !decides {
        return None;
    }
    let proven: Vec<_> = peer
        .paths
        .iter()
        .filter(|path| !path.is_relayed() && path.rtt().is_some())
        .cloned()
        .collect();
    let kept = proven
        .iter()
        .find(|path| !path.draining)
        .map(|path| path.connection);
    choose(&proven, kept)
}

fn path_of(connection: ConnectionId, endpoint: &ConnectedPoint) -> Path {
    let (direction, remote) = match endpoint {
        ConnectedPoint::Dialer { address, .. } => (Endpoint::Dialer, address),
        ConnectedPoint::Listener { send_back_addr, .. } => (Endpoint::Listener, send_back_addr),
    };
    let told = addr::of_endpoint(endpoint);
    Path::new(
        connection,
        direction,
        addr::relay_of(told),
        Transport::of(told),
        remote.clone(),
    )
}

/// What a failed dial says, per address.
pub(crate) fn failures_of(error: &DialError) -> Vec<Failure> {
    let at = Instant::now();
    let one = |cause| {
        vec![Failure {
            address: None,
            at,
            cause,
        }]
    };
    match error {
        // Not failures of the network: somebody else is at it, or the node is ending.
        DialError::DialPeerConditionFalse(_) | DialError::Aborted => Vec::new(),
        // Nobody dials without an address, and libp2p leaves out those that the node listens on.
        DialError::NoAddresses => one(FailureCause::Itself),
        DialError::LocalPeerId { address } => vec![Failure {
            address: Some(address.clone()),
            at,
            cause: FailureCause::Itself,
        }],
        DialError::Denied { .. } => one(FailureCause::Denied),
        DialError::WrongPeerId { obtained, address } => vec![Failure {
            address: Some(address.clone()),
            at,
            cause: FailureCause::WrongPeer { found: *obtained },
        }],
        DialError::Transport(errors) => errors
            .iter()
            .map(|(address, error)| Failure {
                address: Some(address.clone()),
                at,
                cause: cause_of(error),
            })
            .collect(),
    }
}

/// What a relay says, or its absence, where that is the cause.
fn of_relay(error: &relay::Error) -> Option<FailureCause> {
    Some(match error {
        relay::Error::Connect {
            relay,
            source: relay::hop::Error::Refused(refusal),
            ..
        } => match refusal {
            Refusal::NoReservation => FailureCause::NoReservation { relay: *relay },
            refusal => FailureCause::RelayRefused {
                relay: *relay,
                refusal: *refusal,
            },
        },
        relay::Error::NotConnected { relay } | relay::Error::Lost { relay } => {
            FailureCause::RelayNotConnected { relay: *relay }
        }
        _ => return None,
    })
}

fn cause_of(error: &TransportError<io::Error>) -> FailureCause {
    match error {
        TransportError::MultiaddrNotSupported(_) => FailureCause::Unsupported,
        TransportError::Other(error) => {
            if let Some(cause) = relay::error_of(error).and_then(of_relay) {
                return cause;
            }
            let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
            let mut kind = error.kind();
            // The transports wrap the cause several times; the innermost kind is the one to show.
            while let Some(inner) = source {
                if let Some(io) = inner.downcast_ref::<io::Error>()
                    && io.kind() != io::ErrorKind::Other
                {
                    kind = io.kind();
                }
                source = match inner.downcast_ref::<io::Error>() {
                    Some(io) => io
                        .get_ref()
                        .map(|inner| inner as &(dyn std::error::Error + 'static)),
                    None => inner.source(),
                };
            }
            match kind {
                io::ErrorKind::ConnectionRefused => FailureCause::Refused,
                io::ErrorKind::TimedOut => FailureCause::TimedOut,
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                    FailureCause::Unreachable
                }
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::BrokenPipe => FailureCause::Handshake,
                kind => FailureCause::Io { kind },
            }
        }
    }
}

/// Holds the keep-alive flag of one connection.
#[derive(Debug)]
pub struct Handler {
    keep: bool,
}

impl Handler {
    fn new(keep: bool) -> Self {
        Self { keep }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = bool;
    type ToBehaviour = Infallible;
    type InboundProtocol = DeniedUpgrade;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<DeniedUpgrade, ()> {
        SubstreamProtocol::new(DeniedUpgrade, ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.keep
    }

    fn on_behaviour_event(&mut self, keep: bool) {
        // The connection's task is polled after each command, and asks again.
        self.keep = keep;
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<DeniedUpgrade, (), Infallible>> {
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        _: ConnectionEvent<'_, DeniedUpgrade, DeniedUpgrade, (), ()>,
    ) {
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use libp2p::StreamProtocol;

    use super::*;
    use crate::p2p_context::Identified;

    #[test]
    fn the_smaller_id_decides_and_towards_a_charon_whoever_is_none() {
        let mut pair = [PeerId::random(), PeerId::random()];
        pair.sort_by_key(|peer| peer.to_bytes());
        let [small, large] = pair;
        let charon = "charon/v1.10.3";
        for (local, peer, agent, decides) in [
            (small, large, "pluto/v0.1.0", true),
            (large, small, "pluto/v0.1.0", false),
            (small, large, charon, true),
            (large, small, charon, true),
        ] {
            let context = P2PContext::new([peer]);
            let writer = context.writer();
            for (n, ms) in [(1, 5), (2, 500)] {
                let path = Path::new(
                    ConnectionId::new_unchecked(n),
                    Endpoint::Dialer,
                    None,
                    Transport::Tcp,
                    Multiaddr::empty(),
                );
                path.set_rtt(Duration::from_millis(ms));
                writer.connected(peer, path);
            }
            let of = |context: &P2PContext| survivor(local, context.view().peer(&peer).unwrap());
            assert_eq!(of(&context), None, "who it is, is not known yet");
            let who = Identified {
                agent: agent.to_owned(),
                protocols: Vec::<StreamProtocol>::new(),
            };
            writer.identified(peer, Vec::new(), who);
            let survivor = of(&context);
            let expected = decides.then_some(ConnectionId::new_unchecked(1));
            assert_eq!(survivor, expected, "{agent}");
        }
    }
}
