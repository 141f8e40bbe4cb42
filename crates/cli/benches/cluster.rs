//! `create cluster` and `combine` beside what they cannot do without: the derivation of the keystores'
//! keys on the cores there are.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot go on shall end here"
)]

use std::{cell::Cell, path::Path, process::Command};

use pluto_benchkit::{Samples, Table, Times, in_turns, is_bench};
use pluto_crypto::bls::SecretKey;
use pluto_eth::{
    keystore::{Cost, Derivations},
    threads,
};

const ADDRESS: &str = "0x321DcB529F3945Bc94fecEA9D3BC5CAF35253B94";
const NODES: usize = 4;
const ROUNDS: usize = 7;

fn main() {
    // Once, to see that it works, and then nobody waits for a hundred.
    let validators = if is_bench() { 100 } else { 1 };
    let dir = tempfile::tempdir().unwrap();
    let cluster = dir.path().join("cluster");
    create(&cluster, validators);
    let (first, second) = (NODES * validators, (NODES + 1) * validators);
    // Each in a new place, and none is removed before the end: file systems keep away from places
    // that were just left, and that takes them time.
    let places = Cell::new(0);
    let place = || {
        places.set(places.get() + 1);
        dir.path().join(places.get().to_string())
    };
    let [creating, deriving, combining, deriving_too] = in_turns(
        ROUNDS,
        [
            &mut |samples| {
                let place = place();
                samples.time(1, || create(&place, validators));
            },
            &mut |samples| derive(samples, first),
            &mut |samples| {
                let place = place();
                samples.time(1, || combine(&cluster, &place));
            },
            &mut |samples| derive(samples, second),
        ],
    );
    let mut table = Table::new(
        "cluster",
        ["what", "ours", "its derivations alone", "ratio"],
    );
    for (what, ours, alone) in [
        (
            format!(
                "`create cluster`, {NODES} nodes, {validators} validators: {first} derivations"
            ),
            creating,
            deriving,
        ),
        (
            format!("`combine` of it: {first} derivations and {validators} more"),
            combining,
            deriving_too,
        ),
    ] {
        table.row([
            &what,
            &format!("{:.2} s", ours.p50().as_secs_f64()),
            &format!("{:.2} s", alone.p50().as_secs_f64()),
            &Times(ours.ratio(&alone)),
        ]);
    }
    table.publish().unwrap();
}

fn derive(samples: &mut Samples, count: usize) {
    // The same for all: its public key is computed once.
    let secret = SecretKey::generate();
    samples.time(1, || {
        let mut derivations = Derivations::start(count, Cost::Secure, threads());
        (0..count).for_each(|_| drop(derivations.seal(&secret)));
    });
}

fn create(dir: &Path, validators: usize) {
    let (nodes, validators) = (NODES.to_string(), validators.to_string());
    pluto(&[
        "create",
        "cluster",
        "--network=hoodi",
        "--nodes",
        &nodes,
        "--num-validators",
        &validators,
        "--fee-recipient-addresses",
        ADDRESS,
        "--withdrawal-addresses",
        ADDRESS,
        "--cluster-dir",
        dir.to_str().unwrap(),
    ]);
}

fn combine(cluster: &Path, out: &Path) {
    let (from, to) = (cluster.to_str().unwrap(), out.to_str().unwrap());
    pluto(&["combine", "--cluster-dir", from, "--output-dir", to]);
}

fn pluto(args: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_pluto"))
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
