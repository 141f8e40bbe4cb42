//! A feature: the exchange that carries its messages, and a core with its rules, as one behaviour.

use std::task::{Context, Poll};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};

use super::{Behaviour, Rejected};

/// The rules of one feature.
pub trait Core: 'static {
    /// What the swarm's owner is told.
    type Event: From<Rejected> + Send + 'static;

    /// Hears what the swarm tells.
    fn on_swarm_event(&mut self, _: &FromSwarm<'_>) {}

    /// Whether the swarm's owner is told of this stream of a peer.
    fn tells(&self, _: &Rejected) -> bool {
        true
    }

    /// Makes progress. Registers the waker before it returns `Pending`.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Self::Event>;
}

/// An exchange and a core, as one behaviour that works in any swarm.
pub struct Feature<C> {
    exchange: Behaviour,
    core: C,
}

impl<C: Core> Feature<C> {
    /// Joins them.
    pub fn new(exchange: Behaviour, core: C) -> Self {
        Self { exchange, core }
    }
}

impl<C: Core> NetworkBehaviour for Feature<C> {
    type ConnectionHandler = THandler<Behaviour>;
    type ToSwarm = C::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.exchange
            .handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.exchange
            .handle_established_outbound_connection(connection, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.core.on_swarm_event(&event);
        self.exchange.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.exchange
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            // 1. What the rules have to say; they may ask the exchange for something.
            if let Poll::Ready(event) = self.core.poll(cx) {
                return Poll::Ready(ToSwarm::GenerateEvent(event));
            }
            // 2. What the exchange does.
            match self.exchange.poll(cx) {
                Poll::Ready(ToSwarm::GenerateEvent(rejected)) => {
                    if self.core.tells(&rejected) {
                        return Poll::Ready(ToSwarm::GenerateEvent(rejected.into()));
                    }
                }
                Poll::Ready(other) => {
                    return Poll::Ready(
                        other.map_out(|_| unreachable!("events of the exchange are taken above")),
                    );
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
