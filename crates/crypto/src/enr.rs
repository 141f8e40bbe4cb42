//! Node records (ENR, EIP-778 subset), as operators and relays exchange them.
//!
//! Spec: p2p, section 1.2.
//!
//! The codec is our own, not the `enr` crate's: what Charon reads is laxer than EIP-778 (no `id`, any
//! key order, line breaks, padding, longer than 300 bytes, lengths in a longer form than needed), and a
//! cluster file that Charon accepts must not be refused here. The signature is always checked, over the
//! canonical form of the content.
//!
//! A parsed record keeps its text. Charon prints one with `seq` 0 under the old signature, which
//! makes a record with another `seq` invalid (W-4).
//!
//! **Bounds:** a text is at most [`MAX_TEXT_BYTES`] long.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use alloy_rlp::{Encodable, Header};
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use sha3::{Digest, Keccak256};

use crate::k1::{self, PublicKey, SecretKey};

/// Longest text that is parsed. EIP-778 allows about 400 characters and Charon any number; chosen
/// freely, larger is safe.
pub const MAX_TEXT_BYTES: usize = 4096;

const PREFIX: &str = "enr:";
const ID: &[u8] = b"id";
const ID_V4: &[u8] = b"v4";
const IP: &[u8] = b"ip";
const SECP256K1: &[u8] = b"secp256k1";
const TCP: &[u8] = b"tcp";
const UDP: &[u8] = b"udp";

/// URL-safe, unpadded, and as forgiving about the last character's spare bits as Go's decoder.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// The result of the operations here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a record was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Longer than [`MAX_TEXT_BYTES`].
    #[error("ENR has {len} characters, more than {MAX_TEXT_BYTES}")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// Does not start with `enr:`.
    #[error("ENR does not start with `enr:`")]
    NoPrefix,
    /// What follows the prefix is not base64url.
    #[error("ENR is not base64url text")]
    NotBase64,
    /// Not a list of byte strings.
    #[error("ENR is not an RLP list of byte strings")]
    NotRlp,
    /// Fewer than four elements, or a key without a value.
    #[error("ENR has {count} elements; an even number from 4 up is needed")]
    ElementCount {
        /// How many there are.
        count: usize,
    },
    /// One key twice.
    #[error("ENR has a key twice")]
    DuplicateKey,
    /// An identity scheme other than `v4`.
    #[error("ENR has an identity scheme other than `v4`")]
    UnknownScheme,
    /// There is no `secp256k1` entry.
    #[error("ENR has no secp256k1 public key")]
    NoPublicKey,
    /// The `secp256k1` entry is no point.
    #[error("ENR has an invalid public key")]
    PublicKey(#[source] k1::Error),
    /// The signature does not have 64 bytes.
    #[error("ENR has a signature of {len} bytes instead of 64")]
    SignatureLength {
        /// Its length.
        len: usize,
    },
    /// The signature is not the key's over the content.
    #[error("ENR signature does not verify")]
    Signature(#[source] k1::Error),
}

/// A record with a valid signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Enr {
    /// As parsed, or as made here.
    text: String,
    public_key: PublicKey,
    signature: [u8; 64],
    ip4: Option<Ipv4Addr>,
    tcp: Option<u16>,
    udp: Option<u16>,
}

impl Enr {
    /// The record of an operator: the key and nothing else. The same text on every call.
    #[must_use]
    pub fn for_key(key: &SecretKey) -> Self {
        Self::build(key, None)
    }

    /// The record of a relay: where it is reached by TCP and by QUIC (`udp`).
    #[must_use]
    pub fn for_relay(key: &SecretKey, ip4: Ipv4Addr, tcp: u16, udp: u16) -> Self {
        Self::for_address(key, ip4, Some(tcp), Some(udp))
    }

    /// The record of a relay that may lack a transport.
    #[must_use]
    pub fn for_address(key: &SecretKey, ip4: Ipv4Addr, tcp: Option<u16>, udp: Option<u16>) -> Self {
        Self::build(key, Some((ip4, tcp, udp)))
    }

