//! Our nodes and Charon's, which know a relay's URL and nothing else.
//!
//! Each test prints what it saw, with times: `cargo test -p pluto-interop --test relays -- --nocapture`.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use libp2p::swarm::dummy;
use pluto_cluster::Lock;
use pluto_interop::{
    Advertises, Cluster, Member, PlutoRelay, Relay, Running, binaries, routing, within,
};
use pluto_p2p::{
    RelaySource,
    p2p_context::{PeerView, RelayView, ReservationState},
};
use pluto_testkit::{TCP, TestNode, addr, config, ids, keys, logs};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// The operators that Charon runs; the last one is ours.
const CHARONS: usize = 3;
const SLOTS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_ours_reserves_on_a_charon_relay_and_is_reached_through_it() {
    logs();
    for binary in binaries("a_node_of_ours_reserves_on_a_charon_relay_and_is_reached_through_it") {
        for advertises in [
            Advertises::Private,
            Advertises::External,
            Advertises::Nothing,
        ] {
            println!("{}, its relay advertises {advertises:?}", binary.display());
            reserve(&binary, advertises).await;
        }
    }
}

async fn reserve(binary: &Path, advertises: Advertises) {
    let relay = Relay::start(binary, advertises).await.unwrap();
    println!("its page says {}", relay.page.trim());
    let url: RelaySource = relay.url.parse().unwrap();
    let address: RelaySource = relay.address.to_string().parse().unwrap();
    let keys = keys::<2>();
    let node = async |index: usize, source: &RelaySource| {
        let mut config = config(&keys[index], &[TCP]).with_relays([source.clone()]);
        config.relayed_only = true;
        TestNode::start(config, &ids(&keys), |_| (dummy::Behaviour, ())).await
    };

    // One that tells no address is no use by its URL, which is said; it works by its address.
    let source = match advertises {
        Advertises::Nothing => {
            let node = node(1, &url).await;
            let problem = node.context.wait_for(|view| view.relays[0].problem.clone());
            let problem = within("a problem", problem, || relay.tail()).await.unwrap();
            println!("by its URL: {problem}");
            assert!(problem.to_string().contains("names no relay"), "{problem}");
            node.stop().await;
            address
        }
        _ => url,
    };

    let began = Instant::now();
    // The one with the larger id, which waits to be dialled.
    let first = node(1, &source).await;
    let reserved = first.context.wait_for(|view| {
        let relay = view.relays[0].clone();
        relay.is_reserved().then_some(relay)
    });
    let now = || format!("{:?}\n{}", first.context.view().relays, relay.tail());
    let reserved = within("a reservation", reserved, now).await.unwrap();
    println!("{:?}: {}", began.elapsed(), told(&reserved));
    let id = reserved.peer.unwrap();

    let began = Instant::now();
    let second = node(0, &source).await;
    for (node, other) in [(&second, &first), (&first, &second)] {
        let other = other.id();
        let proven = node.context.wait_for(|view| {
            let mut paths = view.peer(&other)?.paths.iter();
            paths
                .find(|path| path.relay == Some(id) && path.rtt().is_some())
                .cloned()
        });
        let why = || {
            format!(
                "{:?}\n{}",
                node.context.why_not_connected(other),
                relay.tail()
            )
        };
        let path = within("a circuit", proven, why).await.unwrap();
        println!("{:?}: {path:?}", began.elapsed());
    }
    first.stop().await;
    second.stop().await;
}

