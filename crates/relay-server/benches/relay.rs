//! What a place and a circuit cost a relay, and how much it carries.
//!
//! Three processes: this one, which looks at the clock and at the relay's resident memory; the
//! relay; and all its clients, each a swarm of its own with identify and ping, which talk to the
//! relay by hand. The bytes on the circuits are encrypted once on each leg, as always, and not a
//! second time from end to end, since the relay's part is what is measured.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot go on shall end here"
)]

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt, future::join_all, stream};
use libp2p::{
    Multiaddr, PeerId, Stream, SwarmBuilder, identify, multiaddr::Protocol, noise, ping,
    swarm::NetworkBehaviour, tcp, yamux,
};
use pluto_benchkit::{Table, is_bench};
use pluto_crypto::k1::SecretKey;
use pluto_p2p::{
    proto::{read_protobuf_with_max_size, skip_body, write_protobuf},
    relay::{
        HOP, MAX_FRAME, STOP,
        wire::pb::{HopMessage, StopMessage},
    },
};
use pluto_relay_server::{Config, Limits, RelayServer};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// Which of the processes this is; none for the first.
const ROLE: &str = "PLUTO_RELAY_BENCH_ROLE";
const LIMIT: Duration = Duration::from_secs(60);
/// Clients that connect at the same time.
const AT_ONCE: usize = 32;

/// Places, circuits, and bytes on each circuit.
fn sizes() -> (usize, usize, usize) {
    if is_bench() {
        (1000, 200, 2 << 20)
    } else {
        (20, 5, 64 << 10)
    }
}

fn main() {
    open_files();
    match env::var(ROLE).as_deref() {
        Ok("relay") => Runtime::new().unwrap().block_on(relay()),
        Ok(address) => Runtime::new().unwrap().block_on(clients(address)),
        Err(_) => measure(),
    }
}

fn measure() {
    let (places, circuits, bytes) = sizes();
    let mut relay = Process::start("relay");
    let address = relay.line();
    let before = relay.resident();
    let mut clients = Process::start(&address);
    let mut step = || -> (f64, i64) {
        let seconds = clients.line().parse().unwrap();
        let resident = relay.resident();
        clients.go();
        (seconds, resident)
    };
    let (reserving, with_places) = step();
    let (connecting, with_circuits) = step();
    let (alone, _) = step();
    let (together, after) = step();

    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let kib_each = |bytes: i64, n: usize| format!("{:.1} KiB", bytes as f64 / 1024.0 / n as f64);
    let mut table = Table::new("relay", ["what", "figure"]);
    table.row([
        &format!("memory of a place, connection and all ({places} of them)"),
        &kib_each(with_places - before, places),
    ]);
    table.row([
        &format!("memory of a circuit that is idle ({circuits} of them)"),
        &kib_each(with_circuits - with_places, circuits),
    ]);
    table.row([
        &"memory of the process, before anybody came",
        &format!("{:.1} MiB", before as f64 / f64::from(1 << 20)),
    ]);
    table.row([
        &"the same, after all circuits were busy at once",
        &format!("{:.1} MiB", after as f64 / f64::from(1 << 20)),
    ]);
    table.row([
        &"places given, with the handshake",
        &format!("{:.0} per second", places as f64 / reserving),
    ]);
    table.row([
        &"circuits opened",
        &format!("{:.0} per second", circuits as f64 / connecting),
    ]);
    table.row([
        &"throughput of one circuit",
        &format!("{:.0} MiB/s", mib(8 * bytes) / alone),
    ]);
    table.row([
        &format!("throughput of {circuits} circuits together"),
        &format!("{:.0} MiB/s", mib(circuits * bytes) / together),
    ]);
    table.publish().unwrap();
    clients.end();
    relay.end();
}

/// Another process of this program.
struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Process {
    fn start(role: &str) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(env::args().skip(1))
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            stdin: child.stdin.take().unwrap(),
            lines: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.lines.read_line(&mut line).unwrap() > 0, "it has ended");
        line.trim().to_owned()
    }

    fn go(&mut self) {
        self.stdin.write_all(b"\n").unwrap();
    }

    /// In bytes.
    fn resident(&self) -> i64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<i64>().ok());
        kib.unwrap_or_default() * 1024
    }

    fn end(mut self) {
        drop(self.stdin);
        self.child.wait().unwrap();
    }
}

/// Tells how long a step took, and waits until the next one may begin.
async fn told(took: Duration) {
    println!("{}", took.as_secs_f64());
    heard().await;
}

