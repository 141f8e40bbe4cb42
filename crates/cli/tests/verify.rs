//! `pluto verify`: directories that Charon left are clean, and damaged copies are told, with the place.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use pluto_cluster::LockFile;
use pluto_core::PeerIdx;
use pluto_crypto::{bls, enr::Enr, k1, keyfile};
use pluto_eth::{
    address::Address,
    deposit::{Gwei, Message, WithdrawalCredentials, file},
    keystore::{decrypt_all, directory},
    network::Network,
    registration, threads,
};
use serde_json::Value;

mod common;

use common::copy_dir;

const CLUSTERS: [&str; 3] = [
    "create-v1.11-n4-compounding",
    "dkg-v1.10-n4-t3-v2",
    "dkg-v1.11-n4-t3-v2",
];

#[test]
fn what_charon_left_is_clean_as_nodes_and_as_clusters() {
    let Some(vectors) = vectors() else { return };
    let mut seen: Vec<_> = fs::read_dir(&vectors)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| name(&path))
        .collect();
    seen.sort();
    assert_eq!(seen, CLUSTERS, "a cluster that no test covers");
    for cluster in CLUSTERS {
        let cluster = vectors.join(cluster);
        let report = verify(&cluster, &[]);
        assert!(report.ok, "{report:?}");
        assert_eq!(report.kind, "cluster");
        assert_eq!(report.of("error"), [""; 0]);
        assert_eq!(report.of("unchecked"), [""; 0]);
        for node in 0..4 {
            let report = verify(&cluster.join(format!("node{node}")), &["--strict"]);
            assert!(report.ok, "{report:?}");
            assert_eq!(report.kind, "node");
            assert_eq!(report.summary["nodes"][0]["operator"], node);
            assert_eq!(report.summary["network"], "hoodi");
            assert_eq!(report.of("error"), [""; 0]);
        }
        let lock = cluster.join("node0/cluster-lock.json");
        let report = verify(&lock, &["--strict"]);
        assert!(report.ok && report.kind == "lock", "{report:?}");
        let definition = cluster.join("cluster-definition.json");
        if definition.exists() {
            let report = verify(&definition, &["--strict"]);
            assert!(report.ok && report.kind == "definition", "{report:?}");
        }
    }
}

#[test]
fn a_damaged_lock_is_the_only_file_that_is_blamed() {
    type Damage = fn(&mut Value);
    let cases: [(&str, &str, Damage); 9] = [
        ("node_signatures[2]", "node-signature", |lock| {
            flip(&mut lock["node_signatures"][2]);
        }),
        ("cluster_definition.operators[1].enr", "enr", |lock| {
            let enr = &mut lock["cluster_definition"]["operators"][1]["enr"];
            let text = enr.as_str().unwrap();
            let flipped = if &text[40..41] == "A" { "B" } else { "A" };
            *enr = format!("{}{flipped}{}", &text[..40], &text[41..]).into();
        }),
        ("signature_aggregate", "aggregate-signature", |lock| {
            // The sign of the point: the aggregate, negated.
            let text = lock["signature_aggregate"].as_str().unwrap();
            let mut bytes = hex::decode(&text[2..]).unwrap();
            bytes[0] ^= 0x20;
            lock["signature_aggregate"] = format!("0x{}", hex::encode(bytes)).into();
        }),
        ("signature_aggregate", "bls-signature", |lock| {
            let text = lock["signature_aggregate"].as_str().unwrap();
            let mut bytes = hex::decode(&text[2..]).unwrap();
            bytes[0] ^= 0x80;
            lock["signature_aggregate"] = format!("0x{}", hex::encode(bytes)).into();
        }),
        (
            "distributed_validators[0].public_shares[3]",
            "duplicate-share",
            |lock| {
                let shares = &mut lock["distributed_validators"][0]["public_shares"];
                shares[3] = shares[1].clone();
            },
        ),
        ("distributed_validators[1].public_shares", "share", |lock| {
            let shares = lock["distributed_validators"][1]["public_shares"]
                .as_array_mut()
                .unwrap();
            shares.swap(0, 2);
        }),
        ("cluster_definition.config_hash", "config-hash", |lock| {
            lock["cluster_definition"]["name"] = "another".into();
        }),
        ("cluster_definition.config_hash", "config-hash", |lock| {
            lock["cluster_definition"]["threshold"] = 2.into();
        }),
        ("cluster_definition.validators", "validator-count", |lock| {
            lock["cluster_definition"]["num_validators"] = 7.into();
        }),
    ];
    let Some(vectors) = vectors() else { return };
    for (place, rule, damage) in cases {
        let copy = Copy::of(&vectors, CLUSTERS[2]);
        let path = copy.node(1, "cluster-lock.json");
        let mut lock: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        damage(&mut lock);
        fs::write(&path, lock.to_string()).unwrap();

        for dir in [copy.root(), &copy.root().join("node1")] {
            let report = verify(dir, &[]);
            assert!(!report.ok, "{place}");
            assert!(
                report.has("error", &path, place, rule),
                "{place} {rule}: {report:#?}"
            );
            report.blames_only(&[&path]);
            // Who signed a lock says nothing about what is in it; another node's is right.
            let is_signed_only = place.starts_with("signature") || place.starts_with("node_sig");
            let is_compared = is_signed_only || dir == copy.root();
            let not_compared = report.has("unchecked", &path, "", "lock-wrong");
            assert_eq!(!not_compared, is_compared, "{place}: {report:#?}");
        }
    }
}

