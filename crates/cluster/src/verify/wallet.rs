//! Signatures of contracts (ERC-1271).

use pluto_crypto::k1::ADDRESS_BYTES;

/// Asks contract wallets whether a signature is theirs, through an execution client.
///
/// It is asked on the thread that verifies and may block it; whoever implements it bounds the time.
/// [`eip712::erc1271_call`](crate::eip712::erc1271_call) makes the call data, and the first four bytes
/// of the answer are compared with [`eip712::ERC1271_MAGIC`](crate::eip712::ERC1271_MAGIC).
pub trait ContractWallets {
    /// Whether the contract at `address` accepts `signature` for `digest`, at the latest block.
    ///
    /// No contract at the address, and no answer, are errors.
    fn accepts(
        &self,
        address: &[u8; ADDRESS_BYTES],
        digest: &[u8; 32],
        signature: &[u8],
    ) -> Result<bool, WalletError>;
}

/// The execution client did not say whether a signature is accepted.
#[derive(Debug, thiserror::Error)]
#[error("the execution client did not answer")]
pub struct WalletError(#[source] pub Box<dyn std::error::Error + Send + Sync>);
