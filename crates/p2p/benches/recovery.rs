//! How long it takes until nodes whose relay was lost reach each other again.
//!
//! Nothing but a relay connects the nodes. Each loss is that of one cluster of four nodes in this
//! process; [`ROUNDS`] clusters suffer it at the same time. The clock runs from the moment at which
//! what was lost is back, until every pair has an answered ping on a connection that was made after
//! the loss; where no connection is lost it is said at the loss what is waited for.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot go on shall end here"
)]

use std::{
    env,
    net::{IpAddr, Ipv4Addr},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::join_all;
use libp2p::{
    Multiaddr, PeerId,
    core::{
        Endpoint,
        transport::{ListenerId, PortUse},
    },
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};
use pluto_benchkit::{Samples, Short, Table, is_bench};
use pluto_p2p::{
    addr::is_relayed,
    p2p_context::{PeerView, ReservationState, View},
};
use pluto_testkit::{
    Cluster, Limits, Link, State, TCP, TestNode, TestRelay, for_all_pairs, logs, within,
};
use tokio::{runtime::Runtime, sync::mpsc};

/// How long what is killed, cut off or frozen stays so.
const OUTAGE: Duration = Duration::from_secs(30);
/// The environment variable with other seconds than [`OUTAGE`].
const OUTAGE_SECS: &str = "PLUTO_BENCH_OUTAGE_SECS";
/// The environment variable with a part of the name of the only losses to be measured.
const ONLY: &str = "PLUTO_BENCH_ONLY";
/// How long a relay keeps the place of a client that is gone.
const KEPT: Duration = Duration::from_secs(60);
const NODES: usize = 4;
const ROUNDS: usize = 5;
/// Another host of loopback, for links.
const FRONT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

fn main() {
    logs();
    let runtime = Runtime::new().unwrap();
    let mut table = Table::new("recovery", ["what is lost", "p50", "max"]);
    let outage = outage();
    let secs = outage.as_secs();
    let losses: [(String, Loss); 12] = [
        ("the relay restarts".into(), |_| Box::pin(restarted())),
        (format!("the relay is killed for {secs} s"), |outage| {
            Box::pin(killed(outage))
        }),
        (
            "TCP is reset between the relay and all nodes".into(),
            |_| Box::pin(reset()),
        ),
        (
            format!("the way to the relay swallows everything for {secs} s"),
            |outage| Box::pin(silent(outage)),
        ),
        (format!("the relay's host freezes for {secs} s"), |outage| {
            Box::pin(frozen(outage))
        }),
        (
            "all reservations are refused for a minute: the relay is full".into(),
            |_| Box::pin(refused()),
        ),
        (
            format!("all circuits are refused for {secs} s: the relay is at capacity"),
            |outage| Box::pin(at_capacity(outage)),
        ),
        (
            "all reservations expire unrenewed (until they are held again)".into(),
            |_| Box::pin(expired()),
        ),
        (
            "all listeners are closed (until all are reachable again)".into(),
            |_| Box::pin(closed()),
        ),
        ("another relay is behind the URL".into(), |_| {
            Box::pin(replaced(Duration::ZERO))
        }),
        (format!("the same after {secs} s without any"), |outage| {
            Box::pin(replaced(outage))
        }),
        ("one of two relays dies (from its death)".into(), |_| {
            Box::pin(one_of_two())
        }),
    ];
    let only = env::var(ONLY).unwrap_or_default();
    for (name, loss) in losses.iter().filter(|(name, _)| name.contains(&only)) {
        let rounds = if is_bench() { ROUNDS } else { 1 };
        let measured = runtime.block_on(join_all((0..rounds).map(|_| loss(outage))));
        let mut samples = Samples::default();
        measured.into_iter().for_each(|took| samples.push(took));
        println!("{name}: {}", Short(samples.percentile(100)));
        table.row([
            &name,
            &Short(samples.p50()),
            &Short(samples.percentile(100)),
        ]);
    }
    if only.is_empty() {
        table.publish().unwrap();
    } else {
        println!("{table}");
    }
}

/// Suffers one loss, the outage being so long.
type Loss = fn(Duration) -> Measured;
type Measured = std::pin::Pin<Box<dyn Future<Output = Duration>>>;

fn outage() -> Duration {
    match env::var(OUTAGE_SECS) {
        Ok(secs) => Duration::from_secs(secs.parse().unwrap()),
        Err(_) if is_bench() => OUTAGE,
        Err(_) => Duration::from_secs(1),
    }
}

async fn meet(relays: &[&TestRelay]) -> Vec<TestNode<()>> {
    let cluster = Cluster::new(NODES, &[TCP], relays.iter().map(|relay| relay.url()));
    let nodes = cluster.relayed_only().start().await;
    met(&nodes).await;
    nodes
}

async fn met<H>(nodes: &[TestNode<H>]) {
    for_all_pairs(nodes, answers).await;
}

fn answers(peer: &PeerView) -> bool {
    peer.best().is_some_and(|path| path.rtt().is_some())
}

/// Until every pair has an answer on a connection made after `lost`; then the nodes end.
async fn healed(nodes: Vec<TestNode<()>>, lost: Instant, back: Instant) -> Duration {
    for_all_pairs(&nodes, |peer| {
        let mut paths = peer.paths.iter();
        paths.any(|path| path.since > lost && path.rtt().is_some())
    })
    .await;
    ended(nodes, back).await
}

async fn ended<H>(nodes: Vec<TestNode<H>>, back: Instant) -> Duration {
    let took = back.elapsed();
    join_all(nodes.into_iter().map(TestNode::stop)).await;
    took
}

/// Until every node sees its relays so.
async fn for_all<H>(nodes: &[TestNode<H>], expected: impl Fn(&View) -> bool) {
    for node in nodes {
        let state = node.context.wait_for(|view| expected(view).then_some(()));
        within(state).await.unwrap();
    }
}

fn reserved_after(view: &View, lost: Instant) -> bool {
    let mut relays = view.relays.iter();
    relays.any(|relay| match relay.reservation {
        ReservationState::Reserved { since, .. } => since > lost,
        _ => false,
    })
}

async fn restarted() -> Duration {
    let mut relay = TestRelay::start().await;
    let nodes = meet(&[&relay]).await;
    let lost = Instant::now();
    relay.restart().await;
    healed(nodes, lost, Instant::now()).await
}

async fn killed(outage: Duration) -> Duration {
    let mut relay = TestRelay::start().await;
    let nodes = meet(&[&relay]).await;
    let lost = Instant::now();
    relay.stop().await;
    tokio::time::sleep(outage).await;
    relay.restart().await;
    healed(nodes, lost, Instant::now()).await
}

async fn linked(limits: Limits) -> (TestRelay, Link, Vec<TestNode<()>>) {
    let relay = TestRelay::behind(FRONT, limits).await;
    let link = Link::before(&relay, FRONT).await;
    let nodes = meet(&[&relay]).await;
    (relay, link, nodes)
}

async fn reset() -> Duration {
    let (_relay, link, nodes) = linked(Limits::default()).await;
    let lost = Instant::now();
    link.reset();
    healed(nodes, lost, lost).await
}

async fn silent(outage: Duration) -> Duration {
    let (_relay, link, nodes) = linked(Limits::default()).await;
    let lost = Instant::now();
    link.fall_silent();
    tokio::time::sleep(outage).await;
    link.speak();
    healed(nodes, lost, Instant::now()).await
}

async fn frozen(outage: Duration) -> Duration {
    let (_relay, link, nodes) = linked(Limits::default()).await;
    let lost = Instant::now();
    link.stall();
    tokio::time::sleep(outage).await;
    link.speak();
    let back = Instant::now();
    if outage < OUTAGE {
        // Nobody has given up anything yet, and all goes on.
        met(&nodes).await;
        return ended(nodes, back).await;
    }
    healed(nodes, lost, back).await
}

async fn refused() -> Duration {
    let relay = TestRelay::with_limits(Limits {
        max_reservations: NODES,
        ..Limits::default()
    });
    let relay = relay.await;
    let crowd = meet(&[&relay]).await;
    let cluster = Cluster::new(NODES, &[TCP], [relay.url()]).relayed_only();
    let nodes = cluster.start().await;
    for_all(&nodes, |view| {
        let mut relays = view.relays.iter();
        relays.any(|relay| matches!(relay.reservation, ReservationState::Waiting { .. }))
    })
    .await;
    join_all(crowd.into_iter().map(TestNode::stop)).await;
    tokio::time::sleep(KEPT).await;
    let back = Instant::now();
    met(&nodes).await;
    ended(nodes, back).await
}

async fn at_capacity(outage: Duration) -> Duration {
    let circuits = 4 * NODES;
    let relay = TestRelay::with_limits(Limits {
        max_circuits: circuits,
        ..Limits::default()
    });
    let relay = relay.await;
    // Many more pairs than circuits.
    let crowd = Cluster::new(3 * NODES, &[TCP], [relay.url()]).relayed_only();
    let crowd = crowd.start().await;
    let full = |state: &State| (state.circuits == circuits).then_some(());
    within(relay.control().wait_for(full)).await.unwrap();
    let cluster = Cluster::new(NODES, &[TCP], [relay.url()]).relayed_only();
    let nodes = cluster.start().await;
    for_all(&nodes, |view| view.relays[0].is_reserved()).await;
    tokio::time::sleep(outage).await;
    join_all(crowd.into_iter().map(TestNode::stop)).await;
    let back = Instant::now();
    met(&nodes).await;
    ended(nodes, back).await
}

async fn expired() -> Duration {
    let (_relay, link, nodes) = linked(Limits {
        reservation_duration: Duration::from_secs(3),
        ..Limits::default()
    })
    .await;
    for_all(&nodes, |view| view.relays[0].is_reserved()).await;
    let lost = Instant::now();
    link.stall();
    for_all(&nodes, |view| !view.relays[0].is_reserved()).await;
    link.speak();
    let back = Instant::now();
    for_all(&nodes, |view| reserved_after(view, lost)).await;
    met(&nodes).await;
    ended(nodes, back).await
}

async fn closed() -> Duration {
    let relay = TestRelay::start().await;
    let cluster = Cluster::new(NODES, &[TCP], [relay.url()]).relayed_only();
    let known = cluster.known();
    let nodes =
        (0..NODES).map(|index| TestNode::start(cluster.config(index), &known, |_| Closer::new()));
    let nodes = join_all(nodes).await;
    met(&nodes).await;
    let lost = Instant::now();
    for node in &nodes {
        node.handle.send(()).await.unwrap();
    }
    for_all(&nodes, |view| reserved_after(view, lost)).await;
    met(&nodes).await;
    ended(nodes, lost).await
}

async fn replaced(outage: Duration) -> Duration {
    let mut relay = TestRelay::start().await;
    let nodes = meet(&[&relay]).await;
    let lost = Instant::now();
    relay.stop().await;
    tokio::time::sleep(outage).await;
    relay.replace().await;
    healed(nodes, lost, Instant::now()).await
}

async fn one_of_two() -> Duration {
    let (mut first, second) = (TestRelay::start().await, TestRelay::start().await);
    let nodes = meet(&[&first, &second]).await;
    for_all(&nodes, |view| {
        view.relays.iter().all(|relay| relay.is_reserved())
    })
    .await;
    let lost = Instant::now();
    first.stop().await;
    let id = second.id();
    for_all_pairs(&nodes, |peer| {
        let mut paths = peer.paths.iter();
        paths.any(|path| path.relay == Some(id) && path.rtt().is_some())
    })
    .await;
    ended(nodes, lost).await
}

/// Closes the node's listeners on relays when told to.
struct Closer {
    told: mpsc::Receiver<()>,
    open: Vec<ListenerId>,
    closing: Vec<ListenerId>,
}

impl Closer {
    fn new() -> (Self, mpsc::Sender<()>) {
        let (tell, told) = mpsc::channel(1);
        let closer = Self {
            told,
            open: Vec::new(),
            closing: Vec::new(),
        };
        (closer, tell)
    }
}

impl NetworkBehaviour for Closer {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::NewListenAddr(new) = event
            && is_relayed(new.addr)
        {
            self.open.push(new.listener_id);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        while let Poll::Ready(Some(())) = self.told.poll_recv(cx) {
            self.closing.append(&mut self.open);
        }
        match self.closing.pop() {
            Some(id) => Poll::Ready(ToSwarm::RemoveListener { id }),
            None => Poll::Pending,
        }
    }
}
