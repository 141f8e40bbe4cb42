//! `pluto relay` as an operator runs it.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use serde_json::Value;

const KEY: &str = "charon-enr-private-key";

#[test]
fn the_identity_is_made_once_and_kept_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Relay::start(dir.path(), &[]);
    assert_eq!(first.next()["event"], "key created");
    let peer = first.until("serving")["peer"].clone();
    let key = std::fs::read(dir.path().join(KEY)).unwrap();
    assert_eq!(first.end()["how"], "no circuit runs any more");

    let mut second = Relay::start(dir.path(), &["--auto-p2pkey=false"]);
    assert_eq!(second.until("serving")["peer"], peer);
    second.end();
    assert_eq!(std::fs::read(dir.path().join(KEY)).unwrap(), key);
}

#[test]
fn a_key_is_neither_made_unasked_nor_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let missing = fails(dir.path(), &["--auto-p2pkey=false"]);
    assert!(missing.contains(KEY), "{missing}");
    assert!(!dir.path().join(KEY).exists());

    std::fs::write(dir.path().join(KEY), "not a key").unwrap();
    let wrong = fails(dir.path(), &[]);
    assert!(wrong.contains(KEY), "{wrong}");
    assert_eq!(std::fs::read(dir.path().join(KEY)).unwrap(), b"not a key");
}

#[test]
fn a_key_is_made_only_for_arguments_that_are_right_and_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for wrong in ["--p2p-tcp-address=3610", "--p2p-udp-address=:3610"] {
        let output = command(dir.path(), &[wrong]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(!dir.path().join(KEY).exists());
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let http = format!("--http-address={}", taken.local_addr().unwrap());
    let output = command(dir.path(), &[&http]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("Created the identity key"), "{output:?}");
}

#[test]
fn what_does_nothing_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut relay = Relay::start(dir.path(), &["--p2p-udp-address=", "--log-level=info"]);
    assert_eq!(relay.until("warning")["what"], "not used");
    assert_eq!(relay.until("warning")["what"], "no QUIC");
    relay.end();
}

#[test]
fn pages_are_where_the_flags_say_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let more = ["--monitoring-address=127.0.0.1:0"];
    let mut relay = Relay::start(dir.path(), &more);
    let serving = relay.until("serving");
    let list: Value = serde_json::from_str(&page(serving["http"].as_str().unwrap())).unwrap();
    assert_eq!(list, serving["addresses"]);
    assert_eq!(list.as_array().unwrap().len(), 2, "{list}");
    assert!(page(serving["monitoring"].as_str().unwrap()).contains("libp2p_relaysvc_status"));
    let warning = relay.until("warning");
    assert_eq!(warning["what"], "nothing public");
    relay.end();

    let mut silent = Relay::start(dir.path(), &["--http-address="]);
    let serving = silent.until("serving");
    assert!(serving["http"].is_null() && serving["monitoring"].is_null());
    silent.end();
}

#[test]
fn a_taken_port_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for flag in [
        "--http-address",
        "--monitoring-address",
        "--p2p-tcp-address",
    ] {
        let error = fails(dir.path(), &[&format!("{flag}=127.0.0.1:{port}")]);
        let lines: Vec<_> = error
            .lines()
            .filter(|line| line.starts_with("error:"))
            .collect();
        assert_eq!(lines.len(), 1, "{error}");
        assert!(
            lines[0].contains(&port) && lines[0].contains("taken"),
            "{error}"
        );
    }
}

#[test]
fn a_person_reads_what_to_do_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = command(dir.path(), &[]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("--p2p-relays http://127.0.0.1:") {
        assert!(out.read_line(&mut text).unwrap() > 0, "{text}");
    }
    assert!(text.contains("Created the identity key"), "{text}");
    assert!(text.contains("/ip4/127.0.0.1/tcp/"), "{text}");
    signal(&child, "INT");
    out.read_to_string(&mut text).unwrap();
    assert!(text.contains("Circuits that were cut: 0"), "{text}");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(warnings.matches("nobody outside").count(), 1, "{warnings}");
}

/// A relay that speaks JSON.
struct Relay {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Relay {
    fn start(dir: &Path, more: &[&str]) -> Self {
        let mut child = command(dir, more).arg("--json").spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        assert!(
            self.lines.read_line(&mut line).unwrap() > 0,
            "it said no more"
        );
        serde_json::from_str(&line).unwrap()
    }

    fn until(&mut self, event: &str) -> Value {
        loop {
            let line = self.next();
            if line["event"] == event {
                return line;
            }
        }
    }

    /// Ends it as a service manager does, and gives its last line.
    fn end(mut self) -> Value {
        signal(&self.child, "TERM");
        let ended = self.until("ended");
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0));
        ended
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It has ended, or the test has failed.
        let _ = self.child.kill();
    }
}

fn command(dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pluto"));
    command.arg("relay").arg("--data-dir").arg(dir);
    let given = |flag: &str| more.iter().any(|more| more.starts_with(flag));
    for (flag, value) in [
        ("--p2p-tcp-address", "127.0.0.1:0"),
        ("--p2p-udp-address", "127.0.0.1:0"),
        ("--http-address", "127.0.0.1:0"),
    ] {
        if !given(flag) {
            command.arg(format!("{flag}={value}"));
        }
    }
    command
        .args(more)
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs it to its end, which has to be a failure, and gives what it said.
fn fails(dir: &Path, more: &[&str]) -> String {
    let Output { status, stderr, .. } = command(dir, more).output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1), "{stderr}");
    stderr
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(child.id().to_string())
        .status();
    assert!(sent.unwrap().success());
}

fn page(url: &str) -> String {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}
