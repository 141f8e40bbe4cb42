//! Hash tree roots of small fixed-size containers: all that deposits and registrations need.
//!
//! Definitions and locks are hashed by other rules (spec cluster, section 2); not here.

use sha2::{Digest, Sha256};

/// A leaf or a node of a tree.
pub(crate) type Chunk = [u8; 32];

const ZERO: Chunk = [0; 32];

/// The root over `fields`, padded with zero chunks to a power of two.
pub(crate) fn container(fields: &[Chunk]) -> Chunk {
    let mut layer = fields.to_vec();
    layer.resize(fields.len().next_power_of_two(), ZERO);
    while layer.len() > 1 {
        layer = layer
            .as_chunks::<2>()
            .0
            .iter()
            .map(|pair| Sha256::digest(pair.as_flattened()).into())
            .collect();
    }
    layer.first().copied().unwrap_or(ZERO)
}

/// A byte vector of fixed length: one chunk, or the root over its chunks.
pub(crate) fn vector(bytes: &[u8]) -> Chunk {
    let chunks: Vec<Chunk> = bytes
        .chunks(size_of::<Chunk>())
        .map(|piece| {
            let mut chunk = ZERO;
            chunk[..piece.len()].copy_from_slice(piece);
            chunk
        })
        .collect();
    container(&chunks)
}

pub(crate) fn uint64(value: u64) -> Chunk {
    let mut chunk = ZERO;
    chunk[..8].copy_from_slice(&value.to_le_bytes());
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_chunk_is_its_own_root_and_none_is_zero() {
        assert_eq!(vector(&[7]), container(&[vector(&[7])]));
        assert_eq!(container(&[]), ZERO);
    }

    #[test]
    fn long_vectors_are_padded_to_a_power_of_two() {
        let bytes: Vec<u8> = (0..=0x40).collect();

        // Spec cluster, appendix A.1, `RAW(bytes 00..40)`.
        assert_eq!(
            hex::encode(vector(&bytes)),
            "f60509648a215096452992fd0e95f1b91c8ecd5207eff8a055db99cbed55364e"
        );
    }
}
