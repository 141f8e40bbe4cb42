//! Locks that real ceremonies and `create cluster` wrote.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::vectors;
use pluto_cluster::Lock;
use pluto_crypto::keyfile;
use serde_json::Value;

#[test]
fn vectors_of_whole_clusters_are_read_as_written() {
    let Some(vectors) = vectors() else { return };
    let mut locks = Vec::new();
    for cluster in folders(&vectors.join("clusters")) {
        for node in folders(&cluster) {
            let lock = check(&node.join("cluster-lock.json"));
            let name = node.file_name().unwrap().to_str().unwrap();
            let place: u32 = name.strip_prefix("node").unwrap().parse().unwrap();
            let key = keyfile::load(node.join(keyfile::FILE_NAME)).unwrap();
            let operator = lock.operator_of(&key.public_key()).unwrap();
            assert_eq!(operator.get(), place, "{}", node.display());
            locks.push(lock);
        }
    }
    assert!(!locks.is_empty());
    println!("clusters: {} locks with their identity keys", locks.len());
}

#[test]
fn vectors_of_ceremonies_are_read_as_written() {
    let Some(vectors) = vectors() else { return };
    let ceremonies = folders(&vectors.join("charon/ceremony"));
    for ceremony in &ceremonies {
        check(&ceremony.join("cluster-lock.json"));
    }
    assert!(!ceremonies.is_empty());
    println!("charon/ceremony: {} locks", ceremonies.len());
}

/// Compares with the file, read without our types.
fn check(path: &Path) -> Lock {
    let lock = Lock::read(path).unwrap();
    let json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let definition = &json["cluster_definition"];
    assert_eq!(lock.name(), definition["name"].as_str().unwrap_or_default());
    assert_eq!(lock.uuid(), definition["uuid"]);
    assert_eq!(lock.version().to_string(), definition["version"]);
    assert_eq!(u64::from(lock.threshold()), definition["threshold"]);
    assert_eq!(text(&lock.fork_version()), definition["fork_version"]);
    assert_eq!(text(&lock.lock_hash()), json["lock_hash"]);
    let operators = definition["operators"].as_array().unwrap();
    assert_eq!(lock.operators().len(), operators.len());
    let validators = json["distributed_validators"].as_array().unwrap();
    assert_eq!(lock.validators().len(), validators.len());
    for (ours, theirs) in lock.validators().iter().zip(validators) {
        assert_eq!(ours.pubkey.to_string(), theirs["distributed_public_key"]);
        let shares = theirs["public_shares"].as_array().unwrap();
        assert_eq!(ours.public_shares.len(), shares.len());
        for (operator, share) in lock.operators().iter().zip(shares) {
            let ours = lock.public_share(&ours.pubkey, operator.idx.share_idx());
            assert_eq!(ours.unwrap().to_string(), *share);
        }
    }
    lock
}

fn text(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir()).collect()
}
