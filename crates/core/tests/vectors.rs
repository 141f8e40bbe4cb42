//! Messages recorded from Charon ceremonies and running clusters.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::PathBuf,
};

use pluto_core::{
    DutyType, ParSigEx, ParSignedData, PubKey,
    signed::SignedData,
    signing::{Forks, signing_root},
};
use pluto_crypto::bls;
use serde_json::Value;

const HOODI: &str = "212f13fc4df078b6cb7db228f1c8307566dcecf900867401a92023d7ba99cb5f";
const HOLESKY: &str = "9143aa7c615a7f7115e2b6aac319c03529df8242ae705fba9df39b79c59fa8b1";
const FILE: &str = "charon/parsigex.json";

#[test]
fn vectors_of_ceremonies_decode_and_verify() {
    let Some(file) = read() else { return };
    let mut checked = 0;
    for ceremony in array(&file["ceremonies"]) {
        for message in array(&ceremony["messages"]) {
            let decoded = decode_frame(message);
            let name = &message["name"];
            for entry in array(&message["entries"]) {
                let (pubkey, item) = find(&decoded, entry);
                let data = SignedData::decode(decoded.duty.kind, &item.data).unwrap();
                let SignedData::Signature(bare) = data else {
                    panic!("{name}: not a bare signature");
                };
                assert_eq!(bare.to_json(), item.data, "{name}");
                assert_eq!(data.message_root(), None);
                assert_eq!(bare.signature.as_slice(), bytes(&entry["signature"]));
                let share = public_share(&ceremony["input"], &pubkey, item).unwrap();
                verify(&share, &array32(&entry["signing_root"]), &data).unwrap();
                checked += 1;
            }
        }
    }
    assert!(checked > 0);
    println!("{FILE}: {checked} entries of ceremonies");
}

#[test]
fn vectors_of_duties_decode_and_verify() {
    let Some(file) = read() else { return };
    let mut checked = BTreeMap::<&str, usize>::new();
    for duties in array(&file["duties"]) {
        let forks = forks(&duties["input"]);
        for message in array(&duties["messages"]) {
            let name = message["name"].as_str().unwrap();
            assert_eq!(message["accepted"], true, "{name}");
            let decoded = decode_frame(message);
            let kind = decoded.duty.kind;
            assert_eq!(kind.name(), message["duty"]["type_name"], "{name}");
            for entry in array(&message["entries"]) {
                let (pubkey, item) = find(&decoded, entry);
                let data = SignedData::decode(kind, &item.data)
                    .unwrap_or_else(|err| panic!("{name}: {err:?}"));
                assert_eq!(data.signature().as_slice(), bytes(&entry["signature"]));
                let root = data.message_root().unwrap();
                assert_eq!(root, array32(&entry["message_root"]), "{name}");
                let epoch = data.epoch(forks.slots_per_epoch).unwrap();
                assert_eq!(epoch, entry["epoch"], "{name}");
                let domain = data.domain().unwrap();
                assert_eq!(domain.name(), entry["domain_name"], "{name}");
                let expected = array32(&entry["domain"]);
                assert_eq!(forks.domain(domain, epoch), expected, "{name}");
                let signed = signing_root(root, expected);
                assert_eq!(signed, array32(&entry["signing_root"]), "{name}");
                assert_eq!(forks.signing_root(&data), Some(signed), "{name}");
                let share = public_share(&duties["input"], &pubkey, item).unwrap();
                verify(&share, &signed, &data).unwrap();
                if let SignedData::Randao(randao) = data {
                    assert_eq!(randao.to_json(), item.data, "{name}");
                }
                *checked.entry(kind.name()).or_default() += 1;
            }
        }
    }
    assert!(!checked.is_empty());
    println!("{FILE}: entries of duties {checked:?}");
}

#[test]
fn vectors_of_altered_messages_end_where_they_should() {
    let Some(file) = read() else { return };
    let mut checked = BTreeMap::<&str, usize>::new();
    for duties in array(&file["duties"]) {
        for variant in array(&duties["variants"]) {
            let name = variant["name"].as_str().unwrap();
            let stage = variant["stage"].as_str().unwrap();
            let outcome = receive(&duties["input"], &bytes(&variant["message"]));
            let expected: &[&str] = match stage {
                "accepted" => &["accepted"],
                "presence check" | "duty type" => &["message"],
                "decode" => &["message", "data"],
                // Ids that cannot exist are refused before any lookup.
                "verify" => &["message", "unknown", "signature"],
                other => panic!("{name}: stage {other} is not covered"),
            };
            assert!(expected.contains(&outcome), "{name}: {outcome}");
            assert_eq!(variant["accepted"], outcome == "accepted", "{name}");
            *checked.entry(stage).or_default() += 1;
        }
    }
    assert!(!checked.is_empty());
    println!("{FILE}: altered messages {checked:?}");
}

