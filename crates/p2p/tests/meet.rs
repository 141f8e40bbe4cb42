//! Nodes that know nothing but a relay's URL: how they meet, and how they stay together.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::time::{Duration, Instant};

use libp2p::{PeerId, StreamProtocol, identity::Keypair, swarm::dummy};
use pluto_p2p::{
    P2PContext, RelaySource,
    exchange::{Budget, Handle, Protocol, Repeat, Shape, Slot, exchange},
    p2p_context::{FailureCause, PeerView, WhyNotConnected},
    proto::Frame,
};
use pluto_testkit::{LIMIT, QUIC, TCP, TestNode, TestRelay, config, ids, keys, met, within};

/// Within which a loss must have healed once the relay is back.
const HEALED: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_know_only_a_url_meet_through_the_relay_and_then_directly() {
    let relay = TestRelay::start().await;
    let nodes = Cluster::new(&[TCP], false).start(&[&relay]).await;
    met(&nodes).await;
    for_all_pairs(&nodes, is_direct).await;
    // The relayed ones are let go by the side that decides, not kept beside.
    let (small, others) = nodes.split_first().unwrap();
    for other in others {
        let id = other.id();
        let drained = small.context.wait_for(|view| {
            let mut paths = view.peer(&id)?.paths.iter();
            paths
                .all(|path| !path.is_relayed() || path.draining)
                .then_some(())
        });
        within(drained).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_listen_on_both_end_on_quic() {
    let relay = TestRelay::start().await;
    let nodes = Cluster::new(&[TCP, QUIC], false).start(&[&relay]).await;
    met(&nodes).await;
    let quic = pluto_p2p::addr::Transport::Quic;
    for_all_pairs(&nodes, |peer| {
        peer.best()
            .is_some_and(|path| !path.is_relayed() && path.transport == quic)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_must_use_the_relay_stay_on_it() {
    let relay = TestRelay::start().await;
    let nodes = Cluster::new(&[TCP], true).start(&[&relay]).await;
    met(&nodes).await;
    for_all_pairs(&nodes, |peer| {
        peer.best().is_some_and(|path| path.rtt().is_some())
    })
    .await;
    for node in &nodes {
        for peer in node.context.view().known() {
            assert!(peer.paths.iter().all(|path| path.is_relayed()), "{peer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_not_there_yet_is_said_and_used_once_it_is() {
    let mut relay = TestRelay::start().await;
    relay.stop().await;
    let nodes = Cluster::new(&[TCP], true).start(&[&relay]).await;
    let (node, peer) = (&nodes[0], nodes[1].id());
    let told = node.context.wait_for(|view| view.relays[0].problem.clone());
    within(told).await.unwrap();
    let why = node.context.why_not_connected(peer).unwrap();
    assert!(matches!(why, WhyNotConnected::NoRelay { .. }), "{why}");
    assert!(why.to_string().contains("http://"), "{why}");

    let before = Instant::now();
    relay.restart().await;
    healed(&nodes, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_not_on_the_relay_is_said_to_be_missing_there() {
    let relay = TestRelay::start().await;
    let [a, b] = keys();
    let node = one(&a, &ids(&[a.clone(), b.clone()]), &[relay.url()], true).await;
    let why = within(async {
        loop {
            let mut changes = node.context.changes();
            let why = node.context.why_not_connected(b.public().to_peer_id());
            if let Some(WhyNotConnected::Waiting {
                last: Some(last), ..
            }) = &why
                && let FailureCause::NoReservation { relay } = last.cause
            {
                break relay;
            }
            changes.changed().await.unwrap();
        }
    })
    .await;
    assert_eq!(why, relay.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_restarts_is_found_again_by_all() {
    let mut relay = TestRelay::start().await;
    let nodes = Cluster::new(&[TCP], true).start(&[&relay]).await;
    met(&nodes).await;
    let before = Instant::now();
    relay.restart().await;
    healed(&nodes, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_relay_at_the_same_url_is_used_instead() {
    let mut relay = TestRelay::start().await;
    let nodes = Cluster::new(&[TCP], true).start(&[&relay]).await;
    met(&nodes).await;
    let before = Instant::now();
    relay.replace().await;
    healed(&nodes, before).await;
    for node in &nodes {
        assert!(node.context.is_relay(&relay.id()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_relays_one_is_enough() {
    let (mut first, second) = (TestRelay::start().await, TestRelay::start().await);
    let nodes = Cluster::new(&[TCP], true).start(&[&first, &second]).await;
    met(&nodes).await;
    for node in &nodes {
        // Places are held on both at once.
        let both = node.context.wait_for(|view| {
            view.relays
                .iter()
                .all(|relay| relay.is_reserved())
                .then_some(())
        });
        within(both).await.unwrap();
    }
    first.stop().await;
    let id = second.id();
    let since = Instant::now();
    for_all_pairs(&nodes, |peer| {
        let mut paths = peer.paths.iter();
        paths.any(|path| path.relay == Some(id) && path.rtt().is_some())
    })
    .await;
    assert!(since.elapsed() < HEALED, "{:?}", trouble(&nodes));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_late_meets_everybody_at_once() {
    let relay = TestRelay::start().await;
    let cluster = Cluster::new(&[TCP], false);
    let mut nodes = Vec::new();
    for index in 0..3 {
        nodes.push(cluster.node(index, &[&relay]).await);
    }
    met(&nodes).await;
    // The others have asked for it in vain for a while, and wait between their attempts.
    tokio::time::sleep(Duration::from_secs(4)).await;

    let began = Instant::now();
    nodes.push(cluster.node(3, &[&relay]).await);
    met(&nodes).await;
    assert!(began.elapsed() < HEALED, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_is_lost_when_the_direct_path_replaces_the_relayed_one() {
    let relay = TestRelay::start().await;
    let keys: [_; 2] = keys();
    let known = ids(&keys);
    let mut nodes = Vec::new();
    for key in &keys {
        let config = config(key, &[TCP]).with_relays([relay.url()]);
        let node = TestNode::start(config, &known, |builder| {
            let (behaviour, handle, inbound) =
                exchange(builder.p2p_context(), Budget::default(), vec![protocol()]);
            (behaviour, (handle, inbound))
        });
        nodes.push(node.await);
    }
    let (mut server, client) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    let to = server.id();
    tokio::spawn(async move {
        while let Some(request) = server.handle.1.recv().await {
            request.respond(Frame::from_body(&[1]));
        }
    });

    let handle: Handle = client.handle.0.clone();
    let relayed = |peer: &PeerView, connection| {
        let mut paths = peer.paths.iter();
        let path = paths.find(|path| path.connection == connection);
        path.is_some_and(|path| path.is_relayed())
    };
    let (mut through_relay, mut direct) = (0, 0);
    while direct < 50 {
        let proven = client
            .context
            .view()
            .peer(&to)
            .is_some_and(|peer| is_direct(peer));
        let by = tokio::time::Instant::now() + LIMIT;
        let call = handle
            .call(to, Slot(0), Frame::from_body(&[7; 100]), by)
            .unwrap();
        // None is lost, and none may be repeated.
        let done = within(call).await.unwrap();
        let view = client.context.view();
        if view
            .peer(&to)
            .is_some_and(|peer| relayed(peer, done.connection))
        {
            assert!(
                !proven,
                "a stream was opened on the relayed connection after the direct one was proven"
            );
            through_relay += 1;
        } else {
            direct += 1;
        }
    }
    println!("{through_relay} through the relay, then {direct} directly");
    client.stop().await;
}

fn protocol() -> Protocol {
    Protocol {
        ids: vec![StreamProtocol::new("/meet/1")],
        shape: Shape::RequestResponse,
        repeat: Repeat::Never,
        max_frame: 1 << 16,
        read_timeout: Duration::from_secs(5),
        write_timeout: Duration::from_secs(5),
    }
}

struct Cluster {
    keys: [Keypair; 4],
    listen: Vec<&'static str>,
    relayed_only: bool,
}

impl Cluster {
    fn new(listen: &[&'static str], relayed_only: bool) -> Self {
        Self {
            keys: keys(),
            listen: listen.to_vec(),
            relayed_only,
        }
    }

    async fn node(&self, index: usize, relays: &[&TestRelay]) -> TestNode<()> {
        let mut config = config(&self.keys[index], &self.listen);
        config = config.with_relays(relays.iter().map(|relay| relay.url()));
        config.relayed_only = self.relayed_only;
        TestNode::start(config, &ids(&self.keys), |_| (dummy::Behaviour, ())).await
    }

    async fn start(&self, relays: &[&TestRelay]) -> Vec<TestNode<()>> {
        let mut nodes = Vec::new();
        for index in 0..self.keys.len() {
            nodes.push(self.node(index, relays).await);
        }
        nodes
    }
}

async fn one(
    key: &Keypair,
    known: &[PeerId],
    relays: &[RelaySource],
    relayed_only: bool,
) -> TestNode<()> {
    let mut config = config(key, &[TCP]).with_relays(relays.iter().cloned());
    config.relayed_only = relayed_only;
    TestNode::start(config, known, |_| (dummy::Behaviour, ())).await
}

fn is_direct(peer: &PeerView) -> bool {
    peer.best()
        .is_some_and(|path| !path.is_relayed() && path.rtt().is_some())
}

async fn for_all_pairs(nodes: &[TestNode<()>], expected: impl Fn(&PeerView) -> bool) {
    for node in nodes {
        for other in nodes.iter().filter(|other| other.id() != node.id()) {
            let id = other.id();
            let state = node
                .context
                .wait_for(|view| view.peer(&id).filter(|peer| expected(peer)).map(drop));
            within(state).await.unwrap();
        }
    }
}

/// Every pair answers pings on a connection made after `before`.
async fn healed(nodes: &[TestNode<()>], before: Instant) {
    let began = Instant::now();
    for_all_pairs(nodes, |peer| {
        let mut paths = peer.paths.iter();
        paths.any(|path| path.since > before && path.rtt().is_some())
    })
    .await;
    assert!(
        began.elapsed() < HEALED,
        "{:?}: {:?}",
        began.elapsed(),
        trouble(nodes)
    );
}

fn trouble(nodes: &[TestNode<()>]) -> Vec<String> {
    let context = |node: &TestNode<()>| -> P2PContext { node.context.clone() };
    let pairs = nodes
        .iter()
        .flat_map(|node| nodes.iter().map(move |other| (context(node), other.id())));
    pairs
        .filter_map(|(context, id)| Some(context.why_not_connected(id)?.to_string()))
        .collect()
}
