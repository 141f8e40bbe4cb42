//! A key ceremony whose operators Charon prepared, and those of them that Charon runs.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use libp2p::{Multiaddr, multiaddr::Protocol};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    cluster::{Advertises, COMMAND, ClusterError, ETHEREUM_ADDRESS, LOOK, Relay, ports},
    process::{Process, ProcessError},
};

/// The files of a ceremony, in a folder that goes with it.
#[derive(Debug)]
pub struct Ceremony {
    binary: PathBuf,
    dir: TempDir,
    records: Vec<String>,
}

/// An operator that Charon runs.
#[derive(Debug)]
pub struct Dkg {
    /// Where its TCP port is.
    pub address: Multiaddr,
    process: Process,
}

impl Ceremony {
    /// Has a Charon make the operators' keys and a definition that nobody signs, which it accepts.
    pub async fn create(
        binary: &Path,
        operators: usize,
        validators: usize,
    ) -> Result<Self, ClusterError> {
        let ceremony = Self::undefined(binary, operators).await?;
        let args = [
            "create",
            "dkg",
            "--name=interop",
            "--network=hoodi",
            &format!("--num-validators={validators}"),
            &format!("--operator-enrs={}", ceremony.records.join(",")),
            &format!("--withdrawal-addresses={ETHEREUM_ADDRESS}"),
            &format!("--fee-recipient-addresses={ETHEREUM_ADDRESS}"),
            &format!("--output-dir={}", ceremony.dir().display()),
        ]
        .map(str::to_owned);
        ceremony.finish(&args, "create.log").await?;
        Ok(ceremony)
    }

    /// Has a Charon make the operators' keys. The definition is to be put into [`dir`](Self::dir).
    pub async fn undefined(binary: &Path, operators: usize) -> Result<Self, ClusterError> {
        let mut ceremony = Self {
            binary: binary.to_owned(),
            dir: tempfile::tempdir()?,
            records: Vec::with_capacity(operators),
        };
        for index in 0..operators {
            let data = format!("--data-dir={}", ceremony.node(index).display());
            let args = ["create", "enr", &data].map(str::to_owned);
            let printed = ceremony.finish(&args, &format!("enr{index}.log")).await?;
            let record = printed
                .split_whitespace()
                .find(|word| word.starts_with("enr:"));
            ceremony.records.extend(record.map(str::to_owned));
        }
        Ok(ceremony)
    }

    async fn finish(&self, args: &[String], log: &str) -> Result<String, ClusterError> {
        let log = self.dir.path().join(log);
        Ok(Process::finish(&self.binary, args, log, COMMAND).await?)
    }

    /// The ENRs of all operators.
    pub fn records(&self) -> &[String] {
        &self.records
    }

    /// The folder of the definition and of all operators' folders.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The folder of one operator.
    pub fn node(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("node{index}"))
    }

    /// The identity key of one operator.
    pub fn key(&self, index: usize) -> PathBuf {
        self.node(index).join("charon-enr-private-key")
    }

    /// The definition.
    pub fn definition(&self) -> PathBuf {
        self.dir.path().join("cluster-definition.json")
    }

    /// Starts a relay.
    pub async fn relay(&self) -> Result<Relay, ClusterError> {
        Relay::start(&self.binary, Advertises::External).await
    }

    /// Starts one operator.
    pub fn run(&self, index: usize, relay: &Relay) -> Result<Dkg, ClusterError> {
        self.run_through(index, &relay.url, &[])
    }

    /// As [`run`](Self::run), with whatever relay is at this URL, and with further flags.
    pub fn run_through(
        &self,
        index: usize,
        relay: &str,
        flags: &[&str],
    ) -> Result<Dkg, ClusterError> {
        let [tcp] = ports()?;
        let mut args = [
            "dkg",
            "--shutdown-delay=1s",
            "--log-level=debug",
            "--log-format=logfmt",
            &format!("--data-dir={}", self.node(index).display()),
            &format!("--definition-file={}", self.definition().display()),
            &format!("--p2p-relays={relay}"),
            &format!("--p2p-tcp-address=127.0.0.1:{tcp}"),
        ]
        .map(str::to_owned)
        .to_vec();
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let log = self.dir.path().join(format!("node{index}.log"));
        Ok(Dkg {
            address: Multiaddr::empty()
                .with(Protocol::Ip4([127, 0, 0, 1].into()))
                .with(Protocol::Tcp(tcp)),
            process: Process::start(&self.binary, &args, log)?,
        })
    }
}

impl Dkg {
    /// Looks at its log until a line has the text, and gives that line.
    ///
    /// # Errors
    ///
    /// The end of the log, if it did not come in time.
    pub async fn until_logged(&self, text: &str, limit: Duration) -> Result<String, String> {
        let by = Instant::now() + limit;
        loop {
            let log = self.process.log();
            if let Some(line) = log.lines().find(|line| line.contains(text)) {
                return Ok(line.to_owned());
            }
            if Instant::now() >= by {
                return Err(self.process.tail());
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until it has ended by itself, and well.
    pub async fn ended(self, limit: Duration) -> Result<(), ProcessError> {
        self.process.ended("dkg", limit).await.map(drop)
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        self.process.tail()
    }

    /// Kills it.
    pub async fn kill(self) {
        self.process.stop().await;
    }
}
