//! What verification says about files that are right, and about each way of being wrong.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{cell::RefCell, fs};

use common::{cluster, entries, find, name, vectors};
use pluto_cluster::{
    Addresses, Definition, Finding, LockFile, Severity, Verifier, Version, eip712,
    verify::{ContractWallets, WalletError, has_errors},
};
use pluto_crypto::bls;
use pluto_eth::{
    address::Address,
    network::{CustomFlags, Networks},
};

#[test]
fn every_example_is_accepted_and_every_signature_in_it_is_checked() {
    let Some(vectors) = vectors() else { return };
    for path in entries(&vectors.join("cluster/examples")) {
        let findings = if name(&path).contains("lock") {
            Verifier::new().lock(&LockFile::read(&path).unwrap())
        } else {
            Verifier::new().definition(&Definition::read(&path).unwrap())
        };
        for finding in &findings {
            assert!(
                matches!(finding.severity(), Severity::Note | Severity::Warning),
                "{}: {finding:?}",
                path.display()
            );
        }
    }
}

#[test]
fn golden_files_have_right_hashes_and_no_right_signature() {
    let Some(vectors) = vectors() else { return };
    let hash_rules = ["config-hash", "definition-hash", "lock-hash"];
    for path in entries(&vectors.join("cluster/golden")) {
        let (findings, must_fail) = if name(&path).contains("lock") {
            (Verifier::new().lock(&LockFile::read(&path).unwrap()), true)
        } else {
            let definition = Definition::read(&path).unwrap();
            let findings = Verifier::new().definition(&definition);
            (findings, definition.version >= Version::V1_3)
        };
        assert_eq!(has_errors(&findings), must_fail, "{}", path.display());
        assert!(findings.iter().all(|it| !hash_rules.contains(&it.rule())));
    }
}

#[test]
fn other_locks_are_judged_as_their_description_says() {
    let Some(vectors) = vectors() else { return };
    let lock = |name| LockFile::read(vectors.join("cluster/locks-misc").join(name)).unwrap();

    let random = Verifier::new().lock(&lock("app-test-cluster-lock.json"));
    assert!(has_errors(&random));
    assert!(random.iter().all(|it| it.rule() != "lock-hash"));

    let mut edited = lock("cmd-test_cluster_lock.json");
    let findings = Verifier::new().lock(&edited);
    for (path, rule) in [
        ("cluster_definition.config_hash", "config-hash"),
        ("cluster_definition.definition_hash", "definition-hash"),
        ("lock_hash", "lock-hash"),
        (
            "distributed_validators[4].builder_registration.signature",
            "registration",
        ),
        (
            "distributed_validators[0].partial_deposit_data[1].signature",
            "deposit",
        ),
    ] {
        assert!(has(&findings, path, rule), "{path}: {findings:?}");
    }
    // It was made for Holesky, which is no longer known by name.
    let holesky = [0x01, 0x01, 0x70, 0x00];
    edited.definition.fork_version = holesky.to_vec();
    let findings = Verifier::new().lock(&edited);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].severity(), Severity::Unchecked);
    assert_eq!(findings[0].path, "cluster_definition.fork_version");
    let networks = Networks::with_flags(&CustomFlags {
        name: "holesky".into(),
        fork_version: "0x01017000".into(),
        chain_id: 17_000,
        genesis_time: 1_696_000_704,
        ..CustomFlags::default()
    })
    .unwrap();
    let findings = Verifier::new().with_networks(&networks).lock(&edited);
    assert!(findings.is_empty(), "{findings:?}");
}

#[test]
fn there_is_nothing_to_say_about_clusters_that_charon_left() {
    let Some(vectors) = vectors() else { return };
    let mut counts = [0; 2];
    for folder in ["clusters", "charon/ceremony"] {
        for path in find(&vectors.join(folder), "cluster-lock.json") {
            let findings = Verifier::new().lock(&LockFile::read(&path).unwrap());
            assert!(findings.is_empty(), "{}: {findings:?}", path.display());
            counts[0] += 1;
        }
        for path in find(&vectors.join(folder), "cluster-definition.json") {
            let findings = Verifier::new().definition(&Definition::read(&path).unwrap());
            assert!(findings.is_empty(), "{}: {findings:?}", path.display());
            counts[1] += 1;
        }
    }
    // Three clusters of four nodes, and three ceremonies.
    assert_eq!(counts, [15, 5]);
}