/// Charon's own renderings of one value in both encodings. The roots are those of the beacon chain
/// specification's containers under `remerkleable`.
#[test]
fn vectors_of_both_encodings_are_one_object() {
    let files = [
        (
            DutyType::Proposer,
            "VersionedSignedProposal",
            "",
            "cd3d0d0abc5d9ba7a85b8c3388a6d4ebe2ee6367e20bf3c77a8d4977c657c0e1",
        ),
        (
            DutyType::Proposer,
            "VersionedSignedProposal",
            "#01",
            "4bf04729550ce290f32088070ae5dead2940c4350620a4bb85e04b0b1f3c2177",
        ),
        (
            DutyType::Aggregator,
            "VersionedSignedAggregateAndProof",
            "",
            "b583185cb9587e89300afca09c2052bd6e75b885fbdccdcea9d7bcdaa80646f0",
        ),
    ];
    for (kind, name, variant, root) in files {
        let file = |form: &str, ending: &str| {
            find_file(&format!(
                "core/types/Test{form}Serialisation_{name}.{ending}{variant}.golden"
            ))
        };
        let (Some(ssz), Some(json)) = (file("SSZ", "ssz"), file("JSON", "json")) else {
            return;
        };
        let decode = |path| SignedData::decode(kind, &fs::read(path).unwrap()).unwrap();
        let data = decode(ssz);
        assert_eq!(data, decode(json), "{name}{variant}");
        let found = data.message_root().map(hex::encode);
        assert_eq!(found.as_deref(), Some(root), "{name}{variant}");
    }
    println!("core/types: {} objects in both encodings", files.len());
}

/// What a receiver does, up to the first thing that stops it.
fn receive(input: &Value, message: &[u8]) -> &'static str {
    let Ok(message) = ParSigEx::decode(message) else {
        return "message";
    };
    let forks = forks(input);
    for (pubkey, item) in &message.set {
        let Ok(data) = SignedData::decode(message.duty.kind, &item.data) else {
            return "data";
        };
        let Some(share) = public_share(input, pubkey, item) else {
            return "unknown";
        };
        let root = forks.signing_root(&data);
        if root.is_none_or(|root| verify(&share, &root, &data).is_err()) {
            return "signature";
        }
    }
    "accepted"
}

fn decode_frame(message: &Value) -> ParSigEx {
    let name = message["name"].as_str().unwrap();
    let frame = bytes(&message["frame"]);
    let mut rest = frame.as_slice();
    let len = prost::decode_length_delimiter(&mut rest).unwrap();
    assert_eq!(len, rest.len(), "{name}");
    assert_eq!(rest, bytes(&message["message"]), "{name}");
    let decoded = ParSigEx::decode(rest).unwrap();
    assert_eq!(decoded.duty.slot.0, message["duty"]["slot"], "{name}");
    assert_eq!(decoded.duty.kind.code(), message["duty"]["type"], "{name}");
    let entries = array(&message["entries"]).len();
    assert_eq!(decoded.set.len(), entries, "{name}");
    // Charon's entries come in any order, ours by key.
    let encoded = decoded.encode();
    if entries == 1 {
        assert_eq!(encoded, rest, "{name}");
    } else {
        assert_eq!(encoded.len(), rest.len(), "{name}");
        assert_eq!(ParSigEx::decode(&encoded).unwrap(), decoded, "{name}");
    }
    decoded
}

fn find<'a>(message: &'a ParSigEx, entry: &Value) -> (PubKey, &'a ParSignedData) {
    let pubkey: PubKey = entry["map_key"].as_str().unwrap().parse().unwrap();
    let item = message.set.get(&pubkey).unwrap();
    assert_eq!(item.data, bytes(&entry["data"]));
    assert_eq!(item.signature, bytes(&entry["signature"]));
    assert_eq!(item.share_idx.get(), entry["share_idx"]);
    (pubkey, item)
}

fn public_share(input: &Value, pubkey: &PubKey, item: &ParSignedData) -> Option<bls::PublicKey> {
    let validator = array(&input["validators"])
        .iter()
        .find(|it| bytes(&it["group_public_key"]) == pubkey.as_bytes())?;
    let place = item.share_idx.get() as usize - 1;
    let key = bytes(array(&validator["public_shares"]).get(place)?);
    Some(bls::PublicKey::from_bytes(&key.try_into().unwrap()).unwrap())
}

fn verify(share: &bls::PublicKey, root: &[u8; 32], data: &SignedData) -> Result<(), bls::Error> {
    let signature = bls::Signature::from_bytes(&data.signature())?;
    bls::verify(share, root, &signature)
}

/// The recorded nodes took fork versions from the schedule of the network that their genesis
/// validators root belongs to, which differs from the versions and epochs under `spec`.
/// Versions and epochs here are those networks' public ones.
fn forks(input: &Value) -> Forks {
    let (network, schedule): ([u8; 3], &[(u64, u8)]) =
        match input["genesis_validators_root"].as_str().unwrap() {
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
    let genesis_version = bytes(&input["spec"]["GENESIS_FORK_VERSION"]);
    Forks {
        genesis_version: genesis_version.try_into().unwrap(),
        genesis_validators_root: array32(&input["genesis_validators_root"]),
        schedule: schedule
            .iter()
            .map(|(epoch, it)| (*epoch, version(*it)))
            .collect(),
        // The recording signs exits with the version of their epoch.
        exit_version: None,
        slots_per_epoch: input["spec"]["SLOTS_PER_EPOCH"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap(),
    }
}

fn array(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn array32(value: &Value) -> [u8; 32] {
    bytes(value).try_into().unwrap()
}

fn read() -> Option<Value> {
    let path = find_file(FILE)?;
    let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(file["suite"], "charon_parsigex");
    Some(file)
}

fn find_file(name: &str) -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let path = std::env::var_os("PLUTO_VECTORS").map_or_else(|| default.into(), PathBuf::from);
    let path = path.join(name);
    if !path.is_file() {
        // Not through `println`, which the test harness would swallow.
        let _ = writeln!(io::stderr(), "skipped: no vectors at {}", path.display());
        return None;
    }
    Some(path)
}
