//! `cluster-definition.json`: the cluster that its operators intend to be.
//!
//! Spec: cluster, section 1.
//!
//! [`Definition`] is what stands in a file, no more: it is read exactly when Charon reads it, which
//! checks little. What the values mean is checked by [`Verifier`](crate::Verifier) and, for the
//! operators, by [`Definition::members`].
//!
//! - **Bounds:** [`MAX_DEFINITION_BYTES`], [`MAX_OPERATORS`], [`MAX_VALIDATORS`],
//!   [`MAX_DEPOSIT_AMOUNTS`].

mod hash;

use std::path::Path;

use pluto_core::PeerIdx;
use pluto_crypto::{enr::Enr, k1};

use crate::{
    MAX_OPERATORS, MAX_VALIDATORS, Version,
    disk::{self, FileMode, WriteError},
    error::{DepositAmountProblem, HashErrors, MembersError, ParseError, ParseProblem, ReadError},
    json::{Reader, Writer},
    merkle::Root,
};

pub(crate) use hash::{Faults, definition_root};

/// Largest definition that is read, also from the network (cluster spec, section 1.6).
pub const MAX_DEFINITION_BYTES: u64 = 16 << 20;
/// Most partial deposits: the limit in the hash's list (cluster spec, section 2.1).
pub const MAX_DEPOSIT_AMOUNTS: usize = 256;

const GWEI_PER_ETH: u64 = 1_000_000_000;
const MIN_DEPOSIT: u64 = GWEI_PER_ETH;
const MIN_DEPOSIT_SUM: u64 = 32 * GWEI_PER_ETH;
const MAX_DEPOSIT: u64 = 32 * GWEI_PER_ETH;
const MAX_COMPOUNDING_DEPOSIT: u64 = 2048 * GWEI_PER_ETH;

/// The content of a definition file, as it stands there.
///
/// Fields that the version does not have are empty and are not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The version of the format.
    pub version: Version,
    /// What people call the cluster; may be empty.
    pub name: String,
    /// A random name of the cluster.
    pub uuid: String,
    /// When the definition was made. Text without rules: never parsed.
    pub timestamp: String,
    /// How many validators there are to be.
    pub num_validators: i64,
    /// How many partial signatures make one.
    pub threshold: i64,
    /// How keys are generated.
    pub dkg_algorithm: String,
    /// The genesis fork version, which names the network: 4 bytes if right.
    pub fork_version: Vec<u8>,
    /// The operators, in order.
    pub operators: Vec<OperatorEntry>,
    /// Who made the definition (v1.4 and later).
    pub creator: Creator,
    /// Where validators' rewards and deposits go.
    pub addresses: Addresses,
    /// Partial deposits in gwei, as asked for; empty for the defaults (v1.8 and later).
    pub deposit_amounts: Vec<u64>,
    /// The consensus protocol that is preferred; may be empty (v1.9 and later).
    pub consensus_protocol: String,
    /// The gas limit that builders are asked for (v1.10 and later).
    pub target_gas_limit: u64,
    /// Whether withdrawal credentials are of the compounding kind (v1.10 and later).
    pub compounding: bool,
    /// The hash of what operators agree to, as the file states it.
    pub config_hash: Vec<u8>,
    /// The hash of everything, as the file states it.
    pub definition_hash: Vec<u8>,
}

/// One operator, as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OperatorEntry {
    /// The Ethereum address that signs; may be empty.
    pub address: String,
    /// The node record; may be empty before the operator has joined.
    pub enr: String,
    /// The address's signature of the config hash.
    pub config_signature: Vec<u8>,
    /// The address's signature of the ENR.
    pub enr_signature: Vec<u8>,
}

/// Who made the definition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Creator {
    /// The Ethereum address that signs; may be empty.
    pub address: String,
    /// The address's signature of the config hash.
    pub config_signature: Vec<u8>,
}

