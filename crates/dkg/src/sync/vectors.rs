//! Frames recorded from live Charons (`PLUTO_VECTORS`, or `../shared/vectors` beside the checkout).

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

use std::{
    env, fs,
    io::{self, Write as _},
    path::PathBuf,
    time::{Duration, Instant, UNIX_EPOCH},
};

use futures::io::Cursor;
use libp2p::identity::{Keypair, secp256k1};
use pluto_p2p::p2p_context::Identified;
use serde_json::Value;

use super::{
    core::{Core, Heard, Rules, Tell, Verdict},
    reason::Step,
    version::{CharonVersion, Kind, Who},
    wire::{self, Fixed},
    *,
};
use crate::{
    bcast::Generation,
    pb::{MsgSync, MsgSyncResponse},
};

#[test]
fn definition_hashes_are_signed_as_recorded() {
    let Some(suite) = suite("sync.json") else {
        return;
    };
    for case in suite["hash_signatures"].as_array().unwrap() {
        let key = key(&case["input"]["private_key"]);
        let hash = hash(&case["input"]["definition_hash"]);
        let peer = key.public().to_peer_id();
        assert_eq!(peer.to_string(), text(&case["peer_id"]));
        let signature = key.sign(&hash).unwrap();
        assert_eq!(hex::encode(&signature), text(&case["hash_signature"]));
        assert_eq!(wire::verify(&peer, &hash, &signature), Ok(()));
        let mut other = hash;
        other[0] ^= 1;
        assert_eq!(
            wire::verify(&peer, &other, &signature),
            Err(SignatureFault::Mismatch)
        );
    }
}

#[tokio::test]
async fn every_frame_of_a_ceremony_is_written_and_read_byte_for_byte() {
    let Some(suite) = suite("sync.json") else {
        return;
    };
    let mut compared = 0;
    for case in suite["ceremony"].as_array().unwrap() {
        let key = key(&case["input"]["private_key"]);
        let hash = hash(&case["input"]["definition_hash"]);
        for exchange in case["exchanges"].as_array().unwrap() {
            let request = &exchange["request"];
            let fixed = Fixed {
                signature: key.sign(&hash).unwrap().into(),
                nickname: text(&request["nickname"]).to_owned(),
            };
            let tell = Tell {
                version: None,
                step: Step(u32::try_from(request["step"].as_i64().unwrap()).unwrap()),
                shutdown: request["shutdown"].as_bool().unwrap(),
            };
            let version: CharonVersion = text(&request["version"]).parse().unwrap();
            let stamp = &request["timestamp"];
            let now = UNIX_EPOCH
                + Duration::new(
                    stamp["seconds"].as_u64().unwrap(),
                    u32::try_from(stamp["nanos"].as_u64().unwrap()).unwrap(),
                );
            let message = fixed.message(&tell, version.as_str(), now);
            assert_eq!(
                hex::encode(wire::frame(&message)),
                text(&exchange["request_frame"])
            );
            let read: MsgSync = read(&exchange["request_frame"]).await.unwrap();
            assert_eq!(read, message);

            let answer = wire::response(&message, String::new());
            assert_eq!(
                hex::encode(wire::frame(&answer)),
                text(&exchange["response_frame"])
            );
            let read: MsgSyncResponse = self::read(&exchange["response_frame"]).await.unwrap();
            assert_eq!(read, answer);
            compared += 1;
        }
    }
    assert!(compared > 50, "{compared}");
}

