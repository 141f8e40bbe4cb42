//! A cluster that Charon made, and those of its nodes that Charon runs.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use libp2p::{Multiaddr, multiaddr::Protocol};
use pluto_crypto::keyfile;
use pluto_p2p::identity;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    LIMIT,
    http::{self, HttpError},
    metrics::Samples,
    process::{Process, ProcessError},
};

/// How long a command of Charon's may take that only writes files.
pub(crate) const COMMAND: Duration = Duration::from_secs(60);
/// How long a process may take until it answers. Charon starts within two seconds on an idle
/// machine.
const START: Duration = Duration::from_secs(60);
/// How often another process is asked for something that it does not announce.
pub(crate) const LOOK: Duration = Duration::from_millis(200);
/// Any address will do: nothing is ever withdrawn.
pub(crate) const ETHEREUM_ADDRESS: &str = "0x1111111111111111111111111111111111111111";

/// Why a cluster does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// A Charon failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// No place for files or no free port.
    #[error("no place for the cluster's files or ports")]
    Io(#[from] io::Error),
    /// A Charon does not answer.
    #[error("a Charon does not answer; its log ends:\n{log}")]
    Silent {
        /// What was asked.
        #[source]
        source: HttpError,
        /// The end of its log.
        log: String,
    },
}

/// The files of a cluster, in a folder that goes with it.
#[derive(Debug)]
pub struct Cluster {
    binary: PathBuf,
    dir: TempDir,
}

/// A relay of Charon's.
#[derive(Debug)]
pub struct Relay {
    /// Where its HTTP page is, as flags take it.
    pub url: String,
    /// What that page says.
    pub page: String,
    /// Its address, with its peer id.
    pub address: Multiaddr,
    process: Process,
    _dir: TempDir,
}

/// Which addresses a relay tells its clients. It listens on loopback, which is private.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advertises {
    /// Those that it listens on: `--p2p-advertise-private-addresses`.
    Private,
    /// Those that it was given: `--p2p-external-ip`.
    External,
    /// None, as with neither flag.
    Nothing,
}

/// A node that Charon runs.
#[derive(Debug)]
pub struct Running {
    /// Where its TCP port is; empty if it is hidden.
    pub address: Multiaddr,
    monitoring: SocketAddr,
    process: Process,
}

impl Cluster {
    /// Has a Charon make a cluster, with keys that need no time.
    pub async fn create(
        binary: &Path,
        nodes: usize,
        validators: usize,
    ) -> Result<Self, ClusterError> {
        let dir = tempfile::tempdir()?;
        let args = [
            "create",
            "cluster",
            "--name=interop",
            "--network=hoodi",
            "--insecure-keys",
            &format!("--nodes={nodes}"),
            &format!("--num-validators={validators}"),
            &format!("--withdrawal-addresses={ETHEREUM_ADDRESS}"),
            &format!("--fee-recipient-addresses={ETHEREUM_ADDRESS}"),
            &format!("--cluster-dir={}", dir.path().join("cluster").display()),
        ]
        .map(str::to_owned);
        Process::finish(binary, &args, dir.path().join("create.log"), COMMAND).await?;
        Ok(Self {
            binary: binary.to_owned(),
            dir,
        })
    }

    /// A cluster that somebody else made: `cluster/node0` and so on in this folder.
    pub fn adopt(binary: &Path, dir: TempDir) -> Self {
        Self {
            binary: binary.to_owned(),
            dir,
        }
    }

    /// The folder of all nodes' folders.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    /// The folder of one node.
    pub fn node(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("cluster/node{index}"))
    }

    /// The lock, as one node has it.
    pub fn lock(&self, index: usize) -> PathBuf {
        self.node(index).join("cluster-lock.json")
    }

    /// The identity key of one node.
    pub fn key(&self, index: usize) -> PathBuf {
        self.node(index).join("charon-enr-private-key")
    }

    /// Starts a relay of the same Charon.
    pub async fn relay(&self) -> Result<Relay, ClusterError> {
        Relay::start(&self.binary, Advertises::External).await
    }

    /// Starts one node; it signs duties of a simulated chain with slots of a second.
    pub async fn run(&self, index: usize, relay: &Relay) -> Result<Running, ClusterError> {
        self.run_through(index, &relay.url).await
    }

    /// As [`run`](Self::run), with whatever relay is at this URL.
    pub async fn run_through(&self, index: usize, relay: &str) -> Result<Running, ClusterError> {
        let [tcp] = ports()?;
        self.start(index, relay, Some(tcp)).await
    }

    /// Starts one node that listens nowhere: it is reached through the relay at a URL, or not at
    /// all.
    pub async fn run_hidden(&self, index: usize, relay: &str) -> Result<Running, ClusterError> {
        self.start(index, relay, None).await
    }

    async fn start(
        &self,
        index: usize,
        relay: &str,
        tcp: Option<u16>,
    ) -> Result<Running, ClusterError> {
        let [monitoring, validator_api] = ports()?;
        let keys = self.node(index).join("validator_keys");
        let mut args = [
            "run",
            "--simnet-beacon-mock",
            "--simnet-validator-mock",
            "--simnet-slot-duration=1s",
            "--log-level=debug",
            "--log-format=logfmt",
            &format!("--private-key-file={}", self.key(index).display()),
            &format!("--lock-file={}", self.lock(index).display()),
            &format!("--simnet-validator-keys-dir={}", keys.display()),
            &format!("--p2p-relays={relay}"),
            &format!("--monitoring-address=127.0.0.1:{monitoring}"),
            &format!("--validator-api-address=127.0.0.1:{validator_api}"),
        ]
        .map(str::to_owned)
        .to_vec();
        args.extend(tcp.map(|tcp| format!("--p2p-tcp-address=127.0.0.1:{tcp}")));
        let log = self.dir.path().join(format!("node{index}.log"));
        let process = Process::start(&self.binary, &args, log)?;
        let monitoring = SocketAddr::from(([127, 0, 0, 1], monitoring));
        answers(&process, monitoring, "/livez").await?;
        Ok(Running {
            address: tcp.map_or_else(Multiaddr::empty, |tcp| loopback().with(Protocol::Tcp(tcp))),
            monitoring,
            process,
        })
    }
}

