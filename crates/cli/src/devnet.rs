//! `pluto devnet`: a cluster on one machine whose nodes find each other and sign.
//!
//! The nodes are real: identity keys on disk, sockets on loopback, keys split among them. They know
//! nothing of each other but a relay's URL, meet through it and then go direct. Each slot
//! every node signs the same duty with its shares, sends that to the others, and puts the group
//! signature together once enough have come in.
//!
//! - **Owner:** [`run`] owns the nodes; they report through one bounded channel.
//! - **Cancellation:** Ctrl-C or SIGTERM ends after the summary; all tasks are joined before.

mod cluster;
mod node;
mod relays;
mod score;
mod view;

use std::{
    collections::BTreeSet,
    error::Error,
    pin::Pin,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pluto_p2p::{addr::Transport, p2p_context::PeerView};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, sleep_until, timeout_at},
};

use self::{
    cluster::Cluster,
    node::{Entry, Node, Report},
    relays::Relays,
    score::Score,
    view::View,
};
use crate::{
    args,
    signals::{Signal, Signals, Stopped},
};

/// Reports that wait to be shown; a node that finds it full waits.
const REPORTS: usize = 1024;
/// How long the mesh may take; on loopback it takes milliseconds.
const MESH_TIMEOUT: Duration = Duration::from_secs(30);
/// How long after its start a slot may still be completed, at least.
const LATE: Duration = Duration::from_secs(5);
/// Smallest threshold: with 1 all shares would be the key itself, which no lock can say.
const MIN_THRESHOLD: u32 = 2;
/// How often a live view is drawn anew: round-trip times change without an event.
const REDRAW: Duration = Duration::from_millis(200);

/// What is ordered cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("node {node} does not exist: nodes are 0 to {}", nodes - 1)]
    NoSuchNode { node: usize, nodes: usize },
    #[error("slot {slot} does not exist: slots are 0 to {}", slots - 1)]
    NoSuchSlot { slot: u64, slots: u64 },
    #[error("node {node} cannot be stopped at slot {slot}: it is not running")]
    NotRunning { node: usize, slot: u64 },
    #[error("node {node} cannot be started again at slot {slot}: it was not stopped with --kill")]
    Running { node: usize, slot: u64 },
    #[error(
        "a threshold of {threshold} is impossible with {nodes} nodes: choose {MIN_THRESHOLD} to {nodes}"
    )]
    Threshold { threshold: u32, nodes: u32 },
}

#[derive(Debug, thiserror::Error)]
#[error("the nodes did not all connect within {}s\n{missing}", MESH_TIMEOUT.as_secs())]
struct NoMesh {
    missing: String,
}

