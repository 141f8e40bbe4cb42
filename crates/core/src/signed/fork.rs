//! The forks of the chain, as the wrappers of signed objects name them.
//!
//! Spec: duties, sections 1.4 and 1.5.

use super::{SignedDataError, SszError, ssz::Reader};
use crate::DutyType;

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

    pub(super) fn from_ssz(reader: &mut Reader<'_>) -> Result<Self, SszError> {
        let version = reader.u64("version")?;
        Self::from_code(version).ok_or(SszError::Version { version })
    }

    pub(super) fn from_json(kind: DutyType, version: u64) -> Result<Self, SignedDataError> {
        Self::from_code(version).ok_or(SignedDataError::Version { kind, version })
    }
}
