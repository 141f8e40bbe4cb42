//! One node: how it starts, what it tells of itself, how it ends.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{convert::Infallible, error::Error as _, time::Duration};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, TransportError,
    identity::Keypair,
    multiaddr::Protocol,
    swarm::{SwarmEvent, dummy},
};
use pluto_p2p::{
    Node, NodeConfig, NodeError, P2PContext,
    addr::Transport,
    gater,
    p2p::DialFailed,
    p2p_context::{FailureCause, InUse, NodeGone, PeerView},
};
use pluto_testkit::{
    LIMIT, QUIC, RawPeer, TCP, TRANSPORTS, TestNode, addr, config, ids, introduce, key, keys, met,
    within,
};
use tokio::time::Instant;

#[test]
fn a_context_serves_one_node_only() {
    let (first, second) = (key(), key());
    let context = P2PContext::default();
    build(NodeConfig::new(first.clone()), context.clone()).unwrap();

    let error = build(NodeConfig::new(second.clone()), context)
        .err()
        .unwrap();

    let NodeError::Context(mismatch) = error else {
        panic!("{error}")
    };
    assert_eq!(mismatch.bound, first.public().to_peer_id());
    assert_eq!(mismatch.node, second.public().to_peer_id());
}

#[tokio::test]
async fn a_context_that_has_or_had_a_node_is_refused() {
    let (key, absent) = (key(), PeerId::random());
    let context = P2PContext::new([absent]);
    let waiting = tokio::spawn({
        let context = context.clone();
        async move { context.connected(absent).await.map(drop) }
    });
    let node = build(config(&key, &[TCP]), context.clone()).unwrap();
    let id = node.local_peer_id();

    let error = build(config(&key, &[TCP]), context.clone()).err().unwrap();
    assert!(
        matches!(error, NodeError::InUse(InUse::Taken { node }) if node == id),
        "{error}"
    );
    assert!(!context.view().is_gone(), "the first one has it still");

    drop(node);
    assert!(within(waiting).await.unwrap().is_err());
    let error = build(config(&key, &[TCP]), context).err().unwrap();
    assert!(
        matches!(error, NodeError::InUse(InUse::Gone { node }) if node == id),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_could_not_be_built_leaves_its_context_to_the_next_attempt() {
    for listen in TRANSPORTS {
        let keys: [Keypair; 2] = keys();
        let known = ids(&keys);
        let other = plain(config(&keys[1], &[listen]), &known).await;
        let context = P2PContext::new(known);
        let waiting = tokio::spawn({
            let (context, id) = (context.clone(), other.id());
            async move { context.connected(id).await.map(drop) }
        });
        let taken = other.addresses[0].to_string();
        build(config(&keys[0], &[&taken]), context.clone())
            .err()
            .unwrap();
        assert!(!context.view().is_gone(), "{listen}");

        let node = build(config(&keys[0], &[listen]), context).unwrap();
        let control = node.control();
        let task = tokio::spawn(node.run(Default::default()));
        control.book().set(other.id(), other.addresses.clone());

        within(waiting).await.unwrap().unwrap();
        control.shutdown();
        within(task).await.unwrap();
    }
}

#[test]
fn the_failure_of_a_protocol_is_the_source_of_the_nodes() {
    #[derive(Debug, thiserror::Error)]
    #[error("no key shares")]
    struct NoShares;

    let built = Node::<dummy::Behaviour>::new(
        NodeConfig::new(key()),
        P2PContext::default(),
        |_| -> Result<(_, ()), NoShares> { Err(NoShares) },
    );

    let error = built.err().unwrap();
    assert!(matches!(error, NodeError::Behaviour(_)), "{error}");
    assert!(error.source().unwrap().is::<NoShares>());
}

#[tokio::test]
async fn the_builder_knows_whose_node_it_builds() {
    let key = key();
    let context = P2PContext::default();

    let (node, (seen, id)) = Node::new(NodeConfig::new(key.clone()), context, |builder| {
        let seen = builder.p2p_context().local_peer_id();
        Ok::<_, Infallible>((dummy::Behaviour, (seen, builder.local_peer_id())))
    })
    .unwrap();

    assert_eq!(seen, Some(key.public().to_peer_id()));
    assert_eq!(id, node.local_peer_id());
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_the_address() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = [
        format!("/ip4/127.0.0.1/tcp/{}", tcp.local_addr().unwrap().port()),
        format!(
            "/ip4/127.0.0.1/udp/{}/quic-v1",
            udp.local_addr().unwrap().port()
        ),
    ];
    for listen in taken {
        refuses_to_listen(&listen);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_our_port_on_another_address_does_not_keep_us_from_dialling() {
    let keys: [Keypair; 2] = keys();
    let known = ids(&keys);
    let plain = |key| TestNode::start(config(key, &[TCP]), &known, |_| (dummy::Behaviour, ()));
    let (node, other) = (plain(&keys[0]).await, plain(&keys[1]).await);
    let port = node.addresses[0].iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let _taken = std::net::TcpListener::bind(("127.0.0.3", port.unwrap())).unwrap();

    node.meets(&other);

    within(node.context.connected(other.id())).await.unwrap();
}

/// libp2p's TCP sockets allow others to share their port, so that dials can come from it. Two
/// nodes on one port would each get some of the connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_another_node_listens_on_is_taken_too() {
    for listen in TRANSPORTS {
        let other = plain(config(&key(), &[listen]), &[]).await;
        refuses_to_listen(&other.addresses[0].to_string());
    }
}

#[tokio::test]
async fn an_address_without_a_transport_is_named() {
    let listen = addr("/ip4/127.0.0.1/udp/0");
    let error = build(
        NodeConfig::new(key()).with_listen(listen.clone()),
        P2PContext::default(),
    )
    .err()
    .unwrap();
    assert!(
        matches!(
            &error,
            NodeError::Listen { address, source: TransportError::MultiaddrNotSupported(_) }
                if *address == listen
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bound_ports_are_what_the_node_and_its_peers_know() {
    let keys: [Keypair; 2] = keys();
    let known = ids(&keys);
    let a = plain(config(&keys[0], &[TCP, QUIC]), &known).await;
    let b = plain(config(&keys[1], &[]), &known).await;
    assert_eq!(a.addresses.len(), 2);
    assert!(a.addresses.iter().all(|address| port(address) != 0));
    assert_eq!(a.control.addresses().listen, a.addresses);

    b.meets(&a);

    let seen = addresses_of(&b, a.id(), 2).await;
    assert_eq!(sorted(seen), sorted(a.addresses.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outside_is_told_with_the_bound_ports() {
    let keys: [Keypair; 2] = keys();
    let known = ids(&keys);
    let mut outside = config(&keys[0], &[TCP, QUIC]);
    outside.external_ip = Some([203, 0, 113, 7].into());
    outside.external_host = Some("node.example".to_owned());
    let a = plain(outside, &known).await;
    let b = plain(config(&keys[1], &[]), &known).await;
    let [tcp, udp] = [Transport::Tcp, Transport::Quic].map(|transport| {
        let of = |address: &&Multiaddr| Transport::of(address) == transport;
        port(a.addresses.iter().find(of).unwrap())
    });
    let expected = [
        format!("/ip4/203.0.113.7/tcp/{tcp}"),
        format!("/ip4/203.0.113.7/udp/{udp}/quic-v1"),
        format!("/dns/node.example/tcp/{tcp}"),
        format!("/dns/node.example/udp/{udp}/quic-v1"),
    ]
    .map(|text| addr(&text));

    b.meets(&a);

    let seen = addresses_of(&b, a.id(), 6).await;
    for address in &expected {
        assert!(seen.contains(address), "{address} in {seen:?}");
    }
    for address in &a.addresses {
        assert!(seen.contains(address), "{address} in {seen:?}");
    }
    assert_eq!(
        sorted(a.control.addresses().external),
        sorted(expected.to_vec())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filtered_private_address_is_served_and_not_told() {
    let keys: [Keypair; 2] = keys();
    let known = ids(&keys);
    let mut filtered = config(&keys[0], &[TCP, QUIC]);
    filtered.filter_private_addrs = true;
    let a = plain(filtered.clone(), &known).await;
    let b = plain(config(&keys[1], &[]), &known).await;
    b.meets(&a);
    let seen = identified(&b, a.id()).await;
    assert_eq!(seen.addresses, [] as [Multiaddr; 0]);
    assert_eq!(a.control.addresses().listen, a.addresses);
    a.stop().await;

    // What is outside is told nevertheless.
    filtered.external_ip = Some([203, 0, 113, 7].into());
    let a = plain(filtered, &known).await;
    b.meets(&a);
    let seen = addresses_of(&b, a.id(), 2).await;
    assert_eq!(sorted(seen), sorted(a.control.addresses().external));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_side_learns_of_a_shutdown_at_once() {
    for listen in TRANSPORTS {
        let [a, b] = plain_pair(listen).await;
        let (id, context) = (a.id(), b.context.clone());

        let began = Instant::now();
        a.stop().await;
        within(context.wait_for(|view| (!view.is_connected(&id)).then_some(())))
            .await
            .unwrap();

        // QUIC's idle time-out is ten seconds, a ping needs longer.
        assert!(began.elapsed() < Duration::from_secs(5), "{listen}");
    }
}

#[test]
fn a_node_leaves_no_task_behind() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        for listen in TRANSPORTS {
            let metrics = tokio::runtime::Handle::current().metrics();
            let before = metrics.num_alive_tasks();
            let [a, b] = plain_pair(listen).await;
            assert!(metrics.num_alive_tasks() > before);

            a.stop().await;
            b.stop().await;

            let by = Instant::now() + LIMIT;
            while metrics.num_alive_tasks() > before {
                assert!(
                    Instant::now() < by,
                    "{} tasks are left over {listen}",
                    metrics.num_alive_tasks() - before
                );
                tokio::task::yield_now().await;
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_node_ends_every_wait() {
    let absent = PeerId::random();
    let a = plain(config(&key(), &[TCP]), &[absent]).await;
    let context = a.context.clone();
    let waiting = tokio::spawn(async move { context.connected(absent).await.map(drop) });

    a.task.abort();

    assert!(within(waiting).await.unwrap().is_err());
    assert!(a.context.view().is_gone());
    let dial = within(a.control.dial(absent, vec![])).await;
    assert_eq!(dial, Err(DialFailed::NodeGone(NodeGone)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_tells_what_came_of_it() {
    for listen in TRANSPORTS {
        let keys: [Keypair; 2] = keys();
        let known = ids(&keys);
        let a = plain(config(&keys[0], &[listen]), &known).await;
        let b = plain(config(&keys[1], &[listen]), &known).await;
        let connection = within(a.control.dial(b.id(), b.addresses.clone()))
            .await
            .unwrap();
        let view = a.context.view();
        let paths = &view.peer(&b.id()).unwrap().paths;
        assert!(paths.iter().any(|path| path.connection == connection));

        // There it is somebody else.
        let absent = PeerId::random();
        let error = within(a.control.dial(absent, b.addresses.clone()))
            .await
            .unwrap_err();
        let DialFailed::NotReached { peer, failures } = error else {
            panic!("{error}");
        };
        assert_eq!(peer, absent);
        let found = FailureCause::WrongPeer { found: b.id() };
        assert_eq!(failures[0].cause, found);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_can_be_polled_as_a_stream_of_what_happens() {
    let keys: [Keypair; 2] = keys();
    let known = ids(&keys);
    let context = P2PContext::new(known.iter().copied());
    let mut node = build(config(&keys[0], &[TCP]), context.clone()).unwrap();
    let control = node.control();
    let listen = within(async {
        loop {
            if let Some(SwarmEvent::NewListenAddr { address, .. }) = node.next().await {
                return address;
            }
        }
    })
    .await;
    assert_eq!(control.addresses().listen, std::slice::from_ref(&listen));

    let b = plain(config(&keys[1], &[]), &known).await;
    b.control.book().set(known[0], vec![listen]);

    let peer = within(async {
        loop {
            if let Some(SwarmEvent::ConnectionEstablished { peer_id, .. }) = node.next().await {
                return peer_id;
            }
        }
    })
    .await;
    assert_eq!(peer, known[1]);
    assert!(
        context.view().is_connected(&peer),
        "the context knew before the event was told"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_accepts() {
    for listen in TRANSPORTS {
        let key = key();
        let mut open = config(&key, &[listen]);
        open.gater.mode = gater::Mode::Open;
        let context = P2PContext::default();
        let (node, ()) = Node::new_server(open, context.clone(), |_| {
            Ok::<_, Infallible>((dummy::Behaviour, ()))
        })
        .unwrap();
        let control = node.control();
        let task = tokio::spawn(node.run(Default::default()));
        let address = within(control.listening()).await.unwrap().remove(0);
        let mut guest = RawPeer::start(pluto_testkit::key()).await;

        assert!(guest.dial(control.local_peer_id(), &address).await);

        let id = guest.id();
        within(context.wait_for(|view| view.is_connected(&id).then_some(())))
            .await
            .unwrap();
        control.shutdown();
        within(guest.closed(control.local_peer_id())).await;
        within(task).await.unwrap();
    }
}

async fn plain(config: NodeConfig, known: &[PeerId]) -> TestNode<()> {
    TestNode::start(config, known, |_| (dummy::Behaviour, ())).await
}

async fn plain_pair(listen: &str) -> [TestNode<()>; 2] {
    let keys: [Keypair; 2] = keys();
    let known = ids(&keys);
    let nodes = [
        plain(config(&keys[0], &[listen]), &known).await,
        plain(config(&keys[1], &[listen]), &known).await,
    ];
    introduce(&nodes);
    met(&nodes).await;
    nodes
}

fn build(config: NodeConfig, context: P2PContext) -> Result<Node<dummy::Behaviour>, NodeError> {
    let built = Node::new(config, context, |_| {
        Ok::<_, Infallible>((dummy::Behaviour, ()))
    });
    built.map(|(node, ())| node)
}

#[track_caller]
fn refuses_to_listen(listen: &str) {
    let built = build(config(&key(), &[listen]), P2PContext::default());
    let error = built.err().unwrap();
    let NodeError::Listen { address, source } = &error else {
        panic!("{error}")
    };
    assert_eq!(address.to_string(), listen);
    // The transports wrap it several times.
    assert!(format!("{source:?}").contains("AddrInUse"), "{source:?}");
    assert!(error.to_string().contains(listen), "{error}");
}

/// Waits until identify is in.
async fn identified<T>(of: &TestNode<T>, peer: PeerId) -> std::sync::Arc<PeerView> {
    within(of.context.wait_for(|view| {
        let seen = view.peer(&peer)?;
        seen.identified.as_ref()?;
        Some(seen.clone())
    }))
    .await
    .unwrap()
}

/// Waits until a peer has told at least so many addresses.
async fn addresses_of<T>(of: &TestNode<T>, peer: PeerId, count: usize) -> Vec<Multiaddr> {
    within(of.context.wait_for(|view| {
        let seen = view.peer(&peer)?;
        (seen.addresses.len() >= count).then(|| seen.addresses.clone())
    }))
    .await
    .unwrap()
}

fn port(address: &Multiaddr) -> u16 {
    address
        .iter()
        .find_map(|part| match part {
            Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
            _ => None,
        })
        .unwrap()
}

fn sorted(mut addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
    addresses.sort();
    addresses
}
