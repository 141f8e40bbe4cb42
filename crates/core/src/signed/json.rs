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

/// A number below 2^256 in a decimal string, digits only; little-endian bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wei(pub(crate) [u8; 32]);

impl<'de> Deserialize<'de> for Wei {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Wei;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number below 2^256 in a decimal string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Wei, E> {
                wei(text)
                    .map(Wei)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Other("text"), &self))
            }
        }
        from.deserialize_str(Visitor)
    }
}

fn wei(text: &str) -> Option<[u8; 32]> {
    let mut number = [0; 32];
    if text.is_empty() {
        return None;
    }
    for digit in text.bytes() {
        let mut carry = u16::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
        for byte in &mut number {
            let value = u16::from(*byte) * 10 + carry;
            *byte = value.to_le_bytes()[0];
            carry = value >> 8;
        }
        if carry > 0 {
            return None;
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wei_is_read_up_to_its_last_number() {
        let last = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
        let above =
            "115792089237316195423570985008687907853269984665640564039457584007913129639936";
        let mut seven_wei = [0; 32];
        seven_wei[0] = 7;

        assert_eq!(wei("0"), Some([0; 32]));
        assert_eq!(wei("007"), Some(seven_wei));
        assert_eq!(wei(last), Some([0xff; 32]));
        for text in [above, "", "+1", "0x1", "1 ", &format!("{last}0")] {
            assert_eq!(wei(text), None, "{text}");
        }
    }
}
