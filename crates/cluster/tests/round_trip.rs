//! What is written is read as the same, and reading ends for whatever stands in a file.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::cluster;
use pluto_cluster::{
    Addresses, Creator, Definition, Deposit, LockFile, OperatorEntry, Registration,
    ValidatorAddresses, ValidatorEntry, Verifier, Version,
};
use proptest::{collection::vec, prelude::*};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_written_definition_is_read_as_the_same(definition in definitions()) {
        let json = definition.to_json().unwrap();
        let read = Definition::from_json(&json).unwrap();

        let mut hashed = definition;
        hashed.update_hashes().unwrap();
        prop_assert_eq!(&read, &hashed);
        prop_assert_eq!(read.to_json().unwrap(), json);
    }

    #[test]
    fn a_written_lock_is_read_as_the_same(lock in locks()) {
        let json = lock.to_json().unwrap();
        let read = LockFile::from_json(&json).unwrap();

        let mut hashed = lock;
        hashed.update_hashes().unwrap();
        prop_assert_eq!(&read, &hashed);
        prop_assert_eq!(read.to_json().unwrap(), json);
        // Nonsense, but verifying it ends.
        let _ = Verifier::new().lock(&read);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..200)) {
        let _ = Definition::from_json(&bytes);
        let _ = LockFile::from_json(&bytes);
    }

    #[test]
    fn arbitrary_changes_of_a_definition_do_no_harm(
        version in versions(),
        changes in changes(),
    ) {
        let definition = cluster::definition(version, 3, 2);
        let json = changed(definition.to_json().unwrap(), changes);
        if let Ok(read) = Definition::from_json(&json) {
            let _ = Verifier::new().definition(&read);
            if let Ok(written) = read.to_json() {
                prop_assert!(Definition::from_json(&written).is_ok());
            }
        }
    }

    #[test]
    fn arbitrary_changes_of_a_lock_do_no_harm(version in versions(), changes in changes()) {
        let (lock, _) = cluster::lock(version, 3, 1);
        let json = changed(lock.to_json().unwrap(), changes);
        if let Ok(read) = LockFile::from_json(&json) {
            let _ = Verifier::new().lock(&read);
            if let Ok(written) = read.to_json() {
                prop_assert!(LockFile::from_json(&written).is_ok());
            }
        }
    }
}

/// Where, which byte, and whether it is put in between.
type Change = (prop::sample::Index, u8, bool);

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"{}[],:0-9enul".to_vec())];
    vec((any::<prop::sample::Index>(), byte, any::<bool>()), 1..4)
}

fn changed(mut json: Vec<u8>, changes: Vec<Change>) -> Vec<u8> {
    for (at, byte, insert) in changes {
        let at = at.index(json.len());
        if insert {
            json.insert(at, byte);
        } else {
            json[at] = byte;
        }
    }
    json
}

fn versions() -> impl Strategy<Value = Version> {
    prop::sample::select(Version::ALL.to_vec())
}

fn addresses() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "0x[0-9a-fA-F]{40}".prop_map(|text| text),
        "[0-9a-f]{40}".prop_map(|text| text),
    ]
}

fn texts(max_chars: usize) -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..=max_chars).prop_map(|chars| chars.into_iter().collect())
}

fn signatures(version: Version) -> impl Strategy<Value = Vec<u8>> {
    let count = if version >= Version::V1_11 { 3 } else { 1 };
    vec(vec(any::<u8>(), 65), 0..=count).prop_map(|signatures| signatures.concat())
}

