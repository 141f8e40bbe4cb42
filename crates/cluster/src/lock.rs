//! `cluster-lock.json`: the cluster as its key-generation ceremony left it.
//!
//! Spec: cluster, sections 1.1 to 1.3, 4.1 and 4.2.
//!
//! Fields that only hashes, signatures and deposits need are not read.
//!
//! - **Bounds:** [`MAX_LOCK_BYTES`], [`MAX_OPERATORS`], [`MAX_VALIDATORS`].
//! - **Cost:** about 0.1 ms for each public share, whose curve point is checked here and once.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    io::Read,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use pluto_core::{PeerIdx, PubKey, ShareIdx};
use pluto_crypto::{bls, enr, k1};
use serde::Deserialize;

/// Largest lock file that is read. 65,536 validators of 10 operators with a few deposits each
/// need about 200 MB.
pub const MAX_LOCK_BYTES: u64 = 256 << 20;
/// Most operators: the limit in the lock hash's operator list (cluster spec, section 2.2).
pub const MAX_OPERATORS: usize = 256;
/// Most validators: the limit in the lock hash's validator list (cluster spec, section 2.2).
pub const MAX_VALIDATORS: usize = 65_536;

/// The versions of the file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum Version {
    V1_0,
    V1_1,
    V1_2,
    V1_3,
    V1_4,
    V1_5,
    V1_6,
    V1_7,
    V1_8,
    V1_9,
    V1_10,
    V1_11,
}

impl Version {
    const ALL: [(Self, &'static str); 12] = [
        (Self::V1_0, "v1.0.0"),
        (Self::V1_1, "v1.1.0"),
        (Self::V1_2, "v1.2.0"),
        (Self::V1_3, "v1.3.0"),
        (Self::V1_4, "v1.4.0"),
        (Self::V1_5, "v1.5.0"),
        (Self::V1_6, "v1.6.0"),
        (Self::V1_7, "v1.7.0"),
        (Self::V1_8, "v1.8.0"),
        (Self::V1_9, "v1.9.0"),
        (Self::V1_10, "v1.10.0"),
        (Self::V1_11, "v1.11.0"),
    ];

    fn parse(text: &str) -> Option<Self> {
        let (version, _) = Self::ALL.into_iter().find(|(_, name)| *name == text)?;
        Some(version)
    }

    /// Byte fields were base64 before they became hex.
    fn bytes(self, text: &str) -> Result<Vec<u8>, ValueError> {
        if self >= Self::V1_2 {
            return hex0x(text);
        }
        STANDARD.decode(text).map_err(|_| ValueError::Base64)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].1)
    }
}

/// One operator of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator {
    /// Its place in operator order.
    pub idx: PeerIdx,
    /// The node's identity, from its ENR.
    pub public_key: k1::PublicKey,
    /// The libp2p peer id of that identity.
    pub peer_id: [u8; k1::PEER_ID_BYTES],
}

/// One validator of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validator {
    /// The group public key; not checked to be a point of the curve.
    pub pubkey: PubKey,
    /// One public share for each operator, in operator order.
    pub public_shares: Vec<bls::PublicKey>,
}

/// A cluster lock that was read and not verified.
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

/// Why a file gave no lock.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file system refused.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no lock.
    #[error("{} is not a usable cluster lock", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        source: LockError,
    },
}