    /// Reads a record and checks its signature.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(Error::TooLong { len: text.len() });
        }
        let encoded = text
            .strip_prefix(PREFIX)
            .ok_or(Error::NoPrefix)?
            .trim_end_matches('=');
        let encoded: String = encoded
            .chars()
            .filter(|c| !matches!(c, '\r' | '\n'))
            .collect();
        let raw = BASE64.decode(encoded).map_err(|_| Error::NotBase64)?;

        let elements = decode_list(&raw)?;
        let [signature, content @ ..] = elements.as_slice() else {
            return Err(Error::ElementCount { count: 0 });
        };
        if elements.len() < 4 || elements.len() % 2 != 0 {
            return Err(Error::ElementCount {
                count: elements.len(),
            });
        }
        let pairs: Vec<_> = content[1..]
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect();
        let mut keys: Vec<_> = pairs.iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::DuplicateKey);
        }

        let value = |wanted: &[u8]| {
            pairs
                .iter()
                .find(|(key, _)| *key == wanted)
                .map(|(_, value)| *value)
        };
        if value(ID).is_some_and(|id| id != ID_V4) {
            return Err(Error::UnknownScheme);
        }
        let public_key = PublicKey::from_sec1(value(SECP256K1).ok_or(Error::NoPublicKey)?)
            .map_err(Error::PublicKey)?;
        let signature: [u8; 64] = (*signature)
            .try_into()
            .map_err(|_| Error::SignatureLength {
                len: signature.len(),
            })?;
        public_key
            .verify64(&keccak256(&encode_list(content)), &signature)
            .map_err(Error::Signature)?;

        Ok(Self {
            text: text.to_owned(),
            public_key,
            signature,
            ip4: value(IP)
                .and_then(|ip| <[u8; 4]>::try_from(ip).ok())
                .map(Ipv4Addr::from),
            tcp: value(TCP).and_then(port),
            udp: value(UDP).and_then(port),
        })
    }

    /// The record's text: as it was parsed, or as this crate writes it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whose record it is. Two records with one key are the same peer.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// `R ‖ S` over the content.
    #[must_use]
    pub fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    /// The IPv4 address; `None` also for an entry of another length. Of use in relay records only.
    #[must_use]
    pub fn ip4(&self) -> Option<Ipv4Addr> {
        self.ip4
    }

    /// The TCP port; `None` also for an entry that is no port.
    #[must_use]
    pub fn tcp(&self) -> Option<u16> {
        self.tcp
    }

    /// The UDP (QUIC) port; `None` also for an entry that is no port.
    #[must_use]
    pub fn udp(&self) -> Option<u16> {
        self.udp
    }

    fn build(key: &SecretKey, address: Option<(Ipv4Addr, Option<u16>, Option<u16>)>) -> Self {
        let public_key = key.public_key();
        let point = public_key.to_bytes();
        let address_bytes = address.map(|(ip4, tcp, udp)| {
            (
                ip4.octets(),
                tcp.map(u16::to_be_bytes),
                udp.map(u16::to_be_bytes),
            )
        });

        // Keys in byte order; `seq` is zero, which RLP writes as the empty string.
        let mut content: Vec<&[u8]> = vec![&[], ID, ID_V4];
        if let Some((ip4, ..)) = &address_bytes {
            content.extend([IP, ip4]);
        }
        content.extend([SECP256K1, &point]);
        if let Some((_, tcp, udp)) = &address_bytes {
            for (key, port) in [(TCP, tcp), (UDP, udp)] {
                if let Some(port) = port {
                    content.extend([key, without_leading_zeros(port)]);
                }
            }
        }

        let [signature @ .., _v] = key.sign(&keccak256(&encode_list(&content)));
        content.insert(0, &signature);
        let text = format!("{PREFIX}{}", BASE64.encode(encode_list(&content)));
        Self {
            text,
            public_key,
            signature,
            ip4: address.map(|(ip4, ..)| ip4),
            tcp: address.and_then(|(_, tcp, _)| tcp),
            udp: address.and_then(|(.., udp)| udp),
        }
    }
}

impl FromStr for Enr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for Enr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Enr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Enr({self})")
    }
}

