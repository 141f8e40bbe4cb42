//! What a node measures, with Charon's names (p2p spec, section 12); `docs/metrics.md` lists it.
//!
//! - **Owner:** the caller owns the registry; [`NodeConfig::with_metrics`](crate::NodeConfig::with_metrics)
//!   gives the metrics to a node, and its context hands them to what measures. There are no globals.
//! - **Wake-ups:** none; every value changes with the event that it tells of.
//! - **Bounds:** a series with a `peer` exists for the members of the cluster other than this node,
//!   and in `p2p_relay_connection_types` for at most [`MAX_STRANGERS`] others. At most
//!   [`MAX_PROTOCOLS`] ids are told apart.
//! - **Disconnect:** connections and streams are counted down; counters stay.
//!
//! [`MAX_STRANGERS`]: crate::p2p_context::MAX_STRANGERS

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use libp2p::{PeerId, autonat::NatStatus};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Metric, Registry},
};

use crate::{addr::Transport, p2p_context::PeerView};

/// Protocol ids that are told apart in labels; a node speaks about twenty. The label of all
/// further ones is [`OTHER`].
pub const MAX_PROTOCOLS: usize = 64;
/// The protocol beyond [`MAX_PROTOCOLS`].
pub const OTHER: &str = "other";

/// The default buckets of Prometheus, in seconds.
const PING_BUCKETS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Transports of a connection, as labels.
const TRANSPORTS: [Transport; 3] = [Transport::Tcp, Transport::Quic, Transport::Other];

