//! One broadcast among n nodes in one process, from the call until all others have it.
//!
//! Baseline of the same run: the signatures and checks that it takes, and one and a
//! half round trips: three halves of a request with an answer of the exchange, between two such nodes
//! over the same transport. Everybody checks one signature of each other.
//!
//! With a delay on every link: the time beside one and a half round trips over such a link.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot go on shall end here"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use libp2p::{PeerId, identity::Keypair};
use pluto_benchkit::{Samples, Short, Table, Times, in_turns, is_bench};
use pluto_crypto::k1;
use pluto_dkg::bcast::{self, Component, Config, Delivered};
use pluto_p2p::{
    exchange::{self, Budget, Protocol, Repeat, Shape, Slot, exchange},
    proto::Frame,
};
use pluto_testkit::{Link, TCP, TestNode, config, ids, introduce, key, keys, met, within};
use prost::{Message, Name};
use tokio::{
    runtime::Runtime,
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
};

const SIZES: [usize; 3] = [4, 7, 10];
/// Each broadcast has an id of its own, since one id carries one message of a node: each of the
/// components has [`bcast::MAX_IDS`].
const IDS: [&str; bcast::MAX_IDS] = [
    "/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8", "/9", "/10", "/11", "/12", "/13", "/14",
    "/15",
];
const ROUNDS: usize = 10;
const DELAY: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(5);

/// What is broadcast; about as long as a node signature.
#[derive(Clone, PartialEq, Message)]
struct Note {
    #[prost(bytes = "vec", tag = "1")]
    bytes: Vec<u8>,
}

impl Name for Note {
    const NAME: &'static str = "Note";
    const PACKAGE: &'static str = "bench";
}

fn main() {
    let runtime = Runtime::new().unwrap();
    let mut table = Table::new(
        "bcast",
        [
            "nodes",
            "delivered on all",
            "confirmed by all",
            "1½ round trips",
            "its signatures and checks",
            "ratio to their sum",
            "the same on all cores",
            "ratio",
        ],
    );
    for n in SIZES {
        let mut cluster = runtime.block_on(Cluster::start(n, None));
        let pair = runtime.block_on(Pair::start(None));
        let mut confirmed = Samples::default();
        let [delivered, one_core, all_cores, trips] = in_turns(
            ROUNDS,
            [
                &mut |samples| {
                    // All nodes take turns, and all but the first id are left for the rounds.
                    for _ in 0..n {
                        let (delivery, confirmation) = runtime.block_on(cluster.broadcast());
                        samples.push(delivery);
                        confirmed.push(confirmation);
                    }
                },
                &mut |samples| {
                    for _ in 0..n {
                        samples.push(runtime.block_on(crypto(n, 1)));
                    }
                },
                &mut |samples| {
                    for _ in 0..n {
                        samples.push(runtime.block_on(crypto(n, cores())));
                    }
                },
                &mut |samples| {
                    for _ in 0..n * 3 {
                        samples.push(runtime.block_on(pair.clone().ask()) * 3 / 2);
                    }
                },
            ],
        );
        let ratio = |crypto: &Samples| {
            let sum = crypto.p50() + trips.p50();
            Times(delivered.p50().as_secs_f64() / sum.as_secs_f64())
        };
        table.row([
            &n,
            &Short(delivered.p50()),
            &Short(confirmed.p50()),
            &Short(trips.p50()),
            &Short(one_core.p50()),
            &ratio(&one_core),
            &Short(all_cores.p50()),
            &ratio(&all_cores),
        ]);
    }
    table.publish().unwrap();

    let mut table = Table::new(
        "bcast-delayed",
        [
            "nodes",
            "delivered on all",
            "1½ round trips",
            "difference",
            "confirmed by all",
        ],
    );
    for n in SIZES {
        let mut cluster = runtime.block_on(Cluster::start(n, Some(DELAY)));
        let pair = runtime.block_on(Pair::start(Some(DELAY)));
        let (mut delivered, mut confirmed) = (Samples::default(), Samples::default());
        let mut trips = Samples::default();
        for _ in 0..if is_bench() { 2 * n } else { 1 } {
            let (delivery, confirmation) = runtime.block_on(cluster.broadcast());
            delivered.push(delivery);
            confirmed.push(confirmation);
            trips.push(runtime.block_on(pair.clone().ask()) * 3 / 2);
        }
        let trips = trips.p50();
        table.row([
            &n,
            &Short(delivered.p50()),
            &Short(trips),
            &Short(delivered.p50().saturating_sub(trips)),
            &Short(confirmed.p50()),
        ]);
    }
    table.publish().unwrap();
}

type Notes = mpsc::Receiver<Delivered<Note>>;

struct Cluster {
    nodes: Vec<TestNode<Component>>,
    /// By node, then by id.
    notes: Vec<Vec<Notes>>,
    _links: Vec<Link>,
    turn: usize,
}

impl Cluster {
    async fn start(n: usize, delay: Option<Duration>) -> Self {
        let mut keys: Vec<_> = (0..n).map(|_| key()).collect();
        keys.sort_by_key(|key| key.public().to_peer_id().to_bytes());
        let known = ids(&keys);
        let mut nodes = Vec::new();
        let mut notes = Vec::new();
        for key in &keys {
            let node = start(key, &known).await;
            let register = |id| node.handle.register(id, |_, _, _: &Note| Ok(()));
            notes.push(IDS.iter().map(|id| register(id).unwrap()).collect());
            nodes.push(node);
        }
        let links = connect(&nodes, delay).await;
        for node in &nodes {
            within(node.handle.agree()).await.unwrap();
        }
        Self {
            nodes,
            notes,
            _links: links,
            turn: 0,
        }
    }

