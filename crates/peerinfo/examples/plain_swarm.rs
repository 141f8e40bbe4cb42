//! Two plain libp2p swarms tell each other who they are: no `Node` needed.
//!
//!     cargo run -p pluto-peerinfo --example plain_swarm

use std::{error::Error, time::Duration};

use futures::StreamExt;
use libp2p::{Swarm, SwarmBuilder, noise, swarm::SwarmEvent, tcp, yamux};
use pluto_p2p::P2PContext;
use pluto_peerinfo::{Behaviour, Config, Event, Local};

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let mut ann = swarm("ann")?;
    let mut bob = swarm("bob")?;

    ann.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = ann.select_next_some().await {
            break address;
        }
    };
    bob.dial(address)?;

    let mut heard = 0;
    while heard < 2 {
        let event = tokio::select! {
            event = ann.select_next_some() => event,
            event = bob.select_next_some() => event,
        };
        if let SwarmEvent::Behaviour(Event::Received { peer, info, .. }) = event {
            println!(
                "{} is {peer}: {} {}",
                info.nickname, info.dv_client, info.version
            );
            heard += 1;
        }
    }
    Ok(())
}

fn swarm(nickname: &str) -> Result<Swarm<Behaviour>, Box<dyn Error>> {
    let mut local = Local::new(vec![0; 32]);
    nickname.clone_into(&mut local.nickname);
    let swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )?
        .with_behaviour(|_| pluto_peerinfo::new(P2PContext::default(), Config::new(local)))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(30)))
        .build();
    Ok(swarm)
}
