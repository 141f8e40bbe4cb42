//! Partial signatures and the message that carries them.
//!
//! Spec: duties, sections 2.1, 2.2, 2.5 and 3.3 (steps 1, 2 and 4).
//!
//! Decoding a [`ParSigEx`] checks everything but the signed objects themselves, whose bytes are
//! kept as received; [`SignedData::decode`](crate::signed::SignedData::decode) reads those.
//!
//! - **Bounds:** the frame bounds the bytes; [`MAX_SET_ENTRIES`] is checked before entries are built.

use std::collections::{BTreeMap, btree_map};

use bytes::{Buf, Bytes};
use prost::Message;

use crate::{Duty, DutyType, DutyTypeError, PubKey, PubKeyError, ShareIdx, pb};

/// Most partial signatures in one message: one for each validator that a cluster lock can hold
/// (cluster spec, section 11.4). A message with more cannot be honest.
///
/// Without it a frame of three-byte entries would take many times its size in memory.
pub const MAX_SET_ENTRIES: usize = 65_536;

/// One validator's data, signed with one key share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ParSignedData {
    /// The encoded object, its signature included, byte for byte as received.
    pub data: Bytes,
    /// A copy of the signature. Nothing may be concluded from it: peers need not fill it.
    pub signature: Bytes,
    /// The share that signed, as the sender claims.
    pub share_idx: ShareIdx,
}

/// Partial signatures for one duty, at most one for each validator; never empty, never more than
/// [`MAX_SET_ENTRIES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParSignedDataSet(BTreeMap<PubKey, ParSignedData>);

/// Why entries are no set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// No entry.
    #[error("set of partial signatures is empty")]
    Empty,
    /// More than [`MAX_SET_ENTRIES`].
    #[error("set has more than {MAX_SET_ENTRIES} partial signatures")]
    TooMany,
    /// One validator twice.
    #[error("set has validator {pubkey} twice")]
    Duplicate {
        /// The validator.
        pubkey: PubKey,
    },
}

impl ParSignedDataSet {
    /// A set of one.
    #[must_use]
    pub fn one(pubkey: PubKey, data: ParSignedData) -> Self {
        Self(BTreeMap::from([(pubkey, data)]))
    }

    /// A set of all `entries`.
    pub fn from_entries(
        entries: impl IntoIterator<Item = (PubKey, ParSignedData)>,
    ) -> Result<Self, SetError> {
        let mut set = BTreeMap::new();
        for (pubkey, data) in entries {
            if set.insert(pubkey, data).is_some() {
                return Err(SetError::Duplicate { pubkey });
            }
            if set.len() > MAX_SET_ENTRIES {
                return Err(SetError::TooMany);
            }
        }
        if set.is_empty() {
            return Err(SetError::Empty);
        }
        Ok(Self(set))
    }

    /// The entry of one validator.
    #[must_use]
    pub fn get(&self, pubkey: &PubKey) -> Option<&ParSignedData> {
        self.0.get(pubkey)
    }

    /// All entries, by public key.
    pub fn iter(&self) -> btree_map::Iter<'_, PubKey, ParSignedData> {
        self.0.iter()
    }

    /// How many entries; at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a set is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The generated form.
    #[must_use]
    pub fn to_pb(&self) -> pb::ParSignedDataSet {
        let set = self.iter().map(|(pubkey, item)| {
            let item = pb::ParSignedData {
                data: item.data.clone(),
                signature: item.signature.clone(),
                share_idx: share_code(item.share_idx),
            };
            (pubkey.to_string(), item)
        });
        pb::ParSignedDataSet { set: set.collect() }
    }

    fn from_pb(set: pb::ParSignedDataSet) -> Result<Self, DecodeError> {
        let entries = set.set.into_iter().enumerate().map(|(entry, (key, item))| {
            let pubkey = key
                .parse()
                .map_err(|source| DecodeError::Key { entry, source })?;
            let share_idx = u32::try_from(item.share_idx)
                .ok()
                .and_then(ShareIdx::new)
                .ok_or(DecodeError::ShareIdx {
                    pubkey,
                    share_idx: item.share_idx,
                })?;
            let item = ParSignedData {
                data: item.data,
                signature: item.signature,
                share_idx,
            };
            Ok((pubkey, item))
        });
        let entries = entries.collect::<Result<Vec<_>, DecodeError>>()?;
        Ok(Self::from_entries(entries)?)
    }
}

