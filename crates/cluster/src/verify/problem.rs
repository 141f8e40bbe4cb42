//! Everything that can be found.

use std::fmt;

use pluto_crypto::{bls, enr, k1};
use pluto_eth::{address::Address, deposit::WithdrawalCredentials, network::ForkVersion};

use super::WalletError;
use crate::HashProblem;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Could not be checked.
    Unchecked,
    /// Probably not as intended; the file can be used.
    Warning,
    /// The file must not be used.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Unchecked => "unchecked",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// Whose wallet should have signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signer {
    /// An operator.
    Operator,
    /// The creator of the definition.
    Creator,
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Operator => "operator",
            Self::Creator => "creator",
        })
    }
}

/// What is the matter with a value. Indices count from 0, shares as well; amounts are in gwei.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum Problem {
    /// A hash depends on a value that has none.
    #[error(transparent)]
    Hash(#[from] HashProblem),
    /// The operators agreed to something else.
    #[error(
        "the config hash is {} in the file and {} for its content",
        hex(stored),
        hex(computed)
    )]
    ConfigHash { stored: Vec<u8>, computed: [u8; 32] },
    /// The definition was something else.
    #[error(
        "the definition hash is {} in the file and {} for its content",
        hex(stored),
        hex(computed)
    )]
    DefinitionHash { stored: Vec<u8>, computed: [u8; 32] },
    /// The lock was something else.
    #[error(
        "the lock hash is {} in the file and {} for its content",
        hex(stored),
        hex(computed)
    )]
    LockHash { stored: Vec<u8>, computed: [u8; 32] },

    /// No network has it.
    #[error("the fork version has {len} bytes instead of 4")]
    ForkVersionLength { len: usize },
    /// Perhaps a network that only the flags know.
    #[error(
        "the fork version {fork_version} is of no known network; wallet signatures were not checked"
    )]
    UnknownNetwork { fork_version: ForkVersion },

    /// v1.0 to v1.2.
    #[error("signatures of operators are not supported in this version")]
    OldSignature,
    /// Not one signature, or not a row of them.
    #[error("the signature of the {signer} has {len} bytes instead of {allowed}")]
    SignatureLength {
        signer: Signer,
        len: usize,
        allowed: &'static str,
    },
    /// Some of what is to be signed is signed, this is not.
    #[error("the {signer} did not sign this")]
    MissingSignature { signer: Signer },
    /// Nobody is named who could have signed.
    #[error("the {signer}'s address `{text}` is not 0x and 40 hex digits")]
    SignerAddress { signer: Signer, text: String },
    /// Not a signature at all, and no contract was asked.
    #[error(
        "the signature is not that of the {signer} {address}, unless that is a contract wallet"
    )]
    SignatureInvalid {
        signer: Signer,
        address: Address,
        #[source]
        source: k1::Error,
    },
    /// Somebody else's signature, and no contract was asked.
    #[error(
        "the signature is that of {recovered} and not of the {signer} {address}, unless that is a contract wallet"
    )]
    SignatureOfOther {
        signer: Signer,
        address: Address,
        recovered: Address,
    },
    /// Several signatures, which only a contract can judge.
    #[error(
        "{count} signatures in one can only be those of a contract wallet at the {signer}'s address {address}, and no execution client was asked"
    )]
    ContractSignature {
        signer: Signer,
        address: Address,
        count: usize,
    },
    /// The contract says no.
    #[error("the contract of the {signer} at {address} refuses the signature")]
    ContractRefused { signer: Signer, address: Address },
    /// The contract could not be asked.
    #[error("the contract of the {signer} at {address} could not be asked about the signature")]
    ContractUnreachable {
        signer: Signer,
        address: Address,
        #[source]
        source: WalletError,
    },
    /// All or none.
    #[error("{signed} of {operators} operators signed")]
    PartlySigned { signed: usize, operators: usize },
    /// Signed operators want a signed creator.
    #[error("no operator is left unsigned, and the creator did not sign")]
    CreatorUnsigned,

    /// No node record.
    #[error("not a valid ENR")]
    Enr(#[source] enr::Error),
    /// The operator has not joined.
    #[error("no ENR yet")]
    MissingEnr,
    /// Two operators with one identity.
    #[error("the identity of this ENR is that of operators[{first}] too")]
    DuplicateEnr { first: usize },
    /// None can sign, or all must.
    #[error("threshold {threshold} with {operators} operators")]
    Threshold { threshold: i64, operators: usize },
    /// No cluster can use it, but a definition may say it.
    #[error("threshold {threshold} with {operators} operators")]
    UnusableThreshold { threshold: i64, operators: usize },
    /// Not what a cluster of this size normally has.
    #[error("threshold {threshold} with {operators} operators, where {usual} is usual")]
    UnusualThreshold {
        threshold: i64,
        operators: usize,
        usual: usize,
    },

    /// A lock of another number of validators.
    #[error("{entries} entries for num_validators {num_validators}")]
    ValidatorCount { entries: usize, num_validators: i64 },
    /// Nothing to run.
    #[error("there are no validators")]
    NoValidators,
    /// Not as long as a BLS public key.
    #[error("{len} bytes instead of 48")]
    PublicKeyLength { len: usize },
    /// No point of the curve.
    #[error("not a BLS public key")]
    PublicKey(#[source] bls::Error),
    /// Two validators with one key.
    #[error("the public key is that of distributed_validators[{first}] too")]
    DuplicateValidator { first: usize },
    /// Not one for each operator.
    #[error("{shares} public shares for {operators} operators")]
    ShareCount { shares: usize, operators: usize },
    /// Two operators with one share.
    #[error("the public share is that of public_shares[{first}] too")]
    DuplicateShare { first: usize },
    /// Shares of another key, or in another order.
    #[error("the first {threshold} public shares do not make the public key of the validator")]
    SharesOfOtherKey { threshold: usize },
    /// One share of another key, or in another place.
    #[error("the public share does not belong to the key that the shares before it make")]
    ShareOfOtherKey,

    /// Nothing proves that the nodes had the shares.
    #[error("no aggregate signature")]
    MissingAggregate,
    /// Allowed in the two oldest versions, which then prove nothing.
    #[error("no aggregate signature; nothing about the public shares was checked")]
    UnsignedLock,
    /// Not as long as a BLS signature.
    #[error("{len} bytes instead of 96")]
    BlsSignatureLength { len: usize },
    /// No point of the curve.
    #[error("not a BLS signature")]
    BlsSignature(#[source] bls::Error),
    /// Not by all shares, or of something else.
    #[error("the aggregate signature is not that of all public shares over the lock hash")]
    Aggregate,
    /// The shares are not known.
    #[error("the aggregate signature was not checked, because not all public shares are usable")]
    AggregateUnchecked,

    /// v1.7 and later.
    #[error("{signatures} node signatures for {operators} operators")]
    NodeSignatureCount { signatures: usize, operators: usize },
    /// Not as long as a signature.
    #[error("{len} bytes instead of 65")]
    NodeSignatureLength { len: usize },
    /// Not the node's, or of something else.
    #[error("the signature of the lock hash is not that of operators[{operator}]")]
    NodeSignature {
        operator: usize,
        #[source]
        source: k1::Error,
    },

    /// v1.7 and later.
    #[error("no builder registration")]
    MissingRegistration,
    /// Not the validator's, or of something else.
    #[error(
        "the builder registration is not signed by the validator for its fee recipient in the definition"
    )]
    RegistrationSignature,
    /// The registration's own field says something else than what was signed.
    #[error("the builder registration shows something else than what was signed")]
    RegistrationShows,
    /// A node refuses to start with it.
    #[error("the builder registration has gas limit 0")]
    RegistrationGasLimit,
    /// No address to check the registration or the deposit against.
    #[error("`{text}` in the definition is not 0x and 40 hex digits")]
    ValidatorAddress { text: String },

    /// A deposit for another validator.
    #[error("the deposit is for another public key than the validator's")]
    DepositPublicKey,
    /// A deposit that somebody else can withdraw.
    #[error(
        "the deposit can be withdrawn with {} and not with {expected}, as the definition wants",
        hex(stored)
    )]
    DepositCredentials {
        stored: Vec<u8>,
        expected: WithdrawalCredentials,
    },
    /// A deposit that the chain would lose.
    #[error("the deposit is not signed by the validator")]
    DepositSignature,
    /// Not the amounts that were asked for.
    #[error("the deposits are not of the amounts in the definition")]
    DepositAmounts,

    /// Nodes want more than it has.
    #[error("locks of this version have no builder registrations; nodes do not run with it")]
    TooOldToRun,
}

