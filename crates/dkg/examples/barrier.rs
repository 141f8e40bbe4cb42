//! Four nodes of one ceremony wait for each other.
//!
//!     cargo run -p pluto-dkg --example barrier
//!
//! ```text
//! all connected, as Charon v1.11
//! node 0 works
//! node 1 works
//! node 2 works
//! node 3 works
//! barrier 1 is open for all
//! node 2 ends it; node 0 says: peer 16Uiu2… ended the ceremony (this node is at step 1): the disk is full
//! ```

use std::error::Error;

use futures::future::try_join_all;
use libp2p::{Multiaddr, PeerId, identity::Keypair};
use pluto_dkg::sync::{self, Client, Config, Server, Step};
use pluto_p2p::{Control, Node, NodeConfig, P2PContext};
use tokio_util::sync::CancellationToken;

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let keys = [(); 4].map(|()| Keypair::generate_secp256k1());
    let operators = keys.clone().map(|key| key.public().to_peer_id());
    let starts = keys.into_iter().map(|key| Operator::start(key, &operators));
    let nodes = try_join_all(starts).await?;
    for node in &nodes {
        for (peer, other) in operators.iter().zip(&nodes) {
            node.control.book().set(*peer, other.addresses.clone());
        }
    }
    // A ceremony that is to be given up cancels this.
    let token = CancellationToken::new();

    // 1. Everybody is there, and all have the same definition and the same version.
    let connected = nodes.iter().map(|node| node.server.wait_connected(&token));
    let agreed = try_join_all(connected).await?[0];
    println!("all connected, as Charon {}", agreed.version);

    // 2. Each says that its work begins; nobody passes the barrier before all have.
    for (at, node) in nodes.iter().enumerate() {
        println!("node {at} works");
        node.client.set_step(Step(1));
    }
    try_join_all(
        nodes
            .iter()
            .map(|node| node.server.wait_step(Step(1), &token)),
    )
    .await?;
    println!("barrier 1 is open for all");

    // 3. Something goes wrong at one of them, and all learn what.
    nodes[2].client.fail("the disk is full").await;
    let waited = nodes[0].server.wait_step(Step(2), &token).await;
    if let Err(reason) = waited {
        println!("node 2 ends it; node 0 says: {reason}");
    }
    Ok(())
}

struct Operator {
    addresses: Vec<Multiaddr>,
    control: Control,
    client: Client,
    server: Server,
}

impl Operator {
    async fn start(key: Keypair, operators: &[PeerId]) -> Result<Self, Box<dyn Error>> {
        let config = NodeConfig::new(key).with_listen("/ip4/127.0.0.1/tcp/0".parse()?);
        let context = P2PContext::new(operators.iter().copied());
        let definition_hash = [1; 32];
        let (node, (client, server)) = Node::new(config, context, |builder| {
            let config = Config::new(operators.iter().copied(), definition_hash);
            let (behaviour, client, server) =
                sync::new(builder.p2p_context(), builder.key(), config)?;
            Ok::<_, sync::ConfigError>((behaviour, (client, server)))
        })?;
        let control = node.control();
        tokio::spawn(node.run(CancellationToken::new()));
        Ok(Self {
            addresses: control.listening().await?,
            control,
            client,
            server,
        })
    }
}
