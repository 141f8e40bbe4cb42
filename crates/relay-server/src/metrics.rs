//! What a relay measures, with Charon's names (p2p spec, section 12); `docs/metrics.md` lists it.
//!
//! - **Owner:** the server makes the registry and serves it; there are no globals.
//! - **Wake-ups:** none. Series with a `peer` are read off the peers when the page is asked for, so
//!   that a cluster that is learned late renames no series by hand.
//! - **Bounds:** at most [`MAX_PEERS`] peers have series of their own, all further ones share
//!   [`OTHER`], which is of no cluster. The label of a cluster is seven hex digits, and a peer has one.
//! - **Disconnect:** the series of a peer go with its last connection, as Charon's do.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use libp2p::PeerId;
use pluto_p2p::{metrics::Registrar, relay::wire::pb::Status};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, text},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Peers with series of their own; chosen freely, about 250 clusters of four.
pub const MAX_PEERS: usize = 1024;
/// The label of all others.
pub const OTHER: &str = "other";
/// The cluster of a peer that does not say.
const UNKNOWN: &str = "unknown";

/// The default buckets of Prometheus, in seconds.
const BUCKETS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// What is measured of one peer.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    active: AtomicI64,
    connected: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    /// Whether it is that of many peers, who may be of several clusters.
    shared: bool,
    learned: Mutex<Learned>,
}

#[derive(Debug, Default)]
struct Learned {
    cluster: String,
    latency: [u64; BUCKETS.len() + 1],
    latency_sum: f64,
}

impl Meter {
    pub(crate) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The peer has told its cluster, or that it tells none.
    pub(crate) fn in_cluster(&self, cluster: Option<String>) {
        if self.shared {
            return;
        }
        self.learned().cluster = cluster.unwrap_or_else(|| UNKNOWN.to_owned());
    }

    fn pinged(&self, rtt: Duration) {
        // One way, as Charon tells it.
        let seconds = rtt.as_secs_f64() / 2.0;
        let mut learned = self.learned();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound);
        learned.latency[bucket.unwrap_or(BUCKETS.len())] += 1;
        learned.latency_sum += seconds;
    }

    fn learned(&self) -> std::sync::MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.received), read(&self.sent))
    }
}

/// Bytes of all circuits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transferred(Counter);

