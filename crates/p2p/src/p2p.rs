//! A node: the owner of the swarm.
//!
//! Spec: p2p, section 2; design §3.
//!
//! - **Owner:** [`Node`] owns the `Swarm`; everything else talks to it through a [`Control`], the
//!   [`P2PContext`] and the handles of its features.
//! - **Wake-ups:** the swarm, and the control's bounded channel.
//! - **Bounds:** connections per peer, pending and in all ([`NodeConfig`]); `COMMANDS` commands waiting.
//! - **Cancellation:** [`Node::run`] ends when its token is cancelled or [`Control::shutdown`] is
//!   called; dropping the node ends every waiter with an error.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use either::Either;
use futures::{Stream, StreamExt};
use libp2p::{
    Multiaddr, PeerId, Swarm, Transport as _, TransportError, autonat, connection_limits,
    connection_limits::ConnectionLimits,
    core::{
        muxing::StreamMuxerBox,
        transport::{
            Boxed, ListenerId,
            timeout::{TransportTimeout, TransportTimeoutError},
        },
        upgrade::Version,
    },
    dcutr, dns,
    identity::Keypair,
    multiaddr::Protocol,
    noise, quic,
    swarm::{
        self, ConnectionId, DialError, NetworkBehaviour, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp, yamux,
};
use tokio::{
    net::TcpSocket,
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    addr::{external, is_private, is_relayed},
    bandwidth,
    behaviours::{
        identify,
        optional::OptionalBehaviour,
        ping,
        pluto::{PlutoBehaviour, PlutoBehaviourEvent},
    },
    bootnode::{Bootnodes, RelaySource, Routing},
    conn_logger, dialer,
    dialer::Book,
    gater,
    metrics::Metrics,
    muxer::{Bounded, CLOSING},
    p2p_context::{Failure, InUse, LocalPeerIdMismatch, NodeGone, P2PContext},
    relay,
};

/// Commands that a node has not taken yet.
const COMMANDS: usize = 16;
/// How long closing connections may take at the end.
const FAREWELL: Duration = Duration::from_millis(500);
// The farewell ends with the swarm: no connection may be given up before it.
const _: () = assert!(FAREWELL.as_millis() <= CLOSING.as_millis());
/// Streams of one connection, both directions. At its limit yamux ends the whole *connection*, so
/// that it lies above everything that the protocols allow together. The most that its receive
/// window of 1 GiB takes at 256 KiB a stream.
pub const MAX_MUXER_STREAMS: usize = 4096;
/// How long a dial to an address may take, handshakes included. QUIC's handshake has as long
/// (libp2p's default), and so has TCP's in go-libp2p. Three lost packets in a row are borne.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// DCUtR tries each circuit when it begins and never again, in vain if the other side is not at it
/// yet. It begins anew with the first peer that is not reached directly after this, in which its three
/// attempts have ended; those failures come less and less often.
const PUNCH_AGAIN: Duration = Duration::from_secs(20);
/// The agent version that identify sends.
pub const AGENT: &str = concat!("pluto/v", env!("CARGO_PKG_VERSION"));

/// How a node is built.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The identity.
    pub key: Keypair,
    /// Where to listen; port 0 is allowed, and the bound port is what is advertised.
    pub listen: Vec<Multiaddr>,
    /// The IP address under which the node is reachable from outside, at its bound ports.
    pub external_ip: Option<IpAddr>,
    /// The host name under which it is.
    pub external_host: Option<String>,
    /// Advertise no private addresses. What is listened on stays.
    pub filter_private_addrs: bool,
    /// Whether direct TCP connections are replaced by QUIC ones where both sides can. It may be
    /// switched later, see [`dialer::Behaviour::quic_upgrade`].
    pub quic_upgrade: bool,
    /// Where peers are known to be.
    pub book: Book,
    /// Relays through which peers are found. They may be absent at the start, and may change.
    pub relays: Vec<RelaySource>,
    /// What a relay's URL is told of the cluster.
    pub routing: Routing,
    /// Dials members of the cluster through relays only, and stays on them: for trying relays.
    pub relayed_only: bool,
    /// Who may come in.
    pub gater: gater::Config,
    /// Connections to one peer. Several are normal for seconds, while a path is replaced.
    pub max_connections_per_peer: u32,
    /// Connections in all.
    pub max_connections: u32,
    /// How long a connection that nobody wants stays without streams.
    pub idle_timeout: Duration,
    /// How long connecting may take, handshakes included, for who comes in and through relays. A
    /// dial to an address has at most [`DIAL_TIMEOUT`].
    pub connection_timeout: Duration,
    /// See [`ping::INTERVAL`].
    pub ping_interval: Duration,
    /// See [`ping::TIMEOUT`].
    pub ping_timeout: Duration,
    /// The agent version that identify sends.
    pub agent: String,
    /// Where the node counts; nothing is counted without.
    pub metrics: Option<Metrics>,
}

