//! Addresses of the execution chain: who receives withdrawals and fees.

use std::{fmt, str::FromStr};

use sha3::{Digest, Keccak256};

const PREFIX: &str = "0x";
const BYTES: usize = 20;
const HEX_DIGITS: usize = 2 * BYTES;

/// Why a text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Does not start with `0x`.
    #[error("address does not start with 0x")]
    NoPrefix,
    /// Not 40 digits.
    #[error("address has {digits} digits after 0x instead of {HEX_DIGITS}")]
    WrongLength {
        /// Bytes after the prefix.
        digits: usize,
    },
    /// Holds something other than hex digits.
    #[error("address is not hexadecimal")]
    NotHex,
    /// The case of its letters is not the one of EIP-55.
    #[error("address is written {expected} when its checksum (EIP-55) is right")]
    Checksum {
        /// The same address with the right checksum.
        expected: Address,
    },
}

/// An account of the execution chain. Prints with its EIP-55 checksum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub [u8; BYTES]);

impl Address {
    /// The address that nobody has the key of.
    pub const ZERO: Self = Self([0; BYTES]);

    /// Reads an address whose letters must carry the right checksum, as `create dkg` demands of
    /// withdrawal addresses (spec cluster, section 11.1). [`from_typed`](Self::from_typed) takes one
    /// without a checksum too, and `FromStr` any case.
    pub fn from_checksummed(text: &str) -> Result<Self, Error> {
        let address: Self = text.parse()?;
        if address.to_string() == text {
            Ok(address)
        } else {
            Err(Error::Checksum { expected: address })
        }
    }

    /// Reads an address that a person gave: letters of both cases are a checksum (EIP-55), which must
    /// be right. Without one, in letters of one case, nothing tells a wrong digit.
    pub fn from_typed(text: &str) -> Result<Self, Error> {
        let address: Self = text.parse()?;
        let letters = || {
            text[PREFIX.len()..]
                .chars()
                .filter(char::is_ascii_alphabetic)
        };
        let has_checksum = letters().any(|it| it.is_ascii_lowercase())
            && letters().any(|it| it.is_ascii_uppercase());
        if has_checksum {
            Self::from_checksummed(text)
        } else {
            Ok(address)
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    /// `0x` and 40 hex digits of any case.
    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = text.strip_prefix(PREFIX).ok_or(Error::NoPrefix)?;
        if digits.len() != HEX_DIGITS {
            return Err(Error::WrongLength {
                digits: digits.len(),
            });
        }
        let mut bytes = [0; BYTES];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| Error::NotHex)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = hex::encode(self.0);
        let hash = hex::encode(Keccak256::digest(&digits));
        f.write_str("0x")?;
        for (digit, hash) in digits.chars().zip(hash.chars()) {
            let digit = if hash >= '8' {
                digit.to_ascii_uppercase()
            } else {
                digit
            };
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_eip_55() {
        // The examples of EIP-55.
        for text in [
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
            "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
            "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
        ] {
            let address = Address::from_checksummed(text).unwrap();
            assert_eq!(address.to_string(), text);

            let lower = text.to_lowercase();
            assert_eq!(lower.parse(), Ok(address));
            assert_eq!(
                Address::from_checksummed(&lower),
                Err(Error::Checksum { expected: address })
            );
        }
    }

    #[test]
    fn letters_of_both_cases_are_a_checksum_in_what_a_person_gives() {
        let text = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
        let address: Address = text.parse().unwrap();
        let upper = format!("0x{}", text[2..].to_uppercase());
        for right in [text, &text.to_lowercase(), &upper] {
            assert_eq!(Address::from_typed(right), Ok(address), "{right}");
        }

        let wrong = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAec";
        assert!(matches!(
            Address::from_typed(wrong),
            Err(Error::Checksum { .. })
        ));
        assert!(wrong.to_lowercase().parse::<Address>().is_ok());
        assert_eq!(Address::from_typed("5a"), Err(Error::NoPrefix));
    }

    #[test]
    fn what_is_no_address_is_told_apart() {
        let cases = [
            ("", Error::NoPrefix),
            ("1111111111111111111111111111111111111111", Error::NoPrefix),
            (
                "0X1111111111111111111111111111111111111111",
                Error::NoPrefix,
            ),
            ("0x", Error::WrongLength { digits: 0 }),
            (
                "0x111111111111111111111111111111111111111",
                Error::WrongLength { digits: 39 },
            ),
            (
                "0x11111111111111111111111111111111111111111",
                Error::WrongLength { digits: 41 },
            ),
            ("0x111111111111111111111111111111111111111g", Error::NotHex),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
    }
}
