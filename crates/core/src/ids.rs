//! Who signs, and for which validator.
//!
//! Spec: duties, section 1.1.

use std::{fmt, str::FromStr};

use pluto_crypto::bls::ShareIdx;

/// Characters of a [`PubKey`] as text.
const TEXT_LEN: usize = 2 + 2 * 48;

/// A validator's group public key, never a share's, as its compressed bytes.
///
/// Only a name: whether it is a point of the curve matters where it is used as a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PubKey([u8; 48]);

impl PubKey {
    /// Wraps the compressed form.
    #[must_use]
    pub const fn new(bytes: [u8; 48]) -> Self {
        Self(bytes)
    }

    /// The compressed form.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 48] {
        &self.0
    }

    /// The log form: hex digits 1 to 3, `_`, digits 93 to 95. The last digit is left out, as
    /// everywhere in the field, so that logs of different nodes can be searched together.
    #[must_use]
    pub fn short(&self) -> String {
        let text = hex::encode(self.0);
        format!("{}_{}", &text[..3], &text[92..95])
    }
}

impl From<[u8; 48]> for PubKey {
    fn from(bytes: [u8; 48]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for PubKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl fmt::Debug for PubKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PubKey({self})")
    }
}

/// Why a text is no [`PubKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PubKeyError {
    /// Not as long as `0x` and 96 digits.
    #[error("public key has {len} bytes of text instead of {TEXT_LEN}")]
    Length {
        /// Its length.
        len: usize,
    },
    /// Does not start with `0x`.
    #[error("public key does not start with `0x`")]
    Prefix,
    /// A character that is no lower-case hex digit. One validator has one spelling.
    #[error("public key has something else than a lower-case hex digit at position {at}")]
    Digit {
        /// Byte position in the text.
        at: usize,
    },
}

impl FromStr for PubKey {
    type Err = PubKeyError;

    fn from_str(text: &str) -> Result<Self, PubKeyError> {
        if text.len() != TEXT_LEN {
            return Err(PubKeyError::Length { len: text.len() });
        }
        let digits = text.strip_prefix("0x").ok_or(PubKeyError::Prefix)?;
        if let Some(at) = digits
            .bytes()
            .position(|digit| !matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(PubKeyError::Digit { at: at + 2 });
        }
        let mut bytes = [0; 48];
        hex::decode_to_slice(digits, &mut bytes).expect("96 hex digits are 48 bytes");
        Ok(Self(bytes))
    }
}

/// 0-based position of an operator in the cluster lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerIdx(u32);

impl PeerIdx {
    /// `None` for `u32::MAX`, to which no share belongs.
    #[must_use]
    pub const fn new(idx: u32) -> Option<Self> {
        if idx == u32::MAX {
            None
        } else {
            Some(Self(idx))
        }
    }

    /// The position.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The position, for slices in operator order.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// The key share that this operator holds.
    #[must_use]
    pub fn share_idx(self) -> ShareIdx {
        ShareIdx::new(self.0 + 1).expect("a peer index is below u32::MAX")
    }
}

impl From<ShareIdx> for PeerIdx {
    fn from(share: ShareIdx) -> Self {
        Self(share.get() - 1)
    }
}

impl From<PeerIdx> for ShareIdx {
    fn from(peer: PeerIdx) -> Self {
        peer.share_idx()
    }
}

impl fmt::Display for PeerIdx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_key_has_one_spelling() {
        let text = format!("0x{}", "a1".repeat(48));
        let key: PubKey = text.parse().unwrap();

        assert_eq!(key.to_string(), text);
        assert_eq!(
            text.to_uppercase().parse::<PubKey>(),
            Err(PubKeyError::Prefix)
        );
        assert_eq!(
            text.replace('a', "A").parse::<PubKey>(),
            Err(PubKeyError::Digit { at: 2 })
        );
        assert_eq!(
            text[1..].parse::<PubKey>(),
            Err(PubKeyError::Length { len: 97 })
        );
        assert_eq!(
            format!("{text}0").parse::<PubKey>(),
            Err(PubKeyError::Length { len: 99 })
        );
        // Multi-byte characters must not be cut in the middle.
        assert!("é".repeat(49).parse::<PubKey>().is_err());
    }

    #[test]
    fn short_form_leaves_the_last_digit_out() {
        let text = format!("0x123{}abcd", "0".repeat(89));

        assert_eq!(text.parse::<PubKey>().unwrap().short(), "123_abc");
    }

    #[test]
    fn share_index_is_one_more_than_peer_index() {
        let first = PeerIdx::new(0).unwrap();
        let last = PeerIdx::new(u32::MAX - 1).unwrap();

        assert_eq!(first.share_idx().get(), 1);
        assert_eq!(last.share_idx().get(), u32::MAX);
        assert_eq!(PeerIdx::from(first.share_idx()), first);
        assert_eq!(PeerIdx::new(u32::MAX), None);
    }
}
