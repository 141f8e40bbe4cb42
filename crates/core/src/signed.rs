//! The signed object inside a partial signature: what it says and what its key signed.
//!
//! Spec: duties, sections 1.3 to 1.7 and 3.4.
//!
//! - **Bounds:** JSON is refused above [`MAX_JSON_BYTES`], a block's only by the frame around it; an
//!   attestation's bits above what a block can hold; each list in a block above its limit on the
//!   chain. A block is hashed while it is read and leaves its header; everything else has a fixed
//!   size.

mod aggregate;
mod attestation;
mod block;
mod container;
mod fork;
pub(crate) mod hash;
mod json;
mod operations;
mod payload;
mod ssz;

use std::num::NonZeroU64;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;

pub use aggregate::SignedAggregate;
pub use attestation::{Attestation, AttestationData, Checkpoint};
pub use block::SignedProposal;
pub use fork::ForkVersion;
pub use ssz::SszError;

use crate::{DutyType, Slot, signing::DomainKind};
use json::{Dec, Hex};
use ssz::Reader;

/// Longest JSON form of anything but a block that is read. The longest honest one is an attestation
/// with 131,072 aggregation bits, 33 kB of hex digits; the rest leaves room for spaces and unknown
/// fields.
pub const MAX_JSON_BYTES: usize = 1 << 16;

/// Why bytes are no signed object of a duty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignedDataError {
    /// There are no objects of this type.
    #[error("duty type {kind} has no signed data")]
    NotSigned {
        /// The type.
        kind: DutyType,
    },
    /// Not the SSZ layout, and not JSON either.
    #[error("signed data of duty type {kind} is not valid SSZ")]
    Ssz {
        /// The type.
        kind: DutyType,
        /// What is wrong.
        source: SszError,
    },
    /// Not the JSON form. The text is the peer's and is not repeated here.
    #[error(
        "signed data of duty type {kind} is not valid JSON at line {line}, column {column}: {fault}"
    )]
    Json {
        /// The type.
        kind: DutyType,
        /// What is wrong.
        fault: JsonFault,
        /// From 1; 0 if unknown.
        line: usize,
        /// From 1; 0 if unknown.
        column: usize,
    },
    /// JSON above [`MAX_JSON_BYTES`].
    #[error("signed data of duty type {kind} has {len} bytes of JSON, more than {MAX_JSON_BYTES}")]
    JsonTooLong {
        /// The type.
        kind: DutyType,
        /// Its length.
        len: usize,
    },
    /// A JSON object of a version that does not exist for this type.
    #[error("signed data of duty type {kind} has unknown version {version}")]
    Version {
        /// The type.
        kind: DutyType,
        /// Its version.
        version: u64,
    },
    /// The text of a bare signature is not base64.
    #[error("signature is not padded standard base64")]
    Base64,
    /// A bare signature of another length than 96 bytes.
    #[error("signature has {len} bytes instead of 96")]
    SignatureLength {
        /// Its length.
        len: usize,
    },
}

/// How JSON is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonFault {
    /// No JSON.
    Syntax,
    /// A field is missing, twice there, or of another type or form.
    Data,
    /// Ends too early.
    Eof,
}

impl std::fmt::Display for JsonFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Syntax => "syntax",
            Self::Data => "field missing or malformed",
            Self::Eof => "unexpected end",
        })
    }
}

/// An object signed with a key share.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignedData {
    /// [`DutyType::Signature`]: only a signature; what it signs is known from elsewhere.
    Signature(SignedRoot),
    /// [`DutyType::Randao`]
    Randao(SignedRandao),
    /// [`DutyType::Exit`]
    Exit(SignedExit),
    /// [`DutyType::PrepareAggregator`]
    PrepareAggregator(CommitteeSelection),
    /// [`DutyType::PrepareSyncContribution`]
    PrepareSyncContribution(SyncSelection),
    /// [`DutyType::BuilderRegistration`]
    BuilderRegistration(SignedRegistration),
    /// [`DutyType::SyncMessage`]
    SyncMessage(SyncMessage),
    /// [`DutyType::SyncContribution`]
    SyncContribution(SignedContribution),
    /// [`DutyType::Attester`]
    Attester(Attestation),
    /// [`DutyType::Proposer`]
    Proposer(SignedProposal),
    /// [`DutyType::Aggregator`]
    Aggregator(SignedAggregate),
}

