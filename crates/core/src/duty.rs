//! What a cluster has to do, and when.
//!
//! Spec: duties, sections 1.1 and 1.2.

use std::fmt;

/// A slot of the beacon chain. For some duty types another number, see [`DutyType`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A unit of work of the cluster; prints as `<slot>/<type>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duty {
    /// When, by the convention of `kind`.
    pub slot: Slot,
    /// What.
    pub kind: DutyType,
}

impl Duty {
    /// A duty of `kind` at `slot`.
    #[must_use]
    pub const fn new(slot: u64, kind: DutyType) -> Self {
        Self {
            slot: Slot(slot),
            kind,
        }
    }
}

impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.slot, self.kind)
    }
}

/// What kind of work a duty is. The codes are frozen: they travel on the wire.
///
/// Code 0 and codes from 14 up are no duty and have no variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum DutyType {
    /// A block.
    Proposer = 1,
    /// An attestation.
    Attester = 2,
    /// A bare signature in a key-generation ceremony. Its slot is 101 for the lock hash, 102 for
    /// builder registrations, 200 + i for the i-th deposit amount.
    Signature = 3,
    /// A voluntary exit. Its slot is the first one of the exit's epoch.
    Exit = 4,
    /// No longer used; nothing of this type is decoded.
    BuilderProposer = 5,
    /// A validator registration for block builders.
    BuilderRegistration = 6,
    /// The randao reveal for a block.
    Randao = 7,
    /// The selection proof of a beacon committee member.
    PrepareAggregator = 8,
    /// An aggregated attestation.
    Aggregator = 9,
    /// A sync committee message.
    SyncMessage = 10,
    /// The selection proof of a sync committee member.
    PrepareSyncContribution = 11,
    /// A sync committee contribution.
    SyncContribution = 12,
    /// Agreement on what the cluster's members support; carries no signed data.
    InfoSync = 13,
}

impl DutyType {
    /// All of them, in code order.
    pub const ALL: [Self; 13] = [
        Self::Proposer,
        Self::Attester,
        Self::Signature,
        Self::Exit,
        Self::BuilderProposer,
        Self::BuilderRegistration,
        Self::Randao,
        Self::PrepareAggregator,
        Self::Aggregator,
        Self::SyncMessage,
        Self::PrepareSyncContribution,
        Self::SyncContribution,
        Self::InfoSync,
    ];

    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The name in logs, metric labels and trace ids.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proposer => "proposer",
            Self::Attester => "attester",
            Self::Signature => "signature",
            Self::Exit => "exit",
            Self::BuilderProposer => "builder_proposer",
            Self::BuilderRegistration => "builder_registration",
            Self::Randao => "randao",
            Self::PrepareAggregator => "prepare_aggregator",
            Self::Aggregator => "aggregator",
            Self::SyncMessage => "sync_message",
            Self::PrepareSyncContribution => "prepare_sync_contribution",
            Self::SyncContribution => "sync_contribution",
            Self::InfoSync => "info_sync",
        }
    }

    /// Whether partial signatures of this type exist on the wire.
    #[must_use]
    pub const fn is_signed(self) -> bool {
        !matches!(self, Self::BuilderProposer | Self::InfoSync)
    }

    /// Whether a validator that signs two different objects of one such duty can be slashed.
    #[must_use]
    pub const fn is_slashable(self) -> bool {
        matches!(self, Self::Proposer | Self::Attester)
    }

    /// Whether its duties are over at some time (duties spec, section 4.2).
    #[must_use]
    pub const fn expires(self) -> bool {
        !matches!(self, Self::Exit | Self::BuilderRegistration)
    }
}

impl fmt::Display for DutyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A number that is no duty type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("duty type {code} is not known")]
pub struct DutyTypeError {
    /// The number.
    pub code: i32,
}

impl TryFrom<i32> for DutyType {
    type Error = DutyTypeError;

    fn try_from(code: i32) -> Result<Self, DutyTypeError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.code() == code)
            .ok_or(DutyTypeError { code })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_the_ones_around_them_are_refused() {
        for code in 1..=13 {
            assert_eq!(DutyType::try_from(code).unwrap().code(), code);
        }
        for code in [i32::MIN, -1, 0, 14, i32::MAX] {
            assert_eq!(DutyType::try_from(code), Err(DutyTypeError { code }));
        }
    }

    #[test]
    fn duty_prints_slot_and_name() {
        assert_eq!(Duty::new(7, DutyType::Randao).to_string(), "7/randao");
    }
}
