//! What can be wrong with a value of a file, and where.

use std::{fmt, io, path::PathBuf};

use crate::{JsonKind as Kind, MAX_OPERATORS};

/// Something that is wrong at a place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError<P> {
    /// The place, such as `cluster_definition.operators[2].enr`; empty for the whole file.
    pub path: String,
    /// What is wrong.
    pub problem: P,
}

impl<P: fmt::Display> fmt::Display for FieldError<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        self.problem.fmt(f)
    }
}

impl<P: std::error::Error + 'static> std::error::Error for FieldError<P> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problem.source()
    }
}

/// Why bytes are no definition or lock.
pub type ParseError = FieldError<ParseProblem>;

/// Why a definition or lock has no hash.
pub type HashError = FieldError<HashProblem>;

/// What is wrong with a value that cannot be read. Nothing that has one of these is read by Charon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseProblem {
    /// The file is larger than is read.
    #[error("more than {max} bytes")]
    TooLarge {
        /// The limit.
        max: u64,
    },
    /// Not JSON.
    #[error("not JSON: {expected} expected at line {line}, column {column}")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1, in bytes.
        column: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// Lists in lists in lists.
    #[error("nested more than {max} levels deep")]
    TooDeep {
        /// The limit.
        max: usize,
    },
    /// Another kind of value.
    #[error("{found} instead of {expected}")]
    Kind {
        /// What it should be.
        expected: Kind,
        /// What it is.
        found: Kind,
    },
    /// A fraction, an exponent, or beyond 64 bits.
    #[error("not a whole number in range")]
    Number,
    /// A string that holds no whole number.
    #[error("not a whole number in quotes, in range")]
    QuotedNumber,
    /// Not hex.
    #[error("not hex digits in pairs")]
    Hex,
    /// Not base64.
    #[error("not padded standard base64")]
    Base64,
    /// Another number of bytes.
    #[error("{len} bytes instead of {expected}")]
    Length {
        /// How many there should be.
        expected: usize,
        /// How many there are.
        len: usize,
    },
    /// A version that is not known.
    #[error("version `{version}` is not supported; v1.0.0 to v1.11.0 are")]
    UnsupportedVersion {
        /// As in the file, cut after 32 characters.
        version: String,
    },
    /// A list that has no hash.
    #[error("more than {max} entries")]
    TooManyEntries {
        /// The limit.
        max: usize,
    },
    /// A field of an abandoned design is in use.
    #[error("{nonce} instead of 0; nonces are not supported")]
    Nonce {
        /// As in the file.
        nonce: i64,
    },
    /// A field of an abandoned design is in use.
    #[error("a fee recipient of one validator is not supported here")]
    FeeRecipient,
    /// Not one pair of addresses for each validator.
    #[error("{entries} entries for num_validators {num_validators}")]
    ValidatorCount {
        /// Entries of the list.
        entries: usize,
        /// What the file says.
        num_validators: i64,
    },
    /// Amounts that no deposit can have.
    #[error(transparent)]
    DepositAmount(#[from] DepositAmountProblem),
}

impl ParseProblem {
    /// The name of the rule that is broken, for machines.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "file-size",
            Self::Syntax { .. } | Self::TooDeep { .. } => "json",
            Self::Kind { .. } => "type",
            Self::Number | Self::QuotedNumber => "number",
            Self::Hex => "hex",
            Self::Base64 => "base64",
            Self::Length { .. } => "length",
            Self::UnsupportedVersion { .. } => "version",
            Self::TooManyEntries { .. } => "list-limit",
            Self::Nonce { .. } => "nonce",
            Self::FeeRecipient => "validator-fee-recipient",
            Self::ValidatorCount { .. } => "validator-count",
            Self::DepositAmount(_) => "deposit-amounts",
        }
    }
}

/// Why a list of partial deposits is impossible (spec: cluster, section 7.2). Amounts are in gwei.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DepositAmountProblem {
    /// A deposit below 1 ETH.
    #[error("amount {index} is {amount} gwei, less than 1 ETH")]
    TooSmall {
        /// Which.
        index: usize,
        /// How much.
        amount: u64,
    },
    /// A deposit of more than a validator can hold.
    #[error("amount {index} is {amount} gwei, more than {max}")]
    TooLarge {
        /// Which.
        index: usize,
        /// How much.
        amount: u64,
        /// 32 ETH, or 2,048 ETH for a compounding validator.
        max: u64,
    },
    /// All together not enough for a validator.
    #[error("the amounts add up to {sum} gwei, less than 32 ETH")]
    SumTooSmall {
        /// How much.
        sum: u64,
    },
}

