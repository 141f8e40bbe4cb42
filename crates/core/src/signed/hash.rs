//! Hash tree roots of the few fixed shapes that are signed here (SHA-256 Merkle trees).

use sha2::{Digest, Sha256};

/// Bytes of one leaf.
const CHUNK: usize = 32;

/// A number as a leaf: little-endian, zero-padded.
pub(crate) fn u64(value: u64) -> [u8; CHUNK] {
    short(&value.to_le_bytes())
}

/// Up to 32 bytes as a leaf, zero-padded.
pub(crate) fn short<const N: usize>(bytes: &[u8; N]) -> [u8; CHUNK] {
    const { assert!(N <= CHUNK) };
    let mut leaf = [0; CHUNK];
    leaf[..N].copy_from_slice(bytes);
    leaf
}

/// The root of a byte vector longer than a leaf: a key or a signature.
pub(crate) fn vector(bytes: &[u8]) -> [u8; CHUNK] {
    let leaves: Vec<_> = bytes
        .chunks(CHUNK)
        .map(|chunk| {
            let mut leaf = [0; CHUNK];
            leaf[..chunk.len()].copy_from_slice(chunk);
            leaf
        })
        .collect();
    container(&leaves)
}

/// The root over the roots of a container's fields: padded with zero leaves to a power of two.
pub(crate) fn container(fields: &[[u8; CHUNK]]) -> [u8; CHUNK] {
    let mut level = fields.to_vec();
    level.resize(fields.len().next_power_of_two(), [0; CHUNK]);
    while level.len() > 1 {
        level = level
            .chunks_exact(2)
            .map(|pair| Sha256::digest(pair.concat()).into())
            .collect();
    }
    level[0]
}
