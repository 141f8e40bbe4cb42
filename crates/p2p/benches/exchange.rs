//! One message and its answer between two connected nodes.
//!
//! Ours: a call of the exchange's handle until it resolves; on the other side the request comes out
//! of the inbound channel and is answered there.
//!
//! Baseline: the same frames by hand over `libp2p-stream`, a bare stream behaviour: open a stream,
//! write, read, close. Once as the inner behaviour of such nodes as ours, so that only the exchange
//! differs; and in swarms with nothing else, once as libp2p negotiates unless it is told otherwise,
//! once lazily as we do, which saves a round trip. Same runtime, same process, in turns.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot go on shall end here"
)]

use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder,
    core::upgrade::Version,
    noise,
    swarm::{SwarmEvent, dial_opts::DialOpts},
    tcp, yamux,
};
use pluto_benchkit::{Samples, Short, Table, Times, in_turns};
use pluto_p2p::{
    exchange::{self, Budget, Protocol, Repeat, Shape, Slot, exchange},
    proto::{self, Frame, NoMeter},
};
use pluto_testkit::{QUIC, TCP, TestNode, addr, config, ids, introduce, key, keys, met, within};
use tokio::runtime::Runtime;

const SHAPES: [(&str, &str, Shape); 2] = [
    ("request and answer", "/bench/ask/1", Shape::RequestResponse),
    ("one way, confirmed", "/bench/tell/1", Shape::OneWay),
];
/// Bytes of each message: a partial signature with its duty has about as many.
const BODY: [u8; 100] = [7; 100];
const LIMIT: Duration = Duration::from_secs(5);
const ROUNDS: usize = 101;
const CALLS: usize = 40;

fn main() {
    let runtime = Runtime::new().unwrap();
    let mut table = Table::new(
        "exchange",
        [
            "what",
            "transport",
            "ours",
            "bare stream in such a node",
            "ratio",
            "bare stream in a bare swarm",
            "ratio",
            "the same, lazy as ours",
            "ratio",
        ],
    );
    for (transport, listen) in [("TCP", TCP), ("QUIC", QUIC)] {
        let ours = runtime.block_on(Ours::start(listen));
        let same = runtime.block_on(Bare::start_in_nodes(listen));
        let bare = runtime.block_on(Bare::start(listen, Version::V1));
        let lazy = runtime.block_on(Bare::start(listen, Version::V1Lazy));
        for (slot, (what, _, _)) in SHAPES.into_iter().enumerate() {
            let [ours, same, bare, lazy] = in_turns(
                ROUNDS,
                [
                    &mut |samples| run(&runtime, samples, ours.clone().calls(slot)),
                    &mut |samples| run(&runtime, samples, same.clone().calls(slot)),
                    &mut |samples| run(&runtime, samples, bare.clone().calls(slot)),
                    &mut |samples| run(&runtime, samples, lazy.clone().calls(slot)),
                ],
            );
            table.row([
                &what,
                &transport,
                &Short(ours.p50()),
                &Short(same.p50()),
                &Times(ours.ratio(&same)),
                &Short(bare.p50()),
                &Times(ours.ratio(&bare)),
                &Short(lazy.p50()),
                &Times(ours.ratio(&lazy)),
            ]);
        }
    }
    table.publish().unwrap();
}

/// On a worker of the runtime, where an application would be.
fn run(
    runtime: &Runtime,
    samples: &mut Samples,
    calls: impl Future<Output = Vec<Duration>> + Send + 'static,
) {
    for took in runtime.block_on(async { tokio::spawn(calls).await.unwrap() }) {
        samples.push(took);
    }
}

#[derive(Clone)]
struct Ours {
    to: PeerId,
    handle: exchange::Handle,
}

impl Ours {
    async fn start(listen: &str) -> Self {
        let keys: [_; 2] = keys();
        let known = ids(&keys);
        let mut nodes = Vec::new();
        for key in &keys {
            let node = TestNode::start(config(key, &[listen]), &known, |builder| {
                let (behaviour, handle, inbound) =
                    exchange(builder.p2p_context(), Budget::default(), protocols());
                (behaviour, (handle, inbound))
            });
            nodes.push(node.await);
        }
        introduce(&nodes);
        met(&nodes).await;
        let (server, client) = (nodes.pop().unwrap(), nodes.pop().unwrap());
        let to = server.id();
        let (_, mut inbound) = server.handle;
        tokio::spawn(async move {
            let answer = Frame::from_body(&BODY);
            while let Some(request) = inbound.recv().await {
                request.respond(answer.clone());
            }
        });
        Self {
            to,
            handle: client.handle.0,
        }
    }

