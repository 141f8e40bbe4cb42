//! Every vector that is about cluster files: it is read, its hashes are reproduced, and it is
//! written again byte for byte where Charon's encoder wrote it.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{fs, path::Path};

use common::{entries, name, vectors};
use pluto_cluster::{Definition, LockFile, Version};
use serde_json::Value;

/// What a file of `vectors/cluster` is, by its name.
enum File {
    Definition,
    Lock,
}

fn file(path: &Path) -> File {
    let name = name(path);
    if name.contains("definition") {
        File::Definition
    } else if name.contains("lock") {
        File::Lock
    } else {
        panic!("no test covers {}", path.display())
    }
}

/// Its hashes were not redone when somebody edited it; see `a_lock_edited_without_its_hashes`.
const EDITED_LOCK: &str = "cmd-test_cluster_lock.json";

#[test]
fn every_stored_hash_is_reproduced() {
    let Some(vectors) = vectors() else { return };
    let mut count = 0;
    for folder in ["examples", "golden", "locks-misc"] {
        for path in entries(&vectors.join("cluster").join(folder)) {
            if name(&path) == EDITED_LOCK {
                continue;
            }
            match file(&path) {
                File::Definition => definition_hashes(&Definition::read(&path).unwrap(), &path),
                File::Lock => lock_hashes(&LockFile::read(&path).unwrap(), &path),
            }
            count += 1;
        }
    }
    // 7 and 4 examples, 24 golden files, 1 other lock.
    assert_eq!(count, 36);
}

#[test]
fn every_vector_about_clusters_is_known_to_a_test() {
    let Some(vectors) = vectors() else { return };
    let folders: Vec<_> = entries(&vectors.join("cluster"))
        .iter()
        .map(|path| name(path).to_owned())
        .collect();
    assert_eq!(
        folders,
        [
            "README.md",
            // Listings of folders, for the command.
            "create-cluster-layout",
            // Not cluster files: pluto-eth.
            "deposit",
            "examples",
            "golden",
            "keystore",
            "locks-misc",
        ]
    );
}

#[test]
fn golden_files_are_written_byte_for_byte() {
    let Some(vectors) = vectors() else { return };
    let mut versions = [0; 2];
    for path in entries(&vectors.join("cluster/golden")) {
        let content = fs::read(&path).unwrap();
        let (written, kind) = match file(&path) {
            File::Definition => (Definition::from_json(&content).unwrap().to_json(), 0),
            File::Lock => (LockFile::from_json(&content).unwrap().to_json(), 1),
        };
        let written = String::from_utf8(written.unwrap()).unwrap();
        assert_eq!(
            written,
            String::from_utf8(content).unwrap(),
            "{}",
            path.display()
        );
        versions[kind] += 1;
    }
    assert_eq!(versions, [Version::ALL.len(); 2]);
}

#[test]
fn a_golden_lock_embeds_the_definition_of_its_version() {
    let Some(vectors) = vectors() else { return };
    for version in Version::ALL {
        let version = version.as_str().replace('.', "_");
        let file = |kind| vectors.join(format!("cluster/golden/cluster_{kind}_{version}.json"));
        let definition = Definition::read(file("definition")).unwrap();
        let lock = LockFile::read(file("lock")).unwrap();
        assert_eq!(lock.definition, definition, "{version}");
    }
}

#[test]
fn a_lock_edited_without_its_hashes_is_seen_and_its_own_network_makes_it_whole() {
    let Some(vectors) = vectors() else { return };
    let mut lock = LockFile::read(vectors.join("cluster/locks-misc").join(EDITED_LOCK)).unwrap();
    let definition = &lock.definition;
    assert_eq!(
        hex::encode(definition.compute_config_hash().unwrap()),
        "8b6413329cd07962b54845a83e935ae5a9f4f9c5d18958936e4b4eb9cf6780a1"
    );
    assert_eq!(
        hex::encode(definition.compute_definition_hash().unwrap()),
        "b7ab2190d45b71439104988d03e8ee3ff5a1392316b7a5f579d440722249ba47"
    );
    assert_eq!(
        hex::encode(lock.compute_lock_hash().unwrap()),
        "9d386e7d297347956e650c2133557655c7e6cc936d865d04688f8a732fa092b6"
    );

    lock.definition.fork_version = vec![0x01, 0x01, 0x70, 0x00];

    lock_hashes(&lock, Path::new(EDITED_LOCK));
}

