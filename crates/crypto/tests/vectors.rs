//! Published and recorded vectors, every case of each suite.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{env, fs, net::Ipv4Addr, path::PathBuf};

use pluto_crypto::{
    bls::{self, PublicKey, SecretKey, ShareIdx, Signature},
    enr::Enr,
    k1, keyfile,
};
use serde_json::Value;

#[test]
fn vectors_of_threshold_bls_pass() {
    let Some(suite) = read("dv-specs/bls_threshold.json") else {
        return;
    };
    let message = hex(&suite["message_hex"]);
    let group_secret = SecretKey::from_bytes(&array(&suite["group_secret_hex"])).unwrap();
    let group = PublicKey::from_bytes(&array(&suite["group_pubkey_hex"])).unwrap();
    let group_signature = Signature::from_bytes(&array(&suite["group_signature_hex"])).unwrap();

    for case in list(&suite["keys"]) {
        let secret = SecretKey::from_bytes(&array(&case["input"]["secret_hex"])).unwrap();
        let expected: [u8; 48] = array(&case["pubkey_hex"]);
        assert_eq!(secret.public_key().to_bytes(), expected, "{}", case["name"]);
    }

    let mut shares = Vec::new();
    for case in list(&suite["partials"]) {
        let secret = SecretKey::from_bytes(&array(&case["input"]["secret_hex"])).unwrap();
        let public = PublicKey::from_bytes(&array(&case["pubshare_hex"])).unwrap();
        let signature = Signature::from_bytes(&array(&case["signature_hex"])).unwrap();
        assert_eq!(secret.public_key(), public, "{}", case["name"]);
        assert_eq!(secret.sign(&message), signature, "{}", case["name"]);
        bls::verify(&public, &message, &signature).unwrap();
        shares.push((
            index(&case["input"]["share_idx"]),
            secret,
            public,
            signature,
        ));
    }
    let chosen = |case: &Value| {
        let indices: Vec<_> = list(&case["input"]["share_indices"])
            .iter()
            .map(index)
            .collect();
        let found: Vec<_> = shares
            .iter()
            .filter(|(idx, ..)| indices.contains(idx))
            .cloned()
            .collect();
        assert_eq!(found.len(), indices.len());
        found
    };

    for case in list(&suite["threshold_aggregates"]) {
        let partials: Vec<_> = chosen(case).iter().map(|it| (it.0, it.3)).collect();
        let signature = bls::threshold_aggregate(&partials).unwrap();
        let expected: [u8; 96] = array(&case["signature_hex"]);
        assert_eq!(signature.to_bytes(), expected, "{}", case["name"]);
        assert_eq!(signature, group_signature);
        bls::verify(&group, &message, &signature).unwrap();
    }
    for case in list(&suite["recovery"]) {
        let chosen = chosen(case);
        let public: Vec<_> = chosen.iter().map(|it| (it.0, it.2)).collect();
        let secret: Vec<_> = chosen.into_iter().map(|it| (it.0, it.1)).collect();
        let expected: [u8; 48] = array(&case["pubkey_hex"]);
        assert_eq!(
            bls::recover_public_key(&public).unwrap().to_bytes(),
            expected
        );
        let recovered = bls::recover(&secret).unwrap();
        assert_eq!(recovered.to_bytes(), group_secret.to_bytes());
    }
    for case in list(&suite["plain_aggregate"]) {
        let chosen = chosen(case);
        let signatures: Vec<_> = chosen.iter().map(|it| it.3).collect();
        let keys: Vec<_> = chosen.iter().map(|it| it.2).collect();
        let signature = bls::aggregate(&signatures).unwrap();
        let expected: [u8; 96] = array(&case["signature_hex"]);
        assert_eq!(signature.to_bytes(), expected, "{}", case["name"]);
        bls::verify_aggregate(&keys, &message, &signature).unwrap();
        assert!(bls::verify(&group, &message, &signature).is_err());
    }
}

