//! Files of ours and of a live Charon's, each in the other's hands: what one makes the other combines,
//! verifies, runs with and holds ceremonies with. Skipped, and saying so, where `CHARON_BIN` names no Charon.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{path::Path, process::Command, time::Duration};

use pluto_cluster::{Definition, LockFile, eip712};
use pluto_crypto::k1;
use pluto_eth::{
    keystore::{decrypt_all, directory},
    threads,
};
use pluto_interop::{Ceremony, Cluster, PlutoRelay, Process, binaries};
use serde_json::{Value, json};

/// How long a live cluster may take for anything, on a loaded machine.
const LIMIT: Duration = Duration::from_secs(180);
const NODES: usize = 4;
const VALIDATORS: usize = 2;
const ADDRESS: &str = "0x321DcB529F3945Bc94fecEA9D3BC5CAF35253B94";
const DEFINITION: &str = "cluster-definition.json";
/// Of the network that clusters here are on.
const HOODI_CHAIN: u64 = 560_048;

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

/// Nobody signs such a definition: Charon has no need of it, and it is nobody's fault.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_ceremony_of_charons_leaves_is_clean() {
    for binary in binaries("what_a_ceremony_of_charons_leaves_is_clean") {
        let ceremony = Ceremony::create(&binary, NODES, VALIDATORS).await.unwrap();
        hold(&ceremony).await;
        println!("{} held a ceremony of its own", binary.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn charons_hold_a_ceremony_with_a_definition_that_we_made() {
    for binary in binaries("charons_hold_a_ceremony_with_a_definition_that_we_made") {
        for version in formats(&binary) {
            let ceremony = Ceremony::undefined(&binary, NODES).await.unwrap();
            let records = ceremony.records().join(",");
            define(&ceremony, version, "--operator-enrs", &records);
            hold(&ceremony).await;
            println!("{} held a ceremony for {version}", binary.display());
        }
    }
}

/// As a launchpad has it: all operators and the creator agree with their wallets.
#[tokio::test(flavor = "multi_thread")]
async fn charons_hold_a_ceremony_with_a_definition_of_ours_that_all_signed() {
    for binary in binaries("charons_hold_a_ceremony_with_a_definition_of_ours_that_all_signed") {
        for version in formats(&binary) {
            let ceremony = Ceremony::undefined(&binary, NODES).await.unwrap();
            let wallets = wallets();
            define_for(&ceremony, version, &wallets);
            sign(&ceremony, &wallets, NODES);
            hold(&ceremony).await;
            let lock = LockFile::read(ceremony.node(0).join("cluster-lock.json")).unwrap();
            let definition = Definition::read(ceremony.definition()).unwrap();
            assert_eq!(lock.definition, definition, "with all signatures");
            println!("{} held a signed one for {version}", binary.display());
        }
    }
}

/// Charon goes on without a signature if it is told to. That one is missing, and nothing else is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_did_not_sign_is_all_that_is_told_of_its_ceremony() {
    for binary in binaries("an_operator_that_did_not_sign_is_all_that_is_told_of_its_ceremony") {
        let version = formats(&binary).pop().unwrap();
        let ceremony = Ceremony::undefined(&binary, NODES).await.unwrap();
        let wallets = wallets();
        define_for(&ceremony, version, &wallets);
        sign(&ceremony, &wallets, NODES - 1);
        run(&ceremony, &["--no-verify"]).await;

        let places = ["config_signature", "enr_signature"].map(|key| format!("operators[3].{key}"));
        let told = |path: &Path, file: &Path, parent: &str| {
            let report = report(path);
            assert_eq!(report["ok"], false);
            let of_file = report["findings"].as_array().unwrap().iter();
            let of_file = of_file.filter(|it| it["file"] == file.to_str().unwrap());
            let of_file: Vec<_> = of_file.map(|it| (&it["path"], &it["rule"])).collect();
            let expected = places.each_ref().map(|place| format!("{parent}{place}"));
            let expected = expected.map(|place| (json!(place), json!("signature-missing")));
            assert_eq!(
                of_file,
                expected.each_ref().map(|(place, rule)| (place, rule))
            );
            report["findings"].as_array().unwrap().len()
        };
        let definition = ceremony.definition();
        assert_eq!(told(&definition, &definition, ""), 2);
        for node in 0..NODES {
            let node = ceremony.node(node);
            let lock = node.join("cluster-lock.json");
            assert_eq!(told(&node, &lock, "cluster_definition."), 4);
            assert_eq!(told(&node, &node.join(DEFINITION), ""), 4);
        }
        println!("{} held one that was not signed by all", binary.display());
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

/// Makes the definition of a ceremony; its operators are given by a flag.
fn define(ceremony: &Ceremony, version: &str, flag: &str, operators: &str) {
    pluto(&[
        "create",
        "dkg",
        "--name=interop",
        "--network=hoodi",
        "--charon-version",
        version,
        flag,
        operators,
        &format!("--num-validators={VALIDATORS}"),
        &format!("--withdrawal-addresses={ADDRESS}"),
        &format!("--fee-recipient-addresses={ADDRESS}"),
        &format!("--output-dir={}", ceremony.dir().display()),
    ]);
}

/// One for each operator, and the creator's.
fn wallets() -> Vec<k1::SecretKey> {
    (0..=NODES).map(|_| k1::SecretKey::generate()).collect()
}

/// Makes the definition of a ceremony that operators are to join with their wallets.
fn define_for(ceremony: &Ceremony, version: &str, wallets: &[k1::SecretKey]) {
    let addresses: Vec<_> = wallets[..NODES].iter().map(address).collect();
    define(
        ceremony,
        version,
        "--operator-addresses",
        &addresses.join(","),
    );
}

/// All operators join, and the first of them and the creator agree.
fn sign(ceremony: &Ceremony, wallets: &[k1::SecretKey], signers: usize) {
    let path = ceremony.definition();
    let mut definition = Definition::read(&path).unwrap();
    definition.creator.address = address(&wallets[NODES]);
    definition.config_hash = definition.compute_config_hash().unwrap().to_vec();
    let hash = &definition.config_hash;
    let digest = eip712::creator_config_digest(hash, HOODI_CHAIN);
    definition.creator.config_signature = wallets[NODES].sign(&digest).to_vec();
    for (index, operator) in definition.operators.iter_mut().enumerate() {
        operator.enr.clone_from(&ceremony.records()[index]);
        if index >= signers {
            continue;
        }
        let digest = eip712::operator_config_digest(definition.version, hash, HOODI_CHAIN);
        operator.config_signature = wallets[index].sign(&digest).to_vec();
        let digest = eip712::enr_digest(&operator.enr, HOODI_CHAIN);
        operator.enr_signature = wallets[index].sign(&digest).to_vec();
    }
    definition.update_hashes().unwrap();
    std::fs::remove_file(&path).unwrap();
    definition.create_file(&path).unwrap();
}

fn address(wallet: &k1::SecretKey) -> String {
    let address = pluto_eth::address::Address(wallet.public_key().address());
    address.to_string()
}

/// Has four Charons hold a ceremony through a relay of ours.
async fn run(ceremony: &Ceremony, flags: &[&str]) {
    for node in 0..NODES {
        // Where Charon looks for it if it is not told, and leaves it.
        let copy = ceremony.node(node).join(DEFINITION);
        std::fs::copy(ceremony.definition(), copy).unwrap();
    }
    let relay = PlutoRelay::start().await;
    let mut charons = Vec::new();
    for node in 0..NODES {
        charons.push(ceremony.run_through(node, &relay.url, flags).unwrap());
    }
    for charon in charons {
        charon.ended(LIMIT).await.unwrap();
    }
    relay.stop().await;
}

/// As [`run`]. There is nothing to say about the definition before, nor after it about what each node
/// has, nor about all together.
async fn hold(ceremony: &Ceremony) {
    assert_eq!(findings(&ceremony.definition()), json!([]));
    run(ceremony, &[]).await;
    for node in 0..NODES {
        assert_eq!(findings(&ceremony.node(node)), json!([]));
    }
    assert_eq!(findings(ceremony.dir()), json!([]));
    let keys = ceremony.dir().join("keys");
    combine(ceremony.dir(), &keys);
    let lock = ceremony.node(0).join("cluster-lock.json");
    assert_eq!(recovered(&keys), expected(&lock));
}

fn findings(path: &Path) -> Value {
    let mut report = report(path);
    assert_eq!(report["ok"], true, "{report}");
    report["findings"].take()
}

fn report(path: &Path) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pluto"));
    command.args(["verify", "--json", "--strict"]).arg(path);
    let output = command.env_remove("RUST_LOG").output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], output.status.success(), "{report}");
    report
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
