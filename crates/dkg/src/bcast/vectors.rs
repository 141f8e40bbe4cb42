//! What live Charons said, byte for byte.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use libp2p::{PeerId, StreamProtocol};
use pluto_core::PeerIdx;
use pluto_crypto::k1;
use pluto_p2p::proto::Frame;
use prost::Message;
use prost_types::Any;
use serde_json::Value;

use super::{
    Delivered, MessageId, Refusal,
    behaviour::{sign, take},
    component::Shared,
    registry::Sender,
    wire::{self, Digest, Generation, Signature},
};
use crate::pb;

const IDS: [MessageId; 4] = [
    "/charon/dkg/frost/2.0.0/round1/cast",
    "/charon/dkg/frost/2.0.0/round2/cast",
    "/charon/dkg/node_sig",
    "/charon/dkg/pedersen/1.0.0/node_pubkeys",
];

#[test]
fn the_hash_of_the_specification() {
    let session: Vec<u8> = (0..32).collect();
    let hash = Generation::V2.hash(
        &session,
        "/charon/dkg/node_sig",
        "type.googleapis.com/dkg.dkgpb.v1.MsgNodeSig",
        &hex::decode("0a04deadbeef1002").unwrap(),
    );
    assert_eq!(
        hex::encode(hash),
        "a3f045ad1b45fca0a1f97241a83ec6ebebe94ed39949d383081a67c9ee100109"
    );
}

#[test]
fn hashes_and_signatures_are_charons() {
    let Some(file) = read("bcast", "charon_bcast") else {
        return;
    };
    for case in array(&file["hashes"]) {
        let input = &case["input"];
        let generation = generation(case);
        let session = bytes(&input["session_hash"]);
        let (id, any) = (text(&input["id"]), any(input));
        let hash = generation.hash(&session, id, &any.type_url, &any.value);
        assert_eq!(hash, array32(&case["hash"]), "{}", case["name"]);
        let signers = array(&file["signers"][&generation.to_string()]);
        let signatures = array(&case["signatures"]);
        assert_eq!(signers.len(), signatures.len());
        for (key, signature) in signers.iter().zip(signatures) {
            assert_eq!(secret(key).sign(&hash)[..], bytes(signature), "{case}");
        }
    }
}

#[test]
fn every_frame_of_a_broadcast_is_charons() {
    let Some(file) = read("bcast", "charon_bcast") else {
        return;
    };
    for case in array(&file["broadcasts"]) {
        let input = &case["input"];
        let (generation, id, any) = (generation(case), id(input), any(input));
        let session = array32(&input["session_hash"]);
        let hash = generation.hash(&session, id, &any.type_url, &any.value);
        assert_eq!(hash, array32(&case["hash"]), "{case}");
        let keys: Vec<_> = array(&input["private_keys"]).iter().map(secret).collect();
        let signatures: Vec<_> = keys.iter().map(|key| key.sign(&hash)).collect();
        let expected: Vec<_> = array(&case["signatures"]).iter().map(bytes).collect();
        assert_eq!(
            signatures.iter().map(|it| it.to_vec()).collect::<Vec<_>>(),
            expected
        );

        let part = &case["sig_request"];
        same(part, &generation.sig(), &wire::sig_request(id, &any));
        let read = wire::read_sig_request(bytes(&part["message"]).into()).unwrap();
        assert_eq!((&*read.id, &read.any), (id, &any));

        for response in array(&case["sig_responses"]) {
            let idx = usize::try_from(response["peer_index"].as_u64().unwrap()).unwrap();
            let frame = wire::sig_response(id, signatures[idx]);
            assert_eq!(frame.as_bytes(), bytes(&response["frame"]), "{case}");
        }

        let part = &case["bcast_message"];
        let frame = wire::delivery(id, any.clone(), &signatures);
        same(part, &generation.msg(), &frame);
        let read = wire::read_delivery(frame.body()).unwrap();
        assert_eq!((&*read.id, &read.any), (id, &any));
        let read: Vec<_> = read.signatures.iter().map(|it| it.to_vec()).collect();
        assert_eq!(read, expected);
        let reply = bytes(&part["reply_frame"]);
        assert_eq!(wire::confirmation().as_bytes(), reply, "{case}");
    }
}

#[tokio::test]
async fn what_charon_broadcasts_is_signed_delivered_and_confirmed() {
    let Some(file) = read("bcast", "charon_bcast") else {
        return;
    };
    let mut seen = 0;
    for case in array(&file["broadcasts"]) {
        let input = &case["input"];
        if !text(&input["type_url"]).ends_with(".MsgNodeSig") {
            continue;
        }
        seen += 1;
        let initiator = usize::try_from(input["initiator_index"].as_u64().unwrap()).unwrap();
        let keys: Vec<_> = array(&input["private_keys"]).iter().map(secret).collect();
        for response in array(&case["sig_responses"]) {
            let local = usize::try_from(response["peer_index"].as_u64().unwrap()).unwrap();
            let mut node = Receiver::new(&keys, local, array32(&input["session_hash"]));
            let from = node.sender(initiator);
            let request = bytes(&case["sig_request"]["message"]);
            let frame = node.sign(generation(case), from, request).await.unwrap();
            assert_eq!(frame.as_bytes(), bytes(&response["frame"]), "{case}");
            let delivery = bytes(&case["bcast_message"]["message"]);
            let reply = node.take(generation(case), from, delivery).await.unwrap();
            assert_eq!(
                reply.as_bytes(),
                bytes(&case["bcast_message"]["reply_frame"])
            );
            let delivered = node.delivered[2].try_recv().unwrap();
            assert_eq!((delivered.peer, delivered.idx), (from.peer, from.idx));
            let value = pb::MsgNodeSig::decode(&bytes(&input["value"])[..]).unwrap();
            assert_eq!(delivered.message, value);
        }
    }
    assert_eq!(seen, 8);
}

