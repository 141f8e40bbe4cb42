//! The config hash and the definition hash.
//!
//! Spec: cluster, sections 2.2 to 2.5. Both are roots of the same fields; the config hash leaves out
//! ENRs, signatures and itself.

use super::{Addresses, Creator, Definition, OperatorEntry};
use crate::{
    MAX_OPERATORS, MAX_VALIDATORS, Version,
    error::{FieldError, HashError, HashErrors, HashProblem},
    merkle::{self, Root},
};

const MAX_UUID: usize = 64;
const MAX_NAME: usize = 256;
const MAX_VERSION: usize = 16;
const MAX_TIMESTAMP: usize = 32;
const MAX_DKG_ALGORITHM: usize = 32;
const MAX_ENR: usize = 1024;
const MAX_CONSENSUS_PROTOCOL: usize = 256;
const FORK_VERSION_BYTES: usize = 4;
const SIGNATURE_BYTES: usize = 65;
const HASH_BYTES: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Config,
    Definition,
}

pub(super) fn config_root(definition: &Definition) -> Result<Root, HashErrors> {
    root(definition, Kind::Config)
}

pub(crate) fn definition_root(definition: &Definition) -> Result<Root, HashErrors> {
    root(definition, Kind::Definition)
}

fn root(definition: &Definition, kind: Kind) -> Result<Root, HashErrors> {
    let mut faults = Faults::default();
    let root = match definition.version {
        Version::V1_0 | Version::V1_1 | Version::V1_2 => legacy(definition, kind, &mut faults),
        Version::V1_3 | Version::V1_4 => dropping(definition, kind, &mut faults),
        _ => fixed(definition, kind, &mut faults),
    };
    faults.or(root)
}

/// Collects what cannot be hashed, so that all of it is reported.
#[derive(Default)]
pub(crate) struct Faults(Vec<HashError>);

impl Faults {
    /// The value, or a stand-in for one that cannot be hashed.
    pub(crate) fn check<T: Default>(
        &mut self,
        value: Result<T, HashProblem>,
        path: impl FnOnce() -> String,
    ) -> T {
        value.unwrap_or_else(|problem| {
            let path = path();
            self.0.push(FieldError { path, problem });
            T::default()
        })
    }

    pub(crate) fn extend(&mut self, errors: HashErrors) {
        self.0.extend(errors.errors);
    }

    /// The value, if nothing was wrong with what it was made of.
    pub(crate) fn or<T>(self, value: T) -> Result<T, HashErrors> {
        if self.0.is_empty() {
            return Ok(value);
        }
        Err(HashErrors { errors: self.0 })
    }
}

/// v1.0 to v1.2: texts as they are, and each empty value drops its leaf.
fn legacy(it: &Definition, kind: Kind, faults: &mut Faults) -> Root {
    let shared = it.shared_addresses();
    let fork_version = if it.fork_version.is_empty() {
        String::new()
    } else {
        format!("0x{}", hex::encode(&it.fork_version))
    };
    let text = |text: &str| merkle::raw(text.as_bytes());
    let mut leaves = vec![
        text(&it.uuid),
        text(&it.name),
        text(it.version.as_str()),
        Some(merkle::i64(it.num_validators)),
        Some(merkle::i64(it.threshold)),
        text(&shared.fee_recipient),
        text(&shared.withdrawal),
        text(&it.dkg_algorithm),
        text(&fork_version),
    ];
    let operators = it.operators.iter().filter_map(|operator| match kind {
        Kind::Config => text(&operator.address),
        Kind::Definition => {
            // The nonce, which is always 0.
            let nonce = it.version.has_base64().then(|| merkle::u64(0));
            let fields = [
                text(&operator.address),
                text(&operator.enr),
                nonce,
                merkle::raw(&operator.config_signature),
                merkle::raw(&operator.enr_signature),
            ];
            Some(merkle::container(fields.into_iter().flatten().collect()))
        }
    });
    let count = it.operators.len();
    let operators = merkle::list(operators.collect(), count, count);
    leaves.push(Some(faults.check(operators, || "operators".into())));
    if kind == Kind::Config || it.version != Version::V1_0 {
        leaves.push(text(&it.timestamp));
    }
    merkle::container(leaves.into_iter().flatten().collect())
}

