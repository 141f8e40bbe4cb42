//! SHA-256 Merkle trees in the dialect of the cluster hashes.
//!
//! Spec: cluster, section 2.1. It is close to SSZ and is not it: an empty value drops its leaf
//! ([`raw`]), and fixed-size values are padded on the left ([`fixed`]). Hence no SSZ library.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

use crate::error::HashProblem;

/// Bytes of a leaf and of a root.
const CHUNK: usize = 32;
/// Bytes of one secp256k1 signature.
pub(crate) const SIGNATURE_BYTES: usize = 65;
/// Most signatures in one field.
pub(crate) const MAX_SIGNATURES: usize = 32;
/// Bytes of an address.
const ADDRESS_BYTES: usize = 20;
/// Most 64-bit values in a list of them, four to a leaf.
const MAX_U64S: usize = 256;

/// A leaf, or the root of a tree.
pub(crate) type Root = [u8; CHUNK];
pub(crate) type Result<T> = std::result::Result<T, HashProblem>;

/// The roots of trees of zero leaves, by depth.
static ZERO: LazyLock<Vec<Root>> = LazyLock::new(|| {
    let roots = std::iter::successors(Some([0; CHUNK]), |root| Some(pair(root, root)));
    // A `usize` has no larger power of two.
    roots.take(usize::BITS as usize + 1).collect()
});

fn pair(left: &Root, right: &Root) -> Root {
    Sha256::new()
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

/// The root over `chunks`, padded with zero leaves to `limit`; 0 means no limit.
fn merkle(mut chunks: Vec<Root>, limit: usize) -> Result<Root> {
    if limit > 0 && chunks.len() > limit {
        return Err(HashProblem::TooManyEntries {
            max: limit,
            len: chunks.len(),
        });
    }
    let leaves = if limit == 0 { chunks.len() } else { limit };
    let depth = leaves.next_power_of_two().trailing_zeros() as usize;
    if chunks.is_empty() {
        return Ok(ZERO[depth]);
    }
    for zero in &ZERO[..depth] {
        if chunks.len() % 2 == 1 {
            chunks.push(*zero);
        }
        chunks = chunks
            .chunks_exact(2)
            .map(|two| pair(&two[0], &two[1]))
            .collect();
    }
    Ok(chunks[0])
}

fn mixin(root: Root, count: usize) -> Root {
    pair(&root, &u64(count as u64))
}

fn chunks(bytes: &[u8]) -> Vec<Root> {
    let chunks = bytes.chunks(CHUNK).map(|bytes| {
        let mut chunk = [0; CHUNK];
        chunk[..bytes.len()].copy_from_slice(bytes);
        chunk
    });
    chunks.collect()
}

/// The root of a container over the leaves that there are.
pub(crate) fn container(leaves: Vec<Root>) -> Root {
    // Without a limit there is none to break.
    merkle(leaves, 0).unwrap_or_default()
}

/// The root of a list. `count` may be more than the leaves, where empty entries dropped theirs.
pub(crate) fn list(leaves: Vec<Root>, count: usize, limit: usize) -> Result<Root> {
    Ok(mixin(merkle(leaves, limit)?, count))
}

/// Bytes as they are. Empty bytes have no leaf at all.
pub(crate) fn raw(bytes: &[u8]) -> Option<Root> {
    if bytes.is_empty() {
        return None;
    }
    Some(container(chunks(bytes)))
}

/// Bytes padded on the left to `len`.
pub(crate) fn fixed(bytes: &[u8], len: usize) -> Result<Root> {
    if bytes.len() > len {
        return Err(HashProblem::TooLong {
            max: len,
            len: bytes.len(),
        });
    }
    let mut padded = vec![0; len - bytes.len()];
    padded.extend_from_slice(bytes);
    Ok(container(chunks(&padded)))
}

/// The bytes of an address; none for an empty text.
pub(crate) fn address_bytes(text: &str) -> Result<Vec<u8>> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let bytes = hex::decode(digits).map_err(|_| HashProblem::AddressHex)?;
    if !text.is_empty() && bytes.len() != ADDRESS_BYTES {
        return Err(HashProblem::AddressLength { len: bytes.len() });
    }
    Ok(bytes)
}