/// The metrics `p2p_*` of one node. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Metrics {
    ping_latency: Family<ByPeer, Histogram, fn() -> Histogram>,
    ping_errors: Family<ByPeer, Counter>,
    ping_success: Family<ByPeer, Gauge>,
    reachability: Gauge,
    peer_connections: Family<ConnectionsOf, Gauge>,
    relay_connections: Family<ConnectionsOf, Gauge>,
    reservations: Family<ByPeer, Gauge>,
    connected: Family<ByPeer, Counter>,
    streams: Family<StreamsOf, Gauge>,
    received: Family<BytesOf, Counter>,
    sent: Family<BytesOf, Counter>,
    send_duration: Family<SendsOf, Histogram, fn() -> Histogram>,
    protocols: Arc<Mutex<BTreeSet<Arc<str>>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPeer {
    peer: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionsOf {
    peer: Arc<str>,
    r#type: &'static str,
    protocol: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamsOf {
    peer: Arc<str>,
    direction: &'static str,
    protocol: Arc<str>,
    transport: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BytesOf {
    peer: Arc<str>,
    protocol: Arc<str>,
    transport: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SendsOf {
    peer: Arc<str>,
    protocol: Arc<str>,
    topic: &'static str,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        // The encoder appends `_total` to the names of counters.
        let mut p2p = Registrar(registry.sub_registry_with_prefix("p2p"));
        Self {
            ping_latency: p2p.add(
                "ping_latency_secs",
                "Round-trip times of pings",
                Family::new_with_constructor(|| Histogram::new(PING_BUCKETS)),
            ),
            ping_errors: p2p.make("ping_error", "Pings that were not answered"),
            ping_success: p2p.make("ping_success", "Whether the peer answers pings now"),
            reachability: p2p.make(
                "reachability_status",
                "What AutoNAT found: unknown 0, public 1, private 2",
            ),
            peer_connections: p2p.make(
                "peer_connection_types",
                "Open connections to members of the cluster, by path and transport",
            ),
            relay_connections: p2p.make(
                "relay_connection_types",
                "Open connections to other peers, by path and transport",
            ),
            reservations: p2p.make(
                "relay_connections",
                "Whether a reservation on the relay is held, so that peers can reach this node \
                 through it",
            ),
            connected: p2p.make("peer_connection", "Connections established with the peer"),
            streams: p2p.make("peer_streams", "Open streams whose protocol is agreed on"),
            received: p2p.make(
                "peer_network_receive_bytes",
                "Bytes received on streams of the peer",
            ),
            sent: p2p.make(
                "peer_network_sent_bytes",
                "Bytes sent on streams of the peer",
            ),
            // 0.1 ms to 13.1 s (p2p spec, section 12).
            send_duration: p2p.add(
                "send_duration_seconds",
                "How long one attempt to send took, from opening the stream to its end",
                Family::new_with_constructor(|| {
                    Histogram::new(exponential_buckets(0.0001, 2.0, 18))
                }),
            ),
            protocols: Arc::default(),
        }
    }

    /// Begins the series of a member that are true before anything has happened.
    pub(crate) fn begin(&self, peer: &PeerView) {
        let by_peer = ByPeer::from(peer.id);
        self.ping_success.get_or_create(&by_peer).set(0);
        let _ = self.ping_errors.get_or_create(&by_peer);
        let _ = self.connected.get_or_create(&by_peer);
        self.set_connections(peer.id, Some(peer));
    }

    pub(crate) fn pinged(&self, peer: PeerId, rtt: Duration) {
        let by_peer = ByPeer::from(peer);
        self.ping_latency
            .get_or_create(&by_peer)
            .observe(rtt.as_secs_f64());
        self.ping_success.get_or_create(&by_peer).set(1);
    }

    /// A ping was missed; `answers` is whether the peer answers on another connection.
    pub(crate) fn ping_failed(&self, peer: PeerId, answers: bool) {
        let by_peer = ByPeer::from(peer);
        self.ping_errors.get_or_create(&by_peer).inc();
        if !answers {
            self.ping_success.get_or_create(&by_peer).set(0);
        }
    }

    pub(crate) fn connected(&self, peer: PeerId) {
        self.connected.get_or_create(&peer.into()).inc();
    }

    /// The last connection to a member is gone, so that it answers nothing.
    pub(crate) fn lost(&self, peer: PeerId) {
        self.ping_success.get_or_create(&peer.into()).set(0);
    }

    /// Whether a reservation on the relay is held; `None` for what is no relay any more.
    pub(crate) fn set_reserved(&self, relay: PeerId, reserved: Option<bool>) {
        let by_peer = ByPeer::from(relay);
        match reserved {
            Some(reserved) => {
                let gauge = self.reservations.get_or_create(&by_peer);
                gauge.set(reserved.into());
            }
            None => {
                self.reservations.remove(&by_peer);
            }
        }
    }

    pub(crate) fn reachable(&self, status: &NatStatus) {
        self.reachability.set(match status {
            NatStatus::Unknown => 0,
            NatStatus::Public(_) => 1,
            NatStatus::Private => 2,
        });
    }

    /// Tells the peer's connections as they are; `None` once it is forgotten.
    ///
    /// A type without a connection has one series, `none`, which is 0, as Charon's. Unlike Charon's
    /// a series whose connections are gone goes with them (p2p spec, W-19).
    pub(crate) fn set_connections(&self, peer: PeerId, state: Option<&PeerView>) {
        let id: Arc<str> = peer.to_string().into();
        let known = state.is_some_and(|state| state.known);
        let family = if known {
            &self.peer_connections
        } else {
            &self.relay_connections
        };
        for (r#type, relayed) in [("direct", false), ("relay", true)] {
            let set = |protocol, count| {
                let labels = ConnectionsOf {
                    peer: id.clone(),
                    r#type,
                    protocol,
                };
                match count {
                    Some(count) => {
                        family.get_or_create(&labels).set(count);
                    }
                    None => {
                        family.remove(&labels);
                    }
                }
            };
            let paths = || {
                let paths = state.into_iter().flat_map(|state| &state.paths);
                paths.filter(move |path| path.is_relayed() == relayed)
            };
            for transport in TRANSPORTS {
                let count = paths().filter(|path| path.transport == transport).count();
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                set(transport.name(), (count > 0).then_some(count));
            }
            let none = state.is_some() && paths().next().is_none();
            set("none", none.then_some(0));
        }
    }

    /// Times one attempt to send, until it is dropped.
    pub(crate) fn attempt(&self, peer: PeerId, protocol: &str) -> Attempt {
        Attempt {
            metrics: self.clone(),
            peer,
            protocol: self.intern(protocol),
            began: Instant::now(),
        }
    }

    /// What is counted of one connection's streams.
    pub(crate) fn link(&self, peer: PeerId, transport: Transport) -> Link {
        Link {
            metrics: self.clone(),
            peer: peer.to_string().into(),
            transport: transport.name(),
        }
    }

    /// One of at most [`MAX_PROTOCOLS`] names.
    fn intern(&self, protocol: &str) -> Arc<str> {
        let mut known = self
            .protocols
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(protocol) {
            return known.clone();
        }
        if known.len() >= MAX_PROTOCOLS {
            return OTHER.into();
        }
        let protocol: Arc<str> = protocol.into();
        known.insert(protocol.clone());
        protocol
    }
}

impl From<PeerId> for ByPeer {
    fn from(peer: PeerId) -> Self {
        Self {
            peer: peer.to_string().into(),
        }
    }
}

/// Registers metrics as they are made.
#[derive(Debug)]
pub struct Registrar<'a>(pub &'a mut Registry);

impl Registrar<'_> {
    /// Makes one that begins empty.
    pub fn make<M: Metric + Clone + Default>(
        &mut self,
        name: &'static str,
        help: &'static str,
    ) -> M {
        self.add(name, help, M::default())
    }

    /// Adds one, and gives it back: the registry's is its clone, and the two count as one.
    pub fn add<M: Metric + Clone>(
        &mut self,
        name: &'static str,
        help: &'static str,
        metric: M,
    ) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }
}

