//! The shell of the rules: connections in, streams out.
//!
//! - **Owner:** the rules in [`core`](super::core) decide; this chooses connections and carries
//!   commands.
//! - **Wake-ups:** swarm events, changes of the context, the rules through their waker, one timer.
//! - **Bounds:** at most one claim and one release per peer are pending; news are bounded by the rules.
//! - **Disconnect:** a claim on the connection is free again in the same call, and goes to another
//!   connection if there is one.
//! - **Cancellation:** dropping the behaviour ends every wait with [`Reason::NodeGone`].

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures::future::BoxFuture;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour,
        NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished,
    },
};
use pluto_p2p::{
    P2PContext,
    exchange::choose,
    p2p_context::{Failure, FailureCause, Path, View},
};
use tokio::{sync::watch, time::Sleep};

use super::{
    core::{Absent, Action, News},
    handler::{FromBehaviour, Handler, Opening, Rejected, Rejection},
    reason::Reason,
    shared::{Claim, Shared},
    version::Who,
};

/// What the swarm's owner is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Something happened in the ceremony.
    News(News),
    /// A stream of an operator came to nothing. It will open another.
    Rejected {
        /// The peer.
        peer: PeerId,
        /// The connection.
        connection: ConnectionId,
        /// Why.
        cause: Rejection,
    },
}

/// See the module's documentation.
pub struct Behaviour {
    context: P2PContext,
    shared: Arc<Shared>,
    operators: Vec<PeerId>,
    /// Connections with a handler of ours, of operators.
    connections: Vec<(PeerId, ConnectionId)>,
    changes: BoxFuture<'static, Option<watch::Receiver<Arc<View>>>>,
    seen: bool,
    timer: Option<Pin<Box<Sleep>>>,
    rejected: Option<Event>,
}

impl Behaviour {
    pub(crate) fn new(context: P2PContext, shared: Arc<Shared>, operators: Vec<PeerId>) -> Self {
        Self {
            changes: Box::pin(changed(context.changes())),
            context,
            shared,
            operators,
            connections: Vec::new(),
            seen: false,
            timer: None,
            rejected: None,
        }
    }

    fn handler(&self, peer: PeerId) -> Handler {
        Handler::new(self.shared.clone(), peer, self.operators.contains(&peer))
    }
}

impl Drop for Behaviour {
    fn drop(&mut self) {
        self.shared.with(|core| {
            let step = core.step();
            core.end(Reason::NodeGone { step });
        });
    }
}

async fn changed(mut view: watch::Receiver<Arc<View>>) -> Option<watch::Receiver<Arc<View>>> {
    view.changed().await.is_ok().then_some(view)
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            }) if self.operators.contains(&peer_id) => {
                self.connections.push((peer_id, connection_id));
                let relayed = endpoint.is_relayed();
                self.shared
                    .with(|core| core.on_connected(peer_id, connection_id, relayed));
            }
            FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id,
                ..
            }) => {
                self.connections.retain(|(_, open)| *open != connection_id);
                let now = Instant::now();
                self.shared
                    .with(|core| core.on_closed(peer_id, connection_id, now));
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        Rejected(cause): THandlerOutEvent<Self>,
    ) {
        tracing::debug!(%peer, %connection, %cause, "sync stream of a peer ended early");
        // One at a time: this must not grow by what a peer does.
        self.rejected = Some(Event::Rejected {
            peer,
            connection,
            cause,
        });
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        self.shared.waker.register(cx.waker());
        loop {
            // 1. What the context has learned.
            let mut news = !std::mem::replace(&mut self.seen, true);
            while let Poll::Ready(view) = self.changes.as_mut().poll(cx) {
                news = true;
                self.changes = match view {
                    Some(view) => Box::pin(changed(view)),
                    None => Box::pin(std::future::pending()),
                };
            }
            if news {
                self.learn();
            }
            // 2. What is to be done.
            while let Some(action) = self.shared.with(|core| core.next_action()) {
                if let Some(event) = self.act(action) {
                    return Poll::Ready(event);
                }
            }
            if let Some(event) = self.rejected.take() {
                return Poll::Ready(ToSwarm::GenerateEvent(event));
            }
            // 3. What is due.
            let Some(at) = self.shared.set_alarm() else {
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
            self.shared.with(|core| core.on_time(Instant::now()));
        }
    }
}

