//! The relay: a node whose gate is open, its pages, and its end.
//!
//! - **Owner:** [`RelayServer::run`] owns the node and the tasks of the pages, and joins them.
//! - **Wake-ups:** the node, its token, [`Control`], and the end of the drain.
//! - **Bounds:** [`Limits`](crate::Limits) and what follows from them for connections and handshakes.
//! - **Cancellation:** cancelling the token begins the drain, and [`Control::stop`] ends it at once.
//!   Dropping the future drops everything at once: connections break without a goodbye.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use libp2p::{Multiaddr, PeerId, autonat, multiaddr::Protocol, ping, swarm::SwarmEvent};
use pluto_p2p::{
    Node, NodeConfig, NodeError, P2PContext,
    addr::{ip_of, is_private},
    behaviours::pluto::PlutoBehaviourEvent,
    gater, identity,
    p2p_context::NodeGone,
};
use prometheus_client::registry::Registry;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    hop::behaviour::{Behaviour, Event},
    http::{self, Pages},
    metrics::Metrics,
};

/// Handshakes that are under way at a time.
const MAX_PENDING: usize = 1024;
/// The same from one IP address, at least: clusters may share one.
const MIN_PENDING_PER_IP: usize = 32;
/// Connections beside those for places: of peers that look, ask for a circuit, or change their path.
const SPARE_CONNECTIONS: u32 = 1024;

/// How long a relay that listens on all interfaces waits for a public one before it takes the private
/// ones for all there are; the system tells of them one after another, within milliseconds.
const SETTLE: Duration = Duration::from_millis(500);

/// Why a relay does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// There is nothing to reach it at.
    #[error("a relay needs an address to listen on")]
    NoListener,
    /// Its pages cannot be served there.
    #[error("cannot serve HTTP on {address} (is the port taken by another process?)")]
    Http {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The node cannot be built.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Where a relay is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not all of its addresses are bound.
    Starting,
    /// It gives places and circuits.
    Serving,
    /// It gives nothing new. Circuits that run may do so until then.
    Draining {
        /// The end of it.
        until: Instant,
    },
    /// It is gone.
    Ended,
}

/// Whether peers elsewhere can reach a relay, as far as it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It has addresses that may be reached from everywhere, and nothing speaks against that.
    Claimed,
    /// All its addresses are private.
    NothingPublic,
    /// Peers have tried, and did not reach it.
    Private,
    /// Peers have reached it.
    Public,
}

/// What a relay is and does at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Where it is in its life.
    pub phase: Phase,
    /// What clients are told, each with the relay's peer id.
    pub addresses: Vec<Multiaddr>,
    /// Whether peers elsewhere can reach it.
    pub reach: Reach,
    /// Open connections.
    pub connections: usize,
    /// Places that are held.
    pub reservations: usize,
    /// Circuits that run.
    pub circuits: usize,
}

impl State {
    /// Whether it serves, and there is something to tell clients.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Serving && !self.addresses.is_empty()
    }
}

/// How a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// No circuit was running any more.
    Drained,
    /// The time for circuits was over, and these were cut.
    TimeUp {
        /// How many.
        circuits: usize,
    },
    /// [`Control::stop`] cut these.
    Stopped {
        /// How many.
        circuits: usize,
    },
}

/// A handle on a relay. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Control {
    peer: PeerId,
    http: Option<SocketAddr>,
    monitoring: Option<SocketAddr>,
    state: watch::Receiver<State>,
    drain: CancellationToken,
    stop: CancellationToken,
}

impl Control {
    /// The relay's peer id.
    pub fn peer_id(&self) -> PeerId {
        self.peer
    }

    /// Where `/` and `/enr` are.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Where `/metrics` is.
    pub fn monitoring_address(&self) -> Option<SocketAddr> {
        self.monitoring
    }