#[test]
fn what_is_signed_here_is_accepted_in_every_version() {
    for version in Version::ALL {
        let (lock, _) = cluster::lock(version, 4, 2);

        let findings = Verifier::new().lock(&lock);

        assert!(!has_errors(&findings), "{version}: {findings:?}");
        let notes = usize::from(version < Version::V1_7);
        assert_eq!(findings.len(), notes, "{version}: {findings:?}");
        let findings = Verifier::new().definition(&lock.definition);
        assert!(findings.is_empty(), "{version}: {findings:?}");
    }
}

#[test]
fn unsigned_clusters_and_solo_flows_are_accepted_and_half_signed_ones_are_not() {
    let signed = cluster::definition(Version::V1_11, 4, 1);
    let clear = |definition: &mut Definition, operators: std::ops::Range<usize>| {
        for operator in &mut definition.operators[operators] {
            operator.address.clear();
            operator.config_signature.clear();
            operator.enr_signature.clear();
        }
    };
    let judge = |change: &dyn Fn(&mut Definition)| {
        let mut definition = signed.clone();
        change(&mut definition);
        // Addresses are part of what is signed, so hash and signatures are made anew.
        resign(&mut definition);
        let findings = Verifier::new().definition(&definition);
        findings.into_iter().map(|it| it.path).collect::<Vec<_>>()
    };

    let none: [&str; 0] = [];
    assert_eq!(judge(&|_| ()), none);
    // Solo flow: the creator alone.
    assert_eq!(judge(&|it| clear(it, 0..4)), none);
    assert_eq!(
        judge(&|it| {
            clear(it, 0..4);
            it.creator = Default::default();
        }),
        none
    );
    assert_eq!(judge(&|it| clear(it, 1..2)), ["operators"]);
    assert_eq!(judge(&|it| it.creator = Default::default()), ["creator"]);
    assert_eq!(judge(&|it| it.creator.address.clear()), ["creator.address"]);
    assert_eq!(
        judge(&|it| it.operators[3].address = "zz".repeat(21)),
        // Once as a value without a hash, and for each signature that it should have made.
        ["operators[3].address"; 3]
    );
}

#[test]
fn each_wallet_signature_is_checked() {
    let signed = cluster::definition(Version::V1_10, 3, 1);
    type Field = fn(&mut Definition) -> &mut Vec<u8>;
    let change: [(&str, Field); 3] = [
        ("operators[1].config_signature", |it| {
            &mut it.operators[1].config_signature
        }),
        ("operators[2].enr_signature", |it| {
            &mut it.operators[2].enr_signature
        }),
        ("creator.config_signature", |it| {
            &mut it.creator.config_signature
        }),
    ];
    for (path, signature) in change {
        for (break_it, rule) in [
            (
                Box::new(|it: &mut Vec<u8>| it[40] ^= 1) as Box<dyn Fn(&mut Vec<u8>)>,
                "wallet-signature",
            ),
            (Box::new(|it| it[64] = 5), "wallet-signature"),
            (Box::new(|it| it[..32].fill(0)), "wallet-signature"),
            (Box::new(|it| it.clear()), "signature-missing"),
            (Box::new(|it| it.truncate(64)), "signature-length"),
            (Box::new(|it| *it = it.repeat(2)), "signature-length"),
        ] {
            let mut definition = signed.clone();
            break_it(signature(&mut definition));
            let findings = Verifier::new().definition(&definition);
            assert!(has(&findings, path, rule), "{path} {rule}: {findings:?}");
            assert!(
                rule != "wallet-signature"
                    || findings.iter().any(|it| {
                        it.problem.to_string().contains("contract wallet")
                            && it.advice().contains("--execution-client-rpc-endpoint")
                    }),
                "{findings:?}"
            );
        }
    }
}

