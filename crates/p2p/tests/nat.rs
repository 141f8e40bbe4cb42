//! Nodes behind NATs, and on a network that loses packets: in network namespaces of their own.
//!
//! The test makes the namespaces, gives them back at its end, and skips itself, saying why, where it
//! cannot make them: that takes root, `ip` and `nft`, and a kernel with NAT. Each node is this test
//! binary again, run inside a namespace. No packet leaves them.
//!
//! ```text
//!   node ── router with NAT ──┐
//!                             ├── the internet: a bridge, and the relay
//!   node ── router with NAT ──┘
//! ```
//!
//! Every router lets in only answers (address- and port-dependent filtering), as Linux does. They
//! differ in the mapping, RFC 4787, section 4.1. Two nodes can punch a hole if both their routers
//! map a port to the same one for whoever it talks to, and a node without a router is reached anyway;
//! all others meet through the relay, and stay there.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Read, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use libp2p::{PeerId, identity::Keypair, swarm::dummy};
use pluto_p2p::{RelaySource, p2p_context::PeerView};
use pluto_testkit::{TestNode, TestRelay, config, keys, logs};

/// How long all together may take to meet through the relay.
const MET: Duration = Duration::from_secs(20);
/// How long a hole may take: the first attempt fails after a time-out, and is repeated.
const PUNCHED: Duration = Duration::from_secs(90);

/// What is said to the binary inside a namespace.
const ROLE: &str = "PLUTO_NAT_ROLE";
const KEY: &str = "PLUTO_NAT_KEY";
const KNOWN: &str = "PLUTO_NAT_KNOWN";
const RELAY: &str = "PLUTO_NAT_RELAY";

/// How a router maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nat {
    /// There is none.
    Public,
    /// To the same address and port whoever it talks to.
    Independent,
    /// To another one for each address.
    Address,
    /// To another one for each address and port.
    Port,
}

impl Nat {
    /// Whether physics lets the two talk directly.
    fn can_reach(self, other: Self) -> bool {
        match (self, other) {
            (Self::Public, _) | (_, Self::Public) => true,
            (Self::Independent, Self::Independent) => true,
            // One side is not to be found where the relay saw it, and the other lets in only
            // those whom it has written to.
            _ => false,
        }
    }
}

#[test]
fn nodes_behind_nats_meet_through_the_relay_and_directly_where_that_is_possible() {
    use Nat::{Address, Independent, Port, Public};
    let kinds = [
        Independent,
        Independent,
        Address,
        Address,
        Port,
        Port,
        Public,
    ];
    let Some(net) = Net::new("nat", &kinds, Line::default()) else {
        return;
    };
    let (keys, mut nodes) = net.start(keys::<7>());
    let known = pluto_testkit::ids(&keys);
    let pairs = || {
        let pairs = (0..kinds.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
        pairs.flat_map(|(a, b)| [(a, b), (b, a)])
    };

    let began = Instant::now();
    for (a, b) in pairs() {
        nodes[a].until(&known[b], began + MET, |path| path != Way::None);
    }
    println!("all have met after {:?}", began.elapsed());
    for (a, b) in pairs().filter(|(a, b)| kinds[*a].can_reach(kinds[*b])) {
        nodes[a].until(&known[b], began + PUNCHED, |path| path == Way::Direct);
        println!(
            "{:?} {a} reaches {:?} {b} directly after {:?}",
            kinds[a],
            kinds[b],
            began.elapsed()
        );
    }
    let mut matrix = String::new();
    for (a, kind) in kinds.iter().enumerate() {
        write!(matrix, "{:12}", format!("{kind:?}")).unwrap();
        for (b, peer) in known.iter().enumerate() {
            let way = nodes[a].ways.get(peer).copied().unwrap_or(Way::None);
            let way = if a == b {
                String::new()
            } else {
                format!("{way:?}")
            };
            write!(matrix, "{way:12}").unwrap();
        }
        matrix.push('\n');
    }
    println!("{matrix}");
    // Nobody is lost meanwhile.
    for (a, b) in pairs() {
        nodes[a].until(&known[b], Instant::now(), |path| path != Way::None);
    }
}

#[test]
fn nodes_meet_and_go_direct_over_a_line_that_loses_and_delays() {
    let kinds = [Nat::Public, Nat::Public, Nat::Independent];
    let line = Line {
        loss_percent: 5,
        delay: Duration::from_millis(100),
    };
    let Some(net) = Net::new("line", &kinds, line) else {
        return;
    };
    let (keys, mut nodes) = net.start(keys::<3>());
    let known = pluto_testkit::ids(&keys);
    let began = Instant::now();
    for (a, b) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        nodes[a].until(&known[b], began + PUNCHED, |path| path != Way::None);
    }
    println!("all have met after {:?}", began.elapsed());
    for (a, b) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        nodes[a].until(&known[b], began + PUNCHED, |path| path == Way::Direct);
    }
    println!("all is direct after {:?}", began.elapsed());
}