/// The addresses of one validator.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ValidatorAddresses {
    /// Who gets the priority fees.
    pub fee_recipient: String,
    /// Who gets the stake back.
    pub withdrawal: String,
}

/// The addresses of all validators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addresses {
    /// One pair for all of them (v1.0 to v1.4).
    Shared(ValidatorAddresses),
    /// One pair for each (v1.5 and later).
    Each(Vec<ValidatorAddresses>),
}

/// One member of a cluster: an operator whose node record is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator {
    /// Its place in operator order; its share index is one more.
    pub idx: PeerIdx,
    /// The node's identity, from its ENR.
    pub public_key: k1::PublicKey,
    /// The libp2p peer id of that identity.
    pub peer_id: [u8; k1::PEER_ID_BYTES],
}

impl Definition {
    /// Reads a definition file. Reading is not verifying.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ReadError> {
        let path = path.as_ref();
        let json = disk::read(path, MAX_DEFINITION_BYTES)?;
        Self::from_json(&json).map_err(|source| ReadError::Parse {
            path: path.to_owned(),
            source,
        })
    }

    /// Reads the content of a definition file. Reading is not verifying.
    pub fn from_json(json: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(json);
        if json.len() as u64 > MAX_DEFINITION_BYTES {
            return Err(reader.error(ParseProblem::TooLarge {
                max: MAX_DEFINITION_BYTES,
            }));
        }
        let definition = read_definition(&mut reader)?;
        reader.end()?;
        Ok(definition)
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

    /// Writes a file, whole or not at all, mode 0444, where nothing is yet. The folder must exist.
    pub fn create_file(&self, path: impl AsRef<Path>) -> Result<(), WriteError> {
        disk::create(path.as_ref(), self.to_json(), FileMode::Everyone)
    }

    /// The hash of what operators agree to: no ENRs, no signatures.
    pub fn compute_config_hash(&self) -> Result<Root, HashErrors> {
        hash::config_root(self)
    }

    /// The hash of everything, with the config hash that is stored.
    pub fn compute_definition_hash(&self) -> Result<Root, HashErrors> {
        hash::definition_root(self)
    }

    /// Computes and stores both hashes.
    pub fn update_hashes(&mut self) -> Result<(), HashErrors> {
        self.config_hash = self.compute_config_hash()?.to_vec();
        self.definition_hash = self.compute_definition_hash()?.to_vec();
        Ok(())
    }

    /// The addresses of one validator. `None` beyond their number.
    #[must_use]
    pub fn addresses_of(&self, validator: usize) -> Option<&ValidatorAddresses> {
        match &self.addresses {
            Addresses::Shared(addresses) => usize::try_from(self.num_validators)
                .is_ok_and(|count| validator < count)
                .then_some(addresses),
            Addresses::Each(list) => list.get(validator),
        }
    }

    /// The shared pair as it is hashed and written: without validators it is lost.
    pub(crate) fn shared_addresses(&self) -> ValidatorAddresses {
        self.addresses_of(0).cloned().unwrap_or_default()
    }

    /// The operators as peers, in order: all ENRs valid, all different, 1 to [`MAX_OPERATORS`].
    pub fn members(&self) -> Result<Vec<Operator>, MembersError> {
        let count = self.operators.len();
        if !(1..=MAX_OPERATORS).contains(&count) {
            return Err(MembersError::OperatorCount { count });
        }
        let mut members: Vec<Operator> = Vec::with_capacity(count);
        for (second, operator) in self.operators.iter().enumerate() {
            let enr = Enr::parse(&operator.enr).map_err(|source| MembersError::Enr {
                operator: second,
                source,
            })?;
            let public_key = *enr.public_key();
            if let Some(first) = members.iter().position(|it| it.public_key == public_key) {
                return Err(MembersError::DuplicateOperator { first, second });
            }
            let idx = u32::try_from(second).ok().and_then(PeerIdx::new);
            members.push(Operator {
                idx: idx.expect("the number of operators is bounded"),
                public_key,
                peer_id: k1::peer_id_bytes(&public_key),
            });
        }
        Ok(members)
    }

    /// The threshold, if the operators can meet it: 1 to their number.
    pub fn usable_threshold(&self) -> Result<u32, MembersError> {
        let operators = self.operators.len();
        u32::try_from(self.threshold)
            .ok()
            .filter(|it| (1..=operators).contains(&(*it as usize)))
            .ok_or(MembersError::Threshold {
                threshold: self.threshold,
                operators,
            })
    }

    fn empty(version: Version) -> Self {
        Self {
            version,
            name: String::new(),
            uuid: String::new(),
            timestamp: String::new(),
            num_validators: 0,
            threshold: 0,
            dkg_algorithm: String::new(),
            fork_version: Vec::new(),
            operators: Vec::new(),
            creator: Creator::default(),
            addresses: if version.has_shared_addresses() {
                Addresses::Shared(ValidatorAddresses::default())
            } else {
                Addresses::Each(Vec::new())
            },
            deposit_amounts: Vec::new(),
            consensus_protocol: String::new(),
            target_gas_limit: 0,
            compounding: false,
            config_hash: Vec::new(),
            definition_hash: Vec::new(),
        }
    }

    /// Writes the object with the hashes that are stored.
    pub(crate) fn write(&self, out: &mut Writer) {
        let version = self.version;
        out.object(|out| {
            out.text_unless_empty("name", &self.name);
            if version.has_creator() {
                out.key("creator").object(|out| {
                    out.key("address").string(&self.creator.address);
                    out.key("config_signature")
                        .hex(&self.creator.config_signature);
                });
            }
            out.key("operators").list(&self.operators, |out, operator| {
                operator.write(version, out);
            });
            out.key("uuid").string(&self.uuid);
            out.key("version").string(version.as_str());
            out.text_unless_empty("timestamp", &self.timestamp);
            out.key("num_validators").display(self.num_validators);
            out.key("threshold").display(self.threshold);
            match &self.addresses {
                Addresses::Shared(_) => {
                    let shared = self.shared_addresses();
                    out.text_unless_empty("fee_recipient_address", &shared.fee_recipient);
                    out.text_unless_empty("withdrawal_address", &shared.withdrawal);
                }
                Addresses::Each(list) => out.key("validators").list(list, |out, addresses| {
                    out.object(|out| {
                        out.key("fee_recipient_address")
                            .string(&addresses.fee_recipient);
                        out.key("withdrawal_address").string(&addresses.withdrawal);
                    });
                }),
            }
            out.key("dkg_algorithm").string(&self.dkg_algorithm);
            out.key("fork_version").hex(&self.fork_version);
            if version.has_deposit_amounts() {
                out.key("deposit_amounts")
                    .list(&self.deposit_amounts, |out, amount| {
                        out.display(format_args!("\"{amount}\""));
                    });
            }
            if version.has_consensus_protocol() {
                out.key("consensus_protocol")
                    .string(&self.consensus_protocol);
            }
            if version.has_gas_limit() {
                out.key("target_gas_limit").display(self.target_gas_limit);
                out.key("compounding").display(self.compounding);
            }
            out.key("config_hash").bytes(version, &self.config_hash);
            out.key("definition_hash")
                .bytes(version, &self.definition_hash);
        });
    }
}