#[tokio::test]
async fn signature_sets_are_accepted_and_refused_as_by_charon() {
    let Some(file) = read("bcast", "charon_bcast") else {
        return;
    };
    for case in array(&file["verify"]) {
        let input = &case["input"];
        let generation = generation(case);
        let signers = array(&file["signers"][&generation.to_string()]);
        let keys: Vec<_> = signers.iter().map(secret).collect();
        let node = Receiver::new(&keys, 0, array32(&input["session_hash"]));
        let from = node.sender(1);
        // As if the sender had collected our signature for just this: only the set is in question.
        let (wanted, any) = (text(&input["id"]), any(input));
        if let Some(id) = IDS.into_iter().find(|id| *id == wanted) {
            let digest = node.shared.digest(id, &any);
            let mut ledger = node.shared.ledger();
            ledger.on_request(from.idx, id, digest, &any.value).unwrap();
        }
        let taken = node.take(generation, from, bytes(&case["message"])).await;
        let accepted = case["accepted"].as_bool().unwrap();
        assert_eq!(taken.is_ok(), accepted, "{}: {taken:?}", case["name"]);
    }
}

#[test]
fn what_charon_says_in_identify_tells_its_generation() {
    let Some(file) = read("identify", "charon_identify") else {
        return;
    };
    let mut seen = 0;
    for case in array(&file["cases"]) {
        let protocols = array(&case["protocols"]).iter().map(|id| {
            StreamProtocol::try_from_owned(format!("/{}", text(id).trim_start_matches('/')))
        });
        let protocols: Vec<_> = protocols.map(Result::unwrap).collect();
        let served = Generation::served(&protocols);
        let expected = match (
            text(&case["name"]).starts_with("dkg"),
            text(&case["charon"]),
        ) {
            (false, _) => vec![],
            (true, "v1.10.3") => vec![Generation::V1],
            (true, _) => vec![Generation::V2],
        };
        seen += expected.len();
        assert_eq!(served, expected, "{}", case["name"]);
    }
    assert_eq!(seen, 4);
}

/// A node that is asked.
struct Receiver {
    shared: Arc<Shared>,
    /// By the place of the id in [`IDS`]; all of one type, which the signatures do not look at.
    delivered: Vec<tokio::sync::mpsc::Receiver<Delivered<pb::MsgNodeSig>>>,
}

impl Receiver {
    fn new(keys: &[k1::SecretKey], local: usize, session: [u8; 32]) -> Self {
        let peers: Vec<_> = keys.iter().map(|key| peer_id(&key.public_key())).collect();
        let shared = Shared::new(&peers, keys[local].clone(), session).unwrap();
        let others = keys.len() - 1;
        let delivered = IDS.into_iter().map(|id| {
            let registered = shared.registry.register(id, others, |_, _, _: &_| Ok(()));
            registered.unwrap()
        });
        Self {
            delivered: delivered.collect(),
            shared,
        }
    }

    fn sender(&self, at: usize) -> Sender {
        let member = &self.shared.members[at];
        let idx = PeerIdx::new(u32::try_from(at).unwrap()).unwrap();
        assert_eq!(member.idx, idx);
        Sender {
            peer: member.peer,
            idx,
        }
    }

    async fn sign(&self, of: Generation, from: Sender, body: Vec<u8>) -> Result<Frame, Refusal> {
        sign(&Bytes::from(body), of, from, &self.shared, &mut None).await
    }

    async fn take(&self, of: Generation, from: Sender, body: Vec<u8>) -> Result<Frame, Refusal> {
        take(&Bytes::from(body), of, from, &self.shared, &mut None).await
    }
}

fn same(part: &Value, protocol: &StreamProtocol, frame: &Frame) {
    assert_eq!(protocol.as_ref(), text(&part["protocol"]));
    assert_eq!(frame.body(), bytes(&part["message"]));
    assert_eq!(frame.as_bytes(), bytes(&part["frame"]));
}

fn generation(case: &Value) -> Generation {
    match text(&case["bcast_version"]) {
        "1.0.0" => Generation::V1,
        "2.0.0" => Generation::V2,
        other => panic!("{other}"),
    }
}

fn id(input: &Value) -> MessageId {
    let wanted = text(&input["id"]);
    IDS.into_iter().find(|id| *id == wanted).unwrap()
}

fn any(input: &Value) -> Any {
    Any {
        type_url: text(&input["type_url"]).to_owned(),
        value: bytes(&input["value"]),
    }
}

pub(crate) fn peer_id(key: &k1::PublicKey) -> PeerId {
    PeerId::from_bytes(&k1::peer_id_bytes(key)).unwrap()
}

pub(crate) fn secret(key: &Value) -> k1::SecretKey {
    k1::SecretKey::from_bytes(&array32(key)).unwrap()
}

pub(crate) fn array32(value: &Value) -> Digest {
    bytes(value).try_into().unwrap()
}

pub(crate) fn signature(value: &Value) -> Signature {
    bytes(value).try_into().unwrap()
}

pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).unwrap()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

pub(crate) fn array(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// A file of vectors, if they are there.
pub(crate) fn read(name: &str, suite: &str) -> Option<Value> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let path = std::env::var_os("PLUTO_VECTORS").map_or_else(|| default.into(), PathBuf::from);
    let path = path.join("charon").join(name).with_extension("json");
    if !path.is_file() {
        // Not through `println`, which the test harness would swallow.
        let _ = writeln!(io::stderr(), "skipped: no vectors at {}", path.display());
        return None;
    }
    let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(file["suite"], suite);
    Some(file)
}
