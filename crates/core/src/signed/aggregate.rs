//! Aggregated attestations with their proof, of all forks.
//!
//! Spec: duties, sections 1.3 to 1.5.

use serde::Deserialize;

use super::{
    Attestation, ForkVersion, SignedDataError, SszError,
    attestation::AttestationJson,
    hash,
    json::{Dec, Hex},
    ssz::{Reader, behind},
};
use crate::DutyType;

/// Where the signed object starts in its wrapper; senders may leave a gap.
const HEADER: usize = 12;
/// Where its message starts. No version has this code, so that it tells an object without wrapper.
const MESSAGE: u32 = 100;

/// An aggregate with the proof that its aggregator was selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedAggregate {
    /// Who aggregated.
    pub aggregator_index: u64,
    /// What was aggregated; has no validator index.
    pub aggregate: Attestation,
    /// Why the aggregator may aggregate.
    pub selection_proof: [u8; 96],
    /// The signature.
    pub signature: [u8; 96],
}

impl SignedAggregate {
    /// With its version first; without a wrapper it is of the first fork.
    pub(super) fn from_ssz(bytes: &[u8]) -> Result<Self, SszError> {
        if bytes.starts_with(&MESSAGE.to_le_bytes()) {
            return Self::payload(ForkVersion::Phase0, bytes);
        }
        let mut reader = Reader::new(bytes);
        let version = ForkVersion::from_ssz(&mut reader)?;
        let payload = behind(bytes, &mut reader, "aggregate_and_proof", HEADER)?;
        Self::payload(version, payload)
    }

    fn payload(version: ForkVersion, bytes: &[u8]) -> Result<Self, SszError> {
        let mut reader = Reader::new(bytes);
        reader.offset("message", MESSAGE)?;
        let signature = reader.array("signature")?;
        let aggregator_index = reader.u64("aggregator_index")?;
        reader.offset("aggregate", 108)?;
        Ok(Self {
            aggregator_index,
            selection_proof: reader.array("selection_proof")?,
            aggregate: Attestation::payload(version, None, reader.rest())?,
            signature,
        })
    }

    pub(super) fn message_root(&self) -> [u8; 32] {
        hash::container(&[
            hash::u64(self.aggregator_index),
            self.aggregate.root(),
            hash::vector(&self.selection_proof),
        ])
    }
}

pub(super) fn from_json(bytes: &[u8]) -> Result<SignedAggregate, SignedDataError> {
    let kind = DutyType::Aggregator;
    let (version, it) = match super::from_json(kind, bytes, |it: SignedJson| it) {
        Ok(bare) => (ForkVersion::Phase0, bare),
        Err(_) => {
            let it: VersionedJson = super::from_json(kind, bytes, |it| it)?;
            let version = ForkVersion::from_json(kind, it.version)?;
            (version, it.aggregate_and_proof)
        }
    };
    let message = it.message;
    let aggregate = message.aggregate.checked(version);
    Ok(SignedAggregate {
        aggregator_index: message.aggregator_index.0,
        aggregate: aggregate.map_err(|source| SignedDataError::Ssz { kind, source })?,
        selection_proof: message.selection_proof.0,
        signature: it.signature.0,
    })
}

#[derive(Deserialize)]
struct VersionedJson {
    version: u64,
    aggregate_and_proof: SignedJson,
}

#[derive(Deserialize)]
struct SignedJson {
    message: MessageJson,
    signature: Hex<96>,
}

#[derive(Deserialize)]
struct MessageJson {
    aggregator_index: Dec,
    aggregate: AttestationJson,
    selection_proof: Hex<96>,
}