/// v1.3 and v1.4: typed, and empty addresses, signatures and hashes still drop their leaves.
fn dropping(it: &Definition, kind: Kind, faults: &mut Faults) -> Root {
    let shared = it.shared_addresses();
    let mut leaves = head(it, faults);
    for (key, address) in [
        ("fee_recipient_address", &shared.fee_recipient),
        ("withdrawal_address", &shared.withdrawal),
    ] {
        leaves.extend(raw_address(address, faults, || key.into()));
    }
    leaves.push(dkg_algorithm(it, faults));
    leaves.extend(merkle::raw(&it.fork_version));

    let operators = it.operators.iter().enumerate().map(|(index, operator)| {
        let mut fields = Vec::with_capacity(4);
        fields.extend(raw_address(&operator.address, faults, || {
            format!("operators[{index}].address")
        }));
        if kind == Kind::Definition {
            fields.push(enr(operator, index, faults));
            fields.extend(merkle::raw(&operator.config_signature));
            fields.extend(merkle::raw(&operator.enr_signature));
        }
        merkle::container(fields)
    });
    let operators = operators.collect();
    leaves.push(operator_list(it, operators, faults));

    if it.version.has_creator() {
        let mut fields = Vec::with_capacity(2);
        fields.extend(raw_address(&it.creator.address, faults, || {
            "creator.address".into()
        }));
        if kind == Kind::Definition {
            fields.extend(merkle::raw(&it.creator.config_signature));
        }
        leaves.push(merkle::container(fields));
    }
    if kind == Kind::Definition {
        leaves.extend(merkle::raw(&it.config_hash));
    }
    merkle::container(leaves)
}

/// v1.5 and later: every field has a leaf, the config hash of v1.11 excepted.
fn fixed(it: &Definition, kind: Kind, faults: &mut Faults) -> Root {
    let version = it.version;
    let mut leaves = head(it, faults);
    leaves.push(dkg_algorithm(it, faults));
    leaves.push(
        faults.check(merkle::fixed(&it.fork_version, FORK_VERSION_BYTES), || {
            "fork_version".into()
        }),
    );

    let operators = it.operators.iter().enumerate().map(|(index, operator)| {
        let at = |key| move || format!("operators[{index}].{key}");
        let mut fields = vec![faults.check(merkle::address(&operator.address), at("address"))];
        if kind == Kind::Definition {
            fields.push(enr(operator, index, faults));
            for (key, bytes) in [
                ("config_signature", &operator.config_signature),
                ("enr_signature", &operator.enr_signature),
            ] {
                fields.push(faults.check(signature(version, bytes), at(key)));
            }
        }
        merkle::container(fields)
    });
    let operators = operators.collect();
    leaves.push(operator_list(it, operators, faults));
    leaves.push(creator(version, &it.creator, kind, faults));

    let none = Vec::new();
    let validators = match &it.addresses {
        Addresses::Each(list) => list,
        Addresses::Shared(_) => &none,
    };
    let roots = validators.iter().enumerate().map(|(index, addresses)| {
        let at = |key| move || format!("validators[{index}].{key}");
        merkle::container(vec![
            faults.check(
                merkle::address(&addresses.fee_recipient),
                at("fee_recipient_address"),
            ),
            faults.check(
                merkle::address(&addresses.withdrawal),
                at("withdrawal_address"),
            ),
        ])
    });
    let roots = roots.collect();
    leaves.push(faults.check(
        merkle::list(roots, validators.len(), MAX_VALIDATORS),
        || "validators".into(),
    ));

    if version.has_deposit_amounts() {
        leaves.push(faults.check(merkle::u64_list(&it.deposit_amounts), || {
            "deposit_amounts".into()
        }));
    }
    if version.has_consensus_protocol() {
        leaves.push(faults.check(
            merkle::text(&it.consensus_protocol, MAX_CONSENSUS_PROTOCOL),
            || "consensus_protocol".into(),
        ));
    }
    if version.has_gas_limit() {
        leaves.push(merkle::u64(it.target_gas_limit));
        leaves.push(merkle::bool(it.compounding));
    }
    if kind == Kind::Definition {
        if version.has_signature_lists() {
            leaves.extend(merkle::raw(&it.config_hash));
        } else {
            leaves.push(
                faults.check(merkle::fixed(&it.config_hash, HASH_BYTES), || {
                    "config_hash".into()
                }),
            );
        }
    }
    merkle::container(leaves)
}

