//! Reading within one directory, and writing that never replaces and never leaves a part.
//!
//! - **Bounds:** a read stops at its limit; only regular files are opened.
//! - **Symlinks** are followed as long as they stay in the directory, as those of mounted secrets do.
//!   Whoever can change the directory while it is read could replace its files as well.
//! - **Restart:** a file appears whole, with its final mode, or not at all, as all of
//!   [`pluto_crypto::disk`]. A crash while writing leaves at most names that start with a dot and end
//!   with `.tmp`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use pluto_crypto::disk;
pub(crate) use pluto_crypto::disk::parent;
use zeroize::Zeroizing;

/// Why a file was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no file.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The file or directory.
        path: PathBuf,
    },
    /// There is something, and it could not be read.
    #[error("cannot read {}; check its owner and mode", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A directory, a pipe or the like.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// What it is about.
        path: PathBuf,
    },
    /// Longer than any such file.
    #[error("{} is longer than {limit} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// How many bytes are read at most.
        limit: usize,
    },
    /// A symlink out of the directory.
    #[error("{} leads out of its directory and is not followed", path.display())]
    Outside {
        /// The link.
        path: PathBuf,
    },
    /// More entries than any such directory has.
    #[error("{} has more than {limit} entries", path.display())]
    TooMany {
        /// The directory.
        path: PathBuf,
        /// How many are looked at.
        limit: usize,
    },
    /// Something is at the path already; it was not touched.
    #[error("{} exists and is never overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A directory that must be empty is not; it was not touched.
    #[error("{} is not empty; move its content away", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// Nothing was written.
    #[error("cannot write {}; check the directory's owner, mode and free space", path.display())]
    Unwritable {
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

pub(crate) fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { path },
        _ => Error::Unreadable { path, source },
    }
}

fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists { path },
        _ => Error::Unwritable { path, source },
    }
}

/// A directory that reads do not leave.
pub(crate) struct Directory {
    path: PathBuf,
    canonical: PathBuf,
}

