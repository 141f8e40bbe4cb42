//! `cluster-lock.json`: the cluster as its key-generation ceremony left it.
//!
//! Spec: cluster, section 4.
//!
//! [`LockFile`] is what stands in a file, no more: it is read exactly when Charon reads it. A node
//! that uses a lock wants [`Lock`](crate::Lock).
//!
//! - **Bounds:** [`MAX_LOCK_BYTES`], [`MAX_VALIDATORS`], [`MAX_OPERATORS`] shares and node signatures,
//!   [`MAX_DEPOSIT_AMOUNTS`] deposits of one validator.

use std::path::Path;

use crate::{
    Definition, MAX_DEPOSIT_AMOUNTS, MAX_OPERATORS, MAX_VALIDATORS, Version,
    definition::{Faults, definition_root, known_version, read_definition, read_version},
    disk::{self, FileMode, WriteError},
    error::{HashErrors, ParseError, ParseProblem, ReadError},
    json::{Reader, Writer},
    merkle::{self, Root},
};

/// Largest lock file that is read. 65,536 validators of 10 operators with a few deposits each
/// need about 200 MB.
pub const MAX_LOCK_BYTES: u64 = 256 << 20;

const PUBKEY_BYTES: usize = 48;
const SIGNATURE_BYTES: usize = 96;
const CREDENTIALS_BYTES: usize = 32;

/// The content of a lock file, as it stands there.
///
/// Fields that the version does not have are empty and are not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockFile {
    /// What the operators wanted. Its version is that of the whole file.
    pub definition: Definition,
    /// The validators, in order.
    pub validators: Vec<ValidatorEntry>,
    /// The sum of the signatures of the lock hash by every share of every validator.
    pub signature_aggregate: Vec<u8>,
    /// The hash of definition and validators, as the file states it.
    pub lock_hash: Vec<u8>,
    /// Each operator's signature of the lock hash, in operator order (v1.7 and later).
    pub node_signatures: Vec<Vec<u8>>,
}

/// One validator, as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ValidatorEntry {
    /// The group public key.
    pub pubkey: Vec<u8>,
    /// One public share for each operator, in operator order.
    pub public_shares: Vec<Vec<u8>>,
    /// Signed deposits: none before v1.6, exactly one in v1.6 and v1.7, any number since.
    pub deposits: Vec<Deposit>,
    /// What builders are told (v1.7 and later).
    pub registration: Registration,
}

/// A deposit, signed by the group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Deposit {
    /// The group public key.
    pub pubkey: Vec<u8>,
    /// Who gets the stake back.
    pub withdrawal_credentials: Vec<u8>,
    /// In gwei.
    pub amount: i64,
    /// The group's signature.
    pub signature: Vec<u8>,
}

/// A builder registration, signed by the group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registration {
    /// Who gets the priority fees.
    pub fee_recipient: Vec<u8>,
    /// The gas limit that is asked for.
    pub gas_limit: i64,
    /// Seconds since 1970; may be negative.
    pub timestamp: i64,
    /// The group public key.
    pub pubkey: Vec<u8>,
    /// The group's signature.
    pub signature: Vec<u8>,
}

