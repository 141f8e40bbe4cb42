//! The keystores of a directory, `validator_keys`, with their password files.
//!
//! Spec: cluster, sections 6.3 and 6.4.
//!
//! - **Bounds:** [`MAX_KEYSTORES`] per directory; for [`find`], [`MAX_ENTRIES`] entries, [`MAX_DEPTH`]
//!   directories deep. Symlinks are followed only to files that stay in the directory.
//! - **Restart:** a directory that is [`store`]d appears whole or not at all, unless it was there
//!   already, empty: then a crash may leave a part of it, a failure does not.

use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        mpsc::{self, Receiver},
    },
    thread,
};

use pluto_crypto::bls::SecretKey;

use super::{
    Cost, DecryptError, Derivations, Keystore, MAX_FILE_BYTES, ParseError, Password, Sealed,
    decrypt_all, kdf, password,
};
use crate::{
    files::{self, Directory, NewDirectory},
    json,
    parallel::{self, Budget},
};

/// Most keystores of a directory: the most validators of a cluster (spec cluster, section 11.4).
pub const MAX_KEYSTORES: usize = 65_536;

/// Most entries of a directory that are looked at: two for each keystore, and as much again.
pub const MAX_ENTRIES: usize = 4 * MAX_KEYSTORES;

/// How deep [`find`] goes. Chosen freely, larger is safe.
pub const MAX_DEPTH: usize = 16;

/// As Charon's: readable by whoever runs the validator client.
const KEYSTORE_MODE: u32 = 0o444;
const PASSWORD_MODE: u32 = 0o400;

/// Writing waits for the disk, so more threads than cores help; Charon has as many.
const WRITERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9);

