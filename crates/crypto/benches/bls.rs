//! BLS: ours beside `blst`'s own Rust interface.
//!
//! Our types were validated when they were read, so that verifying checks no subgroup; the baseline
//! is told to check none either, except where the row says that bytes are read.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot go on shall end here"
)]

use std::{hint::black_box, thread, time::Duration};

use blst::{
    BLST_ERROR, MultiPoint, blst_scalar,
    min_pk::{self, AggregateSignature},
};
use pluto_benchkit::{Samples, Short, Table, Times, in_turns};
use pluto_crypto::bls::{self, BatchItem, DST, PublicKey, SecretKey, ShareIdx, Signature};

const BATCH: usize = 100;
const ROUNDS: usize = 15;
/// Rounds of what takes a millisecond or so.
const SHORT_ROUNDS: usize = 400;

fn main() {
    let mut table = Table::new(
        "bls",
        ["what", "ours", "raw `blst`", "ratio", "ours, per second"],
    );
    one(&mut table);
    batches(&mut table);
    for threshold in [3, 7] {
        combining(&mut table, threshold);
    }
    table.publish().unwrap();
}

fn show(table: &mut Table, what: &str, per: usize, ours: &Samples, raw: &Samples) {
    let each = ours.p50() / u32::try_from(per).unwrap();
    table.row([
        &what,
        &Short(ours.p50()),
        &Short(raw.p50()),
        &Times(ours.ratio(raw)),
        &format_args!(
            "{:.0}",
            Duration::from_secs(1).as_secs_f64() / each.as_secs_f64()
        ),
    ]);
}

/// Signing and verifying one.
fn one(table: &mut Table) {
    let ours = SecretKey::generate();
    let raw = min_pk::SecretKey::from_bytes(ours.to_bytes().as_slice()).unwrap();
    let (key, raw_key) = (ours.public_key(), raw.sk_to_pk());
    let message = root(0);
    let (signature, raw_signature) = (ours.sign(&message), raw.sign(&message, DST, &[]));
    let bytes = signature.to_bytes();
    assert_eq!(bytes, raw_signature.to_bytes());

    let [a, b] = in_turns(
        SHORT_ROUNDS,
        [
            &mut |samples| {
                samples.time(1, || {
                    black_box(ours.sign(black_box(&message)));
                });
            },
            &mut |samples| {
                samples.time(1, || {
                    black_box(raw.sign(black_box(&message), DST, &[]));
                });
            },
        ],
    );
    show(table, "sign", 1, &a, &b);

    let [a, b] = in_turns(
        SHORT_ROUNDS,
        [
            &mut |samples| {
                samples.time(1, || {
                    bls::verify(&key, black_box(&message), &signature).unwrap();
                });
            },
            &mut |samples| {
                samples.time(1, || {
                    ok(raw_signature.verify(false, black_box(&message), DST, &[], &raw_key, false));
                });
            },
        ],
    );
    show(table, "verify one", 1, &a, &b);

    let [a, b] = in_turns(
        SHORT_ROUNDS,
        [
            &mut |samples| {
                samples.time(1, || {
                    let signature = Signature::from_bytes(black_box(&bytes)).unwrap();
                    bls::verify(&key, &message, &signature).unwrap();
                });
            },
            &mut |samples| {
                samples.time(1, || {
                    let signature = min_pk::Signature::uncompress(black_box(&bytes)).unwrap();
                    ok(signature.verify(true, &message, DST, &[], &raw_key, false));
                });
            },
        ],
    );
    show(table, "read a signature's bytes and verify it", 1, &a, &b);
}

