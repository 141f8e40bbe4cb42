//! `pluto create cluster` and `pluto create dkg`: what they make is right, and nothing is overwritten.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pluto_cluster::{Definition, LockFile, eip712};
use pluto_crypto::k1;
use pluto_eth::network::Network;

#[path = "../../cluster/tests/common/server.rs"]
#[allow(dead_code, reason = "not every test has a use for everything")]
mod server;

mod common;

use common::copy_dir;
use server::{Answer, Server};

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
        assert_eq!(refused.status.code(), Some(2), "{wrong:?} {refused:?}");
        assert!(stderr(&refused).contains(told), "{wrong:?} {refused:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_definition_that_would_lose_money_or_cannot_work_is_refused() {
    const ZERO: &str = "0x0000000000000000000000000000000000000000";
    let lower = ADDRESS.to_lowercase();
    let wallets = [1, 2, 3].map(|it| format!("0x{}", format!("0{it}").repeat(20)));
    let (three, two) = (wallets.join(","), wallets[..2].join(","));
    let dir = tempfile::tempdir().unwrap();
    let create = |network: &str, withdrawal: &str, operators: &str, more: &[&str]| {
        let mut args = vec!["create", "dkg", "--network", network];
        args.extend(["--withdrawal-addresses", withdrawal]);
        args.extend(["--operator-addresses", operators]);
        args.extend(["--fee-recipient-addresses", ADDRESS]);
        args.extend(["--output-dir", dir.path().to_str().unwrap()]);
        args.extend(more);
        pluto(&args)
    };
    for (refused, told) in [
        (create("mainnet", ZERO, &three, &[]), "would be lost"),
        (create("gnosis", ZERO, &three, &[]), "would be lost"),
        (create("hoodi", &lower, &three, &[]), "checksum"),
        (create("hoodi", ADDRESS, &two, &[]), "fewer than 3"),
        (
            create("hoodi", ADDRESS, &three, &["--publish"]),
            "not supported",
        ),
    ] {
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(stderr(&refused).contains(told), "{refused:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    // Where nothing can be lost.
    assert!(create("hoodi", ZERO, &three, &[]).status.success());
}

#[test]
fn a_cluster_is_not_made_of_a_definition_that_others_joined_or_that_loses_the_stake() {
    let dir = tempfile::tempdir().unwrap();
    let enrs = || {
        let key = k1::SecretKey::generate();
        pluto_crypto::enr::Enr::for_key(&key).text().to_owned()
    };
    let enrs = [enrs(), enrs(), enrs()].join(",");
    let created = pluto(&[
        "create",
        "dkg",
        "--network=hoodi",
        "--operator-enrs",
        &enrs,
        "--withdrawal-addresses",
        ADDRESS,
        "--fee-recipient-addresses",
        ADDRESS,
        "--output-dir",
        dir.path().to_str().unwrap(),
    ]);
    assert!(created.status.success(), "{created:?}");
    let made = Definition::read(dir.path().join("cluster-definition.json")).unwrap();
    let path = dir.path().join("changed.json");
    let out = dir.path().join("out");
    let refused = |definition: &Definition, told: &str| {
        fs::write(&path, definition.to_json().unwrap()).unwrap();
        let place = path.to_str().unwrap();
        let refused = create_bare(&out, &["--definition-file", place]);
        assert!(!refused.status.success());
        assert!(stderr(&refused).contains(told), "{refused:?}");
        assert!(!out.exists());
    };

    let mut lost = made.clone();
    lost.fork_version = vec![0; 4];
    let pluto_cluster::Addresses::Each(addresses) = &mut lost.addresses else {
        panic!("one for all: {lost:?}");
    };
    addresses[0].withdrawal = format!("0x{}", "00".repeat(20));
    lost.update_hashes().unwrap();
    refused(&lost, "would be lost");

    let mut joined = made;
    let wallets = [(); 4].map(|()| k1::SecretKey::generate());
    let address = |wallet: &k1::SecretKey| {
        pluto_eth::address::Address(wallet.public_key().address()).to_string()
    };
    for (operator, wallet) in joined.operators.iter_mut().zip(&wallets) {
        operator.address = address(wallet);
    }
    joined.creator.address = address(&wallets[3]);
    joined.config_hash = joined.compute_config_hash().unwrap().to_vec();
    let (hash, chain) = (&joined.config_hash, 560_048);
    let digest = eip712::creator_config_digest(hash, chain);
    joined.creator.config_signature = wallets[3].sign(&digest).to_vec();
    for (operator, wallet) in joined.operators.iter_mut().zip(&wallets) {
        let digest = eip712::operator_config_digest(joined.version, hash, chain);
        operator.config_signature = wallet.sign(&digest).to_vec();
        let digest = eip712::enr_digest(&operator.enr, chain);
        operator.enr_signature = wallet.sign(&digest).to_vec();
    }
    joined.update_hashes().unwrap();
    refused(&joined, "3 operators of the definition have joined");
}

/// The place of the third is taken by a link to nowhere, which shows when it is to be replaced.
#[cfg(unix)]
#[test]
fn nodes_appear_all_or_none_and_nobody_else_reads_their_lock() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("node2");
    symlink(dir.path().join("nowhere"), &link).unwrap();
    let refused = create_cluster(dir.path(), &[]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(stderr(&refused).contains("node2"), "{refused:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    fs::remove_file(&link).unwrap();
    assert!(create_cluster(dir.path(), &[]).status.success());
    for node in 0..4 {
        let path = dir.path().join(format!("node{node}/cluster-lock.json"));
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o400);
    }
}

/// The last letter of each is another one than its checksum is for.
#[test]
fn an_address_with_a_wrong_digit_is_refused_by_its_checksum() {
    const WRONG: &str = "0x321DcB529F3945Bc94fecEA9D3BC5CAF35253B95";
    let dir = tempfile::tempdir().unwrap();
    let create = |withdrawal: &str, fees: &str| {
        let withdrawal = format!("--withdrawal-addresses={withdrawal}");
        let fees = format!("--fee-recipient-addresses={fees}");
        let out = dir.path().join("out");
        let mut args = vec!["--nodes=3", "--num-validators=1", "--network=hoodi"];
        args.extend(["--insecure-keys", withdrawal.as_str(), fees.as_str()]);
        create_bare(&out, &args)
    };
    for (withdrawal, fees) in [(WRONG, ADDRESS), (ADDRESS, WRONG)] {
        let refused = create(withdrawal, fees);
        assert!(!refused.status.success());
        assert!(stderr(&refused).contains("checksum"), "{refused:?}");
        assert!(!dir.path().join("out").exists());
    }
    let upper = format!("0x{}", ADDRESS[2..].to_uppercase());
    let created = create(&ADDRESS.to_lowercase(), &upper);
    assert!(created.status.success(), "{created:?}");
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

#[test]
fn combine_looks_at_its_output_first_and_never_deletes_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = dir.path().join("cluster");
    assert!(create_cluster(&cluster, &[]).status.success());
    let out = dir.path().join("new/keys");
    let combine = |cluster: &Path| {
        let (from, to) = (cluster.to_str().unwrap(), out.to_str().unwrap());
        pluto(&["combine", "--cluster-dir", from, "--output-dir", to])
    };
    // Nothing is made for nothing.
    assert!(!combine(&dir.path().join("nowhere")).status.success());
    assert!(!dir.path().join("new").exists());
    assert!(combine(&cluster).status.success());
    let keystore = out.join("keystore-0.json");
    let first = fs::read(&keystore).unwrap();

    // Said before anything is read: there is no cluster.
    let refused = combine(&dir.path().join("nowhere"));
    assert!(stderr(&refused).contains("--force"), "{refused:?}");

    for (old, end) in [("keys.old", ""), ("keys.old2", "/")] {
        let before = fs::read(&keystore).unwrap();
        let mut args = vec!["combine", "--force", "--cluster-dir"];
        args.push(cluster.to_str().unwrap());
        let to = format!("--output-dir={}{end}", out.display());
        args.push(&to);
        let forced = pluto(&args);
        assert!(forced.status.success(), "{forced:?}");
        assert!(stdout(&forced).contains(old), "{forced:?}");
        let away = dir.path().join("new").join(old).join("keystore-0.json");
        assert_eq!(fs::read(away).unwrap(), before);
    }
    assert_ne!(fs::read(&keystore).unwrap(), first);
}

#[test]
fn a_wrong_lock_or_another_cluster_is_refused_unless_that_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = dir.path().join("cluster");
    assert!(create_cluster(&cluster, &[]).status.success());
    let out = dir.path().join("out");
    let combine = |more: &[&str]| {
        let (from, to) = (cluster.to_str().unwrap(), out.to_str().unwrap());
        let mut args = vec!["combine", "--cluster-dir", from, "--output-dir", to];
        args.extend(more);
        pluto(&args)
    };
    let refused = |told: &str| {
        let refused = combine(&[]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(stderr(&refused).contains(told), "{refused:?}");
        assert!(!out.exists());
    };
    let replace = |node: &str, lock: &LockFile| {
        let path = cluster.join(node).join("cluster-lock.json");
        fs::remove_file(&path).unwrap();
        fs::write(&path, lock.to_json().unwrap()).unwrap();
    };
    let path = cluster.join("node1/cluster-lock.json");
    let right = LockFile::read(&path).unwrap();

    // A node that is given twice.
    let copy = cluster.join("node7");
    fs::rename(cluster.join("node3"), dir.path().join("away")).unwrap();
    copy_dir(&cluster.join("node2"), &copy);
    refused("are of one node");
    fs::remove_dir_all(&copy).unwrap();
    fs::rename(dir.path().join("away"), cluster.join("node3")).unwrap();

    // Signed by nobody.
    let mut wrong = right.clone();
    wrong.node_signatures[2][7] ^= 1;
    replace("node1", &wrong);
    refused("node_signatures[2]");

    // Of another cluster.
    let mut other = right.clone();
    other.definition.name = "another".to_owned();
    other.definition.config_hash = other.definition.compute_config_hash().unwrap().to_vec();
    other.update_hashes().unwrap();
    replace("node1", &other);
    refused("of another cluster");

    let combined = combine(&["--no-verify"]);
    assert!(combined.status.success(), "{combined:?}");
    for told in ["warning: ", "of another cluster", "signature_aggregate"] {
        assert!(stderr(&combined).contains(told), "{combined:?}");
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 4);
}

/// Secret keys are in what a run has written so far.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_in_the_middle_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = dir.path().join("whole");
    let many = ["--nodes=3", "--num-validators=100"];
    assert!(create_with(&cluster, &many, &[]).status.success());
    let (from, made) = (cluster.to_str().unwrap(), dir.path().join("made"));
    let made = made.to_str().unwrap();

    let mut create = vec![
        "create",
        "cluster",
        "--network=hoodi",
        "--cluster-dir",
        made,
    ];
    create.extend(["--withdrawal-addresses", ADDRESS]);
    create.extend(["--fee-recipient-addresses", ADDRESS]);
    create.extend(many);
    let combine = vec!["combine", "--cluster-dir", from, "--output-dir", made];
    let mut devnet = vec!["devnet", "--nodes=16", "--validators=50"];
    devnet.extend(["--data-dir", made]);
    for (args, signal, code) in [
        (&create, "INT", 130),
        (&create, "TERM", 143),
        (&combine, "INT", 130),
        (&devnet, "TERM", 143),
    ] {
        let stopped = stop(args, signal);
        assert_eq!(stopped.status.code(), Some(code), "{stopped:?}");
        assert!(stderr(&stopped).contains("nothing was made"), "{stopped:?}");
        assert!(!stderr(&stopped).contains("keystores"), "{stopped:?}");
        let left = fs::read_dir(made).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{args:?}");
    }
    let beside = fs::read_dir(dir.path()).unwrap();
    let beside = beside.map(|it| it.unwrap().file_name());
    assert!(beside.into_iter().all(|it| it == "whole" || it == "made"));
}

/// Sends a signal as soon as it is listened for.
#[cfg(target_os = "linux")]
fn stop(args: &[&str], signal: &str) -> Output {
    use std::{process::Stdio, time::Instant};

    let mut command = Command::new(env!("CARGO_BIN_EXE_pluto"));
    command.args(args).env_remove("RUST_LOG");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let listens = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|it| it.strip_prefix("SigCgt:"));
        let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
        // SIGTERM is listened for last.
        caught & 1 << 14 != 0
    };
    let began = Instant::now();
    while !listens() {
        assert!(began.elapsed().as_secs() < 60, "it never listens");
        std::thread::yield_now();
    }
    let (signal, id) = (format!("-{signal}"), child.id().to_string());
    let sent = Command::new("kill").args([signal, id]).status();
    assert!(sent.unwrap().success());
    child.wait_with_output().unwrap()
}