/// The result of the operations here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the keystores of a directory were not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or the directory itself.
    #[error(transparent)]
    File(#[from] files::Error),
    /// A file is no keystore.
    #[error("{} is not a keystore that can be read", path.display())]
    Keystore {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// A password file is not text.
    #[error("{} is not a password file", path.display())]
    Password {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: password::Error,
    },
    /// There is no keystore.
    #[error("no keystore-*.json in {}", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// More keystores than validators can be.
    #[error("more than {MAX_KEYSTORES} keystores in {}", path.display())]
    TooMany {
        /// The directory.
        path: PathBuf,
    },
    /// Directories in directories beyond [`MAX_DEPTH`].
    #[error("{} is more than {MAX_DEPTH} directories deep", path.display())]
    TooDeep {
        /// The directory that was not entered.
        path: PathBuf,
    },
    /// A name that does not say which validator.
    #[error("the name of {} has no validator's number", path.display())]
    NoIndex {
        /// The keystore.
        path: PathBuf,
    },
    /// Two names for one validator, such as `keystore-1.json` and `keystore-01.json`.
    #[error("{} and {} are both for validator {index}", first.display(), second.display())]
    DuplicateIndex {
        /// The validator.
        index: usize,
        /// One keystore.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Numbers go from 0 without gaps.
    #[error("there is no keystore of validator {index} in {}, but there are {count}", path.display())]
    MissingIndex {
        /// The directory.
        path: PathBuf,
        /// The first validator without one.
        index: usize,
        /// How many keystores there are.
        count: usize,
    },
    /// A key did not come out.
    #[error("{} does not open", path.display())]
    Decrypt {
        /// The keystore.
        path: PathBuf,
        /// Why.
        #[source]
        source: DecryptError,
    },
    /// Whoever is told of the progress wanted no more of it.
    #[error("stopped before all keystores were written")]
    Stopped,
}

/// A keystore file, known by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file.
    pub path: PathBuf,
    /// The validator's place in the lock, if the name has one.
    pub index: Option<usize>,
}

impl Entry {
    /// The password file beside it.
    #[must_use]
    pub fn password_path(&self) -> PathBuf {
        self.path.with_extension("txt")
    }

    /// Reads both files; decrypts nothing.
    pub fn load(&self) -> Result<Sealed> {
        let dir = Directory::open(&files::parent(&self.path))?;
        let name = |path: PathBuf| path.file_name().map(PathBuf::from).unwrap_or_default();
        Ok(Sealed {
            keystore: read_keystore(&dir, &name(self.path.clone()), &self.path)?,
            password: read_password(&dir, &name(self.password_path()), &self.password_path())?,
        })
    }
}

/// Lists the keystores of a directory, by validator and then by name; reads none. There may be none.
pub fn list(dir: impl AsRef<Path>) -> Result<Vec<Entry>> {
    let dir = dir.as_ref();
    let mut entries: Vec<_> = Directory::open(dir)?
        .names(MAX_ENTRIES)?
        .into_iter()
        .filter(|name| name.starts_with("keystore-") && name.ends_with(".json"))
        .map(|name| Entry {
            index: index_of(&name),
            path: dir.join(name),
        })
        .collect();
    if entries.len() > MAX_KEYSTORES {
        return Err(Error::TooMany {
            path: dir.to_owned(),
        });
    }
    entries.sort_by_key(|entry| (entry.index.is_none(), entry.index));
    Ok(entries)
}

/// Lists keystores whose names say which validator: 0, 1, 2 and so on, each once.
pub fn list_sequential(dir: impl AsRef<Path>) -> Result<Vec<Entry>> {
    let dir = dir.as_ref();
    let entries = list(dir)?;
    if entries.is_empty() {
        return Err(Error::Empty {
            path: dir.to_owned(),
        });
    }
    for (expected, entry) in entries.iter().enumerate() {
        let Some(index) = entry.index else {
            return Err(Error::NoIndex {
                path: entry.path.clone(),
            });
        };
        if index < expected {
            return Err(Error::DuplicateIndex {
                index,
                first: entries[expected - 1].path.clone(),
                second: entry.path.clone(),
            });
        }
        if index > expected {
            return Err(Error::MissingIndex {
                path: dir.to_owned(),
                index: expected,
                count: entries.len(),
            });
        }
    }
    Ok(entries)
}

/// Keystores whose names say which validator, read with their passwords and not decrypted yet.
#[derive(Debug)]
pub struct Sequence {
    paths: Vec<PathBuf>,
    sealed: Vec<Sealed>,
}

impl Sequence {
    /// Reads what [`list_sequential`] lists.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self> {
        let entries = list_sequential(dir)?;
        let sealed = entries.iter().map(Entry::load).collect::<Result<_>>()?;
        Ok(Self {
            paths: entries.into_iter().map(|it| it.path).collect(),
            sealed,
        })
    }

    /// How many there are: one or more.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sealed.len()
    }

    /// Decrypts all, by validator, each with its file.
    ///
    /// `progress` is called on this thread with the number of keystores that are done.
    pub fn open(
        self,
        threads: NonZeroUsize,
        progress: impl FnMut(usize),
    ) -> Result<Vec<(PathBuf, SecretKey)>> {
        let opened = decrypt_all(&self.sealed, threads, progress);
        let opened = self.paths.into_iter().zip(opened);
        opened
            .map(|(path, secret)| match secret {
                Ok(secret) => Ok((path, secret)),
                Err(source) => Err(Error::Decrypt { path, source }),
            })
            .collect()
    }
}

/// The number in `keystore-7.json` or `keystore-insecure-7.json`.
fn index_of(name: &str) -> Option<usize> {
    let middle = name.strip_prefix("keystore-")?.strip_suffix(".json")?;
    let digits = middle.strip_prefix("insecure-").unwrap_or(middle);
    // `parse` would take a sign.
    digits.bytes().all(|c| c.is_ascii_digit()).then_some(())?;
    digits.parse().ok()
}

fn file_stem(cost: Cost, index: usize) -> String {
    match cost {
        Cost::Secure => format!("keystore-{index}"),
        Cost::Insecure => format!("keystore-insecure-{index}"),
    }
}

/// Writes keystore and password of each validator, from 0, into a directory that is new or empty.
/// Its parent must exist. Nothing is left behind on failure.
pub fn store(dir: impl AsRef<Path>, sealed: &[Sealed], cost: Cost) -> Result<()> {
    let new = NewDirectory::create(dir.as_ref())?;
    let numbered: Vec<_> = sealed.iter().enumerate().collect();
    let write = |(index, sealed): &(usize, &Sealed)| write(&new, cost, *index, sealed);
    let results = parallel::map(&numbered, WRITERS, write, |_| ());
    results.into_iter().collect::<Result<()>>()?;
    new.keep()?;
    Ok(())
}

