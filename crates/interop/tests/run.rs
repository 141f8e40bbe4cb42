//! A Pluto node as the fourth member of a running Charon cluster, whose addresses it knows.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::path::Path;

use pluto_interop::{Cluster, Member, binaries};
use pluto_p2p::dialer::Book;
use pluto_testkit::{TCP, addr, logs};

/// The operators that Charon runs; the last one is ours.
const CHARONS: usize = 3;
const SLOTS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_pluto_node_is_a_member_of_a_charon_cluster() {
    logs();
    for binary in binaries("a_pluto_node_is_a_member_of_a_charon_cluster") {
        println!("{}", binary.display());
        member(&binary).await;
    }
}

async fn member(binary: &Path) {
    let cluster = Cluster::create(binary, CHARONS + 1, 2).await.unwrap();
    let relay = cluster.relay().await.unwrap();
    let mut charons = Vec::new();
    for index in 0..CHARONS {
        charons.push(cluster.run(index, &relay).await.unwrap());
    }
    let book = Book::new([]);
    let mut ours = Member::start(&cluster, CHARONS, |config| {
        config.with_listen(addr(TCP)).with_book(book.clone())
    });
    for (peer, charon) in ours.others().into_iter().zip(&charons) {
        book.set(peer, vec![charon.address.clone()]);
    }

    ours.identifies_all().await;
    println!("peer information: {:?}", ours.hears_all().await);
    ours.receives_slots(SLOTS).await;

    // We have measured them, and they us.
    assert!(ours.has_measured_all());
    for charon in charons {
        println!("a Charon says: {}", charon.sees(CHARONS).await);
        charon.stop().await;
    }
    ours.stop().await;
}
