//! Files: read with a bound, and written whole or not at all.
//!
//! Spec: cluster, sections 6.3 and 11.3 (modes).
//!
//! - **Restart:** a file appears whole, with its mode, or not at all, as all of [`pluto_crypto::disk`].
//! - **Races:** of several writers exactly one wins; the others get [`WriteError::Exists`]. Nothing
//!   that is there is ever replaced.

use std::{
    io,
    path::{Path, PathBuf},
};

use pluto_crypto::disk;
use zeroize::Zeroizing;

use crate::error::{FieldError, HashErrors, ParseProblem, ReadError};

/// Who may read a file that is written; nobody may change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileMode {
    /// Mode 0400, as the locks of `create cluster`.
    Owner,
    /// Mode 0444, as definitions and the locks of ceremonies.
    Everyone,
}

impl FileMode {
    const fn bits(self) -> u32 {
        match self {
            Self::Owner => 0o400,
            Self::Everyone => 0o444,
        }
    }
}

/// Why a file was not written. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// There is something at the path, and it was not touched.
    #[error("{} exists and is never overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot write {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing that could be written.
    #[error("cannot write {}", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// Why.
        source: HashErrors,
    },
}

/// The content of a file of at most `max` bytes.
pub(crate) fn read(path: &Path, max: u64) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let io_error = |source| ReadError::Io {
        path: path.to_owned(),
        source,
    };
    let too_large = || ReadError::Parse {
        path: path.to_owned(),
        source: FieldError {
            path: String::new(),
            problem: ParseProblem::TooLarge { max },
        },
    };
    let limit = usize::try_from(max).unwrap_or(usize::MAX - 1);
    disk::read(path, limit).map_err(|error| match error {
        disk::ReadError::Io(source) => io_error(source),
        disk::ReadError::TooLong { .. } => too_large(),
        other => io_error(io::Error::new(io::ErrorKind::InvalidInput, other)),
    })
}

/// Writes what could be encoded, where nothing is yet. The folder must exist.
pub(crate) fn create(
    path: &Path,
    content: Result<Vec<u8>, HashErrors>,
    mode: FileMode,
) -> Result<(), WriteError> {
    let path_buf = || path.to_owned();
    let content = content.map_err(|source| WriteError::Hash {
        path: path_buf(),
        source,
    })?;
    disk::create(path, &content, mode.bits()).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => WriteError::Exists { path: path_buf() },
        _ => WriteError::Io {
            path: path_buf(),
            source,
        },
    })
}