impl Behaviour {
    /// Who peers are, how dials went, whether a stream should move.
    fn learn(&mut self) {
        let view = self.context.view();
        for peer in &self.operators {
            let Some(state) = view.peer(peer) else {
                continue;
            };
            let who = state.identified.as_deref().map(Who::from_identify);
            self.shared.with(|core| {
                if let Some(who) = who {
                    core.on_identified(*peer, who);
                }
                if !state.is_connected() {
                    for failure in state.failures.iter().filter(|it| !is_of_relay(it)) {
                        core.on_dial_failed(*peer, failure.at, &failure.cause, Instant::now());
                    }
                    let absent = state.failures.iter();
                    let absent = absent.filter_map(|failure| absent_at(&view, failure));
                    core.on_absent(*peer, absent, Instant::now());
                }
                if let Some(claimed) = core.claimed(*peer)
                    && is_better_elsewhere(&state.paths, claimed)
                {
                    core.on_better_path(*peer);
                }
            });
        }
    }

    fn act(&mut self, action: Action) -> Option<ToSwarm<Event, FromBehaviour>> {
        match action {
            Action::News(news) => Some(ToSwarm::GenerateEvent(Event::News(news))),
            Action::Want(peer) => {
                self.context.want(peer);
                None
            }
            Action::Claim { peer, avoid } => {
                let connection = self.path(peer, avoid);
                let claim = Claim::take(&self.shared, peer, connection)?;
                Some(ToSwarm::NotifyHandler {
                    peer_id: peer,
                    handler: NotifyHandler::One(claim.connection()),
                    event: FromBehaviour::Open(Opening(claim)),
                })
            }
            Action::Release {
                peer,
                connection,
                ticket,
            } => Some(ToSwarm::NotifyHandler {
                peer_id: peer,
                handler: NotifyHandler::One(connection),
                event: FromBehaviour::Release(ticket),
            }),
        }
    }

    /// The best connection that has a handler of ours; not `avoid` if there is another.
    fn path(&self, peer: PeerId, avoid: Option<ConnectionId>) -> Option<ConnectionId> {
        let mut ours: Vec<_> = self
            .connections
            .iter()
            .filter(|(of, _)| *of == peer)
            .map(|(_, connection)| *connection)
            .collect();
        if ours.len() > 1 {
            ours.retain(|connection| Some(*connection) != avoid);
        }
        let view = self.context.view();
        let paths: Vec<_> = view
            .peer(&peer)
            .into_iter()
            .flat_map(|state| &state.paths)
            .filter(|path| ours.contains(&path.connection))
            .cloned()
            .collect();
        // In a swarm that feeds no context any connection is as good as another.
        choose(&paths, None).or(ours.first().copied())
    }
}

/// Whether it says something of a relay on the way, and nothing of the peer.
fn is_of_relay(failure: &Failure) -> bool {
    let mut parts = failure.address.iter().flatten();
    parts.any(|part| part == Protocol::P2pCircuit)
        && matches!(
            failure.cause,
            FailureCause::Refused
                | FailureCause::TimedOut
                | FailureCause::Unreachable
                | FailureCause::Handshake
        )
}

/// Whether a relay that is connected says that it does not have the peer.
fn absent_at(view: &View, failure: &Failure) -> Option<Absent> {
    let FailureCause::NoReservation { relay } = failure.cause else {
        return None;
    };
    let paths = view.peer(&relay)?.paths.iter();
    Some(Absent {
        at: failure.at,
        since: paths.map(|path| path.since).min()?,
        cause: failure.cause.clone(),
    })
}

/// Whether a stream should leave its connection for another: it is being drained, or it is relayed and
/// there is a direct one that is proven.
fn is_better_elsewhere(paths: &[Arc<Path>], claimed: ConnectionId) -> bool {
    let path = |connection| paths.iter().find(|path| path.connection == connection);
    let best = choose(paths, Some(claimed)).filter(|best| *best != claimed);
    let (Some(now), Some(best)) = (path(claimed), best.and_then(path)) else {
        return false;
    };
    (now.draining && !best.draining) || (now.is_relayed() && !best.is_relayed())
}