fn definitions() -> impl Strategy<Value = Definition> {
    versions().prop_flat_map(|version| {
        let operator = (
            addresses(),
            texts(20),
            signatures(version),
            signatures(version),
        )
            .prop_map(
                |(address, enr, config_signature, enr_signature)| OperatorEntry {
                    address,
                    enr,
                    config_signature,
                    enr_signature,
                },
            );
        let pair =
            (addresses(), addresses()).prop_map(|(fee_recipient, withdrawal)| ValidatorAddresses {
                fee_recipient,
                withdrawal,
            });
        let head = (texts(16), texts(8), texts(8), texts(8), texts(16));
        let numbers = (any::<i64>(), 1..i64::MAX, any::<u64>(), any::<bool>());
        let amounts = vec(32_000_000_000..=2_048_000_000_000_u64, 0..4);
        let lists = (vec(operator, 0..4), vec(pair, 1..4), amounts);
        let bytes = (
            prop_oneof![Just(Vec::new()), vec(any::<u8>(), 4)],
            signatures(version),
            addresses(),
        );
        (head, numbers, lists, bytes).prop_map(move |(head, numbers, lists, bytes)| {
            let (name, uuid, timestamp, dkg_algorithm, consensus_protocol) = head;
            let (threshold, count, target_gas_limit, compounding) = numbers;
            let (operators, pairs, amounts) = lists;
            let (fork_version, creator_signature, creator_address) = bytes;
            let since = |first| version >= first;
            let shared = !since(Version::V1_5);
            let compounding = compounding && since(Version::V1_10);
            let max = if compounding {
                u64::MAX
            } else {
                32_000_000_000
            };
            Definition {
                version,
                name,
                uuid,
                timestamp,
                num_validators: if shared { count } else { pairs.len() as i64 },
                threshold,
                dkg_algorithm,
                fork_version,
                operators,
                creator: if since(Version::V1_4) {
                    Creator {
                        address: creator_address,
                        config_signature: creator_signature,
                    }
                } else {
                    Creator::default()
                },
                addresses: if shared {
                    Addresses::Shared(pairs[0].clone())
                } else {
                    Addresses::Each(pairs)
                },
                deposit_amounts: if since(Version::V1_8) {
                    amounts.into_iter().map(|it| it.min(max)).collect()
                } else {
                    Vec::new()
                },
                consensus_protocol: if since(Version::V1_9) {
                    consensus_protocol
                } else {
                    String::new()
                },
                target_gas_limit: if since(Version::V1_10) {
                    target_gas_limit
                } else {
                    0
                },
                compounding,
                config_hash: Vec::new(),
                definition_hash: Vec::new(),
            }
        })
    })
}

fn bytes_up_to(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        vec(any::<u8>(), max),
        vec(any::<u8>(), 0..=max)
    ]
}

fn locks() -> impl Strategy<Value = LockFile> {
    let deposit = (
        bytes_up_to(48),
        bytes_up_to(32),
        any::<i64>(),
        bytes_up_to(96),
    )
        .prop_map(
            |(pubkey, withdrawal_credentials, amount, signature)| Deposit {
                pubkey,
                withdrawal_credentials,
                amount,
                signature,
            },
        );
    let registration = (
        bytes_up_to(20),
        any::<i64>(),
        any::<i64>(),
        bytes_up_to(48),
        bytes_up_to(96),
    )
        .prop_map(
            |(fee_recipient, gas_limit, timestamp, pubkey, signature)| Registration {
                fee_recipient,
                gas_limit,
                timestamp,
                pubkey,
                signature,
            },
        );
    let validator = (
        bytes_up_to(48),
        vec(bytes_up_to(48), 0..4),
        vec(deposit, 1..4),
        registration,
    )
        .prop_map(
            |(pubkey, public_shares, deposits, registration)| ValidatorEntry {
                pubkey,
                public_shares,
                deposits,
                registration,
            },
        );
    (
        definitions(),
        vec(validator, 0..3),
        bytes_up_to(96),
        vec(bytes_up_to(65), 0..4),
    )
        .prop_map(|(definition, mut validators, signature_aggregate, nodes)| {
            let version = definition.version;
            for validator in &mut validators {
                if version < Version::V1_6 {
                    validator.deposits.clear();
                } else if version < Version::V1_8 {
                    validator.deposits.truncate(1);
                }
                if version < Version::V1_7 {
                    validator.registration = Registration::default();
                }
            }
            LockFile {
                definition,
                validators,
                signature_aggregate,
                lock_hash: Vec::new(),
                node_signatures: if version < Version::V1_7 {
                    Vec::new()
                } else {
                    nodes
                },
            }
        })
}