impl NodeConfig {
    /// A node of this identity that listens nowhere and knows nobody's address.
    pub fn new(key: Keypair) -> Self {
        Self {
            key,
            listen: Vec::new(),
            external_ip: None,
            external_host: None,
            filter_private_addrs: false,
            quic_upgrade: true,
            book: Book::new([]),
            relays: Vec::new(),
            routing: Routing::default(),
            relayed_only: false,
            gater: gater::Config::default(),
            max_connections_per_peer: 8,
            max_connections: 1024,
            idle_timeout: Duration::from_secs(30),
            connection_timeout: Duration::from_secs(15),
            ping_interval: ping::INTERVAL,
            ping_timeout: ping::TIMEOUT,
            agent: AGENT.to_owned(),
            metrics: None,
        }
    }

    /// Listens there as well.
    #[must_use]
    pub fn with_listen(mut self, address: Multiaddr) -> Self {
        self.listen.push(address);
        self
    }

    /// Finds peers there.
    #[must_use]
    pub fn with_book(mut self, book: Book) -> Self {
        self.book = book;
        self
    }

    /// Finds peers, and is found, through these relays.
    #[must_use]
    pub fn with_relays(mut self, relays: impl IntoIterator<Item = RelaySource>) -> Self {
        self.relays.extend(relays);
        self
    }

    /// Counts there. Each node needs metrics of its own.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }
}

/// Why a node could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The context belongs to another node.
    #[error(transparent)]
    Context(#[from] LocalPeerIdMismatch),
    /// The context has, or had, a node.
    #[error(transparent)]
    InUse(#[from] InUse),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} (is the port taken by another process?)")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the transport said.
        #[source]
        source: TransportError<io::Error>,
    },
    /// The noise key could not be made from the identity.
    #[error("the identity key cannot secure connections")]
    Noise(#[from] noise::Error),
    /// The closure that builds the inner behaviour failed.
    #[error("the node's protocols could not be set up")]
    Behaviour(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What the closure that builds the inner behaviour is given.
#[derive(Debug)]
pub struct NodeBuilder<'a> {
    context: &'a P2PContext,
    key: &'a Keypair,
}

impl NodeBuilder<'_> {
    /// The context of the node, bound to its peer id.
    pub fn p2p_context(&self) -> P2PContext {
        self.context.clone()
    }

    /// The identity of the node.
    pub fn key(&self) -> &Keypair {
        self.key
    }

    /// The peer id of the node.
    pub fn local_peer_id(&self) -> PeerId {
        self.key.public().to_peer_id()
    }
}

/// The owner of the swarm.
///
/// [`run`](Self::run) it, or poll it as a [`Stream`] of swarm events. Unless it is polled, nothing
/// happens.
pub struct Node<B: NetworkBehaviour> {
    swarm: Swarm<PlutoBehaviour<B>>,
    context: P2PContext,
    control: Control,
    commands: mpsc::Receiver<Command>,
    outside: Outside,
    /// Listeners, those of the configuration first and in its order, and what they are bound to.
    listeners: Vec<(ListenerId, Vec<Multiaddr>)>,
    addresses: watch::Sender<Addresses>,
    metrics: Option<Metrics>,
    /// Dials that were asked for. Bounded by the connections that may be pending.
    dials: HashMap<ConnectionId, (PeerId, Told)>,
    /// When DCUtR began last.
    punching: Option<Instant>,
    bootnodes: Bootnodes,
}

/// Where a node listens and what it tells the world.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Bound addresses, in the order of the configuration.
    pub listen: Vec<Multiaddr>,
    /// Addresses from outside.
    pub external: Vec<Multiaddr>,
    /// Listeners that have not reported an address yet.
    pending: Vec<ListenerId>,
}

