//! A ceremony that waits for its last operator, which is ours.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::{path::Path, time::Duration};

use libp2p::{
    PeerId,
    identity::{self, Keypair},
};
use pluto_cluster::Definition;
use pluto_crypto::{enr::Enr, k1, keyfile};
use pluto_dkg::{bcast::Generation, sync::CharonVersion};
use pluto_interop::{Ceremony, Dkg, Relay};
use pluto_p2p::{NodeConfig, dialer::Book};
use pluto_testkit::{TCP, addr};

/// How long live Charons may take to find each other, on a loaded machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
/// The operators that Charon runs; the last one is ours.
pub(crate) const CHARONS: usize = 3;

/// Three Charons that wait for a fourth.
pub(crate) struct Setup {
    pub(crate) ceremony: Ceremony,
    pub(crate) version: CharonVersion,
    pub(crate) generation: Generation,
    pub(crate) charons: Vec<Dkg>,
    pub(crate) definition: Definition,
    /// All operators in order.
    pub(crate) peers: Vec<PeerId>,
    pub(crate) secret: k1::SecretKey,
    _relay: Relay,
}

impl Setup {
    pub(crate) async fn new(binary: &Path, validators: usize) -> Self {
        println!("{}", binary.display());
        let name = binary.to_string_lossy();
        let version = match name.contains("v1.10") {
            true => CharonVersion::V1_10,
            false => CharonVersion::V1_11,
        };
        // The first two candidates of v1.11 have the broadcast of v1.10.
        let is_old = name.contains("v1.10") || name.ends_with("-rc1") || name.ends_with("-rc2");
        let generation = match is_old {
            true => Generation::V1,
            false => Generation::V2,
        };
        let ceremony = Ceremony::create(binary, CHARONS + 1, validators)
            .await
            .unwrap();
        let definition = Definition::read(ceremony.definition()).unwrap();
        let peer = |enr: &str| {
            let record = Enr::parse(enr).unwrap();
            PeerId::from_bytes(&k1::peer_id_bytes(record.public_key())).unwrap()
        };
        let operators = definition.operators.iter();
        let peers = operators.map(|operator| peer(&operator.enr)).collect();
        let secret = keyfile::load(ceremony.key(CHARONS)).unwrap();
        let relay = ceremony.relay().await.unwrap();
        let charons = (0..CHARONS).map(|index| ceremony.run(index, &relay).unwrap());
        Self {
            version,
            generation,
            charons: charons.collect(),
            ceremony,
            definition,
            peers,
            secret,
            _relay: relay,
        }
    }

    /// What the definition is known by.
    pub(crate) fn hash(&self) -> [u8; 32] {
        self.definition.definition_hash[..].try_into().unwrap()
    }

    /// A node of ours that knows where the Charons are.
    pub(crate) fn node(&self) -> NodeConfig {
        let key = self.keypair();
        assert_eq!(self.peers[CHARONS], key.public().to_peer_id());
        let book = Book::new([]);
        for (peer, charon) in self.peers.iter().zip(&self.charons) {
            book.set(*peer, vec![charon.address.clone()]);
        }
        NodeConfig::new(key).with_listen(addr(TCP)).with_book(book)
    }

    fn keypair(&self) -> Keypair {
        let mut bytes = self.secret.expose_bytes();
        let secret = identity::secp256k1::SecretKey::try_from_bytes(&mut *bytes).unwrap();
        identity::secp256k1::Keypair::from(secret).into()
    }
}
