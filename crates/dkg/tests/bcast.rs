//! Broadcasts among real nodes, and with peers that do not keep to the rules.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

mod support;

use std::{convert::identity, time::Duration};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt, future::join_all};
use libp2p::{PeerId, Stream, identity::Keypair};
use libp2p_stream::IncomingStreams;
use pluto_dkg::bcast::{
    AgreeError, BroadcastError, Cause, Config, ConfigError, Event, Failure, Generation, Phase,
    Refusal, RegisterError, SignatureError, TURNS,
};
use pluto_p2p::{
    exchange::{self, Rejected, Rejection, Step},
    proto,
};
use pluto_testkit::{LIMIT, Link, RawPeer, TCP, TRANSPORTS, ids, key, keys, within};
use prost_types::Any;
use support::{
    Hand, ID, MSG, Node, Note, SESSION, SIG, any, cluster, delivery, hasty, meet, note, secret,
    sig_request, sign, signed,
};
use tokio::{sync::mpsc, time::Instant};

/// Whether a refusal is the one that is expected.
type Fits = fn(&Refusal) -> bool;
/// Answers a request to sign.
type Signer<'a> = dyn Fn(&Keypair, &Any) -> proto::Frame + Send + Sync + 'a;

#[tokio::test(flavor = "multi_thread")]
async fn what_each_says_reaches_all_over_tcp_and_over_quic() {
    for listen in TRANSPORTS {
        let mut nodes = cluster(4, listen, |_, config| config).await;
        let all = nodes.iter().enumerate();
        let all = all.map(|(at, node)| async move { node.broadcast(&at.to_string()).await });
        for result in join_all(all).await {
            result.unwrap();
        }
        let said: Vec<_> = nodes
            .iter()
            .map(Node::id)
            .zip(["0", "1", "2", "3"])
            .collect();
        for node in &mut nodes {
            let mut got = Vec::new();
            for _ in 0..3 {
                got.push(node.note().await);
            }
            for (peer, text) in said.iter().filter(|(peer, _)| *peer != node.id()) {
                assert!(got.contains(&(*peer, (*text).to_owned())), "{got:?}");
            }
            assert!(node.notes.try_recv().is_err(), "each once, and not its own");
            assert_eq!(node.test.handle.generation(), Some(Generation::V2));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_that_all_have_is_used_and_no_other_is_served_then() {
    let pin = |at, config: Config| match at {
        2 => config.with_generation(Generation::V1),
        _ => config,
    };
    let mut nodes = cluster(3, TCP, pin).await;
    nodes[0].broadcast("old").await.unwrap();
    assert_eq!(nodes[1].note().await.1, "old");
    assert_eq!(nodes[2].note().await.1, "old");
    assert_eq!(nodes[0].test.handle.generation(), Some(Generation::V1));
    // The others hear of it.
    let first = nodes[0].id();
    let only_old = nodes[1].test.context.wait_for(|view| {
        let identified = view.peer(&first)?.identified.as_ref()?;
        (Generation::served(&identified.protocols) == [Generation::V1]).then_some(())
    });
    within(only_old).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn none_in_common_is_said_with_who_has_what_before_anything_is_signed() {
    let pin = |at, config: Config| match at {
        0 => config,
        1 => config.with_generation(Generation::V1),
        _ => config.with_generation(Generation::V2),
    };
    let nodes = cluster(3, TCP, pin).await;
    let error = nodes[0].broadcast("to nobody").await.unwrap_err();
    let BroadcastError::Agree(AgreeError::NoneInCommon { ours, peers }) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(ours, &[Generation::V2, Generation::V1]);
    let told: Vec<_> = peers
        .iter()
        .map(|it| (it.peer, it.generations.clone()))
        .collect();
    let has = |at: usize, generation| (nodes[at].id(), Some(vec![generation]));
    assert_eq!(told, [has(1, Generation::V1), has(2, Generation::V2)]);
    let text = error.to_string();
    assert!(
        text.contains(&format!("peer {} has 1.0.0", nodes[1].id())),
        "{text}"
    );
    assert_eq!(nodes[0].test.handle.generation(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_tell_in_time_is_named() {
    let keys: Vec<_> = (0..3).map(|_| key()).collect();
    let known = ids(&keys);
    let nodes = [
        Node::start(&keys[0], &known, TCP, hasty).await,
        Node::start(&keys[1], &known, TCP, hasty).await,
    ];
    meet(&nodes, &[]).await;
    let error = nodes[0].broadcast("to nobody").await.unwrap_err();
    let BroadcastError::Agree(AgreeError::Unknown { peers, why }) = error else {
        panic!("{error:?}")
    };
    let silent: Vec<_> = peers.iter().filter(|it| it.generations.is_none()).collect();
    assert!(
        matches!(&silent[..], [it] if it.peer == known[2]),
        "{peers:?}"
    );
    assert!(why.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_signer_is_named_and_the_others_are_asked_at_once() {
    let (node, mut hands) = with_hands::<2>(hasty).await;
    let broadcast = node.broadcast("slow");
    let peers = async {
        // Neither answers until both are asked.
        let (_, slow) = hands[0].asked_to_sign().await;
        hands[1].signs().await;
        slow
    };
    let (result, _slow) = futures::join!(broadcast, peers);
    let failure = only(result);
    assert_eq!(
        (failure.peer, failure.phase),
        (hands[0].id(), Phase::Collecting)
    );
    let step = Step::Reading;
    let expected = |peer| matches!(&failure.cause, Cause::Exchange(exchange::Error::TimedOut { peer: it, step: at }) if *it == peer && *at == step);
    assert!(expected(hands[0].id()), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_receiver_is_named_and_the_others_get_it_at_once() {
    let (node, mut hands) = with_hands::<2>(|config| Config {
        // Only this phase: signing may take as long as the test does.
        deliver_timeout: hasty(config.clone()).deliver_timeout,
        ..config
    })
    .await;
    let broadcast = node.broadcast("slow");
    let peers = async {
        hands[0].signs().await;
        hands[1].signs().await;
        let slow = hands[0].asked(MSG).await;
        hands[1]
            .asked(MSG)
            .await
            .respond(proto::Frame::from_body(&[]));
        slow
    };
    let (result, _slow) = futures::join!(broadcast, peers);
    let failure = only(result);
    assert_eq!(
        (failure.peer, failure.phase),
        (hands[0].id(), Phase::Delivering)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_and_vanishes_is_named_and_the_others_have_it() {
    let (node, hands) = with_hands::<2>(|config| Config {
        // Only this phase: signing may take as long as the test does.
        deliver_timeout: hasty(config.clone()).deliver_timeout,
        ..config
    })
    .await;
    let [mut goes, mut stays] = hands;
    let gone = goes.id();
    let broadcast = node.broadcast("bye");
    let peers = async {
        goes.signs().await;
        stays.signs().await;
        // It is given the message: its signature has arrived.
        let unconfirmed = goes.asked(MSG).await;
        goes.test.stop().await;
        drop(unconfirmed);
        stays.asked(MSG).await.respond(proto::Frame::from_body(&[]));
    };
    let (result, ()) = futures::join!(broadcast, peers);
    let failure = only(result);
    assert_eq!((failure.peer, failure.phase), (gone, Phase::Delivering));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_signature_fails_with_its_peer() {
    let (node, mut hands) = with_hands::<2>(|config| config).await;
    let other = hands[1].test.key.clone();
    let bad: [&Signer<'_>; 5] = [
        &|_, any| signed(&other, &SESSION, any),
        &|key, any| signed(key, &[8; 32], any),
        &|key, _| signed(key, &SESSION, &support::any(&note("else"))),
        &|_, _| proto::Frame::encode(&support::SigResponse::default()),
        &|_, _| proto::Frame::from_body(b"\xff\xff"),
    ];
    for (at, bad) in bad.into_iter().enumerate() {
        // What failed may be said again.
        let broadcast = node.broadcast("signed badly");
        let peers = async {
            let (any, request) = hands[0].asked_to_sign().await;
            request.respond(bad(&hands[0].test.key, &any));
        };
        let (result, ()) = futures::join!(broadcast, peers);
        let failure = only(result);
        assert_eq!(
            (failure.peer, failure.phase),
            (hands[0].id(), Phase::Collecting)
        );
        let fits = matches!(
            (at, &failure.cause),
            (0..=2, Cause::Signature(SignatureError::Key(_)))
                | (3, Cause::Signature(SignatureError::Length { len: 0 }))
                | (4, Cause::Decode(_))
        );
        assert!(fits, "{at}: {failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_refuses_is_named() {
    let (node, mut hands) = with_hands::<1>(|config| config).await;
    let broadcast = node.broadcast("no");
    let refuse = async { hands[0].asked(SIG).await.refuse() };
    let (result, ()) = futures::join!(broadcast, refuse);
    let failure = only(result);
    let refused = matches!(
        failure.cause,
        Cause::Exchange(exchange::Error::Refused { .. })
    );
    assert!(refused, "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_is_signed_again_and_something_else_is_evidence() {
    let (mut node, hands) = with_hands::<1>(|config| config).await;
    let (first, second) = (any(&note("first")), any(&note("second")));
    let once = hands[0].collects(node.id(), &first).await.unwrap();
    assert_eq!(once, sign(&node.test.key, &SESSION, &first));
    assert_eq!(hands[0].collects(node.id(), &first).await.unwrap(), once);

    for time in 0..2 {
        let refused = hands[0].collects(node.id(), &second).await;
        assert!(
            matches!(refused, Err(exchange::Error::Refused { .. })),
            "{refused:?}"
        );
        match (time, node.event().await) {
            (0, Event::Equivocation { peer, evidence }) => {
                assert_eq!(peer, hands[0].id());
                assert_eq!(evidence.first.value.as_deref(), Some(&first.value[..]));
                assert_eq!(evidence.second.value.as_deref(), Some(&second.value[..]));
                assert_eq!(node.test.handle.equivocations(), [*evidence]);
            }
            (
                1,
                Event::Refused {
                    id: Some(ID),
                    cause: Refusal::Contradiction(_),
                    ..
                },
            ) => {}
            (_, other) => panic!("{other:?}"),
        }
    }
    assert_eq!(hands[0].collects(node.id(), &first).await.unwrap(), once);
}

/// The id of what is checked slowly.
const SLOW: &str = "/test/slow";

/// Registers a check that takes its time with all but `quick`, and tells of each it has made.
fn check_slowly(node: &Node) -> mpsc::Receiver<()> {
    let (made, checks) = mpsc::channel(64);
    let check = move |_, _, note: &Note| {
        if note.text != "quick" {
            std::thread::sleep(Duration::from_millis(100));
            made.try_send(()).unwrap();
        }
        Ok(())
    };
    drop(node.test.handle.register(SLOW, check).unwrap());
    checks
}

fn ask_slowly(hand: &Hand, node: &Node, text: &str) -> exchange::Call {
    let request = support::SigRequest {
        id: SLOW.to_owned(),
        message: Some(any(&note(text))),
    };
    let by = Instant::now() + LIMIT;
    let (handle, frame) = (&hand.test.handle, proto::Frame::encode(&request));
    handle.call(node.id(), SIG, frame, by).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_requests_of_one_peer_do_not_queue_before_anothers() {
    const MANY: usize = 12;
    let (node, [slow, quick]) = with_hands(identity).await;
    let mut checks = check_slowly(&node);

    let calls: Vec<_> = (0..MANY)
        .map(|nth| ask_slowly(&slow, &node, &format!("slow {nth}")))
        .collect();
    within(checks.recv()).await.unwrap();
    within(ask_slowly(&quick, &node, "quick")).await.unwrap();

    // The first is counted above.
    let made = 1 + checks.len();
    assert!(made < MANY - TURNS, "{made} of {MANY} came first");
    drop(calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_is_signed_without_a_check() {
    let (node, [hand]) = with_hands(identity).await;
    let mut checks = check_slowly(&node);
    within(ask_slowly(&hand, &node, "slow")).await.unwrap();
    within(checks.recv()).await.unwrap();

    for _ in 0..3 {
        within(ask_slowly(&hand, &node, "slow")).await.unwrap();
    }
    assert!(checks.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_collected_delivers_and_only_once() {
    let (mut node, hands) = with_hands::<2>(|config| config).await;
    let said = any(&note("mine"));
    hands[0].collects(node.id(), &said).await.unwrap();
    let keys = [&node, &node].map(|it| it.test.key.clone());
    let signatures =
        [&keys[0], &hands[0].test.key, &hands[1].test.key].map(|key| sign(key, &SESSION, &said));
    let frame = delivery(&said, signatures.to_vec());

    let stolen = hands[1].call(node.id(), MSG, frame.clone()).await;
    assert!(
        matches!(stolen, Err(exchange::Error::Refused { .. })),
        "{stolen:?}"
    );
    let event = node.event().await;
    let Event::Refused {
        peer,
        phase: Phase::Delivering,
        cause: Refusal::NotCollected(_),
        ..
    } = event
    else {
        panic!("{event:?}")
    };
    assert_eq!(peer, hands[1].id());

    for _ in 0..2 {
        hands[0].call(node.id(), MSG, frame.clone()).await.unwrap();
    }
    assert_eq!(node.note().await, (hands[0].id(), "mine".to_owned()));
    assert!(node.notes.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_is_refused_with_its_cause() {
    let (mut node, hands) = with_hands::<1>(|config| config).await;
    let good = any(&note("good"));
    let with_url = |url: &str| Any {
        type_url: url.to_owned(),
        ..good.clone()
    };
    let with_value = |value: &[u8]| Any {
        value: value.to_vec(),
        ..good.clone()
    };
    let no_message = support::SigRequest {
        id: ID.to_owned(),
        message: None,
    };
    let no_id = support::SigRequest {
        id: "/test/other".to_owned(),
        message: Some(good.clone()),
    };
    let requests: Vec<(proto::Frame, Fits)> = vec![
        (
            sig_request(&with_url("type.googleapis.com/pluto.test.Other")),
            |it| matches!(it, Refusal::OtherType),
        ),
        (sig_request(&with_url("x/pluto.test.Note")), |it| {
            matches!(it, Refusal::OtherType)
        }),
        (sig_request(&with_value(b"\x0a\x05abc")), |it| {
            matches!(it, Refusal::Value(_))
        }),
        (sig_request(&with_value(b"\x0a\x02\xff\xff")), |it| {
            matches!(it, Refusal::Value(_))
        }),
        (sig_request(&any(&note("unwanted"))), |it| {
            matches!(it, Refusal::Check(_))
        }),
        (proto::Frame::encode(&no_message), |it| {
            matches!(it, Refusal::NoMessage)
        }),
        (proto::Frame::encode(&no_id), |it| {
            matches!(it, Refusal::UnknownId)
        }),
        (proto::Frame::from_body(b"\xff\xff"), |it| {
            matches!(it, Refusal::Decode(_))
        }),
        (proto::Frame::from_body(b""), |it| {
            matches!(it, Refusal::NoMessage)
        }),
    ];
    for (at, (frame, fits)) in requests.into_iter().enumerate() {
        let refused = hands[0].call(node.id(), SIG, frame).await;
        assert!(
            matches!(refused, Err(exchange::Error::Refused { .. })),
            "{at}: {refused:?}"
        );
        expect_refusal(&mut node, Phase::Collecting, fits).await;
    }

    // None of it was remembered.
    hands[0].collects(node.id(), &good).await.unwrap();
    let (own, hand) = (node.test.key.clone(), hands[0].test.key.clone());
    let [own_good, hand_good] = [&own, &hand].map(|key| sign(key, &SESSION, &good));
    let foreign = [&own, &hand].map(|key| sign(key, &[8; 32], &good));
    let deliveries: Vec<(Vec<Vec<u8>>, Fits)> = vec![
        (vec![], |it| {
            matches!(
                it,
                Refusal::SignatureCount {
                    got: 0,
                    expected: 2
                }
            )
        }),
        (vec![own_good.clone()], |it| {
            matches!(it, Refusal::SignatureCount { got: 1, .. })
        }),
        (vec![hand_good.clone(), own_good.clone()], |it| {
            matches!(it, Refusal::Signature { .. })
        }),
        (foreign.to_vec(), |it| {
            matches!(it, Refusal::Signature { .. })
        }),
        (vec![own_good.clone(), hand_good[1..].to_vec()], |it| {
            matches!(
                it,
                Refusal::Signature {
                    source: SignatureError::Length { len: 64 },
                    ..
                }
            )
        }),
    ];
    for (at, (signatures, fits)) in deliveries.into_iter().enumerate() {
        let refused = hands[0]
            .call(node.id(), MSG, delivery(&good, signatures))
            .await;
        assert!(
            matches!(refused, Err(exchange::Error::Refused { .. })),
            "{at}: {refused:?}"
        );
        expect_refusal(&mut node, Phase::Delivering, fits).await;
    }
    let frame = delivery(&good, vec![own_good, hand_good]);
    hands[0].call(node.id(), MSG, frame).await.unwrap();
    assert_eq!(node.note().await.1, "good");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absurd_length_and_a_stream_that_stalls_end_in_time() {
    for listen in TRANSPORTS {
        let keys = [key(), key()];
        let known = ids(&keys);
        let mut node = Node::start(&keys[0], &known, listen, hasty).await;
        let mut raw = RawPeer::start(keys[1].clone()).await;
        assert!(raw.dial(known[0], &node.test.addresses[0]).await);

        let mut huge = raw
            .open(known[0], "/charon/dkg/bcast/2.0.0/sig")
            .await
            .unwrap();
        let length = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40];
        huge.write_all(&length).await.unwrap();
        huge.flush().await.unwrap();
        let event = node.event().await;
        let Event::Rejected(Rejected {
            cause: Rejection::Frame(proto::Error::TooLong { len, .. }),
            ..
        }) = event
        else {
            panic!("{event:?}")
        };
        assert_eq!(len, 1 << 62);

        for id in ["/charon/dkg/bcast/2.0.0/msg", "/charon/dkg/bcast/1.0.0/sig"] {
            let mut stalled = raw.open(known[0], id).await.unwrap();
            stalled.write_all(&[100, 1, 2]).await.unwrap();
            stalled.flush().await.unwrap();
            let event = node.event().await;
            let Event::Rejected(Rejected {
                cause: Rejection::Frame(proto::Error::TimedOut { .. }),
                ..
            }) = event
            else {
                panic!("{event:?}")
            };
            drop(stalled);
        }

        // It is served as before.
        let said = any(&note("patience"));
        let mut stream = raw
            .open(known[0], "/charon/dkg/bcast/2.0.0/sig")
            .await
            .unwrap();
        stream
            .write_all(sig_request(&said).as_bytes())
            .await
            .unwrap();
        stream.close().await.unwrap();
        let mut answer = Vec::new();
        within(stream.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, signed(&keys[0], &SESSION, &said).as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_node_ends_broadcasts_and_streams() {
    let (mut node, mut hands) = with_hands::<1>(|config| config).await;
    let broadcast = tokio::spawn(node.test.handle.broadcast(ID, &note("too late")));
    let _request = hands[0].asked(SIG).await;
    let component = node.test.handle.clone();
    node.test.stop().await;
    let ended = within(broadcast).await.unwrap();
    assert!(matches!(ended, Err(BroadcastError::Closed)), "{ended:?}");
    assert!(within(node.notes.recv()).await.is_none());

    let after = within(component.broadcast(ID, &note("later"))).await;
    assert!(after.is_err(), "{after:?}");
    let agreed = within(component.agree()).await;
    assert!(matches!(agreed, Err(AgreeError::Closed)), "{agreed:?}");
    let registered = component.register("/test/more", |_, _, _: &Note| Ok(()));
    assert!(matches!(registered, Err(RegisterError::Closed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_thing_is_said_under_one_id_and_may_be_said_again() {
    let mut nodes = cluster(2, TCP, |_, config| config).await;
    nodes[0].broadcast("this").await.unwrap();
    nodes[0].broadcast("this").await.unwrap();
    assert_eq!(nodes[1].note().await.1, "this");
    assert!(nodes[1].notes.try_recv().is_err(), "delivered once");

    let other = nodes[0].broadcast("that").await;
    assert!(
        matches!(other, Err(BroadcastError::AlreadySaid { id: ID })),
        "{other:?}"
    );
    let component = &nodes[0].test.handle;
    let unknown = component.broadcast("/test/other", &note("")).await;
    assert!(
        matches!(unknown, Err(BroadcastError::NotRegistered { .. })),
        "{unknown:?}"
    );
    let other = component
        .broadcast(ID, &prost_types::Timestamp::default())
        .await;
    assert!(
        matches!(other, Err(BroadcastError::OtherType { .. })),
        "{other:?}"
    );
    let twice = component.register(ID, |_, _, _: &Note| Ok(()));
    assert!(matches!(twice, Err(RegisterError::Twice { id: ID })));
}

#[test]
fn a_list_of_peers_must_be_one_of_operators_with_us_among_them() {
    let keys = [key(), key()];
    let known = ids(&keys);
    let new = |peers: &[PeerId], key| {
        let config = Config::new(peers.to_vec(), secret(key), SESSION);
        pluto_dkg::bcast::new(Default::default(), config, Default::default()).map(drop)
    };
    assert_eq!(new(&known, &keys[0]), Ok(()));
    assert_eq!(new(&known[1..], &keys[0]), Err(ConfigError::NotAMember));
    let twice = [known[0], known[1], known[1]];
    assert_eq!(
        new(&twice, &keys[0]),
        Err(ConfigError::Twice { peer: known[1] })
    );
    let other = Keypair::generate_ed25519().public().to_peer_id();
    assert!(
        matches!(new(&[known[0], other], &keys[0]), Err(ConfigError::Key { peer, .. }) if peer == other)
    );
}

/// A node, first of the operators, and peers by hand, that have met.
async fn with_hands<const N: usize>(with: impl FnOnce(Config) -> Config) -> (Node, [Hand; N]) {
    let keys: Vec<_> = (0..=N).map(|_| key()).collect();
    let known = ids(&keys);
    let node = Node::start(&keys[0], &known, TCP, with).await;
    let mut hands = Vec::new();
    for key in &keys[1..] {
        hands.push(Hand::start(key, &known, TCP).await);
    }
    let nodes = [node];
    meet(&nodes, &hands).await;
    let [node] = nodes;
    (node, hands.try_into().ok().unwrap())
}

fn only(result: Result<(), BroadcastError>) -> Failure {
    match result {
        Err(BroadcastError::Failed {
            id: ID,
            mut failures,
        }) if failures.len() == 1 => failures.remove(0),
        other => panic!("{other:?}"),
    }
}

async fn expect_refusal(node: &mut Node, phase: Phase, fits: Fits) {
    match node.event().await {
        Event::Refused {
            phase: at, cause, ..
        } if at == phase && fits(&cause) => {}
        other => panic!("{other:?}"),
    }
}

/// Where a broadcast stands when a connection goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    /// The peer was asked to sign.
    Collecting,
    /// The peer got the message and has not confirmed.
    Delivering,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_may_come_and_either_may_go_in_each_phase() {
    for moment in [Moment::Collecting, Moment::Delivering] {
        for goes in [0, 1] {
            let mut pair = Linked::start().await;
            pair.connect(0).await;
            pair.known().await;
            let broadcast = tokio::spawn(pair.node.test.handle.broadcast(ID, &note("whole")));

            let (any, mut stream) = pair.asked().await;
            if moment == Moment::Collecting {
                pair.connect(1).await;
                pair.cut(goes).await;
                if goes == 0 {
                    // The same again, on the connection that is left.
                    let (again, other) = pair.asked().await;
                    assert_eq!(again, any);
                    stream = other;
                }
            }
            answer(&mut stream, &signed(&pair.raw.key, &SESSION, &any)).await;

            let (delivered, mut stream) = pair.delivered().await;
            if moment == Moment::Delivering {
                pair.connect(1).await;
                pair.cut(goes).await;
                if goes == 0 {
                    let (again, other) = pair.delivered().await;
                    assert_eq!(again, delivered);
                    stream = other;
                }
            }
            answer(&mut stream, &proto::Frame::from_body(&[])).await;
            let result = within(broadcast).await.unwrap();
            assert!(result.is_ok(), "{moment:?} {goes}: {result:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_again_on_another_connection_is_answered_and_delivered_once() {
    for goes in [0, 1] {
        let mut pair = Linked::start().await;
        let said = any(&note("again"));
        let own = signed(&pair.node.test.key, &SESSION, &said);
        let signatures = [&pair.node.test.key, &pair.raw.key]
            .map(|key| sign(key, &SESSION, &said))
            .to_vec();
        let frames = [
            ("/charon/dkg/bcast/2.0.0/sig", sig_request(&said), own),
            (
                "/charon/dkg/bcast/2.0.0/msg",
                delivery(&said, signatures),
                proto::Frame::from_body(&[]),
            ),
        ];
        for (id, frame, expected) in frames {
            pair.connect(0).await;
            pair.connect(1).await;
            assert_eq!(pair.ask(id, &frame).await, expected.as_bytes());
            pair.cut(goes).await;
            assert_eq!(pair.ask(id, &frame).await, expected.as_bytes());
            pair.cut(1 - goes).await;
        }
        assert_eq!(pair.node.note().await, (pair.raw.id(), "again".to_owned()));
        assert!(pair.node.notes.try_recv().is_err(), "delivered once");
    }
}

/// A node and a peer by hand with two links between them.
struct Linked {
    node: Node,
    raw: RawPeer,
    links: [Link; 2],
    requests: IncomingStreams,
    deliveries: IncomingStreams,
}

impl Linked {
    async fn start() -> Self {
        // The peer's id is the smaller: the node leaves it to it to retire surplus connections.
        let [raw, node] = keys();
        let known = ids(&[node.clone(), raw.clone()]);
        let node = Node::start(&node, &known, TCP, |config| config).await;
        let mut raw = RawPeer::start_identified(raw).await;
        Self {
            requests: raw.serve("/charon/dkg/bcast/2.0.0/sig"),
            deliveries: raw.serve("/charon/dkg/bcast/2.0.0/msg"),
            links: [
                Link::to(&node.test.addresses[0]).await,
                Link::to(&node.test.addresses[0]).await,
            ],
            node,
            raw,
        }
    }

    async fn connect(&mut self, link: usize) {
        let before = self.connections();
        let address = self.links[link].address();
        assert!(self.raw.dial(self.node.id(), &address).await);
        self.has_connections(before + 1).await;
    }

    async fn cut(&mut self, link: usize) {
        let before = self.connections();
        self.links[link].cut();
        self.has_connections(before - 1).await;
        self.raw.closed(self.node.id()).await;
    }

    fn connections(&self) -> usize {
        let view = self.node.test.context.view();
        view.peer(&self.raw.id()).map_or(0, |peer| peer.paths.len())
    }

    async fn has_connections(&self, count: usize) {
        let raw = self.raw.id();
        let has = self
            .node
            .test
            .context
            .wait_for(|view| (view.peer(&raw)?.paths.len() == count).then_some(()));
        within(has).await.unwrap();
    }

    /// The node knows what the peer serves.
    async fn known(&self) {
        let agreed = within(self.node.test.handle.agree()).await;
        assert_eq!(agreed.unwrap(), Generation::V2);
    }

    async fn asked(&mut self) -> (Any, Stream) {
        let (_, mut stream) = within(self.requests.next()).await.unwrap();
        let request =
            proto::read_protobuf_with_max_size::<support::SigRequest>(&mut stream, 1 << 16, LIMIT);
        (request.await.unwrap().message.unwrap(), stream)
    }

    async fn delivered(&mut self) -> (support::Delivery, Stream) {
        let (_, mut stream) = within(self.deliveries.next()).await.unwrap();
        let delivery = proto::read_protobuf_with_max_size(&mut stream, 1 << 16, LIMIT);
        (delivery.await.unwrap(), stream)
    }

    /// Asks the node, and returns all it says.
    async fn ask(&mut self, id: &'static str, frame: &proto::Frame) -> Vec<u8> {
        let mut stream = self.raw.open(self.node.id(), id).await.unwrap();
        stream.write_all(frame.as_bytes()).await.unwrap();
        stream.close().await.unwrap();
        let mut said = Vec::new();
        within(stream.read_to_end(&mut said)).await.unwrap();
        said
    }
}

async fn answer(stream: &mut Stream, frame: &proto::Frame) {
    stream.write_all(frame.as_bytes()).await.unwrap();
    stream.close().await.unwrap();
}