#[test]
fn a_lock_that_an_operator_did_not_sign_is_still_what_the_rest_is_compared_with() {
    let Some(vectors) = vectors() else { return };
    let copy = Copy::of(&vectors, CLUSTERS[2]);
    let (mut lock, _) = copy.open();
    lock.definition.operators[3].address = Address([7; 20]).to_string();
    lock.definition.config_hash = lock.definition.compute_config_hash().unwrap().to_vec();
    copy.sign(&mut lock);
    let node = copy.root().join("node0");
    let path = copy.node(0, "cluster-lock.json");
    fs::write(&path, lock.to_json().unwrap()).unwrap();
    change_deposits(&node, |entries| drop(entries.pop()));

    let report = verify(&node, &[]);

    let place = "cluster_definition.operators[3].config_signature";
    assert!(
        report.has("error", &path, place, "signature-missing"),
        "{report:#?}"
    );
    let deposits = node.join(DEPOSITS);
    assert!(
        report.has("error", &deposits, "", "deposit-missing"),
        "{report:#?}"
    );
    assert!(
        !report.of("unchecked").contains(&"lock-wrong"),
        "{report:#?}"
    );
    report.blames_only(&[&path, &deposits]);
}

/// Whoever changes a lock can make its hashes right again, and then nothing is left that was signed.
#[test]
fn a_lock_that_nobody_signed_blames_neither_the_identity_key_nor_the_definition() {
    let Some(vectors) = vectors() else { return };
    let copy = Copy::of(&vectors, CLUSTERS[2]);
    let (mut lock, _) = copy.open();
    lock.definition.operators[0].enr = Enr::for_key(&k1::SecretKey::generate()).text().to_owned();
    lock.definition.name = "another".to_owned();
    lock.definition.config_hash = lock.definition.compute_config_hash().unwrap().to_vec();
    lock.update_hashes().unwrap();
    let paths = [0, 1, 2, 3].map(|node| copy.node(node, "cluster-lock.json"));
    for path in &paths {
        fs::write(path, lock.to_json().unwrap()).unwrap();
    }

    let report = verify(&copy.root().join("node0"), &[]);
    let place = "signature_aggregate";
    assert!(
        report.has("error", &paths[0], place, "aggregate-signature"),
        "{report:#?}"
    );
    assert!(
        report.has("unchecked", &paths[0], "", "lock-wrong"),
        "{report:#?}"
    );
    report.blames_only(&[&paths[0]]);

    let report = verify(copy.root(), &[]);
    report.blames_only(&paths.each_ref().map(PathBuf::as_path));
    let definition = copy.root().join("cluster-definition.json");
    assert!(
        !report.has("warning", &definition, "config_hash", "definition"),
        "{report:#?}"
    );
}

#[test]
fn a_truncated_lock_is_told() {
    let Some(vectors) = vectors() else { return };
    let copy = Copy::of(&vectors, CLUSTERS[2]);
    let path = copy.node(0, "cluster-lock.json");
    let text = fs::read(&path).unwrap();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    for dir in [copy.root(), &copy.root().join("node0"), &path] {
        let report = verify(dir, &[]);
        assert!(report.of("error").contains(&"json"), "{report:?}");
        report.blames_only(&[&path]);
    }
}