impl Transferred {
    pub(crate) fn add(&self, bytes: u64) {
        self.0.inc_by(bytes);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByType {
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStatus {
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

/// Labels `peer` and `peer_cluster`.
type OfPeer<'a> = [(&'static str, &'a str); 2];

/// The metrics of one relay. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Metrics {
    peers: Arc<Peers>,
    status: Gauge,
    reservations: Family<ByType, Counter>,
    reservation_answers: Family<ByStatus, Counter>,
    reservation_rejections: Family<ByReason, Counter>,
    circuits: Family<ByType, Counter>,
    circuit_answers: Family<ByStatus, Counter>,
    circuit_rejections: Family<ByReason, Counter>,
    circuit_duration: Histogram,
    pub(crate) transferred: Transferred,
}

impl Metrics {
    /// Registers them.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let peers = Arc::<Peers>::default();
        registry.register_collector(Box::new(PeersCollector(peers.clone())));
        let mut relay = Registrar(registry.sub_registry_with_prefix("libp2p_relaysvc"));
        Self {
            peers,
            status: relay.make("status", "Whether places and circuits are given"),
            reservations: relay.make(
                "reservations",
                "Places that were opened, renewed and closed",
            ),
            reservation_answers: relay.make(
                "reservation_request_response_status",
                "Answers to who asked for a place",
            ),
            reservation_rejections: relay.make("reservation_rejections", "Why no place was given"),
            circuits: relay.make("connections", "Circuits that were opened and closed"),
            circuit_answers: relay.make(
                "connection_request_response_status",
                "Answers to who asked for a circuit",
            ),
            circuit_rejections: relay.make("connection_rejections", "Why there was no circuit"),
            // From seconds to the hour that a circuit may run.
            circuit_duration: relay.add(
                "connection_duration_seconds",
                "How long circuits ran",
                Histogram::new([1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0]),
            ),
            transferred: Transferred(relay.make(
                "data_transferred_bytes",
                "Bytes passed on, both ways together",
            )),
        }
    }

    /// Whether the relay serves.
    pub(crate) fn serving(&self, serving: bool) {
        self.status.set(i64::from(serving));
    }

    /// A connection of a peer is there.
    pub(crate) fn connected(&self, peer: PeerId) -> Arc<Meter> {
        let meter = self.peers.meter(peer);
        meter.connected.fetch_add(1, Ordering::Relaxed);
        meter.active.fetch_add(1, Ordering::Relaxed);
        meter
    }

    /// It is gone; `last` if it was the peer's last one.
    pub(crate) fn disconnected(&self, peer: PeerId, meter: &Meter, last: bool) {
        meter.active.fetch_sub(1, Ordering::Relaxed);
        if last {
            self.peers.lock().remove(&peer);
        }
    }

    /// The peer answered a ping.
    pub(crate) fn pinged(&self, peer: PeerId, rtt: Duration) {
        let meter = self.peers.lock().get(&peer).cloned();
        meter
            .unwrap_or_else(|| self.peers.others.clone())
            .pinged(rtt);
    }

    pub(crate) fn reserved(&self, renewal: bool) {
        let r#type = if renewal { "renewed" } else { "opened" };
        self.reservations.get_or_create(&ByType { r#type }).inc();
        answered(&self.reservation_answers, Status::Ok);
    }

    pub(crate) fn reservation_refused(&self, status: Status, reason: &'static str) {
        answered(&self.reservation_answers, status);
        self.reservation_rejections
            .get_or_create(&ByReason { reason })
            .inc();
    }

    pub(crate) fn reservation_closed(&self) {
        let closed = ByType { r#type: "closed" };
        self.reservations.get_or_create(&closed).inc();
    }

    pub(crate) fn circuit_opened(&self) {
        let opened = ByType { r#type: "opened" };
        self.circuits.get_or_create(&opened).inc();
        answered(&self.circuit_answers, Status::Ok);
    }

    pub(crate) fn circuit_refused(&self, status: Status, reason: &'static str) {
        answered(&self.circuit_answers, status);
        self.circuit_rejections
            .get_or_create(&ByReason { reason })
            .inc();
    }

    pub(crate) fn circuit_closed(&self, after: Duration) {
        let closed = ByType { r#type: "closed" };
        self.circuits.get_or_create(&closed).inc();
        self.circuit_duration.observe(after.as_secs_f64());
    }
}

fn answered(family: &Family<ByStatus, Counter>, status: Status) {
    let status = match status {
        Status::Ok => "ok",
        Status::ConnectionFailed | Status::UnexpectedMessage => "error",
        _ => "rejected",
    };
    family.get_or_create(&ByStatus { status }).inc();
}

/// The page of a registry.
pub(crate) fn page(registry: &Registry) -> Result<String, fmt::Error> {
    let mut page = String::new();
    text::encode(&mut page, registry)?;
    Ok(page)
}

/// The peers that are connected.
#[derive(Debug)]
struct Peers {
    each: Mutex<HashMap<PeerId, Arc<Meter>>>,
    others: Arc<Meter>,
}

impl Default for Peers {
    fn default() -> Self {
        let others = Meter {
            shared: true,
            ..Meter::default()
        };
        Self {
            each: Mutex::default(),
            others: Arc::new(others),
        }
    }
}

impl Peers {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PeerId, Arc<Meter>>> {
        self.each.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meter(&self, peer: PeerId) -> Arc<Meter> {
        let mut each = self.lock();
        if let Some(meter) = each.get(&peer) {
            return meter.clone();
        }
        if each.len() >= MAX_PEERS {
            return self.others.clone();
        }
        each.entry(peer).or_default().clone()
    }
}

/// The name and help of a counter, and where it stands.
type CounterOfPeer = (&'static str, &'static str, fn(&Meter) -> &AtomicU64);

/// For the registry, which wants to own what it asks.
#[derive(Debug)]
struct PeersCollector(Arc<Peers>);

impl Collector for PeersCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut peers: Vec<(String, Arc<Meter>)> = self
            .0
            .lock()
            .iter()
            .map(|(peer, meter)| (peer.to_string(), meter.clone()))
            .collect();
        peers.sort_by(|one, other| one.0.cmp(&other.0));
        if self.0.others.connected.load(Ordering::Relaxed) > 0 {
            peers.push((OTHER.to_owned(), self.0.others.clone()));
        }
        let counters: [CounterOfPeer; 3] = [
            ("relay_p2p_connection", "Connections of a peer", |meter| {
                &meter.connected
            }),
            (
                "relay_p2p_network_receive_bytes",
                "Bytes received from a peer on circuits",
                |meter| &meter.received,
            ),
            (
                "relay_p2p_network_sent_bytes",
                "Bytes sent to a peer on circuits",
                |meter| &meter.sent,
            ),
        ];
        for (name, help, of) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (peer, meter) in &peers {
                let learned = meter.learned();
                let labels: OfPeer<'_> = [("peer", peer), ("peer_cluster", &learned.cluster)];
                let value = of(meter).load(Ordering::Relaxed);
                family
                    .encode_family(&labels)?
                    .encode_counter::<OfPeer<'_>, u64, u64>(&value, None)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "relay_p2p_active_connections",
            "Open connections of a peer",
            None,
            MetricType::Gauge,
        )?;
        for (peer, meter) in &peers {
            let learned = meter.learned();
            let labels: OfPeer<'_> = [("peer", peer), ("peer_cluster", &learned.cluster)];
            let value = meter.active.load(Ordering::Relaxed);
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        let mut family = encoder.encode_descriptor(
            "relay_p2p_ping_latency",
            "Half of the round-trip time of each ping, in seconds",
            None,
            MetricType::Histogram,
        )?;
        for (peer, meter) in &peers {
            let learned = meter.learned();
            let labels: OfPeer<'_> = [("peer", peer), ("peer_cluster", &learned.cluster)];
            let bounds = BUCKETS.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(learned.latency).collect();
            let count = learned.latency.iter().sum();
            family
                .encode_family(&labels)?
                .encode_histogram::<OfPeer<'_>>(learned.latency_sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_beyond_the_bound_share_series_that_are_of_no_cluster() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let own = metrics.connected(PeerId::random());
        own.in_cluster(Some("abcdef1".to_owned()));
        for _ in 1..MAX_PEERS {
            metrics.connected(PeerId::random());
        }
        for cluster in ["1111111", "2222222"] {
            let meter = metrics.connected(PeerId::random());
            meter.in_cluster(Some(cluster.to_owned()));
        }

        let page = page(&registry).unwrap();
        assert!(page.contains(r#"peer_cluster="abcdef1""#));
        let series = r#"relay_p2p_active_connections{peer="other",peer_cluster=""} 2"#;
        assert!(page.contains(series), "{page}");
        assert!(!page.contains("1111111") && !page.contains("2222222"));
    }
}
