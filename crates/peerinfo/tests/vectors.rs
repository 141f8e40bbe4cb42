//! Frames recorded from a live Charon.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    env, fs,
    io::{self, Write as _},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pluto_p2p::proto::Frame;
use pluto_peerinfo::{Info, Local};
use serde_json::Value;

#[test]
fn recorded_frames_are_written_and_read_byte_for_byte() {
    let Some(suite) = suite() else { return };
    let mut compared = 0;
    for case in suite["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        for (side, frame) in [("request", "request_frame"), ("response", "response_frame")] {
            let Some(recorded) = case[frame].as_str().map(|hex| hex::decode(hex).unwrap()) else {
                continue;
            };
            let message = &case[side];
            if message["sent_at"].is_null() {
                continue; // An empty request.
            }
            let local = Local {
                version: text(&message["charon_version"]),
                lock_hash: hex::decode(text(&message["lock_hash"])).unwrap().into(),
                git_hash: text(&message["git_hash"]),
                started_at: time(&message["started_at"]),
                builder_api: message["builder_api_enabled"].as_bool().unwrap(),
                nickname: text(&message["nickname"]),
                dv_client: text(&message["dv_client"]),
            };
            let sent_at = time(&message["sent_at"]);
            let written = match side {
                "request" => local.question(sent_at),
                _ => local.answer(sent_at),
            };
            assert_eq!(
                hex::encode(written.as_bytes()),
                hex::encode(&recorded),
                "{name}, {side}"
            );
            let info = Info::decode(&written.body()).unwrap();
            assert_eq!(info.sent_at, sent_at, "{name}");
            assert_eq!(info.nickname, local.nickname, "{name}");
            assert_eq!(info.lock_hash, local.lock_hash, "{name}");
            let client = match &local.dv_client[..] {
                "" => "charon",
                named => named,
            };
            assert_eq!(info.dv_client, client, "{name}");
            compared += 1;
        }
    }
    assert!(compared > 5, "only {compared} frames were compared");
    assert_eq!(Frame::from_body(b"").as_bytes(), b"\0");
}

fn suite() -> Option<Value> {
    let dir = env::var_os("PLUTO_VECTORS").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../../shared/vectors"
            ))
        },
        PathBuf::from,
    );
    let path = dir.join("charon/peerinfo.json");
    match fs::read(&path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
        Err(error) => {
            // Not through `println`, which the test harness would swallow.
            let _ = writeln!(
                io::stderr(),
                "skipped: no vectors at {}: {error}",
                path.display()
            );
            None
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn time(value: &Value) -> SystemTime {
    UNIX_EPOCH
        + Duration::new(
            value["seconds"].as_u64().unwrap(),
            value["nanos"].as_u64().unwrap().try_into().unwrap(),
        )
}
