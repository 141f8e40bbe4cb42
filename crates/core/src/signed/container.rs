//! Containers of the beacon chain's specification: read from SSZ or JSON, hashed.
//!
//! What repeats is hashed while it is read, and only its root is kept.
//!
//! - **Bounds:** each list by its limit in the specification (mainnet preset), checked before
//!   anything beyond it is hashed. Memory does not grow with the number of entries; JSON takes one
//!   byte string at a time. Hashing a transaction takes 26 steps more than its bytes, so that a
//!   payload of tiny ones costs most.

use std::{fmt, marker::PhantomData};

use serde::{Deserialize, Deserializer, de};

use super::{
    SszError,
    hash::{self, CHUNK, Tree},
    json::{Dec, Hex, HexVec, Wei},
    ssz::{check_bit_list, check_len, entries, uneven},
};

/// Read from SSZ.
pub(crate) trait Ssz: Sized {
    /// Bytes of all values; `None` if values differ in size and are found behind an offset.
    const SIZE: Option<usize>;

    /// Reads a value from all of `bytes`, whose number fits [`Self::SIZE`]. `field` is for errors.
    fn read(bytes: &[u8], field: &'static str) -> Result<Self, SszError>;
}

/// Has a hash tree root.
pub(crate) trait Root {
    fn root(&self) -> [u8; CHUNK];
}

/// A container: its fields in the order of the specification, each with the type that reads and
/// hashes it.
macro_rules! container {
    ($(#[$doc:meta])* $name:ident $(<$inner:ident>)? { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(serde::Deserialize)]
        pub(super) struct $name $(<$inner>)? {
            $(pub(super) $field: $type),*
        }

        impl $(<$inner: $crate::signed::container::Ssz>)? $crate::signed::container::Ssz
            for $name $(<$inner>)?
        {
            const SIZE: Option<usize> = $crate::signed::ssz::total(&[
                $(<$type as $crate::signed::container::Ssz>::SIZE),*
            ]);

            fn read(bytes: &[u8], _: &'static str) -> Result<Self, $crate::signed::SszError> {
                use $crate::signed::{container::Ssz, ssz::split};
                let [$($field),*] = split(bytes, [
                    $((stringify!($field), <$type as Ssz>::SIZE)),*
                ])?;
                Ok(Self {
                    $($field: Ssz::read($field, stringify!($field))?),*
                })
            }
        }

        impl $(<$inner: $crate::signed::container::Root>)? $crate::signed::container::Root
            for $name $(<$inner>)?
        {
            fn root(&self) -> [u8; 32] {
                $crate::signed::hash::container(&[$(self.$field.root()),*])
            }
        }
    };
}
pub(super) use container;

impl Ssz for Dec {
    const SIZE: Option<usize> = Some(8);

    fn read(bytes: &[u8], field: &'static str) -> Result<Self, SszError> {
        Hex::read(bytes, field).map(|Hex(bytes)| Self(u64::from_le_bytes(bytes)))
    }
}

impl Root for Dec {
    fn root(&self) -> [u8; CHUNK] {
        hash::u64(self.0)
    }
}

impl Ssz for Wei {
    const SIZE: Option<usize> = Some(32);

    fn read(bytes: &[u8], field: &'static str) -> Result<Self, SszError> {
        Hex::read(bytes, field).map(|Hex(bytes)| Self(bytes))
    }
}

impl Root for Wei {
    fn root(&self) -> [u8; CHUNK] {
        self.0
    }
}

impl<const N: usize> Ssz for Hex<N> {
    const SIZE: Option<usize> = Some(N);

    fn read(bytes: &[u8], field: &'static str) -> Result<Self, SszError> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| SszError::Short { field })
    }
}

impl<const N: usize> Root for Hex<N> {
    fn root(&self) -> [u8; CHUNK] {
        hash::vector(&self.0)
    }
}

/// The root of a list of at most `MAX` entries.
pub(super) struct List<T, const MAX: usize> {
    root: [u8; CHUNK],
    of: PhantomData<T>,
}

impl<T, const MAX: usize> Root for List<T, MAX> {
    fn root(&self) -> [u8; CHUNK] {
        self.root
    }
}

impl<T: Ssz + Root, const MAX: usize> Ssz for List<T, MAX> {
    const SIZE: Option<usize> = None;

    fn read(bytes: &[u8], field: &'static str) -> Result<Self, SszError> {
        let mut tree = Tree::new(MAX);
        let mut len = 0;
        for entry in entries(bytes, T::SIZE, field, MAX)? {
            tree.push(T::read(entry?, field)?.root());
            len += 1;
        }
        Ok(Self {
            root: tree.list_root(len),
            of: PhantomData,
        })
    }
}

impl<'de, T: Deserialize<'de> + Root, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut tree = Tree::new(MAX);
        let push = |entry: T| tree.push(entry.root());
        let len = from.deserialize_seq(Each::at_most(MAX, push))?;
        Ok(Self {
            root: tree.list_root(len),
            of: PhantomData,
        })
    }
}

/// The root of a vector of exactly `N` hashes.
pub(super) struct Hashes<const N: usize>([u8; CHUNK]);

impl<const N: usize> Root for Hashes<N> {
    fn root(&self) -> [u8; CHUNK] {
        self.0
    }
}

impl<const N: usize> Ssz for Hashes<N> {
    const SIZE: Option<usize> = Some(N * CHUNK);

