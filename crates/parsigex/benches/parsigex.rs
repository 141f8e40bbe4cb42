//! How long partial signatures take from one connected node to the next one's subscriber, verified,
//! beside the bare check of the same signatures: the batch verification of the bytes that arrive,
//! whose points have to be read first, and of points that are in memory already.
//!
//! The limit is for the exchange beside the check of the bytes on all cores. Everything is in one
//! process: sender and receiver share the cores.

#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot go on shall end here"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Duration;

use pluto_benchkit::{Short, Table, Times, in_turns};
use pluto_core::{ParSigEx, signed::SignedData};
use pluto_crypto::bls::{self, BatchItem, PublicKey, Signature};
use pluto_testkit::TCP;
use support::{Cluster, Node, share_idx};
use tokio::runtime::Runtime;

/// Validators in a set, and how often it is measured.
const SIZES: [(usize, usize); 3] = [(1, 201), (100, 31), (1000, 11)];

fn main() {
    let runtime = Runtime::new().unwrap();
    let mut table = Table::new(
        "parsigex",
        [
            "validators",
            "sent, received, verified",
            "its bytes, on all cores",
            "ratio",
            "its points in memory, on all cores",
            "ratio",
            "the same on one core",
        ],
    );
    for (size, rounds) in SIZES {
        bench(&runtime, size, rounds, &mut table);
    }
    table.publish().unwrap();
}

fn bench(runtime: &Runtime, size: usize, rounds: usize, table: &mut Table) {
    let cluster = Cluster::new::<2>(2, size);
    let message = cluster.sign(0, 32);
    let arrived = arrived(&cluster, &message);
    let checks = read(&arrived);
    let [sender, mut receiver]: [Node; 2] = runtime
        .block_on(cluster.start(TCP))
        .try_into()
        .ok()
        .unwrap();
    let mut exchange = || {
        runtime.block_on(async {
            let by = tokio::time::Instant::now() + Duration::from_secs(10);
            // The outcome comes later than the message; it is not waited for.
            tokio::spawn(sender.handle.handle.broadcast(&message, by));
            let received = receiver.handle.received.recv().await.unwrap();
            assert_eq!(received.message.set.len(), size);
        });
    };
    let [exchange, bytes, points, single] = in_turns(
        rounds,
        [
            &mut |samples| samples.time(1, &mut exchange),
            &mut |samples| {
                samples.time(1, || {
                    all_cores(runtime, &arrived, |part| check(&read(part)))
                });
            },
            &mut |samples| samples.time(1, || all_cores(runtime, &checks, check)),
            &mut |samples| samples.time(1, || check(&checks)),
        ],
    );
    table.row([
        &size,
        &Short(exchange.p50()),
        &Short(bytes.p50()),
        &Times(exchange.ratio(&bytes)),
        &Short(points.p50()),
        &Times(exchange.ratio(&points)),
        &Short(single.p50()),
    ]);
    runtime.block_on(async {
        sender.stop().await;
        receiver.stop().await;
    });
}

type Arrived = (PublicKey, [u8; 32], [u8; 96]);
type Check = (PublicKey, [u8; 32], Signature);

/// What a receiver has to check.
fn arrived(cluster: &Cluster, message: &ParSigEx) -> Vec<Arrived> {
    let (_, root) = cluster.root_of(message.duty.slot.0);
    let arrived = cluster.validators.iter().map(|validator| {
        let entry = message.set.get(&validator.pubkey).unwrap();
        let data = SignedData::decode(message.duty.kind, &entry.data).unwrap();
        let key = validator.shares[&share_idx(0)].public_key();
        (key, root, data.signature())
    });
    arrived.collect()
}

fn read(arrived: &[Arrived]) -> Vec<Check> {
    let checks = arrived.iter().map(|(key, root, signature)| {
        let signature = Signature::from_bytes(signature).unwrap();
        (*key, *root, signature)
    });
    checks.collect()
}

fn check(checks: &[Check]) {
    let items: Vec<_> = checks
        .iter()
        .map(|(public_key, root, signature)| BatchItem {
            public_key: *public_key,
            message: root,
            signature: *signature,
        })
        .collect();
    bls::verify_batch(&items).unwrap();
}

/// An equal part for each core, as the crate does it with sets of these sizes.
fn all_cores<T: Copy + Send + 'static>(runtime: &Runtime, items: &[T], work: fn(&[T])) {
    let cores = std::thread::available_parallelism().unwrap().get();
    let size = items.len().div_ceil(cores);
    let parts = items.chunks(size).map(|part| {
        let part = part.to_vec();
        runtime.spawn_blocking(move || work(&part))
    });
    let parts: Vec<_> = parts.collect();
    runtime.block_on(async {
        for part in parts {
            part.await.unwrap();
        }
    });
}