/// The time that a signed object is for, in its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// A slot.
    Slot(u64),
    /// An epoch, where the object has no slot.
    Epoch(u64),
}

impl std::fmt::Display for When {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Slot(slot) => write!(f, "slot {slot}"),
            Self::Epoch(epoch) => write!(f, "epoch {epoch}"),
        }
    }
}

/// A bare signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedRoot {
    /// The signature.
    pub signature: [u8; 96],
}

impl SignedRoot {
    /// Wraps a signature.
    #[must_use]
    pub const fn new(signature: [u8; 96]) -> Self {
        Self { signature }
    }

    /// The wire form.
    #[must_use]
    pub fn to_json(&self) -> Bytes {
        format!("\"{}\"", STANDARD.encode(self.signature)).into()
    }
}

/// A randao reveal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedRandao {
    /// The epoch, which is what is signed.
    pub epoch: u64,
    /// The signature.
    pub signature: [u8; 96],
}

impl SignedRandao {
    /// A reveal for `epoch`.
    #[must_use]
    pub const fn new(epoch: u64, signature: [u8; 96]) -> Self {
        Self { epoch, signature }
    }

    /// The wire form.
    #[must_use]
    pub fn to_json(&self) -> Bytes {
        let signature = hex::encode(self.signature);
        format!(
            r#"{{"epoch":"{}","signature":"0x{signature}"}}"#,
            self.epoch
        )
        .into()
    }
}

/// A voluntary exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedExit {
    /// From which epoch it may take effect.
    pub epoch: u64,
    /// Who exits.
    pub validator_index: u64,
    /// The signature.
    pub signature: [u8; 96],
}

/// The selection proof of a beacon committee member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitteeSelection {
    /// Not signed.
    pub validator_index: u64,
    /// The slot, which is what is signed.
    pub slot: u64,
    /// The signature.
    pub selection_proof: [u8; 96],
}

/// The selection proof of a sync committee member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncSelection {
    /// Not signed.
    pub validator_index: u64,
    /// The slot.
    pub slot: u64,
    /// The subcommittee.
    pub subcommittee_index: u64,
    /// The signature.
    pub selection_proof: [u8; 96],
}

/// A registration for block builders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedRegistration {
    /// Who is paid.
    pub fee_recipient: [u8; 20],
    /// The gas limit asked for.
    pub gas_limit: u64,
    /// Unix seconds.
    pub timestamp: u64,
    /// The validator's group public key.
    pub pubkey: [u8; 48],
    /// The signature.
    pub signature: [u8; 96],
}

/// A sync committee message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncMessage {
    /// The slot.
    pub slot: u64,
    /// The block, which is what is signed.
    pub beacon_block_root: [u8; 32],
    /// Not signed.
    pub validator_index: u64,
    /// The signature.
    pub signature: [u8; 96],
}

/// A sync committee contribution with its proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedContribution {
    /// Who aggregated.
    pub aggregator_index: u64,
    /// The slot.
    pub slot: u64,
    /// The block.
    pub beacon_block_root: [u8; 32],
    /// The subcommittee.
    pub subcommittee_index: u64,
    /// Who of the subcommittee took part.
    pub aggregation_bits: [u8; 16],
    /// The aggregate of those who took part.
    pub contribution_signature: [u8; 96],
    /// Why the aggregator may aggregate.
    pub selection_proof: [u8; 96],
    /// The signature.
    pub signature: [u8; 96],
}