#[test]
fn a_contract_wallet_is_asked_only_when_the_signature_is_not_the_addresss_own() {
    type Asked = (Address, [u8; 32], usize);
    struct Wallets {
        answer: fn() -> Result<bool, WalletError>,
        asked: RefCell<Vec<Asked>>,
    }
    impl ContractWallets for Wallets {
        fn accepts(
            &self,
            address: &Address,
            digest: &[u8; 32],
            signature: &[u8],
        ) -> Result<bool, WalletError> {
            self.asked
                .borrow_mut()
                .push((*address, *digest, signature.len()));
            (self.answer)()
        }
    }

    let mut definition = cluster::definition(Version::V1_11, 3, 1);
    let contract = &mut definition.operators[1];
    contract.config_signature = vec![7; 130];
    definition.update_hashes().unwrap();
    let path = "operators[1].config_signature";

    let findings = Verifier::new().definition(&definition);
    assert!(has(&findings, path, "contract-signature"), "{findings:?}");

    for (answer, errors) in [
        ((|| Ok(true)) as fn() -> _, 0),
        (|| Ok(false), 1),
        (|| Err(WalletError("no answer".into())), 1),
    ] {
        let wallets = Wallets {
            answer,
            asked: RefCell::default(),
        };
        let findings = Verifier::new()
            .with_wallets(&wallets)
            .definition(&definition);
        assert_eq!(findings.len(), errors, "{findings:?}");
        assert!(errors == 0 || has(&findings, path, "contract-signature"));
        let digest = eip712::operator_config_digest(
            Version::V1_11,
            &definition.config_hash,
            cluster::HOODI_CHAIN,
        );
        let address = Address(cluster::operator_key(1).public_key().address());
        assert_eq!(*wallets.asked.borrow(), [(address, digest, 130)]);
    }
}

#[test]
fn an_unknown_network_leaves_wallets_unchecked_and_everything_else_is_checked() {
    let (mut lock, _) = cluster::lock(Version::V1_11, 4, 1);
    lock.definition.fork_version = vec![9, 9, 9, 9];

    let findings = Verifier::new().lock(&lock);

    assert!(has(&findings, "cluster_definition.fork_version", "network"));
    assert!(has(
        &findings,
        "cluster_definition.config_hash",
        "config-hash"
    ));
    assert!(
        has(
            &findings,
            "distributed_validators[0].builder_registration.signature",
            "registration"
        ),
        "signed for another network: {findings:?}"
    );
    assert!(findings.iter().all(|it| it.rule() != "wallet-signature"));
}