    async fn calls(self, slot: usize) -> Vec<Duration> {
        let frame = Frame::from_body(&BODY);
        let mut took = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            let began = Instant::now();
            let by = tokio::time::Instant::now() + LIMIT;
            let call = self.handle.call(self.to, Slot(slot), frame.clone(), by);
            call.unwrap().await.unwrap();
            took.push(began.elapsed());
        }
        took
    }
}

fn protocols() -> Vec<Protocol> {
    SHAPES
        .iter()
        .map(|(_, id, shape)| Protocol {
            ids: vec![StreamProtocol::new(id)],
            shape: *shape,
            repeat: Repeat::Safe,
            max_frame: 1 << 16,
            read_timeout: LIMIT,
            write_timeout: LIMIT,
        })
        .collect()
}

#[derive(Clone)]
struct Bare {
    to: PeerId,
    control: libp2p_stream::Control,
}

impl Bare {
    async fn start(listen: &str, version: Version) -> Self {
        let (mut server, mut client) = (swarm(version), swarm(version));
        for (_, id, shape) in SHAPES {
            let control = &mut server.behaviour().new_control();
            let streams = control.accept(StreamProtocol::new(id)).unwrap();
            tokio::spawn(serve(streams, shape));
        }
        server.listen_on(addr(listen)).unwrap();
        let address: Multiaddr = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = within(server.next()).await.unwrap()
            {
                break address;
            }
        };
        let to = *server.local_peer_id();
        tokio::spawn(server.for_each(|_| std::future::ready(())));
        let opts = DialOpts::peer_id(to).addresses(vec![address]).build();
        client.dial(opts).unwrap();
        loop {
            if let SwarmEvent::ConnectionEstablished { .. } = within(client.next()).await.unwrap() {
                break;
            }
        }
        let control = client.behaviour().new_control();
        tokio::spawn(client.for_each(|_| std::future::ready(())));
        Self { to, control }
    }

    async fn start_in_nodes(listen: &str) -> Self {
        let keys: [_; 2] = keys();
        let known = ids(&keys);
        let mut nodes = Vec::new();
        for key in &keys {
            let node = TestNode::start(config(key, &[listen]), &known, |_| {
                let behaviour = libp2p_stream::Behaviour::new();
                let control = behaviour.new_control();
                (behaviour, control)
            });
            nodes.push(node.await);
        }
        introduce(&nodes);
        met(&nodes).await;
        let (mut server, client) = (nodes.pop().unwrap(), nodes.pop().unwrap());
        for (_, id, shape) in SHAPES {
            let streams = server.handle.accept(StreamProtocol::new(id)).unwrap();
            tokio::spawn(serve(streams, shape));
        }
        Self {
            to: server.id(),
            control: client.handle,
        }
    }

    async fn calls(mut self, slot: usize) -> Vec<Duration> {
        let frame = Frame::from_body(&BODY);
        let (_, id, shape) = SHAPES[slot];
        let mut took = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            let began = Instant::now();
            let opened = self.control.open_stream(self.to, StreamProtocol::new(id));
            let mut stream = opened.await.unwrap();
            proto::write_frame(&mut stream, &frame, LIMIT)
                .await
                .unwrap();
            match shape {
                Shape::RequestResponse => {
                    read(&mut stream).await;
                    stream.close().await.unwrap();
                }
                Shape::OneWay => {
                    stream.close().await.unwrap();
                    stream.read_to_end(&mut Vec::new()).await.unwrap();
                }
            }
            took.push(began.elapsed());
        }
        took
    }
}

async fn serve(mut streams: libp2p_stream::IncomingStreams, shape: Shape) {
    let answer = Frame::from_body(&BODY);
    while let Some((_, mut stream)) = streams.next().await {
        read(&mut stream).await;
        if shape == Shape::RequestResponse {
            proto::write_frame(&mut stream, &answer, LIMIT)
                .await
                .unwrap();
        }
        // The other side may have read the answer and gone.
        let _ = stream.close().await;
    }
}

async fn read(stream: &mut Stream) {
    proto::read_body(stream, 1 << 16, LIMIT, &mut NoMeter)
        .await
        .unwrap();
}

fn swarm(version: Version) -> Swarm<libp2p_stream::Behaviour> {
    SwarmBuilder::with_existing_identity(key())
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_quic()
        .with_behaviour(|_| libp2p_stream::Behaviour::new())
        .unwrap()
        .with_swarm_config(|config| {
            config
                .with_idle_connection_timeout(Duration::from_secs(600))
                .with_substream_upgrade_protocol_override(version)
        })
        .build()
}