impl SignedData {
    /// Reads the object of a duty of type `kind`, from SSZ or JSON as that type allows.
    pub fn decode(kind: DutyType, bytes: &[u8]) -> Result<Self, SignedDataError> {
        match kind {
            DutyType::Signature => root_from_json(bytes).map(Self::Signature),
            DutyType::Randao => from_json(kind, bytes, RandaoJson::into).map(Self::Randao),
            DutyType::PrepareAggregator => {
                from_json(kind, bytes, CommitteeSelectionJson::into).map(Self::PrepareAggregator)
            }
            DutyType::PrepareSyncContribution => {
                from_json(kind, bytes, SyncSelectionJson::into).map(Self::PrepareSyncContribution)
            }
            DutyType::BuilderRegistration => {
                registration_from_json(bytes).map(Self::BuilderRegistration)
            }
            DutyType::Exit => ssz_or_json(kind, bytes, SignedExit::from_ssz, |bytes| {
                from_json(kind, bytes, ExitJson::into)
            })
            .map(Self::Exit),
            DutyType::SyncMessage => ssz_or_json(kind, bytes, SyncMessage::from_ssz, |bytes| {
                from_json(kind, bytes, SyncMessageJson::into)
            })
            .map(Self::SyncMessage),
            DutyType::SyncContribution => {
                ssz_or_json(kind, bytes, SignedContribution::from_ssz, |bytes| {
                    from_json(kind, bytes, SignedContributionJson::into)
                })
                .map(Self::SyncContribution)
            }
            DutyType::Attester => {
                ssz_or_json(kind, bytes, Attestation::from_ssz, attestation::from_json)
                    .map(Self::Attester)
            }
            DutyType::Proposer => {
                ssz_or_json(kind, bytes, SignedProposal::from_ssz, block::from_json)
                    .map(Self::Proposer)
            }
            DutyType::Aggregator => {
                ssz_or_json(kind, bytes, SignedAggregate::from_ssz, aggregate::from_json)
                    .map(Self::Aggregator)
            }
            DutyType::BuilderProposer | DutyType::InfoSync => {
                Err(SignedDataError::NotSigned { kind })
            }
        }
    }

    /// The signature inside, not yet known to be a point of the curve.
    #[must_use]
    pub const fn signature(&self) -> [u8; 96] {
        match self {
            Self::Signature(it) => it.signature,
            Self::Randao(it) => it.signature,
            Self::Exit(it) => it.signature,
            Self::PrepareAggregator(it) => it.selection_proof,
            Self::PrepareSyncContribution(it) => it.selection_proof,
            Self::BuilderRegistration(it) => it.signature,
            Self::SyncMessage(it) => it.signature,
            Self::SyncContribution(it) => it.signature,
            Self::Attester(it) => it.signature,
            Self::Proposer(it) => it.signature,
            Self::Aggregator(it) => it.signature,
        }
    }

    /// The root of what is signed, before its domain. `None` for a bare signature.
    #[must_use]
    pub fn message_root(&self) -> Option<[u8; 32]> {
        Some(match self {
            Self::Signature(_) => return None,
            Self::Randao(it) => hash::u64(it.epoch),
            Self::Exit(it) => {
                hash::container(&[hash::u64(it.epoch), hash::u64(it.validator_index)])
            }
            Self::PrepareAggregator(it) => hash::u64(it.slot),
            Self::PrepareSyncContribution(it) => {
                hash::container(&[hash::u64(it.slot), hash::u64(it.subcommittee_index)])
            }
            Self::BuilderRegistration(it) => hash::container(&[
                hash::short(&it.fee_recipient),
                hash::u64(it.gas_limit),
                hash::u64(it.timestamp),
                hash::vector(&it.pubkey),
            ]),
            Self::SyncMessage(it) => it.beacon_block_root,
            Self::SyncContribution(it) => it.message_root(),
            Self::Attester(it) => it.data.root(),
            Self::Proposer(it) => it.message_root(),
            Self::Aggregator(it) => it.message_root(),
        })
    }

    /// What the signature is for. `None` for a bare signature.
    #[must_use]
    pub const fn domain(&self) -> Option<DomainKind> {
        Some(match self {
            Self::Signature(_) => return None,
            Self::Randao(_) => DomainKind::Randao,
            Self::Exit(_) => DomainKind::VoluntaryExit,
            Self::PrepareAggregator(_) => DomainKind::SelectionProof,
            Self::PrepareSyncContribution(_) => DomainKind::SyncCommitteeSelectionProof,
            Self::BuilderRegistration(_) => DomainKind::ApplicationBuilder,
            Self::SyncMessage(_) => DomainKind::SyncCommittee,
            Self::SyncContribution(_) => DomainKind::ContributionAndProof,
            Self::Attester(_) => DomainKind::BeaconAttester,
            Self::Proposer(_) => DomainKind::BeaconProposer,
            Self::Aggregator(_) => DomainKind::AggregateAndProof,
        })
    }