pub(crate) fn run(args: args::Devnet) -> Result<ExitCode, Box<dyn Error>> {
    check(&args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(devnet(args))
}

fn check(args: &args::Devnet) -> Result<(), UsageError> {
    let nodes = args.nodes as usize;
    for at in args.kill.iter().chain(&args.restart) {
        if at.node >= nodes {
            return Err(UsageError::NoSuchNode {
                node: at.node,
                nodes,
            });
        }
        if args.slots != 0 && at.slot >= args.slots {
            return Err(UsageError::NoSuchSlot {
                slot: at.slot,
                slots: args.slots,
            });
        }
    }
    check_orders(args)?;
    match args.threshold {
        Some(threshold) if threshold < MIN_THRESHOLD || threshold > args.nodes => {
            Err(UsageError::Threshold {
                threshold,
                nodes: args.nodes,
            })
        }
        _ => Ok(()),
    }
}

/// Whether each node is running when it is stopped, and stopped when it is started again.
fn check_orders(args: &args::Devnet) -> Result<(), UsageError> {
    let kills = args.kill.iter().map(|at| (at, true));
    let restarts = args.restart.iter().map(|at| (at, false));
    let mut orders: Vec<_> = kills.chain(restarts).collect();
    // Within one slot nodes are stopped first.
    orders.sort_by_key(|(at, kills)| (at.slot, !kills));
    let mut stopped = BTreeSet::new();
    for (&args::At { node, slot }, kills) in orders {
        match kills {
            true if !stopped.insert(node) => return Err(UsageError::NotRunning { node, slot }),
            false if !stopped.remove(&node) => return Err(UsageError::Running { node, slot }),
            _ => {}
        }
    }
    Ok(())
}

async fn devnet(args: args::Devnet) -> Result<ExitCode, Box<dyn Error>> {
    let mut signals = Signals::new()?;
    let cluster = match open(&args, &mut signals).await? {
        Ok(cluster) => Arc::new(cluster),
        Err(signal) => return Ok(ExitCode::from(signal.exit_code())),
    };
    let mut view = View::new(args.json, &cluster);
    let relays = Relays::start(args.relays, args.transport).await?;
    let entry = Entry {
        relays: relays.sources()?,
        relayed_only: args.no_direct,
    };
    let (reports, mut reported) = mpsc::channel(REPORTS);
    let (genesis, begun) = watch::channel(None);
    let mut nodes = Vec::new();
    for index in 0..cluster.size() {
        nodes.push(Some(
            Node::start(
                cluster.clone(),
                index,
                &entry,
                begun.clone(),
                reports.clone(),
            )
            .await?,
        ));
    }
    let before_mesh = Instant::now();
    if entry.relays.is_empty() {
        introduce(&nodes);
    }
    view.started(&nodes, &relays);

    let peers = cluster.members.iter().map(|member| member.peer);
    let mut score = Score::new(&args, peers.collect());
    let mut interrupted = None;
    tokio::select! {
        biased;
        signal = signals.next() => interrupted = Some(signal),
        meshed = mesh(&nodes, before_mesh) => view.meshed(&nodes, meshed?),
    }
    if interrupted.is_none() {
        let start = Instant::now() + Duration::from_millis(200);
        genesis.send_replace(Some(start));
        let mut course = Course {
            args: &args,
            cluster: &cluster,
            entry: &entry,
            before_mesh,
            nodes: &mut nodes,
            begun,
            reports: reports.clone(),
            signals: &mut signals,
            start,
        };
        interrupted = course.run(&mut reported, &mut score, &mut view).await?;
    }

    // Whatever the nodes still have to say while they end is dropped with the channel.
    drop(reported);
    for node in nodes.into_iter().flatten() {
        node.stop().await;
    }
    relays.stop().await;
    // Without an end of its own, being stopped is how it ends.
    let ok = score.ok() && (interrupted.is_none() || args.slots == 0);
    view.summary(&score, ok, interrupted.is_some());
    Ok(match (ok, interrupted) {
        (true, _) => ExitCode::SUCCESS,
        (false, Some(signal)) => ExitCode::from(signal.exit_code()),
        (false, None) => ExitCode::FAILURE,
    })
}

/// Opens or makes the cluster, or gives the signal that came meanwhile: then nothing is left half made.
async fn open(
    args: &args::Devnet,
    signals: &mut Signals,
) -> Result<Result<Cluster, Signal>, Box<dyn Error>> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut opening = {
        let (args, stop) = (args.clone(), Arc::clone(&stop));
        spawn_blocking(move || Cluster::create(&args, &stop))
    };
    tokio::select! {
        biased;
        signal = signals.next() => {
            stop.store(true, Ordering::Relaxed);
            match opening.await? {
                Ok(_) => Ok(Err(signal)),
                Err(error) if error.is_stopped() => Err(Stopped(signal).into()),
                Err(error) => Err(error.into()),
            }
        }
        cluster = &mut opening => Ok(Ok(cluster??)),
    }
}

/// Tells every node where the others are.
fn introduce(nodes: &[Option<Node>]) {
    for node in nodes.iter().flatten() {
        for other in nodes.iter().flatten() {
            if node.index != other.index {
                node.meets(other);
            }
        }
    }
}

/// Waits until every node has a connection to every other.
async fn mesh(nodes: &[Option<Node>], began: Instant) -> Result<Duration, NoMesh> {
    for node in nodes.iter().flatten() {
        let met = node.context.quorum(nodes.len() - 1);
        if !matches!(timeout_at(began + MESH_TIMEOUT, met).await, Ok(Ok(()))) {
            let missing = nodes
                .iter()
                .flatten()
                .filter_map(|other| node.context.why_not_connected(other.peer))
                .map(|why| format!("  node {}: {why}\n", node.index))
                .collect();
            return Err(NoMesh { missing });
        }
    }
    Ok(began.elapsed())
}

/// What connections become after the nodes have met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// None goes through a relay.
    Direct,
    /// All are QUIC.
    Quic,
}

impl Upgrade {
    fn is_expected(self, args: &args::Devnet) -> bool {
        let direct = args.relays > 0 && !args.no_direct;
        match self {
            Self::Direct => direct,
            Self::Quic => direct && args.transport != args::Net::Tcp,
        }
    }

