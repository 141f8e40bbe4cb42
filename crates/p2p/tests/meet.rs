//! Nodes that know nothing but a relay's URL: how they meet, and how they stay together.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::time::{Duration, Instant};

use libp2p::StreamProtocol;
use pluto_p2p::{
    P2PContext,
    exchange::{Budget, Handle, Protocol, Repeat, Shape, Slot, exchange},
    p2p_context::{FailureCause, PeerView, WhyNotConnected},
    proto::Frame,
};
use pluto_testkit::{
    Cluster, LIMIT, QUIC, TCP, TestNode, TestRelay, for_all_pairs, is_direct, met, within,
};

/// Within which a loss must have healed once the relay is back.
const HEALED: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_know_only_a_url_meet_through_the_relay_and_then_directly() {
    let relay = TestRelay::start().await;
    let nodes = cluster(&relay).start().await;
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
    let nodes = Cluster::new(4, &[TCP, QUIC], [relay.url()]).start().await;
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
    let nodes = cluster(&relay).relayed_only().start().await;
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
    let nodes = cluster(&relay).relayed_only().start().await;
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
    let cluster = cluster(&relay).relayed_only();
    let node = cluster.node(0).await;
    let missing = cluster.known()[1];
    let why = within(async {
        loop {
            let mut changes = node.context.changes();
            let why = node.context.why_not_connected(missing);
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
    let nodes = cluster(&relay).relayed_only().start().await;
    met(&nodes).await;
    let before = Instant::now();
    relay.restart().await;
    healed(&nodes, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_relay_at_the_same_url_is_used_instead() {
    let mut relay = TestRelay::start().await;
    let nodes = cluster(&relay).relayed_only().start().await;
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
    let nodes = Cluster::new(4, &[TCP], [first.url(), second.url()])
        .relayed_only()
        .start()
        .await;
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
    let cluster = cluster(&relay);
    let mut nodes = Vec::new();
    for index in 0..3 {
        nodes.push(cluster.node(index).await);
    }
    met(&nodes).await;
    // The others have asked for it in vain for a while, and wait between their attempts.
    tokio::time::sleep(Duration::from_secs(4)).await;

    let began = Instant::now();
    nodes.push(cluster.node(3).await);
    met(&nodes).await;
    assert!(began.elapsed() < HEALED, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_is_lost_when_the_direct_path_replaces_the_relayed_one() {
    let relay = TestRelay::start().await;
    let cluster = Cluster::new(2, &[TCP], [relay.url()]);
    let known = cluster.known();
    let start = |index| {
        TestNode::start(cluster.config(index), &known, |builder| {
            let (behaviour, handle, inbound) =
                exchange(builder.p2p_context(), Budget::default(), vec![protocol()]);
            (behaviour, (handle, inbound))
        })
    };
    let (client, mut server) = (start(0).await, start(1).await);
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

/// Four nodes that know nothing but the relay.
fn cluster(relay: &TestRelay) -> Cluster {
    Cluster::new(4, &[TCP], [relay.url()])
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