/// Not a test: what the tests above run inside a namespace.
#[test]
fn inside() {
    let Ok(role) = env::var(ROLE) else {
        return;
    };
    logs();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        match role.as_str() {
            "relay" => {
                let (tcp, quic) = ("/ip4/203.0.113.1/tcp/0", "/ip4/203.0.113.1/udp/0/quic-v1");
                let relay = TestRelay::on(&[tcp, quic]).await;
                say(&format!("relay {}", relay.url()));
                over().await;
            }
            _ => node().await,
        }
    });
}

/// Tells each change of the way to each peer.
async fn node() {
    let key: Vec<u8> = env::var(KEY)
        .unwrap()
        .split(' ')
        .map(|byte| byte.parse().unwrap())
        .collect();
    let key = Keypair::from_protobuf_encoding(&key).unwrap();
    let known = env::var(KNOWN).unwrap();
    let known: Vec<PeerId> = known.split(' ').map(|id| id.parse().unwrap()).collect();
    let relay: RelaySource = env::var(RELAY).unwrap().parse().unwrap();
    let listen = ["/ip4/0.0.0.0/tcp/3610", "/ip4/0.0.0.0/udp/3610/quic-v1"];
    let config = config(&key, &listen).with_relays([relay]);
    let node = TestNode::start(config, &known, |_| (dummy::Behaviour, ())).await;
    let watch = async {
        let mut changes = node.context.changes();
        let mut told = BTreeMap::new();
        loop {
            let view = node.context.view();
            for peer in view.known().filter(|peer| peer.id != node.id()) {
                let way = way(peer);
                if told.insert(peer.id, way) != Some(way) {
                    say(&format!("way {} {way:?}", peer.id));
                }
            }
            changes.changed().await.unwrap();
        }
    };
    tokio::select! {
        () = watch => {}
        () = over() => {}
    }
    node.stop().await;
}

fn way(peer: &PeerView) -> Way {
    match peer.best() {
        Some(path) if path.rtt().is_none() => Way::None,
        Some(path) if path.is_relayed() => Way::Relayed,
        Some(_) => Way::Direct,
        None => Way::None,
    }
}

/// How a peer is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    None,
    Relayed,
    Direct,
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever started it may be gone.
    let _ = writeln!(out, "\n@ {line}").and_then(|()| out.flush());
}

/// Whoever started it is gone, or wants it to end.
async fn over() {
    let read = || std::io::stdin().read_to_end(&mut Vec::new());
    let _ = tokio::task::spawn_blocking(read).await;
}

/// What a line does to packets.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    loss_percent: u32,
    delay: Duration,
}

/// Namespaces with an internet, and a node with its router for each kind.
struct Net {
    kinds: Vec<Nat>,
    prefix: String,
    spaces: Vec<String>,
}

const PREFIX: &str = "pluto-";

impl Net {
    /// `None` where it cannot be made; why is printed.
    fn new(name: &str, kinds: &[Nat], line: Line) -> Option<Self> {
        sweep();
        let mut net = Self {
            kinds: kinds.to_vec(),
            prefix: format!("{PREFIX}{}-{name}", std::process::id()),
            spaces: Vec::new(),
        };
        match net.build(line) {
            Ok(()) => Some(net),
            Err(reason) => {
                println!("skipped: no network namespaces with NAT can be made: {reason}");
                None
            }
        }
    }

    fn space(&mut self, name: &str) -> Result<String, String> {
        let space = format!("{}-{name}", self.prefix);
        run(&format!("ip netns add {space}"))?;
        self.spaces.push(space.clone());
        run(&format!("ip -n {space} link set lo up"))?;
        Ok(space)
    }