    /// Resolves once every node sees all others so; never if one of them goes away before.
    fn of_all(self, nodes: &[Option<Node>]) -> Pin<Box<dyn Future<Output = Self> + Send>> {
        let seen = nodes.iter().flatten().map(|node| {
            let (context, own) = (node.context.clone(), node.peer);
            async move {
                let all = context.wait_for(|view| {
                    let mut others = view.known().filter(|peer| peer.id != own);
                    others.all(|peer| self.is_reached(peer)).then_some(())
                });
                if all.await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        });
        let seen: Vec<_> = seen.collect();
        Box::pin(async move {
            for seen in seen {
                seen.await;
            }
            self
        })
    }

    fn is_reached(self, peer: &PeerView) -> bool {
        peer.best().is_some_and(|path| {
            let direct = !path.is_relayed() && path.rtt().is_some();
            direct && (self == Self::Direct || path.transport == Transport::Quic)
        })
    }
}

/// The slots, with what happens to nodes in them.
struct Course<'a> {
    args: &'a args::Devnet,
    cluster: &'a Arc<Cluster>,
    entry: &'a Entry,
    before_mesh: Instant,
    nodes: &'a mut Vec<Option<Node>>,
    begun: watch::Receiver<Option<Instant>>,
    reports: mpsc::Sender<Report>,
    signals: &'a mut Signals,
    start: Instant,
}

impl Course<'_> {
    /// Runs all slots and waits for their results. Gives the signal that stopped it.
    async fn run(
        &mut self,
        reported: &mut mpsc::Receiver<Report>,
        score: &mut Score,
        view: &mut View,
    ) -> Result<Option<Signal>, Box<dyn Error>> {
        let last = self.args.slots;
        let mut slot = 0;
        let mut redraw = tokio::time::interval(REDRAW);
        // Those that were restarted and have not met everybody again.
        let mut returning: BTreeSet<usize> = BTreeSet::new();
        let upgrades = [Upgrade::Direct, Upgrade::Quic];
        let mut expected = upgrades.into_iter().filter(|it| it.is_expected(self.args));
        let mut upgraded = expected.next().map(|it| it.of_all(self.nodes));
        loop {
            let ended = last != 0 && slot >= last;
            let next = if ended {
                self.slot_start(last) + LATE
            } else {
                self.slot_start(slot)
            };
            if ended && score.is_complete() && returning.is_empty() {
                return Ok(None);
            }
            tokio::select! {
                biased;
                signal = self.signals.next() => return Ok(Some(signal)),
                () = sleep_until(next) => {
                    if ended {
                        return Ok(None);
                    }
                    self.orders(slot, score, view, &mut returning).await?;
                    score.begin(slot);
                    slot += 1;
                }
                Some(report) = reported.recv() => {
                    if let Report::Back { node, after } = &report {
                        returning.remove(node);
                        score.back(*node, *after);
                    }
                    score.add(&report);
                    view.report(&report, score, self.nodes);
                }
                upgrade = async {
                    match &mut upgraded {
                        Some(upgraded) => upgraded.await,
                        None => std::future::pending().await,
                    }
                } => {
                    view.upgraded(upgrade, self.before_mesh.elapsed(), self.nodes);
                    upgraded = expected.next().map(|it| it.of_all(self.nodes));
                }
                _ = redraw.tick() => view.draw(score, self.nodes),
            }
        }
    }

    fn slot_start(&self, slot: u64) -> Instant {
        let slot = u32::try_from(slot).unwrap_or(u32::MAX);
        self.start + self.args.slot_duration * slot
    }

    /// Stops and starts nodes as ordered for this slot.
    async fn orders(
        &mut self,
        slot: u64,
        score: &mut Score,
        view: &mut View,
        returning: &mut BTreeSet<usize>,
    ) -> Result<(), Box<dyn Error>> {
        for at in self.args.kill.iter().filter(|at| at.slot == slot) {
            if let Some(node) = self.nodes[at.node].take() {
                score.down(at.node, slot);
                returning.remove(&at.node);
                view.killed(at.node, slot);
                node.stop().await;
            }
        }
        for at in self.args.restart.iter().filter(|at| at.slot == slot) {
            if self.nodes[at.node].is_some() {
                continue;
            }
            let node = Node::start(
                self.cluster.clone(),
                at.node,
                self.entry,
                self.begun.clone(),
                self.reports.clone(),
            )
            .await?;
            if self.entry.relays.is_empty() {
                // It knows where the others are; they learn from it where it is now.
                for other in self.nodes.iter().flatten() {
                    node.meets(other);
                }
            }
            let others = self.nodes.iter().flatten().count();
            node.report_back(others, self.reports.clone());
            returning.insert(at.node);
            view.restarted(at.node, slot);
            // It may come in the middle of a slot; the first whole one counts.
            score.up(at.node, slot + 1);
            self.nodes[at.node] = Some(node);
        }
        Ok(())
    }
}
