//! Nodes that are far from each other and from their relay: whatever is sent arrives 100 ms later.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use libp2p::swarm::dummy;
use pluto_p2p::p2p_context::PeerView;
use pluto_testkit::{
    Cluster, Limits, Link, TCP, TestNode, TestRelay, for_all_pairs, is_direct, met,
};

/// One way.
const DELAY: Duration = Duration::from_millis(100);
/// Within which a loss must have healed once the relay is back.
const HEALED: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_far_apart_meet_through_the_relay_and_then_directly() {
    let far = Far::start(1, false).await;
    met(&far.nodes).await;
    // Direct, and not around the delay.
    for_all_pairs(&far.nodes, |peer| {
        is_direct(peer) && peer.best().and_then(|path| path.rtt()) >= Some(2 * DELAY)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_far_apart_meet_again_after_their_relay() {
    let mut far = Far::start(2, true).await;
    met(&far.nodes).await;
    far.relay.stop().await;
    far.relay.restart().await;
    let back = Instant::now();
    let again = |peer: &PeerView| {
        let mut paths = peer.paths.iter();
        paths.any(|path| path.since > back && path.rtt().is_some())
    };
    for_all_pairs(&far.nodes, again).await;
    assert!(back.elapsed() < HEALED, "{:?}", back.elapsed());
}

/// A cluster of which everybody, and the relay, has a host of loopback with a slow link before it.
struct Far {
    relay: TestRelay,
    nodes: Vec<TestNode<()>>,
    _links: Vec<Link>,
}

impl Far {
    /// Four nodes on the hosts 127.0.`net`.x.
    async fn start(net: u8, relayed_only: bool) -> Self {
        let host = |last| IpAddr::V4(Ipv4Addr::new(127, 0, 100 + net, last));
        let relay = TestRelay::behind(host(100), Limits::default()).await;
        let mut links = vec![Link::far(relay.address(), host(100), DELAY).await];
        let cluster = Cluster::new(4, &[TCP], [relay.url()]);
        let mut nodes = Vec::new();
        for at in 0..cluster.keys.len() {
            let mut config = cluster.config(at);
            config.relayed_only = relayed_only;
            config.filter_private_addrs = true;
            let mine = host(u8::try_from(at).unwrap() + 1);
            config.external_ip = Some(mine);
            let node = TestNode::start(config, &cluster.known(), |_| (dummy::Behaviour, ())).await;
            links.push(Link::far(&node.addresses[0], mine, DELAY).await);
            nodes.push(node);
        }
        Self {
            relay,
            nodes,
            _links: links,
        }
    }
}