#[test]
fn what_a_run_that_was_killed_has_left_is_named_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join(".cluster.0123456789abcdef.tmp");
    fs::create_dir(&left).unwrap();
    let created = create_cluster(dir.path(), &[]);
    assert!(created.status.success(), "{created:?}");
    assert!(
        stderr(&created).contains(left.to_str().unwrap()),
        "{created:?}"
    );
    assert!(left.exists());
}

#[test]
fn keys_that_exist_are_split_and_put_together_again() {
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("first");
    assert!(create_cluster(&first, &[]).status.success());
    let keys = dir.path().join("keys");
    let combine = |cluster: &Path, keys: &Path| {
        let (from, to) = (cluster.to_str().unwrap(), keys.to_str().unwrap());
        let combined = pluto(&["combine", "--cluster-dir", from, "--output-dir", to]);
        assert!(combined.status.success(), "{combined:?}");
    };
    combine(&first, &keys);

    let flags = [
        "--split-existing-keys",
        "--split-keys-dir",
        keys.to_str().unwrap(),
    ];
    let second = dir.path().join("second");
    let created = create_with(&second, &["--nodes=4"], &flags);
    assert!(created.status.success(), "{created:?}");
    assert_eq!(validators(&first), validators(&second));
    assert!(stdout(&created).contains("slashed"), "{created:?}");
    // Registered with builders after what may be registered of them already.
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let hour_ago = hour_ago.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let registered = |cluster: &Path| {
        let lock = LockFile::read(cluster.join("node0/cluster-lock.json")).unwrap();
        u64::try_from(lock.validators[0].registration.timestamp).unwrap()
    };
    assert_eq!(registered(&first), Network::HOODI.genesis_time_secs());
    assert!(registered(&second) > hour_ago);

    // With an address for each they go by their numbers.
    let third = dir.path().join("third");
    let two = format!("--withdrawal-addresses={ADDRESS},0x{}", "22".repeat(20));
    let mut more = flags.to_vec();
    more.push(&two);
    let created = create_with(&third, &["--nodes=4"], &more);
    assert!(created.status.success(), "{created:?}");
    assert_eq!(validators(&first), validators(&third));
    combine(&third, &dir.path().join("again"));

    fs::rename(keys.join("keystore-1.json"), keys.join("other.json")).unwrap();
    fs::rename(keys.join("keystore-1.txt"), keys.join("other.txt")).unwrap();
    let fourth = dir.path().join("fourth");
    let refused = create_with(&fourth, &["--nodes=4"], &more);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(!fourth.exists());

    // One key for two validators, a wrong password, no key.
    let copy = |from: &str, to: &str| fs::copy(keys.join(from), keys.join(to)).unwrap();
    copy("other.json", "same.json");
    copy("other.txt", "same.txt");
    let refused = create_with(&fourth, &["--nodes=4"], &flags);
    assert!(stderr(&refused).contains("the same key"), "{refused:?}");
    for name in ["same.json", "same.txt", "other.txt"] {
        fs::remove_file(keys.join(name)).unwrap();
    }
    let refused = create_with(&fourth, &["--nodes=4"], &flags);
    let missing = "other.txt does not exist";
    assert!(stderr(&refused).contains(missing), "{refused:?}");
    // What the flags say is looked at first.
    let mut nowhere = flags.to_vec();
    nowhere.push("--network=nowhere");
    let refused = create_with(&fourth, &["--nodes=4"], &nowhere);
    assert!(stderr(&refused).contains("`nowhere`"), "{refused:?}");
    assert!(!stderr(&refused).contains("decrypted"), "{refused:?}");
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let flags = [
        "--split-existing-keys",
        "--split-keys-dir",
        empty.to_str().unwrap(),
    ];
    let refused = create_with(&fourth, &["--nodes=4"], &flags);
    assert!(stderr(&refused).contains("no keystores"), "{refused:?}");
    assert!(!fourth.exists());
}