struct Outside {
    ip: Option<IpAddr>,
    host: Option<String>,
    filter: bool,
}

#[derive(Debug)]
enum Command {
    Dial(PeerId, Vec<Multiaddr>, Told),
}

/// Who waits for the end of a dial.
type Told = oneshot::Sender<Result<ConnectionId, DialFailed>>;

/// Why a dial that was asked for made no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialFailed {
    /// The node is gone.
    #[error(transparent)]
    NodeGone(#[from] NodeGone),
    /// The peer was not reached.
    #[error("peer {peer} was not reached{}", .failures.iter().map(|it| format!("; {}", it.cause)).collect::<String>())]
    NotReached {
        /// The peer.
        peer: PeerId,
        /// Why, by address.
        failures: Vec<Failure>,
    },
}

/// A small handle on a running node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Control {
    local: PeerId,
    commands: mpsc::Sender<Command>,
    addresses: watch::Receiver<Addresses>,
    shutdown: CancellationToken,
    book: Book,
}

impl Control {
    /// The node's peer id.
    pub fn local_peer_id(&self) -> PeerId {
        self.local
    }

    /// Dials a peer once, whether it is known or connected or not; the gate still decides. For
    /// tools: known peers are dialled for ever by themselves, see [`book`](Self::book). Gives the
    /// connection that was made; dropping it does not end the dial.
    pub async fn dial(
        &self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
    ) -> Result<ConnectionId, DialFailed> {
        let (told, result) = oneshot::channel();
        self.commands
            .send(Command::Dial(peer, addresses, told))
            .await
            .map_err(|_| NodeGone)?;
        result.await.map_err(|_| NodeGone)?
    }

    /// Where known peers are dialled.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// The addresses as they are now.
    pub fn addresses(&self) -> Addresses {
        self.addresses.borrow().clone()
    }

    /// Waits until every listener is bound, and gives the addresses.
    pub async fn listening(&self) -> Result<Vec<Multiaddr>, NodeGone> {
        let mut addresses = self.addresses.clone();
        let bound = addresses
            .wait_for(|addresses| addresses.pending.is_empty())
            .await
            .map_err(|_| NodeGone)?;
        Ok(bound.listen.clone())
    }

    /// Ends [`Node::run`].
    pub fn shutdown(&self) {
        self.shutdown.cancel();
    }
}

impl<B: NetworkBehaviour> std::fmt::Debug for Node<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("local", &self.control.local)
            .field("addresses", &*self.addresses.borrow())
            .finish_non_exhaustive()
    }
}

impl<B: NetworkBehaviour> Node<B> {
    /// A node that reaches others through relays, and is reached through them.
    pub fn new<H, E>(
        config: NodeConfig,
        context: P2PContext,
        build: impl FnOnce(&NodeBuilder<'_>) -> Result<(B, H), E>,
    ) -> Result<(Self, H), NodeError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let relay =
            |local, context: &P2PContext| Some(relay::new(local, context.clone(), rand::random()));
        Self::assemble(config, context, relay, build)
    }

    /// A node that others reach directly, such as a relay: it uses no relay itself.
    pub fn new_server<H, E>(
        config: NodeConfig,
        context: P2PContext,
        build: impl FnOnce(&NodeBuilder<'_>) -> Result<(B, H), E>,
    ) -> Result<(Self, H), NodeError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self::assemble(config, context, |_, _| None, build)
    }

