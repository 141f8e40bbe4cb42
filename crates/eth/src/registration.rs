//! Registrations of validators with block builders, signed once when a cluster is made.
//!
//! Spec: cluster, section 8. A lock holds one for each validator, with numbers as numbers; the file
//! of overrides, which is here, holds them as the beacon API does, with numbers in quotes.
//!
//! - **Bounds:** [`MAX_OVERRIDES_BYTES`] for the file.
//! - **Restart:** the file is replaced whole or not at all.

use std::path::{Path, PathBuf};

use pluto_crypto::bls::{self, PublicKey, SecretKey, Signature};
use serde::Serialize;

use crate::{
    address::Address,
    files,
    json::{self, Field},
    network::ForkVersion,
    signing::{self, DomainKind},
    ssz,
};

/// The gas limit of new definitions: Charon's default of `--target-gas-limit`.
pub const DEFAULT_GAS_LIMIT: u64 = 60_000_000;

/// The gas limit for a definition that has none, as those before v1.10 (cluster spec, section 8).
pub const FALLBACK_GAS_LIMIT: u64 = 30_000_000;

/// Name of the file of overrides in a data directory.
pub const OVERRIDES_FILE_NAME: &str = "builder_registrations_overrides.json";

/// Longest file of overrides that is read: 65,536 validators with 0.6 KiB each, and room.
pub const MAX_OVERRIDES_BYTES: usize = 64 << 20;

const OVERRIDES_MODE: u32 = 0o644;

/// What is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Who receives the fees of the validator's blocks.
    pub fee_recipient: Address,
    /// The gas limit that the validator votes for.
    pub gas_limit: u64,
    /// In seconds since 1970; the later registration counts.
    pub timestamp: u64,
    /// The validator's key.
    pub public_key: [u8; 48],
}

impl Message {
    /// The hash tree root.
    #[must_use]
    pub fn root(&self) -> [u8; 32] {
        ssz::container(&[
            ssz::vector(&self.fee_recipient.0),
            ssz::uint64(self.gas_limit),
            ssz::uint64(self.timestamp),
            ssz::vector(&self.public_key),
        ])
    }

    /// What the validator's key signs on the network of this genesis fork version.
    #[must_use]
    pub fn signing_root(&self, genesis_version: ForkVersion) -> [u8; 32] {
        let domain = signing::domain(DomainKind::ApplicationBuilder, genesis_version);
        signing::signing_root(self.root(), domain)
    }

    /// Signs with the whole key. That it is the one of `public_key` is the caller's to know.
    #[must_use]
    pub fn sign(self, secret: &SecretKey, genesis_version: ForkVersion) -> Registration {
        Registration {
            message: self,
            signature: secret.sign(&self.signing_root(genesis_version)).to_bytes(),
        }
    }
}

/// A signed registration. Whoever reads one from a file has to [`verify`](Self::verify) it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration {
    /// What is signed.
    pub message: Message,
    /// By the validator's key.
    pub signature: [u8; 96],
}

impl Registration {
    /// Checks the signature for the network of this genesis fork version.
    pub fn verify(&self, genesis_version: ForkVersion) -> Result<(), bls::Error> {
        let key = PublicKey::from_bytes(&self.message.public_key)?;
        let signature = Signature::from_bytes(&self.signature)?;
        bls::verify(
            &key,
            &self.message.signing_root(genesis_version),
            &signature,
        )
    }

    /// Whether this counts instead of `other`: it is for the same validator and strictly later.
    #[must_use]
    pub fn supersedes(&self, other: &Self) -> bool {
        self.message.public_key == other.message.public_key
            && self.message.timestamp > other.message.timestamp
    }
}

/// Why overrides were not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file itself.
    #[error(transparent)]
    File(#[from] files::Error),
    /// Not a file of overrides.
    #[error("{} is not a file of builder registrations that can be read", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: json::Error,
    },
    /// A registration that its validator did not sign. No other of the file is used either.
    #[error("registration {at} in {}, for validator 0x{}, is not signed by it", path.display(), hex::encode(public_key))]
    BadSignature {
        /// The file.
        path: PathBuf,
        /// Its position, from 0.
        at: usize,
        /// The validator.
        public_key: [u8; 48],
        /// What is wrong.
        #[source]
        source: bls::Error,
    },
}