    /// Until all others have it, and until all have confirmed.
    async fn broadcast(&mut self) -> (Duration, Duration) {
        let n = self.nodes.len();
        let (node, id) = (self.turn % n, self.turn / n);
        self.turn += 1;
        let note = Note { bytes: vec![7; 70] };
        let component = self.nodes[node].handle.clone();
        let others = self.notes.iter_mut().enumerate();
        let others = others.filter(|(at, _)| *at != node);
        let arrivals = join_all(others.map(|(_, notes)| async {
            notes[id].recv().await.unwrap();
            Instant::now()
        }));
        let began = Instant::now();
        // On a worker of the runtime, where an application would be.
        let broadcast = tokio::spawn(component.broadcast(IDS[id], &note));
        let confirmed = async {
            broadcast.await.unwrap().unwrap();
            Instant::now()
        };
        let (arrivals, confirmed) = within(async { futures::join!(arrivals, confirmed) }).await;
        let last = arrivals.into_iter().max().unwrap();
        (last - began, confirmed - began)
    }
}

/// Waits until all have met, over links if there is a delay.
async fn connect<H>(nodes: &[TestNode<H>], delay: Option<Duration>) -> Vec<Link> {
    let mut links = Vec::new();
    match delay {
        None => introduce(nodes),
        Some(delay) => {
            // Only one of two dials, so that each pair has one link.
            for (at, node) in nodes.iter().enumerate() {
                for other in &nodes[at + 1..] {
                    let link = Link::slow(&other.addresses[0], delay).await;
                    node.control.book().set(other.id(), vec![link.address()]);
                    links.push(link);
                }
            }
        }
    }
    met(nodes).await;
    links
}

async fn start(key: &Keypair, known: &[PeerId]) -> TestNode<Component> {
    let settings = Config::new(known.to_vec(), secret(key), [7; 32]);
    TestNode::start(config(key, &[TCP]), known, |builder| {
        bcast::new(builder.p2p_context(), settings, Budget::default()).unwrap()
    })
    .await
}

fn secret(key: &Keypair) -> k1::SecretKey {
    let key = key.clone().try_into_secp256k1().unwrap();
    k1::SecretKey::from_bytes(&key.secret().to_bytes()).unwrap()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// As many signatures and checks as one broadcast among `n` takes, on so many cores.
async fn crypto(n: usize, cores: usize) -> Duration {
    let key = k1::SecretKey::generate();
    let (public, digest) = (key.public_key(), [9; 32]);
    let signature = key.sign(&digest);
    let (signs, checks) = (n as u64, (n * (n - 1)) as u64);
    let work = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..cores {
        let (work, key) = (work.clone(), key.clone());
        tasks.spawn(async move {
            let run = move || {
                loop {
                    match work.fetch_add(1, Ordering::Relaxed) {
                        at if at < signs => drop(key.sign(&digest)),
                        at if at < signs + checks => public.verify65(&digest, &signature).unwrap(),
                        _ => return,
                    }
                }
            };
            spawn_blocking(run).await.unwrap();
        });
    }
    tasks.join_all().await;
    began.elapsed()
}

/// Two nodes, of which one answers.
#[derive(Clone)]
struct Pair {
    to: PeerId,
    handle: exchange::Handle,
    _link: Option<Arc<Link>>,
}

impl Pair {
    async fn start(delay: Option<Duration>) -> Self {
        let keys: [_; 2] = keys();
        let known = ids(&keys);
        let mut nodes = Vec::new();
        for key in &keys {
            let protocol = Protocol {
                ids: vec![libp2p::StreamProtocol::new("/bench/ask/1")],
                shape: Shape::RequestResponse,
                repeat: Repeat::Safe,
                max_frame: 1 << 16,
                read_timeout: LIMIT,
                write_timeout: LIMIT,
            };
            let node = TestNode::start(config(key, &[TCP]), &known, |builder| {
                let context = builder.p2p_context();
                let parts = exchange(context, Budget::default(), vec![protocol]);
                (parts.0, (parts.1, parts.2))
            });
            nodes.push(node.await);
        }
        let link = connect(&nodes, delay).await.pop();
        let (server, client) = (nodes.pop().unwrap(), nodes.pop().unwrap());
        let to = server.id();
        let (_, mut inbound) = server.handle;
        tokio::spawn(async move {
            let answer = Frame::from_body(&[7; 100]);
            while let Some(request) = inbound.recv().await {
                request.respond(answer.clone());
            }
        });
        Self {
            to,
            handle: client.handle.0,
            _link: link.map(Arc::new),
        }
    }

    async fn ask(self) -> Duration {
        let ask = async move {
            let frame = Frame::from_body(&[7; 200]);
            let began = Instant::now();
            let by = tokio::time::Instant::now() + LIMIT;
            let call = self.handle.call(self.to, Slot(0), frame, by);
            call.unwrap().await.unwrap();
            began.elapsed()
        };
        tokio::spawn(ask).await.unwrap()
    }
}
