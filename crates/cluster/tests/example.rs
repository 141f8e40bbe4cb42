//! The example runs and says what it promises.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;
#[path = "../examples/inspect.rs"]
#[allow(dead_code, reason = "its `main` reads the command line")]
mod example;

use std::path::Path;

use common::cluster;
use pluto_cluster::{FileMode, Version};

#[test]
fn inspect_says_what_a_file_is_and_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (mut lock, _) = cluster::lock(Version::V1_11, 4, 1);
    let good = folder.path().join("cluster-lock.json");
    lock.create_file(&good, FileMode::Everyone).unwrap();
    let definition = folder.path().join("cluster-definition.json");
    lock.definition.create_file(&definition).unwrap();
    lock.node_signatures.swap(0, 1);
    let bad = folder.path().join("bad-lock.json");
    lock.create_file(&bad, FileMode::Everyone).unwrap();

    let (clean, text) = inspect(&good);
    assert!(clean, "{text}");
    assert!(text.starts_with("lock v1.11.0 `nämé <1>`: 4 operators, threshold 3, 1 validators"));
    assert!(text.contains("operator 3, share 4: 0x"), "{text}");
    assert!(text.ends_with("nothing is wrong\n"), "{text}");

    let (clean, text) = inspect(&definition);
    assert!(clean, "{text}");
    assert!(text.starts_with("definition v1.11.0"), "{text}");

    let (clean, text) = inspect(&bad);
    assert!(!clean);
    assert!(text.contains("error: node_signatures[1]: "), "{text}");

    let missing = folder.path().join("missing");
    assert!(example::inspect(&missing, &mut Vec::new()).is_err());
}

fn inspect(file: &Path) -> (bool, String) {
    let mut out = Vec::new();
    let clean = example::inspect(file, &mut out).unwrap();
    (clean, String::from_utf8(out).unwrap())
}