impl IntoIterator for ParSignedDataSet {
    type Item = (PubKey, ParSignedData);
    type IntoIter = btree_map::IntoIter<PubKey, ParSignedData>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a ParSignedDataSet {
    type Item = (&'a PubKey, &'a ParSignedData);
    type IntoIter = btree_map::Iter<'a, PubKey, ParSignedData>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The message of the partial-signature exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParSigEx {
    /// The duty of all entries. Not covered by any signature.
    pub duty: Duty,
    /// The partial signatures.
    pub set: ParSignedDataSet,
}

/// Why a message was refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not the protobuf encoding of a message.
    #[error("message is not valid protobuf")]
    Protobuf(#[source] prost::DecodeError),
    /// A message field that must be present is not.
    #[error("message has no `{field}`")]
    Missing {
        /// Its protobuf name.
        field: &'static str,
    },
    /// The duty's type has no meaning.
    #[error("duty is of no known type")]
    DutyType(#[from] DutyTypeError),
    /// The duty's type has no partial signatures.
    #[error("duty type {kind} has no partial signatures")]
    NotSigned {
        /// The type.
        kind: DutyType,
    },
    /// The entries are no set.
    #[error("partial signatures are no set")]
    Set(#[from] SetError),
    /// An entry's key names no validator.
    #[error("key of entry {entry} (in the order of the keys, from 0) is no public key")]
    Key {
        /// Its position in the order of the keys.
        entry: usize,
        /// What is wrong with the key.
        source: PubKeyError,
    },
    /// A share index that is not positive.
    #[error("entry of validator {pubkey} has share index {share_idx}")]
    ShareIdx {
        /// The validator.
        pubkey: PubKey,
        /// The number.
        share_idx: i32,
    },
}

impl ParSigEx {
    /// Reads one message. The result shares no memory with `bytes`, so that one entry kept for a
    /// long time does not hold a whole frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        check_entry_count(bytes)?;
        let message = pb::ParSigExMsg::decode(bytes).map_err(DecodeError::Protobuf)?;
        let duty = message.duty.ok_or(DecodeError::Missing { field: "duty" })?;
        let set = message
            .data_set
            .ok_or(DecodeError::Missing { field: "data_set" })?;
        let kind = DutyType::try_from(duty.r#type)?;
        if !kind.is_signed() {
            return Err(DecodeError::NotSigned { kind });
        }
        Ok(Self {
            duty: Duty::new(duty.slot, kind),
            set: ParSignedDataSet::from_pb(set)?,
        })
    }

    /// The generated form.
    #[must_use]
    pub fn to_pb(&self) -> pb::ParSigExMsg {
        pb::ParSigExMsg {
            duty: Some(pb::Duty {
                slot: self.duty.slot.0,
                r#type: self.duty.kind.code(),
            }),
            data_set: Some(self.set.to_pb()),
        }
    }

    /// The message without a length prefix, entries by public key. Encode once and share.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        self.to_pb().encode_to_vec().into()
    }
}

/// Indices beyond `i32` cannot be received; no cluster has so many operators.
fn share_code(idx: ShareIdx) -> i32 {
    i32::try_from(idx.get()).expect("share indices are bounded by the operators of a cluster")
}

/// Counts the entries on the wire, before any is built. What is malformed is left to the decoder.
fn check_entry_count(message: &[u8]) -> Result<(), DecodeError> {
    let mut count = 0;
    for set in Submessages::of(message, 2) {
        for _ in Submessages::of(set, 1) {
            count += 1;
            if count > MAX_SET_ENTRIES {
                return Err(SetError::TooMany.into());
            }
        }
    }
    Ok(())
}

/// The length-delimited fields with one number, up to the first malformed field.
struct Submessages<'a> {
    rest: &'a [u8],
    number: u64,
}

impl<'a> Submessages<'a> {
    const fn of(message: &'a [u8], number: u64) -> Self {
        Self {
            rest: message,
            number,
        }
    }

    fn next_field(&mut self) -> Option<(u64, Option<&'a [u8]>)> {
        let key = varint(&mut self.rest)?;
        let payload = match key & 7 {
            0 => {
                varint(&mut self.rest)?;
                None
            }
            1 => {
                take(&mut self.rest, 8)?;
                None
            }
            2 => {
                let len = varint(&mut self.rest)?;
                Some(take(&mut self.rest, usize::try_from(len).ok()?)?)
            }
            // A group brackets the fields inside, which are none of ours.
            3 => {
                self.skip_group()?;
                None
            }
            5 => {
                take(&mut self.rest, 4)?;
                None
            }
            _ => return None,
        };
        Some((key >> 3, payload))
    }