#[test]
fn wrong_keys_are_told() {
    let Some(vectors) = vectors() else { return };
    let key = |node: usize, validator: usize, extension: &str| {
        format!("node{node}/validator_keys/keystore-{validator}.{extension}")
    };

    // The keystore of another node.
    let copy = Copy::of(&vectors, CLUSTERS[0]);
    for extension in ["json", "txt"] {
        copy.put(&key(0, 1, extension), &copy.read(&key(2, 1, extension)));
    }
    let path = copy.root().join(key(0, 1, "json"));
    let report = verify(&copy.root().join("node0"), &[]);
    assert!(
        report.has("error", &path, "pubkey", "keystore-share"),
        "{report:?}"
    );
    report.blames_only(&[&path]);

    // All of them, which may as well be the identity key of another node.
    for validator in [0, 2] {
        for extension in ["json", "txt"] {
            let content = copy.read(&key(2, validator, extension));
            copy.put(&key(0, validator, extension), &content);
        }
    }
    let keystores = copy.node(0, "validator_keys");
    let report = verify(&copy.root().join("node0"), &[]);
    assert!(
        report.has("error", &keystores, "", "keystore-share"),
        "{report:?}"
    );
    report.blames_only(&[&keystores]);

    // A missing one.
    let copy = Copy::of(&vectors, CLUSTERS[0]);
    let path = copy.root().join(key(3, 2, "json"));
    fs::remove_file(&path).unwrap();
    let report = verify(copy.root(), &[]);
    assert!(
        report.has("error", &path, "", "keystore-missing"),
        "{report:?}"
    );
    report.blames_only(&[&path]);

    // All of them missing.
    fs::remove_dir_all(copy.node(3, "validator_keys")).unwrap();
    let report = verify(copy.root(), &[]);
    assert!(report.ok, "{report:?}");
    assert!(report.of("note").contains(&"keystore-missing"));

    // Two exchanged.
    let copy = Copy::of(&vectors, CLUSTERS[0]);
    for extension in ["json", "txt"] {
        let (first, second) = (key(1, 0, extension), key(1, 2, extension));
        let (a, b) = (copy.read(&first), copy.read(&second));
        copy.put(&first, &b);
        copy.put(&second, &a);
    }
    let paths = [0, 2].map(|at| copy.root().join(key(1, at, "json")));
    let report = verify(copy.root(), &[]);
    for path in &paths {
        assert!(
            report.has("error", path, "pubkey", "keystore-share"),
            "{report:?}"
        );
    }
    report.blames_only(&[&paths[0], &paths[1]]);

    // A wrong password, and none.
    let copy = Copy::of(&vectors, CLUSTERS[0]);
    copy.put(&key(1, 1, "txt"), b"00112233445566778899aabbccddeeff");
    fs::remove_file(copy.root().join(key(1, 2, "txt"))).unwrap();
    let report = verify(copy.root(), &[]);
    let path = copy.root().join(key(1, 1, "json"));
    assert!(
        report.has("error", &path, "crypto", "password"),
        "{report:?}"
    );
    let password = copy.root().join(key(1, 2, "txt"));
    assert!(report.has("error", &password, "", "keystore"), "{report:?}");
    report.blames_only(&[&path, &password]);

    // An identity key of another cluster.
    let copy = Copy::of(&vectors, CLUSTERS[0]);
    let path = copy.node(2, keyfile::FILE_NAME);
    fs::remove_file(&path).unwrap();
    keyfile::store(&path, &k1::SecretKey::generate()).unwrap();
    for dir in [copy.root(), &copy.root().join("node2")] {
        let report = verify(dir, &[]);
        assert!(report.has("error", &path, "", "identity"), "{report:?}");
        report.blames_only(&[&path]);
    }
}

#[test]
fn nodes_that_do_not_belong_together_are_told() {
    let Some(vectors) = vectors() else { return };
    // One node twice.
    let copy = Copy::of(&vectors, CLUSTERS[0]);
    let twin = copy.root().join("node9");
    copy_dir(&copy.root().join("node1"), &twin);
    let report = verify(copy.root(), &[]);
    assert!(
        report.has("error", &twin, "", "operator-twice"),
        "{report:?}"
    );

    // A node of another cluster.
    let copy = Copy::of(&vectors, CLUSTERS[2]);
    fs::remove_dir_all(copy.root().join("node3")).unwrap();
    copy_dir(
        &vectors.join(CLUSTERS[1]).join("node3"),
        &copy.root().join("node3"),
    );
    let path = copy.node(3, "cluster-lock.json");
    let report = verify(copy.root(), &[]);
    assert!(
        report.has("error", &path, "lock_hash", "lock-differs"),
        "{report:?}"
    );
}

#[test]
fn deposits_of_a_thief_are_told_although_they_are_validly_signed() {
    let Some(vectors) = vectors() else { return };
    let copy = Copy::of(&vectors, CLUSTERS[0]);
    let (lock, keys) = copy.open();
    let path = copy.node(0, "deposit-data.json");
    let original = file::read(&path).unwrap();
    let of = |entry: &file::Entry| {
        let at = lock
            .validators
            .iter()
            .position(|it| it.pubkey == entry.deposit.message.public_key);
        &keys[at.unwrap()]
    };
    let thief = Address([0x66; 20]);
    type Change = fn(Message, Address) -> Message;
    let cases: [(&str, &str, Network, Change); 3] = [
        (
            "withdrawal_credentials",
            "withdrawal-credentials",
            Network::HOODI,
            |message, thief| {
                let (kind, _) = message.withdrawal_credentials.parts().unwrap();
                Message {
                    withdrawal_credentials: WithdrawalCredentials::new(kind, thief),
                    ..message
                }
            },
        ),
        ("amount", "deposit-amounts", Network::HOODI, |message, _| {
            Message {
                amount: Gwei(33_000_000_000),
                ..message
            }
        }),
        (
            "fork_version",
            "deposit-network",
            Network::MAINNET,
            |message, _| message,
        ),
    ];
    for (field, rule, network, change) in cases {
        let mut entries = original.clone();
        let message = change(entries[1].deposit.message, thief);
        let deposit = message.sign(of(&entries[1]), network.genesis_version());
        entries[1] = file::Entry::new(deposit, &network);
        assert_eq!(file::check(&entries), [], "validly signed");
        write_entries(&path, &entries);

        let report = verify(&copy.root().join("node0"), &[]);
        let place = format!("[1].{field}");
        assert!(report.has("error", &path, &place, rule), "{report:?}");
        report.blames_only(&[&path]);
    }

    // Edited only.
    let mut entries = original.clone();
    entries[0].deposit.message.amount = Gwei(31_000_000_000);
    write_entries(&path, &entries);
    let report = verify(copy.root(), &[]);
    assert!(
        report.has("error", &path, "[0].amount", "deposit-amounts"),
        "{report:?}"
    );
    assert!(
        report.has("error", &path, "[0].signature", "deposit"),
        "{report:?}"
    );
    report.blames_only(&[&path]);
}

/// What is wrong with one node's directory, told with its place.
struct Told {
    severity: &'static str,
    file: &'static str,
    path: &'static str,
    rule: &'static str,
}