    /// The epoch that selects the fork of the domain. `None` for a bare signature, 0 for a
    /// registration, whose domain has no epoch.
    #[must_use]
    pub const fn epoch(&self, slots_per_epoch: NonZeroU64) -> Option<u64> {
        let per_epoch = slots_per_epoch.get();
        Some(match self {
            Self::Signature(_) => return None,
            Self::Randao(it) => it.epoch,
            Self::Exit(it) => it.epoch,
            Self::PrepareAggregator(it) => it.slot / per_epoch,
            Self::PrepareSyncContribution(it) => it.slot / per_epoch,
            Self::BuilderRegistration(_) => 0,
            Self::SyncMessage(it) => it.slot / per_epoch,
            Self::SyncContribution(it) => it.slot / per_epoch,
            Self::Attester(it) => it.data.target.epoch,
            Self::Proposer(it) => it.slot / per_epoch,
            Self::Aggregator(it) => it.aggregate.data.slot / per_epoch,
        })
    }

    /// When it is for. `None` for a bare signature and for a registration, which say nothing of it.
    #[must_use]
    pub const fn when(&self) -> Option<When> {
        Some(When::Slot(match self {
            Self::Signature(_) | Self::BuilderRegistration(_) => return None,
            Self::Randao(it) => return Some(When::Epoch(it.epoch)),
            Self::Exit(it) => return Some(When::Epoch(it.epoch)),
            Self::PrepareAggregator(it) => it.slot,
            Self::PrepareSyncContribution(it) => it.slot,
            Self::SyncMessage(it) => it.slot,
            Self::SyncContribution(it) => it.slot,
            Self::Attester(it) => it.data.slot,
            Self::Proposer(it) => it.slot,
            Self::Aggregator(it) => it.aggregate.data.slot,
        }))
    }

    /// Whether a duty at `slot` can be what it was signed for: the slots are equal, a randao reveal
    /// is for the slot's epoch, and the slot is the first one of an exit's epoch (duties spec,
    /// section 1.2). What says nothing of its time fits every slot.
    #[must_use]
    pub fn fits(&self, slot: Slot, slots_per_epoch: NonZeroU64) -> bool {
        match (self, self.when()) {
            (_, None) => true,
            (_, Some(When::Slot(own))) => own == slot.0,
            (Self::Exit(_), Some(When::Epoch(own))) => {
                own.checked_mul(slots_per_epoch.get()) == Some(slot.0)
            }
            (_, Some(When::Epoch(own))) => own == slot.0 / slots_per_epoch,
        }
    }

    /// The sync subcommittee, by which duties of one validator and slot differ; 0 where there is
    /// none (duties spec, section 1.1).
    #[must_use]
    pub const fn subcommittee(&self) -> u64 {
        match self {
            Self::PrepareSyncContribution(it) => it.subcommittee_index,
            Self::SyncContribution(it) => it.subcommittee_index,
            _ => 0,
        }
    }
}

impl SignedExit {
    fn from_ssz(bytes: &[u8]) -> Result<Self, SszError> {
        let mut reader = Reader::new(bytes);
        let exit = Self {
            epoch: reader.u64("epoch")?,
            validator_index: reader.u64("validator_index")?,
            signature: reader.array("signature")?,
        };
        reader.end().map(|()| exit)
    }
}

impl SyncMessage {
    fn from_ssz(bytes: &[u8]) -> Result<Self, SszError> {
        let mut reader = Reader::new(bytes);
        let message = Self {
            slot: reader.u64("slot")?,
            beacon_block_root: reader.array("beacon_block_root")?,
            validator_index: reader.u64("validator_index")?,
            signature: reader.array("signature")?,
        };
        reader.end().map(|()| message)
    }
}