/// Waits for a line, or the end.
async fn heard() {
    let read = || std::io::stdin().read_line(&mut String::new());
    tokio::task::spawn_blocking(read).await.unwrap().unwrap();
}

async fn relay() {
    let config = Config::new(SecretKey::generate())
        .with_listen("/ip4/127.0.0.1/tcp/0".parse().unwrap())
        .with_drain(Duration::ZERO)
        .with_limits(Limits {
            max_reservations_per_ip: 2000,
            ..Limits::default()
        });
    let relay = RelayServer::new(config).unwrap();
    let control = relay.control();
    let cancel = CancellationToken::new();
    let task = tokio::spawn(relay.run(cancel.clone()));
    println!("{}", control.ready().await.unwrap()[0]);
    heard().await;
    cancel.cancel();
    task.await.unwrap();
}

async fn clients(address: &str) {
    let (places, circuits, bytes) = sizes();
    let address: Multiaddr = address.parse().unwrap();
    let Some(Protocol::P2p(relay)) = address.iter().last() else {
        panic!("no peer id in {address}");
    };

    let began = Instant::now();
    let mut clients: Vec<_> = stream::iter(0..places)
        .map(|_| Client::start(relay, &address))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    told(began.elapsed()).await;

    let began = Instant::now();
    let opened = clients.chunks_mut(2).take(circuits).map(|pair| async {
        let [near, far] = pair else {
            panic!("two for each circuit");
        };
        let id = far.id;
        futures::join!(near.connect(relay, id), far.take())
    });
    let mut open = join_all(opened).await;
    told(began.elapsed()).await;

    let began = Instant::now();
    for _ in 0..8 {
        carry(&mut open[0], bytes).await;
    }
    told(began.elapsed()).await;

    let began = Instant::now();
    join_all(open.iter_mut().map(|circuit| carry(circuit, bytes))).await;
    told(began.elapsed()).await;
}

async fn carry((near, far): &mut (Stream, Stream), bytes: usize) {
    let sent = vec![7; bytes];
    let mut got = vec![0; bytes];
    let send = async {
        near.write_all(&sent).await.unwrap();
        near.flush().await.unwrap();
    };
    let (_, read) = futures::join!(send, far.read_exact(&mut got));
    read.unwrap();
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    streams: libp2p_stream::Behaviour,
}

struct Client {
    id: PeerId,
    streams: libp2p_stream::Control,
    incoming: libp2p_stream::IncomingStreams,
}

impl Client {
    async fn start(relay: PeerId, address: &Multiaddr) -> Self {
        let mut swarm = SwarmBuilder::with_existing_identity(pluto_testkit::key())
            .with_tokio()
            .with_tcp(
                tcp::Config::default().nodelay(true),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_behaviour(|key| Behaviour {
                identify: identify::Behaviour::new(identify::Config::new(
                    String::new(),
                    key.public(),
                )),
                ping: ping::Behaviour::default(),
                streams: libp2p_stream::Behaviour::new(),
            })
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(10 * LIMIT))
            .build();
        let mut streams = swarm.behaviour().streams.new_control();
        let incoming = streams.accept(STOP).unwrap();
        let id = *swarm.local_peer_id();
        swarm.dial(address.clone()).unwrap();
        tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        let mut client = Self {
            id,
            streams,
            incoming,
        };
        client.ask(relay, HopMessage::reserve()).await;
        client
    }

    async fn ask(&mut self, relay: PeerId, question: HopMessage) -> Stream {
        let mut stream = self.streams.open_stream(relay, HOP).await.unwrap();
        write_protobuf(&mut stream, &question, LIMIT).await.unwrap();
        let answer = read_protobuf_with_max_size::<HopMessage>(&mut stream, MAX_FRAME, LIMIT).await;
        assert_eq!(answer.unwrap().status, Some(100));
        stream
    }

    async fn connect(&mut self, relay: PeerId, to: PeerId) -> Stream {
        self.ask(relay, HopMessage::connect(to)).await
    }

    async fn take(&mut self) -> Stream {
        let (_, mut stream) = self.incoming.next().await.unwrap();
        skip_body(&mut stream, MAX_FRAME, LIMIT).await.unwrap();
        let answer = StopMessage::answer(100);
        write_protobuf(&mut stream, &answer, LIMIT).await.unwrap();
        stream
    }
}

/// Raises the limit of open files as far as it goes.
fn open_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        let _ = setrlimit(Resource::Nofile, limit);
    }
}