#[test]
fn vectors_of_secp256k1_signatures_pass() {
    let Some(suite) = read("dv-specs/secp256k1_signatures.json") else {
        return;
    };
    let secret = k1::SecretKey::from_bytes(&array(&suite["secret_hex"])).unwrap();
    let public = k1::PublicKey::from_sec1(&hex(&suite["pubkey_hex"])).unwrap();
    assert_eq!(secret.public_key(), public);
    for case in list(&suite["cases"]) {
        let digest = array(&case["input"]["hash_hex"]);
        let signature: [u8; 65] = array(&case["signature_hex"]);
        assert_eq!(secret.sign(&digest), signature, "{}", case["name"]);
        let recovered = k1::recover(&digest, &signature).unwrap();
        assert_eq!(recovered.to_bytes(), array(&case["recovered_pubkey_hex"]));
        public.verify65(&digest, &signature).unwrap();
    }
}

#[test]
fn vectors_of_identities_and_records_pass() {
    let Some(suite) = read("charon/enr.json") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut keys = Vec::new();
    for (place, case) in list(&suite["cases"]).iter().enumerate() {
        let name = &case["name"];
        let file = dir.path().join(place.to_string());
        fs::write(&file, case["input"]["key_file_text"].as_str().unwrap()).unwrap();
        let key = keyfile::load(&file).unwrap();
        assert_eq!(*key.expose_bytes(), array(&case["input"]["private_key"]));
        let public = key.public_key();
        assert_eq!(public.to_bytes(), array(&case["public_key"]), "{name}");
        let record = Enr::for_key(&key);
        assert_eq!(record.text(), case["enr"], "{name}");
        assert_eq!(*record.signature(), array(&case["enr_signature"]), "{name}");
        let parsed = Enr::parse(case["enr"].as_str().unwrap()).unwrap();
        assert_eq!(*parsed.public_key(), public, "{name}");
        let peer_id = k1::peer_id_bytes(&public);
        assert_eq!(peer_id, array(&case["peer_id_bytes"]), "{name}");
        assert_eq!(k1::public_key_from_peer_id(&peer_id).unwrap(), public);
        keys.push(public);
    }
    let order: Vec<_> = list(&suite["ascending_peer_id_order"])
        .iter()
        .map(|place| usize::try_from(place.as_u64().unwrap()).unwrap())
        .collect();
    let mut sorted: Vec<_> = (0..keys.len()).collect();
    sorted.sort_by_key(|place| keys[*place]);
    assert_eq!(sorted, order);

    for case in list(&suite["relay_records"]) {
        let key = k1::SecretKey::from_bytes(&array(&case["private_key"])).unwrap();
        let ip: Ipv4Addr = case["ip"].as_str().unwrap().parse().unwrap();
        let port = |name: &str| u16::try_from(case[name].as_u64().unwrap()).unwrap();
        let record = Enr::for_relay(&key, ip, port("tcp"), port("udp"));
        assert_eq!(record.text(), case["enr"], "{}", case["name"]);
        let parsed = Enr::parse(case["enr"].as_str().unwrap()).unwrap();
        assert_eq!(parsed.ip4(), Some(ip));
        assert_eq!(
            (parsed.tcp(), parsed.udp()),
            (Some(port("tcp")), Some(port("udp")))
        );
    }
}

fn read(file: &str) -> Option<Value> {
    let dir = env::var_os("PLUTO_VECTORS").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../../shared/vectors"
            ))
        },
        PathBuf::from,
    );
    let path = dir.join(file);
    match fs::read(&path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
        Err(error) => {
            println!("skipped: no vectors at {}: {error}", path.display());
            None
        }
    }
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    hex(value).try_into().unwrap()
}

fn index(value: &Value) -> ShareIdx {
    ShareIdx::new(value.as_u64().unwrap().try_into().unwrap()).unwrap()
}
