//! A node with everything a test holds of it.

use std::convert::Infallible;

use libp2p::{Multiaddr, PeerId, identity::Keypair, swarm::NetworkBehaviour};
use pluto_p2p::{Control, Node, NodeBuilder, NodeConfig, P2PContext};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{addr, within};

/// A running node. `H` is what its builder handed out.
pub struct TestNode<H> {
    /// Its identity.
    pub key: Keypair,
    /// Where it listens, in the order of its configuration.
    pub addresses: Vec<Multiaddr>,
    /// Its context.
    pub context: P2PContext,
    /// Its control.
    pub control: Control,
    /// What its builder handed out.
    pub handle: H,
    /// Its task.
    pub task: JoinHandle<()>,
}

/// The configuration of a node that listens there.
pub fn config(key: &Keypair, listen: &[&str]) -> NodeConfig {
    listen
        .iter()
        .fold(NodeConfig::new(key.clone()), |config, listen| {
            config.with_listen(addr(listen))
        })
}

impl<H> TestNode<H> {
    /// Starts a node whose cluster is `known`.
    ///
    /// # Panics
    ///
    /// If it cannot be built or does not listen in time.
    pub async fn start<B>(
        config: NodeConfig,
        known: &[PeerId],
        build: impl FnOnce(&NodeBuilder<'_>) -> (B, H),
    ) -> Self
    where
        B: NetworkBehaviour<ToSwarm: Send> + Send,
    {
        let key = config.key.clone();
        let context = P2PContext::new(known.iter().copied());
        let (node, handle) = Node::new(config, context.clone(), |builder| {
            Ok::<_, Infallible>(build(builder))
        })
        .unwrap();
        let control = node.control();
        let task = tokio::spawn(node.run(CancellationToken::new()));
        let addresses = within(control.listening()).await.unwrap();
        Self {
            key,
            addresses,
            context,
            control,
            handle,
            task,
        }
    }

    /// Its peer id.
    pub fn id(&self) -> PeerId {
        self.key.public().to_peer_id()
    }

    /// Tells it where another node is.
    pub fn meets<T>(&self, other: &TestNode<T>) {
        self.control.book().set(other.id(), other.addresses.clone());
    }

    /// Shuts it down, and returns once its task has ended.
    pub async fn stop(self) {
        self.control.shutdown();
        within(self.task).await.unwrap();
    }
}

/// Tells all nodes where all others are.
pub fn introduce<H>(nodes: &[TestNode<H>]) {
    for node in nodes {
        for other in nodes {
            if node.id() != other.id() {
                node.meets(other);
            }
        }
    }
}

/// Waits until all nodes are connected to all others.
pub async fn met<H>(nodes: &[TestNode<H>]) {
    for node in nodes {
        for other in nodes {
            if node.id() != other.id() {
                within(node.context.connected(other.id())).await.unwrap();
            }
        }
    }
}