#[tokio::test]
async fn a_server_judges_every_recorded_session_as_charon_does() {
    let Some(suite) = suite("sync.json") else {
        return;
    };
    for case in suite["sessions"].as_array().unwrap() {
        let name = format!("{} ({})", text(&case["name"]), text(&case["charon"]));
        let input = &case["input"];
        let key = key(&input["client_private_key"]);
        let peer = key.public().to_peer_id();
        let hash = hash(&input["definition_hash"]);
        let rules = Rules {
            version: Some(text(&input["server_version"]).parse().unwrap()),
            peer_grace: PEER_GRACE,
            silence: SILENCE,
        };
        let mut core = Core::new(rules, [peer]);
        let stream = core.on_stream(peer).unwrap();
        let mut closed = false;
        for exchange in case["exchanges"].as_array().unwrap() {
            let request = &exchange["request"];
            if request.is_null() {
                assert!(
                    read::<MsgSync>(&exchange["request_frame"]).await.is_err(),
                    "{name}"
                );
                closed = true;
                continue;
            }
            let message: MsgSync = read(&exchange["request_frame"]).await.unwrap();
            assert_eq!(message, self::request(request), "{name}");
            assert_eq!(
                hex::encode(wire::frame(&message)),
                text(&exchange["request_frame"]),
                "{name}"
            );
            if closed {
                assert!(exchange["response_frame"].is_null(), "{name}");
                continue;
            }
            let had_ended = core.progress().ended.is_some();
            let heard = Heard {
                version: &message.version,
                signature: wire::verify(&peer, &hash, &message.hash_signature),
                step: message.step,
                shutdown: message.shutdown,
            };
            let Verdict::Answer { error, close } =
                core.on_message(peer, stream, heard, Instant::now())
            else {
                panic!("{name}: superseded");
            };
            let answer = hex::encode(wire::frame(&wire::response(&message, error.clone())));
            if had_ended {
                // Charon judges each message anew. Here the ceremony has ended, and all are told.
                assert!(!error.is_empty(), "{name}");
            } else if exchange["response_frame"].is_null() {
                // v1.10 ends the stream without a word and waits for ever; we say what is wrong.
                assert_eq!(text(&case["charon"]), "v1.10.3", "{name}");
                assert!(
                    close && error.contains("inconsistent peer sync state"),
                    "{name}"
                );
            } else {
                assert_eq!(answer, text(&exchange["response_frame"]), "{name}");
            }
            closed = close;
        }
        if closed {
            core.on_stream_ended(peer, stream);
        }
        assert_eq!(
            closed,
            case["server_closes_stream"].as_bool().unwrap(),
            "{name}"
        );
        let progress = core.progress();
        let is_fatal = case["fatal"].as_bool().unwrap();
        let step_in_v1_10 = text(&case["charon"]) == "v1.10.3" && name.contains("step ");
        if !step_in_v1_10 || is_fatal {
            assert_eq!(progress.ended.is_some(), is_fatal, "{name}");
        }
        if progress.ended.is_none() {
            let state = &progress.peers[0];
            let counted = |field: &str| case[field].as_bool().unwrap();
            assert_eq!(
                state.speaks,
                counted("peer_counted_as_connected_at_end"),
                "{name}"
            );
            assert_eq!(
                state.shutdown,
                counted("peer_counted_as_shut_down"),
                "{name}"
            );
        } else {
            // Charon counts whoever says so, whatever else is wrong.
            assert!(!progress.peers[0].shutdown, "{name}");
        }
    }
}

#[test]
fn identify_tells_version_and_broadcast_of_every_recorded_node() {
    let Some(suite) = suite("identify.json") else {
        return;
    };
    let mut ceremonies = 0;
    for case in suite["cases"].as_array().unwrap() {
        let protocols: Vec<_> = case["protocols"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|id| StreamProtocol::try_from_owned(text(id).to_owned()).ok())
            .collect();
        let serves_sync = protocols.contains(&PROTOCOL);
        let told = Identified {
            agent: text(&case["agent_version"]).to_owned(),
            protocols,
        };
        let who = Who::from_identify(&told);
        let (version, broadcast) = match text(&case["charon"]) {
            "v1.10.3" => (CharonVersion::V1_10, Generation::V1),
            _ => (CharonVersion::V1_11, Generation::V2),
        };
        assert_eq!(who.kind, Kind::Charon(version), "{}", case["name"]);
        if serves_sync {
            assert_eq!(who.broadcasts, [broadcast], "{}", case["name"]);
            ceremonies += 1;
        }
    }
    assert!(ceremonies >= 2);
}

async fn read<M: prost::Message + Default>(frame: &Value) -> Result<M, pluto_p2p::proto::Error> {
    let bytes = hex::decode(text(frame)).unwrap();
    wire::read(&mut Cursor::new(bytes), Duration::from_secs(1)).await
}

fn request(request: &Value) -> MsgSync {
    let stamp = &request["timestamp"];
    MsgSync {
        timestamp: (!stamp.is_null()).then(|| prost_types::Timestamp {
            seconds: stamp["seconds"].as_i64().unwrap(),
            nanos: i32::try_from(stamp["nanos"].as_i64().unwrap()).unwrap(),
        }),
        hash_signature: hex::decode(text(&request["hash_signature"]))
            .unwrap()
            .into(),
        shutdown: request["shutdown"].as_bool().unwrap(),
        version: text(&request["version"]).to_owned(),
        step: request["step"].as_i64().unwrap(),
        nickname: text(&request["nickname"]).to_owned(),
    }
}

fn key(hex: &Value) -> Keypair {
    let secret = secp256k1::SecretKey::try_from_bytes(hex::decode(text(hex)).unwrap()).unwrap();
    secp256k1::Keypair::from(secret).into()
}

fn hash(hex: &Value) -> [u8; 32] {
    hex::decode(text(hex)).unwrap().try_into().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Without the vectors, says so and gives nothing.
fn suite(name: &str) -> Option<Value> {
    let dir = env::var_os("PLUTO_VECTORS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"),
        PathBuf::from,
    );
    let path = dir.join("charon").join(name);
    match fs::read(&path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
        Err(error) => {
            // Not through `eprintln`, which the test harness would swallow.
            let _ = writeln!(
                io::stderr(),
                "skipped, because {} cannot be read: {error}",
                path.display()
            );
            None
        }
    }
}
