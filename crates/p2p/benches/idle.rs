//! What a node costs that has nothing to do.
//!
//! One node in a process of its own, on two relays, connected to nine peers of its cluster, all of
//! which are in another process. Once it has a direct connection to each and has rested for
//! [`REST`], the processor time of all its threads is taken as the kernel counts it, over
//! [`SPAN`]: pings, the relays' reservations, timers.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot go on shall end here"
)]

use std::{
    env, fs,
    process::{Command, Stdio},
    time::Duration,
};

use libp2p::{identity::Keypair, swarm::dummy};
use pluto_benchkit::{Table, is_bench};
use pluto_p2p::RelaySource;
use pluto_testkit::{
    Cluster, QUIC, TCP, TestNode, TestRelay, config, for_all_pairs, is_direct, within,
};
use tokio::runtime::Runtime;

/// How long it is left alone before, so that paths are replaced and surplus ones closed.
const REST: Duration = Duration::from_secs(40);
/// How long it is looked at.
const SPAN: Duration = Duration::from_secs(30);
const NODES: usize = 10;
/// For the other process: its identity, its cluster, its relays, and the two times in seconds.
const KEY: &str = "PLUTO_IDLE_KEY";
const KNOWN: &str = "PLUTO_IDLE_KNOWN";
const RELAYS: &str = "PLUTO_IDLE_RELAYS";
const TIMES: &str = "PLUTO_IDLE_TIMES";

fn main() {
    if let Ok(key) = env::var(KEY) {
        idle(&key);
        return;
    }
    let (rest, span) = match is_bench() {
        true => (REST, SPAN),
        false => (Duration::from_secs(1), Duration::from_secs(1)),
    };
    let mut table = Table::new(
        "idle",
        ["peers", "relays", "connections", "of one core", "limit"],
    );
    let (connections, used) = Runtime::new().unwrap().block_on(beside(rest, span));
    let percent = used.as_secs_f64() / span.as_secs_f64() * 100.0;
    table.row([
        &(NODES - 1),
        &2,
        &connections,
        &format_args!("{percent:.2} %"),
        &"0.5 %",
    ]);
    table.publish().unwrap();
}

/// Everything but the node, which is started.
async fn beside(rest: Duration, span: Duration) -> (usize, Duration) {
    let relays = [TestRelay::start().await, TestRelay::start().await];
    let cluster = Cluster::new(NODES, &[TCP, QUIC], relays.iter().map(TestRelay::url));
    let mut nodes = Vec::new();
    for index in 1..NODES {
        nodes.push(cluster.node(index).await);
    }
    for_all_pairs(&nodes, is_direct).await;

    let key = cluster.keys[0].to_protobuf_encoding().unwrap();
    let known: Vec<_> = cluster.known().iter().map(ToString::to_string).collect();
    let urls: Vec<_> = relays.iter().map(|relay| relay.url().to_string()).collect();
    let key: Vec<_> = key.iter().map(ToString::to_string).collect();
    let child = Command::new(env::current_exe().unwrap())
        .env(KEY, key.join(" "))
        .env(KNOWN, known.join(" "))
        .env(RELAYS, urls.join(" "))
        .env(TIMES, format!("{} {}", rest.as_secs(), span.as_secs()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = tokio::task::spawn_blocking(|| child.wait_with_output());
    let output = output.await.unwrap().unwrap();
    assert!(output.status.success());
    let told = String::from_utf8(output.stdout).unwrap();
    let (connections, nanos) = told.trim().split_once(' ').unwrap();
    (
        connections.parse().unwrap(),
        Duration::from_nanos(nanos.parse().unwrap()),
    )
}

/// The node.
fn idle(key: &str) {
    let words = |name| env::var(name).unwrap();
    let key: Vec<u8> = key.split(' ').map(|byte| byte.parse().unwrap()).collect();
    let key = Keypair::from_protobuf_encoding(&key).unwrap();
    let known = words(KNOWN);
    let known: Vec<_> = known.split(' ').map(|peer| peer.parse().unwrap()).collect();
    let relays = words(RELAYS);
    let relays = relays
        .split(' ')
        .map(|url| url.parse::<RelaySource>().unwrap());
    let times = words(TIMES);
    let mut times = times
        .split(' ')
        .map(|secs| Duration::from_secs(secs.parse().unwrap()));
    let (rest, span) = (times.next().unwrap(), times.next().unwrap());

    Runtime::new().unwrap().block_on(async {
        let config = config(&key, &[TCP, QUIC]).with_relays(relays);
        let node = TestNode::start(config, &known, |_| (dummy::Behaviour, ())).await;
        let settled = node.context.wait_for(|view| {
            let own = key.public().to_peer_id();
            let mut others = view.known().filter(|peer| peer.id != own);
            let relays = view.relays.iter().all(|relay| relay.is_reserved());
            (relays && others.all(|peer| is_direct(peer))).then_some(())
        });
        within(settled).await.unwrap();
        tokio::time::sleep(rest).await;
        let before = used();
        tokio::time::sleep(span).await;
        let used = used() - before;
        let view = node.context.view();
        let connections: usize = view.peers().map(|peer| peer.paths.len()).sum();
        println!("{connections} {}", used.as_nanos());
        node.stop().await;
    });
}

/// Processor time of all threads of this process. None ends while it is measured.
fn used() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let nanos = tasks.map(|task| {
        let stat = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
        stat.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(nanos.sum())
}
