//! Everything that can be the matter with the files of a node or of a cluster.

use std::{io, path::PathBuf};

use libp2p::PeerId;
use pluto_cluster::{ParseProblem, Severity, verify};
use pluto_crypto::{bls, keyfile};
use pluto_eth::{
    address, deposit,
    deposit::{Gwei, WithdrawalCredentials, file as deposit_file},
    json,
    keystore::{DecryptError, directory},
};
use pluto_p2p::identity::name;

/// One thing that is the matter, with its place.
#[derive(Debug)]
pub(super) struct Finding {
    /// The file, or the directory when no single file is to blame.
    pub(super) file: PathBuf,
    /// The place in the file; empty for all of it.
    pub(super) path: String,
    pub(super) problem: Problem,
}

/// Indices count from 0.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("cannot be read")]
    Unreadable(#[source] io::Error),
    #[error("not a regular file")]
    NotAFile,
    #[error(transparent)]
    Parse(#[from] ParseProblem),
    #[error(transparent)]
    Cluster(#[from] verify::Problem),

    #[error("there is no cluster lock")]
    NoLock,
    #[error("the definition is not the one that the lock was made of")]
    OtherDefinition,
    #[error(
        "keystores, deposits and registrations were not compared with the lock, because it is wrong"
    )]
    NotCompared,

    #[error("there is no identity key")]
    NoIdentity,
    #[error("the identity key cannot be used")]
    Identity(#[source] keyfile::Error),
    #[error(
        "the identity key is that of {} ({peer}), which is no operator of the cluster",
        name(peer)
    )]
    IdentityOfNobody { peer: PeerId },
    #[error("others than the owner may read this secret (mode {mode:04o}); usual is {usual:04o}")]
    Mode { mode: u32, usual: u32 },
    #[error("{count} password files may be read by others than their owner; usual is mode 0400")]
    PasswordModes { count: usize },
    #[error("not a file of a node; not looked at")]
    Foreign,

    #[error("there are no keystores")]
    NoKeystores,
    #[error("the keystore of validator {validator} is missing, and others are here")]
    NoKeystore { validator: usize },
    #[error("a keystore for validator {validator} of {validators}")]
    SurplusKeystore { validator: usize, validators: usize },
    #[error("the name does not say of which validator the keystore is")]
    UnnumberedKeystore,
    #[error("{} is for validator {validator} too", first.display())]
    SecondKeystore { validator: usize, first: PathBuf },
    #[error(transparent)]
    Keystores(directory::Error),
    #[error("the keystore does not open")]
    Decrypt(#[source] DecryptError),
    #[error("the share is that of validator {actual}, and the name is that of validator {named}")]
    ShareOfOtherValidator { named: usize, actual: usize },
    #[error(
        "the share is operator {actual}'s for validator {validator}, and this is the node of operator {operator}"
    )]
    ShareOfOtherOperator {
        operator: usize,
        actual: usize,
        validator: usize,
    },
    #[error("the share is of no operator and of no validator of the lock")]
    ShareOfNobody,
    #[error(
        "all keystores are operator {keystores}'s, and the identity key is operator {identity}'s"
    )]
    KeystoresOfOtherNode { keystores: usize, identity: usize },

    #[error("there are no deposit files")]
    NoDeposits,
    #[error(transparent)]
    DepositFile(deposit_file::Error),
    #[error(transparent)]
    DepositEntry(#[from] deposit_file::EntryError),
    #[error("the deposit is for a public key that is no validator of the lock")]
    DepositOfStranger,
    #[error("the deposit can be withdrawn with {actual} and not with {expected}")]
    DepositCredentials {
        actual: WithdrawalCredentials,
        expected: WithdrawalCredentials,
    },
    #[error(
        "the deposit is of {actual}, and the cluster's are of {}",
        list(expected)
    )]
    DepositAmount { actual: Gwei, expected: Vec<Gwei> },
    #[error("a deposit of {actual} belongs into {}", deposit::file::name(*actual))]
    DepositInOtherFile { actual: Gwei },
    #[error(
        "the deposit is for the network 0x{}, and the cluster is on 0x{}",
        hex::encode(actual),
        hex::encode(expected)
    )]
    DepositForkVersion { actual: [u8; 4], expected: [u8; 4] },
    #[error("the deposit is for the network `{actual}`, and the cluster is on {expected}")]
    DepositNetwork { actual: String, expected: String },
    #[error("entry {first} is a deposit for the same validator")]
    DepositTwice { first: usize },
    #[error("there is no deposit for validator {validator}")]
    DepositMissing { validator: usize },
    #[error("the file of the deposits of {amount} is missing, and others are here")]
    NoDepositFile { amount: Gwei },
    #[error("the lock's address `{text}` cannot be compared with")]
    Address {
        text: String,
        #[source]
        source: address::Error,
    },

    #[error("not a file of builder registrations")]
    OverridesJson(#[source] json::Error),
    #[error("the registration is not signed by its validator for this network")]
    OverrideSignature(#[source] bls::Error),
    #[error("the registration is for a public key that is no validator of the lock")]
    OverrideOfStranger,
    #[error("fees go to {actual}, and to {expected} in the definition")]
    OverrideFeeRecipient {
        actual: address::Address,
        expected: address::Address,
    },
    #[error("the registration is not later than that of the lock and counts for nothing")]
    OverrideTooOld,

    #[error("of another cluster than {}", other.display())]
    OtherCluster { other: PathBuf },
    #[error("says something else than {}, which is of the same cluster", other.display())]
    OtherContent { other: PathBuf },
    #[error("the node of operator {operator}, as {} is", first.display())]
    SameOperator { operator: usize, first: PathBuf },
    #[error("the nodes of operators {} are not here", numbers(operators))]
    AbsentNodes { operators: Vec<usize> },
    #[error(
        "{shares} shares of validator {validator} are here, of {threshold} that make its key; not put together"
    )]
    TooFewShares {
        validator: usize,
        shares: usize,
        threshold: usize,
    },
    #[error(
        "the shares of operators {} do not make the key of validator {validator}",
        numbers(operators)
    )]
    NotRecombined {
        validator: usize,
        operators: Vec<usize>,
    },
}

