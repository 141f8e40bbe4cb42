//! The bodies of the fuzz targets, with mutated files of the vectors: what is read of any file is read
//! again when it is written, and nothing panics.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on shall end here"
)]

mod common;
#[path = "../../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "there it is a crate of its own")]
mod fuzz;

use std::{fs, path::Path};

use common::vectors;
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, TestRunner},
};

/// What replaces a piece of a file.
const TOKENS: [&str; 22] = [
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "0",
    "-1",
    "1.0",
    "1e3",
    "9223372036854775807",
    "18446744073709551616",
    "\"0x\"",
    "\"0X00\"",
    "\"0x0\"",
    "\"32000000000\"",
    "\"\\ud800\"",
    "\"v1.0.0\"",
    "\"v1.11.0\"",
    ",",
    "\"",
    "\u{0}",
    "é",
];

#[derive(Debug, Clone)]
enum Mutation {
    Flip(Index, u8),
    Remove(Index, usize),
    Repeat(Index, usize),
    Insert(Index, &'static str),
    /// A whole JSON value, up to the next comma, bracket or line.
    Value(Index, &'static str),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let token = || select(&TOKENS[..]);
    let place = any::<Index>;
    prop_oneof![
        1 => (place(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, 1 << bit)),
        1 => (place(), 1..200_usize).prop_map(|(at, len)| Mutation::Remove(at, len)),
        1 => (place(), 1..200_usize).prop_map(|(at, len)| Mutation::Repeat(at, len)),
        1 => (place(), token()).prop_map(|(at, token)| Mutation::Insert(at, token)),
        // The one that keeps a file well formed.
        4 => (place(), token()).prop_map(|(at, token)| Mutation::Value(at, token)),
    ]
}

fn mutate(data: &mut Vec<u8>, mutation: &Mutation) {
    if data.is_empty() {
        return;
    }
    let len = data.len();
    match mutation {
        Mutation::Flip(at, bit) => data[at.index(len)] ^= bit,
        Mutation::Remove(at, count) => {
            let at = at.index(len);
            data.drain(at..len.min(at + count));
        }
        Mutation::Repeat(at, count) => {
            let at = at.index(len);
            let piece = data[at..len.min(at + count)].to_vec();
            data.splice(at..at, piece);
        }
        Mutation::Insert(at, token) => {
            let at = at.index(len);
            data.splice(at..at, token.bytes());
        }
        Mutation::Value(at, token) => {
            let at = at.index(len);
            let Some(colon) = data[at..].iter().position(|it| *it == b':') else {
                return;
            };
            let start = at + colon + 1;
            let end = data[start..].iter().position(|it| b",]}\n".contains(it));
            data.splice(start..end.map_or(len, |it| start + it), token.bytes());
        }
    }
}

/// Calls `body` with mutated seeds, and with each seed as it is.
fn run(cases: u32, seeds: &[Vec<u8>], body: fn(&[u8])) {
    assert!(!seeds.is_empty());
    for seed in seeds {
        body(seed);
    }
    let strategy = (any::<Index>(), vec(mutation(), 1..4));
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let ran = TestRunner::new(config).run(&strategy, |(seed, mutations)| {
        let mut data = seeds[seed.index(seeds.len())].clone();
        for mutation in &mutations {
            mutate(&mut data, mutation);
        }
        body(&data);
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
}

/// The files below a folder whose names say what they are.
fn seeds(folder: &Path, is_one: &dyn Fn(&str) -> bool) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for path in common::entries(folder) {
        if path.is_dir() {
            found.extend(seeds(&path, is_one));
        } else if is_one(common::name(&path)) {
            found.push(fs::read(path).unwrap());
        }
    }
    found
}

#[test]
fn any_definition_is_read_or_refused() {
    let Some(vectors) = vectors() else { return };
    let is_one = |name: &str| {
        let name = name.replace('_', "-");
        name.starts_with("cluster-definition") && name.ends_with(".json")
    };
    run(3000, &seeds(&vectors, &is_one), fuzz::definition);
}

#[test]
fn any_lock_is_read_or_refused() {
    let Some(vectors) = vectors() else { return };
    let is_one = |name: &str| {
        let name = name.replace('_', "-");
        name.contains("cluster-lock") && name.ends_with(".json")
    };
    run(300, &seeds(&vectors.join("cluster"), &is_one), fuzz::lock);
}

#[test]
fn any_enr_is_read_or_refused() {
    let key = pluto_crypto::k1::SecretKey::from_bytes(&[1; 32]).unwrap();
    let seeds = [
        pluto_crypto::enr::Enr::for_key(&key).text().into(),
        // With an address and ports: cluster spec, appendix A.7.
        "enr:-Iu4QJyserRukhG0Vgi2csu7GjpHYUGufNEbZ8Q7ZBrcZUb0KqpL5QzHonkh1xxHlxatTxrIcX_IS5J3SEWR_sa0ptGAgmlkgnY0gmlwhH8AAAGJc2VjcDI1NmsxoQMAUgEqczOjevyculnUIofhCj0DkgJudErM7qCYIvIkzIN0Y3CCDhqDdWRwgg4u".into(),
    ];
    run(3000, &seeds, fuzz::enr);
}

#[test]
fn any_keystore_is_read_or_refused() {
    let Some(vectors) = vectors() else { return };
    let is_one = |name: &str| name.starts_with("keystore-") && name.ends_with(".json");
    run(3000, &seeds(&vectors, &is_one), fuzz::keystore);
}
