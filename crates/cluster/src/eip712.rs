//! What operators and creators sign with their Ethereum wallets (EIP-712, ERC-1271).
//!
//! Spec: cluster, section 3.
//!
//! The messages are four structs of one string each and a domain of three fields. They are hashed
//! here by hand: `alloy-sol-types` would add some forty packages for that.

use std::fmt;

use pluto_crypto::k1::ADDRESS_BYTES;
use sha3::{Digest, Keccak256};

use crate::Version;

/// What `isValidSignature` of a contract answers when it accepts a signature, and the selector with
/// which it is asked (ERC-1271).
pub const ERC1271_MAGIC: [u8; 4] = [0x16, 0x26, 0xba, 0x7e];

const DOMAIN_NAME: &str = "Obol";
const DOMAIN_VERSION: &str = "1";
/// The terms that the API has creators sign, and the version of that message.
const TERMS_HASH: &str = "0xd33721644e8f3afab1495a74abe3523cec12d48b8da6cb760972492ca3f1a273";
const TERMS_VERSION: u64 = 1;

/// An Ethereum address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub [u8; ADDRESS_BYTES]);

impl Address {
    /// Reads `0x` and 40 hex digits in any letter case; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; ADDRESS_BYTES];
        hex::decode_to_slice(text.strip_prefix("0x")?, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// Whether `text` is the address with the letter case of its checksum (EIP-55).
    #[must_use]
    pub fn is_checksummed(&self, text: &str) -> bool {
        self.to_string() == text
    }
}

/// With the letter case of its checksum (EIP-55).
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = hex::encode(self.0);
        let hash = hex::encode(keccak256(digits.as_bytes()));
        f.write_str("0x")?;
        for (digit, hash) in digits.chars().zip(hash.chars()) {
            let upper = hash.to_digit(16).is_some_and(|it| it >= 8);
            write!(
                f,
                "{}",
                if upper {
                    digit.to_ascii_uppercase()
                } else {
                    digit
                }
            )?;
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// What an operator signs to agree to a config hash. Versions before v1.3 have no such signature.
#[must_use]
pub fn operator_config_digest(version: Version, config_hash: &[u8], chain_id: u64) -> [u8; 32] {
    let message_type = if version <= Version::V1_3 {
        "ConfigHash(string config_hash)"
    } else {
        "OperatorConfigHash(string operator_config_hash)"
    };
    digest(
        &domain(Some(chain_id)),
        &text_struct(message_type, &hash_text(config_hash)),
    )
}

/// What an operator signs to name its node: the ENR's text exactly as it stands in the file.
#[must_use]
pub fn enr_digest(enr: &str, chain_id: u64) -> [u8; 32] {
    digest(
        &domain(Some(chain_id)),
        &text_struct("ENR(string enr)", enr),
    )
}

/// What the creator signs to agree to a config hash.
#[must_use]
pub fn creator_config_digest(config_hash: &[u8], chain_id: u64) -> [u8; 32] {
    digest(
        &domain(Some(chain_id)),
        &text_struct(
            "CreatorConfigHash(string creator_config_hash)",
            &hash_text(config_hash),
        ),
    )
}

/// What the API has creators sign before they publish a definition; the same on every network.
#[must_use]
pub fn terms_digest() -> [u8; 32] {
    let message = keccak256(
        &[
            keccak256(b"TermsAndConditions(string terms_and_conditions_hash,uint256 version)"),
            keccak256(TERMS_HASH.as_bytes()),
            word(TERMS_VERSION),
        ]
        .concat(),
    );
    digest(&domain(None), &message)
}

/// The call data of `isValidSignature(bytes32,bytes)`.
#[must_use]
pub fn erc1271_call(digest: &[u8; 32], signature: &[u8]) -> Vec<u8> {
    let mut call = ERC1271_MAGIC.to_vec();
    call.extend_from_slice(digest);
    // Where the bytes start, then how many there are, then they, padded.
    call.extend_from_slice(&word(64));
    call.extend_from_slice(&word(signature.len() as u64));
    call.extend_from_slice(signature);
    let words = (call.len() - ERC1271_MAGIC.len()).next_multiple_of(32);
    call.resize(ERC1271_MAGIC.len() + words, 0);
    call
}

/// The hashes are signed as text.
fn hash_text(hash: &[u8]) -> String {
    if hash.is_empty() {
        return String::new();
    }
    format!("0x{}", hex::encode(hash))
}

/// The terms' domain has no chain id.
fn domain(chain_id: Option<u64>) -> [u8; 32] {
    let domain_type: &[u8] = match chain_id {
        Some(_) => b"EIP712Domain(string name,string version,uint256 chainId)",
        None => b"EIP712Domain(string name,string version)",
    };
    let mut words = vec![
        keccak256(domain_type),
        keccak256(DOMAIN_NAME.as_bytes()),
        keccak256(DOMAIN_VERSION.as_bytes()),
    ];
    words.extend(chain_id.map(word));
    keccak256(&words.concat())
}

/// The hash of a struct whose only field is a string.
fn text_struct(message_type: &str, text: &str) -> [u8; 32] {
    let words = [
        keccak256(message_type.as_bytes()),
        keccak256(text.as_bytes()),
    ];
    keccak256(&words.concat())
}

fn digest(domain: &[u8; 32], message: &[u8; 32]) -> [u8; 32] {
    keccak256(&[&[0x19, 0x01], &domain[..], message].concat())
}

fn word(value: u64) -> [u8; 32] {
    let mut word = [0; 32];
    word[24..].copy_from_slice(&value.to_be_bytes());
    word
}

fn keccak256(data: &[u8]) -> [u8; 32] {
    Keccak256::digest(data).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    // The values are those of the cluster spec, appendix A.4 and A.7.

    fn hex(bytes: impl AsRef<[u8]>) -> String {
        hex::encode(bytes)
    }

    #[test]
    fn domains_of_the_networks() {
        for (chain_id, expected) in [
            (
                Some(1),
                "b9104055a51555e6cd0673082ecb9bf12212645089baa800952aaf4c629e5114",
            ),
            (
                Some(5),
                "ce0d150bea16c9b760e1aaf58111082305b19d86d7e07e0fcb65135540804338",
            ),
            (
                Some(100),
                "a9369f2443f302b306b8c60b819466f004856c0eeb519eceafc1dcdb1fa91bd2",
            ),
            (
                Some(10_200),
                "47518984bec72776faf271ccb71ac9e8e62b534a37149c47d876659987bd155d",
            ),
            (
                Some(11_155_111),
                "ccdb793570a376975b373880713ea88c44feed10fa4df6c725fc0bd3c15d251b",
            ),
            (
                Some(560_048),
                "95fc46003c79ee78ab9e89a5e4c16d6dbadc9864bdf2b6b1fa83744cb1b272c2",
            ),
            (
                None,
                "c3e220348cc3f5f9092c70eca98980995d230542a6353a531ff1d0ac734d3704",
            ),
        ] {
            assert_eq!(hex(domain(chain_id)), expected, "{chain_id:?}");
        }
    }

    #[test]
    fn digests() {
        let config_hash =
            hex::decode("e57f66637bdfa05cce6a78e8cf4120d67d305b485367a69baa5f738436533bcb")
                .unwrap();
        assert_eq!(
            hex(creator_config_digest(&config_hash, 11_155_111)),
            "7c8fe012e2f872ca7ec870164184f57b921166f80565ff74af7bee5796f973e4"
        );
        assert_eq!(
            hex(terms_digest()),
            "68c4d0ff552bd6b14cb6d7f04aeed22f79b77fa6b0fd0a0188191fb856893805"
        );
        let config_hash =
            hex::decode("146556e0e1b1fcc1187385fc7600a7588932823aeebf05ab01e39811ca6d71c8")
                .unwrap();
        assert_eq!(
            hex(operator_config_digest(Version::V1_7, &config_hash, 5)),
            "85bbfc290103e3dd0830adf0d06b576606e994e8ab7333a758d1b2b216f01621"
        );
        let config_hash =
            hex::decode("e31db9988226c522f76cd2bc283e56da28dfb5c8bb79a77a84387470813cb59a")
                .unwrap();
        assert_eq!(
            hex(operator_config_digest(Version::V1_3, &config_hash, 5)),
            "843655bd9bf47ad6452f832f7678745132bb3319d8e2e3e8cea5c912bd2c506a"
        );
    }

    #[test]
    fn addresses_are_read_in_any_case_and_printed_with_their_checksum() {
        let text = "0xF88D5892faF084DCF4143566d9C9b3F047c153Ca";
        let address = Address::parse(&text.to_lowercase()).unwrap();
        assert_eq!(address.to_string(), text);
        assert!(address.is_checksummed(text));
        assert!(!address.is_checksummed(&text.to_lowercase()));

        let bare = text.trim_start_matches("0x");
        for bad in [
            bare,
            "",
            "0x",
            &text[..41],
            "0xzz8D5892faF084DCF4143566d9C9b3F047c153Ca",
        ] {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn contract_calls_are_padded_to_words() {
        for (len, words) in [(0, 0), (1, 1), (32, 1), (65, 3), (130, 5)] {
            let call = erc1271_call(&[7; 32], &vec![9; len]);
            assert_eq!(call.len(), 4 + 32 * (3 + words), "{len}");
            assert_eq!(call[..5], [0x16, 0x26, 0xba, 0x7e, 7]);
            assert_eq!(usize::from(call[4 + 32 * 3 - 1]), len);
        }
    }
}
