//! Relays named by URL: what is asked, what is understood, what happens when it goes wrong.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{convert::Infallible, sync::Arc, time::Duration};

use libp2p::{PeerId, swarm::dummy};
use pluto_p2p::{
    Node, P2PContext, RelaySource, Routing,
    bootnode::{AnswerError, HttpCause, MAX_BODY, RelaySourceError, ResolveError, parse_answer},
    p2p_context::RelayView,
};
use pluto_testkit::{TCP, TestNode, config, key, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Charon's relay form (p2p spec, appendix A.2).
const ENR: &str = "enr:-Iu4QJyserRukhG0Vgi2csu7GjpHYUGufNEbZ8Q7ZBrcZUb0KqpL5QzHonkh1xxHlxatTxrIcX_IS5J3SEWR_sa0ptGAgmlkgnY0gmlwhH8AAAGJc2VjcDI1NmsxoQMAUgEqczOjevyculnUIofhCj0DkgJudErM7qCYIvIkzIN0Y3CCDhqDdWRwgg4u";
/// Whether a failure is the one that was provoked.
type Expected = fn(&ResolveError) -> bool;

/// The longest request that the tests' server reads.
const MAX_REQUEST: usize = 8 << 10;

#[test]
fn an_answer_is_an_enr_or_a_list_of_addresses() {
    let relay = parse_answer(ENR).unwrap();
    let addresses: Vec<_> = relay.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(
        addresses,
        ["/ip4/127.0.0.1/udp/3630/quic-v1", "/ip4/127.0.0.1/tcp/3610"]
    );

    let id = PeerId::random();
    let list = format!(
        r#"["/ip4/10.0.0.1/tcp/1/p2p/{id}", "nonsense", "/dns/a.example/udp/2/quic-v1/p2p/{id}"]"#
    );
    let relay = parse_answer(&list).unwrap();
    assert_eq!(relay.id, id);
    assert_eq!(relay.addresses.len(), 2, "what cannot be read is left out");
}

#[test]
fn each_answer_that_names_no_relay_is_told_apart() {
    let (a, b) = (PeerId::random(), PeerId::random());
    let none = |body: &str| matches!(parse_answer(body), Err(AnswerError::NoAddress { .. }));
    assert!(none("null") && none("[]"));
    assert!(none(r#"["/ip4/10.0.0.1/tcp/1"]"#), "no peer id");
    assert!(none(&format!(r#"["/ip4/10.0.0.1/p2p/{a}"]"#)), "no port");
    assert_eq!(parse_answer("<html>"), Err(AnswerError::Format));
    assert!(matches!(parse_answer("enr:x"), Err(AnswerError::Enr(_))));
    let two = format!(r#"["/ip4/10.0.0.1/tcp/1/p2p/{a}","/ip4/10.0.0.1/tcp/1/p2p/{b}"]"#);
    assert!(matches!(
        parse_answer(&two),
        Err(AnswerError::SeveralPeers { .. })
    ));
}

#[test]
fn a_relay_is_given_as_url_enr_or_address_and_nothing_else() {
    let id = PeerId::random();
    let address = format!("/ip4/192.0.2.1/tcp/3610/p2p/{id}");
    for text in ["https://relay.example", ENR, &address] {
        text.parse::<RelaySource>().unwrap();
    }
    let source: RelaySource = "https://me:secret@relay.example/a".parse().unwrap();
    assert_eq!(source.to_string(), "https://relay.example/a");
    let source: RelaySource = address.parse().unwrap();
    assert_eq!(source.to_string(), address);

    let wrong = |text: &str| text.parse::<RelaySource>().unwrap_err();
    assert!(matches!(wrong("https://"), RelaySourceError::Url { .. }));
    assert!(matches!(wrong("enr:x"), RelaySourceError::Enr { .. }));
    for text in ["", "relay.example", "/ip4/192.0.2.1/tcp/3610"] {
        assert!(matches!(wrong(text), RelaySourceError::Multiaddr { .. }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_is_asked_with_the_clusters_headers_and_its_relay_stands_in_the_context() {
    let id = PeerId::random();
    let mut server = Server::start(Answer::names(id)).await;
    let mut config = config(&key(), &[TCP]).with_relays([server.url()]);
    config.routing = Routing {
        cluster: Some("0123abc".parse().unwrap()),
        uuid: Some("AbCd-EF".parse().unwrap()),
    };
    let node = TestNode::start(config, &[], |_| (dummy::Behaviour, ())).await;

    let request = within(server.requests.recv()).await.unwrap();
    let lower = request.to_ascii_lowercase();
    assert!(request.starts_with("GET / HTTP/1.1\r\n"), "{request}");
    assert!(lower.contains("charon-cluster: 0123abc\r\n"), "{request}");
    assert!(request.contains(": AbCd-EF\r\n"), "letter case: {request}");
    let relay = wait_relay(&node.context, |relay| relay.peer.is_some()).await;
    assert_eq!(relay.peer, Some(id));
    assert!(node.context.is_relay(&id));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_names_the_url_and_the_cause_and_is_tried_again() {
    let id = PeerId::random();
    let server = Server::start(Answer::status(503)).await;
    let url = server.url();
    let config = config(&key(), &[TCP]).with_relays([url.clone()]);
    let node = TestNode::start(config, &[], |_| (dummy::Behaviour, ())).await;

    let oversized = Answer {
        body: format!("[{}]", " ".repeat(MAX_BODY - 1)),
        ..Answer::names(id)
    };
    let nothing = Answer {
        body: "[]".to_owned(),
        ..Answer::names(id)
    };
    let broken = Answer {
        announced: Some(1000),
        ..Answer::names(id)
    };
    let cases: [(Answer, Expected); 4] = [
        (
            Answer::status(503),
            |e| matches!(e, ResolveError::Status { status, .. } if status.as_u16() == 503),
        ),
        (oversized, |e| matches!(e, ResolveError::TooLong { .. })),
        (nothing, |e| matches!(e, ResolveError::Answer { .. })),
        (broken, |e| {
            matches!(
                e,
                ResolveError::Http {
                    cause: HttpCause::Broken,
                    ..
                }
            )
        }),
    ];
    for (answer, expected) in cases {
        server.answer.send_replace(answer);
        let relay = wait_relay(&node.context, |relay| {
            relay.problem.as_deref().is_some_and(expected)
        })
        .await;
        let told = relay.problem.as_ref().unwrap().to_string();
        assert!(told.contains(&url.to_string()), "{told}");
        assert_eq!(relay.peer, None);
    }

    // Exactly as long as allowed.
    let mut longest = Answer::names(id);
    longest
        .body
        .push_str(&" ".repeat(MAX_BODY - longest.body.len()));
    server.answer.send_replace(longest);
    let relay = wait_relay(&node.context, |relay| relay.peer.is_some()).await;
    assert_eq!((relay.peer, relay.problem.as_deref()), (Some(id), None));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_and_nobody_answering_are_told_apart() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = url_of(closed.local_addr().unwrap().port());
    drop(closed);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = url_of(silent.local_addr().unwrap().port());
    let config = config(&key(), &[TCP]).with_relays([nobody, mute]);
    let node = TestNode::start(config, &[], |_| (dummy::Behaviour, ())).await;

    for (index, expected) in [HttpCause::Connect, HttpCause::TimedOut]
        .into_iter()
        .enumerate()
    {
        let cause =
            within(
                node.context
                    .wait_for(|view| match view.relays[index].problem.as_deref()? {
                        ResolveError::Http { cause, .. } => Some(*cause),
                        _ => None,
                    }),
            );
        assert_eq!(cause.await.unwrap(), expected);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_identity_behind_the_url_is_followed() {
    let (a, b) = (relay(key()).await, relay(key()).await);
    let named = |node: &TestNode<()>| Answer::at(node.id(), &node.addresses[0].to_string());
    let server = Server::start(named(&a)).await;
    let config = config(&key(), &[TCP]).with_relays([server.url()]);
    let node = TestNode::start(config, &[], |_| (dummy::Behaviour, ())).await;
    connected(&node.context, a.id()).await;

    server.answer.send_replace(named(&b));
    let first = a.id();
    a.stop().await;
    wait_relay(&node.context, |relay| relay.peer == Some(b.id())).await;
    connected(&node.context, b.id()).await;
    assert!(
        !node.context.is_relay(&first),
        "the old one is none any more"
    );
    node.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ends_leaves_no_request_behind() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = url_of(silent.local_addr().unwrap().port());
    let context = P2PContext::default();
    let config = config(&key(), &[TCP]).with_relays([mute]);
    let (node, ()) = Node::new(config, context.clone(), |_| {
        Ok::<_, Infallible>((dummy::Behaviour, ()))
    })
    .unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(node.run(stop.clone()));
    let (mut asked, _) = within(silent.accept()).await.unwrap();

    stop.cancel();
    within(task).await.unwrap();

    // The request's connection ends with its task.
    let mut rest = Vec::new();
    within(asked.read_to_end(&mut rest)).await.unwrap();
    assert!(context.view().is_gone());
}

/// A node that lets anybody in, as a relay does.
async fn relay(key: libp2p::identity::Keypair) -> TestNode<()> {
    let mut config = config(&key, &[TCP]);
    config.gater.mode = pluto_p2p::gater::Mode::Open;
    TestNode::start(config, &[], |_| (dummy::Behaviour, ())).await
}

/// Waits for a relay, which the node does not know as one yet.
async fn connected(context: &P2PContext, relay: PeerId) {
    let connected = context.wait_for(|view| view.is_connected(&relay).then_some(()));
    within(connected).await.unwrap();
}

async fn wait_relay(
    context: &P2PContext,
    mut expected: impl FnMut(&RelayView) -> bool,
) -> Arc<RelayView> {
    let found = context.wait_for(|view| view.relays.first().filter(|it| expected(it)).cloned());
    within(found).await.unwrap()
}

fn url_of(port: u16) -> RelaySource {
    format!("http://127.0.0.1:{port}").parse().unwrap()
}

#[derive(Clone)]
struct Answer {
    status: u16,
    body: String,
    /// A length that is not that of the body.
    announced: Option<usize>,
}

impl Answer {
    fn names(id: PeerId) -> Self {
        // Nobody listens there.
        Self::at(id, "/ip4/127.0.0.1/tcp/1")
    }

    fn at(id: PeerId, address: &str) -> Self {
        Self {
            status: 200,
            body: format!(r#"["{address}/p2p/{id}"]"#),
            announced: None,
        }
    }

    fn status(status: u16) -> Self {
        Self {
            status,
            body: String::new(),
            announced: None,
        }
    }
}

/// A web server that answers every request alike.
struct Server {
    port: u16,
    answer: watch::Sender<Answer>,
    requests: mpsc::Receiver<String>,
    _stop: DropGuard,
}

impl Server {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answer, answers) = watch::channel(answer);
        let (asked, requests) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let work = serve(listener, answers, asked);
        tokio::spawn(stop.clone().run_until_cancelled_owned(work));
        Self {
            port,
            answer,
            requests,
            _stop: stop.drop_guard(),
        }
    }

    fn url(&self) -> RelaySource {
        url_of(self.port)
    }
}

async fn serve(
    listener: TcpListener,
    answers: watch::Receiver<Answer>,
    asked: mpsc::Sender<String>,
) {
    while let Ok((mut client, _)) = listener.accept().await {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") && request.len() < MAX_REQUEST {
            match tokio::time::timeout(Duration::from_secs(5), client.read_buf(&mut request)).await
            {
                Ok(Ok(1..)) => {}
                _ => break,
            }
        }
        let _ = asked.try_send(String::from_utf8_lossy(&request).into_owned());
        let answer = answers.borrow().clone();
        let length = answer.announced.unwrap_or(answer.body.len());
        let head = format!(
            "HTTP/1.1 {} Test\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n",
            answer.status
        );
        let _ = client.write_all(head.as_bytes()).await;
        let _ = client.write_all(answer.body.as_bytes()).await;
        let _ = client.shutdown().await;
    }
}