    fn build(&mut self, line: Line) -> Result<(), String> {
        let internet = self.space("net")?;
        run(&format!("ip -n {internet} link add name wan type bridge"))?;
        run(&format!("ip -n {internet} addr add 203.0.113.1/24 dev wan"))?;
        run(&format!("ip -n {internet} link set wan up"))?;
        // Whoever looks for a private address here is told that there is none.
        forward(&internet)?;
        for (index, kind) in self.kinds.clone().into_iter().enumerate() {
            let outer = match kind {
                Nat::Public => self.space(&format!("n{index}"))?,
                _ => self.space(&format!("r{index}"))?,
            };
            let port = format!("p{index}");
            wire(&outer, "out", &internet, &port)?;
            run(&format!("ip -n {internet} link set {port} master wan"))?;
            // Two, for a router that maps by address.
            for host in [10 + index, 110 + index] {
                let address = format!("203.0.113.{host}/24");
                run(&format!("ip -n {outer} addr add {address} dev out"))?;
            }
            run(&format!("ip -n {outer} route add default via 203.0.113.1"))?;
            lose(&outer, "out", line)?;
            lose(&internet, &port, line)?;
            delay(&outer, line);
            if kind != Nat::Public {
                let node = self.space(&format!("n{index}"))?;
                let (inner, router) = (format!("10.0.{index}.2/24"), format!("10.0.{index}.1/24"));
                wire(&node, "out", &outer, "in")?;
                run(&format!("ip -n {node} addr add {inner} dev out"))?;
                run(&format!("ip -n {outer} addr add {router} dev in"))?;
                let router = router.trim_end_matches("/24");
                run(&format!("ip -n {node} route add default via {router}"))?;
                forward(&outer)?;
                nft(&outer, &translate(index, kind))?;
            }
        }
        Ok(())
    }

    /// Starts the relay and the nodes, and gives them back with their identities.
    fn start<const N: usize>(&self, keys: [Keypair; N]) -> (Vec<Keypair>, Vec<Inside>) {
        // Who dials is not to depend on who stands where.
        let keys: Vec<_> = match std::process::id() % 2 {
            0 => keys.into_iter().collect(),
            _ => keys.into_iter().rev().collect(),
        };
        let mut relay = self.run("net", &[(ROLE, "relay".to_owned())]);
        let url = relay.next(Instant::now() + MET, "relay ").unwrap();
        let known: Vec<_> = pluto_testkit::ids(&keys)
            .iter()
            .map(PeerId::to_string)
            .collect();
        let nodes = keys.iter().enumerate().map(|(index, key)| {
            let key = key.to_protobuf_encoding().unwrap();
            let key: Vec<_> = key.iter().map(u8::to_string).collect();
            let with = [
                (ROLE, "node".to_owned()),
                (KEY, key.join(" ")),
                (KNOWN, known.join(" ")),
                (RELAY, url.clone()),
            ];
            self.run(&format!("n{index}"), &with)
        });
        let mut nodes: Vec<_> = nodes.collect();
        nodes.push(relay);
        (keys, nodes)
    }

    fn run(&self, space: &str, with: &[(&str, String)]) -> Inside {
        let space = format!("{}-{space}", self.prefix);
        let mut child = Command::new("ip")
            .args(["netns", "exec", &space])
            .arg(env::current_exe().unwrap())
            .args(["inside", "--exact", "--nocapture"])
            .envs(with.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                match line.strip_prefix("@ ") {
                    Some(line) if send.send(line.to_owned()).is_err() => return,
                    Some(_) => {}
                    None => eprintln!("{space}: {line}"),
                }
            }
        });
        Inside {
            child,
            lines,
            ways: BTreeMap::new(),
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for space in &self.spaces {
            let _ = run(&format!("ip netns del {space}"));
        }
    }
}

/// A process inside a namespace. It ends with its standard input.
struct Inside {
    child: Child,
    lines: mpsc::Receiver<String>,
    ways: BTreeMap<PeerId, Way>,
}