#[test]
fn every_way_to_spoil_a_lock_is_an_error_at_its_place() {
    let (good, shares) = cluster::lock(Version::V1_11, 4, 2);
    let groups: Vec<_> = shares
        .iter()
        .map(|shares| {
            let shares: Vec<_> = (1..)
                .filter_map(bls::ShareIdx::new)
                .zip(shares.clone())
                .collect();
            bls::recover(&shares).unwrap()
        })
        .collect();
    let spoiled = |what: &str, spoil: Spoil<'_>, expected: Expected<'_>| {
        let mut lock = good.clone();
        spoil(&mut lock);
        expect(what, &lock, expected);
    };

    spoiled(
        "a bit of a node signature",
        &|it| it.node_signatures[2][7] ^= 4,
        &[("node_signatures[2]", "node-signature")],
    );
    spoiled(
        "node signatures exchanged",
        &|it| it.node_signatures.swap(0, 1),
        &[
            ("node_signatures[0]", "node-signature"),
            ("node_signatures[1]", "node-signature"),
        ],
    );
    spoiled(
        "a node signature too few",
        &|it| drop(it.node_signatures.pop()),
        &[("node_signatures", "node-signature-count")],
    );
    spoiled(
        "a bit of the aggregate",
        &|it| it.signature_aggregate[95] ^= 1,
        &[("signature_aggregate", "bls-signature")],
    );
    spoiled(
        "the aggregate negated",
        &|it| it.signature_aggregate[0] ^= 0x20,
        &[("signature_aggregate", "aggregate-signature")],
    );
    spoiled(
        "the aggregate gone",
        &|it| it.signature_aggregate.clear(),
        &[("signature_aggregate", "aggregate-signature")],
    );
    spoiled(
        "a bit of the lock hash",
        &|it| it.lock_hash[0] ^= 1,
        &[("lock_hash", "lock-hash")],
    );
    spoiled(
        "another name",
        &|it| it.definition.name.push('x'),
        &[
            ("cluster_definition.config_hash", "config-hash"),
            ("cluster_definition.definition_hash", "definition-hash"),
            ("lock_hash", "lock-hash"),
        ],
    );
    spoiled(
        "another threshold",
        &|it| it.definition.threshold = 2,
        &[
            ("cluster_definition.config_hash", "config-hash"),
            ("lock_hash", "lock-hash"),
        ],
    );
    spoiled(
        "an impossible threshold",
        &|it| it.definition.threshold = 5,
        &[("cluster_definition.threshold", "threshold")],
    );
    spoiled(
        "an ENR of somebody else",
        &|it| it.definition.operators[3].enr = it.definition.operators[0].enr.clone(),
        &[
            ("cluster_definition.operators[3].enr", "duplicate-operator"),
            ("node_signatures[3]", "node-signature"),
        ],
    );
    spoiled(
        "a changed ENR",
        &|it| {
            let enr = &mut it.definition.operators[1].enr;
            let changed = if enr.as_bytes()[60] == b'A' { "B" } else { "A" };
            enr.replace_range(60..61, changed);
        },
        &[
            ("cluster_definition.operators[1].enr", "enr"),
            ("cluster_definition.definition_hash", "definition-hash"),
        ],
    );
    spoiled(
        "a share twice",
        &|it| {
            let shares = &mut it.validators[1].public_shares;
            shares[2] = shares[0].clone();
        },
        &[
            (
                "distributed_validators[1].public_shares[2]",
                "duplicate-share",
            ),
            ("lock_hash", "lock-hash"),
        ],
    );
    spoiled(
        "a validator twice",
        &|it| it.validators[1] = it.validators[0].clone(),
        &[(
            "distributed_validators[1].distributed_public_key",
            "duplicate-validator",
        )],
    );
    spoiled(
        "a validator too few",
        &|it| drop(it.validators.pop()),
        &[("distributed_validators", "validator-count")],
    );

    // These are signed again by everybody, so that only the fault itself is left.
    let resigned = |what: &str, spoil: Spoil<'_>, expected: Expected<'_>| {
        let mut lock = good.clone();
        spoil(&mut lock);
        cluster::sign(&mut lock, &shares);
        let findings = expect(what, &lock, expected);
        assert_eq!(findings.len(), expected.len(), "{what}: {findings:?}");
    };

    resigned(
        "two shares exchanged",
        &|it| it.validators[0].public_shares.swap(0, 1),
        &[("distributed_validators[0].public_shares", "share")],
    );
    resigned(
        "the last share is another key's",
        &|it| {
            let other = bls::SecretKey::generate().public_key();
            it.validators[0].public_shares[3] = other.to_bytes().to_vec();
        },
        &[
            ("distributed_validators[0].public_shares[3]", "share"),
            ("signature_aggregate", "aggregate-signature"),
        ],
    );
    resigned(
        "a deposit for other credentials",
        &|it| {
            let amount = it.validators[1].deposits[0].amount;
            it.validators[1].deposits[0] =
                cluster::deposit(&groups[1], [1; 32], amount, cluster::HOODI);
        },
        &[(
            "distributed_validators[1].partial_deposit_data[0].withdrawal_credentials",
            "withdrawal-credentials",
        )],
    );
    resigned(
        "a deposit for another network",
        &|it| {
            let credentials = cluster::credentials(&it.definition, 0);
            let amount = it.validators[0].deposits[1].amount;
            it.validators[0].deposits[1] =
                cluster::deposit(&groups[0], credentials, amount, [0; 4]);
        },
        &[(
            "distributed_validators[0].partial_deposit_data[1].signature",
            "deposit",
        )],
    );
    resigned(
        "a deposit of another validator",
        &|it| it.validators[0].deposits[0] = it.validators[1].deposits[0].clone(),
        &[(
            "distributed_validators[0].partial_deposit_data[0].pubkey",
            "deposit",
        )],
    );
    resigned(
        "a registration for another fee recipient",
        &|it| {
            let other = format!("0x{}", "cc".repeat(20));
            it.validators[1].registration = cluster::register(&groups[1], &other, cluster::HOODI);
        },
        &[
            (
                "distributed_validators[1].builder_registration.signature",
                "registration",
            ),
            (
                "distributed_validators[1].builder_registration.message.fee_recipient",
                "registration",
            ),
        ],
    );
    resigned(
        "a registration for another network",
        &|it| {
            let addresses = it.definition.addresses_of(0).unwrap();
            it.validators[0].registration =
                cluster::register(&groups[0], &addresses.fee_recipient, [0; 4]);
        },
        &[(
            "distributed_validators[0].builder_registration.signature",
            "registration",
        )],
    );
    resigned(
        "a registration without a gas limit",
        &|it| it.validators[1].registration.gas_limit = 0,
        &[
            (
                "distributed_validators[1].builder_registration.message.gas_limit",
                "registration",
            ),
            (
                "distributed_validators[1].builder_registration.signature",
                "registration",
            ),
        ],
    );
    resigned(
        "no validator at all",
        &|it| {
            it.validators.clear();
            it.definition.num_validators = 0;
            it.definition.addresses = Addresses::Each(Vec::new());
            resign(&mut it.definition);
        },
        &[("distributed_validators", "validator-count")],
    );
    resigned(
        "no registration",
        &|it| it.validators[0].registration = Default::default(),
        &[(
            "distributed_validators[0].builder_registration",
            "registration",
        )],
    );
}