    /// What it is and does at the moment.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until the predicate gives something, now or after a change.
    ///
    /// # Errors
    ///
    /// When the relay is gone.
    pub async fn wait_for<T>(
        &self,
        mut predicate: impl FnMut(&State) -> Option<T>,
    ) -> Result<T, NodeGone> {
        let mut state = self.state.clone();
        loop {
            let found = predicate(&state.borrow_and_update());
            match found {
                Some(found) => return Ok(found),
                None => state.changed().await.map_err(|_| NodeGone)?,
            }
        }
    }

    /// Waits until it serves, and gives what clients are told.
    ///
    /// # Errors
    ///
    /// When the relay is gone.
    pub async fn ready(&self) -> Result<Vec<Multiaddr>, NodeGone> {
        self.wait_for(|state| state.is_ready().then(|| state.addresses.clone()))
            .await
    }

    /// Begins the end: see [`RelayServer::run`].
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Ends it now, whatever runs.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

/// A relay that does not run yet; its HTTP ports are bound.
pub struct RelayServer {
    node: Node<Behaviour>,
    control: Control,
    state: watch::Sender<State>,
    metrics: Metrics,
    tasks: Tasks,
    drain: Duration,
    advertise_private: bool,
    /// How long it waits for a public address.
    settle: Duration,
    /// When it has waited long enough.
    settled: Option<Instant>,
}

impl std::fmt::Debug for RelayServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayServer")
            .field("peer", &self.control.peer)
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

/// What runs beside the node.
struct Tasks {
    pages: Vec<(std::net::TcpListener, axum::Router)>,
    host: Option<(String, watch::Sender<Option<std::net::Ipv4Addr>>)>,
}

impl RelayServer {
    /// Builds a relay and binds its ports. Call it inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// When a port is taken, or the configuration makes no relay.
    pub fn new(config: Config) -> Result<Self, RelayError> {
        if config.listen.is_empty() {
            return Err(RelayError::NoListener);
        }
        let key = identity::keypair(&config.key);
        let peer = key.public().to_peer_id();
        let mut registry = Registry::default();
        let labelled =
            registry.sub_registry_with_label(("relay_peer".into(), peer.to_string().into()));
        let metrics = Metrics::register(labelled);

        let everywhere = config
            .listen
            .iter()
            .any(|address| ip_of(address).is_some_and(|ip| ip.is_unspecified()));
        let limits = &config.limits;
        let node_config = NodeConfig {
            listen: config.listen.clone(),
            external_ip: config.external_ip,
            external_host: config.external_host.clone(),
            // What is private and told all the same, the behaviour tells.
            filter_private_addrs: true,
            gater: gater::Config {
                mode: gater::Mode::Open,
                max_pending: MAX_PENDING,
                max_pending_per_ip: (limits.max_reservations_per_ip / 2)
                    .clamp(MIN_PENDING_PER_IP, MAX_PENDING / 2),
            },
            max_connections: u32::try_from(limits.max_reservations)
                .unwrap_or(u32::MAX)
                .saturating_mul(2)
                .saturating_add(SPARE_CONNECTIONS),
            metrics: Some(pluto_p2p::Metrics::register(labelled)),
            ..NodeConfig::new(key)
        };
        let limits = config.limits.clone();
        let measured = metrics.clone();
        let (node, ()) = Node::new_server(node_config, P2PContext::default(), |builder| {
            let behaviour = Behaviour::new(builder.local_peer_id(), limits, measured);
            Ok::<_, Infallible>((behaviour, ()))
        })?;

        let state = watch::Sender::new(State {
            phase: Phase::Starting,
            addresses: Vec::new(),
            reach: Reach::Claimed,
            connections: 0,
            reservations: 0,
            circuits: 0,
        });
        let ip = watch::Sender::new(match config.external_ip {
            Some(IpAddr::V4(ip)) => Some(ip),
            _ => None,
        });
        let pages = Pages {
            state: state.subscribe(),
            key: config.key.clone(),
            ip: ip.subscribe(),
            registry: Arc::new(registry),
        };
        let bind = |address: SocketAddr| {
            let failed = |source| RelayError::Http { address, source };
            let listener = http::bind(address).map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            Ok::<_, RelayError>((listener, bound))
        };
        let http = config.http.map(bind).transpose()?;
        let monitoring = config.monitoring.map(bind).transpose()?;
        let control = Control {
            peer,
            http: http.as_ref().map(|(_, bound)| *bound),
            monitoring: monitoring.as_ref().map(|(_, bound)| *bound),
            state: state.subscribe(),
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
        };
        let clients = http.map(|(listener, _)| (listener, http::clients(pages.clone())));
        let operators = monitoring.map(|(listener, _)| (listener, http::monitoring(pages)));
        let named = config
            .external_host
            .filter(|_| config.external_ip.is_none());
        Ok(Self {
            node,
            control,
            state,
            metrics,
            tasks: Tasks {
                pages: clients.into_iter().chain(operators).collect(),
                host: named.map(|host| (host, ip)),
            },
            drain: config.drain,
            advertise_private: config.advertise_private,
            settle: if everywhere { SETTLE } else { Duration::ZERO },
            settled: None,
        })
    }

