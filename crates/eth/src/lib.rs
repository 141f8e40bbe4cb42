//! What a distributed validator takes from Ethereum: networks, deposits, builder registrations and
//! validator keystores.
//!
//! Spec: cluster, sections 6 to 8.
//!
//! - [`network`]: which chains there are, and custom ones.
//! - [`signing`]: from a message root to the bytes that a validator key signs.
//! - [`deposit`]: deposit messages and the files of them.
//! - [`registration`]: registrations with block builders.
//! - [`keystore`]: encrypted keys, their passwords, directories of them.
//! - [`address`]: withdrawal addresses and fee recipients.
//! - [`files`] and [`json`]: why a file or a field of it was refused.
//!
//! Nothing here opens a socket, keeps a clock or holds state between calls.

pub mod address;
pub mod deposit;
pub mod files;
pub mod json;
pub mod keystore;
pub mod network;
pub mod registration;
pub mod signing;

mod parallel;
mod ssz;

pub use parallel::threads;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