impl LockFile {
    /// Reads a lock file. Reading is not verifying.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ReadError> {
        let path = path.as_ref();
        let json = disk::read(path, MAX_LOCK_BYTES)?;
        Self::from_json(&json).map_err(|source| ReadError::Parse {
            path: path.to_owned(),
            source,
        })
    }

    /// Reads the content of a lock file. Reading is not verifying.
    pub fn from_json(json: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(json);
        if json.len() as u64 > MAX_LOCK_BYTES {
            return Err(reader.error(ParseProblem::TooLarge {
                max: MAX_LOCK_BYTES,
            }));
        }
        // The version stands in the definition and decides how everything is read.
        let mut version = String::new();
        reader.object(&["cluster_definition"], |reader, _| {
            read_version(reader, &mut version)
        })?;
        reader.end()?;
        let version = known_version(&mut reader, "cluster_definition.version", &version)?;
        reader.rewind(0);
        read_lock(&mut reader, version)
    }

    /// The content of a file that says this, byte for byte as Charon writes it.
    ///
    /// All hashes are computed; what is stored in their fields does not count.
    pub fn to_json(&self) -> Result<Vec<u8>, HashErrors> {
        let mut hashed = self.clone();
        hashed.update_hashes()?;
        let mut writer = Writer::new();
        hashed.write(&mut writer);
        Ok(writer.finish())
    }

    /// Writes a file, whole or not at all, where nothing is yet. The folder must exist.
    pub fn create_file(&self, path: impl AsRef<Path>, mode: FileMode) -> Result<(), WriteError> {
        disk::create(path.as_ref(), self.to_json(), mode)
    }

    /// The hash of definition and validators. Of the definition's hashes, the stored config hash
    /// counts and its definition hash does not.
    pub fn compute_lock_hash(&self) -> Result<Root, HashErrors> {
        let mut faults = Faults::default();
        let definition = match definition_root(&self.definition) {
            Ok(root) => root,
            Err(errors) => {
                faults.extend(errors.inside("cluster_definition"));
                Root::default()
            }
        };
        let validators = self.validator_list(&mut faults);
        faults.or(merkle::container(vec![definition, validators]))
    }

    /// Computes and stores the definition's hashes and the lock hash.
    pub fn update_hashes(&mut self) -> Result<(), HashErrors> {
        self.definition
            .update_hashes()
            .map_err(|errors| errors.inside("cluster_definition"))?;
        self.lock_hash = self.compute_lock_hash()?.to_vec();
        Ok(())
    }

    fn validator_list(&self, faults: &mut Faults) -> Root {
        let version = self.definition.version;
        let count = self.validators.len();
        let limit = if version <= Version::V1_2 {
            count
        } else {
            MAX_VALIDATORS
        };
        let validators = self.validators.iter().enumerate().map(|(index, it)| {
            it.root(version, faults, |key| {
                format!("distributed_validators[{index}].{key}")
            })
        });
        let validators = validators.collect();
        faults.check(merkle::list(validators, count, limit), || {
            "distributed_validators".into()
        })
    }

    fn write(&self, out: &mut Writer) {
        let version = self.definition.version;
        out.object(|out| {
            self.definition.write(out.key("cluster_definition"));
            out.key("distributed_validators")
                .list(&self.validators, |out, validator| {
                    validator.write(version, out);
                });
            out.key("signature_aggregate")
                .bytes(version, &self.signature_aggregate);
            out.key("lock_hash").bytes(version, &self.lock_hash);
            if version.has_registrations() {
                out.key("node_signatures")
                    .list_or_empty(&self.node_signatures, |out, it| out.hex(it));
            }
        });
    }
}

impl ValidatorEntry {
    fn root(&self, version: Version, faults: &mut Faults, at: impl Fn(&str) -> String) -> Root {
        if version <= Version::V1_2 {
            return self.legacy_root(faults, at);
        }
        let mut leaves = Vec::with_capacity(6);
        if version <= Version::V1_4 {
            leaves.extend(merkle::raw(&self.pubkey));
        } else {
            leaves.push(faults.check(merkle::fixed(&self.pubkey, PUBKEY_BYTES), || {
                at("distributed_public_key")
            }));
        }

        let shares = self.public_shares.iter().enumerate().map(|(index, share)| {
            faults.check(merkle::fixed(share, PUBKEY_BYTES), || {
                at(&format!("public_shares[{index}]"))
            })
        });
        let shares = shares.collect();
        leaves.push(faults.check(
            merkle::list(shares, self.public_shares.len(), MAX_OPERATORS),
            || at("public_shares"),
        ));

        match version {
            // The fields of the deposit are fields of the validator here: an old mistake.
            Version::V1_6 => leaves.extend(
                self.one_deposit()
                    .leaves(faults, |key| at(&format!("deposit_data.{key}"))),
            ),
            Version::V1_7 => {
                let leaves_of_deposit = self
                    .one_deposit()
                    .leaves(faults, |key| at(&format!("deposit_data.{key}")));
                leaves.push(merkle::container(leaves_of_deposit));
            }
            _ if version.has_deposit_amounts() => {
                let deposits = self.deposits.iter().enumerate().map(|(index, deposit)| {
                    merkle::container(deposit.leaves(faults, |key| {
                        at(&format!("partial_deposit_data[{index}].{key}"))
                    }))
                });
                let deposits = deposits.collect();
                leaves.push(faults.check(
                    merkle::list(deposits, self.deposits.len(), MAX_DEPOSIT_AMOUNTS),
                    || at("partial_deposit_data"),
                ));
            }
            _ => {}
        }
        if version.has_registrations() {
            leaves.push(self.registration.root(faults, at));
        }
        merkle::container(leaves)
    }