/// One attempt to send. It counts when it is dropped, however it ended.
pub(crate) struct Attempt {
    metrics: Metrics,
    peer: PeerId,
    protocol: Arc<str>,
    began: Instant,
}

impl Attempt {
    /// This id was agreed on.
    pub(crate) fn agreed(&mut self, protocol: &str) {
        if *self.protocol != *protocol {
            self.protocol = self.metrics.intern(protocol);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let labels = SendsOf {
            peer: self.peer.to_string().into(),
            protocol: self.protocol.clone(),
            topic: "",
        };
        self.metrics
            .send_duration
            .get_or_create(&labels)
            .observe(self.began.elapsed().as_secs_f64());
    }
}

/// What the streams of one connection have in common.
#[derive(Debug)]
pub(crate) struct Link {
    metrics: Metrics,
    peer: Arc<str>,
    transport: &'static str,
}

impl Link {
    /// The counters of one protocol: received, sent.
    pub(crate) fn bytes(&self, protocol: &str) -> (Counter, Counter) {
        let labels = BytesOf {
            peer: self.peer.clone(),
            protocol: self.metrics.intern(protocol),
            transport: self.transport,
        };
        (
            self.metrics.received.get_or_create_owned(&labels),
            self.metrics.sent.get_or_create_owned(&labels),
        )
    }

    /// How many streams of one protocol are open.
    pub(crate) fn streams(&self, protocol: &str, direction: &'static str) -> Gauge {
        self.metrics.streams.get_or_create_owned(&StreamsOf {
            peer: self.peer.clone(),
            direction,
            protocol: self.metrics.intern(protocol),
            transport: self.transport,
        })
    }
}

#[cfg(test)]
mod tests {
    use libp2p::{Multiaddr, core::Endpoint, swarm::ConnectionId};
    use prometheus_client::encoding::text;

    use super::*;
    use crate::p2p_context::{P2PContext, Path};

    #[test]
    fn a_peer_answers_as_long_as_one_connection_does() {
        let (peer, id) = (PeerId::random(), ConnectionId::new_unchecked);
        let (context, metrics, _) = measured(peer);
        let writer = context.writer();
        let success = || {
            metrics
                .ping_success
                .get(&peer.into())
                .map(|gauge| gauge.get())
        };
        assert_eq!(success(), Some(0), "before anything has happened");
        for n in [1, 2, 3] {
            writer.connected(peer, path(n, None));
        }
        writer.pinged(peer, id(1), Duration::from_millis(1));
        writer.pinged(peer, id(2), Duration::from_millis(1));

        writer.ping_failed(peer, |silent| silent == id(1));
        assert_eq!(success(), Some(1), "the second answers");
        writer.ping_failed(peer, |silent| silent != id(3));
        assert_eq!(success(), Some(0), "the third never answered");
        assert_eq!(metrics.ping_errors.get(&peer.into()).unwrap().get(), 2);
    }

