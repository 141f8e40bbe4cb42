//! Reads the fixed SSZ layouts of signed objects. Little-endian; no allocation before a check.

/// Why bytes are not the expected SSZ layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SszError {
    /// Ends inside a field.
    #[error("SSZ data ends inside `{field}`")]
    Short {
        /// The field.
        field: &'static str,
    },
    /// Goes on after the last field.
    #[error("SSZ data has {len} bytes after the last field")]
    Trailing {
        /// How many.
        len: usize,
    },
    /// An offset that points elsewhere than the layout says.
    #[error("SSZ offset of `{field}` is {offset}")]
    Offset {
        /// The field behind the offset.
        field: &'static str,
        /// The offset.
        offset: u32,
    },
    /// A fork that is not known.
    #[error("version {version} is not known")]
    Version {
        /// Its code.
        version: u64,
    },
    /// A bit list without its end marker, or with more bits than the list can have.
    #[error("`{field}` is no bit list of at most {max_bits} bits")]
    BitList {
        /// The field.
        field: &'static str,
        /// The most bits.
        max_bits: usize,
    },
}

/// What is left to read.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], SszError> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(SszError::Short { field })?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, SszError> {
        self.array(field).map(u64::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, SszError> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// Reads an offset that the layout leaves no choice about.
    pub(crate) fn offset(&mut self, field: &'static str, expected: u32) -> Result<(), SszError> {
        match self.u32(field)? {
            offset if offset == expected => Ok(()),
            offset => Err(SszError::Offset { field, offset }),
        }
    }

    pub(crate) const fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) const fn end(self) -> Result<(), SszError> {
        match self.0.len() {
            0 => Ok(()),
            len => Err(SszError::Trailing { len }),
        }
    }
}

/// Checks the end marker and the length of a bit list.
pub(crate) fn check_bit_list(
    bits: &[u8],
    field: &'static str,
    max_bits: usize,
) -> Result<(), SszError> {
    let bad = SszError::BitList { field, max_bits };
    let last = bits.last().copied().filter(|last| *last != 0).ok_or(bad)?;
    let len = (bits.len() - 1)
        .saturating_mul(8)
        .saturating_add(last.ilog2() as usize);
    if len > max_bits { Err(bad) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_list_length_is_the_position_of_its_marker() {
        for (bits, max_bits, ok) in [
            (&[][..], 8, false),
            (&[0], 8, false),
            (&[1, 0], 8, false),
            (&[1], 0, true),
            (&[0x80], 7, true),
            (&[0x80], 6, false),
            (&[0xff, 1], 8, true),
            (&[0xff, 2], 8, false),
        ] {
            assert_eq!(
                check_bit_list(bits, "bits", max_bits).is_ok(),
                ok,
                "{bits:?}"
            );
        }
    }
}
