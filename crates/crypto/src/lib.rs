//! secp256k1 identities and threshold BLS12-381 signatures; nothing about networks.
//!
//! Spec: p2p, sections 1.1 to 1.3 (identity); the BLS part follows the Ethereum consensus scheme.
//!
//! Every function is pure, synchronous and single-threaded, except [`keyfile`] and [`disk`], which touch
//! the disk. Secret keys are wiped when dropped and print no bytes.

pub mod bls;
pub mod disk;
pub mod enr;
pub mod k1;
pub mod keyfile;
pub mod names;
