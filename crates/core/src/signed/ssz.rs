//! Reads the SSZ layouts of signed objects. Little-endian; nothing is allocated.

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
    /// A list with more entries than it can have.
    #[error("`{field}` has {len} entries, more than {max}")]
    TooMany {
        /// The field.
        field: &'static str,
        /// Its entries.
        len: usize,
        /// The most entries.
        max: usize,
    },
    /// A list that does not end where an entry ends.
    #[error("`{field}` has {len} bytes, which are no whole number of entries")]
    Uneven {
        /// The field.
        field: &'static str,
        /// Its bytes.
        len: usize,
    },
}

/// Bytes of an offset.
const OFFSET: usize = 4;

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

    fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], SszError> {
        let (taken, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(SszError::Short { field })?;
        self.0 = rest;
        Ok(taken)
    }

    fn place(&mut self, field: &'static str) -> Result<Place, SszError> {
        let offset = self.u32(field)?;
        Ok(Place { field, offset })
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

/// Where something of variable size begins.
#[derive(Clone, Copy)]
struct Place {
    field: &'static str,
    offset: u32,
}

impl Place {
    /// As an index.
    fn at(self) -> usize {
        // Beyond the address space is beyond every slice.
        usize::try_from(self.offset).unwrap_or(usize::MAX)
    }

    const fn wrong(self) -> SszError {
        let Self { field, offset } = self;
        SszError::Offset { field, offset }
    }
}

/// Bytes of a container whose fields have these sizes; `None` if one of them varies.
pub(crate) const fn total(sizes: &[Option<usize>]) -> Option<usize> {
    let mut sum = 0;
    let mut at = 0;
    while at < sizes.len() {
        match sizes[at] {
            Some(size) => sum += size,
            None => return None,
        }
        at += 1;
    }
    Some(sum)
}

/// Splits a container into its fields, each with its name and, unless it varies, its size.
///
/// The offsets leave no choice: the first varying field begins behind the fixed part, each further
/// one where the one before it ends, the last one ends with `bytes`.
pub(crate) fn split<'a, const N: usize>(
    bytes: &'a [u8],
    fields: [(&'static str, Option<usize>); N],
) -> Result<[&'a [u8]; N], SszError> {
    let fixed: usize = fields.iter().map(|(_, size)| size.unwrap_or(OFFSET)).sum();
    let mut parts = [&[][..]; N];
    let mut reader = Reader::new(bytes);
    let mut open: Option<(usize, Place)> = None;
    for (index, (field, size)) in fields.into_iter().enumerate() {
        if let Some(size) = size {
            parts[index] = reader.take(size, field)?;
            continue;
        }
        let place = reader.place(field)?;
        match open.replace((index, place)) {
            None if place.at() != fixed => return Err(place.wrong()),
            None => (),
            Some((before, from)) => {
                parts[before] = bytes.get(from.at()..place.at()).ok_or(place.wrong())?;
            }
        }
    }
    match open {
        None => reader.end()?,
        Some((last, from)) => parts[last] = bytes.get(from.at()..).ok_or(from.wrong())?,
    }
    Ok(parts)
}

/// The entries of a list, whose number is checked before the first is given.
pub(crate) fn entries<'a>(
    bytes: &'a [u8],
    size: Option<usize>,
    field: &'static str,
    max: usize,
) -> Result<impl Iterator<Item = Result<&'a [u8], SszError>>, SszError> {
    // Offsets fill what is before the first entry; a fixed size fills all.
    let (step, filled) = match size {
        Some(size) => (size, bytes.len()),
        None if bytes.is_empty() => (OFFSET, 0),
        None => {
            let first = Reader::new(bytes).place(field)?;
            if first.at() == 0 || first.at() > bytes.len() {
                return Err(first.wrong());
            }
            (OFFSET, first.at())
        }
    };
    if !filled.is_multiple_of(step) {
        return Err(uneven(bytes, field));
    }
    let len = filled / step;
    check_len(len, field, max)?;
    Ok((0..len).map(move |index| {
        let mut reader = Reader::new(&bytes[index * step..]);
        if size.is_some() {
            return reader.take(step, field);
        }
        let from = reader.place(field)?;
        if index + 1 == len {
            bytes.get(from.at()..).ok_or(from.wrong())
        } else {
            let to = reader.place(field)?;
            bytes.get(from.at()..to.at()).ok_or(to.wrong())
        }
    }))
}

/// What stands behind a header that ends with an offset; senders may leave a gap.
pub(crate) fn behind<'a>(
    bytes: &'a [u8],
    reader: &mut Reader<'_>,
    field: &'static str,
    header: usize,
) -> Result<&'a [u8], SszError> {
    let place = reader.place(field)?;
    if place.at() < header {
        return Err(place.wrong());
    }
    bytes.get(place.at()..).ok_or(place.wrong())
}

pub(crate) const fn check_len(len: usize, field: &'static str, max: usize) -> Result<(), SszError> {
    if len > max {
        return Err(SszError::TooMany { field, len, max });
    }
    Ok(())
}

pub(crate) const fn uneven(bytes: &[u8], field: &'static str) -> SszError {
    let len = bytes.len();
    SszError::Uneven { field, len }
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