impl SignedContribution {
    fn from_ssz(bytes: &[u8]) -> Result<Self, SszError> {
        let mut reader = Reader::new(bytes);
        let contribution = Self {
            aggregator_index: reader.u64("aggregator_index")?,
            slot: reader.u64("slot")?,
            beacon_block_root: reader.array("beacon_block_root")?,
            subcommittee_index: reader.u64("subcommittee_index")?,
            aggregation_bits: reader.array("aggregation_bits")?,
            contribution_signature: reader.array("contribution.signature")?,
            selection_proof: reader.array("selection_proof")?,
            signature: reader.array("signature")?,
        };
        reader.end().map(|()| contribution)
    }

    fn message_root(&self) -> [u8; 32] {
        let contribution = hash::container(&[
            hash::u64(self.slot),
            self.beacon_block_root,
            hash::u64(self.subcommittee_index),
            hash::short(&self.aggregation_bits),
            hash::vector(&self.contribution_signature),
        ]);
        hash::container(&[
            hash::u64(self.aggregator_index),
            contribution,
            hash::vector(&self.selection_proof),
        ])
    }
}

/// Nothing marks which form was sent: SSZ first, and JSON only for what looks like an object.
fn ssz_or_json<T>(
    kind: DutyType,
    bytes: &[u8],
    from_ssz: impl FnOnce(&[u8]) -> Result<T, SszError>,
    from_json: impl FnOnce(&[u8]) -> Result<T, SignedDataError>,
) -> Result<T, SignedDataError> {
    match from_ssz(bytes) {
        Ok(object) => Ok(object),
        Err(_) if bytes.trim_ascii_start().starts_with(b"{") => from_json(bytes),
        Err(source) => Err(SignedDataError::Ssz { kind, source }),
    }
}

fn from_json<'a, J: Deserialize<'a>, T>(
    kind: DutyType,
    bytes: &'a [u8],
    into: impl FnOnce(J) -> T,
) -> Result<T, SignedDataError> {
    let len = bytes.len();
    if len > MAX_JSON_BYTES {
        return Err(SignedDataError::JsonTooLong { kind, len });
    }
    from_long_json(kind, bytes).map(into)
}

/// Without a bound of its own: for what is hashed while it is read.
fn from_long_json<'a, J: Deserialize<'a>>(
    kind: DutyType,
    bytes: &'a [u8],
) -> Result<J, SignedDataError> {
    serde_json::from_slice(bytes).map_err(|source| {
        let fault = match source.classify() {
            serde_json::error::Category::Syntax => JsonFault::Syntax,
            serde_json::error::Category::Eof => JsonFault::Eof,
            // Reading from memory has no I/O to fail.
            serde_json::error::Category::Data | serde_json::error::Category::Io => JsonFault::Data,
        };
        SignedDataError::Json {
            kind,
            fault,
            line: source.line(),
            column: source.column(),
        }
    })
}

fn root_from_json(bytes: &[u8]) -> Result<SignedRoot, SignedDataError> {
    let text: String = from_json(DutyType::Signature, bytes, |text| text)?;
    let decoded = STANDARD.decode(text).map_err(|_| SignedDataError::Base64)?;
    let len = decoded.len();
    decoded
        .try_into()
        .map(SignedRoot::new)
        .map_err(|_| SignedDataError::SignatureLength { len })
}

fn registration_from_json(bytes: &[u8]) -> Result<SignedRegistration, SignedDataError> {
    let kind = DutyType::BuilderRegistration;
    let it: RegistrationJson = from_json(kind, bytes, |it| it)?;
    // The only version of the builder API.
    if it.version != 0 {
        let version = it.version;
        return Err(SignedDataError::Version { kind, version });
    }
    let message = it.registration.message;
    Ok(SignedRegistration {
        fee_recipient: message.fee_recipient.0,
        gas_limit: message.gas_limit.0,
        timestamp: message.timestamp.0,
        pubkey: message.pubkey.0,
        signature: it.registration.signature.0,
    })
}

#[derive(Deserialize)]
struct RandaoJson {
    epoch: Dec,
    signature: Hex<96>,
}

