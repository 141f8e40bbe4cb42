//! What live Charons sent, and what they took.

use prost::Message;

use super::*;
use crate::bcast::vectors::{array, array32, bytes, peer_id, read, secret, signature, text};

#[test]
fn the_signatures_of_ceremonies_are_charons() {
    let Some(file) = read("nodesigs", "charon_nodesigs") else {
        return;
    };
    for case in array(&file["cases"]) {
        let lock_hash = array32(&case["input"]["lock_hash"]);
        let of_lock = array(&case["lock_node_signatures"]);
        for (node, of_lock) in array(&case["nodes"]).iter().zip(of_lock) {
            let (key, idx) = (secret(&node["private_key"]), idx(&node["peer_index"]));
            assert_eq!(
                peer_id(&key.public_key()).to_string(),
                text(&node["peer_id"])
            );
            let signed = key.sign(&lock_hash);
            assert_eq!(signed, signature(&node["signature"]));
            assert_eq!(signed, signature(of_lock));
            let message = message(idx, Some(signed));
            assert_eq!(message.encode_to_vec(), bytes(&node["message"]));
            assert_eq!(check(idx, &message), Ok(()));
            let verified = verify(&key.public_key(), &lock_hash, &message);
            assert_eq!(verified, Ok(Some(signed)));
        }
    }
    for case in array(&file["markers"]) {
        let message = message(idx(&case["peer_index"]), None);
        assert_eq!(message.encode_to_vec(), bytes(&case["message"]));
    }
}

#[test]
fn messages_are_taken_and_refused_as_by_charon() {
    let Some(file) = read("nodesigs", "charon_nodesigs") else {
        return;
    };
    for case in array(&file["receptions"]) {
        let input = &case["input"];
        let keys: Vec<_> = array(&input["private_keys"]).iter().map(secret).collect();
        let sender = idx(&input["sender_index"]);
        let message = pb::MsgNodeSig::decode(&bytes(&case["message"])[..]).unwrap();
        let own = match input["local_lock_hash"].as_str() {
            // Charon drops it after a minute; here it waits for the lock hash.
            None => continue,
            Some("deadbeef") => Own::Leave,
            Some(_) => Own::Sign(array32(&input["local_lock_hash"])),
        };
        let key = keys[sender.as_usize()].public_key();
        let taken = check(sender, &message)
            .is_ok()
            .then(|| read_from(&key, own, &message));
        let taken = taken.and_then(Result::ok);
        let expected = case["accepted"].as_bool().unwrap().then(|| {
            let stored = bytes(&case["stored_signature"]);
            (stored != NO_SIGNATURE).then(|| Signature::try_from(stored).unwrap())
        });
        assert_eq!(taken, expected, "{}", case["name"]);
    }
}

#[test]
fn a_message_for_another_place_is_not_signed() {
    let idx = |at| PeerIdx::new(at).unwrap();
    let sent = message(idx(3), None);
    assert_eq!(check(idx(3), &sent), Ok(()));
    let (sender, claimed) = (idx(2), 3);
    assert_eq!(
        check(sender, &sent),
        Err(Malformed::OtherPlace { sender, claimed })
    );
}

fn idx(value: &serde_json::Value) -> PeerIdx {
    PeerIdx::new(u32::try_from(value.as_u64().unwrap()).unwrap()).unwrap()
}
