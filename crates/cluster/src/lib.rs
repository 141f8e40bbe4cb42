//! Cluster files: who the operators and validators are.
//!
//! Spec: cluster, sections 1 and 4. **Reading is not verifying:** [`Lock`] checks that a file is
//! well formed and consistent, not its hashes and signatures. Whoever can change the file can
//! still change the cluster.

mod lock;

pub use lock::{
    Lock, LockError, MAX_LOCK_BYTES, MAX_OPERATORS, MAX_VALIDATORS, Operator, ReadError, Validator,
    ValueError, Version,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