impl From<RandaoJson> for SignedRandao {
    fn from(it: RandaoJson) -> Self {
        Self::new(it.epoch.0, it.signature.0)
    }
}

#[derive(Deserialize)]
struct ExitJson {
    message: ExitMessageJson,
    signature: Hex<96>,
}

#[derive(Deserialize)]
struct ExitMessageJson {
    epoch: Dec,
    validator_index: Dec,
}

impl From<ExitJson> for SignedExit {
    fn from(it: ExitJson) -> Self {
        Self {
            epoch: it.message.epoch.0,
            validator_index: it.message.validator_index.0,
            signature: it.signature.0,
        }
    }
}

#[derive(Deserialize)]
struct CommitteeSelectionJson {
    validator_index: Dec,
    slot: Dec,
    selection_proof: Hex<96>,
}

impl From<CommitteeSelectionJson> for CommitteeSelection {
    fn from(it: CommitteeSelectionJson) -> Self {
        Self {
            validator_index: it.validator_index.0,
            slot: it.slot.0,
            selection_proof: it.selection_proof.0,
        }
    }
}

#[derive(Deserialize)]
struct SyncSelectionJson {
    validator_index: Dec,
    slot: Dec,
    subcommittee_index: Dec,
    selection_proof: Hex<96>,
}

impl From<SyncSelectionJson> for SyncSelection {
    fn from(it: SyncSelectionJson) -> Self {
        Self {
            validator_index: it.validator_index.0,
            slot: it.slot.0,
            subcommittee_index: it.subcommittee_index.0,
            selection_proof: it.selection_proof.0,
        }
    }
}

#[derive(Deserialize)]
struct RegistrationJson {
    version: u64,
    registration: SignedRegistrationJson,
}

#[derive(Deserialize)]
struct SignedRegistrationJson {
    message: RegistrationMessageJson,
    signature: Hex<96>,
}

#[derive(Deserialize)]
struct RegistrationMessageJson {
    fee_recipient: Hex<20>,
    gas_limit: Dec,
    timestamp: Dec,
    pubkey: Hex<48>,
}

#[derive(Deserialize)]
struct SyncMessageJson {
    slot: Dec,
    beacon_block_root: Hex<32>,
    validator_index: Dec,
    signature: Hex<96>,
}

impl From<SyncMessageJson> for SyncMessage {
    fn from(it: SyncMessageJson) -> Self {
        Self {
            slot: it.slot.0,
            beacon_block_root: it.beacon_block_root.0,
            validator_index: it.validator_index.0,
            signature: it.signature.0,
        }
    }
}

#[derive(Deserialize)]
struct SignedContributionJson {
    message: ContributionAndProofJson,
    signature: Hex<96>,
}

#[derive(Deserialize)]
struct ContributionAndProofJson {
    aggregator_index: Dec,
    contribution: ContributionJson,
    selection_proof: Hex<96>,
}

#[derive(Deserialize)]
struct ContributionJson {
    slot: Dec,
    beacon_block_root: Hex<32>,
    subcommittee_index: Dec,
    aggregation_bits: Hex<16>,
    signature: Hex<96>,
}

