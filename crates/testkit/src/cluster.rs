//! Nodes of one cluster that know nothing but its relays.

use futures::future::join_all;
use libp2p::{PeerId, identity::Keypair, swarm::dummy};
use pluto_p2p::{NodeConfig, RelaySource, p2p_context::PeerView};

use crate::{TestNode, config, ids, key, within};

/// The nodes of a cluster, of which any may be started at any time.
pub struct Cluster {
    /// Their identities, the smaller peer id first.
    pub keys: Vec<Keypair>,
    listen: Vec<&'static str>,
    relays: Vec<RelaySource>,
    relayed_only: bool,
}

impl Cluster {
    /// `n` nodes that listen there and find each other through these relays.
    pub fn new(
        n: usize,
        listen: &[&'static str],
        relays: impl IntoIterator<Item = RelaySource>,
    ) -> Self {
        let mut keys: Vec<_> = (0..n).map(|_| key()).collect();
        keys.sort_by_key(|key| key.public().to_peer_id().to_bytes());
        Self {
            keys,
            listen: listen.to_vec(),
            relays: relays.into_iter().collect(),
            relayed_only: false,
        }
    }

    /// Nothing but a relay connects them.
    #[must_use]
    pub fn relayed_only(mut self) -> Self {
        self.relayed_only = true;
        self
    }

    /// Who is in it.
    pub fn known(&self) -> Vec<PeerId> {
        ids(&self.keys)
    }

    /// How a node is built.
    pub fn config(&self, index: usize) -> NodeConfig {
        let relays = self.relays.iter().cloned();
        let mut config = config(&self.keys[index], &self.listen).with_relays(relays);
        config.relayed_only = self.relayed_only;
        config
    }

    /// Starts one of them.
    pub async fn node(&self, index: usize) -> TestNode<()> {
        let config = self.config(index);
        TestNode::start(config, &self.known(), |_| (dummy::Behaviour, ())).await
    }

    /// Starts all of them at once.
    pub async fn start(&self) -> Vec<TestNode<()>> {
        join_all((0..self.keys.len()).map(|index| self.node(index))).await
    }
}

/// Waits until each node sees each other one so.
pub async fn for_all_pairs<H>(nodes: &[TestNode<H>], expected: impl Fn(&PeerView) -> bool) {
    for node in nodes {
        for other in nodes.iter().filter(|other| other.id() != node.id()) {
            let id = other.id();
            let state = node
                .context
                .wait_for(|view| view.peer(&id).filter(|peer| expected(peer)).map(drop));
            within(state).await.unwrap();
        }
    }
}

/// Whether new streams to the peer go directly, over a connection that has answered.
pub fn is_direct(peer: &PeerView) -> bool {
    peer.best()
        .is_some_and(|path| !path.is_relayed() && path.rtt().is_some())
}
