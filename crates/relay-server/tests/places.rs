//! Who is given a place, and who is told what else.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

mod common;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Happened, OK, RESERVATION_REFUSED, Relay, Stock, config, connected, reserve};
use pluto_p2p::relay::wire::pb::HopMessage;
use pluto_relay_server::Limits;
use pluto_testkit::{key, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_given_for_an_hour_with_charons_limits() {
    let relay = Relay::start(config()).await;
    let mut peer = connected(&relay).await;

    let answer = reserve(&mut peer, &relay).await;

    assert_eq!(answer.status, OK);
    assert_eq!(answer.r#type, Some(2));
    let limit = answer.limit.unwrap();
    assert_eq!((limit.duration, limit.data), (Some(3600), Some(32 << 20)));
    let place = answer.reservation.unwrap();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert!((now + 3590..=now + 3600).contains(&place.expire.unwrap()));
    let told: Vec<_> = relay.addresses.iter().map(|told| told.to_vec()).collect();
    assert_eq!(place.addrs, told);
    relay.gives(1, 0).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_are_accepted_by_a_full_relay_and_a_stranger_is_refused() {
    let relay = Relay::start(config().with_limits(Limits {
        max_reservations: 2,
        ..Limits::default()
    }))
    .await;
    let (mut ann, mut bob) = (connected(&relay).await, connected(&relay).await);
    assert_eq!(reserve(&mut ann, &relay).await.status, OK);
    assert_eq!(reserve(&mut bob, &relay).await.status, OK);

    let mut cat = connected(&relay).await;
    for _ in 0..3 {
        assert_eq!(reserve(&mut cat, &relay).await.status, RESERVATION_REFUSED);
        assert_eq!(reserve(&mut ann, &relay).await.status, OK, "a renewal");
        assert_eq!(reserve(&mut bob, &relay).await.status, OK, "a renewal");
    }
    // On another connection it is the same place.
    assert!(ann.dial(relay.id, &relay.at("quic")).await);
    assert_eq!(reserve(&mut ann, &relay).await.status, OK);
    relay.gives(2, 0).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_place_of_a_lost_peer_waits_for_it() {
    let relay = Relay::start(config().with_limits(Limits {
        max_reservations: 1,
        ..Limits::default()
    }))
    .await;
    let mut ann = connected(&relay).await;
    let key = ann.key.clone();
    assert_eq!(reserve(&mut ann, &relay).await.status, OK);
    drop(ann);
    relay.gives(0, 0).await;

    let mut bob = connected(&relay).await;
    assert_eq!(reserve(&mut bob, &relay).await.status, RESERVATION_REFUSED);
    let mut ann = pluto_testkit::RawPeer::start(key).await;
    assert!(ann.dial(relay.id, &relay.at("quic")).await);
    assert_eq!(reserve(&mut ann, &relay).await.status, OK);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_gets_no_more_places_than_its_share() {
    let relay = Relay::start(config().with_limits(Limits {
        max_reservations_per_ip: 2,
        ..Limits::default()
    }))
    .await;
    let mut peers = Vec::new();
    for _ in 0..2 {
        let mut peer = connected(&relay).await;
        assert_eq!(reserve(&mut peer, &relay).await.status, OK);
        peers.push(peer);
    }

    let mut third = connected(&relay).await;
    assert_eq!(
        reserve(&mut third, &relay).await.status,
        RESERVATION_REFUSED
    );
    assert_eq!(reserve(&mut peers[0], &relay).await.status, OK, "a renewal");

    // Two connections for each place are let in, and then none.
    peers.push(connected(&relay).await);
    let mut fifth = connected(&relay).await;
    within(fifth.closed(relay.id)).await;
    assert_eq!(relay.control.state().connections, 4);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_not_renewed_ends() {
    let relay = Relay::start(config().with_limits(Limits {
        reservation_duration: Duration::from_millis(500),
        ..Limits::default()
    }))
    .await;
    let mut peer = connected(&relay).await;
    assert_eq!(reserve(&mut peer, &relay).await.status, OK);
    relay.gives(1, 0).await;
    relay.gives(0, 0).await;
    assert_eq!(relay.control.state().connections, 1);

    assert_eq!(reserve(&mut peer, &relay).await.status, OK, "again");
    relay.gives(1, 0).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn libp2ps_own_client_is_served_over_either_transport_and_renews() {
    let relay = Relay::start(config().with_limits(Limits {
        max_reservations: 2,
        reservation_duration: Duration::from_secs(3),
        ..Limits::default()
    }))
    .await;
    let mut clients = Vec::new();
    for address in &relay.addresses {
        let mut client = Stock::start(key());
        client.reserve(address).await;
        client.until(Happened::Reserved { renewal: false }).await;
        clients.push(client);
    }
    relay.gives(2, 0).await;

    let third = Stock::start(key());
    third.reserve(&relay.addresses[0]).await;
    let mut third = third;
    let reason = third
        .find(|happened| match happened {
            Happened::ListenerClosed(reason) => Some(reason.clone()),
            _ => None,
        })
        .await;
    assert!(reason.contains("Refused"), "{reason}");

    // At three quarters of the time, and the relay is full.
    for client in &mut clients {
        client.until(Happened::Reserved { renewal: true }).await;
    }
    relay.gives(2, 0).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_request_is_answered_and_harms_nobody() {
    let relay = Relay::start(config()).await;
    let mut peer = connected(&relay).await;
    for (kind, status) in [(Some(2), 401), (Some(9), 400), (None, 400), (Some(1), 400)] {
        let question = HopMessage {
            r#type: kind,
            ..HopMessage::default()
        };
        let (answer, _) = common::ask(&mut peer, relay.id, question).await;
        assert_eq!(answer.status, Some(status), "{kind:?}");
    }
    assert_eq!(reserve(&mut peer, &relay).await.status, OK);
    relay.stop().await;
}