/// Reads a file of overrides and checks every signature. No file is no override.
pub fn read_overrides(
    path: impl AsRef<Path>,
    genesis_version: ForkVersion,
) -> Result<Vec<Registration>, Error> {
    let path = path.as_ref();
    let text = match files::read(path, MAX_OVERRIDES_BYTES) {
        Ok(text) => text,
        Err(files::Error::Missing { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let overrides = parse_overrides(&text).map_err(|source| Error::Malformed {
        path: path.to_owned(),
        source,
    })?;
    for (at, registration) in overrides.iter().enumerate() {
        registration
            .verify(genesis_version)
            .map_err(|source| Error::BadSignature {
                path: path.to_owned(),
                at,
                public_key: registration.message.public_key,
                source,
            })?;
    }
    Ok(overrides)
}

/// Reads the JSON form; checks no signature.
pub fn parse_overrides(text: &[u8]) -> Result<Vec<Registration>, json::Error> {
    let value = json::parse(text)?;
    Field::root(&value)
        .elements()?
        .map(|entry| read_entry(&entry))
        .collect()
}

fn read_entry(entry: &Field<'_>) -> json::Result<Registration> {
    entry.get("version")?.must_be("v1")?;
    let signed = entry.get("v1")?;
    let message = signed.get("message")?;
    Ok(Registration {
        message: Message {
            fee_recipient: Address(message.get("fee_recipient")?.hex0x_array()?),
            gas_limit: message.get("gas_limit")?.quoted_u64()?,
            timestamp: message.get("timestamp")?.quoted_u64()?,
            public_key: message.get("pubkey")?.hex0x_array()?,
        },
        signature: signed.get("signature")?.hex0x_array()?,
    })
}

/// The text that Charon would write.
#[must_use]
pub fn overrides_to_json(overrides: &[Registration]) -> Vec<u8> {
    let entries: Vec<_> = overrides.iter().map(EntryJson::new).collect();
    json::to_vec(&entries, "  ")
}

/// Replaces the file of overrides.
pub fn write_overrides(path: impl AsRef<Path>, overrides: &[Registration]) -> Result<(), Error> {
    let text = overrides_to_json(overrides);
    Ok(files::replace(path.as_ref(), &text, OVERRIDES_MODE)?)
}

#[derive(Serialize)]
struct EntryJson {
    version: &'static str,
    v1: SignedJson,
}

#[derive(Serialize)]
struct SignedJson {
    message: MessageJson,
    signature: String,
}

#[derive(Serialize)]
struct MessageJson {
    fee_recipient: String,
    gas_limit: String,
    timestamp: String,
    pubkey: String,
}

impl EntryJson {
    fn new(registration: &Registration) -> Self {
        let message = &registration.message;
        let hex0x = |bytes: &[u8]| format!("0x{}", hex::encode(bytes));
        Self {
            version: "v1",
            v1: SignedJson {
                message: MessageJson {
                    fee_recipient: message.fee_recipient.to_string(),
                    gas_limit: message.gas_limit.to_string(),
                    timestamp: message.timestamp.to_string(),
                    pubkey: hex0x(&message.public_key),
                },
                signature: hex0x(&registration.signature),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;

    fn hex<const N: usize>(digits: &str) -> [u8; N] {
        hex::decode(digits).unwrap().try_into().unwrap()
    }

    /// Spec cluster, appendix A.6.
    fn message() -> Message {
        Message {
            fee_recipient: "0x000000000000000000000000000000000000dEaD"
                .parse()
                .unwrap(),
            gas_limit: 30_000_000,
            timestamp: 1_646_092_800,
            public_key: hex(
                "86966350b672bd502bfbdb37a6ea8a7392e8fb7f5ebb5c5e2055f4ee168ebfab\
                 0fef63084f28c9f62c3ba71f825e527e",
            ),
        }
    }

    #[test]
    fn roots_and_signature_are_those_of_the_specification() {
        let version = Network::HOODI.genesis_version();
        let message = message();
        let secret = SecretKey::from_bytes(&hex(
            "345768c0245f1dc702df9e50e811002f61ebb2680b3d5931527ef59f96cbaf9b",
        ))
        .unwrap();

        assert_eq!(
            hex::encode(message.root()),
            "2c231b16a80337212ab1decde301bdb4383e74c0bf2f3439cc82542bf0f90fdd"
        );
        assert_eq!(
            hex::encode(message.signing_root(version)),
            "69d1ac3e5fb328bcbb04afb78a30e21721e1ade1397d03299d21644f1fc48a3d"
        );
        let registration = message.sign(&secret, version);
        assert_eq!(
            hex::encode(registration.signature),
            "838c82166e22fc27998fee74319daf42545f9fd32ae0e5d69319c888739a2c81\
             7f82aab48f04f165e32304d2ab8d317c1318d6d907dbe6372417fcfc4e3f0b55\
             0c357d5087abda4b80c021a64d2463e43efb017eeb1cef0dd92e38770b9628a1"
        );
        // The message names another validator than the one that signs.
        assert_eq!(registration.verify(version), Err(bls::Error::BadSignature));
    }

    #[test]
    fn signature_holds_for_its_message_and_network_only() {
        let version = Network::HOODI.genesis_version();
        let secret = SecretKey::generate();
        let message = Message {
            public_key: secret.public_key().to_bytes(),
            ..message()
        };
        let registration = message.sign(&secret, version);

        assert_eq!(registration.verify(version), Ok(()));
        let other = Network::SEPOLIA.genesis_version();
        assert_eq!(registration.verify(other), Err(bls::Error::BadSignature));
        let changed = [
            Message {
                fee_recipient: Address::ZERO,
                ..message
            },
            Message {
                gas_limit: 1,
                ..message
            },
            Message {
                timestamp: 1,
                ..message
            },
        ];
        for message in changed {
            let changed = Registration {
                message,
                ..registration
            };
            assert_eq!(changed.verify(version), Err(bls::Error::BadSignature));
        }
    }

    #[test]
    fn only_a_later_registration_of_the_same_validator_supersedes() {
        let of = |timestamp, first| {
            let mut message = Message {
                timestamp,
                ..message()
            };
            message.public_key[0] = first;
            Registration {
                message,
                signature: [0; 96],
            }
        };

        assert!(of(2, 0).supersedes(&of(1, 0)));
        assert!(!of(1, 0).supersedes(&of(1, 0)));
        assert!(!of(0, 0).supersedes(&of(1, 0)));
        assert!(!of(2, 0).supersedes(&of(1, 1)));
    }
}