const RESTORE: &str = "take the file from another operator, or from a backup";
const THIEF: &str = "do not deposit with this; take the file from another operator, or from a \
     backup, and ask who changed this one";
const OWN_KEYSTORE: &str = "restore this node's own keystore and its password file from a backup; \
     never run two nodes with one share";

impl Problem {
    pub(super) fn severity(&self) -> Severity {
        match self {
            Self::Cluster(problem) => problem.severity(),
            Self::NotCompared | Self::Address { .. } => Severity::Unchecked,
            Self::OtherDefinition
            | Self::UnnumberedKeystore
            | Self::NoDepositFile { .. }
            | Self::OverrideFeeRecipient { .. } => Severity::Warning,
            Self::NoLock
            | Self::NoIdentity
            | Self::Mode { .. }
            | Self::PasswordModes { .. }
            | Self::Foreign
            | Self::NoKeystores
            | Self::NoDeposits
            | Self::OverrideTooOld
            | Self::AbsentNodes { .. }
            | Self::TooFewShares { .. } => Severity::Note,
            _ => Severity::Error,
        }
    }

    pub(super) fn rule(&self) -> &'static str {
        match self {
            Self::Unreadable(_) | Self::NotAFile => "unreadable",
            Self::Parse(problem) => problem.rule(),
            Self::Cluster(problem) => problem.rule(),
            Self::NoLock => "lock-missing",
            Self::OtherDefinition => "definition",
            Self::NotCompared => "lock-wrong",
            Self::NoIdentity => "identity-missing",
            Self::Identity(_) | Self::IdentityOfNobody { .. } => "identity",
            Self::Mode { .. } | Self::PasswordModes { .. } => "file-mode",
            Self::Foreign => "foreign-file",
            Self::NoKeystores | Self::NoKeystore { .. } => "keystore-missing",
            Self::SurplusKeystore { .. }
            | Self::UnnumberedKeystore
            | Self::SecondKeystore { .. } => "keystore-name",
            Self::Keystores(_) => "keystore",
            Self::Decrypt(DecryptError::WrongPassword) => "password",
            Self::Decrypt(_) => "keystore",
            Self::ShareOfOtherValidator { .. }
            | Self::ShareOfOtherOperator { .. }
            | Self::ShareOfNobody
            | Self::KeystoresOfOtherNode { .. } => "keystore-share",
            Self::NoDeposits | Self::NoDepositFile { .. } | Self::DepositMissing { .. } => {
                "deposit-missing"
            }
            Self::DepositFile(_) | Self::DepositEntry(_) => "deposit",
            Self::DepositOfStranger => "deposit-validator",
            Self::DepositCredentials { .. } => "withdrawal-credentials",
            Self::DepositAmount { .. } | Self::DepositInOtherFile { .. } => "deposit-amounts",
            Self::DepositForkVersion { .. } | Self::DepositNetwork { .. } => "deposit-network",
            Self::DepositTwice { .. } => "deposit-twice",
            Self::Address { .. } => "address",
            Self::OverridesJson(_)
            | Self::OverrideSignature(_)
            | Self::OverrideOfStranger
            | Self::OverrideFeeRecipient { .. }
            | Self::OverrideTooOld => "registration-override",
            Self::OtherCluster { .. } | Self::OtherContent { .. } => "lock-differs",
            Self::SameOperator { .. } => "operator-twice",
            Self::AbsentNodes { .. } => "node-missing",
            Self::TooFewShares { .. } | Self::NotRecombined { .. } => "recombination",
        }
    }

    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::Cluster(problem) => problem.advice(),
            Self::Unreadable(_) => "check the owner and the mode",
            Self::NotAFile | Self::Parse(_) => RESTORE,
            Self::NoLock => {
                "nothing, before the ceremony; after it, take the lock from another operator"
            }
            Self::OtherDefinition => "nodes run by the lock; put the definition elsewhere",
            Self::NotCompared => "mend the lock first, then check again",
            Self::NoIdentity => "nothing, if it is kept elsewhere; nodes do not run without",
            Self::Identity(_) | Self::IdentityOfNobody { .. } => {
                "restore this node's own identity key from a backup"
            }
            Self::Mode { .. } | Self::PasswordModes { .. } => "chmod it",
            Self::Foreign => "nothing, if it is yours",
            Self::NoKeystores => "nothing, if a key manager has them",
            Self::NoKeystore { .. } | Self::ShareOfNobody | Self::Decrypt(_) => OWN_KEYSTORE,
            Self::ShareOfOtherOperator { .. } => OWN_KEYSTORE,
            Self::ShareOfOtherValidator { .. } => {
                "give keystore and password file the number of their validator"
            }
            Self::KeystoresOfOtherNode { .. } => {
                "find out which of them belongs here; never run two nodes with the shares of one"
            }
            Self::SurplusKeystore { .. }
            | Self::UnnumberedKeystore
            | Self::SecondKeystore { .. } => "put keystores that are not of this cluster elsewhere",
            Self::Keystores(_) => OWN_KEYSTORE,
            Self::NoDeposits => "nothing, if the deposits are made; all nodes have the same files",
            Self::NoDepositFile { .. } => "take the file from another operator, if it is needed",
            Self::DepositFile(_) | Self::DepositMissing { .. } => RESTORE,
            Self::DepositEntry(_)
            | Self::DepositOfStranger
            | Self::DepositCredentials { .. }
            | Self::DepositAmount { .. }
            | Self::DepositInOtherFile { .. }
            | Self::DepositForkVersion { .. }
            | Self::DepositNetwork { .. }
            | Self::DepositTwice { .. } => THIEF,
            Self::Address { .. } => "make the cluster again: this cannot be mended",
            Self::OverridesJson(_) | Self::OverrideSignature(_) => {
                "move the file away: nodes refuse all of it for one wrong entry"
            }
            Self::OverrideOfStranger | Self::OverrideTooOld => "remove the entry",
            Self::OverrideFeeRecipient { .. } => "check that this is where fees are to go",
            Self::OtherCluster { .. } => "put nodes of other clusters elsewhere",
            Self::OtherContent { .. } => "take one lock for all nodes",
            Self::SameOperator { .. } => {
                "never run both: a validator that signs twice is slashed; delete the copy"
            }
            Self::AbsentNodes { .. } | Self::TooFewShares { .. } => {
                "nothing, if other operators have the others"
            }
            Self::NotRecombined { .. } => {
                "do not deposit to this validator; make the cluster again"
            }
        }
    }
}

fn list(amounts: &[Gwei]) -> String {
    let amounts: Vec<_> = amounts.iter().map(Gwei::to_string).collect();
    amounts.join(", ")
}

fn numbers(operators: &[usize]) -> String {
    let operators: Vec<_> = operators.iter().map(usize::to_string).collect();
    operators.join(", ")
}