    fn assemble<H, E>(
        config: NodeConfig,
        context: P2PContext,
        relay: impl FnOnce(PeerId, &P2PContext) -> Option<(relay::Transport, relay::Behaviour)>,
        build: impl FnOnce(&NodeBuilder<'_>) -> Result<(B, H), E>,
    ) -> Result<(Self, H), NodeError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let local = config.key.public().to_peer_id();
        context.bind(local)?;
        // Until the node is built, every way out of here gives it back.
        let hold = context.take(local)?;
        let builder = NodeBuilder {
            context: &context,
            key: &config.key,
        };
        let (inner, handle) =
            build(&builder).map_err(|error| NodeError::Behaviour(error.into()))?;

        let (relay_transport, relay_behaviour) = relay(local, &context).unzip();
        let transport = transport(&config, &context, relay_transport)?;
        let limits = ConnectionLimits::default()
            .with_max_pending_outgoing(Some(128))
            .with_max_established_per_peer(Some(config.max_connections_per_peer))
            .with_max_established(Some(config.max_connections));
        let mut dialer =
            dialer::Behaviour::new(context.clone(), local, config.book.clone(), rand::random());
        if config.relayed_only {
            dialer.relayed_only();
        }
        let quic_upgrade = match config.quic_upgrade {
            true => OptionalBehaviour::enabled(dialer.quic_upgrade()),
            false => OptionalBehaviour::disabled(),
        };
        let behaviour = PlutoBehaviour {
            conn_logger: conn_logger::Behaviour::held(context.clone(), hold),
            gater: gater::Behaviour::new(context.clone(), config.gater.clone()),
            limits: connection_limits::Behaviour::new(limits),
            dialer,
            identify: identify::behaviour(
                &context,
                config.key.public(),
                config.agent.clone(),
                config.filter_private_addrs,
            ),
            ping: ping::behaviour(&context, config.ping_interval, config.ping_timeout),
            autonat: autonat::Behaviour::new(local, autonat::Config::default()),
            dcutr: OptionalBehaviour::disabled(),
            relay: relay_behaviour.into(),
            quic_upgrade,
            inner: OptionalBehaviour::enabled(inner),
        };
        let swarm_config = swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(config.idle_timeout)
            // Saves a round trip on each stream that offers a single id (guide, section 2.4).
            .with_substream_upgrade_protocol_override(Version::V1Lazy)
            .with_smart_dial();
        let mut swarm = Swarm::new(transport, behaviour, local, swarm_config);

        for address in &config.listen {
            is_free(address).map_err(|error| NodeError::Listen {
                address: address.clone(),
                source: TransportError::Other(error),
            })?;
        }
        let mut pending = Vec::new();
        for address in &config.listen {
            let listener =
                swarm
                    .listen_on(address.clone())
                    .map_err(|source| NodeError::Listen {
                        address: address.clone(),
                        source,
                    })?;
            pending.push(listener);
        }
        swarm.behaviour_mut().conn_logger.runs();
        if let Some(metrics) = &config.metrics {
            context.measure(metrics.clone());
        }
        let listeners = pending
            .iter()
            .map(|listener| (*listener, Vec::new()))
            .collect();
        let addresses = watch::Sender::new(Addresses {
            pending,
            ..Addresses::default()
        });
        let bootnodes = Bootnodes::start(&context, &config.relays, &config.routing);
        let (sender, commands) = mpsc::channel(COMMANDS);
        let control = Control {
            local,
            commands: sender,
            addresses: addresses.subscribe(),
            shutdown: CancellationToken::new(),
            book: config.book,
        };
        let node = Self {
            swarm,
            context,
            control,
            commands,
            outside: Outside {
                ip: config.external_ip,
                host: config.external_host,
                filter: config.filter_private_addrs,
            },
            listeners,
            addresses,
            metrics: config.metrics,
            dials: HashMap::new(),
            punching: None,
            bootnodes,
        };
        Ok((node, handle))
    }