/// Why a value cannot be hashed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HashProblem {
    /// More bytes than the field has room for.
    #[error("{len} bytes, more than {max}")]
    TooLong {
        /// The room.
        max: usize,
        /// How many there are.
        len: usize,
    },
    /// Not an address.
    #[error("not an address: not hex digits in pairs")]
    AddressHex,
    /// Not an address.
    #[error("not an address: {len} bytes instead of 20")]
    AddressLength {
        /// How many there are.
        len: usize,
    },
    /// Not a row of signatures.
    #[error("{len} bytes are not whole signatures of 65 bytes")]
    SignatureLength {
        /// How many there are.
        len: usize,
    },
    /// A list that has no hash.
    #[error("{len} entries, more than {max}")]
    TooManyEntries {
        /// The room.
        max: usize,
        /// How many there are.
        len: usize,
    },
}

impl HashProblem {
    /// The name of the rule that is broken, for machines.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "length",
            Self::AddressHex | Self::AddressLength { .. } => "address",
            Self::SignatureLength { .. } => "signature-length",
            Self::TooManyEntries { .. } => "list-limit",
        }
    }
}

/// Values that have no hash and therefore cannot be written. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} of the values cannot be hashed; the first is {}", errors.len(), first(errors))]
pub struct HashErrors {
    /// Each of them.
    pub errors: Vec<HashError>,
}

impl HashErrors {
    /// The same errors with the paths that they have inside a larger file.
    pub(crate) fn inside(mut self, parent: &str) -> Self {
        for error in &mut self.errors {
            error.path = format!("{parent}.{}", error.path);
        }
        self
    }
}

fn first(errors: &[HashError]) -> String {
    errors.first().map(ToString::to_string).unwrap_or_default()
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file system refused.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content is not a definition or lock at all.
    #[error("{} cannot be read", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ParseError,
    },
    /// The file is no lock that a node can use.
    #[error("{} is not a usable cluster lock", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        source: LockError,
    },
}

/// Why bytes are no lock that a node can use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Not a lock at all.
    #[error("not a cluster lock")]
    Parse(#[from] ParseError),
    /// The operators are not those of a cluster.
    #[error("cluster_definition is not usable")]
    Members(#[from] MembersError),
    /// A value that does not mean what it should.
    #[error("{at} is not usable")]
    Value {
        /// The place.
        at: String,
        /// What is wrong.
        source: ValueError,
    },
    /// Two validators with one group public key.
    #[error(
        "distributed_validators[{second}] has the public key of distributed_validators[{first}]"
    )]
    DuplicateValidator {
        /// The earlier one.
        first: usize,
        /// The later one.
        second: usize,
    },
    /// Not one public share for each operator.
    #[error(
        "distributed_validators[{validator}].public_shares has {shares} entries for {operators} operators"
    )]
    ShareCount {
        /// Which validator.
        validator: usize,
        /// How many shares.
        shares: usize,
        /// How many operators.
        operators: usize,
    },
}

/// Why the operators of a definition are no cluster. Paths are those inside a definition.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembersError {
    /// No operator, or more than [`MAX_OPERATORS`].
    #[error("operators has {count} entries; 1 to {MAX_OPERATORS} are possible")]
    OperatorCount {
        /// How many.
        count: usize,
    },
    /// No node record.
    #[error("operators[{operator}].enr is no valid ENR")]
    Enr {
        /// Which operator.
        operator: usize,
        /// What is wrong.
        source: pluto_crypto::enr::Error,
    },
    /// Two operators with one identity.
    #[error("operators[{second}] has the identity of operators[{first}]")]
    DuplicateOperator {
        /// The earlier one.
        first: usize,
        /// The later one.
        second: usize,
    },
    /// A threshold that no set of operators can meet, or that none is needed for.
    #[error("threshold is {threshold} with {operators} operators")]
    Threshold {
        /// The threshold.
        threshold: i64,
        /// How many operators.
        operators: usize,
    },
}

/// What is wrong with one value of a lock that is to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// Another number of bytes.
    #[error("{len} bytes instead of {expected}")]
    Length {
        /// How many there should be.
        expected: usize,
        /// How many there are.
        len: usize,
    },
    /// No point of the curve.
    #[error("no valid BLS public key")]
    PublicKey(#[from] pluto_crypto::bls::Error),
}
