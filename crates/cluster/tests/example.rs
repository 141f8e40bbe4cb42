//! The example runs and says what it promises.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{
    path::Path,
    process::{Command, Output},
};

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

    let output = inspect(&good);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.starts_with("lock v1.11.0 `nämé <1>`: 4 operators, threshold 3, 1 validators"));
    assert!(text.contains("operator 3, share 4: 0x"), "{text}");
    assert!(text.ends_with("nothing is wrong\n"), "{text}");

    let output = inspect(&definition);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.starts_with("definition v1.11.0"), "{text}");

    let output = inspect(&bad);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success());
    assert!(text.contains("error: node_signatures[1]: "), "{text}");

    let output = inspect(&folder.path().join("missing"));
    assert!(!output.status.success());
}

fn inspect(file: &Path) -> Output {
    Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--offline", "-p", "pluto-cluster"])
        .args(["--example", "inspect", "--"])
        .arg(file)
        .output()
        .unwrap()
}
