//! What a broadcast looks like on the wire, in both generations.
//!
//! Spec: dkg, sections 3.1 to 3.4 and appendix B. The messages are the same in both; the ids and the
//! hash that is signed differ. Everything is hashed as it was received, never encoded anew.

use bytes::Bytes;
use libp2p::StreamProtocol;
use pluto_crypto::k1;
use pluto_p2p::proto::Frame;
use prost::Message;
use prost_types::Any;
use sha2::{Digest as _, Sha256};

use super::{MessageId, Refusal};
use crate::pb;

/// `R ‖ S ‖ V`.
pub type Signature = [u8; 65];
/// What is signed, and what a statement is known by.
pub type Digest = [u8; 32];

/// Before the name of a message in its type URL; what Charon writes.
const TYPE_URL_PREFIX: &str = "type.googleapis.com/";

/// A version of the protocol. Ordered: the newer is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Generation {
    /// 1.0.0: Charon up to v1.11.0-rc2. What is signed does not bind session or message id.
    V1,
    /// 2.0.0: Charon from v1.11.0-rc3 on.
    V2,
}

impl Generation {
    /// All, newest first.
    pub const ALL: [Self; 2] = [Self::V2, Self::V1];

    /// The protocol on which signatures are collected.
    #[must_use]
    pub const fn sig(self) -> StreamProtocol {
        StreamProtocol::new(match self {
            Self::V1 => "/charon/dkg/bcast/1.0.0/sig",
            Self::V2 => "/charon/dkg/bcast/2.0.0/sig",
        })
    }

    /// The protocol on which messages are delivered.
    #[must_use]
    pub const fn msg(self) -> StreamProtocol {
        StreamProtocol::new(match self {
            Self::V1 => "/charon/dkg/bcast/1.0.0/msg",
            Self::V2 => "/charon/dkg/bcast/2.0.0/msg",
        })
    }

    /// The generation of one of these ids.
    pub(super) fn of(id: &StreamProtocol) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|generation| *id == generation.sig() || *id == generation.msg())
    }

    /// Those that somebody with this list of protocols serves, newest first.
    #[must_use]
    pub fn served(protocols: &[StreamProtocol]) -> Vec<Self> {
        let serves = |id| protocols.contains(&id);
        Self::ALL
            .into_iter()
            .filter(|generation| serves(generation.sig()) && serves(generation.msg()))
            .collect()
    }

    /// What is signed.
    #[must_use]
    pub fn hash(self, session: &[u8], id: &str, type_url: &str, value: &[u8]) -> Digest {
        let mut hash = Sha256::new();
        match self {
            Self::V1 => {
                hash.update(type_url);
                hash.update(value);
            }
            Self::V2 => {
                for part in [session, id.as_bytes(), type_url.as_bytes(), value] {
                    hash.update((part.len() as u64).to_be_bytes());
                    hash.update(part);
                }
            }
        }
        hash.finalize().into()
    }
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V1 => "1.0.0",
            Self::V2 => "2.0.0",
        })
    }
}

/// The only type URL that a message of this full name may have. That the whole of it counts, and
/// not only what follows its last slash, fixes where URL and value meet in the hash of 1.0.0.
pub(super) fn type_url(full_name: &str) -> String {
    format!("{TYPE_URL_PREFIX}{full_name}")
}

/// Asks for a signature.
pub(super) fn sig_request(id: MessageId, any: &Any) -> Frame {
    Frame::encode(&pb::BCastSigRequest {
        id: id.to_owned(),
        message: Some(any.clone()),
    })
}

/// Gives one.
pub(super) fn sig_response(id: MessageId, signature: Signature) -> Frame {
    Frame::encode(&pb::BCastSigResponse {
        id: id.to_owned(),
        signature: Bytes::copy_from_slice(&signature),
    })
}

/// Delivers a message with the signatures of all.
pub(super) fn delivery(id: MessageId, any: Any, signatures: &[Signature]) -> Frame {
    let signatures = signatures.iter();
    Frame::encode(&pb::BCastMessage {
        id: id.to_owned(),
        message: Some(any),
        signatures: signatures.map(|it| Bytes::copy_from_slice(it)).collect(),
    })
}

/// Confirms a delivery: a message without a field.
pub(super) fn confirmation() -> Frame {
    Frame::from_body(&[])
}

/// What was asked to be signed, or delivered with its signatures.
pub(super) struct Received {
    pub(super) id: String,
    pub(super) any: Any,
    pub(super) signatures: Vec<Bytes>,
}

pub(super) fn read_sig_request(body: Bytes) -> Result<Received, Refusal> {
    let message = pb::BCastSigRequest::decode(body)?;
    Ok(Received {
        id: message.id,
        any: message.message.ok_or(Refusal::NoMessage)?,
        signatures: Vec::new(),
    })
}

pub(super) fn read_delivery(body: Bytes) -> Result<Received, Refusal> {
    let message = pb::BCastMessage::decode(body)?;
    Ok(Received {
        id: message.id,
        any: message.message.ok_or(Refusal::NoMessage)?,
        signatures: message.signatures,
    })
}

/// Why a signature is none of the peer it should be of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// Not 65 bytes.
    #[error("the signature has {len} bytes instead of 65")]
    Length {
        /// What it has.
        len: usize,
    },
    /// Not by this key over this message, in this session.
    #[error("the signature is not of this peer over this message")]
    Key(#[from] k1::Error),
}

/// Checks one signature.
pub(crate) fn verify(
    key: &k1::PublicKey,
    digest: &Digest,
    signature: &[u8],
) -> Result<Signature, SignatureError> {
    let signature: Signature = signature.try_into().map_err(|_| SignatureError::Length {
        len: signature.len(),
    })?;
    key.verify65(digest, &signature)?;
    Ok(signature)
}