    fn legacy_root(&self, faults: &mut Faults, at: impl Fn(&str) -> String) -> Root {
        let pubkey = if self.pubkey.is_empty() {
            String::new()
        } else {
            format!("0x{}", hex::encode(&self.pubkey))
        };
        let count = self.public_shares.len();
        let shares = self.public_shares.iter();
        let shares = shares.filter_map(|share| merkle::raw(share)).collect();
        let shares = faults.check(merkle::list(shares, count, count), || at("public_shares"));
        let leaves = [merkle::raw(pubkey.as_bytes()), Some(shares)];
        merkle::container(leaves.into_iter().flatten().collect())
    }

    /// The deposit of the versions that have exactly one.
    fn one_deposit(&self) -> Deposit {
        self.deposits.first().cloned().unwrap_or_default()
    }

    fn write(&self, version: Version, out: &mut Writer) {
        out.object(|out| {
            out.key("distributed_public_key").hex(&self.pubkey);
            if !self.public_shares.is_empty() {
                out.key("public_shares")
                    .list(&self.public_shares, |out, it| out.bytes(version, it));
            }
            if has_one_deposit(version) {
                self.one_deposit().write(out.key("deposit_data"));
            }
            if version.has_registrations() {
                self.registration.write(out.key("builder_registration"));
            }
            if version.has_deposit_amounts() && !self.deposits.is_empty() {
                out.key("partial_deposit_data")
                    .list(&self.deposits, |out, it| it.write(out));
            }
        });
    }
}

impl Deposit {
    fn leaves(&self, faults: &mut Faults, at: impl Fn(&str) -> String) -> Vec<Root> {
        vec![
            faults.check(merkle::fixed(&self.pubkey, PUBKEY_BYTES), || at("pubkey")),
            faults.check(
                merkle::fixed(&self.withdrawal_credentials, CREDENTIALS_BYTES),
                || at("withdrawal_credentials"),
            ),
            merkle::i64(self.amount),
            faults.check(merkle::fixed(&self.signature, SIGNATURE_BYTES), || {
                at("signature")
            }),
        ]
    }

    fn write(&self, out: &mut Writer) {
        out.object(|out| {
            out.key("pubkey").hex(&self.pubkey);
            out.key("withdrawal_credentials")
                .hex(&self.withdrawal_credentials);
            out.key("amount")
                .display(format_args!("\"{}\"", self.amount));
            out.key("signature").hex(&self.signature);
        });
    }
}

impl Registration {
    fn root(&self, faults: &mut Faults, at: impl Fn(&str) -> String) -> Root {
        let mut message = Vec::with_capacity(4);
        message.extend(merkle::raw(&self.fee_recipient));
        message.push(merkle::i64(self.gas_limit));
        message.push(merkle::i64(self.timestamp));
        message.push(faults.check(merkle::fixed(&self.pubkey, PUBKEY_BYTES), || {
            at("builder_registration.message.pubkey")
        }));
        let signature = merkle::fixed(&self.signature, SIGNATURE_BYTES);
        let signature = faults.check(signature, || at("builder_registration.signature"));
        merkle::container(vec![merkle::container(message), signature])
    }

    fn write(&self, out: &mut Writer) {
        out.object(|out| {
            out.key("message").object(|out| {
                out.key("fee_recipient").hex(&self.fee_recipient);
                out.key("gas_limit").display(self.gas_limit);
                out.key("timestamp").display(self.timestamp);
                out.key("pubkey").hex(&self.pubkey);
            });
            out.key("signature").hex(&self.signature);
        });
    }
}

