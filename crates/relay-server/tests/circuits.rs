//! Peers that reach each other through a relay, and what it counts of that.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

mod common;

use std::time::Duration;

use common::{
    CONNECTION_FAILED, HOP, Happened, NO_RESERVATION, OK, RESOURCE_LIMIT_EXCEEDED, Relay, STOP,
    Stock, circuit, config, connect, connected, reserve, take,
};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{PeerId, StreamProtocol};
use pluto_p2p::{
    proto::{read_protobuf_with_max_size, write_protobuf},
    relay::{MAX_FRAME, wire::pb::HopMessage},
};
use pluto_relay_server::Limits;
use pluto_testkit::{LIMIT, key, within};

const ECHO: &str = "/test/echo/1.0.0";

#[tokio::test(flavor = "multi_thread")]
async fn peers_with_libp2ps_own_client_meet_over_either_transport() {
    let relay = Relay::start(config()).await;
    let [tcp, quic] = [&relay.addresses[0], &relay.addresses[1]];
    for (near, far) in [(tcp, quic), (quic, tcp), (tcp, tcp)] {
        let mut bob = Stock::start(key());
        let mut echoes = bob.serve(ECHO);
        bob.reserve(far).await;
        bob.until(Happened::Reserved { renewal: false }).await;
        let mut ann = Stock::start(key());
        ann.reach(near, bob.id).await;
        let met = Happened::Connected {
            peer: bob.id,
            relayed: true,
        };
        ann.until(met).await;
        ann.until(Happened::Pinged { peer: bob.id }).await;

        let echo = async {
            let (from, stream) = echoes.next().await.unwrap();
            let (mut read, mut write) = stream.split();
            futures::io::copy(&mut read, &mut write).await.unwrap();
            write.close().await.unwrap();
            from
        };
        let speak = async {
            let opened = ann.streams.open_stream(bob.id, StreamProtocol::new(ECHO));
            let (mut read, mut write) = opened.await.unwrap().split();
            let said = vec![7; 1 << 20];
            let mut heard = Vec::new();
            let say = async {
                write.write_all(&said).await.unwrap();
                write.close().await.unwrap();
            };
            let (_, result) = futures::join!(say, read.read_to_end(&mut heard));
            result.unwrap();
            assert_eq!(heard, said);
        };
        let (from, ()) = within(futures::future::join(echo, speak)).await;
        assert_eq!(from, ann.id);
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_is_told_to_both_ends_and_counted_for_both() {
    let monitored = config().with_monitoring(([127, 0, 0, 1], 0).into());
    let relay = Relay::start(monitored).await;
    let (mut ann, mut bob) = (connected(&relay).await, connected(&relay).await);
    let mut incoming = bob.serve(STOP);
    assert_eq!(reserve(&mut bob, &relay).await.status, OK);

    let id = bob.id();
    let (near, far) = futures::join!(connect(&mut ann, &relay, id), take(&mut incoming, 100));
    let limit = near.0.limit.unwrap();
    assert_eq!((limit.duration, limit.data), (Some(3600), Some(32 << 20)));
    assert_eq!(far.0.r#type, Some(0));
    assert_eq!(far.0.limit, Some(limit));
    assert_eq!(far.0.peer.unwrap().id.unwrap(), ann.id().to_bytes());
    relay.gives(1, 1).await;

    let (mut near, mut far) = (near.1, far.1);
    near.write_all(b"hello").await.unwrap();
    near.flush().await.unwrap();
    let mut heard = [0; 5];
    within(far.read_exact(&mut heard)).await.unwrap();
    far.write_all(b"hi").await.unwrap();
    far.close().await.unwrap();
    near.close().await.unwrap();
    let mut rest = Vec::new();
    within(near.read_to_end(&mut rest)).await.unwrap();
    assert_eq!((&heard, &rest[..]), (b"hello", &b"hi"[..]));
    relay.gives(1, 0).await;

    let of = |name: &str, peer: &pluto_testkit::RawPeer| {
        format!(
            "relay_p2p_{name}{{relay_peer=\"{}\",peer=\"{}\",peer_cluster=\"\"}}",
            relay.id,
            peer.id()
        )
    };
    for (name, peer, value) in [
        ("network_receive_bytes_total", &ann, 5.0),
        ("network_sent_bytes_total", &ann, 2.0),
        ("network_receive_bytes_total", &bob, 2.0),
        ("network_sent_bytes_total", &bob, 5.0),
        ("connection_total", &bob, 1.0),
        ("active_connections", &bob, 1.0),
    ] {
        let sample = relay.sample(&of(name, peer)).await;
        assert_eq!(sample, Some(value), "{name}");
    }
    let service = |name: &str, labels: &str| {
        let labels = format!("relay_peer=\"{}\"{labels}", relay.id);
        format!("libp2p_relaysvc_{name}{{{labels}}}")
    };
    for (name, labels, value) in [
        ("status", "", 1.0),
        ("reservations_total", ",type=\"opened\"", 1.0),
        ("connections_total", ",type=\"opened\"", 1.0),
        ("connections_total", ",type=\"closed\"", 1.0),
        ("connection_duration_seconds_count", "", 1.0),
        ("data_transferred_bytes_total", "", 7.0),
    ] {
        let sample = relay.sample(&service(name, labels)).await;
        assert_eq!(sample, Some(value), "{name}{labels}");
    }

    // The series of a peer go with it.
    let (series, gone) = (of("connection_total", &bob), bob.id());
    drop(bob);
    let left = relay
        .control
        .wait_for(|state| (state.connections == 1).then_some(()));
    within(left).await.unwrap();
    assert_eq!(relay.sample(&series).await, None, "{gone}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_are_bounded_for_both_ends() {
    let relay = Relay::start(config().with_limits(Limits {
        max_circuits_per_peer: 1,
        ..Limits::default()
    }))
    .await;
    let [mut ann, mut bob, mut cat] = [
        connected(&relay).await,
        connected(&relay).await,
        connected(&relay).await,
    ];
    let mut incoming = bob.serve(STOP);
    assert_eq!(reserve(&mut ann, &relay).await.status, OK);
    assert_eq!(reserve(&mut bob, &relay).await.status, OK);
    let open = circuit(&relay, &mut ann, bob.id(), &mut incoming).await;

    for full in [ann.id(), bob.id()] {
        let (answer, _) = connect(&mut cat, &relay, full).await;
        assert_eq!(answer.status, RESOURCE_LIMIT_EXCEEDED);
    }
    drop(open);
    relay.gives(2, 0).await;
    let _again = circuit(&relay, &mut cat, bob.id(), &mut incoming).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_reached_is_told_apart() {
    let relay = Relay::start(config()).await;
    let (mut ann, mut bob) = (connected(&relay).await, connected(&relay).await);
    let (answer, _) = connect(&mut ann, &relay, bob.id()).await;
    assert_eq!(answer.status, NO_RESERVATION);

    assert_eq!(reserve(&mut bob, &relay).await.status, OK);
    let (answer, _) = connect(&mut ann, &relay, bob.id()).await;
    assert_eq!(answer.status, CONNECTION_FAILED, "it serves no STOP");

    let mut incoming = bob.serve(STOP);
    let id = bob.id();
    let (near, _) = futures::join!(connect(&mut ann, &relay, id), take(&mut incoming, 202));
    assert_eq!(near.0.status, CONNECTION_FAILED, "it refused");
    relay.gives(1, 0).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_ends_at_its_bytes_and_at_its_time() {
    let limits = Limits {
        circuit_bytes: 1000,
        circuit_duration: Duration::from_secs(2),
        ..Limits::default()
    };
    let relay = Relay::start(config().with_limits(limits)).await;
    let (mut ann, mut bob) = (connected(&relay).await, connected(&relay).await);
    let mut incoming = bob.serve(STOP);
    assert_eq!(reserve(&mut bob, &relay).await.status, OK);

    let (mut near, mut far) = circuit(&relay, &mut ann, bob.id(), &mut incoming).await;
    let mut heard = vec![0; 1000];
    for _ in 0..2 {
        near.write_all(&[1; 1000]).await.unwrap();
        near.flush().await.unwrap();
        within(far.read_exact(&mut heard)).await.unwrap();
        std::mem::swap(&mut near, &mut far);
    }
    near.write_all(&[1]).await.unwrap();
    near.flush().await.unwrap();
    relay.gives(1, 0).await;

    let (_near, mut far) = circuit(&relay, &mut ann, bob.id(), &mut incoming).await;
    relay.gives(1, 1).await;
    let ended = tokio::time::timeout(LIMIT, far.read(&mut heard))
        .await
        .unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    relay.gives(1, 0).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_ends_with_either_peer() {
    let relay = Relay::start(config()).await;
    for near_first in [true, false] {
        let (mut ann, mut bob) = (connected(&relay).await, connected(&relay).await);
        let mut incoming = bob.serve(STOP);
        assert_eq!(reserve(&mut bob, &relay).await.status, OK);
        let (mut near, mut far) = circuit(&relay, &mut ann, bob.id(), &mut incoming).await;
        relay.gives(1, 1).await;
        let left = if near_first {
            drop(ann);
            &mut far
        } else {
            drop(bob);
            &mut near
        };
        let ended = within(left.read(&mut [0; 1])).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        relay.gives(usize::from(near_first), 0).await;
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_of_a_peer_is_learned_from_itself() {
    let monitored = config().with_monitoring(([127, 0, 0, 1], 0).into());
    let relay = Relay::start(monitored).await;
    let mut member = Stock::start(key());
    let mut asked = member.serve("/charon/peerinfo/2.0.0");
    member.dial(&relay.addresses[0]).await;

    let (from, mut stream) = within(asked.next()).await.unwrap();
    assert_eq!(from, relay.id);
    let mut question = [9; 1];
    within(stream.read_exact(&mut question)).await.unwrap();
    assert_eq!(question, [0], "an empty message");
    // A lock hash in field 2, and a version that is of no interest.
    let lock_hash = [0xab; 32];
    let mut answer = vec![36 + 2, 0x0a, 0x02, b'v', b'1', 0x12, 32];
    answer.extend(lock_hash);
    answer[0] = (answer.len() - 1) as u8;
    stream.write_all(&answer).await.unwrap();
    stream.close().await.unwrap();

    let series = format!(
        "relay_p2p_active_connections{{relay_peer=\"{}\",peer=\"{}\",peer_cluster=\"abababa\"}}",
        relay.id, member.id
    );
    let learned = async {
        // Nothing tells of it but the page.
        while relay.sample(&series).await != Some(1.0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(learned).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_is_refused_beyond_its_burst_and_its_rate() {
    const BURST: u64 = 256;
    const RATE: u64 = 32;
    let relay = Relay::start(config()).await;
    let mut ann = connected(&relay).await;
    let nobody = PeerId::random();
    let began = tokio::time::Instant::now();
    let mut answered = 0;
    loop {
        match connect(&mut ann, &relay, nobody).await.0.status {
            NO_RESERVATION => answered += 1,
            status => {
                assert_eq!(status, RESOURCE_LIMIT_EXCEEDED);
                break;
            }
        }
    }
    assert!(answered >= BURST, "{answered}");
    let more = RATE * (began.elapsed().as_secs() + 1);
    assert!(
        answered <= BURST + more,
        "{answered} in {:?}",
        began.elapsed()
    );

    // Another connection has its own.
    let mut bob = connected(&relay).await;
    let answer = connect(&mut bob, &relay, nobody).await.0;
    assert_eq!(answer.status, NO_RESERVATION);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_say_nothing_take_the_places_of_their_connection_only() {
    const AT_A_TIME: usize = 32;
    let relay = Relay::start(config()).await;
    let mut ann = connected(&relay).await;
    let mut silent = Vec::new();
    for _ in 0..AT_A_TIME {
        silent.push(ann.open(relay.id, HOP).await.unwrap());
    }

    let mut beyond = ann.open(relay.id, HOP).await.unwrap();
    assert_eq!(within(beyond.read(&mut [0])).await.unwrap_or(0), 0);

    let mut bob = connected(&relay).await;
    assert_eq!(reserve(&mut bob, &relay).await.status, OK);
    // Those that were there first are still heard.
    let mut first = silent.swap_remove(0);
    let question = HopMessage::connect(PeerId::random());
    write_protobuf(&mut first, &question, LIMIT).await.unwrap();
    let answer: HopMessage = read_protobuf_with_max_size(&mut first, MAX_FRAME, LIMIT)
        .await
        .unwrap();
    assert_eq!(answer.status, NO_RESERVATION);
    relay.stop().await;
}
