//! A relay, and two peers that meet on it: one holds a place, the other reaches it through that.
//!
//!     cargo run -p pluto-relay-server --example relay

use std::{error::Error, time::Duration};

use futures::StreamExt;
use libp2p::{
    Swarm, SwarmBuilder, multiaddr::Protocol, noise, ping, relay, swarm::NetworkBehaviour,
    swarm::SwarmEvent, tcp, yamux,
};
use pluto_crypto::k1::SecretKey;
use pluto_relay_server::{Config, RelayServer};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let config = Config::new(SecretKey::generate()).with_listen("/ip4/127.0.0.1/tcp/0".parse()?);
    let relay = RelayServer::new(config)?;
    let control = relay.control();
    let cancel = CancellationToken::new();
    let task = tokio::spawn(relay.run(cancel.clone()));
    let address = control.ready().await?.remove(0);
    println!("the relay is at {address}");

    let (mut ann, mut bob) = (peer()?, peer()?);
    let bob_id = *bob.local_peer_id();
    bob.listen_on(address.clone().with(Protocol::P2pCircuit))?;
    timeout(Duration::from_secs(10), reserved(&mut bob)).await?;
    println!("bob holds a place on it");

    ann.dial(
        address
            .with(Protocol::P2pCircuit)
            .with(Protocol::P2p(bob_id)),
    )?;
    let met = async {
        loop {
            tokio::select! {
                event = ann.select_next_some() => match event {
                    SwarmEvent::Behaviour(PeerEvent::Ping(ping::Event { peer, result: Ok(rtt), .. }))
                        if peer == bob_id => break rtt,
                    _ => {}
                },
                _ = bob.select_next_some() => {}
            }
        }
    };
    let rtt = timeout(Duration::from_secs(10), met).await?;
    println!("ann has pinged bob through it: {rtt:?}");
    println!("circuits that run: {}", control.state().circuits);

    drop((ann, bob));
    cancel.cancel();
    println!("the relay ends: {:?}", task.await?);
    Ok(())
}

#[derive(NetworkBehaviour)]
struct Peer {
    relay: relay::client::Behaviour,
    ping: ping::Behaviour,
}

fn peer() -> Result<Swarm<Peer>, Box<dyn Error>> {
    Ok(SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )?
        .with_relay_client(noise::Config::new, yamux::Config::default)?
        .with_behaviour(|_, relay| Peer {
            relay,
            ping: ping::Behaviour::default(),
        })?
        .build())
}

async fn reserved(peer: &mut Swarm<Peer>) {
    loop {
        if let SwarmEvent::Behaviour(PeerEvent::Relay(
            relay::client::Event::ReservationReqAccepted { .. },
        )) = peer.select_next_some().await
        {
            return;
        }
    }
}