fn has_one_deposit(version: Version) -> bool {
    matches!(version, Version::V1_6 | Version::V1_7)
}

fn read_lock(reader: &mut Reader<'_>, version: Version) -> Result<LockFile, ParseError> {
    let mut keys = vec![
        "cluster_definition",
        "distributed_validators",
        "signature_aggregate",
        "lock_hash",
    ];
    if version.has_registrations() {
        keys.push("node_signatures");
    }
    let mut definition = None;
    let mut validators = Vec::new();
    let mut signature_aggregate = Vec::new();
    let mut lock_hash = Vec::new();
    let mut node_signatures = Vec::new();
    reader.object(&keys, |reader, key| match key {
        "cluster_definition" => {
            definition = Some(read_definition(reader)?);
            Ok(())
        }
        "distributed_validators" => {
            reader.array(&mut validators, MAX_VALIDATORS, |reader, validator| {
                read_validator(reader, version, validator)
            })
        }
        "signature_aggregate" => reader.bytes(version, &mut signature_aggregate),
        "lock_hash" => reader.bytes(version, &mut lock_hash),
        _ => reader.array(&mut node_signatures, MAX_OPERATORS, Reader::hex),
    })?;
    let Some(definition) = definition else {
        // It was there when its version was read.
        return Err(reader.error(ParseProblem::UnsupportedVersion {
            version: String::new(),
        }));
    };
    Ok(LockFile {
        definition,
        validators,
        signature_aggregate,
        lock_hash,
        node_signatures,
    })
}

fn read_validator(
    reader: &mut Reader<'_>,
    version: Version,
    validator: &mut ValidatorEntry,
) -> Result<(), ParseError> {
    let mut keys = vec!["distributed_public_key", "public_shares"];
    if version <= Version::V1_5 {
        keys.push("fee_recipient_address");
    }
    if has_one_deposit(version) {
        keys.push("deposit_data");
        validator.deposits.resize_with(1, Deposit::default);
    }
    if version.has_registrations() {
        keys.push("builder_registration");
    }
    if version.has_deposit_amounts() {
        keys.push("partial_deposit_data");
    }
    let mut fee_recipient = Vec::new();
    reader.object(&keys, |reader, key| match key {
        // Hex in every version.
        "distributed_public_key" => reader.hex(&mut validator.pubkey),
        "public_shares" => reader.array(
            &mut validator.public_shares,
            MAX_OPERATORS,
            |reader, share| reader.bytes(version, share),
        ),
        "deposit_data" => read_deposit(reader, &mut validator.deposits[0]),
        "partial_deposit_data" => {
            reader.array(&mut validator.deposits, MAX_DEPOSIT_AMOUNTS, read_deposit)
        }
        "builder_registration" => read_registration(reader, &mut validator.registration),
        _ => reader.hex(&mut fee_recipient),
    })?;
    if !fee_recipient.is_empty() {
        return Err(reader.error_at("fee_recipient_address", ParseProblem::FeeRecipient));
    }
    Ok(())
}

fn read_deposit(reader: &mut Reader<'_>, deposit: &mut Deposit) -> Result<(), ParseError> {
    let keys = ["pubkey", "withdrawal_credentials", "amount", "signature"];
    reader.object(&keys, |reader, key| match key {
        "pubkey" => reader.hex(&mut deposit.pubkey),
        "withdrawal_credentials" => reader.hex(&mut deposit.withdrawal_credentials),
        "amount" => reader.quoted_i64(&mut deposit.amount),
        _ => reader.hex(&mut deposit.signature),
    })
}

fn read_registration(reader: &mut Reader<'_>, it: &mut Registration) -> Result<(), ParseError> {
    let message_keys = ["fee_recipient", "gas_limit", "timestamp", "pubkey"];
    reader.object(&["message", "signature"], |reader, key| match key {
        "message" => reader.object(&message_keys, |reader, key| match key {
            "fee_recipient" => reader.hex(&mut it.fee_recipient),
            "gas_limit" => reader.i64(&mut it.gas_limit),
            "timestamp" => reader.i64(&mut it.timestamp),
            _ => reader.hex(&mut it.pubkey),
        }),
        _ => reader.hex(&mut it.signature),
    })
}