/// Many at once: one message each, and one message for all.
fn batches(table: &mut Table) {
    let keys: Vec<SecretKey> = (0..BATCH).map(|_| SecretKey::generate()).collect();
    let publics: Vec<PublicKey> = keys.iter().map(SecretKey::public_key).collect();
    let raw_publics: Vec<min_pk::PublicKey> = publics
        .iter()
        .map(|key| min_pk::PublicKey::uncompress(&key.to_bytes()).unwrap())
        .collect();

    for (what, distinct) in [("each its own message", BATCH), ("one message", 1)] {
        let messages: Vec<_> = (0..BATCH).map(|n| root(n % distinct)).collect();
        let items: Vec<BatchItem<'_>> = keys
            .iter()
            .zip(&publics)
            .zip(&messages)
            .map(|((secret, public_key), message)| BatchItem {
                public_key: *public_key,
                message,
                signature: secret.sign(message),
            })
            .collect();
        let raws: Vec<min_pk::Signature> = items
            .iter()
            .map(|item| min_pk::Signature::uncompress(&item.signature.to_bytes()).unwrap())
            .collect();

        let [a, b] = in_turns(
            ROUNDS,
            [
                &mut |samples| samples.time(1, || bls::verify_batch(&items).unwrap()),
                &mut |samples| {
                    samples.time(1, || {
                        for ((signature, key), message) in
                            raws.iter().zip(&raw_publics).zip(&messages)
                        {
                            ok(signature.verify(false, message, DST, &[], key, false));
                        }
                    });
                },
            ],
        );
        let label = format!("verify a batch of {BATCH}, {what}; raw: one by one");
        show(table, &label, BATCH, &a, &b);

        let (signatures, raw_keys): (Vec<_>, Vec<_>) =
            (raws.iter().collect(), raw_publics.iter().collect());
        let slices: Vec<&[u8]> = messages.iter().map(<[u8; 32]>::as_slice).collect();
        let factors: Vec<blst_scalar> = (1..).take(BATCH).map(factor).collect();
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let [a, b] = in_turns(
            ROUNDS,
            [
                &mut |samples| {
                    samples.time(1, || {
                        thread::scope(|scope| {
                            for part in items.chunks(BATCH.div_ceil(cores)) {
                                scope.spawn(|| bls::verify_batch(part).unwrap());
                            }
                        });
                    });
                },
                &mut |samples| {
                    samples.time(1, || {
                        ok(min_pk::Signature::verify_multiple_aggregate_signatures(
                            &slices,
                            DST,
                            &raw_keys,
                            false,
                            &signatures,
                            false,
                            &factors,
                            64,
                        ));
                    });
                },
            ],
        );
        let label = format!("the same on all cores; raw: its own batch on all cores ({what})");
        show(table, &label, BATCH, &a, &b);
    }
}

/// `threshold` partial signatures to one. The baseline is the weighted sum alone, with weights that
/// are there already: the interpolation is ours, `blst` has none.
fn combining(table: &mut Table, threshold: usize) {
    let secret = SecretKey::generate();
    let message = root(0);
    let partials: Vec<(ShareIdx, Signature)> = bls::split(&secret, threshold, threshold + 1)
        .unwrap()
        .iter()
        .take(threshold)
        .map(|(idx, share)| (*idx, share.sign(&message)))
        .collect();
    let whole = bls::threshold_aggregate(&partials).unwrap();
    bls::verify(&secret.public_key(), &message, &whole).unwrap();

    let points: Vec<min_pk::Signature> = partials
        .iter()
        .map(|(_, signature)| min_pk::Signature::uncompress(&signature.to_bytes()).unwrap())
        .collect();
    // As long as the weights of an interpolation are.
    let weights: Vec<u8> = (0..threshold)
        .flat_map(|_| {
            let mut scalar = *SecretKey::generate().to_bytes();
            scalar.reverse();
            scalar
        })
        .collect();
    let [a, b] = in_turns(
        SHORT_ROUNDS,
        [
            &mut |samples| {
                samples.time(1, || {
                    black_box(bls::threshold_aggregate(black_box(&partials)).unwrap());
                });
            },
            &mut |samples| {
                samples.time(1, || {
                    let sum: AggregateSignature = points.mult(black_box(&weights), 255);
                    let sum = sum.to_signature();
                    sum.validate(true).unwrap();
                    black_box(sum);
                });
            },
        ],
    );
    let label = format!("combine {threshold} partial signatures; raw: the weighted sum alone");
    show(table, &label, 1, &a, &b);
}

fn root(n: usize) -> [u8; 32] {
    let mut root = [7; 32];
    root[..8].copy_from_slice(&n.to_le_bytes());
    root
}

/// A random factor would be as long.
fn factor(n: u64) -> blst_scalar {
    let mut scalar = blst_scalar::default();
    scalar.b[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    scalar
}

fn ok(result: BLST_ERROR) {
    assert_eq!(result, BLST_ERROR::BLST_SUCCESS);
}
