//! What a key ceremony stands on.
//!
//! - [`bcast`] is a reliable broadcast: nobody can say two things to two peers.
//! - [`nodesigs`] is its first user: the signatures of the nodes over the lock hash.
//! - [`sync`] keeps all nodes in step, and ends the ceremony of all when one of them fails.

pub mod bcast;
pub mod nodesigs;
pub mod sync;

/// The messages on the wire.
#[allow(dead_code, missing_docs, unreachable_pub, reason = "generated")]
mod pb {
    include!(concat!(env!("OUT_DIR"), "/dkg.dkgpb.v1.rs"));
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
