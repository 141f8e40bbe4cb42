//! Files of ours and of a live Charon's, each in the other's hands: what one makes the other combines,
//! verifies and runs with. Skipped, and saying so, where `CHARON_BIN` names no Charon.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{path::Path, process::Command, time::Duration};

use pluto_cluster::LockFile;
use pluto_eth::{
    keystore::{decrypt_all, directory},
    threads,
};
use pluto_interop::{Cluster, Process, binaries};

/// How long a live cluster may take for anything, on a loaded machine.
const LIMIT: Duration = Duration::from_secs(180);
const NODES: usize = 4;
const VALIDATORS: usize = 2;
const ADDRESS: &str = "0x321DcB529F3945Bc94fecEA9D3BC5CAF35253B94";

#[tokio::test]
async fn charon_combines_clusters_that_we_made() {
    for binary in binaries("charon_combines_clusters_that_we_made") {
        for version in formats(&binary) {
            let dir = tempfile::tempdir().unwrap();
            make(&dir.path().join("cluster"), version);
            let cluster = Cluster::adopt(&binary, dir);

            let out = cluster.dir().with_file_name("theirs");
            std::fs::create_dir(&out).unwrap();
            let args = [
                "combine".to_owned(),
                format!("--cluster-dir={}", cluster.dir().display()),
                format!("--output-dir={}", out.display()),
            ];
            let log = cluster.dir().with_file_name("combine.log");
            Process::finish(&binary, &args, log, LIMIT).await.unwrap();
            let expected = expected(&cluster.lock(0));
            assert_eq!(recovered(&out), expected, "{binary:?} {version}");

            let ours = cluster.dir().with_file_name("ours");
            combine(&cluster.dir(), &ours);
            assert_eq!(recovered(&ours), expected, "{version}");
            println!("{} combined a cluster for {version}", binary.display());
        }
    }
}

#[tokio::test]
async fn we_combine_and_verify_clusters_that_charon_made() {
    for binary in binaries("we_combine_and_verify_clusters_that_charon_made") {
        let cluster = Cluster::create(&binary, NODES, VALIDATORS).await.unwrap();

        let ours = cluster.dir().with_file_name("ours");
        combine(&cluster.dir(), &ours);
        assert_eq!(recovered(&ours), expected(&cluster.lock(0)), "{binary:?}");

        verify(&cluster.dir());
        for node in 0..NODES {
            verify(&cluster.node(node));
        }
        println!("what {} made is clean", binary.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn charons_run_and_sign_with_directories_that_we_made() {
    for binary in binaries("charons_run_and_sign_with_directories_that_we_made") {
        let dir = tempfile::tempdir().unwrap();
        // The newest that this Charon reads.
        let version = formats(&binary).pop().unwrap();
        make(&dir.path().join("cluster"), version);
        let cluster = Cluster::adopt(&binary, dir);
        let relay = cluster.relay().await.unwrap();
        let mut charons = Vec::new();
        for node in 0..NODES {
            charons.push(cluster.run(node, &relay).await.unwrap());
        }
        for charon in &charons {
            let signed = |page: &pluto_interop::Samples| {
                page.sum("core_bcast_broadcast_total", &[])
                    .filter(|count| *count >= 3.0)
            };
            match charon.until(LIMIT, signed).await {
                Ok(count) => println!("{count} group signatures of {}", binary.display()),
                Err(page) => panic!("nothing was signed: {page:?}\n{}", charon.tail()),
            }
        }
        for charon in charons {
            charon.stop().await;
        }
    }
}

/// What a Charon reads.
fn formats(binary: &Path) -> Vec<&'static str> {
    let name = binary.file_name().unwrap().to_string_lossy();
    if name.contains("v1.10") {
        vec!["v1.10"]
    } else {
        vec!["v1.10", "v1.11"]
    }
}

fn make(dir: &Path, version: &str) {
    pluto(&[
        "create",
        "cluster",
        "--name=interop",
        "--network=hoodi",
        "--insecure-keys",
        "--charon-version",
        version,
        &format!("--nodes={NODES}"),
        &format!("--num-validators={VALIDATORS}"),
        &format!("--withdrawal-addresses={ADDRESS}"),
        &format!("--fee-recipient-addresses={ADDRESS}"),
        &format!("--cluster-dir={}", dir.display()),
    ]);
}

fn combine(cluster: &Path, out: &Path) {
    let (from, to) = (cluster.to_str().unwrap(), out.to_str().unwrap());
    pluto(&["combine", "--cluster-dir", from, "--output-dir", to]);
}

/// Without a word of what could be wrong, or could not be checked.
fn verify(path: &Path) {
    let said = pluto(&["verify", "--strict", path.to_str().unwrap()]);
    assert!(said.contains("0 errors, 0 warnings, 0 unchecked"), "{said}");
}

fn pluto(args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pluto"));
    let output = command.args(args).env_remove("RUST_LOG").output().unwrap();
    assert!(output.status.success(), "{args:?} {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The public keys of the keys in a directory, by validator.
fn recovered(dir: &Path) -> Vec<Vec<u8>> {
    let entries = directory::list_sequential(dir).unwrap();
    let sealed: Vec<_> = entries.iter().map(|it| it.load().unwrap()).collect();
    let keys = decrypt_all(&sealed, threads(), |_| ()).into_iter();
    keys.map(|it| it.unwrap().public_key().to_bytes().to_vec())
        .collect()
}

fn expected(lock: &Path) -> Vec<Vec<u8>> {
    let lock = LockFile::read(lock).unwrap();
    lock.validators.into_iter().map(|it| it.pubkey).collect()
}