    /// The node's peer id.
    pub fn local_peer_id(&self) -> PeerId {
        self.control.local
    }

    /// The shared picture of peers and connections.
    pub fn context(&self) -> &P2PContext {
        &self.context
    }

    /// A handle that outlives the call to [`run`](Self::run).
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The behaviours, for what is set up before the node runs.
    pub fn behaviour_mut(&mut self) -> &mut PlutoBehaviour<B> {
        self.swarm.behaviour_mut()
    }

    /// Runs until cancelled or told to shut down. When it returns, all connections are dropped and
    /// every waiter has been told. A QUIC port is free again a moment later: quinn keeps it while its
    /// connections drain, for three probe time-outs.
    pub async fn run(mut self, cancel: CancellationToken) {
        let shutdown = self.control.shutdown.clone();
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = shutdown.cancelled() => {}
            () = async { while self.next().await.is_some() {} } => {}
        }
        self.farewell().await;
        self.bootnodes.shutdown().await;
    }

    /// Closes all connections, so that peers look for another path at once instead of waiting for
    /// a time-out; over QUIC they would not notice for ten seconds. First nobody is dialled or let in any
    /// more: who is lost would be dialled at once, and would call back.
    async fn farewell(&mut self) {
        let behaviour = self.swarm.behaviour_mut();
        behaviour.dialer.end();
        behaviour.gater.end();
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // Only fails for a peer that has gone meanwhile.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.network_info().num_peers() > 0 {
                self.next().await;
            }
        };
        if tokio::time::timeout(FAREWELL, closed).await.is_err() {
            tracing::debug!("some connections did not close in time");
        }
    }

    fn on_event(&mut self, event: &SwarmEvent<PlutoBehaviourEvent<B>>) {
        match event {
            SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } => {
                tracing::info!(%address, "listening");
                self.advertise(address);
                self.rebind(*listener_id, |bound| {
                    if !bound.contains(address) {
                        bound.push(address.clone());
                    }
                });
            }
            SwarmEvent::ExpiredListenAddr {
                listener_id,
                address,
            } => {
                self.rebind(*listener_id, |bound| bound.retain(|old| old != address));
                self.withdraw(address);
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                addresses: closed,
                reason,
            } => {
                if let Err(error) = reason {
                    tracing::warn!(?closed, %error, "a listener ended");
                }
                self.rebind(*listener_id, Vec::clear);
                self.listeners
                    .retain(|(listener, _)| listener != listener_id);
                for address in closed {
                    self.withdraw(address);
                }
            }
            SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                if let Some((_, told)) = self.dials.remove(connection_id) {
                    // Who asked may be gone.
                    let _ = told.send(Ok(*connection_id));
                }
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => {
                if let Some((peer, told)) = self.dials.remove(connection_id) {
                    let _ = told.send(Err(not_reached(peer, error)));
                }
            }
            SwarmEvent::ExternalAddrConfirmed { address } => {
                self.addresses.send_modify(|addresses| {
                    if !addresses.external.contains(address) {
                        addresses.external.push(address.clone());
                    }
                });
            }
            SwarmEvent::Behaviour(PlutoBehaviourEvent::Autonat(
                autonat::Event::StatusChanged { new, .. },
            )) => {
                tracing::info!(status = ?new, "reachability changed");
                if let Some(metrics) = &self.metrics {
                    metrics.reachable(new);
                }
            }
            SwarmEvent::Behaviour(PlutoBehaviourEvent::Dialer(dialer::Event::NotDirect {
                peer,
                ..
            })) => {
                let local = self.control.local;
                let due = |at: Instant| at.elapsed() >= PUNCH_AGAIN;
                if self.punching.is_none_or(due) {
                    tracing::debug!(%peer, "not reached directly: holes are punched");
                    self.punching = Some(Instant::now());
                    let dcutr = &mut self.swarm.behaviour_mut().dcutr;
                    dcutr.enable(dcutr::Behaviour::new(local));
                }
            }
            SwarmEvent::ExternalAddrExpired { address } => {
                self.addresses.send_modify(|addresses| {
                    addresses.external.retain(|external| external != address);
                });
            }
            _ => {}
        }
    }

    /// A listener has changed what it is bound to.
    fn rebind(&mut self, listener: ListenerId, change: impl FnOnce(&mut Vec<Multiaddr>)) {
        let known = self.listeners.iter_mut().find(|(id, _)| *id == listener);
        match known {
            Some((_, bound)) => change(bound),
            // A behaviour listens too, such as on a relay.
            None => {
                let mut bound = Vec::new();
                change(&mut bound);
                self.listeners.push((listener, bound));
            }
        }
        let listen = self.listeners.iter().flat_map(|(_, bound)| bound).cloned();
        let listen = listen.collect();
        self.addresses.send_modify(|addresses| {
            addresses.pending.retain(|pending| *pending != listener);
            addresses.listen = listen;
        });
    }

    /// What the world is told of a bound address, as configured.
    fn told_of(&self, bound: &Multiaddr) -> Vec<Multiaddr> {
        // A circuit's port is the relay's; and who is in the cluster knows its relays.
        if is_relayed(bound) {
            return Vec::new();
        }
        let hosts = [
            self.outside.ip.map(Protocol::from),
            self.outside
                .host
                .clone()
                .map(|host| Protocol::Dns(host.into())),
        ];
        let mut told: Vec<Multiaddr> = hosts
            .into_iter()
            .flatten()
            .filter_map(|host| external(bound, host))
            .collect();
        // Identify hides what is listened on when it filters, so that the rest is told this way.
        if self.outside.filter && !is_private(bound) {
            told.push(bound.clone());
        }
        told
    }

    /// Tells the world of a bound address.
    fn advertise(&mut self, bound: &Multiaddr) {
        for address in self.told_of(bound) {
            self.swarm.add_external_address(address.clone());
            self.addresses.send_modify(|addresses| {
                if !addresses.external.contains(&address) {
                    addresses.external.push(address.clone());
                }
            });
        }
    }

    /// An address is not bound any more: what was told because of it, and of no other, is withdrawn.
    fn withdraw(&mut self, bound: &Multiaddr) {
        let rest = self.listeners.iter().flat_map(|(_, bound)| bound);
        let kept: Vec<_> = rest.flat_map(|bound| self.told_of(bound)).collect();
        for address in self.told_of(bound) {
            if !kept.contains(&address) {
                self.swarm.remove_external_address(&address);
                self.addresses.send_modify(|addresses| {
                    addresses.external.retain(|external| *external != address);
                });
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Dial(peer, addresses, told) => {
                let opts = DialOpts::peer_id(peer)
                    .addresses(addresses)
                    // Being connected, perhaps through a relay, is no reason to refuse.
                    .condition(PeerCondition::Always)
                    .build();
                let connection = opts.connection_id();
                match self.swarm.dial(opts) {
                    Ok(()) => {
                        self.dials.insert(connection, (peer, told));
                    }
                    Err(error) => {
                        tracing::debug!(%peer, %error, "not dialled");
                        let _ = told.send(Err(not_reached(peer, &error)));
                    }
                }
            }
        }
    }
}