#[test]
fn a_definition_is_made_into_a_cluster_from_a_file_and_from_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("first");
    let created = create_cluster(&first, &["--deposit-amounts=16,16", "--threshold=4"]);
    let enrs = stdout(&created);
    let enrs = enrs.split_whitespace().filter(|it| it.starts_with("enr:"));
    let enrs = enrs.collect::<Vec<_>>().join(",");
    let mut args = vec![
        "create",
        "dkg",
        "--network=hoodi",
        "--name=mine",
        "--threshold=4",
    ];
    args.extend([
        "--num-validators=3",
        "--compounding",
        "--deposit-amounts=16,16",
    ]);
    args.extend([
        "--operator-enrs",
        &enrs,
        "--output-dir",
        dir.path().to_str().unwrap(),
    ]);
    args.extend([
        "--fee-recipient-addresses",
        ADDRESS,
        "--withdrawal-addresses",
        ADDRESS,
    ]);
    assert!(pluto(&args).status.success());
    let definition = dir.path().join("cluster-definition.json");
    let json = fs::read(&definition).unwrap();
    let server = Server::start(Answer::Body(200, json.clone()));

    for (name, place) in [
        ("file", definition.to_str().unwrap()),
        ("url", server.url.as_str()),
    ] {
        let cluster = dir.path().join(name);
        let args = ["--definition-file", place, "--insecure-keys"];
        let created = create_bare(&cluster, &args);
        assert!(created.status.success(), "{created:?}");
        let verified = pluto(&["verify", "--strict", "--json", cluster.to_str().unwrap()]);
        assert!(verified.status.success(), "{verified:?}");
        let report: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
        assert_eq!(report["summary"]["name"], "mine");
        assert_eq!(report["summary"]["threshold"], 4);
        assert_eq!(report["summary"]["num_validators"], 3);
        let findings = report["findings"].as_array().unwrap();
        assert!(
            findings.iter().all(|it| it["rule"] == "threshold"),
            "{report}"
        );
    }

    // What the definition says is not said again, and nobody else's cluster is made.
    let out = dir.path().join("out");
    let place = definition.to_str().unwrap();
    let both = create_bare(&out, &["--definition-file", place, "--nodes=4"]);
    assert_eq!(both.status.code(), Some(2), "{both:?}");
    let mut edited = json;
    let at = edited.windows(4).position(|it| it == b"mine").unwrap();
    edited[at] = b'w';
    let path = dir.path().join("edited.json");
    fs::write(&path, edited).unwrap();
    let refused = create_bare(&out, &["--definition-file", path.to_str().unwrap()]);
    assert!(stderr(&refused).contains("config_hash"), "{refused:?}");
    assert!(!out.exists());
}

