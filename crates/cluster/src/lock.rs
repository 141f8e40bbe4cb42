//! A lock that a node can use: who signs, with which public shares.
//!
//! Spec: cluster, sections 4.1, 4.2 and 5.3.
//!
//! - **Cost:** about 0.1 ms for each public share, whose curve point is checked here and once.

use std::{collections::BTreeMap, path::Path};

use pluto_core::{PeerIdx, PubKey, ShareIdx};
use pluto_crypto::{bls, k1};

use crate::{
    LockFile, MAX_LOCK_BYTES, Operator, Version, disk,
    error::{LockError, ReadError, ValueError},
    lock_file::ValidatorEntry,
};

/// One validator of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validator {
    /// The group public key; not checked to be a point of the curve.
    pub pubkey: PubKey,
    /// One public share for each operator, in operator order.
    pub public_shares: Vec<bls::PublicKey>,
}

/// A cluster lock that is consistent and was not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    name: String,
    uuid: String,
    version: Version,
    threshold: u32,
    fork_version: [u8; 4],
    lock_hash: [u8; 32],
    operators: Vec<Operator>,
    validators: Vec<Validator>,
    by_pubkey: BTreeMap<PubKey, usize>,
}

impl Lock {
    /// Reads a lock file. Reading is not verifying.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ReadError> {
        let path = path.as_ref();
        let json = disk::read(path, MAX_LOCK_BYTES)?;
        Self::from_json(&json).map_err(|source| ReadError::Lock {
            path: path.to_owned(),
            source,
        })
    }

    /// Reads the content of a lock file. Reading is not verifying.
    pub fn from_json(json: &[u8]) -> Result<Self, LockError> {
        Self::from_file(&LockFile::from_json(json)?)
    }

    /// Takes from a lock what a node needs.
    pub fn from_file(file: &LockFile) -> Result<Self, LockError> {
        let definition = &file.definition;
        let operators = definition.members()?;
        let threshold = definition.usable_threshold()?;
        let (validators, by_pubkey) = validators(&file.validators, operators.len())?;
        Ok(Self {
            name: definition.name.clone(),
            uuid: definition.uuid.clone(),
            version: definition.version,
            threshold,
            fork_version: at(exact(&definition.fork_version), || {
                "cluster_definition.fork_version".into()
            })?,
            lock_hash: at(exact(&file.lock_hash), || "lock_hash".into())?,
            operators,
            validators,
            by_pubkey,
        })
    }

    /// The name; empty if none was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The UUID, in the letter case of the file.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The version of the file format.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// How many partial signatures make one: 1 to the number of operators.
    #[must_use]
    pub const fn threshold(&self) -> u32 {
        self.threshold
    }

    /// The genesis fork version, which names the network.
    #[must_use]
    pub const fn fork_version(&self) -> [u8; 4] {
        self.fork_version
    }

    /// The hash that the file states; not recomputed.
    #[must_use]
    pub const fn lock_hash(&self) -> [u8; 32] {
        self.lock_hash
    }

    /// The operators, in order; never empty, all different.
    #[must_use]
    pub fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// The validators, in order; all different.
    #[must_use]
    pub fn validators(&self) -> &[Validator] {
        &self.validators
    }

    /// Which operator has this identity.
    #[must_use]
    pub fn operator_of(&self, key: &k1::PublicKey) -> Option<PeerIdx> {
        let operator = self.operators.iter().find(|it| it.public_key == *key)?;
        Some(operator.idx)
    }

    /// The key that partial signatures of one share of one validator verify against.
    #[must_use]
    pub fn public_share(&self, pubkey: &PubKey, share: ShareIdx) -> Option<&bls::PublicKey> {
        let validator = &self.validators[*self.by_pubkey.get(pubkey)?];
        validator.public_shares.get(PeerIdx::from(share).as_usize())
    }
}

type Validators = (Vec<Validator>, BTreeMap<PubKey, usize>);

fn validators(validators: &[ValidatorEntry], operators: usize) -> Result<Validators, LockError> {
    let mut read = Vec::with_capacity(validators.len());
    let mut by_pubkey = BTreeMap::new();
    for (index, validator) in validators.iter().enumerate() {
        let pubkey = at(exact(&validator.pubkey), || {
            format!("distributed_validators[{index}].distributed_public_key")
        })?;
        let pubkey = PubKey::new(pubkey);
        if let Some(first) = by_pubkey.insert(pubkey, index) {
            return Err(LockError::DuplicateValidator {
                first,
                second: index,
            });
        }
        let shares = &validator.public_shares;
        if shares.len() != operators {
            return Err(LockError::ShareCount {
                validator: index,
                shares: shares.len(),
                operators,
            });
        }
        let public_shares = shares.iter().enumerate().map(|(share, bytes)| {
            let key = exact(bytes).and_then(|bytes| Ok(bls::PublicKey::from_bytes(&bytes)?));
            at(key, || {
                format!("distributed_validators[{index}].public_shares[{share}]")
            })
        });
        read.push(Validator {
            pubkey,
            public_shares: public_shares.collect::<Result<_, _>>()?,
        });
    }
    Ok((read, by_pubkey))
}

fn at<T>(value: Result<T, ValueError>, at: impl FnOnce() -> String) -> Result<T, LockError> {
    value.map_err(|source| LockError::Value { at: at(), source })
}

