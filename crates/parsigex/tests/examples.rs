//! The examples do what they say.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

#[path = "../examples/cluster.rs"]
#[allow(dead_code, reason = "its `main` is for the command line")]
mod cluster;
#[path = "../examples/listen.rs"]
#[allow(dead_code, reason = "its `main` is for the command line")]
mod listen;
mod support;

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use clap::Parser;
use futures::future::{join, pending};
use libp2p::{identity::Keypair, multiaddr::Protocol};
use listen::{Args, ListenError};
use pluto_crypto::{enr::Enr, k1, keyfile};
use pluto_testkit::{LIMIT, TCP, within};
use serde_json::json;
use support::{Cluster, Node, message, share_idx};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

const HOODI: [u8; 4] = [0x10, 0, 0x09, 0x10];

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_of_the_example_signs() {
    let mut out = Vec::new();
    within(cluster::run(&mut out)).await.unwrap();

    let out = String::from_utf8(out).unwrap();
    let count = |what| out.lines().filter(|line| line.contains(what)).count();
    assert_eq!(count("of 100/randao sent to "), 6, "{out}");
    assert_eq!(count("make a signature of "), 3, "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listening_member_prints_each_signature_and_what_it_refuses() {
    for (fork_version, unverified) in [(HOODI, false), (HOODI, true), (*b"none", false)] {
        let mut cluster = Cluster::new::<4>(3, 2);
        if let Some((_, forks, _)) = listen::network(fork_version) {
            cluster.forks = forks;
        }
        let dir = files(&cluster, fork_version, 0);
        let mut nodes = Vec::new();
        for operator in 1..4 {
            nodes.push(cluster.start_one(operator, TCP).await.0);
        }
        pluto_testkit::introduce(&nodes);
        // Some days after genesis, so that it is over on any clock.
        let slot = 30_000;
        // Signed by nobody of the cluster, when somebody looks.
        let mut forged = cluster.sign(1, slot + 1);
        forged.set = message(
            0,
            forged.set.into_iter().map(|(pubkey, mut entry)| {
                entry.data = cluster
                    .sign(2, slot + 1)
                    .set
                    .get(&pubkey)
                    .unwrap()
                    .data
                    .clone();
                (pubkey, entry)
            }),
        )
        .set;

        let (mut out, (mut notes, mut noted)) = (Vec::new(), Lines::new());
        let verified = fork_version == HOODI && !unverified;
        let (known, enough) = match (verified, unverified) {
            (true, _) => ("signatures are verified for hoodi", "6"),
            (_, true) => ("signatures are NOT verified, as told", "8"),
            _ => (
                "its network is not known here: signatures are NOT verified",
                "8",
            ),
        };
        let refused = format!(
            "refused: {} from {}: 2 signatures",
            forged.duty,
            nodes[0].id()
        );
        let mut args = args(&dir, &nodes, &["--count", enough]);
        args.unverified = unverified;
        let listening = listen::listen(args, pending(), &mut out, &mut notes);
        let by = Instant::now() + LIMIT;
        let sending = async {
            nodes[0].handle.handle.broadcast(&forged, by).await;
            let mut notes = String::new();
            while verified && !(notes.contains(&refused) && notes.contains("--unverified")) {
                notes += &noted.recv().await.unwrap();
            }
            for (place, node) in nodes.iter().enumerate() {
                let message = cluster.sign(place + 1, slot);
                // Not waited for: the listener goes as soon as it has enough.
                tokio::spawn(node.handle.handle.broadcast(&message, by));
            }
            notes
        };
        let (received, mut notes) = within(join(listening, sending)).await;
        while let Ok(note) = noted.try_recv() {
            notes += &note;
        }

        assert_eq!(received.unwrap().to_string(), enough);
        let out = String::from_utf8(out).unwrap();
        let mut lines: Vec<&str> = out.lines().collect();
        lines.retain(|line| !line.starts_with("slot 30001 "));
        lines.sort_unstable();
        let ids = cluster.ids();
        let mut expected = Vec::new();
        for (operator, peer) in ids.iter().enumerate().skip(1) {
            for validator in &cluster.validators {
                expected.push(format!(
                    "slot {slot} randao validator {} share {} peer {peer}",
                    validator.pubkey.short(),
                    share_idx(operator),
                ));
            }
        }
        expected.sort_unstable();
        assert_eq!(lines, expected, "{notes}");
        assert!(notes.contains(known), "{notes}");
        assert_eq!(notes.contains(&refused), verified, "{notes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listening_member_says_why_it_is_not_connected_and_ends_when_told() {
    let cluster = Cluster::new::<2>(2, 1);
    let dir = files(&cluster, HOODI, 0);
    let (absent, _events) = cluster.start_one(1, TCP).await;
    let (id, args) = (absent.id(), args(&dir, std::slice::from_ref(&absent), &[]));
    absent.stop().await;
    let (stop, stopped) = oneshot::channel();
    let (mut lines, mut notes) = Lines::new();

    let listening = tokio::spawn(async move {
        let stop = async { stopped.await.unwrap() };
        listen::listen(args, stop, &mut io::sink(), &mut lines).await
    });
    let why = format!("peer {id} was not reached in ");
    let said = async {
        let mut line = String::new();
        while !line.contains(&why) {
            line = notes.recv().await.unwrap();
        }
        line
    };
    let said = within(said).await;
    assert!(said.contains("; last at /ip4/127.0.0.1/tcp/"), "{said}");

    stop.send(()).unwrap();
    assert_eq!(within(listening).await.unwrap().unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listening_member_tells_wrong_files_from_wrong_arguments() {
    let (cluster, other) = (Cluster::new::<2>(2, 1), Cluster::new::<2>(2, 1));
    let (dir, foreign) = (files(&cluster, HOODI, 0), files(&other, HOODI, 0));
    let at = |cluster: &Cluster, operator: usize| {
        format!("/ip4/127.0.0.1/tcp/1/p2p/{}", cluster.ids()[operator])
    };
    let lock = dir.path().join("cluster-lock.json");
    let key = dir.path().join(keyfile::FILE_NAME);
    let foreign_key = foreign.path().join(keyfile::FILE_NAME);
    let missing = dir.path().join("missing");

    let cases = [
        (&missing, &key, at(&cluster, 1), 1, "missing"),
        (&key, &key, at(&cluster, 1), 1, "not a usable cluster lock"),
        (&lock, &missing, at(&cluster, 1), 1, "no private key at"),
        (&lock, &lock, at(&cluster, 1), 1, "not hexadecimal"),
        (
            &lock,
            &foreign_key,
            at(&cluster, 1),
            1,
            "not the key of an operator",
        ),
        (&lock, &key, at(&other, 1), 2, "is no operator in"),
        (
            &lock,
            &key,
            at(&cluster, 0),
            2,
            "the member whose key is used",
        ),
    ];
    for (lock, key, peer, code, says) in cases {
        let args = parse([lock, key].map(|path| path.as_path()), &[&peer], &[]).unwrap();
        let (mut out, mut notes) = (io::sink(), io::sink());
        let listening = listen::listen(args, pending(), &mut out, &mut notes);
        let error: ListenError = within(listening).await.unwrap_err();
        assert_eq!(error.exit_code(), code, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    for (peer, says) in [
        ("/ip4/127.0.0.1/tcp/3610", "does not end in /p2p/<peer id>"),
        ("127.0.0.1:3610", "no multiaddr"),
    ] {
        let error = parse([&lock, &key], &[peer], &[]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(says), "{error}");
    }
    let none = parse([&lock, &key], &[&at(&cluster, 1)], &["--count", "0"]).unwrap_err();
    assert_eq!(none.exit_code(), 2);
}

/// A folder with the lock of a cluster and the key of one of its operators.
fn files(cluster: &Cluster, fork_version: [u8; 4], operator: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let keys: Vec<_> = cluster.keys.iter().map(secret).collect();
    keyfile::store(dir.path().join(keyfile::FILE_NAME), &keys[operator]).unwrap();
    let operators = keys
        .iter()
        .map(|key| json!({"enr": Enr::for_key(key).text()}));
    let validators = cluster.validators.iter().map(|validator| {
        let shares = validator.shares.values();
        let shares = shares.map(|share| share.public_key().to_string());
        json!({
            "distributed_public_key": validator.pubkey.to_string(),
            "public_shares": shares.collect::<Vec<_>>(),
        })
    });
    let lock = json!({
        "cluster_definition": {
            "version": "v1.10.0",
            "name": "example",
            "uuid": "00000000-0000-0000-0000-000000000000",
            "threshold": cluster.threshold,
            "fork_version": format!("0x{}", hex::encode(fork_version)),
            "operators": operators.collect::<Vec<_>>(),
        },
        "distributed_validators": validators.collect::<Vec<_>>(),
        "lock_hash": format!("0x{}", "00".repeat(32)),
    });
    fs::write(dir.path().join("cluster-lock.json"), lock.to_string()).unwrap();
    dir
}

fn secret(key: &Keypair) -> k1::SecretKey {
    let key = key.clone().try_into_secp256k1().unwrap();
    k1::SecretKey::from_bytes(&key.secret().to_bytes()).unwrap()
}

fn args(dir: &TempDir, peers: &[Node], more: &[&str]) -> Args {
    let places = peers.iter().map(|node| {
        let address = node.addresses[0].clone();
        address.with(Protocol::P2p(node.id())).to_string()
    });
    let places: Vec<_> = places.collect();
    let places: Vec<_> = places.iter().map(String::as_str).collect();
    let files = ["cluster-lock.json", keyfile::FILE_NAME].map(|name| dir.path().join(name));
    parse(files.each_ref(), &places, more).unwrap()
}

/// As from the command line.
fn parse(
    [lock, key]: [impl AsRef<Path>; 2],
    peers: &[&str],
    more: &[&str],
) -> Result<Args, clap::Error> {
    let [lock, key] = [lock.as_ref(), key.as_ref()].map(|path| path.to_str().unwrap());
    let start = ["listen", "--lock", lock, "--key", key, "--peer"];
    Args::try_parse_from(start.iter().chain(peers).chain(more))
}

/// Passes on each line.
struct Lines {
    begun: Vec<u8>,
    to: mpsc::Sender<String>,
}

impl Lines {
    fn new() -> (Self, mpsc::Receiver<String>) {
        let (to, lines) = mpsc::channel(64);
        let begun = Vec::new();
        (Self { begun, to }, lines)
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun.extend_from_slice(bytes);
        while let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
            let rest = self.begun.split_off(end + 1);
            let line = String::from_utf8(std::mem::replace(&mut self.begun, rest));
            let line = line.map_err(io::Error::other)?;
            self.to.try_send(line).map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