    #[test]
    fn a_ping_that_is_told_after_its_connection_ended_is_no_answer() {
        let (peer, id) = (PeerId::random(), ConnectionId::new_unchecked(1));
        let (context, metrics, _) = measured(peer);
        let writer = context.writer();
        writer.connected(peer, path(1, None));
        writer.disconnected(peer, id, None);

        writer.pinged(peer, id, Duration::from_millis(1));

        assert_eq!(metrics.ping_success.get(&peer.into()).unwrap().get(), 0);
    }

    #[test]
    fn connections_are_told_by_path_and_transport_as_they_come_and_go() {
        let peer = PeerId::random();
        let (context, _, registry) = measured(peer);
        let writer = context.writer();
        let told = || {
            let mut text = String::new();
            text::encode(&mut text, &registry).unwrap();
            let name = format!("p2p_peer_connection_types{{peer=\"{peer}\",");
            let mut told: Vec<_> = text
                .lines()
                .filter_map(|line| line.strip_prefix(&name))
                .map(str::to_owned)
                .collect();
            told.sort();
            told
        };
        let direct_none = r#"type="direct",protocol="none"} 0"#;
        let direct_tcp = r#"type="direct",protocol="tcp"} 2"#;
        let relay_none = r#"type="relay",protocol="none"} 0"#;
        let relay_tcp = r#"type="relay",protocol="tcp"} 1"#;
        assert_eq!(told(), [direct_none, relay_none]);

        writer.connected(peer, path(1, Some(PeerId::random())));
        assert_eq!(told(), [direct_none, relay_tcp]);
        writer.connected(peer, path(2, None));
        writer.connected(peer, path(3, None));
        assert_eq!(told(), [direct_tcp, relay_tcp]);
        writer.disconnected(peer, ConnectionId::new_unchecked(1), None);
        assert_eq!(told(), [direct_tcp, relay_none]);
        writer.gone();
        assert_eq!(told(), [direct_none, relay_none]);
    }

    #[test]
    fn neither_this_node_nor_a_stranger_has_series_of_its_own() {
        let (local, stranger) = (PeerId::random(), PeerId::random());
        let context = P2PContext::new([local]);
        context.bind(local).unwrap();
        let mut registry = Registry::default();
        context.measure(Metrics::register(&mut registry));
        let writer = context.writer();

        writer.connected(stranger, path(1, None));
        writer.pinged(stranger, ConnectionId::new_unchecked(1), Duration::ZERO);
        writer.ping_failed(stranger, |_| true);
        writer.disconnected(stranger, ConnectionId::new_unchecked(1), None);

        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        assert!(!text.contains("peer="), "{text}");
    }

    #[test]
    fn reachability_has_charons_numbers() {
        let metrics = Metrics::register(&mut Registry::default());
        let public = NatStatus::Public(Multiaddr::empty());
        for (status, number) in [
            (public, 1),
            (NatStatus::Private, 2),
            (NatStatus::Unknown, 0),
        ] {
            metrics.reachable(&status);
            assert_eq!(metrics.reachability.get(), number, "{status:?}");
        }
    }

    #[test]
    fn protocols_beyond_the_bound_share_one_name() {
        let metrics = Metrics::register(&mut Registry::default());
        for n in 0..MAX_PROTOCOLS {
            assert_eq!(*metrics.intern(&format!("/p/{n}")), format!("/p/{n}"));
        }
        assert_eq!(&*metrics.intern("/one/more"), OTHER);
        assert_eq!(&*metrics.intern("/p/0"), "/p/0");
    }

    fn measured(peer: PeerId) -> (P2PContext, Metrics, Registry) {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let context = P2PContext::new([peer]);
        context.measure(metrics.clone());
        (context, metrics, registry)
    }

    fn path(n: usize, relay: Option<PeerId>) -> Path {
        Path::new(
            ConnectionId::new_unchecked(n),
            Endpoint::Dialer,
            relay,
            Transport::Tcp,
            Multiaddr::empty(),
        )
    }
}
