//! Nodes that broadcast, and peers that do it by hand.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::time::Duration;

use futures::future::join_all;
use libp2p::{PeerId, identity::Keypair};
use pluto_crypto::k1;
use pluto_dkg::bcast::{self, Component, Config, Delivered, Event, Generation};
use pluto_p2p::{
    exchange::{self, Budget, Done, Inbound, Protocol, Repeat, Request, Shape, Slot, exchange},
    proto::Frame,
};
use pluto_testkit::{LIMIT, TestNode, config, ids, key, within};
use prost::{Message, Name};
use prost_types::Any;
use tokio::{sync::mpsc, time::Instant};

pub(crate) const ID: &str = "/test/note";
pub(crate) const SESSION: [u8; 32] = [7; 32];
pub(crate) const SIG: Slot = Slot(0);
pub(crate) const MSG: Slot = Slot(1);

/// What is broadcast here.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Note {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

impl Name for Note {
    const NAME: &'static str = "Note";
    const PACKAGE: &'static str = "pluto.test";
}

pub(crate) fn note(text: &str) -> Note {
    Note {
        text: text.to_owned(),
    }
}

/// The messages of the wire, written down once more.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SigRequest {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) message: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SigResponse {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) signature: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Delivery {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) message: Option<Any>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub(crate) signatures: Vec<Vec<u8>>,
}

pub(crate) fn any(note: &Note) -> Any {
    Any {
        type_url: "type.googleapis.com/pluto.test.Note".to_owned(),
        value: note.encode_to_vec(),
    }
}

pub(crate) fn sig_request(any: &Any) -> Frame {
    Frame::encode(&SigRequest {
        id: ID.to_owned(),
        message: Some(any.clone()),
    })
}

pub(crate) fn delivery(any: &Any, signatures: Vec<Vec<u8>>) -> Frame {
    Frame::encode(&Delivery {
        id: ID.to_owned(),
        message: Some(any.clone()),
        signatures,
    })
}

/// A signature over a message in a session, 2.0.0.
pub(crate) fn sign(key: &Keypair, session: &[u8], any: &Any) -> Vec<u8> {
    let hash = Generation::V2.hash(session, ID, &any.type_url, &any.value);
    secret(key).sign(&hash).to_vec()
}

pub(crate) fn signed(key: &Keypair, session: &[u8], any: &Any) -> Frame {
    Frame::encode(&SigResponse {
        id: ID.to_owned(),
        signature: sign(key, session, any),
    })
}

pub(crate) fn secret(key: &Keypair) -> k1::SecretKey {
    let key = key.clone().try_into_secp256k1().unwrap();
    k1::SecretKey::from_bytes(&key.secret().to_bytes()).unwrap()
}

/// A node that broadcasts.
pub(crate) struct Node {
    pub(crate) test: TestNode<Component>,
    pub(crate) notes: mpsc::Receiver<Delivered<Note>>,
    pub(crate) events: mpsc::Receiver<Event>,
}

impl Node {
    pub(crate) async fn start(
        key: &Keypair,
        known: &[PeerId],
        listen: &str,
        with: impl FnOnce(Config) -> Config,
    ) -> Self {
        let settings = with(Config::new(known.to_vec(), secret(key), SESSION));
        let (test, events) = TestNode::start_observed(config(key, &[listen]), known, |builder| {
            bcast::new(builder.p2p_context(), settings, Budget::default()).unwrap()
        })
        .await;
        let check = |_, _, note: &Note| match &*note.text {
            "unwanted" => Err("not this one".into()),
            _ => Ok(()),
        };
        let notes = test.handle.register(ID, check).unwrap();
        Self {
            test,
            notes,
            events,
        }
    }

    pub(crate) fn id(&self) -> PeerId {
        self.test.id()
    }

    pub(crate) async fn broadcast(&self, text: &str) -> Result<(), bcast::BroadcastError> {
        within(self.test.handle.broadcast(ID, &note(text))).await
    }

    pub(crate) async fn note(&mut self) -> (PeerId, String) {
        let delivered = within(self.notes.recv()).await.unwrap();
        (delivered.peer, delivered.message.text)
    }

