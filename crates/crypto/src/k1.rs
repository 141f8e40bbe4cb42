//! secp256k1 keys and the signature forms that nodes identify themselves with.
//!
//! Spec: p2p, sections 1.1 (signature formats) and 1.3 (peer id).
//!
//! Signatures are `R ‖ S ‖ V` with V = 0 or 1, deterministic (RFC 6979) and low-S. Reading is
//! wider: V may be 27 or 28, S may be high.

use std::fmt;

use k256::ecdsa::{
    RecoveryId, Signature, SigningKey, VerifyingKey, signature::hazmat::PrehashVerifier,
};
use rand::Rng;
use sha3::{Digest, Keccak256};
use zeroize::Zeroizing;

/// Length of a compressed public key.
pub const PUBLIC_KEY_BYTES: usize = 33;

/// Length of an Ethereum address in bytes.
pub const ADDRESS_BYTES: usize = 20;

/// Length of a peer id in bytes.
pub const PEER_ID_BYTES: usize = 39;

/// Identity multihash (00, 37 bytes) of the protobuf key: type (field 1) secp256k1, data (field 2) of
/// 33 bytes.
const PEER_ID_PREFIX: [u8; PEER_ID_BYTES - PUBLIC_KEY_BYTES] = [0x00, 0x25, 0x08, 0x02, 0x12, 0x21];

/// The result of the operations here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a key, a signature or a peer id was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Zero, or not below the group order.
    #[error("secp256k1 secret key is zero or not below the group order")]
    InvalidSecretKey,
    /// Not a SEC 1 point on the curve.
    #[error("secp256k1 public key is not a curve point")]
    InvalidPublicKey,
    /// R or S is zero or not below the group order.
    #[error("secp256k1 signature has an R or S outside 1..n")]
    InvalidSignature,
    /// V is none of 0, 1, 27, 28.
    #[error("secp256k1 signature has recovery id {v}, none of 0, 1, 27, 28")]
    InvalidRecoveryId {
        /// The last byte of the signature.
        v: u8,
    },
    /// No key can have made the signature.
    #[error("secp256k1 signature recovers to no public key")]
    Unrecoverable,
    /// Well-formed, but not over this digest by this key.
    #[error("secp256k1 signature does not verify")]
    BadSignature,
    /// Not the 39 bytes that hold a secp256k1 key.
    #[error("peer id does not hold a secp256k1 key")]
    NotASecp256k1PeerId,
}

/// A node's identity. Wiped when dropped; `Debug` shows no part of it.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// Makes a key from the thread's cryptographic random generator.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        loop {
            rand::rng().fill_bytes(bytes.as_mut_slice());
            // Refused only for zero and for the 2^-128 of numbers from the order up.
            if let Ok(key) = Self::from_bytes(&bytes) {
                return key;
            }
        }
    }

    /// Reads a big-endian scalar.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self> {
        SigningKey::from_slice(bytes)
            .map(Self)
            .map_err(|_| Error::InvalidSecretKey)
    }

    /// The big-endian scalar: for the key file and for libp2p, never for printing.
    #[must_use]
    pub fn expose_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes().into())
    }

    /// The key's public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }

    /// Signs a digest: `R ‖ S ‖ V`, V = 0 or 1, deterministic.
    #[must_use]
    pub fn sign(&self, digest: &[u8; 32]) -> [u8; 65] {
        let (signature, v) = self.0.sign_prehash_recoverable(digest);
        let mut out = [0; 65];
        out[..64].copy_from_slice(&signature.to_bytes());
        out[64] = v.to_byte();
        out
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("k1::SecretKey(..)")
    }
}

/// A point of the curve. Ordered by its compressed bytes, as peer ids are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads 33 compressed or 65 uncompressed bytes.
    pub fn from_sec1(bytes: &[u8]) -> Result<Self> {
        VerifyingKey::from_sec1_bytes(bytes)
            .map(Self)
            .map_err(|_| Error::InvalidPublicKey)
    }

    /// The compressed form.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; PUBLIC_KEY_BYTES] {
        self.0
            .to_sec1_point(true)
            .as_bytes()
            .try_into()
            .expect("a compressed point has 33 bytes")
    }

    /// The Ethereum address: the end of the Keccak hash of the uncompressed point.
    #[must_use]
    pub fn address(&self) -> [u8; ADDRESS_BYTES] {
        let point = self.0.to_sec1_point(false);
        // The first byte only says that the point is uncompressed.
        let hash = Keccak256::digest(&point.as_bytes()[1..]);
        let mut out = [0; ADDRESS_BYTES];
        out.copy_from_slice(&hash[hash.len() - ADDRESS_BYTES..]);
        out
    }

    /// Checks `R ‖ S ‖ V`, V included.
    pub fn verify65(&self, digest: &[u8; 32], signature: &[u8; 65]) -> Result<()> {
        if recover(digest, signature)? == *self {
            Ok(())
        } else {
            Err(Error::BadSignature)
        }
    }

    /// Checks `R ‖ S`.
    pub fn verify64(&self, digest: &[u8; 32], signature: &[u8; 64]) -> Result<()> {
        let signature = Signature::from_slice(signature).map_err(|_| Error::InvalidSignature)?;
        // The low-S form verifies if and only if the high-S form does.
        self.0
            .verify_prehash(digest, &signature.normalize_s())
            .map_err(|_| Error::BadSignature)
    }
}

impl PartialOrd for PublicKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PublicKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.to_bytes().cmp(&other.to_bytes())
    }
}

impl std::hash::Hash for PublicKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.to_bytes().hash(state);
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.to_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "k1::PublicKey({self})")
    }
}

/// The key that made a 65-byte signature over `digest`. V is 0, 1, 27 or 28; S may be high.
pub fn recover(digest: &[u8; 32], signature: &[u8; 65]) -> Result<PublicKey> {
    let [rs @ .., v] = signature;
    let is_y_odd = match v {
        0 | 27 => false,
        1 | 28 => true,
        v => return Err(Error::InvalidRecoveryId { v: *v }),
    };
    let signature = Signature::from_slice(rs).map_err(|_| Error::InvalidSignature)?;
    VerifyingKey::recover_from_prehash(digest, &signature, RecoveryId::new(is_y_odd, false))
        .map(PublicKey)
        .map_err(|_| Error::Unrecoverable)
}

/// The libp2p peer id of a key, as bytes. Comparing these compares keys.
#[must_use]
pub fn peer_id_bytes(key: &PublicKey) -> [u8; PEER_ID_BYTES] {
    let mut out = [0; PEER_ID_BYTES];
    out[..PEER_ID_PREFIX.len()].copy_from_slice(&PEER_ID_PREFIX);
    out[PEER_ID_PREFIX.len()..].copy_from_slice(&key.to_bytes());
    out
}

/// The key inside a peer id; refuses ids of other key types.
pub fn public_key_from_peer_id(peer_id: &[u8]) -> Result<PublicKey> {
    let key = peer_id
        .strip_prefix(&PEER_ID_PREFIX)
        .filter(|key| key.len() == PUBLIC_KEY_BYTES)
        .ok_or(Error::NotASecp256k1PeerId)?;
    PublicKey::from_sec1(key)
}
