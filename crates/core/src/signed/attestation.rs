//! Attestations of all forks, in both wrappers.
//!
//! Spec: duties, sections 1.4 and 1.5.

use serde::Deserialize;

use super::{
    ForkVersion, SignedDataError, SszError,
    container::{Ssz, container},
    hash,
    json::{Dec, Hex, HexVec},
    ssz::{Reader, behind, check_bit_list},
};
use crate::DutyType;

/// Most attesters in one attestation before Electra: one committee.
pub(super) const MAX_COMMITTEE_BITS: usize = 2_048;
/// Most attesters in one attestation since Electra: all 64 committees of a slot.
pub(super) const MAX_SLOT_BITS: usize = 64 * MAX_COMMITTEE_BITS;

/// Where the attestation starts behind a header with a validator index.
const INDEXED_HEADER: u32 = 20;
/// Where it starts behind one without; senders may leave a gap.
const PLAIN_HEADER: usize = 12;

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
        let version = ForkVersion::from_ssz(&mut reader)?;
        let mut indexed = Reader::new(reader.rest());
        let index = indexed.u64("validator_index")?;
        match indexed.offset("attestation", INDEXED_HEADER) {
            Ok(()) => Self::payload(version, Some(index), indexed.rest()),
            Err(SszError::Offset { .. }) => {
                let mut plain = Reader::new(&bytes[8..]);
                let payload = behind(bytes, &mut plain, "attestation", PLAIN_HEADER)?;
                Self::payload(version, None, payload)
            }
            Err(short) => Err(short),
        }
    }

    /// Without a wrapper.
    pub(super) fn payload(
        version: ForkVersion,
        validator_index: Option<u64>,
        bytes: &[u8],
    ) -> Result<Self, SszError> {
        let has_committees = version >= ForkVersion::Electra;
        let mut reader = Reader::new(bytes);
        reader.offset("aggregation_bits", if has_committees { 236 } else { 228 })?;
        let data: [u8; 128] = reader.array("data")?;
        let data = Data::read(&data, "data")?.into();
        let signature = reader.array("signature")?;
        let committee_bits = if has_committees {
            Some(reader.array("committee_bits")?)
        } else {
            None
        };
        let bits = reader.rest();
        check_bit_list(bits, "aggregation_bits", max_bits(version))?;
        Ok(Self {
            version,
            validator_index,
            aggregation_bits: bits.to_vec(),
            data,
            signature,
            committee_bits,
        })
    }

    /// Of the whole attestation, which an aggregator signs; an attester signs [`Self::data`].
    pub(super) fn root(&self) -> [u8; 32] {
        let bits = hash::bit_list(&self.aggregation_bits, max_bits(self.version));
        let signature = hash::vector(&self.signature);
        let fields = [bits, self.data.root(), signature];
        match &self.committee_bits {
            None => hash::container(&fields),
            Some(committees) => {
                let [bits, data, signature] = fields;
                hash::container(&[bits, data, signature, hash::short(committees)])
            }
        }
    }
}

pub(super) fn from_json(bytes: &[u8]) -> Result<Attestation, SignedDataError> {
    let kind = DutyType::Attester;
    let it: VersionedJson = super::from_json(kind, bytes, |it| it)?;
    let version = ForkVersion::from_json(kind, it.version)?;
    let attestation = it.attestation.checked(version);
    attestation
        .map(|attestation| Attestation {
            validator_index: it.validator_index.map(|index| index.0),
            ..attestation
        })
        .map_err(|source| SignedDataError::Ssz { kind, source })
}

/// Most attesters in one attestation of a fork.
pub(super) fn max_bits(version: ForkVersion) -> usize {
    if version >= ForkVersion::Electra {
        MAX_SLOT_BITS
    } else {
        MAX_COMMITTEE_BITS
    }
}

#[derive(Deserialize)]
struct VersionedJson {
    version: u64,
    validator_index: Option<Dec>,
    attestation: AttestationJson,
}

#[derive(Deserialize)]
pub(super) struct AttestationJson {
    aggregation_bits: HexVec,
    data: Data,
    signature: Hex<96>,
    committee_bits: Option<Hex<8>>,
}

impl AttestationJson {
    /// The attestation, without a validator index, if it has the form of `version`.
    pub(super) fn checked(self, version: ForkVersion) -> Result<Attestation, SszError> {
        let committee_bits = if version >= ForkVersion::Electra {
            let field = "committee_bits";
            let bits = self.committee_bits.ok_or(SszError::Short { field })?;
            Some(bits.0)
        } else {
            None
        };
        let bits = self.aggregation_bits.0;
        check_bit_list(&bits, "aggregation_bits", max_bits(version))?;
        Ok(Attestation {
            version,
            validator_index: None,
            aggregation_bits: bits,
            data: self.data.into(),
            signature: self.signature.0,
            committee_bits,
        })
    }
}

container! {
    /// [`AttestationData`] as it is read.
    Data {
        slot: Dec,
        index: Dec,
        beacon_block_root: Hex<32>,
        source: Point,
        target: Point,
    }
}

container! {
    /// A [`Checkpoint`] as it is read.
    Point {
        epoch: Dec,
        root: Hex<32>,
    }
}

impl From<Data> for AttestationData {
    fn from(it: Data) -> Self {
        let checkpoint = |it: Point| Checkpoint {
            epoch: it.epoch.0,
            root: it.root.0,
        };
        Self {
            slot: it.slot.0,
            index: it.index.0,
            beacon_block_root: it.beacon_block_root.0,
            source: checkpoint(it.source),
            target: checkpoint(it.target),
        }
    }
}