impl<B: NetworkBehaviour> Stream for Node<B> {
    type Item = SwarmEvent<PlutoBehaviourEvent<B>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while let Poll::Ready(Some(command)) = self.commands.poll_recv(cx) {
            self.on_command(command);
        }
        let event = std::task::ready!(self.swarm.poll_next_unpin(cx));
        if let Some(event) = &event {
            self.on_event(event);
        }
        Poll::Ready(event)
    }
}

fn not_reached(peer: PeerId, error: &DialError) -> DialFailed {
    let failures = conn_logger::failures_of(error);
    DialFailed::NotReached { peer, failures }
}

/// Whether nobody listens on a TCP address. libp2p shares the ports that it listens on, so that it
/// can dial from them; a second node there would take half of the first one's connections.
fn is_free(address: &Multiaddr) -> io::Result<()> {
    if is_relayed(address) {
        return Ok(());
    }
    let mut parts = address.iter();
    let (ip, port) = match (parts.next(), parts.next()) {
        (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port))) => (IpAddr::V4(ip), port),
        // A probe of all of IPv6 would stumble over listeners on IPv4.
        (Some(Protocol::Ip6(ip)), Some(Protocol::Tcp(port))) if !ip.is_unspecified() => {
            (IpAddr::V6(ip), port)
        }
        _ => return Ok(()),
    };
    let probe = match ip {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of a node that has ended do not matter.
    probe.set_reuseaddr(true)?;
    probe.bind(SocketAddr::new(ip, port))
}