const fn told(
    severity: &'static str,
    file: &'static str,
    path: &'static str,
    rule: &'static str,
) -> Told {
    Told {
        severity,
        file,
        path,
        rule,
    }
}

#[test]
fn every_fault_of_a_node_is_told_at_its_place_and_nothing_else_is() {
    type Damage = fn(&Path);
    let cases: [(Damage, &[Told]); 13] = [
        (|_| (), &[]),
        (
            |node| copy_keystore(node, "keystore-1", node, "keystore-2"),
            &[told(
                "error",
                "validator_keys/keystore-2.json",
                "",
                "keystore-name",
            )],
        ),
        (
            |node| copy_keystore(node, "keystore-1", node, "keystore-insecure-1"),
            &[told(
                "error",
                "validator_keys/keystore-insecure-1.json",
                "",
                "keystore-name",
            )],
        ),
        (
            |node| copy_keystore(node, "keystore-1", node, "keystore-old"),
            &[told(
                "warning",
                "validator_keys/keystore-old.json",
                "",
                "keystore-name",
            )],
        ),
        // One keystore alone says nothing about the others.
        (
            |node| {
                fs::remove_file(node.join("validator_keys/keystore-1.json")).unwrap();
                copy_keystore(
                    &node.with_file_name("node2"),
                    "keystore-0",
                    node,
                    "keystore-0",
                );
            },
            &[
                told(
                    "error",
                    "validator_keys/keystore-1.json",
                    "",
                    "keystore-missing",
                ),
                told(
                    "error",
                    "validator_keys/keystore-0.json",
                    "pubkey",
                    "keystore-share",
                ),
            ],
        ),
        (
            |node| {
                for name in ["notes.txt", ".notes", "charon-enr-private-key.lock"] {
                    fs::write(node.join(name), "mine").unwrap();
                }
            },
            &[told("note", "notes.txt", "", "foreign-file")],
        ),
        (
            |node| {
                let of_another = "cluster-definition.json";
                let other = vectors().unwrap().join(CLUSTERS[1]).join(of_another);
                fs::write(node.join(of_another), fs::read(other).unwrap()).unwrap();
            },
            &[told(
                "warning",
                "cluster-definition.json",
                "config_hash",
                "definition",
            )],
        ),
        (
            |node| change_deposits(node, |entries| entries[1].network_name = "mainnet".into()),
            &[told(
                "error",
                DEPOSITS,
                "[1].network_name",
                "deposit-network",
            )],
        ),
        (
            |node| change_deposits(node, |entries| entries[1] = entries[0].clone()),
            &[
                told("error", DEPOSITS, "[1].pubkey", "deposit-twice"),
                told("error", DEPOSITS, "", "deposit-missing"),
            ],
        ),
        (
            |node| change_deposits(node, |entries| drop(entries.pop())),
            &[told("error", DEPOSITS, "", "deposit-missing")],
        ),
        (
            |node| {
                change_deposits(node, |entries| {
                    let stranger = bls::SecretKey::generate();
                    let message = Message {
                        public_key: stranger.public_key().to_bytes(),
                        ..entries[1].deposit.message
                    };
                    let deposit = message.sign(&stranger, Network::HOODI.genesis_version());
                    entries.push(file::Entry::new(deposit, &Network::HOODI));
                });
            },
            &[told("error", DEPOSITS, "[2].pubkey", "deposit-validator")],
        ),
        (
            |node| fs::remove_file(node.join(DEPOSITS)).unwrap(),
            &[told("warning", DEPOSITS, "", "deposit-missing")],
        ),
        (
            |node| fs::rename(node.join(DEPOSITS), node.join("deposit-data-7eth.json")).unwrap(),
            &[
                told(
                    "error",
                    "deposit-data-7eth.json",
                    "[0].amount",
                    "deposit-amounts",
                ),
                told(
                    "error",
                    "deposit-data-7eth.json",
                    "[1].amount",
                    "deposit-amounts",
                ),
                told("warning", DEPOSITS, "", "deposit-missing"),
            ],
        ),
    ];
    let Some(vectors) = vectors() else { return };
    for (at, (damage, expected)) in cases.into_iter().enumerate() {
        let copy = Copy::of(&vectors, CLUSTERS[2]);
        let node = copy.root().join("node0");
        protect_secrets(&node);
        damage(&node);

        let report = verify(&node, &[]);

        for it in expected {
            let file = node.join(it.file);
            assert!(
                report.has(it.severity, &file, it.path, it.rule),
                "{at} {}: {report:#?}",
                it.file
            );
        }
        assert_eq!(report.findings.len(), expected.len(), "{at}: {report:#?}");
    }
}

const DEPOSITS: &str = "deposit-data.json";

/// With the modes that they should have; [`Copy`] has others.
fn protect_secrets(node: &Path) {
    let keys = node.join("validator_keys");
    let keys = fs::read_dir(keys).unwrap().map(|it| it.unwrap().path());
    let passwords = keys.filter(|it| it.extension().is_some_and(|it| it == "txt"));
    for path in passwords.chain([node.join(keyfile::FILE_NAME)]) {
        set_mode(&path, 0o600);
    }
}