impl Relay {
    /// Starts one.
    pub async fn start(binary: &Path, advertises: Advertises) -> Result<Self, ClusterError> {
        let dir = tempfile::tempdir()?;
        let [http, tcp] = ports()?;
        let mut args = [
            "relay",
            "--auto-p2pkey",
            "--p2p-relays=",
            "--log-level=debug",
            &format!("--data-dir={}", dir.path().display()),
            &format!("--http-address=127.0.0.1:{http}"),
            &format!("--p2p-tcp-address=127.0.0.1:{tcp}"),
        ]
        .map(str::to_owned)
        .to_vec();
        args.extend(match advertises {
            Advertises::Private => Some("--p2p-advertise-private-addresses".to_owned()),
            Advertises::External => Some("--p2p-external-ip=127.0.0.1".to_owned()),
            Advertises::Nothing => None,
        });
        let process = Process::start(binary, &args, dir.path().join("relay.log"))?;
        let address = SocketAddr::from(([127, 0, 0, 1], http));
        let page = answers(&process, address, "/").await?;
        let key = keyfile::load(dir.path().join("charon-enr-private-key")).unwrap();
        let id = identity::keypair(&key).public().to_peer_id();
        Ok(Self {
            url: format!("http://{address}"),
            page,
            address: loopback().with(Protocol::Tcp(tcp)).with(Protocol::P2p(id)),
            process,
            _dir: dir,
        })
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        self.process.tail()
    }
}

impl Running {
    /// What it measures.
    pub async fn metrics(&self) -> Result<Samples, HttpError> {
        Ok(Samples::parse(
            &http::get(self.monitoring, "/metrics").await?,
        ))
    }

    /// Looks at its metrics until something is so, and gives that.
    ///
    /// # Errors
    ///
    /// The last page, if it did not become so in time.
    pub async fn until<T>(
        &self,
        limit: Duration,
        is_so: impl Fn(&Samples) -> Option<T>,
    ) -> Result<T, Option<Samples>> {
        let by = Instant::now() + limit;
        loop {
            let page = self.metrics().await.ok();
            if let Some(found) = page.as_ref().and_then(&is_so) {
                return Ok(found);
            }
            if Instant::now() >= by {
                return Err(page);
            }
            sleep(LOOK).await;
        }
    }

    /// As [`until`](Self::until), for as long as [`LIMIT`].
    ///
    /// # Panics
    ///
    /// With its last page and the end of its log, if it does not become so.
    pub async fn says<T>(&self, is_so: impl Fn(&Samples) -> Option<T>) -> T {
        match self.until(LIMIT, is_so).await {
            Ok(found) => found,
            Err(page) => panic!("a Charon does not say so: {page:?}\n{}", self.tail()),
        }
    }

    /// Waits until our node, the member with this place, has answered its pings, is connected to it
    /// directly, and has told it who we are. Says who that is. Charon counts connections each half a
    /// minute.
    ///
    /// # Panics
    ///
    /// As [`says`](Self::says).
    pub async fn sees(&self, index: usize) -> String {
        self.says(|page| {
            let us = page.label("app_peerinfo_index", &[], index as f64, "peer")?;
            let of_us = [("peer", &us[..])];
            (page.sum("p2p_ping_success", &of_us)? >= 1.0
                && page.sum("p2p_ping_latency_secs_count", &of_us)? >= 1.0
                && page.sum("p2p_peer_connection_total", &of_us)? >= 1.0)
                .then_some(())?;
            let name = page.label("app_peerinfo_nickname", &of_us, 1.0, "peer_nickname")?;
            let version = page.label("app_peerinfo_version", &of_us, 1.0, "version")?;
            page.sum("app_peerinfo_version_support", &of_us)
                .filter(|supported| *supported >= 1.0)?;
            let direct = [of_us[0], ("type", "direct")];
            let direct = page
                .sum("p2p_peer_connection_types", &direct)
                .filter(|direct| *direct >= 1.0)?;
            Some(format!(
                "{us} is '{name}', {version}, connected directly {direct} times"
            ))
        })
        .await
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        self.process.tail()
    }

    /// Ends it.
    pub async fn stop(self) {
        self.process.stop().await;
    }
}

fn loopback() -> Multiaddr {
    Multiaddr::empty().with(Protocol::Ip4([127, 0, 0, 1].into()))
}

/// Waits until a page can be read, and gives it.
async fn answers(
    process: &Process,
    address: SocketAddr,
    path: &str,
) -> Result<String, ClusterError> {
    let by = Instant::now() + START;
    loop {
        match http::get(address, path).await {
            Ok(page) => return Ok(page),
            Err(_) if Instant::now() < by => sleep(LOOK).await,
            Err(source) => {
                return Err(ClusterError::Silent {
                    source,
                    log: process.tail(),
                });
            }
        }
    }
}

/// Ports that are free now. All are held until all are chosen, so that they differ.
pub(crate) fn ports<const N: usize>() -> io::Result<[u16; N]> {
    let mut listeners = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}