    fn skip_group(&mut self) -> Option<()> {
        let mut depth = 1_u64;
        while depth > 0 {
            match varint(&mut self.rest)? & 7 {
                0 => {
                    varint(&mut self.rest)?;
                }
                1 => {
                    take(&mut self.rest, 8)?;
                }
                2 => {
                    let len = varint(&mut self.rest)?;
                    take(&mut self.rest, usize::try_from(len).ok()?)?;
                }
                3 => depth += 1,
                4 => depth -= 1,
                5 => {
                    take(&mut self.rest, 4)?;
                }
                _ => return None,
            }
        }
        Some(())
    }
}

impl<'a> Iterator for Submessages<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let (number, payload) = self.next_field()?;
            if let Some(payload) = payload.filter(|_| number == self.number) {
                return Some(payload);
            }
        }
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(rest).ok()
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let taken = rest.get(..len)?;
    rest.advance(len);
    Some(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item() -> ParSignedData {
        ParSignedData {
            data: Bytes::from_static(b"data"),
            signature: Bytes::new(),
            share_idx: ShareIdx::new(3).unwrap(),
        }
    }

    fn key(n: u32) -> PubKey {
        let mut bytes = [0; 48];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        PubKey::new(bytes)
    }

    fn message() -> ParSigEx {
        ParSigEx {
            duty: Duty::new(5, DutyType::Randao),
            set: ParSignedDataSet::from_entries([(key(1), item()), (key(2), item())]).unwrap(),
        }
    }

    fn refused(change: impl FnOnce(&mut pb::ParSigExMsg)) -> DecodeError {
        let mut message = message().to_pb();
        change(&mut message);
        ParSigEx::decode(&message.encode_to_vec()).unwrap_err()
    }

    #[test]
    fn message_round_trips() {
        let message = message();

        assert_eq!(ParSigEx::decode(&message.encode()).unwrap(), message);
    }

    #[test]
    fn absent_fields_are_named() {
        assert_eq!(
            refused(|m| m.duty = None),
            DecodeError::Missing { field: "duty" }
        );
        assert_eq!(
            refused(|m| m.data_set = None),
            DecodeError::Missing { field: "data_set" }
        );
    }

    #[test]
    fn duties_without_partial_signatures_are_refused() {
        for code in [5, 13] {
            let kind = DutyType::try_from(code).unwrap();
            let err = refused(|m| m.duty.as_mut().unwrap().r#type = code);
            assert_eq!(err, DecodeError::NotSigned { kind });
        }
        for code in [-1, 0, 14] {
            let err = refused(|m| m.duty.as_mut().unwrap().r#type = code);
            assert_eq!(err, DecodeError::DutyType(DutyTypeError { code }));
        }
    }

    #[test]
    fn share_index_must_be_positive() {
        for share_idx in [0, -1, i32::MIN] {
            let err = refused(|m| {
                let set = &mut m.data_set.as_mut().unwrap().set;
                set.get_mut(&key(2).to_string()).unwrap().share_idx = share_idx;
            });
            let pubkey = key(2);
            assert_eq!(err, DecodeError::ShareIdx { pubkey, share_idx });
        }
    }

    #[test]
    fn key_that_is_no_public_key_is_located() {
        let err = refused(|m| {
            let set = &mut m.data_set.as_mut().unwrap().set;
            set.insert("zz".into(), pb::ParSignedData::default());
        });

        let source = PubKeyError::Length { len: 2 };
        assert_eq!(err, DecodeError::Key { entry: 2, source });
    }

    #[test]
    fn set_is_neither_empty_nor_over_the_bound() {
        assert_eq!(
            refused(|m| m.data_set.as_mut().unwrap().set.clear()),
            DecodeError::Set(SetError::Empty)
        );

        let full = u32::try_from(MAX_SET_ENTRIES).unwrap();
        let entries = |n| (0..n).map(|i| (key(i), item()));
        let mut message = ParSigEx {
            duty: Duty::new(5, DutyType::Randao),
            set: ParSignedDataSet::from_entries(entries(full)).unwrap(),
        };
        assert!(ParSigEx::decode(&message.encode()).is_ok());
        assert_eq!(
            ParSignedDataSet::from_entries(entries(full + 1)),
            Err(SetError::TooMany)
        );
        message.set.0.insert(key(full), item());
        assert_eq!(
            ParSigEx::decode(&message.encode()),
            Err(DecodeError::Set(SetError::TooMany))
        );
    }

    #[test]
    fn one_validator_twice_is_refused() {
        let pubkey = key(1);
        let twice = [(pubkey, item()), (pubkey, item())];

        assert_eq!(
            ParSignedDataSet::from_entries(twice),
            Err(SetError::Duplicate { pubkey })
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = ParSigEx::decode(&bytes);
        }

        #[test]
        fn damaged_messages_never_panic(at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let mut bytes = message().encode().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = with;
            let _ = ParSigEx::decode(&bytes);
            let _ = ParSigEx::decode(&bytes[..at]);
        }
    }
}
