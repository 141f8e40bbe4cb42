//! Messages and frames as bytes.
//!
//! Spec: dkg, sections 2.2 and 2.3; p2p, section 4.2. A frame is a signed 64-bit little-endian length and
//! the message, written in one piece: Charon reads the body with a single call.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, io::Cursor};
use libp2p::PeerId;
use pluto_crypto::k1;
use pluto_p2p::proto::{self, read_fixed_size_protobuf_with_max_size};
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::{core::Tell, reason::SignatureFault};
use crate::pb::{MsgSync, MsgSyncResponse};

/// The longest frame that is read. Charon would read 32 MiB; what it writes is below 1 KiB.
pub(crate) const MAX_FRAME: usize = 16 << 10;
/// How long a frame may take once it has begun; it fits in one packet.
pub(crate) const FRAME_TIMEOUT: Duration = Duration::from_secs(5);

/// What is the same in all messages of a ceremony.
#[derive(Debug, Clone)]
pub(crate) struct Fixed {
    pub(crate) signature: Bytes,
    pub(crate) nickname: String,
}

impl Fixed {
    pub(crate) fn message(&self, tell: &Tell, version: &str, now: SystemTime) -> MsgSync {
        MsgSync {
            timestamp: Some(timestamp(now)),
            hash_signature: self.signature.clone(),
            shutdown: tell.shutdown,
            version: version.to_owned(),
            step: i64::from(tell.step.0),
            nickname: self.nickname.clone(),
        }
    }
}

/// The answer to a message.
pub(crate) fn response(to: &MsgSync, error: String) -> MsgSyncResponse {
    MsgSyncResponse {
        sync_timestamp: to.timestamp,
        error,
    }
}

fn timestamp(now: SystemTime) -> prost_types::Timestamp {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        // Below a thousand million.
        nanos: since.subsec_nanos() as i32,
    }
}

/// A frame. A message that encodes to nothing has the length zero, as Charon answers one that has no
/// timestamp.
pub(crate) fn frame<M: Message>(message: &M) -> Vec<u8> {
    let len = message.encoded_len();
    let mut bytes = Vec::with_capacity(8 + len);
    bytes.extend_from_slice(&(len as u64).to_le_bytes());
    message.encode_raw(&mut bytes);
    bytes
}

/// Reads one frame. `idle` bounds the wait for its first byte, [`FRAME_TIMEOUT`] the rest.
pub(crate) async fn read<M: Message + Default>(
    io: &mut (impl AsyncRead + Unpin),
    idle: Duration,
) -> Result<M, proto::Error> {
    let mut first = [0];
    let read = timeout(idle, io.read(&mut first))
        .await
        .map_err(|_| proto::Error::TimedOut { limit: idle })??;
    if read == 0 {
        return Err(proto::Error::Empty);
    }
    let mut rest = Cursor::new(first).chain(io);
    read_fixed_size_protobuf_with_max_size(&mut rest, MAX_FRAME, FRAME_TIMEOUT).await
}

/// Checks that an operator has signed this definition hash.
pub(crate) fn verify(
    peer: &PeerId,
    definition_hash: &[u8; 32],
    signature: &[u8],
) -> Result<(), SignatureFault> {
    let compact = from_der(signature)?;
    let key =
        k1::public_key_from_peer_id(&peer.to_bytes()).map_err(|_| SignatureFault::Mismatch)?;
    // libp2p hashes what it signs once more.
    let digest: [u8; 32] = Sha256::digest(definition_hash).into();
    key.verify64(&digest, &compact)
        .map_err(|_| SignatureFault::Mismatch)
}

/// Reads strict DER: a sequence of two positive integers in their shortest form, and nothing more.
fn from_der(der: &[u8]) -> Result<[u8; 64], SignatureFault> {
    let [tag, inside, rest @ ..] = der else {
        return Err(SignatureFault::TooShort { len: der.len() });
    };
    if der.len() < 8 {
        return Err(SignatureFault::TooShort { len: der.len() });
    }
    if *tag != 0x30 {
        return Err(SignatureFault::NotDer);
    }
    let inside = usize::from(*inside);
    if inside != rest.len() {
        return Err(SignatureFault::Length {
            inside,
            outside: rest.len(),
        });
    }
    let mut compact = [0; 64];
    let (r, s) = compact.split_at_mut(32);
    let rest = integer(rest, r)?;
    let rest = integer(rest, s)?;
    rest.is_empty()
        .then_some(compact)
        .ok_or(SignatureFault::NotDer)
}

fn integer<'a>(der: &'a [u8], into: &mut [u8]) -> Result<&'a [u8], SignatureFault> {
    let [0x02, len, rest @ ..] = der else {
        return Err(SignatureFault::NotDer);
    };
    let (digits, rest) = rest
        .split_at_checked(usize::from(*len))
        .ok_or(SignatureFault::NotDer)?;
    let digits = match digits {
        [] => return Err(SignatureFault::NotDer),
        [first, ..] if *first >= 0x80 => return Err(SignatureFault::NotDer),
        // A zero in front is there only where the number would look negative.
        [0, next, ..] if *next < 0x80 => return Err(SignatureFault::NotDer),
        [0, digits @ ..] | digits => digits,
    };
    let start = into
        .len()
        .checked_sub(digits.len())
        .ok_or(SignatureFault::NotDer)?;
    into[start..].copy_from_slice(digits);
    Ok(rest)
}