/// The elements of the list at the start of `raw`; what follows the list is ignored.
fn decode_list(raw: &[u8]) -> Result<Vec<&[u8]>> {
    let Some((Item::List(mut payload), _)) = decode_item(raw) else {
        return Err(Error::NotRlp);
    };
    let mut elements = Vec::new();
    while !payload.is_empty() {
        let Some((Item::Bytes(element), rest)) = decode_item(payload) else {
            return Err(Error::NotRlp);
        };
        elements.push(element);
        payload = rest;
    }
    Ok(elements)
}

/// What stands at the start of RLP.
enum Item<'a> {
    Bytes(&'a [u8]),
    List(&'a [u8]),
}

/// The first item, and what follows it. Lengths need not be written in the shortest way, which Charon
/// does not ask for either (spec cluster, section 10.3), and which `alloy_rlp` insists on.
fn decode_item(raw: &[u8]) -> Option<(Item<'_>, &[u8])> {
    let (&first, after) = raw.split_first()?;
    let (is_list, length_bytes, short) = match first {
        ..=0x7f => {
            return raw
                .split_at_checked(1)
                .map(|(byte, rest)| (Item::Bytes(byte), rest));
        }
        0x80..=0xb7 => (false, 0, first - 0x80),
        0xb8..=0xbf => (false, first - 0xb7, 0),
        0xc0..=0xf7 => (true, 0, first - 0xc0),
        0xf8.. => (true, first - 0xf7, 0),
    };
    let (digits, after) = after.split_at_checked(length_bytes.into())?;
    let long = digits.iter().try_fold(0_usize, |length, digit| {
        length.checked_mul(256)?.checked_add(usize::from(*digit))
    })?;
    let (payload, rest) = after.split_at_checked(long.checked_add(short.into())?)?;
    let item = if is_list {
        Item::List(payload)
    } else {
        Item::Bytes(payload)
    };
    Some((item, rest))
}

fn encode_list(elements: &[&[u8]]) -> Vec<u8> {
    let mut payload = Vec::new();
    for element in elements {
        element.encode(&mut payload);
    }
    let mut out = Vec::with_capacity(payload.len() + 9);
    Header {
        list: true,
        payload_length: payload.len(),
    }
    .encode(&mut out);
    out.extend_from_slice(&payload);
    out
}

fn keccak256(data: &[u8]) -> [u8; 32] {
    Keccak256::digest(data).into()
}

fn without_leading_zeros(port: &[u8; 2]) -> &[u8] {
    match port {
        [0, 0] => &[],
        [0, _] => &port[1..],
        _ => port,
    }
}

fn port(value: &[u8]) -> Option<u16> {
    match value {
        [low] => Some(u16::from(*low)),
        [high, low] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(raw: &[u8]) -> String {
        format!("{PREFIX}{}", BASE64.encode(raw))
    }

    #[test]
    fn lengths_that_are_not_in_their_shortest_form_are_read() {
        let key = SecretKey::from_bytes(&[1; 32]).unwrap();
        let minimal = BASE64
            .decode(&Enr::for_key(&key).text()[PREFIX.len()..])
            .unwrap();
        // A list and a signature, each of one byte of length.
        assert_eq!((minimal[0], minimal[2], minimal[3]), (0xf8, 0xb8, 64));
        let payload = &minimal[4..];
        let list = [&[0xf9, 0, minimal[1]], &minimal[2..]].concat();
        let both = [&[0xfa, 0, 0, minimal[1] + 1, 0xb9, 0, 64], payload].concat();
        for raw in [list, both] {
            let enr = Enr::parse(&text(&raw)).unwrap();
            assert_eq!(*enr.public_key(), key.public_key());
        }
    }

    #[test]
    fn what_is_no_list_of_byte_strings_is_refused() {
        for raw in [
            &[][..],
            &[0x80],
            &[0xc1],
            &[0xc1, 0xc0],
            &[0xf8],
            &[0xff; 9],
            &[0xc2, 0x82, 1],
        ] {
            assert_eq!(Enr::parse(&text(raw)), Err(Error::NotRlp), "{raw:?}");
        }
        let empty = Error::ElementCount { count: 0 };
        assert_eq!(Enr::parse(&text(&[0xc0, 7])), Err(empty));
    }
}
