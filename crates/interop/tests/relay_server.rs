//! Charon nodes that reach each other through a Pluto relay, and in no other way.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::path::Path;

use pluto_cluster::Lock;
use pluto_interop::{Cluster, PlutoRelay, Samples, binaries, get, routing, within};
use pluto_relay_server::Outcome;
use pluto_testkit::logs;

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
    let relay = PlutoRelay::start().await;
    let control = &relay.control;

    let cluster = Cluster::create(binary, CHARONS + 1, 1).await.unwrap();
    let mut charons = Vec::new();
    for index in 0..CHARONS {
        charons.push(cluster.run_hidden(index, &relay.url).await.unwrap());
    }

    // 1. Each holds a place, and a circuit runs for each pair.
    let placed = control.wait_for(|state| {
        let all = state.reservations == CHARONS && state.circuits >= CHARONS;
        all.then(|| state.clone())
    });
    let now = || format!("{:?}\n{}", control.state(), charons[0].tail());
    let state = within("places and circuits", placed, now).await.unwrap();
    println!(
        "places {}, circuits {}, connections {}",
        state.reservations, state.circuits, state.connections
    );

    // 2. They say that they are connected through a relay, that pings come back, and that what
    // they sign together is whole.
    for charon in &charons {
        let said = charon.says(|page| {
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
    let routing = routing(&Lock::read(cluster.lock(0)).unwrap());
    let digits = routing.cluster.unwrap();
    let page = get(control.monitoring_address().unwrap(), "/metrics").await;
    let page = Samples::parse(&page.unwrap());
    let of = [("peer_cluster", digits.to_str().unwrap())];
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
    let outcome = relay.stop().await;
    assert!(matches!(outcome, Outcome::Drained | Outcome::TimeUp { .. }));
}