/// A reservation in words.
fn told(relay: &RelayView) -> String {
    let ReservationState::Reserved {
        since,
        until,
        limit,
        trouble,
    } = &relay.reservation
    else {
        panic!("{relay:?}");
    };
    format!(
        "{} is {}, reserved for {:?}, {limit:?}, trouble {trouble:?}",
        relay.name,
        relay.peer.unwrap(),
        *until - *since,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn three_charon_nodes_and_ours_meet_through_a_charon_relay_and_then_directly() {
    logs();
    for binary in
        binaries("three_charon_nodes_and_ours_meet_through_a_charon_relay_and_then_directly")
    {
        println!("{}", binary.display());
        let cluster = Cluster::create(&binary, CHARONS + 1, 2).await.unwrap();
        let relay = cluster.relay().await.unwrap();
        let (charons, ours) = meet(&cluster, &relay.url).await;
        part(charons, ours).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_charon_nodes_and_ours_meet_through_a_pluto_relay_and_then_directly() {
    logs();
    for binary in
        binaries("three_charon_nodes_and_ours_meet_through_a_pluto_relay_and_then_directly")
    {
        println!("{}", binary.display());
        let cluster = Cluster::create(&binary, CHARONS + 1, 2).await.unwrap();
        let relay = PlutoRelay::start().await;
        let (charons, ours) = meet(&cluster, &relay.url).await;
        println!("{:?}", relay.control.state());
        part(charons, ours).await;
        relay.stop().await;
    }
}

async fn meet(cluster: &Cluster, relay: &str) -> (Vec<Running>, Member) {
    let mut charons = Vec::new();
    for index in 0..CHARONS {
        charons.push(cluster.run_through(index, relay).await.unwrap());
    }
    let others = (CHARONS - 1) as f64;
    for charon in &charons {
        charon
            .says(|page| (page.sum("p2p_ping_success", &[])? >= others).then_some(()))
            .await;
    }

    let source: RelaySource = relay.parse().unwrap();
    let mut ours = Member::start(cluster, CHARONS, |config| {
        config.with_listen(addr(TCP)).with_relays([source])
    });
    let mut times = Vec::new();
    let first = ours
        .context
        .wait_for(|view| (view.connected_known() >= 1).then_some(()));
    within("a connection", first, || ours.state())
        .await
        .unwrap();
    times.push(("the first connected", ours.began.elapsed()));
    ours.all("connected", PeerView::is_connected).await;
    times.push(("all connected", ours.began.elapsed()));
    ours.all("direct", is_direct).await;
    times.push(("all direct and proven", ours.began.elapsed()));
    for (what, time) in times {
        println!("{what} after {:.3} s", Duration::as_secs_f64(&time));
    }
    let reserved = ours.context.wait_for(|view| {
        let relay = view.relays[0].clone();
        relay.is_reserved().then_some(relay)
    });
    let reserved = within("a reservation", reserved, || ours.state()).await;
    println!("{}", told(&reserved.unwrap()));

    ours.identifies_all().await;
    println!("peer information: {:?}", ours.hears_all().await);
    ours.receives_slots(SLOTS).await;
    for id in ours.others() {
        let peer = ours.context.view().peer(&id).unwrap().clone();
        for path in &peer.paths {
            println!("{id} for {:?}: {path:?}", path.since.elapsed());
        }
        assert!(is_direct(&peer), "{peer:?}");
    }
    // The relayed ones were drained, and go by themselves.
    ours.all("relayed connections gone", |peer| {
        !peer.paths.iter().any(|path| path.is_relayed())
    })
    .await;
    println!(
        "no relayed connection at {:.1} s",
        ours.began.elapsed().as_secs_f64()
    );
    for charon in &charons {
        println!("a Charon says: {}", charon.sees(CHARONS).await);
    }
    (charons, ours)
}

async fn part(charons: Vec<Running>, ours: Member) {
    for charon in charons {
        charon.stop().await;
    }
    ours.stop().await;
}

fn is_direct(peer: &PeerView) -> bool {
    peer.best()
        .is_some_and(|path| !path.is_relayed() && path.rtt().is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn our_node_tells_a_relay_the_same_of_its_cluster_as_a_charon_node() {
    logs();
    for binary in binaries("our_node_tells_a_relay_the_same_of_its_cluster_as_a_charon_node") {
        println!("{}", binary.display());
        let cluster = Cluster::create(&binary, CHARONS + 1, 1).await.unwrap();
        let relay = cluster.relay().await.unwrap();
        let (url, mut requests) = recorder(relay.page.clone()).await;

        let charon = cluster.run_through(0, &url).await.unwrap();
        let from_charon = within("its request", requests.recv(), || charon.tail()).await;
        charon.stop().await;
        while requests.try_recv().is_ok() {}
        let ours = Member::start(&cluster, CHARONS, |config| {
            config.with_relays([url.parse().unwrap()])
        });
        let from_ours = within("our request", requests.recv(), || ours.state()).await;
        ours.stop().await;

        let lock = Lock::read(cluster.lock(0)).unwrap();
        let routing = routing(&lock);
        let expected = [
            ("charon-cluster", routing.cluster.unwrap()),
            ("cluster-uuid", lock.uuid().parse().unwrap()),
        ];
        for (who, request) in [("Charon", from_charon), ("ours", from_ours)] {
            let request = request.unwrap();
            println!("{who}: {request:?}");
            for (name, value) in &expected {
                assert_eq!(request.get(*name).unwrap(), value.to_str().unwrap());
            }
        }
    }
}

/// A page that says always the same, with its URL; the headers of each request come out of the
/// channel, their names in lower case.
async fn recorder(body: String) -> (String, mpsc::Receiver<BTreeMap<String, String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Some(headers) = answer(stream, &body).await else {
                continue;
            };
            if sender.send(headers).await.is_err() {
                return;
            }
        }
    });
    (url, requests)
}

async fn answer(mut stream: TcpStream, body: &str) -> Option<BTreeMap<String, String>> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        // A test's own requests are short, and have no body.
        request.push(stream.read_u8().await.ok()?);
    }
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await.ok()?;
    let request = String::from_utf8(request).ok()?;
    let headers = request.lines().filter_map(|line| line.split_once(": "));
    Some(
        headers
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect(),
    )
}
