//! What nodes measure, read as a scraper reads it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::Duration,
};

use libp2p::{PeerId, StreamProtocol, identity::Keypair};
use pluto_p2p::{
    Metrics, NodeConfig, RelaySource,
    exchange::{Budget, Handle, Inbound, Protocol, Repeat, Shape, Slot, exchange},
    gater,
    proto::Frame,
};
use pluto_testkit::{LIMIT, Link, RawPeer, TCP, TRANSPORTS, TestNode, config, ids, keys, within};
use prometheus_client::{encoding::text, registry::Registry};
use serde_json::Value;
use tokio::time::Instant;

const ASK: &str = "/test/ask/1";
const FILE: &str = "charon/metrics.json";
const PAGE: &str = include_str!("../../../docs/metrics.md");
/// Where the page goes on to what is absent.
const ABSENT: &str = "\n## What is absent";
/// Added by Charon to every metric of a node or of a relay (p2p spec, section 12).
const CONSTANT: [&str; 7] = [
    "charon_version",
    "cluster_hash",
    "cluster_name",
    "cluster_network",
    "cluster_peer",
    "nickname",
    "relay_peer",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_counted_on_both_sides_over_tcp_and_over_quic() {
    for listen in TRANSPORTS {
        let transport = if listen == TCP { "tcp" } else { "quic" };
        let [mut a, mut b] = pair(listen).await;
        let by_protocol = |peer| [("peer", peer), ("protocol", ASK), ("transport", transport)];
        let (id_a, id_b) = (a.name(), b.name());

        a.asks(&mut b, &[7; 10_000]).await;
        let sent = a
            .shows("p2p_peer_network_sent_bytes_total", &by_protocol(&id_b))
            .await;
        assert!(sent > 10_000.0, "{sent}");
        assert!(
            sent < 11_000.0,
            "{sent} is more than a frame and its negotiation"
        );
        let received = b
            .shows("p2p_peer_network_receive_bytes_total", &by_protocol(&id_a))
            .await;
        assert_eq!(received, sent);

        a.asks(&mut b, &[7; 10_000]).await;
        let page = a.page();
        let twice = page.value("p2p_peer_network_sent_bytes_total", &by_protocol(&id_b));
        assert_eq!(twice, Some(2.0 * sent));

        for (node, other) in [(&a, &id_b), (&b, &id_a)] {
            let by_peer = [("peer", other.as_str())];
            assert_eq!(node.shows("p2p_ping_success", &by_peer).await, 1.0);
            assert!(node.shows("p2p_ping_latency_secs_count", &by_peer).await >= 1.0);
            assert!(node.shows("p2p_peer_connection_total", &by_peer).await >= 1.0);
            let path = |r#type, protocol| {
                [
                    ("peer", other.as_str()),
                    ("type", r#type),
                    ("protocol", protocol),
                ]
            };
            let name = "p2p_peer_connection_types";
            assert!(node.shows(name, &path("direct", transport)).await >= 1.0);
            assert_eq!(node.page().value(name, &path("direct", "none")), None);
            assert_eq!(node.page().value(name, &path("relay", "none")), Some(0.0));
            for direction in ["Inbound", "Outbound"] {
                let ping = [
                    ("peer", other.as_str()),
                    ("direction", direction),
                    ("protocol", "/ipfs/ping/1.0.0"),
                    ("transport", transport),
                ];
                node.shows("p2p_peer_streams", &ping).await;
            }
        }
        let sends = [("peer", id_b.as_str()), ("protocol", ASK), ("topic", "")];
        a.reaches("p2p_send_duration_seconds_count", &sends, 2.0)
            .await;
        assert_eq!(a.page().value("p2p_reachability_status", &[]), Some(0.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_takes_its_series_with_it() {
    let [mut a, mut b] = pair(TCP).await;
    a.asks(&mut b, b"here?").await;
    let peer = b.name();
    let by_peer = [("peer", peer.as_str())];
    let none = [
        ("peer", peer.as_str()),
        ("type", "direct"),
        ("protocol", "none"),
    ];
    a.reaches("p2p_ping_success", &by_peer, 1.0).await;

    b.node.stop().await;

    a.reaches("p2p_peer_connection_types", &none, 0.0).await;
    a.reaches("p2p_ping_success", &by_peer, 0.0).await;
    let page = a.page();
    for protocol in ["tcp", "quic", "unknown"] {
        let labels = [
            ("peer", peer.as_str()),
            ("type", "direct"),
            ("protocol", protocol),
        ];
        assert_eq!(page.value("p2p_peer_connection_types", &labels), None);
    }
    assert!(page.value("p2p_peer_connection_total", &by_peer) >= Some(1.0));
    let closed = || {
        let page = a.page();
        let mut streams = page.of("p2p_peer_streams");
        streams.all(|series| series.value == 0.0).then_some(())
    };
    eventually(closed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_into_a_silent_path_are_counted_as_errors() {
    let [key_a, key_b] = keys();
    let known = ids(&[key_a.clone(), key_b.clone()]);
    // Nothing but the link leads to it.
    let mut hidden = config(&key_b, &[TCP]);
    hidden.filter_private_addrs = true;
    let b = Measured::start(hidden, &known).await;
    let link = Link::to(&b.node.addresses[0]).await;
    let mut quick = NodeConfig::new(key_a);
    quick.ping_interval = Duration::from_millis(100);
    quick.ping_timeout = Duration::from_millis(400);
    let a = Measured::start(quick, &known).await;
    a.node.control.book().set(b.node.id(), vec![link.address()]);
    let peer = b.name();
    let by_peer = [("peer", peer.as_str())];
    a.reaches("p2p_ping_success", &by_peer, 1.0).await;

    link.fall_silent();

    a.reaches("p2p_ping_success", &by_peer, 0.0).await;
    a.reaches("p2p_ping_error_total", &by_peer, 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_before_a_closed_gate_has_no_series() {
    let [key_a, key_b, stranger] = keys();
    let known = ids(&[key_a.clone(), key_b]);
    let a = Measured::start(config(&key_a, &[TCP]), &known).await;
    let mut stranger = RawPeer::start(stranger).await;

    if stranger.dial(a.node.id(), &a.node.addresses[0]).await {
        stranger.closed(a.node.id()).await;
    }

    let page = a.text();
    assert!(!page.contains(&stranger.id().to_string()), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_in_an_open_node_has_its_connections_counted_while_they_last() {
    let [key_a, stranger] = keys();
    let mut open = config(&key_a, &[TCP]);
    open.gater.mode = gater::Mode::Open;
    let a = Measured::start(open, &[]).await;
    let mut stranger = RawPeer::start(stranger).await;
    let id = stranger.id().to_string();

    assert!(stranger.dial(a.node.id(), &a.node.addresses[0]).await);

    let tcp = [
        ("peer", id.as_str()),
        ("type", "direct"),
        ("protocol", "tcp"),
    ];
    a.reaches("p2p_relay_connection_types", &tcp, 1.0).await;
    for line in a.text().lines().filter(|line| line.contains(&id)) {
        assert!(line.starts_with("p2p_relay_connection_types{"), "{line}");
    }

    drop(stranger);

    eventually(|| (!a.text().contains(&id)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_metrics_agree_in_name_type_and_labels() {
    let Some(file) = vectors() else { return };
    let [mut a, mut b] = pair(TCP).await;
    a.asks(&mut b, b"anything").await;
    let peer = b.name();
    let sends = [("peer", peer.as_str()), ("protocol", ASK), ("topic", "")];
    a.reaches("p2p_send_duration_seconds_count", &sends, 1.0)
        .await;
    a.reaches("p2p_ping_success", &[("peer", &peer)], 1.0).await;
    let page = a.page();

    let mut checked = 0;
    for (generation, kinds) in file.as_object().unwrap() {
        for (kind, metrics) in kinds.as_object().unwrap() {
            for (name, metric) in metrics.as_object().unwrap() {
                if !name.starts_with("p2p_") {
                    continue;
                }
                let place = format!("{FILE}: {generation}, {kind}, {name}");
                let Some(kind) = page.types.get(name) else {
                    let (_, absent) = PAGE.split_once(ABSENT).unwrap();
                    let told = absent.contains(&format!("`{name}`"));
                    assert!(told, "{place} is neither filled nor told to be absent");
                    continue;
                };
                assert_eq!(*kind, metric["type"], "{place}");
                let theirs: BTreeSet<&str> = metric["labels"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|label| label.as_str().unwrap())
                    .filter(|label| !CONSTANT.contains(label))
                    .collect();
                assert_eq!(page.labels(name), theirs, "{place}");
                checked += 1;
            }
        }
    }
    assert!(checked > 0);
    println!("{FILE}: {checked} metrics");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_lists_each_metric_that_a_node_fills_and_no_other() {
    let [key_a, key_b, stranger] = keys();
    let known = ids(&[key_a.clone(), key_b.clone()]);
    let mut open = config(&key_a, &[TCP]);
    open.gater.mode = gater::Mode::Open;
    let mut a = Measured::start(open, &known).await;
    let mut b = Measured::start(config(&key_b, &[TCP]), &known).await;
    a.node.meets(&b.node);
    a.asks(&mut b, b"anything").await;
    let mut stranger = RawPeer::start(stranger).await;
    assert!(stranger.dial(a.node.id(), &a.node.addresses[0]).await);
    let peer = b.name();
    let sends = [("peer", peer.as_str()), ("protocol", ASK), ("topic", "")];
    a.reaches("p2p_send_duration_seconds_count", &sends, 1.0)
        .await;
    a.reaches("p2p_ping_success", &[("peer", &peer)], 1.0).await;
    let moved = || {
        let types = a.page().types;
        types
            .contains_key("p2p_relay_connection_types")
            .then_some(types)
    };
    let filled: BTreeSet<String> = eventually(moved).await.into_keys().collect();

    let (table, _) = PAGE.split_once(ABSENT).unwrap();
    let listed: BTreeSet<String> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `p2p_")?.split_once('`'))
        .map(|(name, _)| format!("p2p_{name}"))
        .collect();

    assert_eq!(listed, filled);
}

/// A node that is measured.
struct Measured {
    node: TestNode<(Handle, Inbound)>,
    registry: Registry,
}

impl Measured {
    async fn start(config: NodeConfig, known: &[PeerId]) -> Self {
        let mut registry = Registry::default();
        // Nobody is there, which is enough for a series.
        let relay = format!("/ip4/127.0.0.1/tcp/1/p2p/{}", PeerId::random());
        let config = config
            .with_metrics(Metrics::register(&mut registry))
            .with_relays([relay.parse::<RelaySource>().unwrap()]);
        let node = TestNode::start(config, known, |builder| {
            let (behaviour, handle, inbound) =
                exchange(builder.p2p_context(), Budget::default(), protocols());
            (behaviour, (handle, inbound))
        })
        .await;
        Self { node, registry }
    }

    /// Its label.
    fn name(&self) -> String {
        self.node.id().to_string()
    }

    async fn asks(&mut self, other: &mut Self, body: &[u8]) {
        let (handle, _) = &self.node.handle;
        let by = Instant::now() + LIMIT;
        let call = handle
            .call(other.node.id(), Slot(0), Frame::from_body(body), by)
            .unwrap();
        let request = within(other.node.handle.1.recv()).await.unwrap();
        request.respond(Frame::from_body(b"yes"));
        within(call).await.unwrap();
    }

    fn text(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).unwrap();
        text
    }

    fn page(&self) -> Page {
        Page::of_registry(&self.registry)
    }

    /// Waits for a series that is not zero.
    async fn shows(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        eventually(|| {
            let value = self.page().value(name, labels);
            value.filter(|value| *value > 0.0)
        })
        .await
    }

    /// Waits until a gauge is that value, or a counter has come so far.
    async fn reaches(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let counts = name.ends_with("_total") || name.ends_with("_count");
        eventually(|| {
            let now = self.page().value(name, labels)?;
            (now == value || (counts && now > value)).then_some(())
        })
        .await;
    }
}

/// Two nodes that have met.
async fn pair(listen: &str) -> [Measured; 2] {
    let keys: [Keypair; 2] = keys();
    let known = ids(&keys);
    let [a, b] = keys;
    let a = Measured::start(config(&a, &[listen]), &known).await;
    let b = Measured::start(config(&b, &[listen]), &known).await;
    a.node.meets(&b.node);
    within(a.node.context.connected(b.node.id())).await.unwrap();
    within(b.node.context.connected(a.node.id())).await.unwrap();
    [a, b]
}

fn protocols() -> Vec<Protocol> {
    vec![Protocol {
        ids: vec![StreamProtocol::new(ASK)],
        shape: Shape::RequestResponse,
        repeat: Repeat::Safe,
        max_frame: 1 << 16,
        read_timeout: Duration::from_secs(5),
        write_timeout: Duration::from_secs(7),
    }]
}

/// Looks until there is something. A metric changes beside what it tells of and wakes nobody.
#[track_caller]
fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> impl Future<Output = T> {
    within(async move {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
}

/// One page of metrics.
struct Page {
    /// By the name that Charon's page has.
    types: BTreeMap<String, String>,
    series: Vec<Series>,
}

struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Page {
    fn of_registry(registry: &Registry) -> Self {
        let mut text = String::new();
        text::encode(&mut text, registry).unwrap();
        let mut page = Self {
            types: BTreeMap::new(),
            series: Vec::new(),
        };
        for line in text.lines() {
            if let Some(told) = line.strip_prefix("# TYPE ") {
                let (name, kind) = told.split_once(' ').unwrap();
                let suffix = if kind == "counter" { "_total" } else { "" };
                page.types.insert(format!("{name}{suffix}"), kind.into());
            } else if !line.starts_with('#') {
                page.series.push(Series::read(line));
            }
        }
        page
    }

    fn of(&self, name: &str) -> impl Iterator<Item = &Series> {
        self.series.iter().filter(move |series| series.name == name)
    }

    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.of(name)
            .find(|series| {
                series.labels.len() == labels.len()
                    && labels
                        .iter()
                        .all(|(key, value)| series.labels.get(*key).is_some_and(|v| v == value))
            })
            .map(|series| series.value)
    }

    /// The labels of a metric, a histogram's own aside. There must be a series.
    fn labels(&self, name: &str) -> BTreeSet<&str> {
        let sum = format!("{name}_sum");
        let series = self
            .series
            .iter()
            .find(|series| series.name == name || series.name == sum);
        let series = series.unwrap_or_else(|| panic!("{name} has no series"));
        series.labels.keys().map(String::as_str).collect()
    }
}

impl Series {
    /// Label values in these tests have neither quotes nor commas.
    fn read(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.trim_end_matches('}')),
            None => (series, ""),
        };
        let labels = labels
            .split(',')
            .filter_map(|label| label.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()));
        Self {
            name: name.to_owned(),
            labels: labels.collect(),
            value: value.parse().unwrap(),
        }
    }
}

fn vectors() -> Option<Value> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let folder = std::env::var_os("PLUTO_VECTORS").map_or_else(|| default.into(), PathBuf::from);
    let path = folder.join(FILE);
    if !path.exists() {
        println!("skipped: no vectors at {}", path.display());
        return None;
    }
    Some(serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
}