/// Encrypts keys and [`store`]s them, those that are encrypted while more is derived. Of `secrets`
/// each directory gets as many, the first ones first.
///
/// `progress` is called on this thread with the number of keys that are encrypted, and says whether to
/// go on; if not, the result is [`Error::Stopped`] and nothing is left behind. Directories may be left
/// behind on another failure if some could be finished: they should be in one that is removed then.
pub fn encrypt_and_store(
    dirs: &[PathBuf],
    secrets: &[SecretKey],
    mut derivations: Derivations,
    mut progress: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<()> {
    if dirs.is_empty() || secrets.is_empty() {
        return Ok(());
    }
    let cost = derivations.cost();
    let each = secrets.len().div_ceil(dirs.len());
    let new = dirs.iter().map(|dir| NewDirectory::create(dir));
    let new = new.collect::<files::Result<Vec<_>>>()?;
    let (sender, receiver) = mpsc::sync_channel(WRITERS.get());
    // Each writer has a part in it: when all have ended, nobody waits for them.
    let receiver = Arc::new(Mutex::new(receiver));
    let failure = OnceLock::new();
    let proceeded = thread::scope(|scope| {
        // Dropped when this ends, however it does: then the writers have nothing to wait for.
        let sender = sender;
        for _ in 0..WRITERS.get().min(secrets.len()) {
            let (receiver, new, failure) = (Arc::clone(&receiver), &new, &failure);
            scope.spawn(move || write_each(&receiver, new, each, cost, failure));
        }
        drop(receiver);
        for (at, secret) in secrets.iter().enumerate() {
            let sealed = derivations.seal(secret);
            progress(at + 1)?;
            if failure.get().is_some() || sender.send((at, sealed)).is_err() {
                break;
            }
        }
        ControlFlow::Continue(())
    });
    match failure.into_inner() {
        Some(error) => Err(error),
        None if proceeded.is_break() => Err(Error::Stopped),
        None => Ok(new.into_iter().try_for_each(NewDirectory::keep)?),
    }
}

/// Writes what comes until nothing more comes or any of the writers failed.
fn write_each(
    receiver: &Mutex<Receiver<(usize, Sealed)>>,
    new: &[NewDirectory],
    each: usize,
    cost: Cost,
    failure: &OnceLock<Error>,
) {
    let next = || {
        let receiver = receiver.lock().unwrap_or_else(PoisonError::into_inner);
        receiver.recv().ok()
    };
    while let Some((at, sealed)) = next() {
        if let Err(error) = write(&new[at / each], cost, at % each, &sealed) {
            // Of several the first one is told.
            let _ = failure.set(error);
        }
        if failure.get().is_some() {
            return;
        }
    }
}

fn write(new: &NewDirectory, cost: Cost, index: usize, sealed: &Sealed) -> Result<()> {
    let stem = file_stem(cost, index);
    new.write(
        &format!("{stem}.json"),
        &sealed.keystore.to_json(),
        KEYSTORE_MODE,
    )?;
    new.write(
        &format!("{stem}.txt"),
        sealed.password.expose().as_bytes(),
        PASSWORD_MODE,
    )?;
    Ok(())
}

/// What is below a directory of keys that another tool made.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Found {
    /// The keystores, in the order of their paths.
    pub keystores: Vec<FoundKeystore>,
    /// Other `*.json` files: not an object with `crypto`, or too long for a keystore.
    pub skipped: Vec<PathBuf>,
    passwords: Vec<(PathBuf, Password)>,
}

/// One of [`Found::keystores`].
#[derive(Debug)]
#[non_exhaustive]
pub struct FoundKeystore {
    /// The file.
    pub path: PathBuf,
    /// What is in it.
    pub keystore: Keystore,
}

