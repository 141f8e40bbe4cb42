//! A live Charon on loopback, for tests.
//!
//! [`binaries`] finds the Charons that `CHARON_BIN` names; [`Cluster`] has one of them make a
//! cluster and runs some of its nodes without a beacon node, beside a [`Relay`]; [`Ceremony`] has some
//! of the operators of a key ceremony be Charons. Nothing is fetched or built here.
//!
//! [`Member`] is a Pluto node as one of its members, with what it must see of the others;
//! [`PlutoRelay`] is a relay of ours, in this process.
//!
//! - **Owner:** each process belongs to its value and is ended with it, by its process id.
//! - **Bounds:** every wait takes a time-out; logs go to files below the cluster's folder, whose end
//!   an error shows.

#![allow(
    clippy::unwrap_used,
    reason = "for tests only: one that cannot go on shall end here"
)]

mod ceremony;
mod chain;
mod cluster;
mod http;
mod member;
mod metrics;
mod pluto_relay;
mod process;

use std::{
    env, fs,
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use tokio::time::timeout;

pub use self::{
    ceremony::{Ceremony, Dkg},
    chain::AnyChain,
    cluster::{Advertises, Cluster, ClusterError, Relay, Running},
    http::{HttpError, get},
    member::{Member, routing},
    metrics::Samples,
    pluto_relay::PlutoRelay,
    process::{Process, ProcessError},
};

/// The variable that names a Charon binary, or a folder with some of them (`charon-v1.10.3`, …).
pub const CHARON_BIN: &str = "CHARON_BIN";

/// How long a live cluster may take for anything, on a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Waits for at most [`LIMIT`].
///
/// # Panics
///
/// With what `state` says, if it takes longer.
pub async fn within<F: Future>(what: &str, work: F, state: impl FnOnce() -> String) -> F::Output {
    match timeout(LIMIT, work).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {LIMIT:?}\n{}", state()),
    }
}

/// The Charon binaries to test against. Without any, says on standard error that `test` is skipped.
pub fn binaries(test: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Some(path) = env::var_os(CHARON_BIN).map(PathBuf::from) {
        match fs::read_dir(&path) {
            Ok(entries) => {
                found.extend(entries.flatten().map(|entry| entry.path()).filter(|path| {
                    path.file_name()
                        .is_some_and(|name| name.to_string_lossy().starts_with("charon"))
                }))
            }
            // Not a folder: the binary itself, or a wrong path, which running it will tell.
            Err(_) => found.push(path),
        }
        found.sort();
    }
    if found.is_empty() {
        // Not through `eprintln`, which the test harness would swallow.
        let _ = writeln!(
            io::stderr(),
            "{test}: skipped, because {CHARON_BIN} names no Charon"
        );
    }
    found
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