/// Files of environments that were written for Charon say here what they say there.
#[test]
fn what_the_flags_leave_out_is_read_from_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let (addresses, out) = (format!("{ADDRESS},{ADDRESS}"), dir.path().join("out"));
    let variables = [
        ("CHARON_NETWORK", "hoodi"),
        ("CHARON_NUM_VALIDATORS", "2"),
        ("CHARON_COMPOUNDING", "1"),
        ("CHARON_PUBLISH", "false"),
        ("CHARON_TARGET_GAS_LIMIT", ""),
        ("CHARON_WITHDRAWAL_ADDRESSES", &addresses),
        ("CHARON_FEE_RECIPIENT_ADDRESSES", ADDRESS),
        ("CHARON_OUTPUT_DIR", out.to_str().unwrap()),
        ("CHARON_NAME", "theirs"),
    ];
    let wallets = [1, 2, 3].map(|it| format!("0x{}", format!("0{it}").repeat(20)));
    let mut command = Command::new(env!("CARGO_BIN_EXE_pluto"));
    command.args(["create", "dkg", "--name=ours", "--operator-addresses"]);
    let created = command.arg(wallets.join(",")).envs(variables).output();
    let created = created.unwrap();
    assert!(created.status.success(), "{created:?}");

    let definition = out.join("cluster-definition.json");
    let definition = Definition::read(definition).unwrap();
    assert_eq!(definition.name, "ours", "a flag counts more");
    assert_eq!(definition.fork_version, [0x10, 0, 9, 0x10]);
    assert_eq!(definition.num_validators, 2);
    assert!(definition.compounding);
    assert_eq!(definition.target_gas_limit, 60_000_000);
}

