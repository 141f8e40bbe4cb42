//! How long it takes until everybody in a cluster is connected to everybody.
//!
//! Ours: `n` nodes in one process that listen and do not know where the others are. The clock runs
//! from the first address told until every context shows all others connected.
//!
//! Baseline: `n` swarms with nothing but ping, over the same transport; each pair is dialled once,
//! by one side, and again only if that comes to nothing. The clock runs from the first dial until
//! every swarm has seen all others established. Same runtime, same process, in turns.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot go on shall end here"
)]

use std::time::{Duration, Instant};

use futures::{StreamExt, future::join_all};
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, noise, ping,
    swarm::{SwarmEvent, dial_opts::DialOpts, dummy},
    tcp, yamux,
};
use pluto_benchkit::{Short, Table, Times, in_turns};
use pluto_testkit::{QUIC, TCP, TestNode, addr, config, ids, introduce, key, within};
use tokio::{runtime::Runtime, sync::oneshot};
use tokio_util::sync::CancellationToken;

const SIZES: [usize; 3] = [4, 7, 10];
const ROUNDS: usize = 21;

fn main() {
    let runtime = Runtime::new().unwrap();
    let mut table = Table::new(
        "mesh",
        ["nodes", "transport", "ours", "bare dials", "ratio"],
    );
    for (transport, listen) in [("TCP", TCP), ("QUIC", QUIC)] {
        for n in SIZES {
            let [ours, bare] = in_turns(
                ROUNDS,
                [
                    &mut |samples| samples.push(runtime.block_on(cluster(n, listen))),
                    &mut |samples| samples.push(runtime.block_on(swarms(n, listen))),
                ],
            );
            table.row([
                &n,
                &transport,
                &Short(ours.p50()),
                &Short(bare.p50()),
                &Times(ours.ratio(&bare)),
            ]);
        }
    }
    table.publish().unwrap();
}

async fn cluster(n: usize, listen: &str) -> Duration {
    let keys: Vec<_> = (0..n).map(|_| key()).collect();
    let known = ids(&keys);
    let start = |key| TestNode::start(config(key, &[listen]), &known, |_| (dummy::Behaviour, ()));
    let nodes = join_all(keys.iter().map(start)).await;

    let began = Instant::now();
    introduce(&nodes);
    // Does not say that anybody is wanted: that is for whoever has something to send.
    let met = nodes.iter().map(|node| node.context.quorum(n - 1));
    for met in within(join_all(met)).await {
        met.unwrap();
    }
    let took = began.elapsed();

    join_all(nodes.into_iter().map(TestNode::stop)).await;
    took
}

async fn swarms(n: usize, listen: &str) -> Duration {
    let stop = CancellationToken::new();
    let starts = (0..n).map(|_| Bare::start(listen, n - 1, stop.clone()));
    let mut bares = join_all(starts).await;
    let addresses: Vec<_> = bares
        .iter()
        .map(|bare| (bare.id, bare.address.clone()))
        .collect();

    let began = Instant::now();
    for (at, bare) in bares.iter_mut().enumerate() {
        let dial = bare.dial.take().unwrap();
        dial.send(addresses[at + 1..].to_vec()).unwrap();
    }
    let met = bares.iter_mut().map(|bare| &mut bare.met);
    for met in within(join_all(met)).await {
        met.unwrap();
    }
    let took = began.elapsed();

    stop.cancel();
    took
}

/// A swarm that only pings, and dials when told to.
struct Bare {
    id: PeerId,
    address: Multiaddr,
    dial: Option<oneshot::Sender<Vec<(PeerId, Multiaddr)>>>,
    met: oneshot::Receiver<()>,
}

impl Bare {
    async fn start(listen: &str, others: usize, stop: CancellationToken) -> Self {
        let mut swarm = SwarmBuilder::with_existing_identity(key())
            .with_tokio()
            .with_tcp(
                tcp::Config::default(),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_quic()
            .with_behaviour(|_| ping::Behaviour::default())
            .unwrap()
            .with_swarm_config(|config| {
                config.with_idle_connection_timeout(Duration::from_secs(60))
            })
            .build();
        swarm.listen_on(addr(listen)).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = within(swarm.next()).await.unwrap() {
                break address;
            }
        };
        let id = *swarm.local_peer_id();
        let (dial, dials) = oneshot::channel();
        let (done, met) = oneshot::channel();
        tokio::spawn(stop.run_until_cancelled_owned(run(swarm, dials, others, done)));
        Self {
            id,
            address,
            dial: Some(dial),
            met,
        }
    }
}

async fn run(
    mut swarm: Swarm<ping::Behaviour>,
    mut dials: oneshot::Receiver<Vec<(PeerId, Multiaddr)>>,
    others: usize,
    done: oneshot::Sender<()>,
) {
    let mut done = Some(done);
    let mut told = false;
    let mut book = Vec::new();
    loop {
        tokio::select! {
            peers = &mut dials, if !told => {
                told = true;
                book = peers.unwrap();
                for at in &book {
                    dial(&mut swarm, at);
                }
            }
            event = swarm.select_next_some() => match event {
                SwarmEvent::ConnectionEstablished { .. } => {
                    if swarm.connected_peers().count() == others
                        && let Some(done) = done.take()
                    {
                        // The bench has ended if nobody listens.
                        let _ = done.send(());
                    }
                }
                // Nobody else would: without this one lost handshake hangs the bench.
                SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), .. }
                | SwarmEvent::ConnectionClosed { peer_id: peer, .. } => {
                    let at = book.iter().find(|(id, _)| *id == peer);
                    at.into_iter().for_each(|at| dial(&mut swarm, at));
                }
                _ => {}
            }
        }
    }
}

fn dial(swarm: &mut Swarm<ping::Behaviour>, (peer, address): &(PeerId, Multiaddr)) {
    let opts = DialOpts::peer_id(*peer).addresses(vec![address.clone()]);
    // Fails if there is another connection, which is as good.
    let _ = swarm.dial(opts.build());
}
