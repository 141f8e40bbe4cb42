//! Cluster files: who the operators and validators are.
//!
//! Spec: cluster, sections 1 to 5. **Reading is not verifying:** what is read is well formed, and
//! whoever can change the file can still change the cluster.

mod create;
mod deal;
mod definition;
mod disk;
pub mod eip712;
mod error;
#[cfg(feature = "http")]
pub mod http;
mod json;
mod lock;
mod lock_file;
mod merkle;
mod parallel;
pub mod verify;
mod version;

pub use create::{NewDefinition, NewDefinitionError};
pub use deal::{DealError, Dealt, NewCluster};
pub use definition::{
    Addresses, Creator, Definition, MAX_DEFINITION_BYTES, MAX_DEPOSIT_AMOUNTS, Operator,
    OperatorEntry, ValidatorAddresses,
};
pub use disk::{FileMode, WriteError};
pub use error::{
    FieldError, HashError, HashErrors, HashProblem, LockError, MembersError, ParseError,
    ParseProblem, ReadError, ValueError,
};
pub use json::Kind as JsonKind;
pub use lock::{Lock, Validator};
pub use lock_file::{Deposit, LockFile, MAX_LOCK_BYTES, Registration, ValidatorEntry};
pub use verify::{Finding, Severity, Verifier};
pub use version::Version;

/// Most operators: the limit in the hashes' operator list (cluster spec, section 2.2).
pub const MAX_OPERATORS: usize = 256;
/// Most validators: the limit in the hashes' validator list (cluster spec, section 2.2).
pub const MAX_VALIDATORS: usize = 65_536;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