    fn read(bytes: &[u8], _: &'static str) -> Result<Self, SszError> {
        Ok(Self(hash::vector(bytes)))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hashes<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut tree = Tree::new(N);
        let push = |Hex(hash): Hex<CHUNK>| tree.push(hash);
        match from.deserialize_seq(Each::at_most(N, push))? {
            len if len == N => Ok(Self(tree.root())),
            len => Err(de::Error::invalid_length(len, &"the vector's length")),
        }
    }
}

/// The root of a list of at most `MAX` numbers.
pub(super) struct Numbers<const MAX: usize>([u8; CHUNK]);

/// Bytes of a number.
const NUMBER: usize = 8;

impl<const MAX: usize> Root for Numbers<MAX> {
    fn root(&self) -> [u8; CHUNK] {
        self.0
    }
}

impl<const MAX: usize> Ssz for Numbers<MAX> {
    const SIZE: Option<usize> = None;

    fn read(bytes: &[u8], field: &'static str) -> Result<Self, SszError> {
        let len = bytes.len() / NUMBER;
        if !bytes.len().is_multiple_of(NUMBER) {
            return Err(uneven(bytes, field));
        }
        check_len(len, field, MAX)?;
        Ok(Self(hash::byte_list(bytes, len, MAX * NUMBER)))
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Numbers<MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut tree = Tree::new((MAX * NUMBER).div_ceil(CHUNK));
        let mut chunk = [0; CHUNK];
        let mut filled = 0;
        let push = |Dec(number)| {
            chunk[filled..filled + NUMBER].copy_from_slice(&number.to_le_bytes());
            filled += NUMBER;
            if filled == CHUNK {
                tree.push(std::mem::take(&mut chunk));
                filled = 0;
            }
        };
        let len = from.deserialize_seq(Each::at_most(MAX, push))?;
        if filled > 0 {
            tree.push(chunk);
        }
        Ok(Self(tree.list_root(len)))
    }
}

/// The root of a list of at most `MAX` bytes.
pub(super) struct Bytes<const MAX: usize>([u8; CHUNK]);

impl<const MAX: usize> Root for Bytes<MAX> {
    fn root(&self) -> [u8; CHUNK] {
        self.0
    }
}

impl<const MAX: usize> Ssz for Bytes<MAX> {
    const SIZE: Option<usize> = None;

    fn read(bytes: &[u8], field: &'static str) -> Result<Self, SszError> {
        check_len(bytes.len(), field, MAX)?;
        Ok(Self(hash::byte_list(bytes, bytes.len(), MAX)))
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Bytes<MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let HexVec(bytes) = HexVec::deserialize(from)?;
        Self::read(&bytes, "bytes").map_err(de::Error::custom)
    }
}

/// The root of a bit list of at most `MAX` bits.
pub(super) struct Bits<const MAX: usize>([u8; CHUNK]);

impl<const MAX: usize> Root for Bits<MAX> {
    fn root(&self) -> [u8; CHUNK] {
        self.0
    }
}

impl<const MAX: usize> Ssz for Bits<MAX> {
    const SIZE: Option<usize> = None;

    fn read(bytes: &[u8], field: &'static str) -> Result<Self, SszError> {
        check_bit_list(bytes, field, MAX)?;
        Ok(Self(hash::bit_list(bytes, MAX)))
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Bits<MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let HexVec(bytes) = HexVec::deserialize(from)?;
        Self::read(&bytes, "bits").map_err(de::Error::custom)
    }
}

/// A list of at most `MAX` byte strings of `SIZE` bytes that nothing signed depends on: checked for
/// its form, then dropped.
pub(super) struct Unsigned<const SIZE: usize, const MAX: usize>;

impl<const SIZE: usize, const MAX: usize> Ssz for Unsigned<SIZE, MAX> {
    const SIZE: Option<usize> = None;

    fn read(bytes: &[u8], field: &'static str) -> Result<Self, SszError> {
        entries(bytes, Some(SIZE), field, MAX).map(|_| Self)
    }
}

impl<'de, const SIZE: usize, const MAX: usize> Deserialize<'de> for Unsigned<SIZE, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(Each::at_most(MAX, |_: HexOf<SIZE>| ()))
            .map(|_| Self)
    }
}

/// `N` bytes in `0x` hex, not kept.
struct HexOf<const N: usize>;

impl<'de, const N: usize> Deserialize<'de> for HexOf<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor<const N: usize>;
        impl<const N: usize> de::Visitor<'_> for Visitor<N> {
            type Value = HexOf<N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{N} bytes in hex after `0x`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<HexOf<N>, E> {
                text.strip_prefix("0x")
                    .filter(|it| it.len() == 2 * N && it.bytes().all(|it| it.is_ascii_hexdigit()))
                    .map(|_| HexOf)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Other("text"), &self))
            }
        }
        from.deserialize_str(Visitor)
    }
}

/// Visits a sequence entry by entry and gives their number.
struct Each<T, F> {
    max: usize,
    visit: F,
    of: PhantomData<T>,
}

impl<T, F: FnMut(T)> Each<T, F> {
    const fn at_most(max: usize, visit: F) -> Self {
        Self {
            max,
            visit,
            of: PhantomData,
        }
    }
}

impl<'de, T: Deserialize<'de>, F: FnMut(T)> de::Visitor<'de> for Each<T, F> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} entries", self.max)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(mut self, mut seq: A) -> Result<usize, A::Error> {
        let mut len = 0;
        while let Some(entry) = seq.next_element()? {
            if len == self.max {
                return Err(de::Error::invalid_length(len + 1, &self));
            }
            (self.visit)(entry);
            len += 1;
        }
        Ok(len)
    }
}
