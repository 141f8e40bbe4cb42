//! Who may connect.
//!
//! Spec: p2p, section 7. A closed gate lets in the cluster's peers and nobody else, in both
//! directions, right after the security handshake and before any stream; an open one, for relays
//! and tools, lets everybody in. Before the handshake half-open inbound connections are bounded, in
//! all and per IP address.
//!
//! - **Owner:** counts what is pending; the context says who is known.
//! - **Bounds:** [`Config::max_pending`], [`Config::max_pending_per_ip`]; the swarm's connection
//!   time-out bounds how long one stays pending.
//! - **Disconnect:** a pending connection is released when it is established or fails.
//! - **End:** while the node says farewell nobody is let in or out, member or not.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::IpAddr,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, ListenFailure, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, behaviour::ConnectionEstablished, dummy,
    },
};

use crate::{addr, p2p_context::P2PContext};

/// One refusal of an unknown cluster-like peer is logged at most this often.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Who may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The context's known peers only.
    #[default]
    Closed,
    /// Everybody.
    Open,
}

/// The gate's rules.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who may come in.
    pub mode: Mode,
    /// Inbound connections that have not finished their handshake.
    pub max_pending: usize,
    /// The same from one IP address; several nodes may share one behind a NAT.
    pub max_pending_per_ip: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Closed,
            max_pending: 128,
            max_pending_per_ip: 32,
        }
    }
}

/// Why a connection was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The peer is not one of the cluster.
    #[error("peer {peer} is not part of this cluster")]
    Stranger {
        /// Who it is.
        peer: PeerId,
    },
    /// Too many handshakes are under way.
    #[error("{limit} inbound connections are pending")]
    TooManyPending {
        /// The bound.
        limit: usize,
    },
    /// Too many handshakes are under way from one address.
    #[error("{limit} inbound connections from {ip} are pending")]
    TooManyPendingFrom {
        /// The address, as it is [counted](addr::counted_as).
        ip: IpAddr,
        /// The bound.
        limit: usize,
    },
    /// The node is saying farewell.
    #[error("this node is shutting down")]
    Ending,
}

/// See the module's documentation.
pub struct Behaviour {
    context: P2PContext,
    config: Config,
    pending: HashMap<ConnectionId, Option<IpAddr>>,
    per_ip: HashMap<IpAddr, usize>,
    warned: Option<Instant>,
    refused: u64,
    ending: bool,
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Behaviour")
            .field("config", &self.config)
            .field("pending", &self.pending.len())
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

impl Behaviour {
    /// A gate for the context's cluster.
    pub fn new(context: P2PContext, config: Config) -> Self {
        Self {
            context,
            config,
            pending: HashMap::new(),
            per_ip: HashMap::new(),
            warned: None,
            refused: 0,
            ending: false,
        }
    }

    /// Lets nobody in or out any more.
    pub(crate) fn end(&mut self) {
        self.ending = true;
    }

    /// Connections refused after their handshake.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn admit(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        remote: &Multiaddr,
    ) -> Result<(), Refused> {
        if self.ending {
            return Err(Refused::Ending);
        }
        if self.config.mode == Mode::Open || self.context.is_wanted(&peer) {
            return Ok(());
        }
        self.refused += 1;
        let now = Instant::now();
        // AutoNAT dials back from throw-away Ed25519 identities: normal, and nobody's mistake.
        let cluster_like = is_secp256k1(&peer);
        if cluster_like && self.warned.is_none_or(|last| now - last >= WARN_EVERY) {
            self.warned = Some(now);
            tracing::warn!(%peer, %connection, path = %remote, refused = self.refused, "refused a peer that is not in the cluster file");
        } else {
            tracing::debug!(%peer, %connection, path = %remote, "refused a peer that is not in the cluster file");
        }
        Err(Refused::Stranger { peer })
    }

    fn release(&mut self, connection: ConnectionId) {
        let Some(Some(ip)) = self.pending.remove(&connection) else {
            return;
        };
        if let Some(count) = self.per_ip.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                self.per_ip.remove(&ip);
            }
        }
    }
}

/// Secp256k1 ids carry their key, so they can be told from others: 39 bytes, `00 25 08 02`.
fn is_secp256k1(peer: &PeerId) -> bool {
    peer.to_bytes().starts_with(&[0x00, 0x25, 0x08, 0x02])
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if self.ending {
            return Err(ConnectionDenied::new(Refused::Ending));
        }
        let limit = self.config.max_pending;
        if self.pending.len() >= limit {
            return Err(ConnectionDenied::new(Refused::TooManyPending { limit }));
        }
        let ip = addr::ip_of(remote).map(addr::counted_as);
        if let Some(ip) = ip {
            let limit = self.config.max_pending_per_ip;
            let count = self.per_ip.entry(ip).or_default();
            if *count >= limit {
                return Err(ConnectionDenied::new(Refused::TooManyPendingFrom {
                    ip,
                    limit,
                }));
            }
            *count += 1;
        }
        self.pending.insert(connection, ip);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(peer, connection, remote)
            .map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        match self.ending {
            true => Err(ConnectionDenied::new(Refused::Ending)),
            false => Ok(Vec::new()),
        }
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(peer, connection, remote)
            .map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { connection_id, .. })
            | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.release(connection_id);
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

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_places() {
        let mut gate = gate(Mode::Open);
        let noisy = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
        let other = "/ip4/10.0.0.2/tcp/1".parse().unwrap();

        assert!(knock(&mut gate, 1, &noisy).is_ok());
        assert!(knock(&mut gate, 2, &noisy).is_ok());
        assert!(knock(&mut gate, 3, &noisy).is_err(), "two per address");
        assert!(knock(&mut gate, 4, &other).is_ok());
        assert!(knock(&mut gate, 5, &other).is_err(), "three in all");

        gate.release(ConnectionId::new_unchecked(1));
        assert!(knock(&mut gate, 6, &noisy).is_ok());
    }

    #[test]
    fn one_network_of_ipv6_cannot_either() {
        let mut gate = gate(Mode::Open);
        let from = |text: &str| text.parse().unwrap();

        assert!(knock(&mut gate, 1, &from("/ip6/2001:db8::1/tcp/1")).is_ok());
        assert!(knock(&mut gate, 2, &from("/ip6/2001:db8::2/tcp/1")).is_ok());
        assert!(knock(&mut gate, 3, &from("/ip6/2001:db8::3/tcp/1")).is_err());
        assert!(knock(&mut gate, 4, &from("/ip6/2001:db8:0:1::1/tcp/1")).is_ok());
    }

    #[test]
    fn a_closed_gate_knows_its_cluster_and_nobody_else() {
        let (member, stranger) = (PeerId::random(), PeerId::random());
        let context = P2PContext::new([member]);
        let address: Multiaddr = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
        let id = ConnectionId::new_unchecked(1);
        let mut gate = Behaviour::new(context, Config::default());

        assert_eq!(gate.admit(member, id, &address), Ok(()));
        assert_eq!(
            gate.admit(stranger, id, &address),
            Err(Refused::Stranger { peer: stranger })
        );
        assert_eq!(gate.refused(), 1);
    }

    fn gate(mode: Mode) -> Behaviour {
        let config = Config {
            mode,
            max_pending: 3,
            max_pending_per_ip: 2,
        };
        Behaviour::new(P2PContext::default(), config)
    }

    fn knock(gate: &mut Behaviour, id: usize, from: &Multiaddr) -> Result<(), ConnectionDenied> {
        let id = ConnectionId::new_unchecked(id);
        gate.handle_pending_inbound_connection(id, &Multiaddr::empty(), from)
    }
}
