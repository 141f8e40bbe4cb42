//! What a relay answers over HTTP.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

mod common;

use std::{error::Error, net::SocketAddr};

use common::{Relay, config, get, request};
use futures::FutureExt;
use pluto_crypto::{enr::Enr, k1::SecretKey};
use pluto_relay_server::{Config, Reach, RelayError, RelayServer};
use pluto_testkit::{QUIC, TCP, addr, within};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};

fn any() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_charon_find_the_relay_at_any_path_and_with_any_method() {
    let relay = Relay::start(config().with_http(any())).await;
    let http = relay.control.http_address().unwrap();
    let expected = format!("[\"{}\",\"{}\"]", relay.addresses[0], relay.addresses[1]);
    for (method, path) in [("GET", "/"), ("POST", "/"), ("GET", "/any/thing?x=1")] {
        let (head, body) = request(http, method, path).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(
            head.contains("content-type: text/plain; charset=utf-8"),
            "{head}"
        );
        assert_eq!(body, expected, "{method} {path}");
    }
    let (head, body) = request(http, "HEAD", "/").await;
    assert!(
        head.contains(&format!("content-length: {}", expected.len())),
        "{head}"
    );
    assert_eq!(body, "");
    for page in ["/livez", "/readyz"] {
        assert!(
            get(http, page).await.0.starts_with("HTTP/1.1 200"),
            "{page}"
        );
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_has_the_transports_that_there_are() {
    for (listen, tcp, quic) in [
        (&[TCP, QUIC][..], true, true),
        (&[TCP], true, false),
        (&[QUIC], false, true),
    ] {
        let key = SecretKey::generate();
        let config = Config::new(key.clone()).with_http(any());
        let config = listen
            .iter()
            .fold(config, |config, listen| config.with_listen(addr(listen)));
        let relay = Relay::start(config).await;
        let http = relay.control.http_address().unwrap();

        let (head, body) = get(http, "/enr").await;

        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let enr = Enr::parse(&body).unwrap();
        assert!(*enr.public_key() == key.public_key());
        assert_eq!(enr.ip4(), Some([127, 0, 0, 1].into()));
        assert_eq!((enr.tcp().is_some(), enr.udp().is_some()), (tcp, quic));
        let list = get(http, "/").await.1;
        for (port, transport) in [(enr.tcp(), "tcp"), (enr.udp(), "udp")] {
            if let Some(port) = port {
                assert!(
                    list.contains(&format!("/ip4/127.0.0.1/{transport}/{port}/")),
                    "{list}"
                );
            }
        }
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_reached_from_outside_is_told_instead_of_what_is_private() {
    let outside = config()
        .with_http(any())
        .with_external_ip([93, 184, 215, 14].into());
    let relay = Relay::start(outside.clone()).await;
    let http = relay.control.http_address().unwrap();
    let list = get(http, "/").await.1;
    assert_eq!(list.matches("/ip4/93.184.215.14/").count(), 2, "{list}");
    assert!(!list.contains("127.0.0.1"), "{list}");
    let enr = Enr::parse(&get(http, "/enr").await.1).unwrap();
    assert_eq!(enr.ip4(), Some([93, 184, 215, 14].into()));
    assert_eq!(relay.control.state().reach, Reach::Claimed);
    relay.stop().await;

    let relay = Relay::start(outside.with_private_addresses()).await;
    assert_eq!(relay.addresses.len(), 4, "{:?}", relay.addresses);
    assert!(relay.addresses[0].to_string().starts_with("/ip4/93."));
    relay.stop().await;

    let named = config().with_http(any()).with_external_host("localhost");
    let relay = Relay::start(named.with_private_addresses()).await;
    let http = relay.control.http_address().unwrap();
    // The order of Go: /ip4 before /dns.
    let texts: Vec<_> = relay.addresses.iter().map(ToString::to_string).collect();
    assert!(texts[0].starts_with("/ip4/127.0.0.1/tcp/"), "{texts:?}");
    assert!(texts[2].starts_with("/dns/localhost/tcp/"), "{texts:?}");
    assert!(get(http, "/enr").await.0.starts_with("HTTP/1.1 200"));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_public_is_known_and_the_rest_is_told() {
    let relay = Relay::start(config()).await;
    assert_eq!(relay.control.state().reach, Reach::NothingPublic);
    assert!(
        relay
            .addresses
            .iter()
            .all(|told| told.to_string().contains("/127.0.0.1/"))
    );
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_have_a_page_of_their_own() {
    let relay = Relay::start(config().with_http(any()).with_monitoring(any())).await;
    let monitoring = relay.control.monitoring_address().unwrap();
    let (head, page) = get(monitoring, "/metrics").await;
    assert!(
        head.contains("content-type: application/openmetrics-text"),
        "{head}"
    );
    let status = format!("libp2p_relaysvc_status{{relay_peer=\"{}\"}} 1", relay.id);
    assert!(page.lines().any(|line| line == status), "{page}");
    assert!(page.contains("\np2p_reachability_status"), "{page}");
    assert!(page.ends_with("# EOF\n"), "{page}");
    for page in ["/livez", "/readyz"] {
        assert!(get(monitoring, page).await.0.starts_with("HTTP/1.1 200"));
    }
    assert!(get(monitoring, "/").await.0.starts_with("HTTP/1.1 404"));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_one_clear_error() {
    let taken = TcpListener::bind(any()).await.unwrap();
    let address = taken.local_addr().unwrap();

    let http = RelayServer::new(config().with_http(address)).err().unwrap();
    assert!(matches!(http, RelayError::Http { .. }));
    assert!(http.to_string().contains(&address.to_string()), "{http}");
    assert!(http.source().is_some());

    let listen = addr(&format!("/ip4/127.0.0.1/tcp/{}", address.port()));
    let p2p = RelayServer::new(Config::new(SecretKey::generate()).with_listen(listen.clone()));
    let p2p = p2p.err().unwrap();
    assert!(p2p.to_string().contains(&listen.to_string()), "{p2p}");

    let nowhere = RelayServer::new(Config::new(SecretKey::generate()));
    assert!(matches!(nowhere.err(), Some(RelayError::NoListener)));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_host_does_not_keep_the_page_from_the_others() {
    let relay = Relay::start(config().with_http(any())).await;
    let http = relay.control.http_address().unwrap();
    let noisy = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
        within(socket.connect(http)).await.unwrap()
    };

    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(noisy().await);
    }
    // More than all places together.
    let mut surplus = JoinSet::new();
    for _ in 0..300 {
        let mut stream = noisy().await;
        surplus.spawn(async move {
            // A reset would do as well.
            let _ = within(stream.read_u8()).await;
        });
    }
    within(surplus.join_all()).await;

    let (head, _) = within(get(http, "/")).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    for stream in &mut silent {
        let said = stream.read_u8().now_or_never();
        assert!(said.is_none(), "one of the first is closed: {said:?}");
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_cut_off() {
    let relay = Relay::start(config().with_http(any())).await;
    let http = relay.control.http_address().unwrap();
    let mut silent = TcpStream::connect(http).await.unwrap();
    let mut answer = Vec::new();
    // A reset would do as well.
    let _ = within(silent.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    relay.stop().await;
}