/// Why bytes are no lock. `at` is the place in the JSON.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// More than [`MAX_LOCK_BYTES`].
    #[error("lock has more than {MAX_LOCK_BYTES} bytes")]
    TooLarge,
    /// Not JSON, or a field is missing or of another type; the source says where.
    #[error("lock is not the JSON it should be")]
    Json(#[source] serde_json::Error),
    /// A version that is not known.
    #[error("cluster_definition.version `{version}` is not supported")]
    UnsupportedVersion {
        /// As in the file.
        version: String,
    },
    /// A value that does not mean what it should.
    #[error("{at} is not usable")]
    Value {
        /// The place.
        at: String,
        /// What is wrong.
        source: ValueError,
    },
    /// No operator, or more than [`MAX_OPERATORS`].
    #[error("cluster_definition.operators has {count} entries; 1 to {MAX_OPERATORS} are possible")]
    OperatorCount {
        /// How many.
        count: usize,
    },
    /// Two operators with one identity.
    #[error("cluster_definition.operators[{second}] has the identity of operators[{first}]")]
    DuplicateOperator {
        /// The earlier one.
        first: usize,
        /// The later one.
        second: usize,
    },
    /// A threshold that no set of operators can meet, or that none is needed for.
    #[error("cluster_definition.threshold is {threshold} with {operators} operators")]
    Threshold {
        /// The threshold.
        threshold: i64,
        /// How many operators.
        operators: usize,
    },
    /// More validators than [`MAX_VALIDATORS`].
    #[error("distributed_validators has {count} entries, more than {MAX_VALIDATORS}")]
    ValidatorCount {
        /// How many.
        count: usize,
    },
    /// Two validators with one group public key.
    #[error(
        "distributed_validators[{second}] has the public key of distributed_validators[{first}]"
    )]
    DuplicateValidator {
        /// The earlier one.
        first: usize,
        /// The later one.
        second: usize,
    },
    /// Not one public share for each operator.
    #[error(
        "distributed_validators[{validator}].public_shares has {shares} entries for {operators} operators"
    )]
    ShareCount {
        /// Which validator.
        validator: usize,
        /// How many shares.
        shares: usize,
        /// How many operators.
        operators: usize,
    },
}

