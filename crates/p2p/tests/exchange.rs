//! Two real nodes on loopback that exchange messages.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{convert::Infallible, time::Duration};

use libp2p::{Multiaddr, PeerId, StreamProtocol, identity::Keypair};
use pluto_p2p::{
    Control, Node, NodeConfig, P2PContext,
    dialer::Book,
    exchange::{self, Budget, Error, Inbound, Protocol, Repeat, Shape, Slot, exchange},
    proto::Frame,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

const ASK: Slot = Slot(0);
const TELL: Slot = Slot(1);
const LIMIT: Duration = Duration::from_secs(10);

const TRANSPORTS: [&str; 2] = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"];

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_over_tcp_and_over_quic() {
    for listen in TRANSPORTS {
        let (mut a, mut b) = pair(listen).await;

        let call = a.call(&b, ASK, b"how are you");
        let request = within(b.inbound.recv()).await.unwrap();
        assert_eq!(
            (request.peer, &request.body[..]),
            (a.id(), &b"how are you"[..])
        );
        request.respond(Frame::from_body(b"well"));
        let done = within(call).await.unwrap();
        assert_eq!(&done.body[..], b"well");

        let call = b.call(&a, TELL, b"good");
        let request = within(a.inbound.recv()).await.unwrap();
        assert_eq!(&request.body[..], b"good");
        within(call).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_request_and_an_empty_answer_are_legal() {
    let (a, mut b) = pair(TRANSPORTS[0]).await;
    let call = a.call(&b, ASK, b"");
    let request = within(b.inbound.recv()).await.unwrap();
    assert!(request.body.is_empty());
    request.respond(Frame::from_body(b""));
    assert!(within(call).await.unwrap().body.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_apart_from_a_broken_stream() {
    for listen in TRANSPORTS {
        let (a, mut b) = pair(listen).await;
        let call = a.call(&b, ASK, b"please");
        within(b.inbound.recv()).await.unwrap().refuse();
        let error = within(call).await.unwrap_err();
        assert!(
            matches!(error, Error::Refused { peer } if peer == b.id()),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_request_reaches_nobody_and_harms_nothing() {
    let (a, mut b) = pair(TRANSPORTS[0]).await;
    let long = vec![0; protocols()[0].max_frame + 1];
    let by = Instant::now() + Duration::from_millis(500);
    let call = a
        .handle
        .call(b.id(), ASK, Frame::from_body(&long), by)
        .unwrap();
    assert!(within(call).await.is_err());

    let call = a.call(&b, ASK, b"short");
    let request = within(b.inbound.recv()).await.unwrap();
    assert_eq!(
        &request.body[..],
        b"short",
        "the long one was never delivered"
    );
    request.respond(Frame::from_body(b"ok"));
    within(call).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_its_peer_and_says_why_it_gave_up() {
    let a = Peer::start(TRANSPORTS[0], &[], Keypair::generate_secp256k1()).await;
    let absent = PeerId::random();
    let by = Instant::now() + Duration::from_millis(300);
    let call = a
        .handle
        .call(absent, ASK, Frame::from_body(b"x"), by)
        .unwrap();
    let error = within(call).await.unwrap_err();
    assert!(
        matches!(error, Error::NoPath { peer, why: Some(_) } if peer == absent),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_made_before_the_peer_exists_is_delivered_once_it_does() {
    let (ka, kb) = (Keypair::generate_secp256k1(), Keypair::generate_secp256k1());
    let ids = [ka.public().to_peer_id(), kb.public().to_peer_id()];
    let a = Peer::start(TRANSPORTS[0], &ids, ka).await;
    let call = a
        .handle
        .call(
            ids[1],
            ASK,
            Frame::from_body(b"early"),
            Instant::now() + LIMIT,
        )
        .unwrap();

    let mut b = Peer::start(TRANSPORTS[0], &ids, kb).await;
    a.meets(&b);
    let request = within(b.inbound.recv()).await.unwrap();
    request.respond(Frame::from_body(b"late"));
    assert_eq!(&within(call).await.unwrap().body[..], b"late");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_frees_its_place() {
    let (a, mut b) = pair(TRANSPORTS[0]).await;
    for _ in 0..(2 * exchange::MAX_OUTSTANDING) {
        drop(a.call(&b, ASK, b"never mind"));
        tokio::task::yield_now().await;
    }
    let call = loop {
        // The last of the cancelled ones may still be on their way out.
        let by = Instant::now() + LIMIT;
        match a.handle.call(b.id(), TELL, Frame::from_body(b"now"), by) {
            Ok(call) => break call,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let got_it = async {
        while let Some(request) = b.inbound.recv().await {
            if &request.body[..] == b"now" {
                return;
            }
        }
    };
    within(got_it).await;
    within(call).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_ends_every_call() {
    let (a, b) = pair(TRANSPORTS[0]).await;
    let call = a.call(&b, ASK, b"anyone");
    a.control.shutdown();
    let error = within(call).await.unwrap_err();
    assert!(matches!(error, Error::Closed), "{error}");
    within(a.task).await.unwrap();
    assert!(a.context.view().is_gone());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_safe_request_survives_the_loss_of_its_connection() {
    for listen in TRANSPORTS {
        let (a, mut b) = pair(listen).await;
        let call = a.call(&b, ASK, b"lost?");
        let request = within(b.inbound.recv()).await.unwrap();
        // The receiver has it, and dies before it answers.
        let key = b.key.clone();
        b.control.shutdown();
        within(b.task).await.unwrap();
        drop(request);

        let ids = [a.id(), key.public().to_peer_id()];
        let mut again = Peer::start(listen, &ids, key).await;
        a.meets(&again);
        let request = within(again.inbound.recv()).await.unwrap();
        request.respond(Frame::from_body(b"found"));
        assert_eq!(&within(call).await.unwrap().body[..], b"found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_arrive_once_each_and_in_bounded_places() {
    for listen in TRANSPORTS {
        let (a, mut b) = pair(listen).await;
        let calls: Vec<_> = (0..1000u32)
            .map(|n| a.call(&b, TELL, &n.to_be_bytes()))
            .collect();
        let receive = async {
            let mut seen = vec![false; 1000];
            for _ in 0..1000 {
                let request = b.inbound.recv().await.unwrap();
                let n = u32::from_be_bytes(request.body[..].try_into().unwrap());
                assert!(!std::mem::replace(&mut seen[n as usize], true), "{n} twice");
            }
        };
        within(receive).await;
        for call in calls {
            within(call).await.unwrap();
        }
    }
}

struct Peer {
    key: Keypair,
    address: Multiaddr,
    context: P2PContext,
    control: Control,
    handle: exchange::Handle,
    inbound: Inbound,
    task: JoinHandle<()>,
}

impl Peer {
    async fn start(listen: &str, known: &[PeerId], key: Keypair) -> Self {
        let context = P2PContext::new(known.iter().copied());
        let config = NodeConfig::new(key.clone())
            .with_listen(listen.parse().unwrap())
            .with_book(Book::new([]));
        let (node, (handle, inbound)) = Node::new(config, context.clone(), |builder| {
            let (behaviour, handle, inbound) =
                exchange(builder.p2p_context(), Budget::default(), protocols());
            Ok::<_, Infallible>((behaviour, (handle, inbound)))
        })
        .unwrap();
        let control = node.control();
        let task = tokio::spawn(node.run(CancellationToken::new()));
        let address = within(control.listening()).await.unwrap().remove(0);
        Self {
            key,
            address,
            context,
            control,
            handle,
            inbound,
            task,
        }
    }

    fn id(&self) -> PeerId {
        self.key.public().to_peer_id()
    }

    fn meets(&self, other: &Self) {
        self.control
            .book()
            .set(other.id(), vec![other.address.clone()]);
    }

    fn call(&self, to: &Self, slot: Slot, body: &[u8]) -> exchange::Call {
        let by = Instant::now() + LIMIT;
        loop {
            match self.handle.call(to.id(), slot, Frame::from_body(body), by) {
                Ok(call) => return call,
                Err(_) => std::thread::yield_now(),
            }
        }
    }
}

async fn pair(listen: &str) -> (Peer, Peer) {
    let (ka, kb) = (Keypair::generate_secp256k1(), Keypair::generate_secp256k1());
    let ids = [ka.public().to_peer_id(), kb.public().to_peer_id()];
    let a = Peer::start(listen, &ids, ka).await;
    let b = Peer::start(listen, &ids, kb).await;
    a.meets(&b);
    b.meets(&a);
    within(a.context.connected(b.id())).await.unwrap();
    within(b.context.connected(a.id())).await.unwrap();
    (a, b)
}

fn protocols() -> Vec<Protocol> {
    let protocol = |id, shape| Protocol {
        ids: vec![StreamProtocol::new(id)],
        shape,
        repeat: Repeat::Safe,
        max_frame: 1 << 16,
        read_timeout: Duration::from_secs(5),
        write_timeout: Duration::from_secs(7),
    };
    vec![
        protocol("/test/ask/1", Shape::RequestResponse),
        protocol("/test/tell/1", Shape::OneWay),
    ]
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(LIMIT, future).await.expect("in time")
}
