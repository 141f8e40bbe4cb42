//! The binary as a user runs it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    path::Path,
    process::{Command, Output},
};

#[test]
fn an_enr_is_created_once_and_shown_again() {
    let dir = tempfile::tempdir().unwrap();
    let created = pluto(&["create", "enr"], dir.path());
    assert!(created.status.success(), "{created:?}");
    let enr = stdout(&created)
        .lines()
        .find(|line| line.starts_with("enr:"))
        .unwrap()
        .to_owned();
    assert_eq!(enr.len(), 163);

    let shown = pluto(&["enr"], dir.path());
    assert_eq!(stdout(&shown).trim(), enr);

    let key = dir.path().join("charon-enr-private-key");
    let before = std::fs::read(&key).unwrap();
    let again = pluto(&["create", "enr"], dir.path());
    assert_eq!(again.status.code(), Some(1));
    assert!(
        stderr(&again).contains("charon-enr-private-key"),
        "{again:?}"
    );
    assert_eq!(std::fs::read(&key).unwrap(), before);
}

#[test]
fn a_wrong_key_file_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("charon-enr-private-key");
    std::fs::write(&key, "not a key").unwrap();
    for command in [&["enr"][..], &["create", "enr"]] {
        let output = pluto(command, dir.path());
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr(&output).contains("charon-enr-private-key"),
            "{output:?}"
        );
        assert_eq!(std::fs::read(&key).unwrap(), b"not a key");
    }
}

#[test]
fn a_devnet_signs_heals_and_says_so_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let output = pluto(
        &[
            "devnet",
            "--slots",
            "6",
            "--slot-duration",
            "500ms",
            "--json",
            "--kill",
            "2@1",
            "--restart",
            "2@3",
        ],
        dir.path(),
    );
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<serde_json::Value> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let event = |name: &str| lines.iter().find(|line| line["event"] == name).cloned();
    let summary = lines.last().unwrap();
    assert_eq!(summary["event"], "summary");
    assert_eq!(summary["ok"], true);
    assert_eq!(summary["complete"], 6);
    assert_eq!(event("killed").unwrap()["node"], 2);
    assert!(event("back").unwrap()["after_ms"].as_f64().unwrap() < 2000.0);
    // They knew nothing but a relay's URL.
    let relays = event("started").unwrap()["relays"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(relays, 1);
    for path in ["mesh", "direct", "quic"] {
        assert!(event(path).is_some(), "{path}: {}", stdout(&output));
    }
    let key = dir.path().join("node0/charon-enr-private-key");
    assert_eq!(std::fs::read(key).unwrap().len(), 64);
}

#[test]
fn a_devnet_stays_on_its_relays_if_it_is_told_to_and_needs_none() {
    let dir = tempfile::tempdir().unwrap();
    for (more, relays) in [
        (&["--no-direct", "--relays", "2"][..], 2),
        (&["--relays", "0"], 0),
    ] {
        let mut args = vec![
            "devnet",
            "--slots",
            "2",
            "--slot-duration",
            "500ms",
            "--json",
        ];
        args.extend(more);
        let output = pluto(&args, dir.path());
        assert!(output.status.success(), "{output:?}");
        let said = stdout(&output);
        let started: serde_json::Value =
            serde_json::from_str(said.lines().next().unwrap()).unwrap();
        assert_eq!(started["relays"].as_array().unwrap().len(), relays);
        assert!(!said.contains(r#""event":"direct""#), "{said}");
    }
}

#[test]
fn a_devnet_leaves_a_cluster_that_is_right_and_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let run = |more: &[&str]| {
        let mut args = vec![
            "devnet",
            "--slots",
            "1",
            "--slot-duration",
            "500ms",
            "--json",
        ];
        args.extend(more);
        pluto(&args, dir.path())
    };
    let started = |output: &Output| {
        assert!(output.status.success(), "{output:?}");
        let first = stdout(output).lines().next().unwrap().to_owned();
        let event: serde_json::Value = serde_json::from_str(&first).unwrap();
        let nodes = event["nodes"].as_array().unwrap().clone();
        nodes
            .iter()
            .map(|it| it["peer_id"].clone())
            .collect::<Vec<_>>()
    };
    let first = started(&run(&[]));

    let mut verify = Command::new(env!("CARGO_BIN_EXE_pluto"));
    let verified = verify.args(["verify", "--strict"]).arg(dir.path());
    let verified = verified.output().unwrap();
    assert!(verified.status.success(), "{verified:?}");
    let said = stdout(&verified);
    assert!(
        said.contains("0 errors, 0 warnings, 0 unchecked, 0 notes"),
        "{said}"
    );

    assert_eq!(started(&run(&[])), first);
    let other = run(&["--validators", "3"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(
        stderr(&other).contains("--nodes 4 --threshold 3 --validators 2"),
        "{other:?}"
    );
}

/// As `pluto … | head` leaves it.
#[test]
fn nobody_reading_changes_no_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    for (args, code) in [
        (&["create", "enr"][..], 0),
        (&["enr"], 0),
        (&["version"], 0),
        (&["verify"], 0),
        (&["combine", "--cluster-dir"], 1),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pluto"));
        command.args(args);
        match args[0] {
            "version" => &mut command,
            "enr" | "create" => command.arg("--data-dir").arg(dir.path()),
            _ => command.arg(dir.path()),
        };
        let status = command.stdout(closed()).stderr(closed()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}");
    }
}

#[test]
fn wrong_usage_is_told_from_failure() {
    let dir = tempfile::tempdir().unwrap();
    for wrong in [
        &["devnet", "--kill", "9"][..],
        &["devnet", "--slot-duration", "1"],
        &["devnet", "--nodes", "1"],
        &["no-such-command"],
    ] {
        assert_eq!(pluto(wrong, dir.path()).status.code(), Some(2), "{wrong:?}");
    }
    for (wrong, told) in [
        (&["--kill=9@1"][..], "node 9 does not exist"),
        (&["--kill=1@2", "--slots=2"], "slot 2 does not exist"),
        (&["--restart=1@2"], "node 1 cannot be started again"),
        (
            &["--kill=1@3", "--restart=1@2"],
            "node 1 cannot be started again",
        ),
        (&["--kill=1@3", "--kill=1@4"], "node 1 cannot be stopped"),
        (&["--threshold=1"], "choose 2 to 4"),
    ] {
        let args = [&["devnet"][..], wrong].concat();
        let output = pluto(&args, dir.path());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains(told), "{output:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

fn pluto(args: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pluto"));
    command.args(args);
    if args[0] != "no-such-command" {
        command.arg("--data-dir").arg(dir);
    }
    command.env_remove("RUST_LOG").output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