#[test]
fn what_was_changed_after_it_was_signed_is_blamed_and_no_signature_is() {
    let (mut lock, _) = cluster::lock(Version::V1_11, 4, 1);
    lock.definition.name.push('x');
    let findings = Verifier::new().lock(&lock);
    let paths: Vec<_> = findings.iter().map(|it| &*it.path).collect();
    assert_eq!(
        paths,
        [
            "cluster_definition.config_hash",
            "cluster_definition.definition_hash",
            "lock_hash"
        ]
    );
}

#[test]
fn a_value_of_the_definition_that_has_no_hash_is_told_as_often_as_in_the_definition_alone() {
    let (mut lock, _) = cluster::lock(Version::V1_11, 4, 1);
    lock.definition.operators[3].address = "zz".repeat(21);
    let count = |findings: Vec<Finding>| {
        let of_address = |it: &&Finding| it.path.ends_with("operators[3].address");
        findings.iter().filter(of_address).count()
    };
    let alone = count(Verifier::new().definition(&lock.definition));
    assert!(alone > 0);
    assert_eq!(count(Verifier::new().lock(&lock)), alone);
}

#[test]
fn a_registration_that_shows_another_validator_is_a_warning() {
    let (mut lock, shares) = cluster::lock(Version::V1_11, 3, 2);
    lock.validators[0].registration.pubkey = lock.validators[1].pubkey.clone();
    cluster::sign(&mut lock, &shares);

    let findings = Verifier::new().lock(&lock);

    assert_eq!(findings.len(), 1, "{findings:?}");
    let path = "distributed_validators[0].builder_registration.message.pubkey";
    assert!(has(&findings, path, "registration"), "{findings:?}");
    assert_eq!(findings[0].severity(), Severity::Warning);
}