impl OperatorEntry {
    /// Whether nothing of the operator is signed and nobody is named who could have.
    pub(crate) fn is_unsigned(&self) -> bool {
        self.address.is_empty() && self.config_signature.is_empty() && self.enr_signature.is_empty()
    }

    fn write(&self, version: Version, out: &mut Writer) {
        out.object(|out| {
            out.key("address").string(&self.address);
            out.key("enr").string(&self.enr);
            if version.has_base64() {
                out.key("nonce").display(0);
            }
            out.key("config_signature")
                .bytes(version, &self.config_signature);
            out.key("enr_signature").bytes(version, &self.enr_signature);
        });
    }
}

/// Reads the version of the definition that starts here, and nothing else.
pub(crate) fn read_version(reader: &mut Reader<'_>, out: &mut String) -> Result<(), ParseError> {
    reader.object(&["version"], |it, _| it.string(out))
}

/// The version that `text` names.
pub(crate) fn known_version(
    reader: &mut Reader<'_>,
    path: &'static str,
    text: &str,
) -> Result<Version, ParseError> {
    Version::parse(text).ok_or_else(|| {
        let version = text.chars().take(32).collect();
        reader.error_at(path, ParseProblem::UnsupportedVersion { version })
    })
}

/// Reads the definition that starts here.
pub(crate) fn read_definition(reader: &mut Reader<'_>) -> Result<Definition, ParseError> {
    // The version decides how the rest is read, wherever it stands.
    let start = reader.position();
    let mut version = String::new();
    read_version(reader, &mut version)?;
    let version = known_version(reader, "version", &version)?;
    reader.rewind(start);

    let mut definition = Definition::empty(version);
    let mut fork_version = String::new();
    let mut keys = vec![
        "name",
        "operators",
        "uuid",
        "version",
        "timestamp",
        "num_validators",
        "threshold",
        "dkg_algorithm",
        "fork_version",
        "config_hash",
        "definition_hash",
    ];
    if version.has_shared_addresses() {
        keys.extend(["fee_recipient_address", "withdrawal_address"]);
    } else {
        keys.push("validators");
    }
    if version.has_creator() {
        keys.push("creator");
    }
    if version.has_deposit_amounts() {
        keys.push("deposit_amounts");
    }
    if version.has_consensus_protocol() {
        keys.push("consensus_protocol");
    }
    if version.has_gas_limit() {
        keys.extend(["target_gas_limit", "compounding"]);
    }

    let it = &mut definition;
    reader.object(&keys, |reader, key| match key {
        "name" => reader.string(&mut it.name),
        "operators" => reader.array(&mut it.operators, MAX_OPERATORS, |reader, operator| {
            read_operator(reader, version, operator)
        }),
        "uuid" => reader.string(&mut it.uuid),
        "version" => reader.string(&mut String::new()),
        "timestamp" => reader.string(&mut it.timestamp),
        "num_validators" => reader.i64(&mut it.num_validators),
        "threshold" => reader.i64(&mut it.threshold),
        "dkg_algorithm" => reader.string(&mut it.dkg_algorithm),
        "fork_version" if version.has_base64() => {
            reader.string(&mut fork_version)?;
            it.fork_version = short_fork_version(reader, &fork_version)?;
            Ok(())
        }
        "fork_version" => reader.hex(&mut it.fork_version),
        "config_hash" => reader.bytes(version, &mut it.config_hash),
        "definition_hash" => reader.bytes(version, &mut it.definition_hash),
        "creator" => reader.object(&["address", "config_signature"], |reader, key| match key {
            "address" => reader.string(&mut it.creator.address),
            _ => reader.hex(&mut it.creator.config_signature),
        }),
        "deposit_amounts" => reader.array(
            &mut it.deposit_amounts,
            MAX_DEPOSIT_AMOUNTS,
            Reader::quoted_u64,
        ),
        "consensus_protocol" => reader.string(&mut it.consensus_protocol),
        "target_gas_limit" => reader.u64(&mut it.target_gas_limit),
        "compounding" => reader.bool(&mut it.compounding),
        key => match &mut it.addresses {
            Addresses::Shared(shared) if key == "fee_recipient_address" => {
                reader.string(&mut shared.fee_recipient)
            }
            Addresses::Shared(shared) => reader.string(&mut shared.withdrawal),
            Addresses::Each(list) => reader.array(list, MAX_VALIDATORS, read_addresses),
        },
    })?;

    if let Addresses::Each(list) = &definition.addresses
        && usize::try_from(definition.num_validators) != Ok(list.len())
    {
        let problem = ParseProblem::ValidatorCount {
            entries: list.len(),
            num_validators: definition.num_validators,
        };
        return Err(reader.error_at("validators", problem));
    }
    if version.has_deposit_amounts() {
        check_deposit_amounts(&definition.deposit_amounts, definition.compounding)
            .map_err(|problem| reader.error_at("deposit_amounts", problem.into()))?;
    }
    Ok(definition)
}

