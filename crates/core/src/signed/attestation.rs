//! Attestations of all forks, in both wrappers.
//!
//! Spec: duties, sections 1.4 and 1.5.

use serde::Deserialize;

use super::{
    SignedDataError, SszError, hash,
    json::{Dec, Hex, HexVec},
    ssz::{Reader, check_bit_list},
};
use crate::DutyType;

/// Most attesters in one attestation before Electra: one committee.
const MAX_COMMITTEE_BITS: usize = 2_048;
/// Most attesters in one attestation since Electra: all 64 committees of a slot.
const MAX_SLOT_BITS: usize = 64 * MAX_COMMITTEE_BITS;

/// Where the attestation starts behind a header with a validator index.
const INDEXED_HEADER: u32 = 20;
/// Where it starts behind one without; senders may leave a gap.
const PLAIN_HEADER: u32 = 12;

/// A fork, by its code in the wrappers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u64)]
pub enum ForkVersion {
    /// Code 0.
    Phase0 = 0,
    /// Code 1.
    Altair = 1,
    /// Code 2.
    Bellatrix = 2,
    /// Code 3.
    Capella = 3,
    /// Code 4.
    Deneb = 4,
    /// Code 5.
    Electra = 5,
    /// Code 6.
    Fulu = 6,
}

impl ForkVersion {
    const fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            0 => Self::Phase0,
            1 => Self::Altair,
            2 => Self::Bellatrix,
            3 => Self::Capella,
            4 => Self::Deneb,
            5 => Self::Electra,
            6 => Self::Fulu,
            _ => return None,
        })
    }

    fn max_bits(self) -> usize {
        if self >= Self::Electra {
            MAX_SLOT_BITS
        } else {
            MAX_COMMITTEE_BITS
        }
    }
}

/// An epoch's boundary block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The epoch.
    pub epoch: u64,
    /// The block.
    pub root: [u8; 32],
}

/// What is attested, and what is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttestationData {
    /// The slot.
    pub slot: u64,
    /// The committee; 0 since Electra.
    pub index: u64,
    /// The head of the chain.
    pub beacon_block_root: [u8; 32],
    /// The justified checkpoint.
    pub source: Checkpoint,
    /// The checkpoint voted for; its epoch selects the fork of the domain.
    pub target: Checkpoint,
}

/// An attestation of one validator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// The fork that gives its layout.
    pub version: ForkVersion,
    /// Not signed; absent from senders that do not know it.
    pub validator_index: Option<u64>,
    /// Who attested, as an SSZ bit list. Not signed.
    pub aggregation_bits: Vec<u8>,
    /// What is attested.
    pub data: AttestationData,
    /// The signature.
    pub signature: [u8; 96],
    /// Which committees, since Electra. Not signed.
    pub committee_bits: Option<[u8; 8]>,
}

impl AttestationData {
    fn from_ssz(reader: &mut Reader<'_>) -> Result<Self, SszError> {
        Ok(Self {
            slot: reader.u64("data.slot")?,
            index: reader.u64("data.index")?,
            beacon_block_root: reader.array("data.beacon_block_root")?,
            source: Checkpoint {
                epoch: reader.u64("data.source.epoch")?,
                root: reader.array("data.source.root")?,
            },
            target: Checkpoint {
                epoch: reader.u64("data.target.epoch")?,
                root: reader.array("data.target.root")?,
            },
        })
    }

    pub(super) fn root(&self) -> [u8; 32] {
        let checkpoint = |it: Checkpoint| hash::container(&[hash::u64(it.epoch), it.root]);
        hash::container(&[
            hash::u64(self.slot),
            hash::u64(self.index),
            self.beacon_block_root,
            checkpoint(self.source),
            checkpoint(self.target),
        ])
    }
}

