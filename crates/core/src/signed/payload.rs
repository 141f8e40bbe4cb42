//! Execution payloads and, for blinded blocks, their headers.
//!
//! Containers and limits: the beacon chain's specification from bellatrix to deneb.

use super::{
    container::{Bytes, List, container},
    json::{Dec, Hex, Wei},
};

/// `MAX_BYTES_PER_TRANSACTION`
const MAX_TRANSACTION_BYTES: usize = 1 << 30;
/// `MAX_TRANSACTIONS_PER_PAYLOAD`
const MAX_TRANSACTIONS: usize = 1 << 20;
/// `MAX_WITHDRAWALS_PER_PAYLOAD`
const MAX_WITHDRAWALS: usize = 16;
/// `MAX_EXTRA_DATA_BYTES`
const MAX_EXTRA_DATA: usize = 32;

type Transactions = List<Bytes<MAX_TRANSACTION_BYTES>, MAX_TRANSACTIONS>;
type Withdrawals = List<Withdrawal, MAX_WITHDRAWALS>;

/// A payload or a header: the same fields, then what the transactions are given as, then what the
/// fork added.
macro_rules! payload {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        container! {
            $(#[$doc])*
            $name {
                parent_hash: Hex<32>,
                fee_recipient: Hex<20>,
                state_root: Hex<32>,
                receipts_root: Hex<32>,
                logs_bloom: Hex<256>,
                prev_randao: Hex<32>,
                block_number: Dec,
                gas_limit: Dec,
                gas_used: Dec,
                timestamp: Dec,
                extra_data: Bytes<MAX_EXTRA_DATA>,
                base_fee_per_gas: Wei,
                block_hash: Hex<32>,
                $($field: $type),*
            }
        }
    };
}

payload! {
    /// Of bellatrix.
    BellatrixPayload {
        transactions: Transactions,
    }
}

payload! {
    /// Of bellatrix, without its transactions.
    BellatrixHeader {
        transactions_root: Hex<32>,
    }
}

payload! {
    /// Of capella.
    CapellaPayload {
        transactions: Transactions,
        withdrawals: Withdrawals,
    }
}

payload! {
    /// Of capella, without its transactions and withdrawals.
    CapellaHeader {
        transactions_root: Hex<32>,
        withdrawals_root: Hex<32>,
    }
}

payload! {
    /// Since deneb.
    DenebPayload {
        transactions: Transactions,
        withdrawals: Withdrawals,
        blob_gas_used: Dec,
        excess_blob_gas: Dec,
    }
}

payload! {
    /// Since deneb, without its transactions and withdrawals.
    DenebHeader {
        transactions_root: Hex<32>,
        withdrawals_root: Hex<32>,
        blob_gas_used: Dec,
        excess_blob_gas: Dec,
    }
}

container! {
    /// Stake or rewards that leave a validator.
    Withdrawal {
        index: Dec,
        validator_index: Dec,
        address: Hex<20>,
        amount: Dec,
    }
}