    /// A handle that outlives the call to [`run`](Self::run).
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Runs until cancelled or told to drain, and then until its end.
    ///
    /// From then on no connection, place or circuit is given, the TCP ports are free for a
    /// successor,
    /// `/readyz` answers 503, and who carries no circuit is sent away. Once no circuit runs any more,
    /// or their time is over, or [`Control::stop`] is called, all connections are closed.
    pub async fn run(mut self, cancel: CancellationToken) -> Outcome {
        let over = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for (listener, pages) in std::mem::take(&mut self.tasks.pages) {
            tasks.spawn(http::serve(listener, pages, over.clone()));
        }
        if let Some((host, ip)) = self.tasks.host.take() {
            tasks.spawn(http::resolve(host, ip, over.clone()));
        }
        if self.advertise_private
            && let Some(hop) = self.node.behaviour_mut().inner.as_mut()
        {
            hop.advertise_private();
        }

        let outcome = self.serve(&cancel).await;
        self.metrics.serving(false);
        self.state.send_modify(|state| state.phase = Phase::Ended);
        let Self { node, .. } = self;
        // A node that is told to end says goodbye to everybody first.
        let told = CancellationToken::new();
        told.cancel();
        node.run(told).await;
        over.cancel();
        while tasks.join_next().await.is_some() {}
        outcome
    }

