//! The specification's rules for senders, and messages recorded from Charon, fed to a node as they
//! were on the wire.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write as _},
    path::PathBuf,
};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{PeerId, identity::Keypair};
use pluto_core::{DecodeError, Duty, ParSigEx, PubKey, ShareIdx, signing::Forks};
use pluto_crypto::bls;
use pluto_parsigex::{
    BindError, BlsVerifier, Event, Members, MissingShareIdx, Received, Refusal, Unverified,
    Verifier, VerifyError,
};
use pluto_testkit::{RawPeer, TRANSPORTS, TestNode, config, ids, key, within};
use serde_json::Value;
use support::{Events, Node, parts};

const BINDING: &str = "dv-specs/parsigex_sender_binding.json";
const CHARON: &str = "charon/parsigex.json";

#[test]
fn vectors_of_senders_are_bound_as_specified() {
    let Some(file) = read(BINDING, "parsigex_sender_binding") else {
        return;
    };
    let covered = ["suite", "description", "provenance", "cases", "peer_map"];
    for part in file.as_object().unwrap().keys() {
        assert!(covered.contains(&part.as_str()), "{part} is not covered");
    }
    let mut names = BTreeMap::new();
    let mut peer = |name: &str| *names.entry(name.to_owned()).or_insert_with(PeerId::random);

    for case in array(&file["cases"]) {
        let input = &case["input"];
        let indices = indices(&input["share_idx_by_peer"], &mut peer);
        let members = Members::assigned(indices.keys().copied(), |peer| indices.get(peer).copied());
        let sender = peer(text(&input["sender"]));
        let share_idx = input["share_idx"].as_i64().unwrap();
        let bound = members.unwrap().bind(sender, share_idx);
        if let Ok(bound) = bound {
            assert_eq!(i64::from(bound.get()), share_idx, "{case}");
        }
        expect(
            case,
            bound.map(drop).map_err(|error| match error {
                BindError::UnknownPeer { .. } => "unknown_peer",
                BindError::ShareIdxMismatch { .. } => "share_idx_mismatch",
            }),
        );
    }
    for case in array(&file["peer_map"]) {
        let input = &case["input"];
        let indices = indices(&input["share_idx_by_peer"], &mut peer);
        let peers: Vec<_> = array(&input["peers"])
            .iter()
            .map(|it| peer(text(it)))
            .collect();
        let members = Members::assigned(peers, |peer| indices.get(peer).copied());
        expect(
            case,
            members
                .map(drop)
                .map_err(|MissingShareIdx { .. }| "missing_share_idx"),
        );
    }
    let [cases, maps] = ["cases", "peer_map"].map(|part| array(&file[part]).len());
    assert!(cases > 0 && maps > 0);
    println!("{BINDING}: {cases} cases, {maps} peer maps");
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_ceremonies_are_received_as_recorded() {
    let Some(file) = read(CHARON, "charon_parsigex") else {
        return;
    };
    let mut received = 0;
    for ceremony in array(&file["ceremonies"]) {
        let keys: Vec<_> = array(&ceremony["input"]["private_keys"])
            .iter()
            .map(identity)
            .collect();
        for listen in TRANSPORTS {
            let mut receiver = Receiver::start(listen, &keys, Unverified).await;
            for message in array(&ceremony["messages"]) {
                let sender = index(&message["sender_share_idx"]).get() as usize - 1;
                receiver.accepts(sender, message).await;
                received += 1;
            }
        }
    }
    assert!(received > 0);
    println!("{CHARON}: {received} messages of ceremonies received");
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_duties_are_received_as_recorded() {
    let Some(file) = read(CHARON, "charon_parsigex") else {
        return;
    };
    let mut received = BTreeMap::<&str, usize>::new();
    for duties in array(&file["duties"]) {
        let keys = operators(&duties["input"]);
        let sender = index(&duties["input"]["sender_share_idx"]).get() as usize - 1;
        for listen in TRANSPORTS {
            let mut receiver = Receiver::start(listen, &keys, Unverified).await;
            for message in array(&duties["messages"]) {
                receiver.accepts(sender, message).await;
                *received
                    .entry(text(&message["duty"]["type_name"]))
                    .or_default() += 1;
            }
        }
    }
    assert!(!received.is_empty());
    println!("{CHARON}: messages of duties received {received:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_duties_verify() {
    let Some(file) = read(CHARON, "charon_parsigex") else {
        return;
    };
    let mut verified = BTreeMap::<&str, usize>::new();
    for duties in array(&file["duties"]) {
        let input = &duties["input"];
        let sender = index(&input["sender_share_idx"]).get() as usize - 1;
        let [listen, _] = TRANSPORTS;
        let mut receiver = Receiver::start(listen, &operators(input), verifier(input)).await;
        for message in array(&duties["messages"]) {
            let (name, kind) = (text(&message["name"]), text(&message["duty"]["type_name"]));
            assert_eq!(message["accepted"], true, "{name}");
            receiver.accepts(sender, message).await;
            *verified.entry(kind).or_default() += 1;
        }
    }
    assert!(!verified.is_empty());
    println!("{CHARON}: messages of duties verified {verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_altered_messages_end_where_they_should() {
    let Some(file) = read(CHARON, "charon_parsigex") else {
        return;
    };
    let mut checked = BTreeMap::<&str, usize>::new();
    for duties in array(&file["duties"]) {
        let input = &duties["input"];
        let sender = index(&input["sender_share_idx"]).get() as usize - 1;
        let [listen, _] = TRANSPORTS;
        let mut receiver = Receiver::start(listen, &operators(input), verifier(input)).await;
        for variant in array(&duties["variants"]) {
            let (name, stage) = (text(&variant["name"]), text(&variant["stage"]));
            let outcome = receiver.hears(sender, &variant["frame"]).await;
            // Charon takes what was signed for another epoch than the duty's, but never sends it.
            let stricter = name == "duty slot of another epoch";
            assert_eq!(
                variant["accepted"],
                outcome.is_ok() || stricter,
                "{name}: {outcome:?}"
            );
            let right = match (stage, &outcome) {
                ("accepted", Err((_, Refusal::Verify(VerifyError::OtherDuty { .. })))) => stricter,
                ("accepted", Ok(_)) => !stricter,
                ("presence check" | "duty type", Err((None, Refusal::Decode(_)))) => true,
                ("decode", Err((_, refusal))) => matches!(
                    refusal,
                    Refusal::Decode(_) | Refusal::Verify(VerifyError::Data { .. })
                ),
                // Ids that cannot exist are refused before any look-up; a foreign index where the
                // sender is bound to its own, which Charon does not do here.
                ("verify", Err((_, refusal))) => matches!(
                    refusal,
                    Refusal::Decode(DecodeError::ShareIdx { .. } | DecodeError::Key { .. })
                        | Refusal::Sender(BindError::ShareIdxMismatch { .. })
                        | Refusal::Verify(
                            VerifyError::UnknownValidator { .. }
                                | VerifyError::OtherDuty { .. }
                                | VerifyError::Malformed { .. }
                                | VerifyError::Bad { .. }
                        )
                ),
                _ => false,
            };
            assert!(right, "{name}: {stage} gives {outcome:?}");
            *checked.entry(stage).or_default() += 1;
        }
    }
    assert!(!checked.is_empty());
    println!("{CHARON}: altered messages {checked:?}");
}

/// A node whose cluster are peers that speak by hand, and one more: itself.
struct Receiver {
    node: Node,
    events: Events,
    operators: Vec<RawPeer>,
}

impl Receiver {
    async fn start(listen: &str, operators: &[Keypair], verifier: impl Verifier) -> Self {
        let members = ids(operators)
            .into_iter()
            .zip((1..).filter_map(ShareIdx::new));
        let build = parts(Members::new(members), verifier);
        let own = config(&key(), &[listen]);
        let (node, events) = TestNode::start_observed(own, &ids(operators), build).await;
        let mut peers = Vec::new();
        for key in operators {
            let mut peer = RawPeer::start(key.clone()).await;
            assert!(peer.dial(node.id(), &node.addresses[0]).await);
            peers.push(peer);
        }
        Self {
            node,
            events,
            operators: peers,
        }
    }

    /// What becomes of a frame.
    async fn hears(
        &mut self,
        sender: usize,
        frame: &Value,
    ) -> Result<Received, (Option<Duty>, Refusal)> {
        let raw = &mut self.operators[sender];
        self::write(raw, self.node.id(), &bytes(frame)).await;
        let outcome = async {
            tokio::select! {
                received = self.node.handle.received.recv() => Ok(received.unwrap()),
                event = self.events.recv() => match event.unwrap() {
                    Event::Refused { peer, duty, cause, .. } => {
                        assert_eq!(peer, raw.id());
                        Err((duty, cause))
                    }
                    other => panic!("{other:?}"),
                },
            }
        };
        within(outcome).await
    }

    async fn accepts(&mut self, sender: usize, message: &Value) {
        let name = text(&message["name"]);
        let received = match self.hears(sender, &message["frame"]).await {
            Ok(received) => received,
            Err(refused) => panic!("{name}: {refused:?}"),
        };
        assert_eq!(received.peer, self.operators[sender].id(), "{name}");
        assert_eq!(received.share_idx.get() as usize, sender + 1, "{name}");
        check(message, &received);
    }
}

/// Sends as Charon does: length and body in two writes, then it closes. Nothing is answered.
async fn write(raw: &mut RawPeer, to: PeerId, frame: &[u8]) {
    let mut body = frame;
    prost::decode_length_delimiter(&mut body).unwrap();
    let (length, body) = frame.split_at(frame.len() - body.len());
    let mut stream = raw.open(to, "/charon/parsigex/2.0.0").await.unwrap();
    let exchange = async {
        for part in [length, body] {
            stream.write_all(part).await.unwrap();
            stream.flush().await.unwrap();
        }
        stream.close().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"");
    };
    within(exchange).await;
}

/// Compares with the recording, entry by entry.
fn check(message: &Value, received: &Received) {
    let (name, duty) = (text(&message["name"]), received.message.duty);
    assert_eq!(duty.slot.0, message["duty"]["slot"], "{name}");
    assert_eq!(duty.kind.code(), message["duty"]["type"], "{name}");
    let body = bytes(&message["message"]);
    assert_eq!(received.message, ParSigEx::decode(&body).unwrap(), "{name}");
    let entries = array(&message["entries"]);
    assert_eq!(received.message.set.len(), entries.len(), "{name}");
    for entry in entries {
        let pubkey: PubKey = text(&entry["map_key"]).parse().unwrap();
        let item = received.message.set.get(&pubkey).unwrap();
        assert_eq!(item.data, bytes(&entry["data"]), "{name}");
        assert_eq!(item.signature, bytes(&entry["signature"]), "{name}");
        assert_eq!(item.share_idx, index(&entry["share_idx"]), "{name}");
    }
}

fn expect(case: &Value, outcome: Result<(), &str>) {
    assert_eq!(case["accepted"], outcome.is_ok(), "{case}");
    assert_eq!(case["reason"].as_str(), outcome.err(), "{case}");
}

fn indices(map: &Value, peer: &mut impl FnMut(&str) -> PeerId) -> BTreeMap<PeerId, i64> {
    let map = map.as_object().unwrap().iter();
    map.map(|(name, index)| (peer(name), index.as_i64().unwrap()))
        .collect()
}

fn identity(secret: &Value) -> Keypair {
    let secret = libp2p::identity::secp256k1::SecretKey::try_from_bytes(bytes(secret)).unwrap();
    libp2p::identity::secp256k1::Keypair::from(secret).into()
}

/// Identities for as many operators as there are shares; duties were recorded without them.
fn operators(input: &Value) -> Vec<Keypair> {
    let shares: BTreeSet<_> = array(&input["validators"])
        .iter()
        .map(|validator| array(&validator["public_shares"]).len())
        .collect();
    assert_eq!(shares.len(), 1);
    (0..shares.into_iter().sum()).map(|_| key()).collect()
}

fn verifier(input: &Value) -> BlsVerifier {
    let validators = array(&input["validators"]).iter().map(|validator| {
        let group = bytes(&validator["group_public_key"]).try_into().unwrap();
        let shares = array(&validator["public_shares"])
            .iter()
            .map(|share| bls::PublicKey::from_bytes(&bytes(share).try_into().unwrap()).unwrap());
        (
            PubKey::new(group),
            (1..).filter_map(ShareIdx::new).zip(shares).collect(),
        )
    });
    BlsVerifier::new(forks(input), validators)
}

/// The recorded nodes took fork versions from the public schedule of the network that their genesis
/// validators root belongs to, not from the versions and epochs under `spec`.
fn forks(input: &Value) -> Forks {
    const HOODI: &str = "212f13fc4df078b6cb7db228f1c8307566dcecf900867401a92023d7ba99cb5f";
    const HOLESKY: &str = "9143aa7c615a7f7115e2b6aac319c03529df8242ae705fba9df39b79c59fa8b1";
    let root = text(&input["genesis_validators_root"]);
    let (network, schedule): ([u8; 3], &[(u64, u8)]) = match root {
        HOODI => (
            [0x00, 0x09, 0x10],
            &[(0, 0x50), (2_048, 0x60), (50_688, 0x70)],
        ),
        HOLESKY => (
            [0x01, 0x70, 0x00],
            &[(0, 3), (256, 4), (29_696, 5), (115_968, 6), (165_120, 7)],
        ),
        other => panic!("chain {other} is not covered"),
    };
    let version = |first: u8| [first, network[0], network[1], network[2]];
    Forks {
        genesis_version: bytes(&input["spec"]["GENESIS_FORK_VERSION"])
            .try_into()
            .unwrap(),
        genesis_validators_root: bytes(&input["genesis_validators_root"]).try_into().unwrap(),
        schedule: schedule
            .iter()
            .map(|(epoch, it)| (*epoch, version(*it)))
            .collect(),
        // The recording signs exits with the version of their epoch.
        exit_version: None,
        slots_per_epoch: text(&input["spec"]["SLOTS_PER_EPOCH"]).parse().unwrap(),
    }
}

fn array(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).unwrap()
}

fn index(value: &Value) -> ShareIdx {
    let index = value.as_u64().and_then(|index| u32::try_from(index).ok());
    ShareIdx::new(index.unwrap()).unwrap()
}

fn read(name: &str, suite: &str) -> Option<Value> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let path = std::env::var_os("PLUTO_VECTORS").map_or_else(|| default.into(), PathBuf::from);
    let path = path.join(name);
    if !path.is_file() {
        // Not through `println`, which the test harness would swallow.
        let _ = writeln!(io::stderr(), "skipped: no vectors at {}", path.display());
        return None;
    }
    let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(file["suite"], suite);
    Some(file)
}
