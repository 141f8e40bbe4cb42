//! The examples do what they say.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

#[path = "../examples/broadcast.rs"]
#[allow(dead_code, reason = "its `main` is for the command line")]
mod broadcast;

use pluto_testkit::within;

#[tokio::test(flavor = "multi_thread")]
async fn in_the_example_each_hears_all_others() {
    let mut out = Vec::new();
    within(broadcast::run(&mut out)).await.unwrap();

    let out = String::from_utf8(out).unwrap();
    for at in 0..4 {
        for from in (0..4).filter(|from| *from != at) {
            let line = format!("{at} heard {from}: greetings from operator {from}");
            assert!(out.lines().any(|said| said == line), "{line}: {out}");
        }
    }
    assert_eq!(out.lines().count(), 12, "{out}");
}