#[cfg_attr(not(unix), expect(unused_variables, reason = "no modes there"))]
fn set_mode(path: &Path, mode: u32) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn copy_keystore(from: &Path, name: &str, to: &Path, new: &str) {
    for extension in ["json", "txt"] {
        let file = |dir: &Path, name| dir.join(format!("validator_keys/{name}.{extension}"));
        let content = fs::read(file(from, name)).unwrap();
        fs::write(file(to, new), content).unwrap();
        if extension == "txt" {
            set_mode(&file(to, new), 0o600);
        }
    }
}

fn change_deposits(node: &Path, change: impl FnOnce(&mut Vec<file::Entry>)) {
    let path = node.join(DEPOSITS);
    let mut entries = file::read(&path).unwrap();
    change(&mut entries);
    write_entries(&path, &entries);
}

#[cfg(unix)]
#[test]
fn secrets_that_a_group_may_read_are_noted() {
    let Some(vectors) = vectors() else { return };
    let copy = Copy::of(&vectors, CLUSTERS[2]);
    let node = copy.root().join("node0");
    let keys = node.join("validator_keys");
    for (secret, file) in [
        (
            copy.node(0, keyfile::FILE_NAME),
            copy.node(0, keyfile::FILE_NAME),
        ),
        (keys.join("keystore-1.txt"), keys),
    ] {
        protect_secrets(&node);
        set_mode(&secret, 0o640);
        let report = verify(&node, &[]);
        assert!(
            report.ok && report.has("note", &file, "", "file-mode"),
            "{report:?}"
        );
        assert_eq!(report.findings.len(), 1, "{report:?}");
    }
}

#[test]
fn two_of_three_keystores_of_another_node_are_blamed_and_not_the_directory() {
    let Some(vectors) = vectors() else { return };
    let copy = Copy::of(&vectors, CLUSTERS[0]);
    let (node, other) = (copy.root().join("node0"), copy.root().join("node2"));
    copy_keystore(&other, "keystore-0", &node, "keystore-0");
    copy_keystore(&other, "keystore-2", &node, "keystore-2");
    let paths = [0, 2].map(|at| node.join(format!("validator_keys/keystore-{at}.json")));

    let report = verify(&node, &[]);

    for path in &paths {
        assert!(
            report.has("error", path, "pubkey", "keystore-share"),
            "{report:?}"
        );
    }
    report.blames_only(&[&paths[0], &paths[1]]);
}

#[test]
fn before_the_ceremony_the_definition_says_whose_node_it_is() {
    let Some(vectors) = vectors() else { return };
    let copy = Copy::of(&vectors, CLUSTERS[2]);
    let node = copy.root().join("node2");
    let key = node.join(keyfile::FILE_NAME);
    let secret = fs::read(&key).unwrap();
    fs::remove_dir_all(&node).unwrap();
    fs::create_dir(&node).unwrap();
    let definition = copy.root().join("cluster-definition.json");
    fs::copy(definition, node.join("cluster-definition.json")).unwrap();

    fs::write(&key, secret).unwrap();
    let report = verify(&node, &[]);
    assert!(report.ok, "{report:?}");
    assert_eq!(report.summary["nodes"][0]["operator"], 2);

    fs::remove_file(&key).unwrap();
    keyfile::store(&key, &k1::SecretKey::generate()).unwrap();
    let report = verify(&node, &[]);
    assert!(report.has("error", &key, "", "identity"), "{report:?}");
    report.blames_only(&[&key]);
}

#[test]
fn nodes_that_are_elsewhere_are_noted_and_those_here_stand_in_order() {
    let Some(vectors) = vectors() else { return };
    let copy = Copy::of(&vectors, CLUSTERS[2]);
    let root = copy.root();
    fs::rename(root.join("node3"), root.join("node10")).unwrap();
    let report = verify(root, &[]);
    let nodes = report.summary["nodes"].as_array().unwrap().iter();
    let order: Vec<_> = nodes.map(|it| it["operator"].as_u64().unwrap()).collect();
    assert_eq!(order, [0, 1, 2, 3]);
    assert!(!report.of("note").contains(&"node-missing"), "{report:?}");

    // Three make the keys, two do not.
    fs::remove_dir_all(root.join("node0")).unwrap();
    let report = verify(root, &["--strict"]);
    assert!(
        report.ok && report.has("note", root, "", "node-missing"),
        "{report:?}"
    );
    assert!(!report.of("note").contains(&"recombination"), "{report:?}");
    fs::remove_dir_all(root.join("node1")).unwrap();
    let report = verify(root, &["--strict"]);
    assert!(
        report.ok && report.has("note", root, "", "recombination"),
        "{report:?}"
    );
}

#[test]
fn locks_of_one_cluster_that_are_not_equal_are_told() {
    let Some(vectors) = vectors() else { return };
    let copy = Copy::of(&vectors, CLUSTERS[2]);
    let path = copy.node(2, "cluster-lock.json");
    let mut lock = LockFile::read(&path).unwrap();
    // As wallets write the recovery id: the same signature, with other bytes.
    lock.node_signatures[0][64] += 27;
    fs::write(&path, lock.to_json().unwrap()).unwrap();

    let report = verify(copy.root(), &[]);

    assert!(report.has("error", &path, "", "lock-differs"), "{report:?}");
    assert_eq!(report.of("error").len(), 1, "{report:?}");
}