/// Finds all keystores and password files below a directory, whatever their names; there may be none.
pub fn find(dir: impl AsRef<Path>) -> Result<Found> {
    let dir = dir.as_ref();
    let root = Directory::open(dir)?;
    let mut walk = Walk {
        dir,
        visited: 0,
        paths: Vec::new(),
    };
    walk.enter(Path::new(""), 0)?;
    let mut paths = walk.paths;
    paths.sort_unstable();

    let mut found = Found::default();
    for below in paths {
        let path = dir.join(&below);
        if below
            .extension()
            .is_some_and(|extension| extension == "txt")
        {
            match read_password(&root, &below, &path) {
                Ok(password) => found.passwords.push((path, password)),
                // A text that is no password.
                Err(Error::Password { .. } | Error::File(files::Error::TooLong { .. })) => {}
                Err(error) => return Err(error),
            }
            continue;
        }
        let text = match root.read(&below, MAX_FILE_BYTES) {
            Ok(text) => text,
            Err(files::Error::TooLong { .. }) => {
                found.skipped.push(path);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let is_keystore = json::parse(&text).is_ok_and(|value| value.get("crypto").is_some());
        if !is_keystore {
            found.skipped.push(path);
            continue;
        }
        let keystore = Keystore::from_json(&text).map_err(|source| Error::Keystore {
            path: path.clone(),
            source,
        })?;
        if found.keystores.len() == MAX_KEYSTORES {
            return Err(Error::TooMany {
                path: dir.to_owned(),
            });
        }
        found.keystores.push(FoundKeystore { path, keystore });
    }
    Ok(found)
}

impl Found {
    /// Decrypts each keystore with the password file of its name or, when that is not the right
    /// one, with any of the others.
    ///
    /// `progress` is called on this thread with the number of keystores that are done.
    pub fn decrypt_all(
        &self,
        threads: NonZeroUsize,
        mut progress: impl FnMut(usize),
    ) -> Vec<std::result::Result<SecretKey, DecryptError>> {
        let memory = Budget::new(kdf::MAX_MEMORY_BYTES);
        let decrypt = |found: &FoundKeystore| {
            let own = found.path.with_extension("txt");
            let (own, others): (Vec<_>, Vec<_>) =
                self.passwords.iter().partition(|(path, _)| *path == own);
            memory.with(found.keystore.kdf.memory_bytes(), || {
                own.into_iter()
                    .chain(others)
                    .map(|(_, password)| found.keystore.decrypt(password))
                    .find(|result| !matches!(result, Err(DecryptError::WrongPassword)))
                    .unwrap_or(Err(DecryptError::WrongPassword))
            })
        };
        let mut done = 0;
        parallel::map(&self.keystores, threads, decrypt, |_| {
            done += 1;
            progress(done);
        })
    }
}

/// Gathers the paths of `*.json` and `*.txt` below a directory.
struct Walk<'a> {
    dir: &'a Path,
    visited: usize,
    paths: Vec<PathBuf>,
}

impl Walk<'_> {
    fn enter(&mut self, below: &Path, depth: usize) -> Result<()> {
        let dir = self.dir.join(below);
        if depth > MAX_DEPTH {
            return Err(Error::TooDeep { path: dir });
        }
        let names = Directory::open(&dir)?.names(MAX_ENTRIES - self.visited)?;
        self.visited += names.len();
        for name in names {
            let below = below.join(name);
            let path = self.dir.join(&below);
            let kind = path
                .symlink_metadata()
                .map_err(files::unreadable(&path))?
                .file_type();
            let is_wanted = below
                .extension()
                .is_some_and(|extension| extension == "json" || extension == "txt");
            if kind.is_dir() {
                self.enter(&below, depth + 1)?;
            } else if is_wanted && (!kind.is_symlink() || !path.is_dir()) {
                self.paths.push(below);
            }
        }
        Ok(())
    }
}

fn read_keystore(dir: &Directory, below: &Path, path: &Path) -> Result<Keystore> {
    let text = dir.read(below, MAX_FILE_BYTES)?;
    Keystore::from_json(&text).map_err(|source| Error::Keystore {
        path: path.to_owned(),
        source,
    })
}

fn read_password(dir: &Directory, below: &Path, path: &Path) -> Result<Password> {
    let text = dir.read(below, password::MAX_FILE_BYTES)?;
    Password::from_bytes(&text).map_err(|source| Error::Password {
        path: path.to_owned(),
        source,
    })
}