/// An address; an empty one is zero.
pub(crate) fn address(text: &str) -> Result<Root> {
    fixed(&address_bytes(text)?, ADDRESS_BYTES)
}

/// A text of at most `max` bytes.
pub(crate) fn text(text: &str, max: usize) -> Result<Root> {
    if text.len() > max {
        return Err(HashProblem::TooLong {
            max,
            len: text.len(),
        });
    }
    let root = merkle(chunks(text.as_bytes()), max.div_ceil(CHUNK))?;
    Ok(mixin(root, text.len()))
}

pub(crate) fn u64(value: u64) -> Root {
    let mut chunk = [0; CHUNK];
    chunk[..8].copy_from_slice(&value.to_le_bytes());
    chunk
}

/// A negative number is cast.
pub(crate) fn i64(value: i64) -> Root {
    u64(value.cast_unsigned())
}

pub(crate) fn bool(value: bool) -> Root {
    u64(u64::from(value))
}

pub(crate) fn u64_list(values: &[u64]) -> Result<Root> {
    if values.len() > MAX_U64S {
        return Err(HashProblem::TooManyEntries {
            max: MAX_U64S,
            len: values.len(),
        });
    }
    let bytes: Vec<u8> = values.iter().flat_map(|it| it.to_le_bytes()).collect();
    let root = merkle(chunks(&bytes), MAX_U64S * size_of::<u64>() / CHUNK)?;
    Ok(mixin(root, values.len()))
}

