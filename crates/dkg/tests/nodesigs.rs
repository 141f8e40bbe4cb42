//! Node signatures among real nodes.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

mod support;

use std::time::Duration;

use futures::future::join_all;
use libp2p::PeerId;
use pluto_dkg::nodesigs::{NodeSignatures, NodeSignaturesError, Own};
use pluto_p2p::proto::Frame;
use pluto_testkit::{LIMIT, TCP, ids, key, within};
use prost::Message;
use prost_types::Any;
use support::{Hand, Node, SIG, SigRequest, cluster, meet, secret};
use tokio::time::Instant;

const LOCK_HASH: [u8; 32] = [9; 32];

type Outcome = Result<Vec<Option<[u8; 65]>>, NodeSignaturesError>;

#[tokio::test(flavor = "multi_thread")]
async fn all_get_the_signatures_of_all_in_operator_order() {
    let nodes = cluster(4, TCP, |_, config| config).await;
    let outcomes = exchange(&nodes, &[Own::Sign(LOCK_HASH); 4], LIMIT).await;
    let signed = |node: &Node| Some(secret(&node.test.key).sign(&LOCK_HASH));
    let expected: Vec<_> = nodes.iter().map(signed).collect();
    for outcome in outcomes {
        assert_eq!(outcome.unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_has_no_signature_and_sees_none() {
    let nodes = cluster(3, TCP, |_, config| config).await;
    let sign = Own::Sign(LOCK_HASH);
    let leaving = [nodes[1].id()];
    let own = [sign, Own::Leave, sign];
    let mut outcomes = exchange_without(&nodes, &leaving, &own, LIMIT).await;
    assert_eq!(outcomes.remove(1).unwrap(), [None; 3]);
    for outcome in outcomes {
        let signed: Vec<_> = outcome.unwrap().iter().map(Option::is_some).collect();
        assert_eq!(signed, [true, false, true]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_sign_and_does_not_leave_is_named() {
    let sign = Own::Sign(LOCK_HASH);
    for another_leaves in [false, true] {
        let nodes = cluster(3, TCP, |_, config| config).await;
        // Which excuses nobody else.
        let leaving = if another_leaves { &nodes[..1] } else { &[] };
        let leaving: Vec<_> = leaving.iter().map(Node::id).collect();
        let own = [sign, Own::Leave, sign];
        let mut outcomes = exchange_without(&nodes, &leaving, &own, LIMIT).await;
        outcomes.remove(1).unwrap();
        for outcome in outcomes {
            let Err(NodeSignaturesError::NotSigned { peer }) = outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!(peer, nodes[1].id());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_made_another_lock_is_named() {
    let nodes = cluster(3, TCP, |_, config| config).await;
    let sign = Own::Sign(LOCK_HASH);
    let own = [sign, sign, Own::Sign([8; 32])];
    let outcomes = exchange(&nodes, &own, LIMIT).await;
    for outcome in &outcomes[..2] {
        let Err(NodeSignaturesError::Bad { peer, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(*peer, nodes[2].id());
    }
    let outcome = &outcomes[2];
    assert!(
        matches!(outcome, Err(NodeSignaturesError::Bad { .. })),
        "{outcome:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_come_is_named_in_time() {
    let nodes = cluster(3, TCP, |_, config| config).await;
    let registered: Vec<_> = nodes.iter().map(register).collect();
    let mut registered = registered.into_iter();
    let by = Instant::now() + Duration::from_secs(1);
    let both = registered.by_ref().take(2);
    let both = join_all(both.map(|it| it.exchange(Own::Sign(LOCK_HASH), by)));
    for outcome in within(both).await {
        let Err(NodeSignaturesError::Missing { missing }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(missing, [nodes[2].id()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_the_lock_hash_is_known_is_kept() {
    let nodes = cluster(2, TCP, |_, config| config).await;
    let late = register(&nodes[1]);
    let by = Instant::now() + LIMIT;
    let early = tokio::spawn(register(&nodes[0]).exchange(Own::Sign(LOCK_HASH), by));
    // Its own is confirmed by now, so that the other has it.
    let waits = nodes[1].test.handle.clone();
    within(waits.agree()).await.unwrap();
    let late = within(late.exchange(Own::Sign(LOCK_HASH), by))
        .await
        .unwrap();
    assert_eq!(within(early).await.unwrap().unwrap(), late);
}

/// As on the wire.
#[derive(Clone, PartialEq, Message)]
struct NodeSig {
    #[prost(bytes = "vec", tag = "1")]
    signature: Vec<u8>,
    #[prost(uint32, tag = "2")]
    peer_index: u32,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_another_place_is_not_signed() {
    let keys: Vec<_> = (0..3).map(|_| key()).collect();
    let known = ids(&keys);
    let nodes = [Node::start(&keys[0], &known, TCP, |config| config).await];
    let hands = [Hand::start(&keys[1], &known, TCP).await];
    meet(&nodes, &hands).await;
    let _registered = register(&nodes[0]);

    for (peer_index, is_signed) in [(0, false), (2, false), (1, true)] {
        let message = NodeSig {
            signature: vec![1; 65],
            peer_index,
        };
        let request = SigRequest {
            id: "/charon/dkg/node_sig".to_owned(),
            message: Some(Any {
                type_url: "type.googleapis.com/dkg.dkgpb.v1.MsgNodeSig".to_owned(),
                value: message.encode_to_vec(),
            }),
        };
        let answer = hands[0].call(nodes[0].id(), SIG, Frame::encode(&request));
        assert_eq!(answer.await.is_ok(), is_signed, "place {peer_index}");
    }
}

fn register(node: &Node) -> NodeSignatures {
    NodeSignatures::register(node.test.handle.clone()).unwrap()
}

async fn exchange(nodes: &[Node], own: &[Own], limit: Duration) -> Vec<Outcome> {
    exchange_without(nodes, &[], own, limit).await
}

/// As [`exchange`], in a ceremony that these leave.
async fn exchange_without(
    nodes: &[Node],
    leaving: &[PeerId],
    own: &[Own],
    limit: Duration,
) -> Vec<Outcome> {
    let by = Instant::now() + limit;
    let registered: Vec<_> = nodes
        .iter()
        .map(|node| register(node).with_leaving(leaving.iter().copied()))
        .collect();
    let all = registered.into_iter().zip(own);
    within(join_all(all.map(|(it, own)| it.exchange(*own, by)))).await
}