    async fn serve(&mut self, cancel: &CancellationToken) -> Outcome {
        let Control { drain, stop, .. } = self.control.clone();
        let mut until = None;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    return Outcome::Stopped { circuits: self.circuits() };
                }
                () = cancel.cancelled(), if until.is_none() => until = Some(self.begin_drain()),
                () = drain.cancelled(), if until.is_none() => until = Some(self.begin_drain()),
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    return Outcome::TimeUp { circuits: self.circuits() };
                }
                () = sleep_until(self.settled.unwrap_or_else(Instant::now)), if self.settled.is_some() => {
                    self.on_settled();
                }
                event = self.node.next() => {
                    // A swarm has no end.
                    if let Some(event) = event {
                        self.on_event(event);
                    }
                }
            }
            self.publish();
            if until.is_some() && self.circuits() == 0 {
                return Outcome::Drained;
            }
        }
    }

    fn begin_drain(&mut self) -> Instant {
        let until = Instant::now() + self.drain;
        if let Some(hop) = self.node.behaviour_mut().inner.as_mut() {
            hop.drain();
        }
        self.state
            .send_modify(|state| state.phase = Phase::Draining { until });
        tracing::info!(circuits = self.circuits(), drain = ?self.drain, "shutting down");
        until
    }

    fn circuits(&self) -> usize {
        self.state.borrow().circuits
    }

    fn on_event(&mut self, event: SwarmEvent<PlutoBehaviourEvent<Behaviour>>) {
        match event {
            SwarmEvent::NewListenAddr { .. } => self.on_bound(),
            SwarmEvent::Behaviour(PlutoBehaviourEvent::Autonat(
                autonat::Event::StatusChanged { new, .. },
            )) => {
                let reach = match new {
                    autonat::NatStatus::Public(_) => Reach::Public,
                    autonat::NatStatus::Private => Reach::Private,
                    autonat::NatStatus::Unknown => return,
                };
                self.state.send_modify(|state| state.reach = reach);
            }
            SwarmEvent::Behaviour(PlutoBehaviourEvent::Ping(ping::Event {
                peer,
                result: Ok(rtt),
                ..
            })) => self.metrics.pinged(peer, rtt),
            SwarmEvent::Behaviour(PlutoBehaviourEvent::Inner(event)) => log(&event),
            _ => {}
        }
    }

    /// One more address is bound. After the last one it is known what there is to tell.
    fn on_bound(&mut self) {
        let all = self.node.control().listening().now_or_never();
        if self.state.borrow().phase != Phase::Starting || all.is_none() {
            return;
        }
        let told = self.advertised();
        if self.settle.is_zero() || !told.iter().all(is_private) {
            self.on_settled();
        } else if self.settled.is_none() {
            self.settled = Some(Instant::now() + self.settle);
        }
    }

    /// It is known what there is to tell.
    fn on_settled(&mut self) {
        self.settled = None;
        let told = self.advertised();
        if told.is_empty()
            && let Some(hop) = self.node.behaviour_mut().inner.as_mut()
        {
            hop.advertise_private();
        }
        // Who is told that it serves is told where.
        self.publish();
        self.state.send_modify(|state| {
            if told.iter().all(is_private) {
                state.reach = Reach::NothingPublic;
            }
            if state.phase == Phase::Starting {
                state.phase = Phase::Serving;
            }
        });
    }

    fn advertised(&mut self) -> Vec<Multiaddr> {
        let hop = self.node.behaviour_mut().inner.as_ref();
        hop.map(Behaviour::advertised).unwrap_or_default()
    }

    /// Shows what has changed.
    fn publish(&mut self) {
        let Some(hop) = self.node.behaviour_mut().inner.as_mut() else {
            return;
        };
        let counts = hop.counts();
        let told = hop.advertised();
        let peer = Protocol::P2p(self.control.peer);
        self.state.send_if_modified(|state| {
            let before = state.clone();
            state.addresses = told
                .into_iter()
                .map(|told| told.with(peer.clone()))
                .collect();
            state.connections = counts.connections;
            state.reservations = counts.reservations;
            state.circuits = counts.circuits;
            *state != before
        });
    }
}

fn log(event: &Event) {
    match event {
        Event::Reserved {
            peer,
            renewal: false,
        } => tracing::debug!(%peer, "a place was given"),
        Event::Reserved {
            peer,
            renewal: true,
        } => tracing::trace!(%peer, "a place was renewed"),
        Event::ReservationRefused { peer, why } => {
            tracing::debug!(%peer, %why, "no place was given")
        }
        Event::ReservationLost { peer } => tracing::debug!(%peer, "a place is not held any more"),
        Event::CircuitOpened { src, dst } => tracing::debug!(%src, %dst, "a circuit was opened"),
        Event::CircuitRefused { src, dst, why } => {
            tracing::debug!(%src, %dst, %why, "a circuit was refused");
        }
        Event::CircuitFailed { src, dst } => {
            tracing::debug!(%src, %dst, "a circuit did not come about");
        }
        Event::CircuitEnded { src, dst, how } => {
            tracing::debug!(%src, %dst, %how, "a circuit ended");
        }
    }
}
