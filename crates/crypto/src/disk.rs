//! Files that are read with a bound, and written whole or not at all.
//!
//! Everything a node keeps on disk goes through here, secrets too.
//!
//! - **Bounds:** a read stops at its limit, and only regular files are opened: a pipe would wait for a
//!   writer for ever.
//! - **Restart:** a file appears whole, with its final mode, or not at all. A crash while writing
//!   leaves at most a `.<name>.<random>.tmp` beside it.
//! - **Races:** of several that create one file exactly one wins; the others get
//!   [`io::ErrorKind::AlreadyExists`]. Whoever can change a directory while it is read could replace
//!   its files as well.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use rand::Rng;
use zeroize::Zeroizing;

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The system's answer.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A directory, a pipe or the like. It was not opened.
    #[error("not a regular file")]
    NotAFile,
    /// Longer than any such file.
    #[error("longer than {limit} bytes")]
    TooLong {
        /// How many bytes are read at most.
        limit: usize,
    },
}

/// Reads a regular file of at most `limit` bytes. What was read is wiped when it is dropped.
pub fn read(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(ReadError::NotAFile);
    }
    let expected = usize::try_from(metadata.len()).unwrap_or(limit);
    // Of full capacity from the start: growing would leave copies of secrets behind.
    let mut content = Zeroizing::new(Vec::with_capacity(expected.min(limit) + 1));
    File::open(path)?
        .take(limit as u64 + 1)
        .read_to_end(&mut content)?;
    if content.len() > limit {
        return Err(ReadError::TooLong { limit });
    }
    Ok(content)
}

/// Writes a file where nothing is yet, and makes it survive a power cut. The directory must exist.
///
/// `mode` is what the file has in the end, whatever the umask; it may be read-only.
pub fn create(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    create_unsynced(path, content, mode)?;
    sync_dir(&parent(path)).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}

/// As [`create`], for one of many files of a directory: that still has to be synced.
pub fn create_unsynced(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temp = TempFile::create(path, content, mode)?;
    // A link, unlike a rename, fails when the name is taken.
    fs::hard_link(&temp.path, path)
}

/// As [`create_unsynced`], for a directory that nobody looks into yet: the file appears at once, and
/// when this fails or crashes a part of it may stay. It costs half as many calls of the system.
pub fn create_hidden(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    // Nobody else reads it before it has its mode; that does not hold for the handle that writes.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode & 0o400);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    set_mode(&file, mode)?;
    file.sync_all()
}

/// Writes a file in place of one that may be there, and makes it survive a power cut.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temp = TempFile::create(path, content, mode)?;
    fs::rename(&temp.path, path)?;
    sync_dir(&parent(path))
}

/// Makes new names survive a power cut. Only Unix lets a directory be opened for that.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(dir)?.sync_all()
    } else {
        Ok(())
    }
}

/// The directory of a file.
#[must_use]
pub fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A name beside `path` that nobody else chose.
pub fn temp_name(path: &Path) -> io::Result<PathBuf> {
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(format!(".{:016x}.tmp", rand::rng().next_u64()));
    Ok(parent(path).join(name))
}

/// A synced file that is removed when dropped.
struct TempFile {
    path: PathBuf,
}

impl TempFile {
    fn create(target: &Path, content: &[u8], mode: u32) -> io::Result<Self> {
        let path = temp_name(target)?;
        let temp = Self { path };
        create_hidden(&temp.path, content, mode)?;
        Ok(temp)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // What is left if this fails is named in the module doc. After a rename there is nothing.
        let _ = fs::remove_file(&self.path);
    }
}

/// The umask has no say in it.
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    #[cfg(not(unix))]
    let _ = (file, mode);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn file_is_read_up_to_its_limit() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a");
        fs::write(&path, "abc").unwrap();

        assert_eq!(read(&path, 3).unwrap().as_slice(), b"abc");
        assert!(matches!(
            read(&path, 2),
            Err(ReadError::TooLong { limit: 2 })
        ));
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(matches!(read(scratch.path(), 9), Err(ReadError::NotAFile)));
        let missing = read(&scratch.path().join("none"), 9).unwrap_err();
        let ReadError::Io(error) = missing else {
            panic!("{missing}")
        };
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[cfg(unix)]
    #[test]
    fn new_files_have_their_mode_and_replace_nothing() {
        use std::os::unix::fs::PermissionsExt;

        let scratch = tempfile::tempdir().unwrap();
        for mode in [0o400, 0o444, 0o600, 0o666] {
            let path = scratch.path().join(format!("{mode:o}"));
            create(&path, b"first", mode).unwrap();
            let actual = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(actual & 0o7777, mode);

            let again = create(&path, b"second", mode).unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(read(&path, 9).unwrap().as_slice(), b"first");

            replace(&path, b"third", mode).unwrap();
            assert_eq!(read(&path, 9).unwrap().as_slice(), b"third");

            let again = create_hidden(&path, b"fourth", mode).unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
            fs::remove_file(&path).unwrap();
            create_hidden(&path, b"fourth", mode).unwrap();
            let actual = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(actual & 0o7777, mode);
            assert_eq!(read(&path, 9).unwrap().as_slice(), b"fourth");
        }
        assert_eq!(names(scratch.path()), ["400", "444", "600", "666"]);
    }

    #[test]
    fn failure_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("dir");
        fs::create_dir(&path).unwrap();
        assert!(create(&path, b"", 0o400).is_err());
        assert!(replace(&path, b"", 0o400).is_err());
        assert!(create(&scratch.path().join("no/a"), b"", 0o400).is_err());
        assert_eq!(names(scratch.path()), ["dir"]);
    }
}