#[test]
fn a_directory_of_more_nodes_than_clusters_have_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for node in 0..=512 {
        let node = dir.path().join(format!("node{node}"));
        fs::create_dir(&node).unwrap();
        fs::write(node.join(keyfile::FILE_NAME), "").unwrap();
    }
    let output = pluto(dir.path(), &[]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        stderr.contains("more than 512 node directories"),
        "{stderr}"
    );
}

#[test]
fn overrides_that_count_for_nothing_or_are_for_nobody_are_told() {
    let Some(vectors) = vectors() else { return };
    let copy = Copy::of(&vectors, CLUSTERS[2]);
    let (lock, keys) = copy.open();
    let node = copy.root().join("node0");
    let path = node.join(registration::OVERRIDES_FILE_NAME);
    let it = &lock.validators[0].registration;
    let registered = registration::Message {
        fee_recipient: Address(it.fee_recipient[..].try_into().unwrap()),
        gas_limit: it.gas_limit.try_into().unwrap(),
        timestamp: it.timestamp.try_into().unwrap(),
        public_key: keys[0].public_key().to_bytes(),
    };
    let version = Network::HOODI.genesis_version();
    let told = |registration: registration::Registration| {
        registration::write_overrides(&path, &[registration]).unwrap();
        let findings = verify(&node, &[]).findings.into_iter();
        let of_file = findings.filter(|it| it["file"] == path.to_str().unwrap());
        let told: Vec<_> = of_file
            .map(|mut it| (it["severity"].take(), it["path"].take()))
            .collect();
        told
    };

    assert_eq!(
        told(registered.sign(&keys[0], version)),
        [("note".into(), "[0].v1.message.timestamp".into())]
    );
    let later = registration::Message {
        timestamp: registered.timestamp + 1,
        ..registered
    };
    assert_eq!(told(later.sign(&keys[0], version)), []);
    let stranger = bls::SecretKey::generate();
    let of_stranger = registration::Message {
        public_key: stranger.public_key().to_bytes(),
        ..later
    };
    assert_eq!(
        told(of_stranger.sign(&stranger, version)),
        [("error".into(), "[0].v1.message.pubkey".into())]
    );

    let long = fs::File::create(&path).unwrap();
    long.set_len(registration::MAX_OVERRIDES_BYTES as u64 + 1)
        .unwrap();
    let report = verify(&node, &[]);
    assert!(report.has("error", &path, "", "file-size"), "{report:?}");
}

#[test]
fn a_registration_for_another_fee_recipient_is_told_although_it_is_validly_signed() {
    let Some(vectors) = vectors() else { return };
    let copy = Copy::of(&vectors, CLUSTERS[0]);
    let (mut lock, keys) = copy.open();
    let thief = Address([0x66; 20]);
    let it = &mut lock.validators[1].registration;
    let signed = registration::Message {
        fee_recipient: thief,
        gas_limit: it.gas_limit.try_into().unwrap(),
        timestamp: it.timestamp.try_into().unwrap(),
        public_key: keys[1].public_key().to_bytes(),
    }
    .sign(&keys[1], Network::HOODI.genesis_version());
    it.fee_recipient = thief.0.to_vec();
    it.signature = signed.signature.to_vec();
    let path = copy.node(0, "cluster-lock.json");
    fs::write(&path, lock.to_json().unwrap()).unwrap();

    let report = verify(copy.root(), &[]);
    let place = "distributed_validators[1].builder_registration.signature";
    assert!(
        report.has("error", &path, place, "registration"),
        "{report:?}"
    );
    report.blames_only(&[&path]);

    // In the file of overrides it may be meant, and is told as well.
    let copy = Copy::of(&vectors, CLUSTERS[0]);
    let path = copy.node(0, registration::OVERRIDES_FILE_NAME);
    let later = registration::Message {
        timestamp: signed.message.timestamp + 1,
        ..signed.message
    }
    .sign(&keys[1], Network::HOODI.genesis_version());
    registration::write_overrides(&path, &[later]).unwrap();
    let report = verify(copy.root(), &[]);
    let place = "[0].v1.message.fee_recipient";
    assert!(
        report.has("warning", &path, place, "registration-override"),
        "{report:?}"
    );
    let forged = registration::Registration {
        signature: signed.signature,
        ..later
    };
    registration::write_overrides(&path, &[forged]).unwrap();
    let report = verify(copy.root(), &[]);
    let place = "[0].v1.signature";
    assert!(
        report.has("error", &path, place, "registration-override"),
        "{report:?}"
    );
}

#[test]
fn an_unknown_network_is_unchecked_and_only_strict_fails() {
    let Some(vectors) = vectors() else { return };
    let copy = Copy::of(&vectors, CLUSTERS[2]);
    let definition = vectors.join(CLUSTERS[2]).join("cluster-definition.json");
    let mut read = pluto_cluster::Definition::read(definition).unwrap();
    read.fork_version = vec![1, 2, 3, 4];
    let path = copy.root().join("mine.json");
    fs::write(&path, read.to_json().unwrap()).unwrap();

    let report = verify(&path, &[]);
    assert!(
        report.ok && report.of("unchecked") == ["network"],
        "{report:?}"
    );
    assert!(!verify(&path, &["--strict"]).ok);
    let flags = [
        "--strict",
        "--testnet-name=mine",
        "--testnet-fork-version=0x01020304",
        "--testnet-chain-id=7",
        "--testnet-genesis-timestamp=1700000000",
    ];
    let report = verify(&path, &flags);
    assert!(
        report.ok && report.summary["network"] == "mine",
        "{report:?}"
    );
}

