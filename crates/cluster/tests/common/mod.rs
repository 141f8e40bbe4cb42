//! What the tests share.

#![allow(dead_code, reason = "not every test has a use for everything")]

pub(crate) mod cluster;
pub(crate) mod server;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// `PLUTO_VECTORS`, or the folder beside the checkout; `None`, and a printed reason, without either.
pub(crate) fn vectors() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let path = std::env::var_os("PLUTO_VECTORS").map_or_else(|| default.into(), PathBuf::from);
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: no vectors at {}", path.display());
    None
}

/// The entries of a folder, in order of their names.
pub(crate) fn entries(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).unwrap();
    let mut entries: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

/// The files of one name in a folder and those below it.
pub(crate) fn find(folder: &Path, wanted: &str) -> Vec<PathBuf> {
    let found = entries(folder).into_iter().flat_map(|path| {
        if path.is_dir() {
            find(&path, wanted)
        } else if name(&path) == wanted {
            vec![path]
        } else {
            Vec::new()
        }
    });
    found.collect()
}

/// The last part of a path.
pub(crate) fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}
