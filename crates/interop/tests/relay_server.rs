//! Charon nodes that reach each other through a Pluto relay, and in no other way.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{path::Path, time::Duration};

use pluto_cluster::Lock;
use pluto_crypto::k1::SecretKey;
use pluto_interop::{Cluster, Running, Samples, binaries, get};
use pluto_relay_server::{Config, Outcome, RelayServer};
use pluto_testkit::{QUIC, TCP, addr, logs};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long a live cluster may take for anything, on a loaded machine.
const LIMIT: Duration = Duration::from_secs(120);
/// As many as can sign of the four that the cluster has.
const CHARONS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn charon_nodes_sign_duties_through_a_pluto_relay() {
    logs();
    for binary in binaries("charon_nodes_sign_duties_through_a_pluto_relay") {
        println!("{}", binary.display());
        meet(&binary).await;
    }
}

async fn meet(binary: &Path) {
    let any = ([127, 0, 0, 1], 0).into();
    let config = Config::new(SecretKey::generate())
        .with_listen(addr(TCP))
        .with_listen(addr(QUIC))
        .with_http(any)
        .with_monitoring(any)
        .with_drain(Duration::ZERO);
    let relay = RelayServer::new(config).unwrap();
    let control = relay.control();
    let cancel = CancellationToken::new();
    let task = tokio::spawn(relay.run(cancel.clone()));
    timeout(LIMIT, control.ready()).await.unwrap().unwrap();
    let url = format!("http://{}", control.http_address().unwrap());

    let cluster = Cluster::create(binary, CHARONS + 1, 1).await.unwrap();
    let mut charons = Vec::new();
    for index in 0..CHARONS {
        charons.push(cluster.run_hidden(index, &url).await.unwrap());
    }

    // 1. Each holds a place, and a circuit runs for each pair.
    let placed = control.wait_for(|state| {
        let all = state.reservations == CHARONS && state.circuits >= CHARONS;
        all.then(|| state.clone())
    });
    let state = match timeout(LIMIT, placed).await {
        Ok(state) => state.unwrap(),
        Err(_) => panic!("{:?}\n{}", control.state(), charons[0].tail()),
    };
    println!(
        "places {}, circuits {}, connections {}",
        state.reservations, state.circuits, state.connections
    );

    // 2. They say that they are connected through a relay, that pings come back, and that what
    // they sign together is whole.
    for charon in &charons {
        let said = seen(charon, |page| {
            let relays = page.sum("p2p_relay_connections", &[])?;
            let relayed = page.sum("p2p_peer_connection_types", &[("type", "relay")])?;
            let direct = page.sum("p2p_peer_connection_types", &[("type", "direct")])?;
            let pings = page.sum("p2p_ping_success", &[])?;
            let duties = page.sum("core_bcast_broadcast_total", &[])?;
            let others = (CHARONS - 1) as f64;
            let whole = relays >= 1.0 && relayed >= others && pings >= others && duties >= 3.0;
            whole.then(|| {
                format!(
                    "relays {relays}, relayed connections {relayed}, direct {direct}, peers that \
                     answer pings {pings}, duties {duties}"
                )
            })
        });
        println!("a Charon says: {}", said.await);
    }

    // 3. The relay knows whose they are and what it carried.
    let lock = Lock::read(cluster.lock(0)).unwrap();
    let digits: String = lock.lock_hash()[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let page = get(control.monitoring_address().unwrap(), "/metrics").await;
    let page = Samples::parse(&page.unwrap());
    let of = [("peer_cluster", &digits[..7])];
    let sum = |name: &str| page.sum(name, &of).unwrap_or_default();
    let (active, received, sent) = (
        sum("relay_p2p_active_connections"),
        sum("relay_p2p_network_receive_bytes_total"),
        sum("relay_p2p_network_sent_bytes_total"),
    );
    println!(
        "cluster {}: connections {active}, bytes in {received}, out {sent}",
        of[0].1
    );
    assert!(active >= CHARONS as f64);
    assert!(received > 0.0 && sent > 0.0);

    for charon in charons {
        charon.stop().await;
    }
    cancel.cancel();
    let outcome = timeout(LIMIT, task).await.unwrap().unwrap();
    assert!(matches!(outcome, Outcome::Drained | Outcome::TimeUp { .. }));
}

async fn seen(charon: &Running, is_so: impl Fn(&Samples) -> Option<String>) -> String {
    match charon.until(LIMIT, is_so).await {
        Ok(said) => said,
        Err(page) => panic!("not so: {page:?}\n{}", charon.tail()),
    }
}
