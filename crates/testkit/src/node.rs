//! A node with everything a test holds of it.

use std::convert::Infallible;

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId,
    identity::Keypair,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use pluto_p2p::{
    Control, Node, NodeBuilder, NodeConfig, P2PContext, behaviours::pluto::PlutoBehaviourEvent,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{addr, within};

/// Events of the inner behaviour that a test has not looked at yet. A test that does not look loses
/// the news, not the node.
const EVENTS: usize = 1024;

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
    stop: CancellationToken,
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
        let (test, node) = Self::prepare(config, known, build);
        let stop = test.stop.clone();
        test.running(node.run(stop)).await
    }

    /// As [`start`](Self::start); what the inner behaviour tells comes out of the channel.
    ///
    /// # Panics
    ///
    /// If it cannot be built or does not listen in time.
    pub async fn start_observed<B>(
        config: NodeConfig,
        known: &[PeerId],
        build: impl FnOnce(&NodeBuilder<'_>) -> (B, H),
    ) -> (Self, mpsc::Receiver<B::ToSwarm>)
    where
        B: NetworkBehaviour<ToSwarm: Send> + Send,
    {
        let (test, mut node) = Self::prepare(config, known, build);
        let (events, observed) = mpsc::channel(EVENTS);
        let stop = test.stop.clone();
        let work = async move {
            let observe = async {
                while let Some(event) = node.next().await {
                    if let SwarmEvent::Behaviour(PlutoBehaviourEvent::Inner(event)) = event {
                        let _ = events.try_send(event);
                    }
                }
            };
            stop.run_until_cancelled(observe).await;
            // Says goodbye and ends, as it was told to.
            node.run(stop).await;
        };
        (test.running(work).await, observed)
    }

    fn prepare<B>(
        config: NodeConfig,
        known: &[PeerId],
        build: impl FnOnce(&NodeBuilder<'_>) -> (B, H),
    ) -> (Prepared<H>, Node<B>)
    where
        B: NetworkBehaviour,
    {
        let key = config.key.clone();
        let context = P2PContext::new(known.iter().copied());
        let (node, handle) = Node::new(config, context.clone(), |builder| {
            Ok::<_, Infallible>(build(builder))
        })
        .unwrap();
        let prepared = Prepared {
            key,
            context,
            control: node.control(),
            handle,
            stop: CancellationToken::new(),
        };
        (prepared, node)
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
        self.stop.cancel();
        within(self.task).await.unwrap();
    }
}

/// A node that does not run yet.
struct Prepared<H> {
    key: Keypair,
    context: P2PContext,
    control: Control,
    handle: H,
    stop: CancellationToken,
}

impl<H> Prepared<H> {
    async fn running(self, work: impl Future<Output = ()> + Send + 'static) -> TestNode<H> {
        let task = tokio::spawn(work);
        let addresses = within(self.control.listening()).await.unwrap();
        TestNode {
            key: self.key,
            addresses,
            context: self.context,
            control: self.control,
            handle: self.handle,
            task,
            stop: self.stop,
        }
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
