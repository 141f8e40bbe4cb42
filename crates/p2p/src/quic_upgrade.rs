//! From a direct TCP connection to a direct QUIC one.
//!
//! A policy of the dial planner, switched on by [`QuicUpgrade`]. Once a direct TCP connection is
//! proven and the peer is known to listen on QUIC, it is dialled there. Prove first, drain, close
//! after: nothing is closed for it (p2p spec, W-13 to W-15). When a ping has come back on the QUIC
//! connection, new streams use it and the TCP one is drained. One whose round-trip time is worse
//! is drained instead, and the attempt is given up with that reason, to be tried again much later.
//!
//! - **Owner:** one state per peer, in the planner; this behaviour is the switch.
//! - **Bounds:** one attempt at a time and peer; waits of [`QuicUpgrade::BACKOFF_MIN`] to
//!   [`QuicUpgrade::BACKOFF_MAX`].
//! - **Disabled:** no further attempts; connections stay.

use std::{
    convert::Infallible,
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};
use tokio::sync::watch;

use crate::dialer::lane::Pace;

/// Lets the dial planner replace TCP by QUIC for as long as it exists. What comes of it are events
/// of the dialer. Made by [`dialer::Behaviour::quic_upgrade`](crate::dialer::Behaviour::quic_upgrade).
#[derive(Debug)]
pub struct QuicUpgrade {
    switch: watch::Sender<usize>,
}

impl QuicUpgrade {
    /// The wait after the first failure.
    pub const BACKOFF_MIN: Duration = Duration::from_secs(10);
    /// The longest wait, and that after QUIC was found to be worse.
    pub const BACKOFF_MAX: Duration = Duration::from_secs(600);

    pub(crate) const PACE: Pace = Pace {
        min: Self::BACKOFF_MIN,
        max: Self::BACKOFF_MAX,
    };

    /// Switches the policy on; the dialer counts who wants it.
    pub(crate) fn new(switch: watch::Sender<usize>) -> Self {
        switch.send_modify(|count| *count += 1);
        Self { switch }
    }
}

impl Drop for QuicUpgrade {
    fn drop(&mut self) {
        self.switch
            .send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl NetworkBehaviour for QuicUpgrade {
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

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
