//! Duties, partial signatures and their wire encodings.
//!
//! Spec: duties, sections 1 to 3. Pure: no sockets, tasks or clocks.
//!
//! - [`Duty`], [`PubKey`], [`PeerIdx`]: the identifiers.
//! - [`ParSigEx`]: the message of the partial-signature exchange, decoded and checked.
//! - [`signed`]: the object inside one partial signature; its message root and signature.
//! - [`signing`]: from a message root to the bytes that a key signs.
//! - [`threshold`]: partial signatures until there are enough.

mod duty;
mod ids;
mod parsig;
pub mod signed;
pub mod signing;
pub mod threshold;

pub use duty::{Duty, DutyType, DutyTypeError, Slot};
pub use ids::{PeerIdx, PubKey, PubKeyError};
pub use parsig::{
    DecodeError, MAX_SET_ENTRIES, ParSigEx, ParSignedData, ParSignedDataSet, SetError,
};
pub use pluto_crypto::bls::ShareIdx;

/// The protobuf messages as generated. Unchecked: use [`ParSigEx`] for what a peer sent.
pub mod pb {
    #![allow(missing_docs, reason = "generated")]
    include!(concat!(env!("OUT_DIR"), "/core.corepb.v1.rs"));
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
