//! Real nodes on loopback that swap partial signatures.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt, future::join};
use libp2p::PeerId;
use pluto_core::{
    DecodeError, Duty, ParSigEx, ParSignedData, PubKey, ShareIdx, Slot,
    signed::{SignedRandao, When},
    threshold::{Partial, ThresholdStore},
};
use pluto_crypto::bls;
use pluto_p2p::{
    exchange::{self, Rejected, Rejection},
    p2p_context::{View, WhyNotConnected},
};
use pluto_parsigex::{
    BindError, BlsVerifier, Event, GateError, MAX_CHECKS, MAX_DELIVERED, Members, Refusal,
    SendError, Verifier, VerifyError,
};
use pluto_testkit::{LIMIT, QUIC, RawPeer, TCP, TRANSPORTS, TestNode, config, within};
use support::{
    Cluster, Events, Node, SOON, broadcast, broadcast_to_all, gated, message, parts, randao,
    receive, share_idx,
};
use tokio::{sync::mpsc::error::TryRecvError, time::Instant};

/// As on the wire.
const PROTOCOL_ID: &str = "/charon/parsigex/2.0.0";

#[tokio::test(flavor = "multi_thread")]
async fn each_node_receives_all_others_and_makes_the_group_signature() {
    for listen in TRANSPORTS {
        let cluster = Cluster::new::<4>(3, 3);
        let mut nodes = cluster.start(listen).await;
        let slot = 64;

        let messages: Vec<_> = (0..4)
            .map(|operator| cluster.sign(operator, slot))
            .collect();
        for (node, message) in nodes.iter().zip(&messages) {
            broadcast_to_all(node, message).await;
        }

        for (operator, node) in nodes.iter_mut().enumerate() {
            let mut store = ThresholdStore::new(cluster.threshold);
            let mut signed = BTreeSet::new();
            let (duty, own) = (messages[operator].duty, share_idx(operator));
            let partials = cluster.partials(own, slot);
            collect(&cluster, &mut store, duty, own, &partials, &mut signed);
            let mut senders = BTreeMap::new();
            for _ in 0..3 {
                let received = receive(node).await;
                let sender = received.share_idx.get() as usize - 1;
                assert_eq!(received.message, messages[sender]);
                senders.insert(received.share_idx, received.peer);
                let (idx, partials) = (received.share_idx, received.partials);
                assert_eq!(partials, cluster.partials(idx, slot), "in the set's order");
                collect(&cluster, &mut store, duty, idx, &partials, &mut signed);
            }
            let others = cluster.ids().into_iter().enumerate();
            let others = others.map(|(operator, peer)| (share_idx(operator), peer));
            let others: BTreeMap<_, _> = others.filter(|(_, peer)| *peer != node.id()).collect();
            assert_eq!(senders, others, "over {listen}");
            let all: BTreeSet<_> = cluster.validators.iter().map(|it| it.pubkey).collect();
            assert_eq!(signed, all, "over {listen}");
            assert!(node.handle.received.try_recv().is_err(), "one message each");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_lists_every_other_member_and_says_why_one_got_nothing() {
    for listen in TRANSPORTS {
        let cluster = Cluster::new::<3>(2, 1);
        let mut nodes = cluster.start(listen).await;
        let absent = nodes.pop().unwrap();
        let absent_id = absent.id();
        absent.stop().await;
        let [sender, receiver] = &nodes[..] else {
            unreachable!()
        };
        let gone = |view: &View| (!view.is_connected(&absent_id)).then_some(());
        within(sender.context.wait_for(gone)).await.unwrap();

        let by = Instant::now() + SOON;
        let outcome = sender.handle.handle.broadcast(&cluster.sign(0, 1), by);
        let outcome = within(outcome).await;

        let listed: BTreeSet<_> = outcome.peers.iter().map(|(peer, _)| *peer).collect();
        assert_eq!(listed, BTreeSet::from([receiver.id(), absent_id]));
        let failures: Vec<_> = outcome.failures().collect();
        let [(peer, error)] = &failures[..] else {
            panic!("{failures:?}");
        };
        assert_eq!(**peer, absent_id);
        let SendError::Exchange(exchange::Error::NoPath {
            peer,
            why: Some(why),
        }) = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(*peer, absent_id);
        assert!(why.to_string().contains(&absent_id.to_string()), "{why}");
        assert!(
            matches!(
                **why,
                WhyNotConnected::Waiting { last: Some(_), .. }
                    | WhyNotConnected::Dialing { last: Some(_), .. }
                    | WhyNotConnected::Untried { last: Some(_), .. }
            ),
            "{why:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_waits_for_a_member_that_starts_late() {
    let cluster = Cluster::new::<2>(2, 1);
    let (early, _events) = cluster.start_one(0, TCP).await;
    let by = Instant::now() + LIMIT;
    let waiting = tokio::spawn(early.handle.handle.broadcast(&cluster.sign(0, 1), by));

    let (mut late, _events) = cluster.start_one(1, TCP).await;
    early.meets(&late);

    assert_eq!(receive(&mut late).await.peer, early.id());
    let outcome = within(waiting).await.unwrap();
    assert_eq!(outcome.failures().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_ends_when_its_node_does() {
    let cluster = Cluster::new::<2>(2, 1);
    let (node, _events) = cluster.start_one(0, TCP).await;
    let handle = node.handle.handle.clone();
    let by = Instant::now() + 10 * LIMIT;
    let waiting = tokio::spawn(handle.broadcast(&cluster.sign(0, 1), by));

    node.stop().await;

    for outcome in [
        within(waiting).await.unwrap(),
        within(handle.broadcast(&cluster.sign(0, 1), by)).await,
    ] {
        let failures: Vec<_> = outcome.failures().map(|(_, error)| error).collect();
        assert!(
            matches!(failures[..], [SendError::Exchange(exchange::Error::Closed)]),
            "{failures:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_under_another_members_index_are_refused_whole() {
    for listen in TRANSPORTS {
        let cluster = Cluster::new::<3>(2, 2);
        let (mut nodes, mut events) = cluster.start_observed(listen).await;
        let [own, other] = [share_idx(0), share_idx(1)];
        // As valid as can be, were it sent by operator 1; and with only its last entry so.
        let all = cluster.sign_as(other, 7);
        let mut mixed: BTreeMap<_, _> = cluster.sign(0, 7).set.into_iter().collect();
        let (last, _) = mixed.pop_last().unwrap();
        mixed.insert(last, all.set.get(&last).unwrap().clone());

        for forged in [all, message(7, mixed)] {
            broadcast_to_all(&nodes[0], &forged).await;
            for events in &mut events[1..] {
                let (peer, duty, cause) = refused(events).await;
                assert_eq!(peer, nodes[0].id());
                assert_eq!(duty, Some(forged.duty));
                let expected = BindError::ShareIdxMismatch {
                    peer,
                    claimed: other.get().into(),
                    assigned: own,
                };
                assert_eq!(cause, Refusal::Sender(expected));
            }
        }

        let honest = cluster.sign(0, 8);
        broadcast_to_all(&nodes[0], &honest).await;
        for node in &mut nodes[1..] {
            assert_eq!(receive(node).await.message, honest, "the first delivered");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_peer_that_is_no_member_may_not_sign() {
    let cluster = Cluster::new::<2>(2, 1);
    let [receiver_id, sender_id] = cluster.ids()[..] else {
        unreachable!()
    };
    // The receiver lets the other in, and its cluster does not have it.
    let members = Members::new([(receiver_id, share_idx(0))]);
    let (mut receiver, mut events) = TestNode::start_observed(
        config(&cluster.keys[0], &[TCP]),
        &cluster.ids(),
        parts(members, cluster.verifier()),
    )
    .await;
    let (sender, _events) = cluster.start_one(1, TCP).await;
    sender.meets(&receiver);

    broadcast_to_all(&sender, &cluster.sign(1, 3)).await;

    let (peer, _, cause) = refused(&mut events).await;
    assert_eq!(peer, sender_id);
    assert_eq!(cause, Refusal::Sender(BindError::UnknownPeer { peer }));
    nothing_delivered(&mut receiver);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_signatures_among_many_refuse_the_message_and_are_all_named() {
    let cluster = Cluster::new::<2>(2, 150);
    let (mut nodes, mut events) = cluster.start_observed(TCP).await;
    let good = cluster.sign(0, 9);
    // Far apart, so that they are not checked in one go; one is by the wrong key, one over
    // something else, one is a repetition of the neighbour's.
    let mut entries: BTreeMap<_, _> = good.set.clone().into_iter().collect();
    let keys: Vec<PubKey> = entries.keys().copied().collect();
    let (epoch, root) = cluster.root_of(9);
    let stranger = bls::SecretKey::generate().sign(&root);
    let elsewhere = secret(&cluster, keys[80], share_idx(0)).sign(&[1; 32]);
    entries.insert(keys[3], randao(epoch, &stranger, share_idx(0)));
    entries.insert(keys[80], randao(epoch, &elsewhere, share_idx(0)));
    entries.insert(keys[149], entries[&keys[148]].clone());

    broadcast_to_all(&nodes[0], &message(9, entries)).await;

    let (peer, duty, cause) = refused(&mut events[1]).await;
    assert_eq!((peer, duty), (nodes[0].id(), Some(good.duty)));
    let pubkeys = vec![keys[3], keys[80], keys[149]];
    assert_eq!(cause, Refusal::Verify(VerifyError::Bad { pubkeys }));
    broadcast_to_all(&nodes[0], &good).await;
    assert_eq!(receive(&mut nodes[1]).await.message, good);
    nothing_delivered(&mut nodes[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_checked_is_refused_and_says_why() {
    let cluster = Cluster::new::<2>(2, 1);
    let (mut nodes, mut events) = cluster.start_observed(TCP).await;
    let known = cluster.validators[0].pubkey;
    let unknown = PubKey::new([1; 48]);
    let (epoch, root) = cluster.root_of(4);
    let own = share_idx(0);
    let honest = randao(epoch, &secret(&cluster, known, own).sign(&root), own);
    let data = |data: &[u8]| {
        let mut entry = honest.clone();
        entry.data = data.to_vec().into();
        entry
    };
    let zero = data(&SignedRandao::new(epoch, [0; 96]).to_json());
    let mut infinity = [0; 96];
    infinity[0] = 0xc0;
    let infinity = data(&SignedRandao::new(epoch, infinity).to_json());

    let cases = [
        (unknown, honest.clone()),
        (known, data(b"{}")),
        (known, data(b"")),
        (known, zero),
        (known, infinity),
    ];
    let mut causes = Vec::new();
    for (pubkey, entry) in cases {
        broadcast_to_all(&nodes[0], &message(4, [(pubkey, entry)])).await;
        causes.push(refused(&mut events[1]).await.2);
    }

    use Refusal::Verify;
    assert!(
        matches!(
            &causes[..],
            [
                Verify(VerifyError::UnknownValidator { pubkey }),
                Verify(VerifyError::Data { .. }),
                Verify(VerifyError::Data { .. }),
                Verify(VerifyError::Malformed { source: bls::Error::MalformedSignature, .. }),
                Verify(VerifyError::Malformed { source: bls::Error::InfiniteSignature, .. }),
            ] if *pubkey == unknown
        ),
        "{causes:#?}"
    );
    nothing_delivered(&mut nodes[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_for_another_epoch_does_not_count_for_a_duty() {
    let cluster = Cluster::new::<2>(2, 1);
    let (mut nodes, mut events) = cluster.start_observed(TCP).await;
    // As valid as can be, of the epoch before and of the one after the duty's.
    for (slot, epoch) in [(63, 1), (96, 3)] {
        let mut replayed = cluster.sign(0, slot);
        replayed.duty = Duty::new(70, replayed.duty.kind);

        broadcast_to_all(&nodes[0], &replayed).await;

        let (peer, duty, cause) = refused(&mut events[1]).await;
        assert_eq!((peer, duty), (nodes[0].id(), Some(replayed.duty)));
        let expected = VerifyError::OtherDuty {
            duty: replayed.duty,
            pubkey: cluster.validators[0].pubkey,
            signed: When::Epoch(epoch),
        };
        assert_eq!(cause, Refusal::Verify(expected));
    }
    let good = cluster.sign(0, 70);
    broadcast_to_all(&nodes[0], &good).await;
    assert_eq!(
        receive(&mut nodes[1]).await.message,
        good,
        "the first delivered"
    );
}

/// Panics at one slot.
struct Fragile(BlsVerifier, Duty);

impl Verifier for Fragile {
    fn verify(
        &self,
        duty: Duty,
        entries: &[(PubKey, ParSignedData)],
    ) -> Result<Vec<Partial>, VerifyError> {
        assert_ne!(duty, self.1, "on purpose");
        self.0.verify(duty, entries)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_that_panics_is_not_the_senders_fault() {
    let cluster = Cluster::new::<2>(2, 1);
    let fatal = cluster.sign(0, 1);
    let verifier = Fragile(cluster.verifier(), fatal.duty);
    let (mut receiver, mut events) = TestNode::start_observed(
        config(&cluster.keys[1], &[TCP]),
        &cluster.ids(),
        parts(cluster.members(), verifier),
    )
    .await;
    let (sender, _events) = cluster.start_one(0, TCP).await;
    sender.meets(&receiver);

    broadcast_to_all(&sender, &fatal).await;

    let event = within(events.recv()).await.unwrap();
    let Event::Unchecked { peer, duty, .. } = event else {
        panic!("{event:?}");
    };
    assert_eq!((peer, duty), (sender.id(), Some(fatal.duty)));
    let good = cluster.sign(0, 2);
    broadcast_to_all(&sender, &good).await;
    assert_eq!(receive(&mut receiver).await.message, good);
}

#[tokio::test(flavor = "multi_thread")]
async fn duties_that_nobody_can_have_yet_are_refused_with_their_sender() {
    let cluster = Cluster::new::<2>(2, 1);
    let newest = Slot(95);
    let gate = move |duty: Duty| match duty.slot <= newest {
        true => Ok(()),
        false => Err(GateError::TooFarAhead { duty, newest }),
    };
    let (mut receiver, mut events) = TestNode::start_observed(
        config(&cluster.keys[1], &[TCP]),
        &cluster.ids(),
        gated(cluster.members(), gate, cluster.verifier()),
    )
    .await;
    let (sender, _events) = cluster.start_one(0, TCP).await;
    sender.meets(&receiver);

    for slot in [96, u64::MAX] {
        let early = cluster.sign(0, slot);
        broadcast_to_all(&sender, &early).await;

        let (peer, duty, cause) = refused(&mut events).await;
        assert_eq!((peer, duty), (sender.id(), Some(early.duty)));
        let duty = early.duty;
        assert_eq!(
            cause,
            Refusal::Gate(GateError::TooFarAhead { duty, newest })
        );
    }
    let last = cluster.sign(0, 95);
    broadcast_to_all(&sender, &last).await;
    assert_eq!(receive(&mut receiver).await.message, last);
    nothing_delivered(&mut receiver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_no_validator_has_is_refused() {
    let cluster = Cluster::new::<2>(2, 1);
    let beyond = ShareIdx::new(3).unwrap();
    let members = [(cluster.ids()[0], beyond), (cluster.ids()[1], share_idx(1))];
    let (mut receiver, mut events) = TestNode::start_observed(
        config(&cluster.keys[1], &[TCP]),
        &cluster.ids(),
        parts(Members::new(members), cluster.verifier()),
    )
    .await;
    let (sender, _events) = cluster.start_one(0, TCP).await;
    sender.meets(&receiver);
    let pubkey = cluster.validators[0].pubkey;
    let mut entry = cluster.sign(0, 2).set.get(&pubkey).unwrap().clone();
    entry.share_idx = beyond;

    broadcast_to_all(&sender, &message(2, [(pubkey, entry)])).await;

    let share_idx = beyond;
    assert_eq!(
        refused(&mut events).await.2,
        Refusal::Verify(VerifyError::UnknownShare { pubkey, share_idx })
    );
    nothing_delivered(&mut receiver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_without_a_message_is_refused_and_an_unreadable_frame_is_rejected() {
    for transport in [0, 1] {
        let cluster = Cluster::new::<2>(2, 1);
        let (mut node, mut events) = cluster.start_one(1, TRANSPORTS[transport]).await;
        let mut raw = RawPeer::start(cluster.keys[0].clone()).await;
        assert!(raw.dial(node.id(), &node.addresses[0]).await);
        let good = cluster.sign(0, 5);

        // A frame that is read to its end is refused without a reset.
        assert_eq!(
            write(&mut raw, &node, b"\x03\xff\xff\xff").await.unwrap(),
            b""
        );
        let (peer, duty, cause) = refused(&mut events).await;
        assert_eq!((peer, duty), (raw.id(), None));
        assert!(
            matches!(cause, Refusal::Decode(DecodeError::Protobuf(_))),
            "{cause:?}"
        );
        assert_eq!(write(&mut raw, &node, b"\0").await.unwrap(), b"");
        let (_, _, cause) = refused(&mut events).await;
        assert_eq!(
            cause,
            Refusal::Decode(DecodeError::Missing { field: "duty" })
        );

        // Ends early; announces too much; no length.
        for frame in [&b"\x05\x01"[..], &[0x81, 0x80, 0x80, 0x40], &[0xff; 11]] {
            let _ = write(&mut raw, &node, frame).await;
            let event = within(events.recv()).await.unwrap();
            let Event::Rejected(Rejected {
                peer,
                cause: Rejection::Frame(_),
                ..
            }) = event
            else {
                panic!("{event:?}");
            };
            assert_eq!(peer, raw.id());
        }

        assert_eq!(write(&mut raw, &node, &framed(&good)).await.unwrap(), b"");
        let received = receive(&mut node).await;
        assert_eq!((received.peer, received.message), (raw.id(), good));
        nothing_delivered(&mut node);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_loses_nothing() {
    let cluster = Cluster::new::<2>(2, 1);
    let mut nodes = cluster.start(TCP).await;
    let count = (MAX_DELIVERED + MAX_CHECKS + 64) as u64;

    let by = Instant::now() + LIMIT;
    let sending = (0..count).map(|slot| {
        let broadcast = nodes[0].handle.handle.broadcast(&cluster.sign(0, slot), by);
        tokio::spawn(broadcast)
    });
    for outcome in within(futures::future::join_all(sending.collect::<Vec<_>>())).await {
        assert_eq!(outcome.unwrap().failures().count(), 0);
    }

    let mut slots = BTreeSet::new();
    for _ in 0..count {
        slots.insert(receive(&mut nodes[1]).await.message.duty.slot.0);
    }
    assert_eq!(slots, (0..count).collect());
    nothing_delivered(&mut nodes[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_is_delivered_again() {
    let cluster = Cluster::new::<2>(2, 1);
    let mut nodes = cluster.start(TCP).await;
    let message = cluster.sign(0, 6);

    for _ in 0..2 {
        broadcast_to_all(&nodes[0], &message).await;
        assert_eq!(receive(&mut nodes[1]).await.message, message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_connections_a_message_is_sent_once() {
    let cluster = Cluster::new::<2>(2, 1);
    let build = parts(cluster.members(), cluster.verifier());
    let config = config(&cluster.keys[1], &[TCP, QUIC]);
    let mut node = Node::start(config, &cluster.ids(), build).await;
    let mut raw = RawPeer::start(cluster.keys[0].clone()).await;
    for address in &node.addresses {
        assert!(raw.dial(node.id(), address).await, "{address}");
    }
    let peer = raw.id();
    let two = |view: &View| view.peer(&peer).filter(|it| it.paths.len() == 2).cloned();
    within(node.context.wait_for(two)).await.unwrap();
    let mut streams = raw.serve(PROTOCOL_ID);

    for slot in 0..8 {
        let message = cluster.sign(1, slot);
        let serve = async {
            let (_, mut stream) = streams.next().await.unwrap();
            // The sender ends its half once the receiver has.
            let mut frame = vec![0; framed(&message).len()];
            stream.read_exact(&mut frame).await.unwrap();
            stream.close().await.unwrap();
            let mut more = Vec::new();
            stream.read_to_end(&mut more).await.unwrap();
            assert_eq!(more, b"");
            frame
        };
        let (frame, ()) = within(join(serve, broadcast_to_all(&node, &message))).await;
        assert_eq!(frame, framed(&message));

        let message = cluster.sign(0, slot);
        write(&mut raw, &node, &framed(&message)).await.unwrap();
        assert_eq!(receive(&mut node).await.message, message);
    }
    assert!(
        streams.next().now_or_never().is_none(),
        "each was sent once"
    );
    nothing_delivered(&mut node);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_subscriber_goes_on() {
    let cluster = Cluster::new::<2>(2, 1);
    let mut nodes = cluster.start(TCP).await;
    let mut deaf = nodes.pop().unwrap();
    let mut node = nodes.pop().unwrap();
    let received = std::mem::replace(&mut deaf.handle.received, tokio::sync::mpsc::channel(1).1);
    drop(received);

    // More than all its queues hold together.
    let message = cluster.sign(0, 1);
    let count = MAX_DELIVERED + MAX_CHECKS + exchange::MAX_UNCLAIMED + exchange::MAX_READING + 1;
    for _ in 0..count {
        let outcome = broadcast(&node, &message).await;
        assert_eq!(outcome.failures().count(), 0);
    }

    let answer = cluster.sign(1, 1);
    broadcast_to_all(&deaf, &answer).await;
    assert_eq!(receive(&mut node).await.message, answer);
}

/// Counts what is received; puts together and verifies what is complete.
fn collect(
    cluster: &Cluster,
    store: &mut ThresholdStore,
    duty: Duty,
    share_idx: ShareIdx,
    partials: &[Partial],
    signed: &mut BTreeSet<PubKey>,
) {
    let (_, root) = cluster.root_of(duty.slot.0);
    for partial in partials {
        assert_eq!(partial.root, root);
        let pubkey = partial.pubkey;
        let quorum = store.add(duty, share_idx, partial);
        if let Some(quorum) = quorum.unwrap() {
            let validator = cluster.validators.iter().find(|it| it.pubkey == pubkey);
            let whole = bls::threshold_aggregate(&quorum).unwrap();
            bls::verify(&validator.unwrap().group, &root, &whole).unwrap();
            signed.insert(pubkey);
        }
    }
}

fn secret(cluster: &Cluster, pubkey: PubKey, share_idx: ShareIdx) -> &bls::SecretKey {
    let validator = cluster.validators.iter().find(|it| it.pubkey == pubkey);
    &validator.unwrap().shares[&share_idx]
}

/// The next event, which is a refusal.
async fn refused(events: &mut Events) -> (PeerId, Option<Duty>, Refusal) {
    match within(events.recv()).await.unwrap() {
        Event::Refused {
            peer, duty, cause, ..
        } => (peer, duty, cause),
        other => panic!("{other:?}"),
    }
}

/// Of what was refused before nothing comes any more: refusal is the end of a message.
fn nothing_delivered(node: &mut Node) {
    let next = node.handle.received.try_recv();
    assert!(matches!(next, Err(TryRecvError::Empty)), "{next:?}");
}

/// The frame of a message.
fn framed(message: &ParSigEx) -> Vec<u8> {
    let frame = pluto_p2p::proto::Frame::from_body(&message.encode());
    frame.as_bytes().to_vec()
}

/// Writes on a stream of its own, and reads what comes back until the other side's end.
async fn write(raw: &mut RawPeer, node: &Node, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = raw.open(node.id(), PROTOCOL_ID).await.unwrap();
    let exchange = async {
        stream.write_all(bytes).await?;
        stream.close().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    };
    within(exchange).await
}