impl From<SignedContributionJson> for SignedContribution {
    fn from(it: SignedContributionJson) -> Self {
        let contribution = it.message.contribution;
        Self {
            aggregator_index: it.message.aggregator_index.0,
            slot: contribution.slot.0,
            beacon_block_root: contribution.beacon_block_root.0,
            subcommittee_index: contribution.subcommittee_index.0,
            aggregation_bits: contribution.aggregation_bits.0,
            contribution_signature: contribution.signature.0,
            selection_proof: it.message.selection_proof.0,
            signature: it.signature.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn randao_and_bare_signature_round_trip() {
        let randao = SignedRandao::new(u64::MAX, [0xab; 96]);
        let root = SignedRoot::new([0xcd; 96]);

        assert_eq!(
            SignedData::decode(DutyType::Randao, &randao.to_json()),
            Ok(SignedData::Randao(randao))
        );
        assert_eq!(
            SignedData::decode(DutyType::Signature, &root.to_json()),
            Ok(SignedData::Signature(root))
        );
    }

    #[test]
    fn numbers_must_be_decimal_strings() {
        let signature = "ab".repeat(96);
        for (epoch, ok) in [
            ("\"7\"", true),
            ("7", false),
            ("\"+7\"", false),
            ("\"\"", false),
            ("\"0x7\"", false),
            ("\"18446744073709551615\"", true),
            ("\"18446744073709551616\"", false),
        ] {
            let text = format!(r#"{{"epoch":{epoch},"signature":"0x{signature}"}}"#);
            let decoded = SignedData::decode(DutyType::Randao, text.as_bytes());
            assert_eq!(decoded.is_ok(), ok, "{epoch}");
        }
    }

    #[test]
    fn fixed_sizes_are_exact() {
        for (kind, size) in [
            (DutyType::Exit, 112),
            (DutyType::SyncMessage, 144),
            (DutyType::SyncContribution, 360),
        ] {
            for (len, ok) in [(size - 1, false), (size, true), (size + 1, false)] {
                let decoded = SignedData::decode(kind, &vec![1; len]);
                assert_eq!(decoded.is_ok(), ok, "{kind} of {len} bytes");
            }
        }
    }

    #[test]
    fn signatures_of_other_lengths_are_refused() {
        for len in [0, 95, 97] {
            let text = format!("\"{}\"", STANDARD.encode(vec![1; len]));
            assert_eq!(
                SignedData::decode(DutyType::Signature, text.as_bytes()),
                Err(SignedDataError::SignatureLength { len })
            );
        }
    }

    #[test]
    fn json_is_read_up_to_the_bound() {
        let mut text = SignedRandao::new(1, [1; 96]).to_json().to_vec();
        text.resize(MAX_JSON_BYTES, b' ');
        assert!(SignedData::decode(DutyType::Randao, &text).is_ok());
        text.push(b' ');
        assert_eq!(
            SignedData::decode(DutyType::Randao, &text),
            Err(SignedDataError::JsonTooLong {
                kind: DutyType::Randao,
                len: MAX_JSON_BYTES + 1
            })
        );
    }

    #[test]
    fn an_object_fits_only_the_slots_of_its_own_time() {
        let per_epoch = NonZeroU64::new(32).unwrap();
        let randao = SignedData::Randao(SignedRandao::new(3, [0; 96]));
        let exit = |epoch| {
            SignedData::Exit(SignedExit {
                epoch,
                validator_index: 1,
                signature: [0; 96],
            })
        };
        let message = SignedData::SyncMessage(SyncMessage {
            slot: 96,
            beacon_block_root: [0; 32],
            validator_index: 1,
            signature: [0; 96],
        });
        let bare = SignedData::Signature(SignedRoot::new([0; 96]));

        for (slot, of_randao, of_exit, of_message) in [
            (95, false, false, false),
            (96, true, true, true),
            (97, true, false, false),
            (127, true, false, false),
            (128, false, false, false),
        ] {
            let fits = |data: &SignedData| data.fits(Slot(slot), per_epoch);
            assert_eq!(fits(&randao), of_randao, "randao at {slot}");
            assert_eq!(fits(&exit(3)), of_exit, "exit at {slot}");
            assert_eq!(fits(&message), of_message, "message at {slot}");
            assert!(fits(&bare), "{slot}");
            // Its first slot would be no number.
            assert!(!fits(&exit(u64::MAX)), "{slot}");
        }
    }

    #[test]
    fn what_has_no_signed_data_says_so() {
        for kind in [DutyType::BuilderProposer, DutyType::InfoSync] {
            let not_signed = SignedDataError::NotSigned { kind };
            assert_eq!(SignedData::decode(kind, &[]), Err(not_signed));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            code in 1..=13,
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            brace in any::<bool>(),
        ) {
            let kind = DutyType::try_from(code).unwrap();
            let bytes = if brace { [b"{".as_slice(), &bytes].concat() } else { bytes };
            if let Ok(data) = SignedData::decode(kind, &bytes) {
                let _ = (data.message_root(), data.epoch(NonZeroU64::MIN), data.signature());
            }
        }
    }
}
