//! Text forms inside JSON: numbers in decimal strings, bytes in `0x` hex.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// A `u64` in a decimal string, digits only.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dec(pub(crate) u64);

impl<'de> Deserialize<'de> for Dec {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Dec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number below 2^64 in a decimal string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Dec, E> {
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse()
                    .ok()
                    .filter(|_| digits)
                    .map(Dec)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Other("text"), &self))
            }
        }
        from.deserialize_str(Visitor)
    }
}

/// Exactly `N` bytes in `0x` hex.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hex<const N: usize>(pub(crate) [u8; N]);

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let HexVec(bytes) = HexVec::deserialize(from)?;
        let len = bytes.len();
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| de::Error::invalid_length(len, &"the field's number of bytes"))
    }
}

/// Any number of bytes in `0x` hex.
#[derive(Debug, Clone)]
pub(crate) struct HexVec(pub(crate) Vec<u8>);

impl<'de> Deserialize<'de> for HexVec {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = HexVec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes in hex after `0x`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<HexVec, E> {
                text.strip_prefix("0x")
                    .and_then(|digits| hex::decode(digits).ok())
                    .map(HexVec)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Other("text"), &self))
            }
        }
        from.deserialize_str(Visitor)
    }
}
