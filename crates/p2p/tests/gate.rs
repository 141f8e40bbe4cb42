//! Who gets in, who does not, and what is said about it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

mod common;

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use futures::{FutureExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId,
    identity::Keypair,
    swarm::{DialError, SwarmEvent, dummy},
};
use pluto_p2p::{
    Node, NodeConfig, P2PContext,
    addr::{Transport, of_socket},
    gater,
    p2p::DialFailed,
    p2p_context::{FailureCause, WhyNotConnected},
};
use pluto_testkit::{
    LIMIT, QUIC, RawPeer, TCP, TRANSPORTS, TestNode, config, ids, introduce, key, keys, met, within,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
};

use self::common::{ASK, talker};

/// What identify speaks, which our nodes begin on every connection.
const IDENTIFY: &str = "/ipfs/id/1.0.0";
const PING: &str = "/ipfs/ping/1.0.0";

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_closed_after_the_handshake_and_before_any_stream() {
    for listen in TRANSPORTS {
        let node = plain(config(&key(), &[listen]), &[PeerId::random()]).await;
        let mut stranger = RawPeer::start(key()).await;
        let mut asked = stranger.serve(IDENTIFY);

        assert!(stranger.dial(node.id(), &node.addresses[0]).await);
        stranger.closed(node.id()).await;

        assert!(asked.next().now_or_never().is_none(), "nothing was opened");
        assert!(stranger.open(node.id(), PING).await.is_err());
        assert!(node.context.view().peer(&stranger.id()).is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_the_cluster_is_let_in() {
    for listen in TRANSPORTS {
        let mut peer = RawPeer::start(key()).await;
        let node = plain(config(&key(), &[listen]), &[peer.id()]).await;
        let mut asked = peer.serve(IDENTIFY);

        assert!(peer.dial(node.id(), &node.addresses[0]).await);

        within(node.context.connected(peer.id())).await.unwrap();
        assert!(within(asked.next()).await.is_some());
        peer.open(node.id(), PING).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_gate_lets_everybody_in() {
    for listen in TRANSPORTS {
        let mut open = config(&key(), &[listen]);
        open.gater.mode = gater::Mode::Open;
        let node = plain(open, &[PeerId::random()]).await;
        for _ in 0..3 {
            let mut stranger = RawPeer::start(key()).await;
            assert!(stranger.dial(node.id(), &node.addresses[0]).await);
            stranger.open(node.id(), PING).await.unwrap();
            let id = stranger.id();
            within(
                node.context
                    .wait_for(|view| view.is_connected(&id).then_some(())),
            )
            .await
            .unwrap();
            assert!(!node.context.is_known(&id), "let in, not one of ours");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_gate_refuses_a_dial_to_a_stranger() {
    for (place, listen) in TRANSPORTS.into_iter().enumerate() {
        let stranger = RawPeer::start(key()).await;
        let (mut node, ()) = Node::new(config(&key(), &[listen]), P2PContext::new([]), |_| {
            Ok::<_, Infallible>((dummy::Behaviour, ()))
        })
        .unwrap();
        let address = stranger.addresses[place].clone();
        let (control, id) = (node.control(), stranger.id());
        let dial = tokio::spawn(async move { control.dial(id, vec![address]).await });

        let refused = async {
            loop {
                match node.next().await.unwrap() {
                    SwarmEvent::OutgoingConnectionError { error, .. } => return error,
                    SwarmEvent::ConnectionEstablished { .. } => panic!("it was let in"),
                    _ => {}
                }
            }
        };
        let DialError::Denied { cause, .. } = within(refused).await else {
            panic!("refused by somebody else");
        };
        let cause: gater::Refused = cause.downcast().unwrap();
        assert_eq!(
            cause,
            gater::Refused::Stranger {
                peer: stranger.id()
            }
        );
        assert_eq!(node.behaviour_mut().gater.refused(), 1);
        let DialFailed::NotReached { peer, failures } = within(dial).await.unwrap().unwrap_err()
        else {
            panic!("the node is there");
        };
        assert_eq!((peer, &failures[0].cause), (id, &FailureCause::Denied));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_fill_the_places_of_their_address_only() {
    const PLACES: usize = 4;
    let mut peer = RawPeer::start(key()).await;
    let mut bounded = config(&key(), &[TCP]);
    bounded.gater.max_pending_per_ip = PLACES;
    bounded.connection_timeout = LIMIT;
    let node = plain(bounded, &[peer.id()]).await;
    let noisy = "127.0.0.2:0".parse().unwrap();

    let mut mute = Vec::new();
    for _ in 0..PLACES {
        mute.push(connect(noisy, &node.addresses[0]).await);
    }
    for _ in 0..3 {
        closed(connect(noisy, &node.addresses[0]).await).await;
    }
    for stream in &mut mute {
        assert!(stream.read_u8().now_or_never().is_none(), "still pending");
    }

    // Another address has places of its own.
    assert!(peer.dial(node.id(), &node.addresses[0]).await);
    within(node.context.connected(peer.id())).await.unwrap();

    // A place that is given back can be taken again.
    drop(mute.pop());
    let kept = async {
        loop {
            let mut stream = connect(noisy, &node.addresses[0]).await;
            // The node may not have seen yet that the other one is gone.
            let refused = tokio::time::timeout(Duration::from_millis(200), stream.read_u8());
            if refused.await.is_err() {
                return;
            }
        }
    };
    within(kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_are_bounded_in_all_and_in_time() {
    const PLACES: usize = 4;
    let mut peer = RawPeer::start(key()).await;
    let mut bounded = config(&key(), &[TCP]);
    bounded.gater.max_pending = PLACES;
    bounded.connection_timeout = Duration::from_millis(1500);
    let node = plain(bounded, &[peer.id()]).await;

    let mut mute = Vec::new();
    for place in 0..PLACES {
        let from = SocketAddr::from(([127, 0, 0, 10 + place as u8], 0));
        mute.push(connect(from, &node.addresses[0]).await);
    }
    closed(connect("127.0.0.2:0".parse().unwrap(), &node.addresses[0]).await).await;

    // Whoever does not speak is closed when its time is up, and honest peers get in.
    for stream in mute {
        closed(stream).await;
    }
    assert!(peer.dial(node.id(), &node.addresses[0]).await);
    within(node.context.connected(peer.id())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_peer_of_ours_and_who_is_ourselves_is_said() {
    let key = key();
    let stranger = PeerId::random();
    let node = plain(config(&key, &[TCP]), &[key.public().to_peer_id()]).await;

    let why = node.context.why_not_connected(stranger).unwrap();
    assert_eq!(why, WhyNotConnected::Unknown { peer: stranger });
    assert_eq!(
        why.to_string(),
        format!("peer {stranger} is not part of this cluster")
    );

    let why = node.context.why_not_connected(node.id()).unwrap();
    assert_eq!(why, WhyNotConnected::Itself { peer: node.id() });
    assert_eq!(why.to_string(), format!("peer {} is this node", node.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_an_address_is_said_to_have_none() {
    let absent = PeerId::random();
    let node = plain(config(&key(), &[TCP]), &[absent]).await;

    let why = because(&node, absent, |why| {
        matches!(why, WhyNotConnected::NoAddress { .. })
    })
    .await;

    assert_eq!(
        why.to_string(),
        format!("peer {absent} has no known address and has not connected to us")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_that_nobody_answers_is_said_to_be_under_way() {
    let absent = PeerId::random();
    let node = plain(config(&key(), &[TCP]), &[absent]).await;
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = of_socket(mute.local_addr().unwrap(), Transport::Tcp);

    node.control.book().set(absent, vec![address]);

    let why = because(&node, absent, |why| {
        matches!(why, WhyNotConnected::Dialing { last: None, .. })
    })
    .await;
    assert_eq!(why.to_string(), format!("peer {absent} is being dialled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_that_is_not_answered_in_time_is_said_to_have_been_slow() {
    let absent = PeerId::random();
    let mut hasty = config(&key(), &[TCP]);
    hasty.connection_timeout = Duration::from_millis(300);
    let node = plain(hasty, &[absent]).await;
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = of_socket(mute.local_addr().unwrap(), Transport::Tcp);

    node.control.book().set(absent, vec![address.clone()]);

    let why = because(&node, absent, |why| waits_for(why, &FailureCause::TimedOut)).await;
    assert!(
        why.to_string().ends_with(&format!(
            "; last at {address}: no answer in time (is a firewall in between?)"
        )),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_is_said_to_refuse() {
    let absent = PeerId::random();
    let node = plain(config(&key(), &[TCP]), &[absent]).await;
    // Bound and not listening: nobody else can take it meanwhile.
    let bound = TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = of_socket(bound.local_addr().unwrap(), Transport::Tcp);

    node.control.book().set(absent, vec![address.clone()]);

    let why = because(&node, absent, |why| waits_for(why, &FailureCause::Refused)).await;
    let WhyNotConnected::Waiting { attempts, .. } = why else {
        unreachable!("it was asked for")
    };
    assert_eq!(
        why.to_string(),
        format!(
            "peer {absent} was not reached in {attempts} attempts; last at {address}: \
             connection refused (is the node running, and is this its port?)"
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_at_the_address_is_named() {
    for (place, listen) in TRANSPORTS.into_iter().enumerate() {
        let absent = PeerId::random();
        let other = RawPeer::start(key()).await;
        let node = plain(config(&key(), &[listen]), &[absent]).await;

        node.control
            .book()
            .set(absent, vec![other.addresses[place].clone()]);

        let found = FailureCause::WrongPeer { found: other.id() };
        let why = because(&node, absent, |why| waits_for(why, &found)).await;
        assert!(
            why.to_string().ends_with(&format!(
                "peer {} answered there (is the address stale?)",
                other.id()
            )),
            "{why}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_leads_to_oneself_is_said() {
    let absent = PeerId::random();
    let node = plain(config(&key(), &[TCP]), &[absent]).await;

    node.control.book().set(absent, node.addresses.clone());

    because(&node, absent, |why| waits_for(why, &FailureCause::Itself)).await;
}

/// The dialler's handshake is over before the other side's gate closes the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_gate_is_closed_to_us_is_said_to_have_closed() {
    for listen in TRANSPORTS {
        let keys: [Keypair; 2] = keys();
        let known = ids(&keys);
        let eager = plain(config(&keys[0], &[listen]), &known).await;
        let aloof = plain(config(&keys[1], &[listen]), &known[1..]).await;

        eager.meets(&aloof);

        let why = because(&eager, aloof.id(), |why| {
            waits_for(why, &FailureCause::Handshake)
        })
        .await;
        assert!(
            why.to_string().ends_with(
                "closed during the handshake (is this node in the peer's cluster file?)"
            ),
            "{why}"
        );
    }
}

/// Each attempt looks like a connection to the one who dials, and requests wait for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_closes_again_and_again_is_tried_less_and_less() {
    for listen in TRANSPORTS {
        let keys: [Keypair; 2] = keys();
        let known = ids(&keys);
        let eager = talker(config(&keys[0], &[listen]), &known).await;
        let aloof = plain(config(&keys[1], &[listen]), &known[1..]).await;
        let _calls: Vec<_> = (0..20)
            .map(|_| eager.handle.call(aloof.id(), ASK, b"anyone?"))
            .collect();

        eager.meets(&aloof);

        let began = tokio::time::Instant::now();
        because(
            &eager,
            aloof.id(),
            |why| matches!(why, WhyNotConnected::Waiting { attempts, .. } if *attempts >= 3),
        )
        .await;
        // A quarter of a second, then half of one, less a fifth.
        assert!(began.elapsed() >= Duration::from_millis(600), "{listen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_to_be_said_while_connected_and_the_end_is_told() {
    let keys: [Keypair; 2] = keys();
    let known = ids(&keys);
    let nodes = [
        plain(config(&keys[0], &[QUIC]), &known).await,
        plain(config(&keys[1], &[QUIC]), &known).await,
    ];
    introduce(&nodes);
    met(&nodes).await;
    let [a, b] = nodes;
    assert_eq!(a.context.why_not_connected(b.id()), None);

    let context = a.context.clone();
    a.stop().await;

    let why = context.why_not_connected(b.id()).unwrap();
    assert_eq!(why, WhyNotConnected::NodeGone);
    assert_eq!(why.to_string(), "this node has shut down");
}

fn waits_for(why: &WhyNotConnected, cause: &FailureCause) -> bool {
    matches!(
        why,
        WhyNotConnected::Waiting { last: Some(last), .. } if last.cause == *cause
    )
}

/// Waits until the context gives this answer.
async fn because<H>(
    node: &TestNode<H>,
    peer: PeerId,
    mut answer: impl FnMut(&WhyNotConnected) -> bool,
) -> WhyNotConnected {
    let mut last = None;
    let answered = node.context.wait_for(|_| {
        last = node.context.why_not_connected(peer);
        last.clone().filter(&mut answer)
    });
    match tokio::time::timeout(LIMIT, answered).await {
        Ok(why) => why.unwrap(),
        Err(_) => panic!("the last answer was {last:?}"),
    }
}

async fn plain(config: NodeConfig, known: &[PeerId]) -> TestNode<()> {
    TestNode::start(config, known, |_| (dummy::Behaviour, ())).await
}

/// Connects from an address and says nothing.
async fn connect(from: SocketAddr, to: &Multiaddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // Its port may be one that somebody listens on elsewhere, and dials from.
    socket.set_reuseport(true).unwrap();
    socket.bind(from).unwrap();
    within(socket.connect(socket_addr(to))).await.unwrap()
}

/// Waits until the other side closes, which it does without a word.
async fn closed(mut stream: TcpStream) {
    let ended = within(stream.read_u8()).await;
    assert!(ended.is_err(), "{ended:?}");
}

fn socket_addr(address: &Multiaddr) -> SocketAddr {
    use libp2p::multiaddr::Protocol;
    let mut parts = address.iter();
    match (parts.next(), parts.next()) {
        (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port))) => (ip, port).into(),
        _ => panic!("{address} is not TCP over IPv4"),
    }
}