impl Attestation {
    /// With the validator index first; without it only if the offset says so.
    ///
    /// An attestation without it whose slot is 20 modulo 2^32 is misread, as everywhere: the
    /// two wrappers cannot be told apart then.
    pub(super) fn from_ssz(bytes: &[u8]) -> Result<Self, SszError> {
        let mut reader = Reader::new(bytes);
        let version = version(&mut reader)?;
        let mut indexed = Reader::new(reader.rest());
        let index = indexed.u64("validator_index")?;
        match indexed.offset("attestation", INDEXED_HEADER) {
            Ok(()) => Self::payload(version, Some(index), indexed.rest()),
            Err(SszError::Offset { .. }) => {
                let mut plain = Reader::new(&bytes[8..]);
                let offset = plain.u32("attestation")?;
                let payload = usize::try_from(offset)
                    .ok()
                    .filter(|_| offset >= PLAIN_HEADER)
                    .and_then(|offset| bytes.get(offset..))
                    .ok_or(SszError::Offset {
                        field: "attestation",
                        offset,
                    })?;
                Self::payload(version, None, payload)
            }
            Err(short) => Err(short),
        }
    }

    fn payload(
        version: ForkVersion,
        validator_index: Option<u64>,
        bytes: &[u8],
    ) -> Result<Self, SszError> {
        let has_committees = version >= ForkVersion::Electra;
        let mut reader = Reader::new(bytes);
        reader.offset("aggregation_bits", if has_committees { 236 } else { 228 })?;
        let data = AttestationData::from_ssz(&mut reader)?;
        let signature = reader.array("signature")?;
        let committee_bits = if has_committees {
            Some(reader.array("committee_bits")?)
        } else {
            None
        };
        let bits = reader.rest();
        check_bit_list(bits, "aggregation_bits", version.max_bits())?;
        Ok(Self {
            version,
            validator_index,
            aggregation_bits: bits.to_vec(),
            data,
            signature,
            committee_bits,
        })
    }
}

fn version(reader: &mut Reader<'_>) -> Result<ForkVersion, SszError> {
    let version = reader.u64("version")?;
    ForkVersion::from_code(version).ok_or(SszError::Version { version })
}

pub(super) fn from_json(bytes: &[u8]) -> Result<Attestation, SignedDataError> {
    let kind = DutyType::Attester;
    let it: VersionedJson = super::from_json(kind, bytes, |it| it)?;
    let version = ForkVersion::from_code(it.version).ok_or(SignedDataError::Version {
        kind,
        version: it.version,
    })?;
    let attestation = it.attestation;
    let committee_bits = if version >= ForkVersion::Electra {
        let bits = attestation.committee_bits.ok_or(SignedDataError::Ssz {
            kind,
            source: SszError::Short {
                field: "committee_bits",
            },
        })?;
        Some(bits.0)
    } else {
        None
    };
    let bits = attestation.aggregation_bits.0;
    check_bit_list(&bits, "aggregation_bits", version.max_bits())
        .map_err(|source| SignedDataError::Ssz { kind, source })?;
    let data = attestation.data;
    Ok(Attestation {
        version,
        validator_index: it.validator_index.map(|index| index.0),
        aggregation_bits: bits,
        data: AttestationData {
            slot: data.slot.0,
            index: data.index.0,
            beacon_block_root: data.beacon_block_root.0,
            source: data.source.into(),
            target: data.target.into(),
        },
        signature: attestation.signature.0,
        committee_bits,
    })
}

#[derive(Deserialize)]
struct VersionedJson {
    version: u64,
    validator_index: Option<Dec>,
    attestation: AttestationJson,
}

#[derive(Deserialize)]
struct AttestationJson {
    aggregation_bits: HexVec,
    data: DataJson,
    signature: Hex<96>,
    committee_bits: Option<Hex<8>>,
}

#[derive(Deserialize)]
struct DataJson {
    slot: Dec,
    index: Dec,
    beacon_block_root: Hex<32>,
    source: CheckpointJson,
    target: CheckpointJson,
}

#[derive(Deserialize)]
struct CheckpointJson {
    epoch: Dec,
    root: Hex<32>,
}

impl From<CheckpointJson> for Checkpoint {
    fn from(it: CheckpointJson) -> Self {
        Self {
            epoch: it.epoch.0,
            root: it.root.0,
        }
    }
}