fn read_operator(
    reader: &mut Reader<'_>,
    version: Version,
    operator: &mut OperatorEntry,
) -> Result<(), ParseError> {
    let mut keys = vec!["address", "enr", "config_signature", "enr_signature"];
    if version.has_base64() {
        keys.push("nonce");
    }
    let mut nonce = 0;
    reader.object(&keys, |reader, key| match key {
        "address" => reader.string(&mut operator.address),
        "enr" => reader.string(&mut operator.enr),
        "config_signature" => reader.bytes(version, &mut operator.config_signature),
        "enr_signature" => reader.bytes(version, &mut operator.enr_signature),
        _ => reader.i64(&mut nonce),
    })?;
    if nonce != 0 {
        return Err(reader.error_at("nonce", ParseProblem::Nonce { nonce }));
    }
    Ok(())
}

fn read_addresses(
    reader: &mut Reader<'_>,
    addresses: &mut ValidatorAddresses,
) -> Result<(), ParseError> {
    reader.object(
        &["fee_recipient_address", "withdrawal_address"],
        |reader, key| match key {
            "fee_recipient_address" => reader.string(&mut addresses.fee_recipient),
            _ => reader.string(&mut addresses.withdrawal),
        },
    )
}

/// The fork version of the versions that check its length on reading.
fn short_fork_version(reader: &Reader<'_>, text: &str) -> Result<Vec<u8>, ParseError> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let bytes = hex::decode(digits).map_err(|_| reader.error(ParseProblem::Hex))?;
    if !text.is_empty() && bytes.len() != 4 {
        return Err(reader.error(ParseProblem::Length {
            expected: 4,
            len: bytes.len(),
        }));
    }
    Ok(bytes)
}

