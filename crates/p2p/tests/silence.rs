//! Paths that fall silent without being closed.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

mod common;

use std::time::Duration;

use libp2p::identity::Keypair;
use pluto_p2p::{
    NodeConfig,
    behaviours::ping,
    p2p_context::{FailureCause, PeerView},
};
use pluto_testkit::{Link, TCP, TRANSPORTS, config, ids, keys, within};
use tokio::time::Instant;

use self::common::{Echo, MAX_FRAME, echo};

/// How long an answer to a ping may take.
const QUICK: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_path_is_closed_named_and_replaced_once_the_link_speaks() {
    let (a, b, link) = linked(QUICK).await;

    link.fall_silent();
    let began = Instant::now();

    // Both sides notice, each for itself.
    for (node, other) in [(&a, &b), (&b, &a)] {
        let silent = |peer: &PeerView| {
            let silent =
                |failure: &&pluto_p2p::p2p_context::Failure| failure.cause == FailureCause::Silent;
            peer.failures.iter().find(silent).cloned()
        };
        let failure = within(node.context.wait_for(|view| {
            let peer = view.peer(&other.id())?;
            silent(peer).filter(|_| !peer.is_connected())
        }))
        .await
        .unwrap();
        assert_eq!(failure.cause.to_string(), "the path stopped answering");
        assert!(failure.address.is_some());
        let why = node.context.why_not_connected(other.id()).unwrap();
        assert!(
            why.to_string().contains("the path stopped answering"),
            "{why}"
        );
    }
    assert!(began.elapsed() < Duration::from_secs(5));

    link.speak();

    within(a.context.connected(b.id())).await.unwrap();
    within(b.context.connected(a.id())).await.unwrap();
    let answer = within(a.handle.ask(b.id(), b"back?")).await.unwrap();
    assert_eq!(&answer.body[..], b"back?");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_into_the_silence_is_answered_after_it() {
    let (a, b, link) = linked(QUICK).await;

    link.fall_silent();
    let asked = a.handle.ask(b.id(), b"anyone?");
    let id = b.id();
    within(
        a.context
            .wait_for(|view| (!view.is_connected(&id)).then_some(())),
    )
    .await
    .unwrap();
    link.speak();

    assert_eq!(&within(asked).await.unwrap().body[..], b"anyone?");
}

/// The farewell of a connection cannot be written where nobody reads any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_whose_buffers_are_full_is_closed_too() {
    let (a, b, link) = linked(QUICK).await;

    link.stall();
    // More than the buffers of the sockets hold.
    let body = vec![7; MAX_FRAME];
    let asked: Vec<_> = (0..64).map(|_| a.handle.ask(b.id(), &body)).collect();

    let id = b.id();
    let closed = a
        .context
        .wait_for(|view| (!view.is_connected(&id)).then_some(()));
    within(closed).await.unwrap();
    link.speak();
    for asked in asked {
        assert_eq!(within(asked).await.unwrap().body.len(), body.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_missed_ping_closes_nothing() {
    // Three in a row do, which a loaded machine alone does not make them.
    const MISSED: Duration = Duration::from_secs(1);
    let (a, b, link) = linked(MISSED).await;
    let connection = |of: &Echo, to: &Echo| {
        let view = of.context.view();
        let paths = &view.peer(&to.id()).unwrap().paths;
        paths.iter().map(|path| path.connection).collect::<Vec<_>>()
    };
    let before = connection(&a, &b);

    // A stalled link loses nothing, so that what was written arrives late.
    link.stall();
    tokio::time::sleep(MISSED).await;
    link.speak();

    assert_eq!(
        &within(a.handle.ask(b.id(), b"late?")).await.unwrap().body[..],
        b"late?"
    );
    assert_eq!(connection(&a, &b), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_path_has_a_round_trip_time_after_its_first_ping() {
    for listen in TRANSPORTS {
        let keys: [Keypair; 2] = keys();
        let known = ids(&keys);
        let a = echo(config(&keys[0], &[listen]), &known).await;
        let b = echo(config(&keys[1], &[listen]), &known).await;
        a.meets(&b);

        for (node, other) in [(&a, &b), (&b, &a)] {
            let rtt = within(node.context.wait_for(|view| {
                let peer = view.peer(&other.id())?;
                peer.paths.first()?.rtt()
            }))
            .await
            .unwrap();
            assert!(
                rtt > Duration::ZERO && rtt < Duration::from_secs(3),
                "{rtt:?}"
            );
        }
    }
}

/// Three misses, of which the first is not reported, after at most one whole interval.
#[test]
fn the_defaults_close_a_silent_path_within_half_a_minute() {
    let NodeConfig {
        ping_interval,
        ping_timeout,
        ..
    } = NodeConfig::new(pluto_testkit::key());
    let latest = ping_interval + (ping_interval + ping_timeout) * (ping::MAX_FAILURES + 1);
    assert!(latest <= Duration::from_secs(30), "{latest:?}");
}

/// Two nodes that have each other only through a link, and give its silence three times this long
/// and a little more.
async fn linked(answers_within: Duration) -> (Echo, Echo, Link) {
    let keys: [Keypair; 2] = keys();
    let known = ids(&keys);
    let b = echo(watchful(&keys[1], answers_within), &known).await;
    let link = Link::to(&b.addresses[0]).await;
    let a = echo(watchful(&keys[0], answers_within), &known).await;
    a.control.book().set(b.id(), vec![link.address()]);
    for (node, other) in [(&a, &b), (&b, &a)] {
        let proven = node.context.wait_for(|view| {
            let path = view.peer(&other.id())?.paths.first()?.clone();
            path.rtt()
        });
        within(proven).await.unwrap();
    }
    (a, b, link)
}

fn watchful(key: &Keypair, answers_within: Duration) -> NodeConfig {
    let mut config = config(key, &[TCP]);
    // Without addresses from identify there is no way around the link.
    config.filter_private_addrs = true;
    config.ping_interval = Duration::from_millis(100);
    config.ping_timeout = answers_within;
    config.connection_timeout = Duration::from_millis(500);
    config
}