impl Directory {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let canonical = fs::canonicalize(path).map_err(unreadable(path))?;
        Ok(Self {
            path: path.to_owned(),
            canonical,
        })
    }

    /// Names in order, at most `limit`. Names that are not UTF-8 are none of ours.
    pub(crate) fn names(&self, limit: usize) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.canonical).map_err(unreadable(&self.path))? {
            let entry = entry.map_err(unreadable(&self.path))?;
            if names.len() == limit {
                return Err(Error::TooMany {
                    path: self.path.clone(),
                    limit,
                });
            }
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Reads a file of the directory, given by its path below it.
    pub(crate) fn read(&self, below: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>> {
        let path = self.path.join(below);
        let resolved = fs::canonicalize(&path).map_err(unreadable(&path))?;
        if !resolved.starts_with(&self.canonical) {
            return Err(Error::Outside { path });
        }
        read_resolved(&path, &resolved, limit)
    }
}

/// Reads a file wherever it is.
pub(crate) fn read(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>> {
    read_resolved(path, path, limit)
}

fn read_resolved(path: &Path, resolved: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>> {
    let path = || path.to_owned();
    disk::read(resolved, limit).map_err(|error| match error {
        disk::ReadError::Io(source) => unreadable(&path())(source),
        disk::ReadError::TooLong { .. } => Error::TooLong {
            path: path(),
            limit,
        },
        _ => Error::NotAFile { path: path() },
    })
}

/// Writes a file where nothing is yet. The directory still has to be synced.
pub(crate) fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    disk::create_unsynced(path, content, mode).map_err(unwritable(path))
}

/// Writes a file, in place of one that may be there.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    disk::replace(path, content, mode).map_err(unwritable(path))
}

/// Files that belong together: dropped before [`keep`](Self::keep), none of them stays.
#[derive(Default)]
pub(crate) struct NewFiles(Vec<PathBuf>);

impl NewFiles {
    pub(crate) fn add(&mut self, path: PathBuf) {
        self.0.push(path);
    }

    /// Syncs their directory; from here on they stay.
    pub(crate) fn keep(mut self, dir: &Path) -> Result<Vec<PathBuf>> {
        disk::sync_dir(dir).map_err(unwritable(dir))?;
        Ok(std::mem::take(&mut self.0))
    }
}

impl Drop for NewFiles {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// A directory that appears with all its files or not at all.
///
/// An empty one that is there already, perhaps a mount point, is filled in place; then a crash may
/// leave a part of the files, a failure does not.
pub(crate) struct NewDirectory {
    target: PathBuf,
    /// Where the files are written: beside the target, or the target itself.
    work: PathBuf,
    /// What is removed again if they are not kept.
    files: Mutex<NewFiles>,
}

impl NewDirectory {
    pub(crate) fn create(target: &Path) -> Result<Self> {
        let work = match fs::read_dir(target) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(Error::NotEmpty {
                        path: target.to_owned(),
                    });
                }
                target.to_owned()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let create = || {
                    let temp = disk::temp_name(target)?;
                    fs::create_dir(&temp)?;
                    Ok(temp)
                };
                create().map_err(unwritable(target))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(Error::Exists {
                    path: target.to_owned(),
                });
            }
            Err(error) => return Err(unreadable(target)(error)),
        };
        Ok(Self {
            target: target.to_owned(),
            work,
            files: Mutex::default(),
        })
    }

    /// Writes one of its files. Any number of threads may.
    pub(crate) fn write(&self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        let path = self.work.join(name);
        if self.work != self.target {
            return disk::create_hidden(&path, content, mode).map_err(unwritable(&path));
        }
        write_new(&path, content, mode)?;
        self.files().add(path);
        Ok(())
    }

    fn files(&self) -> MutexGuard<'_, NewFiles> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keep(self) -> Result<()> {
        let files = std::mem::take(&mut *self.files());
        files.keep(&self.work)?;
        if self.work != self.target {
            let publish = || {
                fs::rename(&self.work, &self.target)?;
                disk::sync_dir(&parent(&self.target))
            };
            publish().map_err(|error| match error.kind() {
                io::ErrorKind::DirectoryNotEmpty => Error::NotEmpty {
                    path: self.target.clone(),
                },
                _ => unwritable(&self.target)(error),
            })?;
        }
        Ok(())
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        if self.work != self.target {
            // After a rename there is nothing here.
            let _ = fs::remove_dir_all(&self.work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        Directory::open(dir).unwrap().names(10).unwrap()
    }

    fn begun(target: &Path) -> NewDirectory {
        let new = NewDirectory::create(target).unwrap();
        new.write("a", b"a", 0o444).unwrap();
        new
    }

    #[test]
    fn directory_appears_when_it_is_kept_and_not_before() {
        let scratch = tempfile::tempdir().unwrap();
        let target = scratch.path().join("new");

        let new = begun(&target);
        assert!(!target.exists());
        new.keep().unwrap();

        assert_eq!(names(scratch.path()), ["new"]);
        assert_eq!(names(&target), ["a"]);
    }

    #[test]
    fn directory_that_is_given_up_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        drop(begun(&scratch.path().join("new")));
        assert!(names(scratch.path()).is_empty());

        // One that was there stays, empty.
        let target = scratch.path().join("old");
        fs::create_dir(&target).unwrap();
        drop(begun(&target));
        assert_eq!(names(scratch.path()), ["old"]);
        assert!(names(&target).is_empty());
    }

    #[test]
    fn directory_that_another_filled_meanwhile_is_not_touched() {
        let scratch = tempfile::tempdir().unwrap();
        let target = scratch.path().join("new");
        let new = begun(&target);
        fs::create_dir(&target).unwrap();
        fs::write(target.join("theirs"), "").unwrap();

        let error = new.keep().unwrap_err();

        assert!(matches!(error, Error::NotEmpty { path } if path == target));
        assert_eq!(names(scratch.path()), ["new"]);
        assert_eq!(names(&target), ["theirs"]);
    }

    #[test]
    fn entries_are_counted_up_to_the_limit() {
        let scratch = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            fs::write(scratch.path().join(name), "").unwrap();
        }
        let dir = Directory::open(scratch.path()).unwrap();

        assert_eq!(dir.names(3).unwrap(), ["a", "b", "c"]);
        assert!(matches!(dir.names(2), Err(Error::TooMany { limit: 2, .. })));
    }
}