#[test]
fn addresses_are_asked_for_by_the_command_that_needs_them() {
    for command in ["dkg", "cluster"] {
        let mut args = vec!["create", command, "--network=hoodi"];
        args.extend(match command {
            "dkg" => &["--operator-enrs=enr:-a"][..],
            _ => &["--nodes=4", "--num-validators=1"],
        });
        let missing = pluto(&args);
        assert_eq!(missing.status.code(), Some(2), "{missing:?}");
        for told in [
            "--fee-recipient-addresses",
            "--withdrawal-addresses",
            command,
        ] {
            assert!(stderr(&missing).contains(told), "{missing:?}");
        }
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for flag in [
        "--publish",
        "--zipped",
        "--keymanager-addresses=http://127.0.0.1:1",
        "--keymanager-auth-tokens=a",
    ] {
        let refused = create_cluster(dir.path(), &[flag]);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let name = flag.split('=').next().unwrap();
        assert!(stderr(&refused).contains(name), "{refused:?}");
        assert!(stderr(&refused).contains("not supported"), "{refused:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_definition_may_name_wallets_and_then_says_who_has_not_joined() {
    let dir = tempfile::tempdir().unwrap();
    let wallets = [1, 2, 3].map(|it| format!("0x{}", format!("0{it}").repeat(20)));
    let wallets = wallets.join(",");
    let out = dir.path().to_str().unwrap();
    let mut args = vec!["create", "dkg", "--network=hoodi", "--output-dir", out];
    args.extend(["--operator-addresses", &wallets, "--threshold=3"]);
    args.extend([
        "--fee-recipient-addresses",
        ADDRESS,
        "--withdrawal-addresses",
        ADDRESS,
    ]);
    let created = pluto(&args);
    assert!(created.status.success(), "{created:?}");
    let definition = dir.path().join("cluster-definition.json");
    let verified = pluto(&["verify", definition.to_str().unwrap()]);
    assert_eq!(verified.status.code(), Some(1));
    let said = stdout(&verified);
    for operator in 0..3 {
        let place = format!("operators[{operator}].enr_signature");
        assert!(said.contains(&place), "{said}");
    }
    args.extend(["--operator-enrs", "enr:-a"]);
    assert_eq!(pluto(&args).status.code(), Some(2));
}

/// The validators' keys, as the lock of the first node has them.
fn validators(cluster: &Path) -> Vec<Vec<u8>> {
    let lock = cluster.join("node0/cluster-lock.json");
    let lock = LockFile::read(lock).unwrap();
    let mut keys: Vec<_> = lock.validators.into_iter().map(|it| it.pubkey).collect();
    keys.sort();
    keys
}

/// Four nodes with two validators on hoodi, unless `more` says otherwise.
fn create_cluster(dir: &Path, more: &[&str]) -> Output {
    create_with(dir, &["--nodes=4", "--num-validators=2"], more)
}

fn create_bare(dir: &Path, args: &[&str]) -> Output {
    let mut all = vec!["create", "cluster", "--cluster-dir", dir.to_str().unwrap()];
    all.extend(args);
    pluto(&all)
}

fn create_with(dir: &Path, size: &[&str], more: &[&str]) -> Output {
    let mut args = vec!["create", "cluster"];
    args.extend(size);
    args.extend(["--insecure-keys", "--fee-recipient-addresses", ADDRESS]);
    if !more.iter().any(|it| it.starts_with("--withdrawal")) {
        args.extend(["--withdrawal-addresses", ADDRESS]);
    }
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
