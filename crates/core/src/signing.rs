//! From a message root to the 32 bytes that a validator key signs.
//!
//! Spec: duties, section 3.4; the beacon chain's own specification for domains.

use std::num::NonZeroU64;

use crate::signed::{SignedData, hash};

/// What a signature is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DomainKind {
    /// A block.
    BeaconProposer,
    /// An attestation.
    BeaconAttester,
    /// A randao reveal.
    Randao,
    /// A deposit; independent of forks and of the chain's history.
    Deposit,
    /// A voluntary exit.
    VoluntaryExit,
    /// The selection proof of a beacon committee member.
    SelectionProof,
    /// An aggregate with its proof.
    AggregateAndProof,
    /// A sync committee message.
    SyncCommittee,
    /// The selection proof of a sync committee member.
    SyncCommitteeSelectionProof,
    /// A sync contribution with its proof.
    ContributionAndProof,
    /// A registration for builders; independent of forks and of the chain's history.
    ApplicationBuilder,
}

impl DomainKind {
    /// The domain type, the first four bytes of a domain.
    #[must_use]
    pub const fn type_bytes(self) -> [u8; 4] {
        match self {
            Self::BeaconProposer => [0, 0, 0, 0],
            Self::BeaconAttester => [1, 0, 0, 0],
            Self::Randao => [2, 0, 0, 0],
            Self::Deposit => [3, 0, 0, 0],
            Self::VoluntaryExit => [4, 0, 0, 0],
            Self::SelectionProof => [5, 0, 0, 0],
            Self::AggregateAndProof => [6, 0, 0, 0],
            Self::SyncCommittee => [7, 0, 0, 0],
            Self::SyncCommitteeSelectionProof => [8, 0, 0, 0],
            Self::ContributionAndProof => [9, 0, 0, 0],
            Self::ApplicationBuilder => [0, 0, 0, 1],
        }
    }

    /// The name in the beacon chain's specification.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeaconProposer => "DOMAIN_BEACON_PROPOSER",
            Self::BeaconAttester => "DOMAIN_BEACON_ATTESTER",
            Self::Randao => "DOMAIN_RANDAO",
            Self::Deposit => "DOMAIN_DEPOSIT",
            Self::VoluntaryExit => "DOMAIN_VOLUNTARY_EXIT",
            Self::SelectionProof => "DOMAIN_SELECTION_PROOF",
            Self::AggregateAndProof => "DOMAIN_AGGREGATE_AND_PROOF",
            Self::SyncCommittee => "DOMAIN_SYNC_COMMITTEE",
            Self::SyncCommitteeSelectionProof => "DOMAIN_SYNC_COMMITTEE_SELECTION_PROOF",
            Self::ContributionAndProof => "DOMAIN_CONTRIBUTION_AND_PROOF",
            Self::ApplicationBuilder => "DOMAIN_APPLICATION_BUILDER",
        }
    }
}

/// What a chain contributes to domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forks {
    /// The version before any fork; also names the network.
    pub genesis_version: [u8; 4],
    /// Tells chains with equal versions apart.
    pub genesis_validators_root: [u8; 32],
    /// From which epoch which version holds, in fork order; genesis need not be in it. Of several
    /// forks at one epoch the last counts.
    pub schedule: Vec<(u64, [u8; 4])>,
    /// The version for voluntary exits: Capella's on every public network, for ever (EIP-7044).
    /// `None`: the version of the exit's epoch, as on chains without that rule.
    pub exit_version: Option<[u8; 4]>,
    /// To get from a slot to its epoch.
    pub slots_per_epoch: NonZeroU64,
}

impl Forks {
    /// The version at an epoch.
    #[must_use]
    pub fn version_at(&self, epoch: u64) -> [u8; 4] {
        self.schedule
            .iter()
            .filter(|(from, _)| *from <= epoch)
            .max_by_key(|(from, _)| *from)
            .map_or(self.genesis_version, |(_, version)| *version)
    }

    /// The domain of `kind` at `epoch`.
    #[must_use]
    pub fn domain(&self, kind: DomainKind, epoch: u64) -> [u8; 32] {
        let (version, root) = match kind {
            DomainKind::Deposit | DomainKind::ApplicationBuilder => (self.genesis_version, [0; 32]),
            DomainKind::VoluntaryExit => (
                self.exit_version.unwrap_or_else(|| self.version_at(epoch)),
                self.genesis_validators_root,
            ),
            _ => (self.version_at(epoch), self.genesis_validators_root),
        };
        let fork_data_root = hash::container(&[hash::short(&version), root]);
        let mut domain = [0; 32];
        domain[..4].copy_from_slice(&kind.type_bytes());
        domain[4..].copy_from_slice(&fork_data_root[..28]);
        domain
    }

    /// What the key behind `data` must have signed. `None` for a bare signature, which does not
    /// say what it signs.
    #[must_use]
    pub fn signing_root(&self, data: &SignedData) -> Option<[u8; 32]> {
        let epoch = data.epoch(self.slots_per_epoch)?;
        let domain = self.domain(data.domain()?, epoch);
        Some(signing_root(data.message_root()?, domain))
    }
}

/// Binds a message root to its domain: the bytes that are signed.
#[must_use]
pub fn signing_root(root: [u8; 32], domain: [u8; 32]) -> [u8; 32] {
    hash::container(&[root, domain])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forks() -> Forks {
        Forks {
            genesis_version: [0; 4],
            genesis_validators_root: [7; 32],
            schedule: vec![(10, [1; 4]), (10, [2; 4]), (20, [3; 4])],
            exit_version: None,
            slots_per_epoch: NonZeroU64::MIN,
        }
    }

    #[test]
    fn version_changes_at_the_fork_epoch_and_the_last_of_equals_counts() {
        let forks = forks();

        let versions = [0, 9, 10, 19, 20, u64::MAX].map(|epoch| forks.version_at(epoch)[0]);
        assert_eq!(versions, [0, 0, 2, 2, 3, 3]);
    }

    #[test]
    fn exits_keep_their_version_and_others_do_not() {
        let mut forks = forks();
        forks.exit_version = Some([2; 4]);

        let exit = |epoch| forks.domain(DomainKind::VoluntaryExit, epoch);
        let randao = |epoch| forks.domain(DomainKind::Randao, epoch);
        assert_eq!(exit(10), exit(20));
        assert_ne!(randao(10), randao(20));
    }

    #[test]
    fn deposits_and_registrations_depend_on_genesis_only() {
        let mut other = forks();
        other.genesis_validators_root = [8; 32];

        for kind in [DomainKind::Deposit, DomainKind::ApplicationBuilder] {
            assert_eq!(forks().domain(kind, 0), other.domain(kind, 20));
        }
    }
}