    pub(crate) async fn event(&mut self) -> Event {
        within(self.events.recv()).await.unwrap()
    }
}

/// `n` nodes that have met.
pub(crate) async fn cluster(
    n: usize,
    listen: &str,
    with: impl Fn(usize, Config) -> Config,
) -> Vec<Node> {
    let keys: Vec<_> = (0..n).map(|_| key()).collect();
    let known = ids(&keys);
    let start = |(at, key)| {
        let (known, with) = (&known, &with);
        async move { Node::start(key, known, listen, |config| with(at, config)).await }
    };
    let nodes = join_all(keys.iter().enumerate().map(start)).await;
    meet(&nodes, &[]).await;
    nodes
}

/// Tells all where all are, and waits until they are connected.
pub(crate) async fn meet(nodes: &[Node], hands: &[Hand]) {
    for node in nodes {
        for other in nodes.iter().filter(|other| other.id() != node.id()) {
            node.test.meets(&other.test);
        }
        for hand in hands {
            node.test.meets(&hand.test);
        }
    }
    for node in nodes {
        for id in nodes.iter().map(Node::id).chain(hands.iter().map(Hand::id)) {
            if id != node.id() {
                within(node.test.context.connected(id)).await.unwrap();
            }
        }
    }
}

/// A peer on the same exchange whose test says what it answers.
pub(crate) struct Hand {
    pub(crate) test: TestNode<exchange::Handle>,
    pub(crate) inbound: Inbound,
}

impl Hand {
    pub(crate) async fn start(key: &Keypair, known: &[PeerId], listen: &str) -> Self {
        let protocol = |id| Protocol {
            ids: vec![id],
            shape: Shape::RequestResponse,
            repeat: Repeat::Safe,
            max_frame: 1 << 20,
            read_timeout: LIMIT,
            write_timeout: LIMIT,
        };
        let protocols = vec![
            protocol(Generation::V2.sig()),
            protocol(Generation::V2.msg()),
        ];
        let mut inbound = None;
        let test = TestNode::start(config(key, &[listen]), known, |builder| {
            let parts = exchange(builder.p2p_context(), Budget::default(), protocols);
            inbound = Some(parts.2);
            (parts.0, parts.1)
        })
        .await;
        Self {
            test,
            inbound: inbound.unwrap(),
        }
    }

    pub(crate) fn id(&self) -> PeerId {
        self.test.id()
    }

    /// The next request to it, which must be on this protocol.
    pub(crate) async fn asked(&mut self, slot: Slot) -> Request {
        let request = within(self.inbound.recv()).await.unwrap();
        assert_eq!(request.slot, slot);
        request
    }

    /// What it is asked to sign, with the request to answer.
    pub(crate) async fn asked_to_sign(&mut self) -> (Any, Request) {
        let request = self.asked(SIG).await;
        let message = SigRequest::decode(request.body.clone()).unwrap();
        (message.message.unwrap(), request)
    }

    /// Signs whatever it is asked to sign next.
    pub(crate) async fn signs(&mut self) {
        let (any, request) = self.asked_to_sign().await;
        request.respond(signed(&self.test.key, &SESSION, &any));
    }

    pub(crate) async fn call(
        &self,
        to: PeerId,
        slot: Slot,
        frame: Frame,
    ) -> Result<Done, exchange::Error> {
        let by = Instant::now() + LIMIT;
        within(self.test.handle.call(to, slot, frame, by).unwrap()).await
    }

    /// Asks for a signature.
    pub(crate) async fn collects(
        &self,
        from: PeerId,
        any: &Any,
    ) -> Result<Vec<u8>, exchange::Error> {
        let done = self.call(from, SIG, sig_request(any)).await?;
        Ok(SigResponse::decode(done.body).unwrap().signature)
    }
}

/// Short time-outs, for those who wait for them to pass.
pub(crate) fn hasty(mut config: Config) -> Config {
    config.agree_timeout = Duration::from_secs(2);
    config.sign_timeout = Duration::from_secs(1);
    config.deliver_timeout = Duration::from_secs(1);
    config.read_timeout = Duration::from_millis(300);
    config
}
