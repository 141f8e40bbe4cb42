//! Two nodes find each other and exchange a message of a protocol of their own.
//!
//!     cargo run -p pluto-p2p --example two_nodes

use std::{convert::Infallible, error::Error, time::Duration};

use libp2p::{Multiaddr, PeerId, StreamProtocol, identity::Keypair};
use pluto_p2p::{
    Control, Node, NodeConfig, P2PContext,
    exchange::{Budget, Handle, Inbound, Protocol, Repeat, Shape, Slot, exchange},
    proto::Frame,
};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let [ann, bob] = [(); 2].map(|()| Keypair::generate_secp256k1());
    // A node's gate lets only the members of its cluster in.
    let members = [ann.public().to_peer_id(), bob.public().to_peer_id()];
    let ann = Running::start(ann, &members).await?;
    let mut bob = Running::start(bob, &members).await?;

    // Who has an address of a peer dials it, for ever.
    ann.control.book().set(members[1], bob.addresses.clone());
    let peer = ann.context.connected(members[1]).await?;
    println!("connected: {:?}", peer.paths);

    let by = Instant::now() + Duration::from_secs(5);
    let call = ann
        .handle
        .call(members[1], Slot(0), Frame::from_body(b"how are you?"), by)?;
    if let Some(request) = bob.inbound.recv().await {
        println!(
            "{} asks: {}",
            request.peer,
            String::from_utf8_lossy(&request.body)
        );
        request.respond(Frame::from_body(b"well"));
    }
    let done = call.await?;
    println!(
        "answer after {:?}: {}",
        done.elapsed,
        String::from_utf8_lossy(&done.body)
    );

    for node in [ann, bob] {
        node.control.shutdown();
        node.task.await?;
    }
    Ok(())
}

struct Running {
    addresses: Vec<Multiaddr>,
    context: P2PContext,
    control: Control,
    handle: Handle,
    inbound: Inbound,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(key: Keypair, members: &[PeerId]) -> Result<Self, Box<dyn Error>> {
        let protocol = Protocol {
            ids: vec![StreamProtocol::new("/example/greeting/1.0.0")],
            shape: Shape::RequestResponse,
            repeat: Repeat::Safe,
            max_frame: 1024,
            read_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(5),
        };
        let context = P2PContext::new(members.iter().copied());
        let config = NodeConfig::new(key)
            .with_listen("/ip4/127.0.0.1/tcp/0".parse()?)
            .with_listen("/ip4/127.0.0.1/udp/0/quic-v1".parse()?);
        let (node, (handle, inbound)) = Node::new(config, context.clone(), |builder| {
            let (behaviour, handle, inbound) =
                exchange(builder.p2p_context(), Budget::default(), vec![protocol]);
            Ok::<_, Infallible>((behaviour, (handle, inbound)))
        })?;
        let control = node.control();
        let task = tokio::spawn(node.run(CancellationToken::new()));
        let addresses = control.listening().await?;
        Ok(Self {
            addresses,
            context,
            control,
            handle,
            inbound,
            task,
        })
    }
}