#[test]
fn hashes_of_another_implementations_suite_are_reproduced() {
    let Some(vectors) = vectors() else { return };
    let suite = fs::read(vectors.join("dv-specs/cluster_hashing.json")).unwrap();
    let suite: Value = serde_json::from_slice(&suite).unwrap();
    let mut count = 0;
    for case in suite["definition"].as_array().unwrap() {
        let name = &case["name"];
        let input = case["input"].to_string();
        let mut definition = Definition::from_json(input.as_bytes()).unwrap();
        definition.update_hashes().unwrap();
        assert_eq!(
            hex::encode(&definition.config_hash),
            case["config_hash"],
            "{name}"
        );
        assert_eq!(
            hex::encode(&definition.definition_hash),
            case["definition_hash"],
            "{name}"
        );
        count += 1;
    }
    for case in suite["lock"].as_array().unwrap() {
        let input = case["input"].to_string();
        let lock = LockFile::from_json(input.as_bytes()).unwrap();
        assert_eq!(
            hex::encode(lock.compute_lock_hash().unwrap()),
            case["lock_hash"],
            "{}",
            case["name"]
        );
        count += 1;
    }
    let known = ["suite", "description", "provenance", "definition", "lock"];
    for key in suite.as_object().unwrap().keys() {
        assert!(known.contains(&key.as_str()), "no test covers {key}");
    }
    assert_eq!(count, 10);
}

#[test]
fn a_signature_may_be_several_since_v1_11() {
    let Some(vectors) = vectors() else { return };
    let path = vectors.join("cluster/golden/cluster_definition_v1_11_0.json");
    let golden = Definition::read(path).unwrap();
    // Cluster spec, appendix A.3.
    let mut unsigned = golden.clone();
    unsigned.creator.config_signature.clear();
    for operator in &mut unsigned.operators {
        operator.config_signature.clear();
        operator.enr_signature.clear();
    }
    let mut several = golden.clone();
    let repeat = |signature: &mut Vec<u8>, times| *signature = signature.repeat(times);
    repeat(&mut several.creator.config_signature, 2);
    repeat(&mut several.operators[0].config_signature, 3);
    repeat(&mut several.operators[0].enr_signature, 2);

    for (definition, expected) in [
        (
            unsigned,
            "8219e526abfda09ddb4cbb0c1382627f583da8ddc22ee0d3e822658f7bc369b6",
        ),
        (
            several,
            "8d48aee7578491221d359146ac340e1d4b1e7e2623bf2d0e6058ab34b177bb4d",
        ),
    ] {
        assert_eq!(
            definition.compute_config_hash().unwrap().to_vec(),
            golden.config_hash
        );
        assert_eq!(
            hex::encode(definition.compute_definition_hash().unwrap()),
            expected
        );
    }
}

fn definition_hashes(definition: &Definition, path: &Path) {
    let path = path.display();
    assert_eq!(
        definition.compute_config_hash().unwrap().to_vec(),
        definition.config_hash,
        "{path}"
    );
    assert_eq!(
        definition.compute_definition_hash().unwrap().to_vec(),
        definition.definition_hash,
        "{path}"
    );
}

fn lock_hashes(lock: &LockFile, path: &Path) {
    definition_hashes(&lock.definition, path);
    assert_eq!(
        lock.compute_lock_hash().unwrap().to_vec(),
        lock.lock_hash,
        "{}",
        path.display()
    );
}