/// A pipe waits for a writer for ever, and there is none.
#[cfg(unix)]
#[test]
fn a_pipe_in_place_of_a_file_is_told_and_not_waited_for() {
    let Some(vectors) = vectors() else { return };
    let copy = Copy::of(&vectors, CLUSTERS[2]);
    let lock = copy.node(0, "cluster-lock.json");
    let identity = copy.node(1, keyfile::FILE_NAME);
    let keystore = copy.node(2, "validator_keys/keystore-0.json");
    let password = copy.node(2, "validator_keys/keystore-1.txt");
    let deposits = copy.node(3, "deposit-data.json");
    let alone = copy.root().join("definition.json");
    let pipes = [&lock, &identity, &keystore, &password, &deposits, &alone];
    for path in pipes {
        let _ = fs::remove_file(path);
        let made = Command::new("mkfifo").arg(path).status().unwrap();
        assert!(made.success());
    }
    let (sender, reports) = std::sync::mpsc::channel();
    let paths = [copy.root().to_owned(), alone.clone()];
    std::thread::spawn(move || {
        for path in paths {
            sender.send(verify(&path, &[])).unwrap();
        }
    });
    let next = || reports.recv_timeout(std::time::Duration::from_secs(60));
    let report = next().expect("not to wait for the pipes");
    for path in &pipes[..5] {
        let told = |it: &&Value| it["file"] == path.to_str().unwrap() && it["severity"] == "error";
        assert!(
            report.findings.iter().any(|it| told(&it)),
            "{path:?} {report:#?}"
        );
    }
    let report = next().expect("not to wait for the pipe");
    assert!(report.has("error", &alone, "", "unreadable"), "{report:?}");
}

#[test]
fn what_is_nothing_of_a_cluster_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    for path in [dir.path(), &missing] {
        let output = pluto(path, &["--json"]);
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains(path.to_str().unwrap()), "{stderr}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["ok"], false);
        let error = report["error"].as_str().unwrap();
        assert!(error.contains(path.to_str().unwrap()), "{report}");
    }
}

#[test]
fn a_definition_beside_several_nodes_is_compared_with_their_lock() {
    let Some(vectors) = vectors() else { return };
    let copy = Copy::of(&vectors, CLUSTERS[2]);
    let path = copy.root().join("cluster-definition.json");
    assert!(
        !verify(copy.root(), &[])
            .of("warning")
            .contains(&"definition")
    );
    let mut definition = pluto_cluster::Definition::read(&path).unwrap();
    definition.name = "another".to_owned();
    definition.update_hashes().unwrap();
    fs::write(&path, definition.to_json().unwrap()).unwrap();

    let report = verify(copy.root(), &[]);

    assert!(
        report.has("warning", &path, "config_hash", "definition"),
        "{report:#?}"
    );
}

#[cfg(unix)]
#[test]
fn the_name_of_a_file_does_not_rewrite_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node\x1b[2J\nerror");
    fs::create_dir(&node).unwrap();
    keyfile::store(node.join(keyfile::FILE_NAME), &k1::SecretKey::generate()).unwrap();
    let output = pluto(dir.path(), &[]);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(stdout.contains("node\u{fffd}[2J\u{fffd}error"), "{stdout}");

    let output = pluto(&dir.path().join("\x1b[2J"), &[]);
    assert!(!output.stderr.contains(&0x1b), "{output:?}");
}

#[test]
fn a_definition_may_have_any_name_and_another_file_is_neither() {
    let Some(vectors) = vectors() else { return };
    let copy = Copy::of(&vectors, CLUSTERS[2]);
    let path = copy.root().join("cluster-definition.json");
    let mut definition = pluto_cluster::Definition::read(&path).unwrap();
    definition.name = "my cluster_definition".to_owned();
    for path in [path, copy.root().join("mine.json")] {
        fs::write(&path, definition.to_json().unwrap()).unwrap();
        assert_eq!(verify(&path, &[]).kind, "definition");
    }
    for file in [
        "deposit-data.json",
        "validator_keys/keystore-0.json",
        "validator_keys/keystore-0.txt",
        keyfile::FILE_NAME,
    ] {
        let output = pluto(&copy.node(0, file), &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            stderr.contains("neither a definition nor a lock"),
            "{stderr}"
        );
    }
}