/// What is wrong with one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// Not hex.
    #[error("not hex digits in pairs")]
    Hex,
    /// Not base64.
    #[error("not padded standard base64")]
    Base64,
    /// Another number of bytes.
    #[error("{len} bytes instead of {expected}")]
    Length {
        /// How many there should be.
        expected: usize,
        /// How many there are.
        len: usize,
    },
    /// No node record.
    #[error("no valid ENR")]
    Enr(#[from] enr::Error),
    /// No point of the curve.
    #[error("no valid BLS public key")]
    PublicKey(#[from] bls::Error),
}

impl Lock {
    /// Reads a lock file. Reading is not verifying.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ReadError> {
        let path = path.as_ref();
        let io_error = |source| ReadError::Io {
            path: path.to_owned(),
            source,
        };
        let mut json = Vec::new();
        fs::File::open(path)
            .map_err(io_error)?
            .take(MAX_LOCK_BYTES + 1)
            .read_to_end(&mut json)
            .map_err(io_error)?;
        Self::from_json(&json).map_err(|source| ReadError::Lock {
            path: path.to_owned(),
            source,
        })
    }

    /// Reads the content of a lock file. Reading is not verifying.
    pub fn from_json(json: &[u8]) -> Result<Self, LockError> {
        if json.len() as u64 > MAX_LOCK_BYTES {
            return Err(LockError::TooLarge);
        }
        // The version decides how the rest is read, so it is judged first.
        let VersionJson {
            cluster_definition: DefinitionVersionJson { version },
        } = serde_json::from_slice(json).map_err(LockError::Json)?;
        let Some(version) = Version::parse(&version) else {
            return Err(LockError::UnsupportedVersion { version });
        };
        let lock: LockJson = serde_json::from_slice(json).map_err(LockError::Json)?;
        let definition = lock.cluster_definition;

        let operators = operators(definition.operators.unwrap_or_default())?;
        let threshold = threshold(definition.threshold, operators.len())?;
        let (validators, by_pubkey) = validators(
            version,
            lock.distributed_validators.unwrap_or_default(),
            operators.len(),
        )?;
        Ok(Self {
            name: definition.name,
            uuid: definition.uuid,
            version,
            threshold,
            fork_version: at(hex0x(&definition.fork_version).and_then(exact), || {
                "cluster_definition.fork_version".into()
            })?,
            lock_hash: at(version.bytes(&lock.lock_hash).and_then(exact), || {
                "lock_hash".into()
            })?,
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

fn operators(operators: Vec<OperatorJson>) -> Result<Vec<Operator>, LockError> {
    let count = operators.len();
    if !(1..=MAX_OPERATORS).contains(&count) {
        return Err(LockError::OperatorCount { count });
    }
    let mut read: Vec<Operator> = Vec::with_capacity(count);
    for (second, operator) in operators.into_iter().enumerate() {
        let enr = at(enr::Enr::parse(&operator.enr).map_err(Into::into), || {
            format!("cluster_definition.operators[{second}].enr")
        })?;
        let public_key = *enr.public_key();
        if let Some(first) = read.iter().position(|it| it.public_key == public_key) {
            return Err(LockError::DuplicateOperator { first, second });
        }
        let idx = u32::try_from(second).ok().and_then(PeerIdx::new);
        read.push(Operator {
            idx: idx.expect("the number of operators is bounded"),
            public_key,
            peer_id: k1::peer_id_bytes(&public_key),
        });
    }
    Ok(read)
}

fn threshold(threshold: i64, operators: usize) -> Result<u32, LockError> {
    u32::try_from(threshold)
        .ok()
        .filter(|it| (1..=operators).contains(&(*it as usize)))
        .ok_or(LockError::Threshold {
            threshold,
            operators,
        })
}

type Validators = (Vec<Validator>, BTreeMap<PubKey, usize>);

fn validators(
    version: Version,
    validators: Vec<ValidatorJson>,
    operators: usize,
) -> Result<Validators, LockError> {
    let count = validators.len();
    if count > MAX_VALIDATORS {
        return Err(LockError::ValidatorCount { count });
    }
    let mut read = Vec::with_capacity(count);
    let mut by_pubkey = BTreeMap::new();
    for (index, validator) in validators.into_iter().enumerate() {
        // Hex in every version.
        let pubkey = at(
            hex0x(&validator.distributed_public_key).and_then(exact),
            || format!("distributed_validators[{index}].distributed_public_key"),
        )?;
        let pubkey = PubKey::new(pubkey);
        if let Some(first) = by_pubkey.insert(pubkey, index) {
            return Err(LockError::DuplicateValidator {
                first,
                second: index,
            });
        }
        let shares = validator.public_shares.unwrap_or_default();
        if shares.len() != operators {
            return Err(LockError::ShareCount {
                validator: index,
                shares: shares.len(),
                operators,
            });
        }
        let public_shares = shares.iter().enumerate().map(|(share, text)| {
            let key = version
                .bytes(text)
                .and_then(exact)
                .and_then(|bytes| Ok(bls::PublicKey::from_bytes(&bytes)?));
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

fn hex0x(text: &str) -> Result<Vec<u8>, ValueError> {
    hex::decode(text.strip_prefix("0x").unwrap_or(text)).map_err(|_| ValueError::Hex)
}

fn exact<const N: usize>(bytes: Vec<u8>) -> Result<[u8; N], ValueError> {
    let len = bytes.len();
    bytes
        .try_into()
        .map_err(|_| ValueError::Length { expected: N, len })
}

#[derive(Deserialize)]
struct VersionJson {
    cluster_definition: DefinitionVersionJson,
}

#[derive(Deserialize)]
struct DefinitionVersionJson {
    version: String,
}

#[derive(Deserialize)]
struct LockJson {
    cluster_definition: DefinitionJson,
    distributed_validators: Option<Vec<ValidatorJson>>,
    lock_hash: String,
}

#[derive(Deserialize)]
struct DefinitionJson {
    #[serde(default)]
    name: String,
    uuid: String,
    threshold: i64,
    fork_version: String,
    operators: Option<Vec<OperatorJson>>,
}

#[derive(Deserialize)]
struct OperatorJson {
    enr: String,
}

#[derive(Deserialize)]
struct ValidatorJson {
    distributed_public_key: String,
    public_shares: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

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
        assert!(matches!(err, LockError::UnsupportedVersion { version } if version == "v1.12.0"));
    }

    #[test]
    fn threshold_is_from_one_to_the_number_of_operators() {
        for (threshold, ok) in [(-1, false), (0, false), (1, true), (3, true), (4, false)] {
            let mut lock = lock();
            lock["cluster_definition"]["threshold"] = json!(threshold);
            let read = Lock::from_json(lock.to_string().as_bytes());
            assert_eq!(read.is_ok(), ok, "{threshold}");
            assert!(ok || matches!(read, Err(LockError::Threshold { operators: 3, .. })));
        }
    }

    #[test]
    fn operators_and_validators_are_all_different() {
        let mut twice = lock();
        let first = twice["cluster_definition"]["operators"][0].clone();
        twice["cluster_definition"]["operators"][2] = first;
        assert!(matches!(
            refused(&twice),
            LockError::DuplicateOperator {
                first: 0,
                second: 2
            }
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
            ("/lock_hash", "0xzz", "lock_hash"),
            (
                "/cluster_definition/fork_version",
                "0x0000",
                "cluster_definition.fork_version",
            ),
            (
                "/cluster_definition/operators/1/enr",
                "enr:",
                "cluster_definition.operators[1].enr",
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
