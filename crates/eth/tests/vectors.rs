//! What Charon wrote: keystores, deposit files and registrations of the conformance data.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use pluto_crypto::bls::{SecretKey, ShareIdx, recover};
use pluto_eth::{
    address::Address,
    deposit::{
        CredentialsKind, Deposit, Gwei, Message, WithdrawalCredentials,
        file::{self, Entry},
    },
    keystore::{Cost, Keystore, Password, decrypt_all, directory},
    network::{ForkVersion, Network, Networks},
    registration::{self, Registration},
    threads,
};
use serde_json::Value;

#[test]
fn vectors_of_whole_clusters_open_and_are_written_again_byte_for_byte() {
    let Some(vectors) = vectors() else { return };
    let clusters = folders(&vectors.join("clusters"));
    assert!(!clusters.is_empty());
    for cluster in clusters {
        check_cluster(&cluster);
    }
}

fn check_cluster(cluster: &Path) {
    let nodes = folders(cluster);
    let lock: Value =
        serde_json::from_slice(&fs::read(nodes[0].join("cluster-lock.json")).unwrap()).unwrap();
    let definition = &lock["cluster_definition"];
    let validators = lock["distributed_validators"].as_array().unwrap();
    let threshold = usize::try_from(definition["threshold"].as_u64().unwrap()).unwrap();
    let version: ForkVersion = text(&definition["fork_version"]).parse().unwrap();
    let networks = Networks::new();
    let network = networks.by_fork_version(version).unwrap();

    // Every keystore opens, and belongs to the public share of its node and validator.
    let mut shares = vec![Vec::new(); validators.len()];
    for (node, dir) in nodes.iter().enumerate() {
        let entries = directory::list_sequential(dir.join("validator_keys")).unwrap();
        let sealed: Vec<_> = entries.iter().map(|entry| entry.load().unwrap()).collect();
        assert_eq!(sealed.len(), validators.len());
        let mut progress = Vec::new();
        let opened = decrypt_all(&sealed, threads(), |done| progress.push(done));
        assert_eq!(progress.last(), Some(&sealed.len()));
        for (validator, (secret, entry)) in opened.into_iter().zip(&entries).enumerate() {
            let secret = secret.unwrap_or_else(|error| panic!("{}: {error}", entry.path.display()));
            let public = secret.public_key().to_string();
            assert_eq!(public, validators[validator]["public_shares"][node]);
            let idx = ShareIdx::new(u32::try_from(node).unwrap() + 1).unwrap();
            shares[validator].push((idx, secret));

            let written = sealed[validator].keystore.to_json();
            assert_eq!(
                written,
                fs::read(&entry.path).unwrap(),
                "{}",
                entry.path.display()
            );
        }
    }
    let secrets: Vec<SecretKey> = shares
        .iter()
        .zip(validators)
        .map(|(shares, validator)| {
            let secret = recover(&shares[shares.len() - threshold..]).unwrap();
            let key = secret.public_key().to_string();
            assert_eq!(key, validator["distributed_public_key"]);
            secret
        })
        .collect();

    // Deposit files: equal on all nodes, right by themselves, and the same when signed again.
    let files = file::read_all(&nodes[0]).unwrap();
    let chosen: Vec<Gwei> = definition["deposit_amounts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|amount| Gwei(text(amount).parse().unwrap()))
        .collect();
    let kind = CredentialsKind::new(definition["compounding"].as_bool().unwrap());
    kind.check_amounts(&chosen).unwrap();
    let deposits: Vec<_> = secrets
        .iter()
        .zip(definition["validators"].as_array().unwrap())
        .flat_map(|(secret, validator)| {
            let address: Address = text(&validator["withdrawal_address"]).parse().unwrap();
            kind.signed_amounts(&chosen).into_iter().map(move |amount| {
                let message = Message {
                    public_key: secret.public_key().to_bytes(),
                    withdrawal_credentials: WithdrawalCredentials::new(kind, address),
                    amount,
                };
                message.sign(secret, version)
            })
        })
        .collect();
    let scratch = tempfile::tempdir().unwrap();
    let written = file::store(scratch.path(), network, &deposits).unwrap();
    assert_eq!(
        names(written.iter()),
        sorted(names(files.iter().map(|(path, _)| path)))
    );
    for (path, entries) in &files {
        assert_eq!(file::check(entries), [], "{}", path.display());
        let name = path.file_name().unwrap();
        let theirs = fs::read(path).unwrap();
        assert_eq!(
            file::to_json(entries).unwrap(),
            theirs,
            "{}",
            path.display()
        );
        assert_eq!(
            fs::read(scratch.path().join(name)).unwrap(),
            theirs,
            "{}",
            path.display()
        );
        for node in &nodes {
            assert_eq!(fs::read(node.join(name)).unwrap(), theirs);
        }
    }

    // Registrations verify and are the same when signed again.
    let gas_limit = definition["target_gas_limit"].as_u64().unwrap();
    let definitions = definition["validators"].as_array().unwrap();
    for ((secret, validator), addresses) in secrets.iter().zip(validators).zip(definitions) {
        let theirs = registration(&validator["builder_registration"]);
        assert_eq!(theirs.verify(version), Ok(()));
        let ours = registration::Message {
            fee_recipient: text(&addresses["fee_recipient_address"]).parse().unwrap(),
            gas_limit,
            timestamp: network.genesis_time_secs(),
            public_key: secret.public_key().to_bytes(),
        };
        assert_eq!(ours.sign(secret, version), theirs);
    }
    println!(
        "{}: {} keystores, {} deposit files, {} registrations",
        cluster.display(),
        nodes.len() * validators.len(),
        files.len(),
        validators.len()
    );
}

#[test]
fn vectors_of_locks_hold_registrations_and_deposits_that_verify() {
    let Some(vectors) = vectors() else { return };
    // Locks with real signatures; the others hold random bytes (README of the data, section 2).
    let mut locks: Vec<_> = json_files(&vectors.join("cluster/examples"))
        .into_iter()
        .map(|path| (path, None))
        .collect();
    for ceremony in folders(&vectors.join("charon/ceremony")) {
        locks.push((ceremony.join("cluster-lock.json"), None));
    }
    // Made for Holesky and edited to say otherwise (section 3 there).
    let holesky = vectors.join("cluster/locks-misc/cmd-test_cluster_lock.json");
    if holesky.is_file() {
        locks.push((holesky, Some(ForkVersion([1, 1, 0x70, 0]))));
    }
    let (mut registrations, mut deposits) = (0, 0);
    for (path, version) in locks {
        let lock: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let validators = lock["distributed_validators"].as_array();
        for validator in validators.into_iter().flatten() {
            let stated = &lock["cluster_definition"]["fork_version"];
            let version = version.unwrap_or_else(|| text(stated).parse().unwrap());
            let signed = &validator["builder_registration"];
            if signed.is_object() {
                let result = registration(signed).verify(version);
                assert_eq!(result, Ok(()), "{}", path.display());
                registrations += 1;
            }
            for deposit in validator["partial_deposit_data"]
                .as_array()
                .into_iter()
                .flatten()
            {
                let message = Message {
                    public_key: hex0x(&deposit["pubkey"]),
                    withdrawal_credentials: WithdrawalCredentials(hex0x(
                        &deposit["withdrawal_credentials"],
                    )),
                    amount: Gwei(text(&deposit["amount"]).parse().unwrap()),
                };
                let signature = hex0x(&deposit["signature"]);
                let deposit = Deposit { message, signature };
                assert_eq!(deposit.verify(version), Ok(()), "{}", path.display());
                deposits += 1;
            }
        }
    }
    assert!(registrations > 0 && deposits > 0);
    println!("locks: {registrations} registrations, {deposits} deposits");
}

/// README of the data, section 4: validator key, withdrawal address and signing root.
const DEPOSITS: [(&str, &str, &str); 4] = [
    (
        "01477d4bfbbcebe1fef8d4d6f624ecbb6e3178558bb1b0d6286c816c66842a6d",
        "0x321dcb529f3945bc94fecea9d3bc5caf35253b94",
        "e86ea9233d0a2887e1068792734b72c3df0b5eb08dc5e0933a49ba28b3b30191",
    ),
    (
        "5b77c0f0ef7c4ddc123d55b8bd93daeefbd7116764a941c0061a496649e145b5",
        "0x08ef6a66a4f315aa250d2e748de0bfe5a6121096",
        "7fe71f01068f2a52c4748e46c92c968008a47f2f46805b1436fae6b038a06529",
    ),
    (
        "1dabcbfc9258f0f28606bf9e3b1c9f06d15a6e4eb0fbc28a43835eaaed7623fc",
        "0x05f9f73f74c205f2b9267c04296e3069767531fb",
        "87ec7b7428993a5e8aed92a51024e3765eb925737044f5fa788017efab51a794",
    ),
    (
        "002ff4fd29d3deb6de9f5d115182a49c618c97acaa365ad66a0b240bd825c4ff",
        "0x67f5df029ae8d3f941abef0bec6462a6b4e4b522",
        "f20f84db6d042272a38c09328dc15858e39c2d2c992f3ba34f66ac6c6c11ae86",
    ),
];

#[test]
fn vectors_of_deposit_files_are_written_byte_for_byte() {
    let Some(vectors) = vectors() else { return };
    let dir = vectors.join("cluster/deposit");
    let network = Network::GOERLI;
    let version = network.genesis_version();
    let entries: Vec<_> = DEPOSITS
        .iter()
        .map(|(secret, address, root)| {
            let bytes = hex::decode(secret).unwrap().try_into().unwrap();
            let secret = SecretKey::from_bytes(&bytes).unwrap();
            let address = address.parse().unwrap();
            let message = Message {
                public_key: secret.public_key().to_bytes(),
                withdrawal_credentials: WithdrawalCredentials::new(
                    CredentialsKind::Compounding,
                    address,
                ),
                amount: Gwei(32_000_000_000),
            };
            assert_eq!(hex::encode(message.signing_root(version)), *root);
            Entry::new(message.sign(&secret, version), &network)
        })
        .collect();

    let files = folder(&dir);
    assert!(!files.is_empty());
    for path in &files {
        let text = fs::read(path).unwrap();
        let read = file::parse(&text).unwrap();
        assert_eq!(file::check(&read), [], "{}", path.display());
        assert_eq!(file::to_json(&read).unwrap(), text, "{}", path.display());
        if path.ends_with("TestMarshalDepositData.golden") {
            assert_eq!(file::to_json(&entries).unwrap(), text);
        }
    }
    println!("cluster/deposit: {} files", files.len());
}

/// README of the data, section 5.
#[test]
fn vectors_of_scrypt_keystores_open_and_have_no_place_in_a_sequence() {
    let Some(vectors) = vectors() else { return };
    let dir = vectors.join("cluster/keystore");
    let entries = directory::list(&dir).unwrap();
    let files: Vec<_> = entries.iter().map(|entry| entry.path.clone()).collect();
    assert_eq!(files, json_files(&dir), "a file without a test");
    let sealed: Vec<_> = entries.iter().map(|entry| entry.load().unwrap()).collect();

    let opened = decrypt_all(&sealed, threads(), |_| ());
    for (path, secret) in files.iter().zip(&opened) {
        let secret = hex::encode(*secret.as_ref().unwrap().to_bytes());
        if path.ends_with("keystore-scrypt.json") {
            let expected = "10b16fc552aa607fa1399027f7b86ab789077e470b5653b338693dc2dde02468";
            assert_eq!(secret, expected);
            assert!(matches!(
                directory::list_sequential(&dir),
                Err(directory::Error::NoIndex { .. })
            ));
        }
    }
    let found = directory::find(&dir)
        .unwrap()
        .decrypt_all(threads(), |_| ());
    assert_eq!(found.len(), opened.len());
    for (found, opened) in found.iter().zip(&opened) {
        let [found, opened] = [found, opened].map(|secret| secret.as_ref().unwrap().to_bytes());
        assert_eq!(found, opened);
    }
    println!("cluster/keystore: {} keystores", files.len());
}

/// What `create cluster` leaves, as lists of paths two levels deep.
#[test]
fn vectors_of_directory_listings_have_our_names_of_deposit_files() {
    let Some(vectors) = vectors() else { return };
    let mut checked = 0;
    for path in folder(&vectors.join("cluster/create-cluster-layout")) {
        let listing: Vec<String> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for name in listing
            .iter()
            .filter_map(|line| Some(line.split_once('/')?.1))
        {
            if name.starts_with("deposit-data") {
                let eth = name
                    .strip_prefix("deposit-data-")
                    .and_then(|rest| rest.strip_suffix("eth.json"))
                    .map_or(32, |eth| eth.parse().unwrap());
                let amount = Gwei::from_eth(eth).unwrap();
                assert_eq!(file::name(amount), name, "{}", path.display());
                checked += 1;
            }
        }
    }
    assert!(checked > 0);
    println!("cluster/create-cluster-layout: {checked} names");
}

#[test]
fn vectors_of_keystores_have_the_parameters_that_we_write() {
    // Theirs open with our reader; ours open with theirs if nothing but the values differs.
    let Some(vectors) = vectors() else { return };
    let node = folders(&folders(&vectors.join("clusters"))[0]).remove(0);
    let path = node.join("validator_keys/keystore-0.json");
    let mut theirs: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let secret = SecretKey::generate();
    let ours = Keystore::encrypt(&secret, &Password::generate(), Cost::Secure).to_json();
    let mut ours: Value = serde_json::from_slice(&ours).unwrap();

    for pointer in [
        "/crypto/checksum/message",
        "/crypto/cipher/message",
        "/crypto/cipher/params/iv",
        "/crypto/kdf/params/salt",
        "/pubkey",
        "/uuid",
    ] {
        let [ours, theirs] = [&mut ours, &mut theirs]
            .map(|value| std::mem::take(value.pointer_mut(pointer).unwrap()));
        assert_eq!(text(&ours).len(), text(&theirs).len(), "{pointer}");
    }
    assert_eq!(ours, theirs);
}

fn registration(signed: &Value) -> Registration {
    let message = &signed["message"];
    Registration {
        message: registration::Message {
            fee_recipient: text(&message["fee_recipient"]).parse().unwrap(),
            gas_limit: message["gas_limit"].as_u64().unwrap(),
            timestamp: message["timestamp"].as_u64().unwrap(),
            public_key: hex0x(&message["pubkey"]),
        },
        signature: hex0x(&signed["signature"]),
    }
}

fn hex0x<const N: usize>(value: &Value) -> [u8; N] {
    let digits = text(value).strip_prefix("0x").unwrap();
    hex::decode(digits).unwrap().try_into().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn vectors() -> Option<PathBuf> {
    let path = std::env::var_os("PLUTO_VECTORS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"),
        PathBuf::from,
    );
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: no conformance data at {}", path.display());
    None
}

fn folder(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    sorted(entries.map(|entry| entry.unwrap().path()).collect())
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    folder(dir)
        .into_iter()
        .filter(|path| path.is_dir())
        .collect()
}

fn json_files(dir: &Path) -> Vec<PathBuf> {
    let is_json = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "json");
    folder(dir).into_iter().filter(is_json).collect()
}

fn names<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    sorted(paths.map(name).collect())
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items
}