fn pluto(path: &Path, args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_pluto"))
        .arg("verify")
        .arg(path)
        .args(args)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

#[derive(Debug)]
struct Report {
    ok: bool,
    kind: String,
    summary: Value,
    findings: Vec<Value>,
}

fn verify(path: &Path, args: &[&str]) -> Report {
    let args: Vec<_> = ["--json"].iter().chain(args).copied().collect();
    let output = pluto(path, &args);
    let mut report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let ok = report["ok"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(if ok { 0 } else { 1 }));
    let findings = report["findings"].take();
    let findings = findings.as_array().unwrap().clone();
    for finding in &findings {
        for key in ["file", "rule", "message", "advice"] {
            assert_ne!(finding[key].as_str().unwrap(), "", "{finding}");
        }
    }
    let ranks = ["note", "unchecked", "warning", "error"];
    let rank = |it: &Value| ranks.iter().position(|rank| it["severity"] == *rank);
    assert!(
        findings.is_sorted_by_key(|it| std::cmp::Reverse(rank(it).unwrap())),
        "the worst first: {findings:#?}"
    );
    Report {
        ok,
        kind: report["kind"].as_str().unwrap().to_owned(),
        summary: report["summary"].take(),
        findings,
    }
}

impl Report {
    /// The rules of the findings of one severity.
    fn of(&self, severity: &str) -> Vec<&str> {
        let findings = self.findings.iter();
        findings
            .filter(|it| it["severity"] == severity)
            .map(|it| it["rule"].as_str().unwrap())
            .collect()
    }

    fn has(&self, severity: &str, file: &Path, path: &str, rule: &str) -> bool {
        self.findings.iter().any(|it| {
            it["severity"] == severity
                && it["file"] == file.to_str().unwrap()
                && it["path"] == path
                && it["rule"] == rule
        })
    }

    fn blames_only(&self, files: &[&Path]) {
        for it in self.findings.iter().filter(|it| it["severity"] == "error") {
            let file = Path::new(it["file"].as_str().unwrap());
            assert!(files.contains(&file), "{it}");
        }
    }
}

/// A cluster that may be damaged.
struct Copy(tempfile::TempDir);

impl Copy {
    fn of(vectors: &Path, cluster: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(&vectors.join(cluster), dir.path());
        Self(dir)
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn node(&self, node: usize, file: &str) -> PathBuf {
        self.root().join(format!("node{node}")).join(file)
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.root().join(file)).unwrap()
    }

    fn put(&self, file: &str, content: &[u8]) {
        fs::write(self.root().join(file), content).unwrap();
    }

    /// Has all shares and all nodes sign a lock that was changed.
    fn sign(&self, lock: &mut LockFile) {
        lock.update_hashes().unwrap();
        let hash: [u8; 32] = lock.lock_hash[..].try_into().unwrap();
        let mut signatures = Vec::new();
        for node in 0..lock.definition.operators.len() {
            let listed = directory::list_sequential(self.node(node, "validator_keys")).unwrap();
            let sealed: Vec<_> = listed.iter().map(|it| it.load().unwrap()).collect();
            let shares = decrypt_all(&sealed, threads(), |_| ()).into_iter();
            signatures.extend(shares.map(|it| it.unwrap().sign(&hash)));
            let key = keyfile::load(self.node(node, keyfile::FILE_NAME)).unwrap();
            lock.node_signatures[node] = key.sign(&hash).to_vec();
        }
        let aggregate = bls::aggregate(&signatures).unwrap();
        lock.signature_aggregate = aggregate.to_bytes().to_vec();
    }

    /// The lock, and the whole keys of its validators.
    fn open(&self) -> (LockFile, Vec<bls::SecretKey>) {
        let lock = LockFile::read(self.node(0, "cluster-lock.json")).unwrap();
        let nodes: Vec<Vec<_>> = (0..lock.definition.threshold as usize)
            .map(|node| {
                let listed = directory::list_sequential(self.node(node, "validator_keys"));
                let listed = listed.unwrap();
                let sealed: Vec<_> = listed.iter().map(|it| it.load().unwrap()).collect();
                let keys = decrypt_all(&sealed, threads(), |_| ());
                keys.into_iter().map(Result::unwrap).collect()
            })
            .collect();
        let keys = (0..lock.validators.len()).map(|validator| {
            let shares: Vec<_> = nodes
                .iter()
                .enumerate()
                .map(|(node, keys)| {
                    let idx = PeerIdx::new(node as u32).unwrap().share_idx();
                    (idx, keys[validator].clone())
                })
                .collect();
            bls::recover(&shares).unwrap()
        });
        let keys = keys.collect();
        (lock, keys)
    }
}

fn write_entries(path: &Path, entries: &[file::Entry]) {
    let entries: Vec<_> = entries
        .iter()
        .map(|it| {
            serde_json::json!({
                "pubkey": hex::encode(it.deposit.message.public_key),
                "withdrawal_credentials": hex::encode(it.deposit.message.withdrawal_credentials.0),
                "amount": it.deposit.message.amount.0,
                "signature": hex::encode(it.deposit.signature),
                "deposit_message_root": hex::encode(it.message_root),
                "deposit_data_root": hex::encode(it.data_root),
                "fork_version": hex::encode(it.fork_version.0),
                "network_name": it.network_name,
                "deposit_cli_version": it.cli_version,
            })
        })
        .collect();
    fs::write(path, Value::from(entries).to_string()).unwrap();
}

fn flip(hex_text: &mut Value) {
    let text = hex_text.as_str().unwrap();
    let mut bytes = hex::decode(&text[2..]).unwrap();
    bytes[10] ^= 1;
    *hex_text = format!("0x{}", hex::encode(bytes)).into();
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// The folder of clusters that Charon made; `None`, and a printed reason, without it.
fn vectors() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let path = std::env::var_os("PLUTO_VECTORS").map_or_else(|| default.into(), PathBuf::from);
    let path = path.join("clusters");
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: no vectors at {}", path.display());
    None
}
