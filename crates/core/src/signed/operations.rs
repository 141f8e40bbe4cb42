//! What a block carries beside its payload: slashings, attestations, deposits, exits, requests.
//!
//! Containers and limits: the beacon chain's specification from phase0 to electra.

use super::{
    attestation::{Data, MAX_COMMITTEE_BITS, MAX_SLOT_BITS},
    container::{Bits, Hashes, List, Numbers, container},
    json::{Dec, Hex},
};

/// `MAX_PROPOSER_SLASHINGS`
pub(super) type ProposerSlashings = List<ProposerSlashing, 16>;
/// `MAX_ATTESTER_SLASHINGS`
pub(super) type AttesterSlashings = List<Both<IndexedAttestation>, 2>;
/// `MAX_ATTESTER_SLASHINGS_ELECTRA`
pub(super) type ElectraAttesterSlashings = List<Both<ElectraIndexedAttestation>, 1>;
/// `MAX_ATTESTATIONS`
pub(super) type Attestations = List<BlockAttestation, 128>;
/// `MAX_ATTESTATIONS_ELECTRA`
pub(super) type ElectraAttestations = List<ElectraBlockAttestation, 8>;
/// `MAX_DEPOSITS`
pub(super) type Deposits = List<Deposit, 16>;
/// `MAX_VOLUNTARY_EXITS`
pub(super) type VoluntaryExits = List<Signed<VoluntaryExit>, 16>;
/// `MAX_BLS_TO_EXECUTION_CHANGES`
pub(super) type BlsToExecutionChanges = List<Signed<BlsToExecutionChange>, 16>;
/// `MAX_BLOB_COMMITMENTS_PER_BLOCK`
pub(super) type BlobCommitments = List<Hex<48>, 4_096>;

container! {
    /// Anything with its signature.
    Signed<T> {
        message: T,
        signature: Hex<96>,
    }
}

container! {
    /// What a block voted for on the deposit chain.
    Eth1Data {
        deposit_root: Hex<32>,
        deposit_count: Dec,
        block_hash: Hex<32>,
    }
}

container! {
    /// Two blocks for one slot.
    ProposerSlashing {
        signed_header_1: Signed<BlockHeader>,
        signed_header_2: Signed<BlockHeader>,
    }
}

container! {
    /// A block whose body is given by its root.
    BlockHeader {
        slot: Dec,
        proposer_index: Dec,
        parent_root: Hex<32>,
        state_root: Hex<32>,
        body_root: Hex<32>,
    }
}

container! {
    /// Two attestations that exclude each other: an attester slashing.
    Both<T> {
        attestation_1: T,
        attestation_2: T,
    }
}

container! {
    /// Before electra.
    IndexedAttestation {
        attesting_indices: Numbers<MAX_COMMITTEE_BITS>,
        data: Data,
        signature: Hex<96>,
    }
}

container! {
    /// Since electra.
    ElectraIndexedAttestation {
        attesting_indices: Numbers<MAX_SLOT_BITS>,
        data: Data,
        signature: Hex<96>,
    }
}

container! {
    /// Before electra.
    BlockAttestation {
        aggregation_bits: Bits<MAX_COMMITTEE_BITS>,
        data: Data,
        signature: Hex<96>,
    }
}

container! {
    /// Since electra.
    ElectraBlockAttestation {
        aggregation_bits: Bits<MAX_SLOT_BITS>,
        data: Data,
        signature: Hex<96>,
        committee_bits: Hex<8>,
    }
}

container! {
    /// A deposit with its proof against the deposit root.
    Deposit {
        proof: Hashes<33>,
        data: DepositData,
    }
}

container! {
    /// What was deposited.
    DepositData {
        pubkey: Hex<48>,
        withdrawal_credentials: Hex<32>,
        amount: Dec,
        signature: Hex<96>,
    }
}

container! {
    /// A validator that leaves.
    VoluntaryExit {
        epoch: Dec,
        validator_index: Dec,
    }
}

container! {
    /// The sync committee's signature.
    SyncAggregate {
        sync_committee_bits: Hex<64>,
        sync_committee_signature: Hex<96>,
    }
}

container! {
    /// Where a validator's withdrawals go from now on.
    BlsToExecutionChange {
        validator_index: Dec,
        from_bls_pubkey: Hex<48>,
        to_execution_address: Hex<20>,
    }
}

container! {
    /// What the execution chain asks for; the limits are `MAX_DEPOSIT_REQUESTS_PER_PAYLOAD`,
    /// `MAX_WITHDRAWAL_REQUESTS_PER_PAYLOAD` and `MAX_CONSOLIDATION_REQUESTS_PER_PAYLOAD`.
    ExecutionRequests {
        deposits: List<DepositRequest, 8_192>,
        withdrawals: List<WithdrawalRequest, 16>,
        consolidations: List<ConsolidationRequest, 2>,
    }
}

container! {
    /// A deposit.
    DepositRequest {
        pubkey: Hex<48>,
        withdrawal_credentials: Hex<32>,
        amount: Dec,
        signature: Hex<96>,
        index: Dec,
    }
}

container! {
    /// A withdrawal.
    WithdrawalRequest {
        source_address: Hex<20>,
        validator_pubkey: Hex<48>,
        amount: Dec,
    }
}

container! {
    /// Two validators that become one.
    ConsolidationRequest {
        source_address: Hex<20>,
        source_pubkey: Hex<48>,
        target_pubkey: Hex<48>,
    }
}