/// TCP with noise and yamux, QUIC and circuits, names resolved.
fn transport(
    config: &NodeConfig,
    context: &P2PContext,
    relay: Option<relay::Transport>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, NodeError> {
    let secure = Secure {
        noise: noise::Config::new(&config.key)?,
        yamux: muxer(),
        timeout: config.connection_timeout,
        context: context.clone(),
    };
    let direct = || {
        let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
        let context = context.clone();
        let quic = quic::tokio::Transport::new(quic::Config::new(&config.key))
            .map(move |(peer, muxer), endpoint| {
                (peer, bandwidth::counted(&context, peer, muxer, &endpoint))
            })
            .map_err(|error| match error {
                quic::Error::Io(error) => error,
                quic::Error::HandshakeTimedOut => io::ErrorKind::TimedOut.into(),
                error @ quic::Error::Connection(_) => broken_handshake(error),
                error => io::Error::other(error),
            });
        let tcp = TransportTimeout::with_outgoing_timeout(secure.over(tcp), DIAL_TIMEOUT)
            .map_err(untimed);
        quic.or_transport(tcp)
            .map(|either, _| either.into_inner())
            .map_err(Either::into_inner)
            .boxed()
    };
    let direct = match dns::tokio::Transport::system(direct()) {
        Ok(resolving) => resolving.boxed(),
        Err(error) => {
            tracing::warn!(%error, "host names cannot be dialled: no name resolution is configured");
            direct()
        }
    };
    Ok(match relay {
        None => direct,
        Some(relay) => secure
            .over(relay.map_err(io::Error::from))
            .or_transport(direct)
            .map(|either, _| either.into_inner())
            .map_err(Either::into_inner)
            .boxed(),
    })
}

fn untimed(error: TransportTimeoutError<io::Error>) -> io::Error {
    match error {
        TransportTimeoutError::Timeout => io::ErrorKind::TimedOut.into(),
        TransportTimeoutError::TimerError(error) | TransportTimeoutError::Other(error) => error,
    }
}

/// The other side was there, and then it broke.
fn broken_handshake(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

/// What makes a stream of bytes a connection.
struct Secure {
    noise: noise::Config,
    yamux: yamux::Config,
    timeout: Duration,
    context: P2PContext,
}

impl Secure {
    fn over<T>(&self, transport: T) -> Boxed<(PeerId, StreamMuxerBox)>
    where
        T: libp2p::Transport<Error = io::Error> + Send + Unpin + 'static,
        T::Output: futures::AsyncRead + futures::AsyncWrite + Send + Unpin + 'static,
        T::Dial: Send + 'static,
        T::ListenerUpgrade: Send + 'static,
    {
        let context = self.context.clone();
        transport
            .upgrade(Version::V1Lazy)
            .authenticate(self.noise.clone())
            .multiplex(self.yamux.clone())
            .timeout(self.timeout)
            // The layers hide the kind of an error, from which its cause is told.
            .map_err(|error| match error {
                TransportTimeoutError::Timeout => io::ErrorKind::TimedOut.into(),
                TransportTimeoutError::TimerError(error) => error,
                TransportTimeoutError::Other(Either::Left(Either::Left(error))) => error,
                TransportTimeoutError::Other(Either::Left(Either::Right(error))) => {
                    broken_handshake(error)
                }
                TransportTimeoutError::Other(Either::Right(error)) => broken_handshake(error),
            })
            .map(move |(peer, muxer), endpoint| {
                let muxer = Bounded::new(muxer);
                (peer, bandwidth::counted(&context, peer, muxer, &endpoint))
            })
            .boxed()
    }
}

fn muxer() -> yamux::Config {
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(MAX_MUXER_STREAMS);
    yamux
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use libp2p::swarm::dummy;

    use super::*;

    /// Longer than anything here takes.
    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn what_was_told_of_an_address_that_is_lost_is_withdrawn() {
        let mut config = NodeConfig::new(Keypair::generate_ed25519());
        config.external_ip = Some([203, 0, 113, 7].into());
        config.filter_private_addrs = true;
        let build = |_: &NodeBuilder<'_>| Ok::<_, Infallible>((dummy::Behaviour, ()));
        let (mut node, ()) = Node::new(config, P2PContext::default(), build).unwrap();
        let [old, new, outside] = ["198.51.100.1", "198.51.100.2", "203.0.113.7"]
            .map(|ip| format!("/ip4/{ip}/tcp/3610").parse::<Multiaddr>().unwrap());
        let external = |node: &Node<dummy::Behaviour>| {
            let told = node.control().addresses().external;
            let mut swarm: Vec<_> = node.swarm.external_addresses().cloned().collect();
            swarm.sort();
            let mut sorted = told.clone();
            sorted.sort();
            assert_eq!(swarm, sorted);
            sorted
        };
        let listener_id = ListenerId::next();
        for address in [&old, &new] {
            node.on_event(&SwarmEvent::NewListenAddr {
                listener_id,
                address: address.clone(),
            });
        }
        assert_eq!(external(&node), [old.clone(), new.clone(), outside.clone()]);

        node.on_event(&SwarmEvent::ExpiredListenAddr {
            listener_id,
            address: old,
        });
        assert_eq!(
            external(&node),
            [new.clone(), outside],
            "the other one has the same port"
        );

        node.on_event(&SwarmEvent::ListenerClosed {
            listener_id,
            addresses: vec![new],
            reason: Ok(()),
        });
        assert_eq!(external(&node), []);
    }

    #[tokio::test]
    async fn after_the_farewell_nobody_is_dialled_or_let_in() {
        for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
            let keys = [(); 2].map(|()| Keypair::generate_ed25519());
            let known = keys.each_ref().map(|key| key.public().to_peer_id());
            let [mut ending, staying] = keys.map(|key| {
                let config = NodeConfig::new(key).with_listen(listen.parse().unwrap());
                let context = P2PContext::new(known);
                let build = |_: &NodeBuilder<'_>| Ok::<_, Infallible>((dummy::Behaviour, ()));
                Node::new(config, context, build).unwrap().0
            });
            let controls = [ending.control(), staying.control()];
            let stop = CancellationToken::new();
            let staying = tokio::spawn(staying.run(stop.clone()));
            let talk = async {
                let addresses = controls[1].listening().await.unwrap();
                controls[0].book().set(known[1], addresses);
                let context = ending.context().clone();
                let mut connected = std::pin::pin!(context.connected(known[1]));
                loop {
                    tokio::select! {
                        _ = &mut connected => break,
                        _ = ending.next() => {}
                    }
                }
                ending.farewell().await;
                let addresses = controls[0].addresses().listen;
                controls[1].book().set(known[0], addresses);
                loop {
                    match ending.next().await.unwrap() {
                        // The other side has tried.
                        SwarmEvent::IncomingConnectionError { .. } => break,
                        SwarmEvent::Dialing { .. } => panic!("it dials"),
                        SwarmEvent::ConnectionEstablished { .. } => panic!("it lets in"),
                        _ => {}
                    }
                }
            };
            tokio::time::timeout(LIMIT, talk).await.unwrap();
            stop.cancel();
            staying.await.unwrap();
        }
    }
}
