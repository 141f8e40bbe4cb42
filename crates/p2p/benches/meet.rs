//! How long it takes until nodes that know only a relay's URL are connected, and directly.
//!
//! Four nodes in one process, and a relay of their own. The clock runs from the start of the last
//! one, its construction included, until every context shows all others connected, and until every
//! pair has an answered ping on a direct connection, which is what new streams use. Once the four
//! start together; once the last one starts [`LATE`] after the others, which by then wait long
//! between their attempts. The late ones of all rounds are waited for at once and started one by one.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot go on shall end here"
)]

use std::{
    env,
    time::{Duration, Instant},
};

use futures::future::join_all;
use pluto_benchkit::{Samples, Short, Table, is_bench};
use pluto_testkit::{Cluster, QUIC, TCP, TestNode, TestRelay, for_all_pairs, is_direct, logs};
use tokio::runtime::Runtime;

/// How late the last one is.
const LATE: Duration = Duration::from_secs(60);
/// The environment variable with other seconds than [`LATE`].
const LATE_SECS: &str = "PLUTO_BENCH_LATE_SECS";
const NODES: usize = 4;
const ROUNDS: usize = 9;

fn main() {
    logs();
    let runtime = Runtime::new().unwrap();
    let rounds = if is_bench() { ROUNDS } else { 1 };
    let late = match env::var(LATE_SECS) {
        Ok(secs) => Duration::from_secs(secs.parse().unwrap()),
        Err(_) if is_bench() => LATE,
        Err(_) => Duration::from_secs(1),
    };
    let mut table = Table::new(
        "meet",
        [
            "the last one starts",
            "listening on",
            "mesh, p50",
            "mesh, max",
            "direct, p50",
            "direct, max",
        ],
    );
    let lateness = format!("{} s after the others", late.as_secs());
    for (transports, listen) in [("TCP", &[TCP][..]), ("TCP and QUIC", &[TCP, QUIC])] {
        let (together, later) = runtime.block_on(async {
            let mut together = Met::default();
            for _ in 0..rounds {
                together.start(Meeting::new(listen).await).await;
            }
            let meetings = (0..rounds).map(|_| async {
                let mut meeting = Meeting::new(listen).await;
                meeting.begin().await;
                meeting
            });
            let meetings = join_all(meetings).await;
            tokio::time::sleep(late).await;
            let mut later = Met::default();
            for meeting in meetings {
                later.start(meeting).await;
            }
            (together, later)
        });
        for (when, met) in [("with the others", together), (&lateness, later)] {
            table.row([
                &when,
                &transports,
                &Short(met.mesh.p50()),
                &Short(met.mesh.percentile(100)),
                &Short(met.direct.p50()),
                &Short(met.direct.percentile(100)),
            ]);
        }
    }
    table.publish().unwrap();
}

struct Meeting {
    _relay: TestRelay,
    cluster: Cluster,
    nodes: Vec<TestNode<()>>,
}

impl Meeting {
    async fn new(listen: &[&'static str]) -> Self {
        let relay = TestRelay::start().await;
        Self {
            cluster: Cluster::new(NODES, listen, [relay.url()]),
            _relay: relay,
            nodes: Vec::new(),
        }
    }

    /// Starts all but one, not always the same, and waits until they have met.
    async fn begin(&mut self) {
        // The order of peer ids decides who dials; a fresh key may be any in it.
        let last = self
            .cluster
            .keys
            .remove(usize::from(rand::random::<u8>()) % NODES);
        self.cluster.keys.push(last);
        self.nodes = join_all((0..NODES - 1).map(|index| self.cluster.node(index))).await;
        for_all_pairs(&self.nodes, is_direct).await;
    }
}

#[derive(Default)]
struct Met {
    mesh: Samples,
    direct: Samples,
}

impl Met {
    /// Starts those that are not started.
    async fn start(&mut self, mut meeting: Meeting) {
        let began = Instant::now();
        let missing = meeting.nodes.len()..NODES;
        let started = missing.map(|index| meeting.cluster.node(index));
        let started = join_all(started).await;
        meeting.nodes.extend(started);
        for_all_pairs(&meeting.nodes, |peer| peer.best().is_some()).await;
        self.mesh.push(began.elapsed());
        for_all_pairs(&meeting.nodes, is_direct).await;
        self.direct.push(began.elapsed());
        join_all(meeting.nodes.into_iter().map(TestNode::stop)).await;
    }
}
