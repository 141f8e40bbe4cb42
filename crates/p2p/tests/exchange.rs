//! Two real nodes on loopback that exchange messages.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

mod common;

use std::time::Duration;

use libp2p::{PeerId, identity::Keypair};
use pluto_p2p::{
    exchange::{self, Error, MAX_HANDED},
    proto::Frame,
};
use pluto_testkit::{LIMIT, TCP, TRANSPORTS, config, ids, key, keys, within};
use tokio::time::Instant;

use self::common::{ASK, MAX_FRAME, TELL, pair, talker};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_over_tcp_and_over_quic() {
    for listen in TRANSPORTS {
        let (mut a, mut b) = pair(listen).await;

        let call = a.handle.call(b.id(), ASK, b"how are you");
        let request = within(b.handle.inbound.recv()).await.unwrap();
        assert_eq!(
            (request.peer, &request.body[..]),
            (a.id(), &b"how are you"[..])
        );
        request.respond(Frame::from_body(b"well"));
        let done = within(call).await.unwrap();
        assert_eq!(&done.body[..], b"well");

        let call = b.handle.call(a.id(), TELL, b"good");
        let request = within(a.handle.inbound.recv()).await.unwrap();
        assert_eq!(&request.body[..], b"good");
        within(call).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_request_and_an_empty_answer_are_legal() {
    let (a, mut b) = pair(TCP).await;
    let call = a.handle.call(b.id(), ASK, b"");
    let request = within(b.handle.inbound.recv()).await.unwrap();
    assert!(request.body.is_empty());
    request.respond(Frame::from_body(b""));
    assert!(within(call).await.unwrap().body.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_apart_from_a_broken_stream() {
    for listen in TRANSPORTS {
        let (a, mut b) = pair(listen).await;
        let call = a.handle.call(b.id(), ASK, b"please");
        within(b.handle.inbound.recv()).await.unwrap().refuse();
        let error = within(call).await.unwrap_err();
        assert!(
            matches!(error, Error::Refused { peer } if peer == b.id()),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_request_reaches_nobody_and_harms_nothing() {
    let (a, mut b) = pair(TCP).await;
    let long = vec![0; MAX_FRAME + 1];
    let by = Instant::now() + Duration::from_millis(500);
    let call = a
        .handle
        .calls
        .call(b.id(), ASK, Frame::from_body(&long), by)
        .unwrap();
    assert!(within(call).await.is_err());

    let call = a.handle.call(b.id(), ASK, b"short");
    let request = within(b.handle.inbound.recv()).await.unwrap();
    assert_eq!(
        &request.body[..],
        b"short",
        "the long one was never delivered"
    );
    request.respond(Frame::from_body(b"ok"));
    within(call).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_its_peer_and_says_why_it_gave_up() {
    let a = talker(config(&key(), &[TCP]), &[]).await;
    let absent = PeerId::random();
    let by = Instant::now() + Duration::from_millis(300);
    let call = a
        .handle
        .calls
        .call(absent, ASK, Frame::from_body(b"x"), by)
        .unwrap();
    let error = within(call).await.unwrap_err();
    assert!(
        matches!(error, Error::NoPath { peer, why: Some(_) } if peer == absent),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_made_before_the_peer_exists_is_delivered_once_it_does() {
    let keys: [Keypair; 2] = keys();
    let ids = ids(&keys);
    let a = talker(config(&keys[0], &[TCP]), &ids).await;
    let call = a
        .handle
        .calls
        .call(
            ids[1],
            ASK,
            Frame::from_body(b"early"),
            Instant::now() + LIMIT,
        )
        .unwrap();

    let mut b = talker(config(&keys[1], &[TCP]), &ids).await;
    a.meets(&b);
    let request = within(b.handle.inbound.recv()).await.unwrap();
    request.respond(Frame::from_body(b"late"));
    assert_eq!(&within(call).await.unwrap().body[..], b"late");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_frees_its_place() {
    let (a, mut b) = pair(TCP).await;
    for _ in 0..(2 * exchange::MAX_OUTSTANDING) {
        drop(a.handle.call(b.id(), ASK, b"never mind"));
        tokio::task::yield_now().await;
    }
    let call = loop {
        // The last of the cancelled ones may still be on their way out.
        let by = Instant::now() + LIMIT;
        match a
            .handle
            .calls
            .call(b.id(), TELL, Frame::from_body(b"now"), by)
        {
            Ok(call) => break call,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let got_it = async {
        while let Some(request) = b.handle.inbound.recv().await {
            if &request.body[..] == b"now" {
                return;
            }
        }
    };
    within(got_it).await;
    within(call).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_that_is_switched_off_here_is_not_the_fault_of_the_peer() {
    let absent = PeerId::random();
    let (a, mut b) = pair(TCP).await;
    let waiting = a.handle.call(absent, ASK, b"anyone?");

    a.handle.calls.offer(ASK, vec![]).await.unwrap();

    let error = within(waiting).await.unwrap_err();
    assert!(matches!(error, Error::Closed), "{error}");
    let error = within(a.handle.call(b.id(), ASK, b"you?"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Closed), "{error}");

    // The others go on, and so does this one when it is back.
    let told = a.handle.call(b.id(), TELL, b"well");
    within(b.handle.inbound.recv()).await.unwrap();
    within(told).await.unwrap();
    let ids = common::protocols().remove(ASK.0).ids;
    a.handle.calls.offer(ASK, ids).await.unwrap();
    let asked = a.handle.call(b.id(), ASK, b"you?");
    let request = within(b.handle.inbound.recv()).await.unwrap();
    request.respond(Frame::from_body(b"me"));
    within(asked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_ends_every_call() {
    let (a, b) = pair(TCP).await;
    let call = a.handle.call(b.id(), ASK, b"anyone");
    a.control.shutdown();
    let error = within(call).await.unwrap_err();
    assert!(matches!(error, Error::Closed), "{error}");
    within(a.task).await.unwrap();
    assert!(a.context.view().is_gone());
}

/// Over TCP alone: over QUIC a stream that is dropped ends as if it were closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_nobody_takes_is_not_said_to_be_delivered() {
    let (a, mut b) = pair(TCP).await;
    b.handle.inbound.close();
    let by = Instant::now() + Duration::from_secs(1);
    let calls = &a.handle.calls;

    let told = calls.call(b.id(), TELL, Frame::from_body(b"anyone?"), by);
    let error = within(told.unwrap()).await.unwrap_err();
    assert!(
        matches!(error, Error::Interrupted { peer, .. } if peer == b.id()),
        "{error}"
    );
    let asked = calls.call(b.id(), ASK, Frame::from_body(b"anyone?"), by + LIMIT);
    let error = within(asked.unwrap()).await.unwrap_err();
    assert!(
        matches!(error, Error::Refused { peer } if peer == b.id()),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_handed_so_many_requests_and_the_next_when_one_has_ended() {
    for listen in TRANSPORTS {
        let (a, mut b) = pair(listen).await;
        let number = |n: usize| [u8::try_from(n).unwrap()];
        let mut calls: Vec<_> = (0..MAX_HANDED + 1)
            .map(|n| a.handle.call(b.id(), ASK, &number(n)))
            .collect();
        // They are opened in order and may arrive in any.
        let mut asked = Vec::new();
        for _ in 0..MAX_HANDED {
            asked.push(within(b.handle.inbound.recv()).await.unwrap());
        }
        asked.sort_by(|one, other| one.body.cmp(&other.body));
        assert!((0..MAX_HANDED).all(|n| asked[n].body[..] == number(n)));
        let next = b.handle.inbound.recv();
        let soon = tokio::time::timeout(Duration::from_millis(300), next);
        assert!(soon.await.is_err(), "one more than its places");

        asked.remove(0).respond(Frame::from_body(b"first"));
        within(calls.remove(0)).await.unwrap();
        let last = within(b.handle.inbound.recv()).await.unwrap();
        assert_eq!(last.body[..], number(MAX_HANDED));
        last.respond(Frame::from_body(b"last"));
        within(calls.pop().unwrap()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_safe_request_survives_the_loss_of_its_connection() {
    for listen in TRANSPORTS {
        let (a, mut b) = pair(listen).await;
        let call = a.handle.call(b.id(), ASK, b"lost?");
        let request = within(b.handle.inbound.recv()).await.unwrap();
        // The receiver has it, and dies before it answers.
        let (ids, key) = ([a.id(), b.id()], b.key.clone());
        b.stop().await;
        drop(request);

        let mut again = talker(config(&key, &[listen]), &ids).await;
        a.meets(&again);
        let request = within(again.handle.inbound.recv()).await.unwrap();
        request.respond(Frame::from_body(b"found"));
        assert_eq!(&within(call).await.unwrap().body[..], b"found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_arrive_once_each_and_in_bounded_places() {
    for listen in TRANSPORTS {
        let (a, mut b) = pair(listen).await;
        let calls: Vec<_> = (0..1000u32)
            .map(|n| a.handle.call(b.id(), TELL, &n.to_be_bytes()))
            .collect();
        let receive = async {
            let mut seen = vec![false; 1000];
            for _ in 0..1000 {
                let request = b.handle.inbound.recv().await.unwrap();
                let n = u32::from_be_bytes(request.body[..].try_into().unwrap());
                assert!(!std::mem::replace(&mut seen[n as usize], true), "{n} twice");
            }
        };
        within(receive).await;
        for call in calls {
            within(call).await.unwrap();
        }
    }
}
