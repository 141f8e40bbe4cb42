//! Ceremonies of real nodes on loopback.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    convert::identity,
    time::{Duration, Instant},
};

use futures::future::join_all;
use libp2p::{PeerId, identity::Keypair};
use pluto_dkg::sync::{
    self, Behaviour, CharonVersion, Client, Config, Event, News, Reason, Server, Step, WaitError,
};
use pluto_p2p::NodeConfig;
use pluto_testkit::{Link, RawPeer, TCP, TestNode, config, ids, introduce, keys, logs, within};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const HASH: [u8; 32] = [7; 32];

struct Ceremony {
    client: Client,
    server: Server,
}

type Member = TestNode<Ceremony>;

async fn member(key: &Keypair, all: &[PeerId]) -> (Member, mpsc::Receiver<Event>) {
    member_with(config(key, &[TCP]), all, identity).await
}

async fn member_with(
    node: NodeConfig,
    all: &[PeerId],
    configure: impl FnOnce(Config) -> Config,
) -> (Member, mpsc::Receiver<Event>) {
    let known = all.to_vec();
    TestNode::start_observed(node, all, |builder| {
        let config = configure(Config::new(known, HASH));
        let (behaviour, client, server): (Behaviour, _, _) =
            sync::new(builder.p2p_context(), builder.key(), config).unwrap();
        (behaviour, Ceremony { client, server })
    })
    .await
}

async fn cluster<const N: usize>() -> (Vec<Member>, Vec<mpsc::Receiver<Event>>) {
    logs();
    let keys = keys::<N>();
    let all = ids(&keys);
    let mut nodes = Vec::new();
    let mut events = Vec::new();
    for key in &keys {
        let (node, observed) = member(key, &all).await;
        nodes.push(node);
        events.push(observed);
    }
    introduce(&nodes);
    connected(&nodes).await;
    (nodes, events)
}

async fn connected(nodes: &[Member]) {
    let token = CancellationToken::new();
    for node in nodes {
        let agreed = within(node.handle.server.wait_connected(&token))
            .await
            .unwrap();
        assert_eq!(agreed.version, CharonVersion::V1_11);
    }
}

async fn barrier(nodes: &[Member], step: u32) {
    for node in nodes {
        node.handle.client.set_step(Step(step));
    }
    let token = CancellationToken::new();
    let waits = nodes
        .iter()
        .map(|node| node.handle.server.wait_step(Step(step), &token));
    for open in within(join_all(waits)).await {
        open.unwrap();
    }
}

/// The reason with which each of the nodes ends, and how long that took.
async fn ends(nodes: &[Member]) -> (Vec<Reason>, Duration) {
    let began = Instant::now();
    let reasons = within(join_all(
        nodes.iter().map(|node| node.handle.server.ended()),
    ))
    .await;
    (reasons, began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn four_nodes_go_through_a_ceremony_in_step() {
    let (nodes, _events) = cluster::<4>().await;
    for step in 1..=8 {
        barrier(&nodes, step).await;
    }
    let token = CancellationToken::new();
    for node in &nodes {
        node.handle.client.shutdown();
    }
    let done = nodes
        .iter()
        .map(|node| node.handle.server.wait_shutdown(&token));
    for done in within(join_all(done)).await {
        done.unwrap();
    }
    for node in nodes {
        assert_eq!(node.handle.server.progress().ended, None);
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_stays_shut_until_the_last_one_is_there() {
    let (nodes, _events) = cluster::<3>().await;
    let token = CancellationToken::new();
    for node in &nodes[..2] {
        node.handle.client.set_step(Step(1));
    }
    let mut first = Box::pin(nodes[0].handle.server.wait_step(Step(1), &token));
    // The other one has arrived: what is missing is the third.
    let mut changes = nodes[0].handle.server.changes();
    let one = |progress: &std::sync::Arc<sync::Progress>| {
        progress.peers.iter().any(|peer| peer.step == Some(1))
    };
    within(changes.wait_for(one)).await.unwrap();
    assert!(futures::poll!(&mut first).is_pending());

    nodes[2].handle.client.set_step(Step(1));
    within(first).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_wait_ends_and_the_ceremony_goes_on() {
    let (nodes, _events) = cluster::<3>().await;
    let token = CancellationToken::new();
    nodes[0].handle.client.set_step(Step(1));
    let server = nodes[0].handle.server.clone();
    let waits = [
        tokio::spawn({
            let (server, token) = (server.clone(), token.clone());
            async move { server.wait_step(Step(1), &token).await }
        }),
        tokio::spawn({
            let token = token.clone();
            async move { server.wait_shutdown(&token).await }
        }),
    ];
    token.cancel();
    for wait in waits {
        let error = within(wait).await.unwrap().unwrap_err();
        assert_eq!(error, WaitError::Cancelled { step: Step(1) });
    }
    barrier(&nodes, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wait_ends_when_the_node_goes_away() {
    let (mut nodes, _events) = cluster::<3>().await;
    barrier(&nodes, 1).await;
    let gone = nodes.remove(0);
    let server = gone.handle.server.clone();
    let token = CancellationToken::new();
    let waits = async {
        tokio::join!(
            server.wait_step(Step(2), &token),
            server.wait_shutdown(&token),
            server.ended(),
        )
    };
    let ((step, shutdown, ended), ()) = tokio::join!(within(waits), gone.stop());
    let reason = Reason::NodeGone { step: Step(1) };
    assert_eq!(step.unwrap_err(), WaitError::Ended(reason.clone()));
    assert_eq!(shutdown.unwrap_err(), WaitError::Ended(reason.clone()));
    assert_eq!(ended, reason);
    let connected = within(server.wait_connected(&token)).await;
    assert_eq!(connected.unwrap_err(), WaitError::Ended(reason));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_peer_ends_the_others_within_five_seconds() {
    let (mut nodes, _events) = cluster::<4>().await;
    barrier(&nodes, 1).await;
    barrier(&nodes, 2).await;
    let killed = nodes.remove(1);
    let id = killed.id();
    killed.task.abort();
    drop(killed);

    let (reasons, took) = ends(&nodes).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(took > Duration::from_secs(3), "{took:?}");
    // One is the first to know; what the others hear may be its words.
    let mut first_hand = 0;
    for reason in reasons {
        println!("{reason}");
        match reason {
            Reason::Lost { peer, step, .. } => {
                assert_eq!((peer, step), (id, Step(2)));
                first_hand += 1;
            }
            Reason::Told { text, step, .. } => {
                assert_eq!(step, Step(2));
                assert!(text.contains(&id.to_string()), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(first_hand > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ends_the_ceremony_is_heard_by_all() {
    let (nodes, _events) = cluster::<4>().await;
    barrier(&nodes, 1).await;
    let began = Instant::now();
    within(nodes[0].handle.client.fail("the disk is full")).await;
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "all were told"
    );
    let (reasons, _) = ends(&nodes[1..]).await;
    for reason in reasons {
        let Reason::Told { step, text, .. } = reason else {
            panic!("{reason:?}");
        };
        assert_eq!(step, Step(1));
        assert!(text.contains("the disk is full"), "{text}");
    }
    let ours = nodes[0].handle.server.ended().await;
    assert_eq!(ours.to_string(), "the disk is full");
}
