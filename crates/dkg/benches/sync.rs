//! How long a barrier takes among four nodes.
//!
//! The clock runs from the moment all four say the next step until all four have passed. The nodes live
//! in one process and talk over loopback, or over links that hold every byte back for [`DELAY`] in
//! each direction, where a round trip is twice that.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot go on shall end here"
)]

use std::time::{Duration, Instant};

use futures::future::join_all;
use libp2p::{Multiaddr, multiaddr::Protocol};
use pluto_benchkit::{Short, Table, in_turns};
use pluto_dkg::sync::{self, Client, Config, Server, Step};
use pluto_testkit::{TCP, TestNode, config, ids, keys, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    runtime::Runtime,
    sync::mpsc,
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

const NODES: usize = 4;
const DELAY: Duration = Duration::from_millis(50);
const ROUNDS: usize = 200;

fn main() {
    let runtime = Runtime::new().unwrap();
    let mut near = runtime.block_on(Ceremony::start(None));
    let mut far = runtime.block_on(Ceremony::start(Some(DELAY)));
    let [loopback, delayed] = in_turns(
        ROUNDS,
        [
            &mut |samples| samples.push(runtime.block_on(near.barrier())),
            &mut |samples| samples.push(runtime.block_on(far.barrier())),
        ],
    );
    let mut table = Table::new("barrier", ["links", "p50", "p99", "limit"]);
    let rows = [
        ("loopback", loopback, Duration::from_millis(2)),
        (
            "50 ms each way",
            delayed,
            DELAY * 2 + Duration::from_millis(5),
        ),
    ];
    for (links, samples, limit) in rows {
        table.row([
            &links,
            &Short(samples.p50()),
            &Short(samples.percentile(99)),
            &Short(limit),
        ]);
    }
    table.publish().unwrap();
}

struct Ceremony {
    nodes: Vec<TestNode<(Client, Server)>>,
    step: u32,
}

impl Ceremony {
    async fn start(delay: Option<Duration>) -> Self {
        let keys = keys::<NODES>();
        let all = ids(&keys);
        let mut nodes = Vec::new();
        for key in &keys {
            let node = TestNode::start(config(key, &[TCP]), &all, |builder| {
                let config = Config::new(all.iter().copied(), [7; 32]);
                let (behaviour, client, server) =
                    sync::new(builder.p2p_context(), builder.key(), config).unwrap();
                (behaviour, (client, server))
            });
            nodes.push(node.await);
        }
        for (at, node) in nodes.iter().enumerate() {
            for other in &nodes[at + 1..] {
                let mut address = other.addresses[0].clone();
                if let Some(delay) = delay {
                    address = delayed(&address, delay).await;
                }
                node.control.book().set(other.id(), vec![address]);
            }
        }
        let token = CancellationToken::new();
        for node in &nodes {
            within(node.handle.1.wait_connected(&token)).await.unwrap();
        }
        Self { nodes, step: 0 }
    }

    async fn barrier(&mut self) -> Duration {
        self.step += 1;
        let step = Step(self.step);
        let token = CancellationToken::new();
        let began = Instant::now();
        for node in &self.nodes {
            node.handle.0.set_step(step);
        }
        let waits = self
            .nodes
            .iter()
            .map(|node| node.handle.1.wait_step(step, &token));
        for open in within(join_all(waits)).await {
            open.unwrap();
        }
        began.elapsed()
    }
}

/// Forwards connections to a TCP address on loopback, every byte later by `delay`.
async fn delayed(target: &Multiaddr, delay: Duration) -> Multiaddr {
    let port = target.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let port = port.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            near.set_nodelay(true).unwrap();
            far.set_nodelay(true).unwrap();
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            tokio::spawn(forward(near_read, far_write, delay));
            tokio::spawn(forward(far_read, near_write, delay));
        }
    });
    Multiaddr::empty()
        .with(Protocol::Ip4([127, 0, 0, 1].into()))
        .with(Protocol::Tcp(near))
}

async fn forward(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, delay: Duration) {
    let (arrived, mut leaving) = mpsc::channel::<(tokio::time::Instant, Vec<u8>)>(1024);
    let write = async move {
        while let Some((at, bytes)) = leaving.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let read = async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(len @ 1..) = from.read(&mut buffer).await {
            let at = tokio::time::Instant::now() + delay;
            if arrived.send((at, buffer[..len].to_vec())).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