#[test]
fn contract_wallets_have_up_to_32_owners() {
    struct Yes;
    impl ContractWallets for Yes {
        fn accepts(&self, _: &Address, _: &[u8; 32], _: &[u8]) -> Result<bool, WalletError> {
            Ok(true)
        }
    }
    let judge = |owners: usize| {
        let mut definition = cluster::definition(Version::V1_11, 3, 1);
        let signature = &mut definition.operators[1].config_signature;
        *signature = signature.repeat(owners);
        // Too many have no hash.
        let _ = definition.update_hashes();
        Verifier::new().with_wallets(&Yes).definition(&definition)
    };
    assert!(judge(32).is_empty(), "{:?}", judge(32));
    let path = "operators[1].config_signature";
    assert!(has(&judge(33), path, "signature-length"));
}

#[test]
fn deposits_of_other_amounts_are_a_warning() {
    let (mut lock, shares) = cluster::lock(Version::V1_8, 3, 1);
    lock.validators[0].deposits.pop();
    cluster::sign(&mut lock, &shares);

    let findings = Verifier::new().lock(&lock);

    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].rule(), "deposit-amounts");
    assert_eq!(findings[0].severity(), Severity::Warning);
}

#[test]
fn the_oldest_locks_may_be_unsigned_and_then_nothing_is_proven() {
    for (version, accepted) in [
        (Version::V1_0, true),
        (Version::V1_1, true),
        (Version::V1_2, false),
    ] {
        let (mut lock, _) = cluster::lock(version, 3, 1);
        lock.signature_aggregate.clear();

        let findings = Verifier::new().lock(&lock);

        assert_eq!(has_errors(&findings), !accepted, "{version}");
        let unchecked = |it: &Finding| it.severity() == Severity::Unchecked;
        assert_eq!(findings.iter().any(unchecked), accepted, "{version}");
    }
}

#[test]
fn a_truncated_lock_is_refused_wherever_it_ends() {
    let (lock, _) = cluster::lock(Version::V1_11, 3, 1);
    let json = lock.to_json().unwrap();
    for len in 0..json.len() {
        assert!(LockFile::from_json(&json[..len]).is_err(), "{len}");
    }
    let path = std::env::temp_dir();
    assert!(fs::metadata(&path).is_ok_and(|it| it.is_dir()));
    assert!(LockFile::read(path).is_err(), "a folder is no file");
}

type Spoil<'a> = &'a dyn Fn(&mut LockFile);
type Expected<'a> = &'a [(&'a str, &'a str)];

fn expect(what: &str, lock: &LockFile, expected: &[(&str, &str)]) -> Vec<Finding> {
    let findings = Verifier::new().lock(lock);
    assert!(has_errors(&findings), "{what}");
    for (path, rule) in expected {
        assert!(has(&findings, path, rule), "{what}: {path}: {findings:?}");
    }
    for finding in &findings {
        assert!(!finding.advice().is_empty());
        assert!(!finding.problem.to_string().is_empty());
    }
    findings
}

fn has(findings: &[Finding], path: &str, rule: &str) -> bool {
    findings
        .iter()
        .any(|it| it.path == path && it.rule() == rule)
}

/// Hashes a definition and signs it with the keys of those whose address is there.
fn resign(definition: &mut Definition) {
    // An address that is none has no hash.
    let Ok(config_hash) = definition.compute_config_hash() else {
        return;
    };
    definition.config_hash = config_hash.to_vec();
    let (version, chain) = (definition.version, cluster::HOODI_CHAIN);
    for (index, operator) in definition.operators.iter_mut().enumerate() {
        if !operator.config_signature.is_empty() {
            let digest = eip712::operator_config_digest(version, &config_hash, chain);
            operator.config_signature = cluster::operator_key(index).sign(&digest).to_vec();
        }
    }
    if !definition.creator.config_signature.is_empty() {
        let digest = eip712::creator_config_digest(&config_hash, chain);
        definition.creator.config_signature = cluster::operator_key(99).sign(&digest).to_vec();
    }
    definition.update_hashes().unwrap();
}
