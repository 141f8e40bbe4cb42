//! From the keys of `pluto-crypto`, as they stand in key files and ENRs, to those of libp2p.
//!
//! Spec: p2p, section 1. Pure functions.

use libp2p::{
    PeerId,
    identity::{Keypair, secp256k1},
};
use pluto_crypto::k1;

/// The identity that a node is with this key.
#[must_use]
pub fn keypair(key: &k1::SecretKey) -> Keypair {
    let mut bytes = key.expose_bytes();
    let secret = secp256k1::SecretKey::try_from_bytes(&mut *bytes)
        .expect("a secret key is a scalar of the curve");
    secp256k1::Keypair::from(secret).into()
}

/// Who has the secret key of this public key.
#[must_use]
pub fn peer_id(key: &k1::PublicKey) -> PeerId {
    PeerId::from_bytes(&k1::peer_id_bytes(key)).expect("an identity multihash is a peer id")
}

/// What people call the peer; see [`pluto_crypto::names`] for what it is worth.
#[must_use]
pub fn name(peer: &PeerId) -> String {
    pluto_crypto::names::peer_name(&peer.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keypair_and_public_key_name_the_same_peer() {
        for _ in 0..20 {
            let key = k1::SecretKey::generate();
            let peer = keypair(&key).public().to_peer_id();
            assert_eq!(peer, peer_id(&key.public_key()));
            assert!(peer.to_string().starts_with("16Uiu2"));
        }
    }
}