/// Whether validators can be made of these deposits, in gwei (cluster spec, section 7.2). An empty
/// list stands for the defaults.
pub fn check_deposit_amounts(
    amounts: &[u64],
    compounding: bool,
) -> Result<(), DepositAmountProblem> {
    let max = if compounding {
        MAX_COMPOUNDING_DEPOSIT
    } else {
        MAX_DEPOSIT
    };
    for (index, amount) in amounts.iter().copied().enumerate() {
        if amount < MIN_DEPOSIT {
            return Err(DepositAmountProblem::TooSmall { index, amount });
        }
        if amount > max {
            return Err(DepositAmountProblem::TooLarge { index, amount, max });
        }
    }
    let sum = amounts
        .iter()
        .fold(0_u64, |sum, it| sum.saturating_add(*it));
    if !amounts.is_empty() && sum < MIN_DEPOSIT_SUM {
        return Err(DepositAmountProblem::SumTooSmall { sum });
    }
    Ok(())
}

impl Reader<'_> {
    /// Bytes in the encoding of the version.
    pub(crate) fn bytes(&mut self, version: Version, out: &mut Vec<u8>) -> Result<(), ParseError> {
        if version.has_base64() {
            self.base64(out)
        } else {
            self.hex(out)
        }
    }
}

impl Writer {
    /// Bytes in the encoding of the version.
    pub(crate) fn bytes(&mut self, version: Version, bytes: &[u8]) {
        if version.has_base64() {
            self.base64(bytes);
        } else {
            self.hex(bytes);
        }
    }
}