/// Any number of signatures, one after the other.
pub(crate) fn signatures(bytes: &[u8]) -> Result<Root> {
    if !bytes.len().is_multiple_of(SIGNATURE_BYTES) {
        return Err(HashProblem::SignatureLength { len: bytes.len() });
    }
    let max = MAX_SIGNATURES * SIGNATURE_BYTES;
    if bytes.len() > max {
        return Err(HashProblem::TooLong {
            max,
            len: bytes.len(),
        });
    }
    let roots: Vec<_> = bytes.chunks(SIGNATURE_BYTES).filter_map(raw).collect();
    let count = roots.len();
    list(roots, count, MAX_SIGNATURES)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The values are those of the cluster spec, appendix A.1.

    fn hex32(text: &str) -> Root {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    #[track_caller]
    fn check(root: Result<Root>, expected: &str) {
        assert_eq!(root.map(hex::encode).as_deref(), Ok(expected));
    }

    #[test]
    fn texts() {
        check(
            text("", 64),
            "7a0501f5957bdf9cb3a8ff4966f02265f968658b7a9c62642cba1165e86642f5",
        );
        check(
            text("hello", 256),
            "d714c994fb91ed0c822936ddab0934529ab7816e60dc94027e77a4188e2e4459",
        );
        check(
            text(&"\0".repeat(32), 64),
            "e36306f41e65a19bc26226df4c969ef1ae6ac2e29edf4038761d553854385723",
        );
        for max in [16, 32] {
            check(
                text("", max),
                "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b",
            );
        }
        check(
            text("", 256),
            "e8e527e84f666163a90ef900e013f56b0a4d020148b2224057b719f351b003a6",
        );
        check(
            text("", 1024),
            "52e2647abc3d0c9d3be0387f3f0d925422c7a4e98cf4489066f0f43281a899f3",
        );
        assert_eq!(
            text(&"x".repeat(17), 16),
            Err(HashProblem::TooLong { max: 16, len: 17 })
        );
    }

    #[test]
    fn containers() {
        let hello = text("hello", 256).unwrap();
        check(
            Ok(container(vec![u64(42), hello])),
            "bbc79cd2fdb2cc4810be1c265d80e601221f69df244a956b222db5454dd7d439",
        );
        let abcd = fixed(&[0xab, 0xcd], 32).unwrap();
        assert_eq!(abcd[29..], [0, 0xab, 0xcd]);
        assert_eq!(fixed(&[1, 2, 3, 4], 4).unwrap()[..5], [1, 2, 3, 4, 0]);
        check(
            Ok(container(vec![u64(1), abcd])),
            "392b769bc14dd0593bbb9d28f2fa7c4ec6eb113ef750db4046b7136c5844c95d",
        );
        let zero = raw(&[0; 20]).unwrap();
        check(
            Ok(container(vec![zero, fixed(&[1, 2, 3, 4], 4).unwrap()])),
            "c092c674a087720f7136046e41d587e355a5f359b3940336f8e4e9dde2ffe236",
        );
        let ones = address("0x1111111111111111111111111111111111111111").unwrap();
        check(
            Ok(container(vec![u64(99), ones])),
            "2051384e282f804390dac5c19fcfd1e4cacca29abacb0f07cd6c17995388f5b0",
        );
        let other = address("0xabcdef0123456789abcdef0123456789abcdef01").unwrap();
        check(
            Ok(container(vec![text("prefix", 256).unwrap(), other])),
            "c3105b794bd2b28cc863326f5ffa8baad9e1c1d7d424556e188961ca59f69100",
        );
        assert_eq!(container(vec![]), [0; 32]);
        assert_eq!(container(vec![hello]), hello);
    }

    #[test]
    fn bytes_and_signatures() {
        let counting: Vec<u8> = (0..65).collect();
        check(
            Ok(raw(&counting).unwrap()),
            "f60509648a215096452992fd0e95f1b91c8ecd5207eff8a055db99cbed55364e",
        );
        check(
            fixed(&counting[..64], 65),
            "b522004ff6ee6228dd304cf5915d18acb971b091ea8829eeee2fa671b31430b2",
        );
        for len in [65, 96] {
            check(
                fixed(&[], len),
                "db56114e00fdd4c1f85c892bf35ac9a89289aaecb1ebd0a96cde606a748b5d71",
            );
        }
        check(
            signatures(&[]),
            "52e2647abc3d0c9d3be0387f3f0d925422c7a4e98cf4489066f0f43281a899f3",
        );
        check(
            signatures(&counting),
            "d5ac6c8e0e6f1e89cc338356395035e8fbaddbc790f2af9fa342fd19936a8834",
        );
        check(
            signatures(&counting.repeat(2)),
            "5c0326bb9b7bf5f178e72b59ee74f1f6b4c12db871d70e0f853b07f032a9bec9",
        );
        assert_eq!(raw(&[]), None);
        assert!(signatures(&counting.repeat(32)).is_ok());
        assert!(signatures(&counting.repeat(33)).is_err());
        assert!(signatures(&counting[..64]).is_err());
        assert!(fixed(&counting, 64).is_err());
    }

    #[test]
    fn lists() {
        check(
            u64_list(&[]),
            "c9eece3e14d3c3db45c38bbf69a4cb7464981e2506d8424a0ba450dad9b9af30",
        );
        check(
            u64_list(&[32_000_000_000]),
            "e8bb1992b3f38a3d9ccc553ba9570183cc8e9f26428a153c5429930234b1d960",
        );
        check(
            u64_list(&[16_000_000_000; 2]),
            "fb21c04341aaebe0944623c62dc0d12c75c97749a6b9a35ebafa8bb68e91a789",
        );
        check(
            list(vec![], 0, 256),
            "76859427a26d01891b23e04cfc6342b72e4f52caca9d7535d16cd7f36b5d52bb",
        );
        check(
            list(vec![], 0, 65_536),
            "6080a24df6cb76f31cacdf4419ac9bf0ac092087f40ec93f10c4608f967ca23a",
        );
        check(
            list(vec![], 0, 0),
            "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b",
        );
        assert!(u64_list(&[1; 256]).is_ok());
        assert!(u64_list(&[1; 257]).is_err());
        let leaf = hex32(&"11".repeat(32));
        assert!(list(vec![leaf; 256], 256, 256).is_ok());
        assert!(list(vec![leaf; 257], 257, 256).is_err());
    }

    #[test]
    fn addresses() {
        let lower = address("0xabcdef0123456789abcdef0123456789abcdef01").unwrap();
        assert_eq!(
            address("ABCDEF0123456789abcdef0123456789abcdef01"),
            Ok(lower)
        );
        assert_eq!(address(""), Ok([0; 32]));
        assert_eq!(address("0x"), Err(HashProblem::AddressLength { len: 0 }));
        assert_eq!(address("0xab"), Err(HashProblem::AddressLength { len: 1 }));
        assert_eq!(address("0xzz"), Err(HashProblem::AddressHex));
    }
}
