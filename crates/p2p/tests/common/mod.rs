//! Nodes that ask and tell each other things, for the tests of this crate.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::time::Duration;

use libp2p::{PeerId, StreamProtocol, identity::Keypair};
use pluto_p2p::{
    NodeConfig,
    exchange::{self, Budget, Inbound, Protocol, Repeat, Shape, Slot, exchange},
    proto::Frame,
};
use pluto_testkit::{LIMIT, TestNode, config, ids, introduce, keys, met};
use tokio::time::Instant;

/// Is answered.
pub(crate) const ASK: Slot = Slot(0);
/// Is not.
pub(crate) const TELL: Slot = Slot(1);
/// The longest frame of both.
pub(crate) const MAX_FRAME: usize = 1 << 20;

/// A node that asks and tells.
pub(crate) type Talker = TestNode<Talk>;

/// Its ends of the exchange.
pub(crate) struct Talk {
    pub(crate) calls: exchange::Handle,
    pub(crate) inbound: Inbound,
}

impl Talk {
    /// Begins an exchange that may take as long as a test may wait.
    pub(crate) fn call(&self, to: PeerId, slot: Slot, body: &[u8]) -> exchange::Call {
        begin(&self.calls, to, slot, body)
    }
}

/// A node that asks, and answers each question with the question.
pub(crate) type Echo = TestNode<Answers>;

/// Its end of the exchange.
#[derive(Clone)]
pub(crate) struct Answers {
    pub(crate) calls: exchange::Handle,
}

impl Answers {
    /// Asks, which may take as long as a test may wait.
    pub(crate) fn ask(&self, to: PeerId, body: &[u8]) -> exchange::Call {
        begin(&self.calls, to, ASK, body)
    }
}

pub(crate) async fn talker(config: NodeConfig, known: &[PeerId]) -> Talker {
    TestNode::start(config, known, |builder| {
        let (behaviour, calls, inbound) =
            exchange(builder.p2p_context(), Budget::default(), protocols());
        (behaviour, Talk { calls, inbound })
    })
    .await
}

pub(crate) async fn echo(config: NodeConfig, known: &[PeerId]) -> Echo {
    TestNode::start(config, known, |builder| {
        let (behaviour, calls, inbound) =
            exchange(builder.p2p_context(), Budget::default(), protocols());
        (behaviour, answers(calls, inbound))
    })
    .await
}

/// Answers each question with the question, until the node ends.
pub(crate) fn answers(calls: exchange::Handle, inbound: Inbound) -> Answers {
    tokio::spawn(answer(inbound));
    Answers { calls }
}

/// Two talkers that are connected, the smaller id first.
pub(crate) async fn pair(listen: &str) -> (Talker, Talker) {
    let keys: [Keypair; 2] = keys();
    let known = ids(&keys);
    let [a, b] = &keys;
    let nodes = [
        talker(config(a, &[listen]), &known).await,
        talker(config(b, &[listen]), &known).await,
    ];
    introduce(&nodes);
    met(&nodes).await;
    nodes.into()
}

fn begin(calls: &exchange::Handle, to: PeerId, slot: Slot, body: &[u8]) -> exchange::Call {
    let by = Instant::now() + LIMIT;
    loop {
        match calls.call(to, slot, Frame::from_body(body), by) {
            Ok(call) => return call,
            Err(_) => std::thread::yield_now(),
        }
    }
}

async fn answer(mut inbound: Inbound) {
    while let Some(request) = inbound.recv().await {
        let frame = Frame::from_body(&request.body);
        request.respond(frame);
    }
}

pub(crate) fn protocols() -> Vec<Protocol> {
    let protocol = |id, shape| Protocol {
        ids: vec![StreamProtocol::new(id)],
        shape,
        repeat: Repeat::Safe,
        max_frame: MAX_FRAME,
        read_timeout: Duration::from_secs(5),
        write_timeout: Duration::from_secs(7),
    };
    vec![
        protocol("/test/ask/1", Shape::RequestResponse),
        protocol("/test/tell/1", Shape::OneWay),
    ]
}
