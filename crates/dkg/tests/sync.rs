//! Ceremonies of real nodes on loopback.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    collections::BTreeMap,
    convert::identity,
    time::{Duration, Instant},
};

use futures::{AsyncReadExt, AsyncWriteExt, future::join_all};
use libp2p::{PeerId, identity::Keypair};
use pluto_dkg::sync::{
    self, Behaviour, CharonVersion, Client, Config, Event, News, Reason, Server, Step, WaitError,
};
use pluto_p2p::NodeConfig;
use pluto_testkit::{
    LIMIT, Link, RawPeer, TCP, TestNode, TestRelay, config, ids, introduce, keys, logs, within,
};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;

#[path = "../examples/barrier.rs"]
mod barrier_example;

const HASH: [u8; 32] = [7; 32];
const SYNC: &str = "/charon/dkg/sync/1.0.0/";

#[test]
fn the_example_works() {
    barrier_example::main().unwrap();
}

struct Ceremony {
    client: Client,
    server: Server,
}

type Member = TestNode<Ceremony>;

async fn member(
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

/// Nodes that do not know yet where the others are.
async fn members<const N: usize>(
    configure: impl Fn(&mut NodeConfig),
) -> (Vec<Member>, Vec<mpsc::Receiver<Event>>) {
    logs();
    let keys = keys::<N>();
    let all = ids(&keys);
    let mut nodes = Vec::new();
    let mut events = Vec::new();
    for key in &keys {
        let mut node = config(key, &[TCP]);
        configure(&mut node);
        let (node, observed) = member(node, &all, identity).await;
        nodes.push(node);
        events.push(observed);
    }
    (nodes, events)
}

async fn cluster<const N: usize>() -> (Vec<Member>, Vec<mpsc::Receiver<Event>>) {
    let (nodes, events) = members::<N>(|_| {}).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn who_advances_goes_one_step_at_a_time_until_the_end() {
    let (nodes, _events) = cluster::<2>().await;
    let token = CancellationToken::new();
    for expected in 1..=3 {
        for node in &nodes {
            assert_eq!(node.handle.client.advance(), Step(expected));
        }
        for node in &nodes {
            let wait = node.handle.server.wait_step(Step(expected), &token);
            within(wait).await.unwrap();
        }
    }
    within(nodes[0].handle.client.fail("enough")).await;
    assert_eq!(nodes[0].handle.client.advance(), Step(3));
}

/// Waits until each has heard that all are done.
async fn all_shut_down(nodes: &[Member]) {
    let token = CancellationToken::new();
    let waits = nodes
        .iter()
        .map(|node| node.handle.server.wait_shutdown(&token));
    for done in within(join_all(waits)).await {
        done.unwrap();
    }
}

/// Stops nodes whose ceremony must not have ended before.
async fn end_well(nodes: Vec<Member>) {
    for node in nodes {
        assert_eq!(node.handle.server.progress().ended, None);
        node.stop().await;
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
    for node in &nodes {
        node.handle.client.shutdown();
    }
    all_shut_down(&nodes).await;
    end_well(nodes).await;
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
        began.elapsed() < Duration::from_millis(600),
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

#[tokio::test(flavor = "multi_thread")]
async fn who_ends_by_itself_has_told_the_others_when_its_wait_is_over() {
    let keys = keys::<3>();
    let all = ids(&keys);
    let mut nodes = Vec::new();
    // The first is the first to give the third up; the second would wait for much longer.
    for (key, grace) in keys.iter().zip([Duration::ZERO, 10 * LIMIT, LIMIT]) {
        let patient = |config: Config| config.with_peer_grace(grace).with_silence(10 * LIMIT);
        nodes.push(member(config(key, &[TCP]), &all, patient).await.0);
    }
    introduce(&nodes);
    connected(&nodes).await;
    barrier(&nodes, 1).await;
    nodes.remove(2).stop().await;

    let token = CancellationToken::new();
    let ended = within(nodes[0].handle.server.wait_step(Step(2), &token)).await;
    let WaitError::Ended(reason @ Reason::Lost { .. }) = ended.unwrap_err() else {
        panic!("not lost");
    };
    // It goes at once.
    let first = nodes.remove(0);
    first.task.abort();
    drop(first);

    let told = within(nodes[0].handle.server.ended()).await;
    let Reason::Told { text, .. } = told else {
        panic!("{told:?}");
    };
    assert_eq!(text, reason.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_operator_goes_through_a_ceremony() {
    let (nodes, _events) = cluster::<1>().await;
    for step in 1..=3 {
        barrier(&nodes, step).await;
    }
    nodes[0].handle.client.shutdown();
    all_shut_down(&nodes).await;
    end_well(nodes).await;
}

/// Three nodes; the first reaches the third through a link only, and nobody dials otherwise.
async fn linked() -> (Vec<Member>, Vec<mpsc::Receiver<Event>>, Vec<Link>) {
    // What identify tells of the others' addresses would lead around the links.
    let (nodes, events) = members::<3>(|node| node.filter_private_addrs = true).await;
    let mut links = Vec::new();
    for (from, to) in [(0, 2), (1, 2), (0, 1)] {
        let link = Link::to(&nodes[to].addresses[0]).await;
        let id = nodes[to].id();
        nodes[from].control.book().set(id, vec![link.address()]);
        links.push(link);
    }
    connected(&nodes).await;
    (nodes, events, links)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_peer_ends_the_others_after_ten_seconds_with_its_name() {
    let (nodes, _events, links) = linked().await;
    barrier(&nodes, 1).await;
    let id = nodes[2].id();
    links[0].fall_silent();
    links[1].fall_silent();
    let (reasons, took) = ends(&nodes[..2]).await;
    assert!((9..12).contains(&took.as_secs()), "{took:?}");
    for reason in reasons {
        println!("{reason}");
        assert!(reason.to_string().contains(&id.to_string()));
        assert!(reason.to_string().contains("step 1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_of_three_seconds_is_shown_and_healed() {
    let (nodes, mut events, links) = linked().await;
    barrier(&nodes, 1).await;
    let id = nodes[2].id();
    // Everything that is under way stays so: TCP sends it again.
    links[0].stall();
    links[1].stall();
    let token = CancellationToken::new();
    nodes[2].handle.client.set_step(Step(2));
    nodes[0].handle.client.set_step(Step(2));
    let missing = async {
        loop {
            if let Event::News(News::Missing { peer, .. }) = events[0].recv().await.unwrap()
                && peer == id
            {
                return;
            }
        }
    };
    within(missing).await;
    sleep(Duration::from_secs(2)).await;
    links[0].speak();
    links[1].speak();
    let healed = async {
        loop {
            if let Event::News(News::Healed { peer, after }) = events[0].recv().await.unwrap()
                && peer == id
            {
                return after;
            }
        }
    };
    let after = within(healed).await;
    assert!(after > Duration::from_secs(2), "{after:?}");
    nodes[1].handle.client.set_step(Step(2));
    for node in &nodes {
        within(node.handle.server.wait_step(Step(2), &token))
            .await
            .unwrap();
    }
    assert_eq!(nodes[0].handle.server.progress().ended, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_in_every_phase_are_healed() {
    let (nodes, _events, links) = linked().await;
    for step in 1..=6 {
        for link in &links {
            link.cut();
        }
        barrier(&nodes, step).await;
    }
    for link in &links {
        link.cut();
    }
    for node in &nodes {
        node.handle.client.shutdown();
        links[0].cut();
    }
    all_shut_down(&nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_connections_either_may_be_lost() {
    for first in [true, false] {
        let (nodes, _events, links) = linked().await;
        let second = Link::to(&nodes[2].addresses[0]).await;
        let id = nodes[2].id();
        barrier(&nodes, 1).await;
        let dial = nodes[0].control.dial(id, vec![second.address()]);
        within(dial).await.unwrap();
        let two = nodes[0].context.wait_for(|view| {
            let paths = view.peer(&id).map(|peer| peer.paths.len());
            (paths == Some(2)).then_some(())
        });
        within(two).await.unwrap();
        barrier(&nodes, 2).await;
        if first {
            links[0].cut()
        } else {
            second.cut()
        }
        barrier(&nodes, 3).await;
        if first {
            second.cut()
        } else {
            links[0].cut()
        }
        barrier(&nodes, 4).await;
        end_well(nodes).await;
    }
}

/// Four nodes that know nothing of each other but a relay, and are connected through it.
async fn relayed(
    relay: &TestRelay,
    configure: impl Fn(&mut NodeConfig),
) -> (Vec<Member>, Vec<mpsc::Receiver<Event>>) {
    let (nodes, events) = members::<4>(|node| {
        node.relays = vec![relay.url()];
        configure(node);
    })
    .await;
    connected(&nodes).await;
    only_relayed(&nodes);
    (nodes, events)
}

fn only_relayed(nodes: &[Member]) {
    for node in nodes {
        for peer in node.context.view().known() {
            assert!(peer.paths.iter().all(|path| path.is_relayed()), "{peer:?}");
        }
    }
}

/// What is told from now on, until it is about this many peers.
async fn told<T>(
    events: &mut mpsc::Receiver<Event>,
    peers: usize,
    pick: impl Fn(News) -> Option<(PeerId, T)>,
) -> BTreeMap<PeerId, T> {
    let mut found = BTreeMap::new();
    let all = async {
        while found.len() < peers {
            if let Event::News(news) = events.recv().await.unwrap() {
                found.extend(pick(news));
            }
        }
    };
    within(all).await;
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_gone_for_two_seconds_is_shown_and_healed() {
    let mut relay = TestRelay::start().await;
    let (nodes, mut events) = relayed(&relay, |node| node.relayed_only = true).await;
    barrier(&nodes, 1).await;

    relay.stop().await;
    let gone = Instant::now();
    // Work goes on in the meantime: what three of them have to say is still to be heard.
    for node in &nodes[1..] {
        node.handle.client.set_step(Step(2));
    }
    for events in &mut events {
        let missing = told(events, 3, |news| match news {
            News::Missing { peer, connected } => Some((peer, connected)),
            _ => None,
        });
        assert!(missing.await.values().all(|connected| !connected));
    }
    println!("shown to all after {:?}", gone.elapsed());
    sleep(Duration::from_secs(2).saturating_sub(gone.elapsed())).await;
    relay.restart().await;
    let back = Instant::now();
    for events in &mut events {
        let healed = told(events, 3, |news| match news {
            News::Healed { peer, after } => Some((peer, after)),
            News::Ended(reason) => panic!("{reason}"),
            _ => None,
        });
        let healed = healed.await;
        assert!(healed.values().all(|after| *after > Duration::from_secs(1)));
    }
    println!("healed for all {:?} after it was back", back.elapsed());

    for step in 2..=4 {
        barrier(&nodes, step).await;
    }
    only_relayed(&nodes);
    end_well(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_peer_behind_a_relay_ends_the_others_within_five_seconds() {
    let relay = TestRelay::start().await;
    let (mut nodes, _events) = relayed(&relay, |node| node.relayed_only = true).await;
    barrier(&nodes, 1).await;
    let killed = nodes.remove(1);
    let id = killed.id();
    killed.task.abort();
    drop(killed);

    let (reasons, took) = ends(&nodes).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    for reason in reasons {
        println!("{reason}");
        assert!(reason.to_string().contains(&id.to_string()), "{reason}");
        assert!(reason.to_string().contains("step 1"), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ceremony_that_began_on_a_relay_goes_on_directly_and_loses_nothing() {
    let mut relay = TestRelay::start().await;
    let (nodes, events) = relayed(&relay, |node| {
        // Nobody tells where it is, so that the direct paths wait for the test.
        node.filter_private_addrs = true;
        // A connection without streams goes soon: that it goes tells that they have left it.
        node.idle_timeout = Duration::from_secs(1);
    })
    .await;
    let observed = events.into_iter().map(|mut events| {
        tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(event) = events.recv().await {
                all.push(event);
            }
            all
        })
    });
    let observed: Vec<_> = observed.collect();
    barrier(&nodes, 1).await;

    introduce(&nodes);
    let is_direct = |node: &Member| {
        let view = node.context.view();
        let mut others = view.known().filter(|peer| peer.id != node.id());
        others.all(|peer| {
            let mut paths = peer.paths.iter();
            peer.is_connected() && paths.all(|path| !path.is_relayed())
        })
    };
    let mut last = 1;
    let moved = async {
        while !nodes.iter().all(is_direct) {
            last += 1;
            barrier(&nodes, last).await;
            sleep(Duration::from_millis(10)).await;
        }
    };
    within(moved).await;
    println!("directly after {last} barriers");
    // Nothing needs it any more.
    relay.stop().await;
    last += 1;
    barrier(&nodes, last).await;

    for node in &nodes {
        node.handle.client.shutdown();
    }
    all_shut_down(&nodes).await;
    let ids: Vec<_> = nodes.iter().map(Member::id).collect();
    for node in nodes {
        node.stop().await;
    }
    for (id, observed) in ids.iter().zip(observed) {
        let mut steps = BTreeMap::<_, Vec<i64>>::new();
        for event in within(observed).await.unwrap() {
            match event {
                Event::News(News::Step { peer, step }) => steps.entry(peer).or_default().push(step),
                Event::News(News::Agreed(_) | News::Connected { .. } | News::Shutdown { .. }) => {}
                // Neither missing nor healed, and no stream that broke.
                other => panic!("{other:?}"),
            }
        }
        for other in ids.iter().filter(|other| *other != id) {
            let mut said = steps[other].iter();
            assert!((0..=i64::from(last)).eq(said.by_ref().copied()), "{said:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_gets_no_answer_moves_to_the_other_connection() {
    let (nodes, _events, links) = linked().await;
    let second = Link::to(&nodes[2].addresses[0]).await;
    let id = nodes[2].id();
    barrier(&nodes, 1).await;
    let dial = nodes[0].control.dial(id, vec![second.address()]);
    within(dial).await.unwrap();
    let two = nodes[0].context.wait_for(|view| {
        let paths = view.peer(&id).map(|peer| peer.paths.len());
        (paths == Some(2)).then_some(())
    });
    within(two).await.unwrap();
    links[0].fall_silent();
    let began = Instant::now();
    barrier(&nodes, 2).await;
    assert!(began.elapsed() < Duration::from_secs(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_restarted_is_recognised_and_learns_it_itself() {
    let (mut nodes, _events) = cluster::<3>().await;
    let all: Vec<_> = nodes.iter().map(Member::id).collect();
    barrier(&nodes, 1).await;
    barrier(&nodes, 2).await;
    let victim = nodes.remove(2);
    let (key, id) = (victim.key.clone(), victim.id());
    victim.stop().await;
    let began = Instant::now();
    let (again, _) = member(config(&key, &[TCP]), &all, identity).await;
    for node in &nodes {
        node.meets(&again);
        again.meets(node);
    }
    let (reasons, _) = ends(&nodes).await;
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    for reason in reasons {
        assert!(reason.to_string().contains(&id.to_string()), "{reason}");
    }
    let itself = within(again.handle.server.ended()).await;
    assert!(
        matches!(itself, Reason::Late { .. } | Reason::Told { .. }),
        "{itself:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_definition_or_version_ends_both_sides() {
    let changes: [fn(Config) -> Config; 2] = [
        |mut config| {
            config.definition_hash = [8; 32];
            config
        },
        |config| config.with_charon_version(CharonVersion::V1_10),
    ];
    for change in changes {
        let keys = keys::<2>();
        let all = ids(&keys);
        let pin = |config: Config| config.with_charon_version(CharonVersion::V1_11);
        let (a, _) = member(config(&keys[0], &[TCP]), &all, pin).await;
        let (b, _) = member(config(&keys[1], &[TCP]), &all, |config| change(pin(config))).await;
        a.meets(&b);
        let token = CancellationToken::new();
        for (node, other) in [(&a, &b), (&b, &a)] {
            let error = within(node.handle.server.wait_connected(&token)).await;
            let WaitError::Ended(reason) = error.unwrap_err() else {
                panic!("cancelled");
            };
            println!("{reason}");
            assert_eq!(reason.peer(), Some(other.id()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_is_refused() {
    let [a, b] = keys();
    let all = ids(&[a.clone(), b.clone()]);
    let context = pluto_p2p::P2PContext::default();
    let new = |key: &Keypair, config| sync::new(context.clone(), key, config).err();
    let stranger = pluto_testkit::key();
    let config = || Config::new(all.clone(), HASH);
    assert!(new(&a, config()).is_none());
    assert!(matches!(
        new(&stranger, config()),
        Some(sync::ConfigError::NotAnOperator { .. })
    ));
    let twice = Config::new([all[0], all[1], all[0]], HASH);
    assert!(matches!(new(&a, twice), Some(sync::ConfigError::Twice { peer }) if peer == all[0]));
    assert!(new(&a, config().with_nickname("n".repeat(32))).is_none());
    let long = config().with_nickname("n".repeat(33));
    assert!(matches!(
        new(&a, long),
        Some(sync::ConfigError::Nickname { len: 33 })
    ));
}

/// One node, and another operator that speaks by hand.
async fn hostile() -> (Member, mpsc::Receiver<Event>, RawPeer) {
    let [a, b] = keys();
    let all = ids(&[a.clone(), b.clone()]);
    let pinned = |config: Config| config.with_charon_version(CharonVersion::V1_11);
    let (node, events) = member(config(&a, &[TCP]), &all, pinned).await;
    let mut raw = RawPeer::start(b).await;
    assert!(raw.dial(node.id(), &node.addresses[0]).await);
    (node, events, raw)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_frame_ends_the_stream_and_nothing_else() {
    let (node, mut events, mut raw) = hostile().await;
    let lengths = [1i64 << 62, -1, i64::MIN, 0, (32 << 20) + 1, 64 << 10];
    for length in lengths {
        let mut stream = raw.open(node.id(), SYNC).await.unwrap();
        within(stream.write_all(&length.to_le_bytes()))
            .await
            .unwrap();
        within(stream.flush()).await.unwrap();
        let mut rest = Vec::new();
        let read = within(stream.read_to_end(&mut rest)).await;
        assert!(read.is_err() || rest.is_empty(), "{length}");
        let rejected =
            async { while !matches!(events.recv().await.unwrap(), Event::Rejected { .. }) {} };
        within(rejected).await;
    }
    assert_eq!(node.handle.server.progress().ended, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_stalls_after_three_bytes_is_ended_and_disturbs_nobody() {
    let (node, mut events, mut raw) = hostile().await;
    let began = Instant::now();
    let mut stalled = Vec::new();
    // More than one connection may have: the oldest go.
    for _ in 0..6 {
        let mut stream = raw.open(node.id(), SYNC).await.unwrap();
        within(stream.write_all(&[1, 2, 3])).await.unwrap();
        within(stream.flush()).await.unwrap();
        stalled.push(stream);
    }
    let rejected =
        async { while !matches!(events.recv().await.unwrap(), Event::Rejected { .. }) {} };
    within(rejected).await;
    assert!(
        began.elapsed() < Duration::from_secs(7),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(node.handle.server.progress().ended, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_has_no_stream() {
    let (node, _events, raw) = hostile().await;
    drop(raw);
    // The gate is open for once; the protocol is not.
    let mut gateless = RawPeer::start(pluto_testkit::key()).await;
    let _ = gateless.dial(node.id(), &node.addresses[0]).await;
    assert!(gateless.open(node.id(), SYNC).await.is_err());
}
