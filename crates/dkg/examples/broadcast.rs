//! Four nodes in one process; each says one thing, which all others get, signed by everybody.
//!
//!     cargo run -p pluto-dkg --example broadcast

use std::{convert::Infallible, error::Error, io::Write};

use libp2p::{PeerId, identity::Keypair};
use pluto_crypto::k1;
use pluto_dkg::bcast::{self, Component, Config, Delivered};
use pluto_p2p::{Control, Node, NodeConfig, P2PContext, exchange::Budget};
use prost::{Message, Name};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const NODES: usize = 4;
const ID: &str = "/example/greeting";

/// What is broadcast: any protobuf message.
#[derive(Clone, PartialEq, Message)]
struct Greeting {
    #[prost(string, tag = "1")]
    text: String,
}

impl Name for Greeting {
    const NAME: &'static str = "Greeting";
    const PACKAGE: &'static str = "example";
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run(&mut std::io::stdout()).await
}

/// The whole story, told to `out`.
pub(crate) async fn run(out: &mut (impl Write + Send)) -> Result<(), Box<dyn Error>> {
    let keys: Vec<_> = (0..NODES).map(|_| Keypair::generate_secp256k1()).collect();
    let peers: Vec<_> = keys.iter().map(|key| key.public().to_peer_id()).collect();
    let mut nodes = Vec::new();
    for key in keys {
        nodes.push(start(key, &peers)?);
    }
    for (peer, (control, ..)) in peers.iter().zip(&nodes) {
        let addresses = control.listening().await?;
        for (other, ..) in &nodes {
            other.book().set(*peer, addresses.clone());
        }
    }

    // Resolves once all others have checked and taken it.
    for (at, (_, component, _)) in nodes.iter().enumerate() {
        let text = format!("greetings from operator {at}");
        component.broadcast(ID, &Greeting { text }).await?;
    }
    for (at, (control, _, greetings)) in nodes.iter_mut().enumerate() {
        for _ in 1..NODES {
            let Delivered { idx, message, .. } = greetings.recv().await.ok_or("ended")?;
            writeln!(out, "{at} heard {idx}: {}", message.text)?;
        }
        control.shutdown();
    }
    Ok(())
}

type Running = (Control, Component, mpsc::Receiver<Delivered<Greeting>>);

fn start(key: Keypair, peers: &[PeerId]) -> Result<Running, Box<dyn Error>> {
    let context = P2PContext::new(peers.iter().copied());
    let secret = key.clone().try_into_secp256k1()?.secret().to_bytes();
    // The definition hash of a ceremony.
    let session = [7; 32];
    let config = Config::new(peers.to_vec(), k1::SecretKey::from_bytes(&secret)?, session);
    let (behaviour, component) = bcast::new(context.clone(), config, Budget::default())?;
    // Before anybody can use it. What is refused here is not signed, and reaches nobody.
    let greetings = component.register(ID, |_, idx, greeting: &Greeting| {
        let is_own = greeting.text.ends_with(&idx.to_string());
        is_own
            .then_some(())
            .ok_or_else(|| "in another's name".into())
    })?;
    let node_config = NodeConfig::new(key).with_listen("/ip4/127.0.0.1/tcp/0".parse()?);
    let (node, ()) = Node::new(node_config, context, |_| {
        Ok::<_, Infallible>((behaviour, ()))
    })?;
    let control = node.control();
    tokio::spawn(node.run(CancellationToken::new()));
    Ok((control, component, greetings))
}
