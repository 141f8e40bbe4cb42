//! `pluto create cluster` and `pluto create dkg`: what they make is right, and nothing is overwritten.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const ADDRESS: &str = "0x321DcB529F3945Bc94fecEA9D3BC5CAF35253B94";

#[test]
fn a_new_cluster_is_clean_and_its_enrs_make_a_definition() {
    let dir = tempfile::tempdir().unwrap();
    for version in ["v1.10", "v1.11"] {
        let cluster = dir.path().join(version);
        let created = create_cluster(&cluster, &["--charon-version", version]);
        assert!(created.status.success(), "{created:?}");
        assert!(stderr(&created).contains("8 of 8 keystores"));
        let names = fs::read_dir(&cluster).unwrap();
        let names = names.map(|it| it.unwrap().file_name().into_string().unwrap());
        assert!(names.into_iter().all(|it| it.starts_with("node")));

        let verified = pluto(&["verify", "--strict", cluster.to_str().unwrap()]);
        assert!(verified.status.success(), "{verified:?}");
        let stdout = stdout(&verified);
        assert!(
            stdout.contains("0 errors, 0 warnings, 0 unchecked, 0 notes"),
            "{stdout}"
        );
        assert!(stdout.contains(&format!("{version}.0")), "{stdout}");

        let enrs = self::stdout(&created);
        let enrs = enrs.split_whitespace().filter(|it| it.starts_with("enr:"));
        let enrs = enrs.collect::<Vec<_>>().join(",");
        let output_dir = dir.path().join(format!("definition-{version}"));
        let definition = output_dir.join("cluster-definition.json");
        let args = [
            "create",
            "dkg",
            "--network=hoodi",
            "--charon-version",
            version,
            "--operator-enrs",
            &enrs,
            "--fee-recipient-addresses",
            ADDRESS,
            "--withdrawal-addresses",
            ADDRESS,
            "--output-dir",
            output_dir.to_str().unwrap(),
        ];
        let created = pluto(&args);
        assert!(created.status.success(), "{created:?}");
        let verified = pluto(&["verify", "--strict", definition.to_str().unwrap()]);
        assert!(verified.status.success(), "{verified:?}");

        let before = fs::read(&definition).unwrap();
        assert_eq!(pluto(&args).status.code(), Some(1));
        assert_eq!(fs::read(&definition).unwrap(), before);
    }
}

#[test]
fn nothing_is_overwritten_and_nothing_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("node3")).unwrap();
    let refused = create_cluster(dir.path(), &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("node3"), "{refused:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn what_would_lose_money_or_cannot_work_is_refused() {
    for (wrong, told) in [
        (&["--network=mainnet"][..], "insecure"),
        (&["--network=nowhere"], "nowhere"),
        (&["--threshold=1"], "threshold"),
        (&["--threshold=5"], "threshold"),
        (&["--deposit-amounts=1"], "deposit"),
        (&["--deposit-amounts=33"], "deposit"),
        (&["--target-gas-limit=0"], "gas limit"),
        (&["--consensus-protocol=abft"], "abft"),
        (&["--testnet-name=mine"], "--testnet-chain-id"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let refused = create_cluster(dir.path(), wrong);
        assert_eq!(refused.status.code(), Some(1), "{wrong:?} {refused:?}");
        assert!(stderr(&refused).contains(told), "{wrong:?} {refused:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn keys_are_combined_from_a_threshold_of_different_nodes_and_no_fewer() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = dir.path().join("cluster");
    assert!(create_cluster(&cluster, &[]).status.success());
    let combine = |out: &str| {
        let out = dir.path().join(out);
        let flags = ["--cluster-dir", cluster.to_str().unwrap(), "--output-dir"];
        let mut args = vec!["combine"];
        args.extend(flags);
        args.push(out.to_str().unwrap());
        (pluto(&args), fs::read_dir(&out).map_or(0, Iterator::count))
    };
    fs::remove_dir_all(cluster.join("node1")).unwrap();
    let (combined, files) = combine("three");
    assert!(combined.status.success() && files == 4, "{combined:?}");
    let (again, _) = combine("three");
    assert_eq!(again.status.code(), Some(1));

    fs::rename(cluster.join("node2"), dir.path().join("away")).unwrap();
    let (few, files) = combine("two");
    assert!(stderr(&few).contains("threshold") && files == 0, "{few:?}");

    fs::rename(dir.path().join("away"), cluster.join("node2")).unwrap();
    for name in ["keystore-insecure-1.json", "keystore-insecure-1.txt"] {
        for node in [0, 2, 3] {
            let keys = cluster.join(format!("node{node}/validator_keys"));
            fs::remove_file(keys.join(name)).unwrap();
        }
    }
    let (fewer, files) = combine("fewer");
    assert!(
        stderr(&fewer).contains("1 keystores for 2 validators"),
        "{fewer:?}"
    );
    assert_eq!(files, 0);
}

/// Four nodes with two validators on hoodi, unless `more` says otherwise.
fn create_cluster(dir: &Path, more: &[&str]) -> Output {
    let mut args = vec!["create", "cluster", "--nodes=4", "--num-validators=2"];
    args.extend(["--insecure-keys", "--fee-recipient-addresses", ADDRESS]);
    args.extend(["--withdrawal-addresses", ADDRESS]);
    args.extend(["--cluster-dir", dir.to_str().unwrap()]);
    if !more.iter().any(|it| it.starts_with("--network")) {
        args.push("--network=hoodi");
    }
    args.extend(more);
    pluto(&args)
}

fn pluto(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pluto"));
    command.args(args).env_remove("RUST_LOG").output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