/// The fields that start every typed layout.
fn head(it: &Definition, faults: &mut Faults) -> Vec<Root> {
    vec![
        faults.check(merkle::text(&it.uuid, MAX_UUID), || "uuid".into()),
        faults.check(merkle::text(&it.name, MAX_NAME), || "name".into()),
        faults.check(merkle::text(it.version.as_str(), MAX_VERSION), || {
            "version".into()
        }),
        faults.check(merkle::text(&it.timestamp, MAX_TIMESTAMP), || {
            "timestamp".into()
        }),
        merkle::i64(it.num_validators),
        merkle::i64(it.threshold),
    ]
}

fn dkg_algorithm(it: &Definition, faults: &mut Faults) -> Root {
    faults.check(merkle::text(&it.dkg_algorithm, MAX_DKG_ALGORITHM), || {
        "dkg_algorithm".into()
    })
}

fn enr(operator: &OperatorEntry, index: usize, faults: &mut Faults) -> Root {
    faults.check(merkle::text(&operator.enr, MAX_ENR), || {
        format!("operators[{index}].enr")
    })
}

fn operator_list(it: &Definition, operators: Vec<Root>, faults: &mut Faults) -> Root {
    let root = merkle::list(operators, it.operators.len(), MAX_OPERATORS);
    faults.check(root, || "operators".into())
}

fn creator(version: Version, creator: &Creator, kind: Kind, faults: &mut Faults) -> Root {
    let mut fields = vec![faults.check(merkle::address(&creator.address), || {
        "creator.address".into()
    })];
    if kind == Kind::Definition {
        fields.push(
            faults.check(signature(version, &creator.config_signature), || {
                "creator.config_signature".into()
            }),
        );
    }
    merkle::container(fields)
}

fn signature(version: Version, bytes: &[u8]) -> Result<Root, HashProblem> {
    if version.has_signature_lists() {
        merkle::signatures(bytes)
    } else {
        merkle::fixed(bytes, SIGNATURE_BYTES)
    }
}