impl Inside {
    fn next(&mut self, by: Instant, start: &str) -> Option<String> {
        loop {
            let left = by.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).ok()?;
            if let Some(rest) = line.strip_prefix(start) {
                return Some(rest.to_owned());
            }
        }
    }

    /// Waits until the peer is reached so.
    fn until(&mut self, peer: &PeerId, by: Instant, expected: impl Fn(Way) -> bool) {
        while !expected(self.ways.get(peer).copied().unwrap_or(Way::None)) {
            let Some(told) = self.next(by, "way ") else {
                panic!("{peer} is not reached in time: {:?}", self.ways);
            };
            let (peer, way) = told.split_once(' ').unwrap();
            let way = match way {
                "Relayed" => Way::Relayed,
                "Direct" => Way::Direct,
                _ => Way::None,
            };
            self.ways.insert(peer.parse().unwrap(), way);
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(command: &str) -> Result<(), String> {
    run_words(&command.split(' ').collect::<Vec<_>>())
}

fn run_words(command: &[&str]) -> Result<(), String> {
    let (program, arguments) = command.split_first().unwrap();
    let told = |error: &dyn std::fmt::Display| format!("`{}`: {error}", command.join(" "));
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| told(&error))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(told(&String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn wire(one: &str, its: &str, other: &str, others: &str) -> Result<(), String> {
    run(&format!(
        "ip link add {its} netns {one} type veth peer name {others} netns {other}"
    ))?;
    run(&format!("ip -n {one} link set {its} up"))?;
    run(&format!("ip -n {other} link set {others} up"))
}

fn forward(space: &str) -> Result<(), String> {
    let on = "echo 1 > /proc/sys/net/ipv4/ip_forward";
    run_words(&["ip", "netns", "exec", space, "sh", "-c", on])
}

/// What the router does: maps, and lets in nothing but answers.
fn translate(index: usize, kind: Nat) -> String {
    let source = match kind {
        Nat::Public => return String::new(),
        // Ports are kept while they are free.
        Nat::Independent => format!("snat to 203.0.113.{}", 10 + index),
        Nat::Address => format!(
            "ip daddr 203.0.113.1 snat to 203.0.113.{}\n snat to 203.0.113.{}",
            10 + index,
            110 + index
        ),
        Nat::Port => "masquerade fully-random".to_owned(),
    };
    let rule = match kind {
        Nat::Address => source.replace("\n ", "\n oifname \"out\" "),
        _ => source,
    };
    format!(
        "table ip nat {{
           chain post {{
             type nat hook postrouting priority 100
             oifname \"out\" {rule}
           }}
         }}
         table ip guard {{
           chain to {{
             type filter hook input priority 0
             iifname \"out\" ct state new drop
           }}
           chain through {{
             type filter hook forward priority 0
             iifname \"out\" ct state new drop
           }}
         }}"
    )
}

/// Loses packets that come in.
fn lose(space: &str, device: &str, line: Line) -> Result<(), String> {
    let loss = line.loss_percent;
    if loss == 0 {
        return Ok(());
    }
    let rules = format!(
        "table netdev line-{device} {{
           chain in {{
             type filter hook ingress device \"{device}\" priority 0
             ip protocol {{ tcp, udp }} numgen random mod 100 < {loss} drop
           }}
         }}"
    );
    nft(space, &rules)
}

/// Delays packets that go out, where the kernel can.
fn delay(space: &str, line: Line) {
    if line.delay.is_zero() {
        return;
    }
    let delay = line.delay.as_millis();
    let netem = format!("ip netns exec {space} tc qdisc add dev out root netem delay {delay}ms");
    if let Err(reason) = run(&netem) {
        println!("no delay, only loss: {reason}");
    }
}

fn nft(space: &str, rules: &str) -> Result<(), String> {
    let mut child = Command::new("ip")
        .args(["netns", "exec", space, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("`nft`: {error}"))?;
    let written = child.stdin.take().unwrap().write_all(rules.as_bytes());
    let output = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    match output.status.success() && written.is_ok() {
        true => Ok(()),
        false => Err(format!(
            "`nft`: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// Removes what a run that was killed has left behind.
fn sweep() {
    let Ok(spaces) = fs::read_dir("/run/netns") else {
        return;
    };
    for space in spaces.filter_map(Result::ok) {
        let name = space.file_name().to_string_lossy().into_owned();
        let process = name
            .strip_prefix(PREFIX)
            .and_then(|name| name.split('-').next());
        let process = process.and_then(|process| process.parse::<u32>().ok());
        if process.is_some_and(|process| !fs::exists(format!("/proc/{process}")).unwrap_or(true)) {
            let _ = run(&format!("ip netns del {name}"));
        }
    }
}
