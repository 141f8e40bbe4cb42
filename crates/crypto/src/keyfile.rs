//! The file that holds a node's identity key.
//!
//! Spec: p2p, section 1.1. The file is 64 hex characters, mode 0600; parents are made with 0755.
//!
//! Charon takes any failure to load for "no key yet" and writes a new key over the old one (W-1), and
//! takes hex of any length (W-2). Here each cause is its own error, a key has exactly 32 bytes, and
//! nothing ever replaces a file that exists.
//!
//! - **Bounds:** at most [`MAX_FILE_BYTES`] are read.
//! - **Restart:** the file appears whole or not at all, as all of [`disk`].
//! - **Races:** of several creators exactly one wins; the others get [`Error::Exists`].

use std::{
    fs::DirBuilder,
    io,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::{
    disk::{self, ReadError},
    k1::SecretKey,
};

/// Name of the key file in a data directory.
pub const FILE_NAME: &str = "charon-enr-private-key";

/// Longest file that is read. A key has 64 characters; the rest is room for white space, so that a
/// wrong path to something large costs nothing.
pub const MAX_FILE_BYTES: usize = 4096;

const KEY_HEX_DIGITS: usize = 64;

const MODE: u32 = 0o600;

/// The result of the operations here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a key file was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no file.
    #[error("no private key at {}; create one with `pluto create enr`, or restore your backup", path.display())]
    Missing {
        /// The key file.
        path: PathBuf,
    },
    /// There is something, and it could not be read.
    #[error("cannot read the private key {}; check its owner and mode", path.display())]
    Unreadable {
        /// The key file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A directory, a pipe or the like.
    #[error("{} is not a regular file and is no private key; check the path", path.display())]
    NotAFile {
        /// What is there.
        path: PathBuf,
    },
    /// Longer than any key file.
    #[error("{} is longer than {MAX_FILE_BYTES} bytes and is no private key; check the path", path.display())]
    TooLong {
        /// The key file.
        path: PathBuf,
    },
    /// Starts with `0x`.
    #[error("the private key {} starts with 0x; remove that prefix", path.display())]
    HexPrefix {
        /// The key file.
        path: PathBuf,
    },
    /// Holds something other than hex digits.
    #[error("the private key {} is not hexadecimal text; check the path or restore your backup", path.display())]
    NotHex {
        /// The key file.
        path: PathBuf,
    },
    /// Hex, but not 64 digits.
    #[error(
        "the private key {} has {digits} hex digits instead of {KEY_HEX_DIGITS}; restore your backup",
        path.display()
    )]
    WrongLength {
        /// The key file.
        path: PathBuf,
        /// How many there are.
        digits: usize,
    },
    /// 64 digits that are no secp256k1 key.
    #[error("the private key {} is zero or too large; restore your backup", path.display())]
    OutOfRange {
        /// The key file.
        path: PathBuf,
    },
    /// Something is at the path already; it was not touched.
    #[error("{} exists and is never overwritten; back it up and move it away to make a new key", path.display())]
    Exists {
        /// The key file.
        path: PathBuf,
    },
    /// Nothing was written.
    #[error("cannot write the private key {}; check the directory's owner, mode and free space", path.display())]
    Unwritable {
        /// The key file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Reads a key: hex in either case, white space around it allowed.
pub fn load(path: impl AsRef<Path>) -> Result<SecretKey> {
    let path = path.as_ref();
    let owned = || path.to_owned();
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { path: owned() },
        _ => Error::Unreadable {
            path: owned(),
            source,
        },
    };

    let content = disk::read(path, MAX_FILE_BYTES).map_err(|error| match error {
        ReadError::Io(source) => unreadable(source),
        ReadError::NotAFile => Error::NotAFile { path: owned() },
        ReadError::TooLong { .. } => Error::TooLong { path: owned() },
    })?;

    let digits = content.trim_ascii();
    if digits.starts_with(b"0x") || digits.starts_with(b"0X") {
        return Err(Error::HexPrefix { path: owned() });
    }
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Error::NotHex { path: owned() });
    }
    if digits.len() != KEY_HEX_DIGITS {
        return Err(Error::WrongLength {
            path: owned(),
            digits: digits.len(),
        });
    }
    let mut bytes = Zeroizing::new([0; 32]);
    hex::decode_to_slice(digits, bytes.as_mut_slice())
        .map_err(|_| Error::NotHex { path: owned() })?;
    SecretKey::from_bytes(&bytes).map_err(|_| Error::OutOfRange { path: owned() })
}

/// Makes a new key and writes it where nothing is yet.
pub fn create(path: impl AsRef<Path>) -> Result<SecretKey> {
    let key = SecretKey::generate();
    store(path, &key)?;
    Ok(key)
}

/// Writes a key where nothing is yet.
pub fn store(path: impl AsRef<Path>, key: &SecretKey) -> Result<()> {
    let path = path.as_ref();
    store_io(path, key).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists {
            path: path.to_owned(),
        },
        _ => Error::Unwritable {
            path: path.to_owned(),
            source,
        },
    })
}

fn store_io(path: &Path, key: &SecretKey) -> io::Result<()> {
    make_parents(&disk::parent(path))?;
    let mut digits = Zeroizing::new([0_u8; KEY_HEX_DIGITS]);
    hex::encode_to_slice(key.expose_bytes().as_slice(), digits.as_mut_slice())
        .map_err(io::Error::other)?;
    disk::create(path, digits.as_slice(), MODE)
}

fn make_parents(parent: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o755);
    match builder.create(parent) {
        // Here it is about the parent: a file is where the directory should be.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(io::ErrorKind::NotADirectory.into())
        }
        result => result,
    }
}
