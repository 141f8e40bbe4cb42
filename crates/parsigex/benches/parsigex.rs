//! How long partial signatures take from one connected node to the next one's subscriber, verified,
//! beside the bare check of the same signatures: `bls::verify_batch` on points that are in memory
//! already, and on the bytes that arrive, whose points have to be read first.
//!
//!     cargo bench -p pluto-parsigex
//!
//! Ends with a table of the medians. The limit, [`LIMIT`], is for the exchange beside the check of
//! the bytes on all cores. Everything is in one process: sender and receiver share the cores.

#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot go on shall end here"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    cell::RefCell,
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput};
use pluto_core::{ParSigEx, signed::SignedData};
use pluto_crypto::bls::{self, BatchItem, PublicKey, Signature};
use pluto_testkit::TCP;
use support::{Cluster, Node, share_idx};
use tokio::runtime::Runtime;

/// What the exchange may take, as a multiple of the check of the bytes on all cores.
const LIMIT: f64 = 1.3;
/// Validators in a set.
const SIZES: [usize; 3] = [1, 100, 1000];
/// How many signatures the crate gives a core at once.
const CHUNK: usize = 64;

fn main() {
    let runtime = Runtime::new().unwrap();
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    let mut rows = Vec::new();
    for size in SIZES {
        rows.push(bench(&mut criterion, &runtime, size));
    }
    criterion.final_summary();

    println!(
        "validators | exchange | bytes | points | points, one core | to bytes (limit {LIMIT}) | to points"
    );
    for (size, row) in SIZES.iter().zip(rows) {
        let [exchange, bytes, points, single] = row.map(median);
        let to = |other: Duration| exchange.as_secs_f64() / other.as_secs_f64();
        let (to_bytes, to_points) = (to(bytes), to(points));
        println!(
            "{size} | {exchange:.2?} | {bytes:.2?} | {points:.2?} | {single:.2?} | {to_bytes:.2} | {to_points:.2}"
        );
    }
}

/// All durations of the subjects: the exchange; the check of bytes and of points, on all cores; that
/// of points on one.
fn bench(criterion: &mut Criterion, runtime: &Runtime, size: usize) -> [Vec<Duration>; 4] {
    let cluster = Cluster::new::<2>(2, size);
    let message = cluster.sign(0, 32);
    let arrived = arrived(&cluster, &message);
    let checks = read(&arrived);
    let [sender, mut receiver]: [Node; 2] = runtime
        .block_on(cluster.start(TCP))
        .try_into()
        .ok()
        .unwrap();

    let mut group = criterion.benchmark_group("parsigex");
    group.throughput(Throughput::Elements(size.try_into().unwrap()));
    let durations = [(); 4].map(|()| RefCell::new(Vec::new()));
    let [exchange, bytes, points, single] = &durations;
    group.bench_function(BenchmarkId::new("exchange", size), |bencher| {
        bencher.iter_custom(|times| {
            timed(times, exchange, || {
                runtime.block_on(async {
                    let by = tokio::time::Instant::now() + Duration::from_secs(10);
                    // The outcome comes later than the message; it is not waited for.
                    tokio::spawn(sender.handle.handle.broadcast(&message, by));
                    let received = receiver.handle.received.recv().await.unwrap();
                    assert_eq!(received.message.set.len(), size);
                })
            })
        });
    });
    group.bench_function(BenchmarkId::new("bytes", size), |bencher| {
        let work = || all_cores(runtime, &arrived, |part| check(&read(part)));
        bencher.iter_custom(|times| timed(times, bytes, work));
    });
    group.bench_function(BenchmarkId::new("points", size), |bencher| {
        let work = || all_cores(runtime, &checks, check);
        bencher.iter_custom(|times| timed(times, points, work));
    });
    group.bench_function(BenchmarkId::new("points_one_core", size), |bencher| {
        bencher.iter_custom(|times| timed(times, single, || check(&checks)));
    });
    group.finish();
    runtime.block_on(async {
        sender.stop().await;
        receiver.stop().await;
    });
    durations.map(RefCell::into_inner)
}

/// Runs something that often, and keeps each duration beside the sum that criterion wants.
fn timed<T>(times: u64, kept: &RefCell<Vec<Duration>>, mut work: impl FnMut() -> T) -> Duration {
    let durations = (0..times).map(|_| {
        let began = Instant::now();
        let result = work();
        let took = began.elapsed();
        drop(black_box(result));
        took
    });
    let mut kept = kept.borrow_mut();
    let before = kept.len();
    kept.extend(durations);
    kept[before..].iter().sum()
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

/// Spread as the crate spreads it.
fn all_cores<T: Copy + Send + 'static>(runtime: &Runtime, items: &[T], work: fn(&[T])) {
    let cores = std::thread::available_parallelism().unwrap().get();
    let size = items.len().div_ceil(cores).clamp(1, CHUNK);
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

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations
        .get(durations.len() / 2)
        .copied()
        .unwrap_or_default()
}
