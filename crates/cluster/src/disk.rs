//! Files: read with a bound, and written whole or not at all.
//!
//! Spec: cluster, sections 6.3 and 11.3 (modes).
//!
//! - **Restart:** a file appears whole, with its mode, or not at all. A crash while writing leaves at
//!   most a `.<name>.<random>.tmp` beside it.
//! - **Races:** of several writers exactly one wins; the others get [`WriteError::Exists`]. Nothing
//!   that is there is ever replaced.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use rand::Rng;

use crate::error::{FieldError, HashErrors, ParseProblem, ReadError};

/// Who may read a file that is written; nobody may change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileMode {
    /// Mode 0400, as the locks of `create cluster`.
    Owner,
    /// Mode 0444, as definitions and the locks of ceremonies.
    Everyone,
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
pub(crate) fn read(path: &Path, max: u64) -> Result<Vec<u8>, ReadError> {
    let io_error = |source| ReadError::Io {
        path: path.to_owned(),
        source,
    };
    let mut content = Vec::new();
    File::open(path)
        .map_err(io_error)?
        .take(max + 1)
        .read_to_end(&mut content)
        .map_err(io_error)?;
    if content.len() as u64 > max {
        return Err(ReadError::Parse {
            path: path.to_owned(),
            source: FieldError {
                path: String::new(),
                problem: ParseProblem::TooLarge { max },
            },
        });
    }
    Ok(content)
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
    create_io(path, &content, mode).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => WriteError::Exists { path: path_buf() },
        _ => WriteError::Io {
            path: path_buf(),
            source,
        },
    })
}

fn create_io(path: &Path, content: &[u8], mode: FileMode) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temp_name = OsString::from(".");
    temp_name.push(name);
    temp_name.push(format!(".{:016x}.tmp", rand::rng().next_u64()));

    let temp = TempFile::create(parent.join(temp_name))?;
    let mut file = &temp.file;
    file.write_all(content)?;
    set_mode(file, mode)?;
    file.sync_all()?;

    // A link, unlike a rename, fails when the name is taken.
    fs::hard_link(&temp.path, path)?;
    drop(temp);
    sync_dir(parent).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}

/// The umask has no say in it.
fn set_mode(file: &File, mode: FileMode) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = match mode {
            FileMode::Owner => 0o400,
            FileMode::Everyone => 0o444,
        };
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    #[cfg(not(unix))]
    let _ = (file, mode);
    Ok(())
}

/// Makes the new name survive a power cut. Only Unix lets a directory be opened for that.
fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(dir)?.sync_all()
    } else {
        Ok(())
    }
}

/// A file of mode 0400 that is removed when dropped.
struct TempFile {
    file: File,
    path: PathBuf,
}

impl TempFile {
    fn create(path: PathBuf) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o400);
        Ok(Self {
            file: options.open(&path)?,
            path,
        })
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // What is left if this fails is named in the module doc.
        let _ = fs::remove_file(&self.path);
    }
}
