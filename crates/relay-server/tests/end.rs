//! How a relay ends: nothing new, time for what runs, and then goodbye.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

mod common;

use std::time::{Duration, Instant};

use common::{HOP, OK, Relay, STOP, circuit, config, connected, get, reserve};
use futures::{AsyncReadExt, AsyncWriteExt};
use pluto_crypto::k1::SecretKey;
use pluto_relay_server::{Config, Outcome, Phase};
use pluto_testkit::{RawPeer, key, within};

#[tokio::test(flavor = "multi_thread")]
async fn running_circuits_get_their_time_and_then_everybody_is_sent_away() {
    let drain = Duration::from_secs(3);
    let served = config()
        .with_drain(drain)
        .with_http(([127, 0, 0, 1], 0).into());
    let relay = Relay::start(served).await;
    let http = relay.control.http_address().unwrap();
    assert!(get(http, "/readyz").await.0.starts_with("HTTP/1.1 200"));
    let (mut ann, mut idle) = (connected(&relay).await, connected(&relay).await);
    // With QUIC a listener and its connections are one socket.
    let mut bob = RawPeer::start(key()).await;
    assert!(bob.dial(relay.id, &relay.at("quic")).await);
    let mut incoming = bob.serve(STOP);
    assert_eq!(reserve(&mut bob, &relay).await.status, OK);
    assert_eq!(reserve(&mut idle, &relay).await.status, OK);
    let (mut near, mut far) = circuit(&relay, &mut ann, bob.id(), &mut incoming).await;
    relay.gives(2, 1).await;

    let began = Instant::now();
    relay.cancel.cancel();

    // Who carries nothing is sent away at once.
    within(idle.closed(relay.id)).await;
    assert!(began.elapsed() < drain, "{:?}", began.elapsed());
    let state = relay.control.state();
    assert!(matches!(state.phase, Phase::Draining { .. }), "{state:?}");
    assert_eq!(state.circuits, 1);
    for page in ["/readyz", "/", "/enr"] {
        let (head, body) = get(http, page).await;
        assert!(head.starts_with("HTTP/1.1 503"), "{page}: {head}");
        assert_eq!(body, "shutting down\n", "{page}");
    }
    assert!(get(http, "/livez").await.0.starts_with("HTTP/1.1 200"));
    // The circuit still runs; a new one, or a place, is not given.
    near.write_all(b"x").await.unwrap();
    near.flush().await.unwrap();
    within(far.read_exact(&mut [0; 1])).await.unwrap();
    assert!(ann.open(relay.id, HOP).await.is_err(), "HOP is withdrawn");
    let mut late = RawPeer::start(key()).await;
    assert!(!late.dial(relay.id, &relay.at("tcp")).await);
    if late.dial(relay.id, &relay.at("quic")).await {
        within(late.closed(relay.id)).await;
    }
    assert_eq!(relay.control.state().circuits, 1);

    within(ann.closed(relay.id)).await;
    within(bob.closed(relay.id)).await;
    assert!(began.elapsed() >= drain, "{:?}", began.elapsed());
    let outcome = within(relay.task).await.unwrap();
    assert_eq!(outcome, Outcome::TimeUp { circuits: 1 });
    assert!(relay.control.ready().await.is_err(), "it is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_as_soon_as_no_circuit_runs() {
    let relay = Relay::start(config()).await;
    let (mut ann, mut bob) = (connected(&relay).await, connected(&relay).await);
    let mut incoming = bob.serve(STOP);
    assert_eq!(reserve(&mut bob, &relay).await.status, OK);
    let (near, far) = circuit(&relay, &mut ann, bob.id(), &mut incoming).await;
    relay.gives(1, 1).await;

    relay.control.drain();
    let draining = relay
        .control
        .wait_for(|state| matches!(state.phase, Phase::Draining { .. }).then_some(state.circuits));
    assert_eq!(within(draining).await, Ok(1));
    drop((near, far));
    // Long before the thirty seconds are over.
    assert_eq!(within(relay.task).await.unwrap(), Outcome::Drained);
    within(ann.closed(relay.id)).await;
    within(bob.closed(relay.id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_word_ends_it_now() {
    let relay = Relay::start(config()).await;
    let (mut ann, mut bob) = (connected(&relay).await, connected(&relay).await);
    let mut incoming = bob.serve(STOP);
    assert_eq!(reserve(&mut bob, &relay).await.status, OK);
    let _circuit = circuit(&relay, &mut ann, bob.id(), &mut incoming).await;
    relay.gives(1, 1).await;
    relay.cancel.cancel();
    let draining = relay
        .control
        .wait_for(|state| matches!(state.phase, Phase::Draining { .. }).then_some(()));
    within(draining).await.unwrap();

    relay.control.stop();

    let outcome = within(relay.task).await.unwrap();
    assert_eq!(outcome, Outcome::Stopped { circuits: 1 });
    within(ann.closed(relay.id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_takes_the_port_while_circuits_still_run() {
    let relay = Relay::start(config()).await;
    let (mut ann, mut bob) = (connected(&relay).await, connected(&relay).await);
    let mut incoming = bob.serve(STOP);
    assert_eq!(reserve(&mut bob, &relay).await.status, OK);
    let (mut near, mut far) = circuit(&relay, &mut ann, bob.id(), &mut incoming).await;
    relay.gives(1, 1).await;
    relay.cancel.cancel();
    let mut cat = RawPeer::start(key()).await;
    // Once the port is given up nobody answers there.
    while cat.dial(relay.id, &relay.at("tcp")).await {}

    let port = relay.at("tcp");
    let successor =
        Relay::start(Config::new(SecretKey::generate()).with_listen(port.clone())).await;
    assert!(cat.dial(successor.id, &port).await);
    assert_eq!(reserve(&mut cat, &successor).await.status, OK);
    near.write_all(b"x").await.unwrap();
    near.flush().await.unwrap();
    within(far.read_exact(&mut [0; 1])).await.unwrap();
    successor.stop().await;
    relay.stop().await;
}