/// What to do about altered content.
const RESTORE: &str = "take the file from another operator, or from a backup; \
     do not edit it, because what was signed cannot be changed";
const WALLET: &str = "sign again with the wallet of that address; if it is a contract wallet, \
     give an execution client with --execution-client-rpc-endpoint";
const REDO: &str = "make the cluster again: this file cannot be mended";

impl Problem {
    /// How bad it is.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::UnknownNetwork { .. } | Self::UnsignedLock | Self::AggregateUnchecked => {
                Severity::Unchecked
            }
            Self::UnusableThreshold { .. }
            | Self::UnusualThreshold { .. }
            | Self::RegistrationShows
            | Self::RegistrationGasLimit
            | Self::DepositAmounts => Severity::Warning,
            Self::MissingEnr | Self::TooOldToRun => Severity::Note,
            _ => Severity::Error,
        }
    }

    /// The name of the rule, for machines.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::Hash(problem) => problem.rule(),
            Self::ConfigHash { .. } => "config-hash",
            Self::DefinitionHash { .. } => "definition-hash",
            Self::LockHash { .. } => "lock-hash",
            Self::ForkVersionLength { .. } => "fork-version",
            Self::UnknownNetwork { .. } => "network",
            Self::OldSignature => "old-signature",
            Self::SignatureLength { .. } => "signature-length",
            Self::MissingSignature { .. } => "signature-missing",
            Self::SignerAddress { .. } => "signer-address",
            Self::SignatureInvalid { .. } | Self::SignatureOfOther { .. } => "wallet-signature",
            Self::ContractSignature { .. }
            | Self::ContractRefused { .. }
            | Self::ContractUnreachable { .. } => "contract-signature",
            Self::PartlySigned { .. } => "partly-signed",
            Self::CreatorUnsigned => "creator-unsigned",
            Self::Enr(_) | Self::MissingEnr => "enr",
            Self::DuplicateEnr { .. } => "duplicate-operator",
            Self::Threshold { .. }
            | Self::UnusableThreshold { .. }
            | Self::UnusualThreshold { .. } => "threshold",
            Self::ValidatorCount { .. } | Self::NoValidators => "validator-count",
            Self::PublicKeyLength { .. } | Self::PublicKey(_) => "public-key",
            Self::DuplicateValidator { .. } => "duplicate-validator",
            Self::ShareCount { .. } => "share-count",
            Self::DuplicateShare { .. } => "duplicate-share",
            Self::SharesOfOtherKey { .. } | Self::ShareOfOtherKey => "share",
            Self::MissingAggregate
            | Self::UnsignedLock
            | Self::Aggregate
            | Self::AggregateUnchecked => "aggregate-signature",
            Self::BlsSignatureLength { .. } | Self::BlsSignature(_) => "bls-signature",
            Self::NodeSignatureCount { .. } => "node-signature-count",
            Self::NodeSignatureLength { .. } | Self::NodeSignature { .. } => "node-signature",
            Self::MissingRegistration
            | Self::RegistrationSignature
            | Self::RegistrationShows
            | Self::RegistrationGasLimit => "registration",
            Self::ValidatorAddress { .. } => "address",
            Self::DepositPublicKey | Self::DepositSignature => "deposit",
            Self::DepositCredentials { .. } => "withdrawal-credentials",
            Self::DepositAmounts => "deposit-amounts",
            Self::TooOldToRun => "version",
        }
    }

    /// What to do.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::Hash(_) | Self::ForkVersionLength { .. } => {
                "take the file from another operator, or from a backup; no tool writes this value"
            }
            Self::ConfigHash { .. } | Self::DefinitionHash { .. } | Self::LockHash { .. } => {
                RESTORE
            }
            Self::UnknownNetwork { .. } => {
                "give --testnet-name, --testnet-fork-version, --testnet-chain-id and \
                 --testnet-genesis-timestamp if this is a network of your own"
            }
            Self::OldSignature => "make the definition again in a newer version",
            Self::SignatureLength { .. }
            | Self::SignatureInvalid { .. }
            | Self::SignatureOfOther { .. }
            | Self::ContractSignature { .. } => WALLET,
            Self::MissingSignature { .. } | Self::PartlySigned { .. } => {
                "every operator signs both the config hash and its ENR, or nobody signs anything"
            }
            Self::CreatorUnsigned => "the creator signs the config hash too",
            Self::SignerAddress { .. } => "name the address that signed",
            Self::ContractRefused { .. } => "have the owners of the contract wallet sign again",
            Self::ContractUnreachable { .. } => {
                "check the execution client, its network, and that the contract exists there"
            }
            Self::Enr(_) => "the operator gives the output of `pluto enr` again",
            Self::MissingEnr => "the operator gives the output of `pluto enr`",
            Self::DuplicateEnr { .. } => "every operator makes an identity key of its own",
            Self::Threshold { .. } | Self::UnusableThreshold { .. } => {
                "a threshold is at least 1 and at most the number of operators"
            }
            Self::UnusualThreshold { .. } => {
                "nothing, if it was chosen: fewer signatures tolerate fewer dishonest operators, \
                 more tolerate fewer absent ones"
            }
            Self::ValidatorCount { .. } | Self::NoValidators => RESTORE,
            Self::PublicKeyLength { .. }
            | Self::PublicKey(_)
            | Self::DuplicateValidator { .. }
            | Self::ShareCount { .. }
            | Self::DuplicateShare { .. }
            | Self::SharesOfOtherKey { .. }
            | Self::ShareOfOtherKey => {
                "do not deposit to this validator; take the file from another operator, or from a \
                 backup, and make the cluster again if all have the same"
            }
            Self::MissingAggregate
            | Self::BlsSignatureLength { .. }
            | Self::BlsSignature(_)
            | Self::Aggregate => {
                "take the file from another operator, or from a backup; without this signature \
                 nothing proves that the operators have their shares"
            }
            Self::UnsignedLock => "trust the file only as much as where you have it from",
            Self::AggregateUnchecked => "mend the public shares first",
            Self::NodeSignatureCount { .. }
            | Self::NodeSignatureLength { .. }
            | Self::NodeSignature { .. } => RESTORE,
            Self::MissingRegistration | Self::RegistrationSignature => RESTORE,
            Self::RegistrationShows | Self::RegistrationGasLimit => REDO,
            Self::ValidatorAddress { .. } => REDO,
            Self::DepositPublicKey | Self::DepositCredentials { .. } | Self::DepositSignature => {
                "do not deposit with this; take the file from another operator, or from a backup"
            }
            Self::DepositAmounts => "check that the deposits are the ones you want to make",
            Self::TooOldToRun => "make a new cluster to run it",
        }
    }
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    let bytes = bytes.as_ref();
    if bytes.is_empty() {
        return "empty".into();
    }
    // Long garbage does not become long messages.
    let cut = &bytes[..bytes.len().min(48)];
    let more = if cut.len() < bytes.len() { "…" } else { "" };
    format!("0x{}{more}", hex::encode(cut))
}