fn exact<const N: usize>(bytes: &[u8]) -> Result<[u8; N], ValueError> {
    bytes.try_into().map_err(|_| ValueError::Length {
        expected: N,
        len: bytes.len(),
    })
}

#[cfg(test)]
mod tests {
    use pluto_crypto::enr;
    use serde_json::{Value, json};

    use super::*;
    use crate::{MembersError, ParseProblem};

    #[test]
    fn well_formed_lock_is_read() {
        let lock = Lock::from_json(lock().to_string().as_bytes()).unwrap();

        assert_eq!(lock.threshold(), 2);
        assert_eq!(lock.version().to_string(), "v1.10.0");
        assert_eq!(lock.fork_version(), [0x10, 0, 9, 0x10]);
        let second = lock.operators()[1];
        assert_eq!(lock.operator_of(&second.public_key), Some(second.idx));
        let validator = &lock.validators()[0];
        let share = |idx| lock.public_share(&validator.pubkey, ShareIdx::new(idx).unwrap());
        assert_eq!(share(1), Some(&validator.public_shares[0]));
        assert_eq!(share(3), Some(&validator.public_shares[2]));
        assert_eq!(share(4), None);
        let stranger = k1::SecretKey::generate().public_key();
        assert_eq!(lock.operator_of(&stranger), None);
        let unknown = PubKey::new([1; 48]);
        assert_eq!(lock.public_share(&unknown, ShareIdx::new(1).unwrap()), None);
    }

    #[test]
    fn unknown_version_is_refused_before_anything_else() {
        let json = json!({"cluster_definition": {"version": "v1.12.0"}});

        let err = Lock::from_json(json.to_string().as_bytes()).unwrap_err();
        let LockError::Parse(err) = err else {
            panic!("{err}");
        };
        assert_eq!(err.path, "cluster_definition.version");
        let version = "v1.12.0".into();
        assert_eq!(err.problem, ParseProblem::UnsupportedVersion { version });
    }

    #[test]
    fn threshold_is_from_one_to_the_number_of_operators() {
        for (threshold, ok) in [(-1, false), (0, false), (1, true), (3, true), (4, false)] {
            let mut lock = lock();
            lock["cluster_definition"]["threshold"] = json!(threshold);
            let read = Lock::from_json(lock.to_string().as_bytes());
            assert_eq!(read.is_ok(), ok, "{threshold}");
            assert!(
                ok || matches!(
                    read,
                    Err(LockError::Members(MembersError::Threshold {
                        operators: 3,
                        ..
                    }))
                )
            );
        }
    }

    #[test]
    fn operators_and_validators_are_all_different() {
        let mut twice = lock();
        let first = twice["cluster_definition"]["operators"][0].clone();
        twice["cluster_definition"]["operators"][2] = first;
        assert!(matches!(
            refused(&twice),
            LockError::Members(MembersError::DuplicateOperator {
                first: 0,
                second: 2
            })
        ));

        let mut twice = lock();
        let first = twice["distributed_validators"][0].clone();
        twice["distributed_validators"] = json!([first, first]);
        assert!(matches!(
            refused(&twice),
            LockError::DuplicateValidator {
                first: 0,
                second: 1
            }
        ));
    }

    #[test]
    fn each_validator_has_one_share_for_each_operator() {
        for count in [0, 2, 4] {
            let mut lock = lock();
            let shares = &mut lock["distributed_validators"][0]["public_shares"];
            let share = shares[0].clone();
            *shares = json!(vec![share; count]);
            assert!(matches!(
                refused(&lock),
                LockError::ShareCount { validator: 0, shares, operators: 3 } if shares == count
            ));
        }
    }

    #[test]
    fn bad_values_are_located() {
        for (pointer, value, place) in [
            ("/lock_hash", "0x00", "lock_hash"),
            (
                "/cluster_definition/fork_version",
                "0x0000",
                "cluster_definition.fork_version",
            ),
            (
                "/distributed_validators/0/distributed_public_key",
                "",
                "distributed_validators[0].distributed_public_key",
            ),
            (
                "/distributed_validators/0/public_shares/2",
                "0x00",
                "distributed_validators[0].public_shares[2]",
            ),
        ] {
            let mut lock = lock();
            *lock.pointer_mut(pointer).unwrap() = json!(value);
            match refused(&lock) {
                LockError::Value { at, .. } => assert_eq!(at, place),
                other => panic!("{pointer}: {other}"),
            }
        }
    }

    #[test]
    fn missing_file_is_named() {
        let err = Lock::read("no-such-lock.json").unwrap_err();

        assert!(err.to_string().contains("no-such-lock.json"));
        assert!(matches!(err, ReadError::Io { .. }));
    }

    fn refused(lock: &Value) -> LockError {
        Lock::from_json(lock.to_string().as_bytes()).unwrap_err()
    }

    /// Three operators, threshold two, one validator.
    fn lock() -> Value {
        let operator = || {
            let enr = enr::Enr::for_key(&k1::SecretKey::generate());
            json!({"address": "", "enr": enr.text()})
        };
        let key = || bls::SecretKey::generate().public_key().to_string();
        json!({
            "cluster_definition": {
                "uuid": "A",
                "version": "v1.10.0",
                "threshold": 2,
                "fork_version": "0x10000910",
                "operators": [operator(), operator(), operator()],
            },
            "distributed_validators": [{
                "distributed_public_key": key(),
                "public_shares": [key(), key(), key()],
            }],
            "lock_hash": format!("0x{}", "11".repeat(32)),
        })
    }
}