fn raw_address(text: &str, faults: &mut Faults, path: impl FnOnce() -> String) -> Option<Root> {
    let bytes = faults.check(merkle::address_bytes(text), path);
    merkle::raw(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ValidatorAddresses;

    fn address(byte: &str) -> String {
        format!("0x{}", byte.repeat(20))
    }

    /// The definition of the cluster spec, appendix A.2.
    fn base(version: Version) -> Definition {
        let mut definition = Definition::empty(version);
        definition.uuid = "f4c00e58-1a54-4e55-8d76-2b2a6d4c3f9a".into();
        definition.name = "test-cluster-3of4".into();
        definition.timestamp = "2024-06-15T12:00:00Z".into();
        definition.num_validators = 2;
        definition.threshold = 3;
        definition.dkg_algorithm = "default".into();
        definition.fork_version = vec![0, 0, 0x10, 0x20];
        for (byte, enr) in [
            ("11", "enr:-Iu4QNHNMf"),
            ("22", "enr:-Iu4QABCDef"),
            ("33", "enr:-Iu4QXYZghi"),
        ] {
            definition.operators.push(OperatorEntry {
                address: address(byte),
                enr: enr.into(),
                ..OperatorEntry::default()
            });
        }
        definition.creator.address = address("11");
        let addresses = ValidatorAddresses {
            fee_recipient: address("aa"),
            withdrawal: address("bb"),
        };
        definition.addresses = if version.has_shared_addresses() {
            Addresses::Shared(addresses)
        } else {
            Addresses::Each(vec![addresses; 2])
        };
        if version.has_deposit_amounts() {
            definition.deposit_amounts = vec![32_000_000_000];
        }
        if version.has_consensus_protocol() {
            definition.consensus_protocol = "abft".into();
        }
        if version.has_gas_limit() {
            definition.target_gas_limit = 30_000_000;
            definition.compounding = true;
        }
        definition
    }

    #[test]
    fn config_hashes_are_those_of_charons_tests() {
        for (version, expected) in [
            (
                Version::V1_2,
                "36e332cad485463ba6deb041fd5b3949fd7a09e3c1eb456bb3d9f97b8ae31673",
            ),
            (
                Version::V1_3,
                "e314abc0c7bc2dbf22a4c6c044481880675e47eed15bf7b734ce2a275dfbf81a",
            ),
            (
                Version::V1_4,
                "068e5c2c4262e4fef6f99f858a3d7ceb2243bc411d9523d445a38752da68dec7",
            ),
            (
                Version::V1_5,
                "16612ab44e0e3605ab74f2d711afe6db71ab673967aa3be4ee565f3aa64415a9",
            ),
            (
                Version::V1_7,
                "c0ade8b834d7731f4076d364472be55974a9cb23ed97cc828bf5661b1df1c564",
            ),
            (
                Version::V1_8,
                "cbdb72b363a735e1f469cbd7983734d524001a68dcf3ab71153d69892fa0e36c",
            ),
            (
                Version::V1_9,
                "8c55a5a65d8f8dbecaf6fbd39a11c2e701ce3aba1dd7fdd212a35c2e196db34f",
            ),
            (
                Version::V1_10,
                "5e16fdd44a25d37ebce15ea9d2069ec9d0930ce8d3a0e9091f82edae5969b306",
            ),
        ] {
            let root = config_root(&base(version)).unwrap();
            assert_eq!(hex::encode(root), expected, "{version}");
        }
        let mut first = base(Version::V1_0);
        first.timestamp.clear();
        assert_eq!(
            hex::encode(config_root(&first).unwrap()),
            "90336d34257fd9b1c2b6b119d008e7f0cff112e91455e24b0666e23aae480216"
        );
    }

    #[test]
    fn definition_hashes_are_those_of_charons_tests() {
        for (version, expected) in [
            (
                Version::V1_2,
                "c81916384a24056a596f2d87daf6f2693c12f9df9601122436dfbce0c0e51ed2",
            ),
            // Without a config hash its leaf is dropped.
            (
                Version::V1_3,
                "6fb8988d9ecfc3abab94b79e1abd07564004a1da3b59a84d3158b2a001ee2fd5",
            ),
        ] {
            let root = definition_root(&base(version)).unwrap();
            assert_eq!(hex::encode(root), expected, "{version}");
        }
    }

    #[test]
    fn shared_addresses_of_no_validator_are_lost() {
        for version in [Version::V1_0, Version::V1_4] {
            let mut none = base(version);
            none.num_validators = 0;
            let mut negative = none.clone();
            negative.num_validators = -1;
            let mut empty = none.clone();
            empty.addresses = Addresses::Shared(ValidatorAddresses::default());

            assert_eq!(config_root(&none), config_root(&empty));
            assert!(config_root(&negative).is_ok());
        }
    }

    #[test]
    fn everything_that_has_no_hash_is_named() {
        let mut bad = base(Version::V1_10);
        bad.uuid = "u".repeat(65);
        bad.fork_version = vec![0; 5];
        bad.operators[2].address = "0x11".into();
        bad.operators[1].config_signature = vec![0; 66];
        bad.creator.address = "zz".into();
        bad.config_hash = vec![0; 33];

        let errors = definition_root(&bad).unwrap_err().errors;
        let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "uuid",
                "fork_version",
                "operators[1].config_signature",
                "operators[2].address",
                "creator.address",
                "config_hash",
            ]
        );
        assert_eq!(config_root(&bad).unwrap_err().errors.len(), 4);
    }
}
