//! Two connections to one peer, and none for a while.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

mod common;

use std::{sync::Arc, time::Duration};

use libp2p::{Multiaddr, PeerId, identity::Keypair, multiaddr::Protocol};
use pluto_p2p::{
    NodeConfig, P2PContext,
    addr::Transport,
    p2p_context::{DialState, PeerView, View},
};
use pluto_testkit::{Link, QUIC, TCP, TRANSPORTS, UdpLink, config, ids, introduce, keys, within};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use self::common::{Echo, echo};

/// How many answers show that things go on.
const SOME: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_either_of_two_connections_fails_no_call() {
    for dialler in [0, 1] {
        for lost in [Transport::Tcp, Transport::Quic] {
            let two = Two::with(dialler, Duration::from_secs(30)).await;
            for node in &two.nodes {
                within(two.at(node, |peer| {
                    peer.paths.len() == 2 && peer.paths.iter().all(|path| path.rtt().is_some())
                }))
                .await;
            }
            let [a, b] = &two.nodes;
            let apart = [apart(a, b.id()), apart(b, a.id())];
            let mut talks = [Asking::of(a, b.id()), Asking::of(b, a.id())];
            for talk in &mut talks {
                talk.go_on().await;
            }

            match lost {
                Transport::Tcp => two.tcp.cut(),
                _ => two.quic.fall_silent(),
            }
            for node in &two.nodes {
                within(two.at(node, |peer| {
                    peer.paths.len() == 1 && Transport::of(&peer.paths[0].address) != lost
                }))
                .await;
            }

            for talk in &mut talks {
                talk.go_on().await;
            }
            for talk in talks {
                talk.end().await;
            }
            for node in &two.nodes {
                let view = node.context.view();
                let path = &view.peer(&two.other(node)).unwrap().paths[0];
                assert!(!path.draining, "the one that is left is wanted again");
            }
            for apart in apart {
                assert!(!apart.is_finished(), "they were connected all the time");
                apart.abort();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_smaller_id_drains_what_is_surplus_and_the_other_never() {
    const IDLE: Duration = Duration::from_millis(500);
    for dialler in [0, 1] {
        let two = Two::with(dialler, IDLE).await;
        let [a, b] = &two.nodes;
        let drained = [&two.changes[0], &two.changes[1]].map(|changes| drains(changes.clone()));

        let survivor = |view: &View, other: PeerId| {
            let peer = view.peer(&other)?;
            match &peer.paths[..] {
                [left] => Some(left.clone()),
                _ => None,
            }
        };
        // The smaller one decides while both are open.
        let surplus = within(a.context.wait_for(|view| {
            let paths = &view.peer(&b.id())?.paths;
            let draining = paths.iter().find(|path| path.draining)?;
            (paths.len() == 2).then(|| draining.connection)
        }))
        .await
        .unwrap();
        let left = within(a.context.wait_for(|view| survivor(view, b.id())))
            .await
            .unwrap();
        assert_ne!(left.connection, surplus, "the surplus one was closed");
        assert!(!left.draining);
        let theirs = within(b.context.wait_for(|view| survivor(view, a.id())))
            .await
            .unwrap();
        assert_eq!(Transport::of(&theirs.address), Transport::of(&left.address));

        // It stays although nothing happens on it.
        let lost = a.context.wait_for(|view| {
            let peer = view.peer(&b.id())?;
            (peer.paths.len() != 1 || peer.paths[0].connection != left.connection).then_some(())
        });
        assert!(tokio::time::timeout(4 * IDLE, lost).await.is_err());
        let [smaller, larger] = drained;
        assert!(smaller.is_finished(), "the one who drains says so");
        assert!(!larger.is_finished(), "the other side never drains");
        larger.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_on_a_draining_connection_is_answered() {
    let two = Two::with(0, Duration::from_millis(200)).await;
    let [a, b] = &two.nodes;
    let mut talks = [Asking::of(a, b.id()), Asking::of(b, a.id())];

    for node in &two.nodes {
        within(two.at(node, |peer| peer.paths.len() == 1)).await;
    }

    for talk in &mut talks {
        talk.go_on().await;
    }
    for talk in talks {
        talk.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_comes_back_to_its_address_is_met_again() {
    for listen in TRANSPORTS {
        for who in [0, 1] {
            let keys: [Keypair; 2] = keys();
            let known = ids(&keys);
            let stays = echo(config(&keys[1 - who], &[listen]), &known).await;
            let leaves = echo(config(&keys[who], &[listen]), &known).await;
            let (id, address) = (leaves.id(), leaves.addresses[0].clone());
            stays.meets(&leaves);
            within(leaves.context.connected(stays.id())).await.unwrap();

            leaves.stop().await;
            // It tries to find it.
            within(stays.context.wait_for(|view| {
                let peer = view.peer(&id)?;
                let tries = match peer.dialing {
                    DialState::Dialing { .. } => true,
                    DialState::Waiting { attempts, .. } => attempts > 0,
                    DialState::Idle | DialState::NoAddress => false,
                };
                (tries && !peer.is_connected()).then_some(())
            }))
            .await
            .unwrap();

            free_again(&address).await;
            let again = config(&keys[who], &[&address.to_string()]);
            let back = echo(again, &known).await;
            within(back.context.connected(stays.id())).await.unwrap();
            within(stays.context.connected(id)).await.unwrap();
            let answer = within(stays.handle.ask(id, b"back?")).await.unwrap();
            assert_eq!(&answer.body[..], b"back?");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_dial_each_other_at_once_end_with_one_connection() {
    let keys: [Keypair; 2] = keys();
    let known = ids(&keys);
    let mut nodes = Vec::new();
    for key in &keys {
        let mut config = config(key, &[TCP]);
        config.idle_timeout = Duration::from_millis(200);
        nodes.push(echo(config, &known).await);
    }
    let [a, b] = &nodes[..] else { unreachable!() };
    let _ = tokio::join!(
        a.control.dial(b.id(), b.addresses.clone()),
        b.control.dial(a.id(), a.addresses.clone()),
    );
    // Both dial from the port that they listen on: the kernel may make one connection of the two
    // that has no listening side, which no handshake survives. Then the dialler tries again.
    introduce(&nodes);

    for (node, other) in [(a, b), (b, a)] {
        within(node.context.wait_for(|view| {
            let paths = &view.peer(&other.id())?.paths;
            (paths.len() == 1 && paths[0].rtt().is_some()).then_some(())
        }))
        .await
        .unwrap();
        within(node.handle.ask(other.id(), b"one?")).await.unwrap();
    }
}

/// Two nodes that were told to connect over TCP and over QUIC, each through a link of its own, and
/// that know no way around the links.
struct Two {
    /// The smaller id first.
    nodes: [Echo; 2],
    /// Their contexts since before they met.
    changes: [watch::Receiver<Arc<View>>; 2],
    tcp: Link,
    quic: UdpLink,
}

impl Two {
    async fn with(dialler: usize, idle: Duration) -> Self {
        let keys: [Keypair; 2] = keys();
        let known = ids(&keys);
        let config = |key| NodeConfig {
            filter_private_addrs: true,
            idle_timeout: idle,
            ping_interval: Duration::from_millis(200),
            ping_timeout: Duration::from_millis(800),
            ..config(key, &[TCP, QUIC])
        };
        let nodes = [
            echo(config(&keys[0]), &known).await,
            echo(config(&keys[1]), &known).await,
        ];
        let changes = [&nodes[0], &nodes[1]].map(|node| node.context.changes());
        let (from, to) = (&nodes[dialler], &nodes[1 - dialler]);
        let tcp = Link::to(&to.addresses[0]).await;
        let quic = UdpLink::to(&to.addresses[1]).await;
        for address in [tcp.address(), quic.address()] {
            from.control.dial(to.id(), vec![address]).await.unwrap();
        }
        Self {
            nodes,
            changes,
            tcp,
            quic,
        }
    }

    fn other(&self, node: &Echo) -> PeerId {
        let other = self.nodes.iter().find(|other| other.id() != node.id());
        other.unwrap().id()
    }

    /// Waits until a node sees the other one so.
    async fn at(&self, node: &Echo, seen: impl Fn(&PeerView) -> bool) {
        let other = self.other(node);
        node.context
            .wait_for(|view| seen(view.peer(&other)?).then_some(()))
            .await
            .unwrap();
    }
}

/// Asks one thing after another.
struct Asking {
    answers: watch::Receiver<usize>,
    enough: CancellationToken,
    task: JoinHandle<()>,
}

impl Asking {
    fn of(node: &Echo, other: PeerId) -> Self {
        let (calls, enough) = (node.handle.clone(), CancellationToken::new());
        let (count, answers) = watch::channel(0usize);
        let stop = enough.clone();
        let task = tokio::spawn(async move {
            while !stop.is_cancelled() {
                let question = count.borrow().to_be_bytes();
                let answer = within(calls.ask(other, &question)).await.unwrap();
                assert_eq!(&answer.body[..], question);
                count.send_modify(|count| *count += 1);
            }
        });
        Self {
            answers,
            enough,
            task,
        }
    }

    /// Waits for some more answers.
    async fn go_on(&mut self) {
        let goal = *self.answers.borrow() + SOME;
        let more = within(self.answers.wait_for(|count| *count >= goal)).await;
        assert!(more.is_ok(), "a call failed");
    }

    /// Ends it, and fails if a call did.
    async fn end(self) {
        self.enough.cancel();
        within(self.task).await.unwrap();
    }
}

/// Waits until quinn has let go of the port of a node that has ended.
async fn free_again(address: &Multiaddr) {
    let Some(port) = address.iter().find_map(|part| match part {
        Protocol::Udp(port) => Some(port),
        _ => None,
    }) else {
        return;
    };
    let free = async {
        // Nothing tells of it.
        while std::net::UdpSocket::bind(("127.0.0.1", port)).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(free).await;
}

/// Ends once the node has no connection to the peer.
fn apart(node: &Echo, peer: PeerId) -> JoinHandle<()> {
    let context: P2PContext = node.context.clone();
    tokio::spawn(async move {
        let lost = context.wait_for(|view| (!view.is_connected(&peer)).then_some(()));
        // The end of the node is an end too.
        let _ = lost.await;
    })
}

/// Ends once a path is being drained.
fn drains(mut changes: watch::Receiver<Arc<View>>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let drains = |view: &Arc<View>| {
            let mut paths = view.peers().flat_map(|peer| &peer.paths);
            paths.any(|path| path.draining)
        };
        // The context outlives the test.
        let _ = changes.wait_for(drains).await;
    })
}
