//! Names of peers for people to read.
//!
//! A peer id has 53 letters, and those of two peers look alike. A name has three short words, and is
//! the same wherever it is made. It is made of the hash of the peer id, so that nobody chooses it; but
//! there are only half a million, so whoever tries a few hundred thousand keys has the name of
//! somebody else. Where it matters, the peer id stands beside it.
//!
//! The words are fixed for ever: another list gives every peer another name.

use sha3::{Digest, Keccak256};

/// The name of the peer with this peer id, such as `calm-amber-heron`.
#[must_use]
pub fn peer_name(peer_id: &[u8]) -> String {
    let hash = Keccak256::digest(peer_id);
    let word = |words: &[&'static str], at: usize| words[usize::from(hash[at]) % words.len()];
    let (mood, colour, thing) = (word(&MOODS, 0), word(&COLOURS, 1), word(&THINGS, 2));
    format!("{mood}-{colour}-{thing}")
}

// Powers of two, so that all words are as frequent.
const _: () = assert!(
    MOODS.len().is_power_of_two()
        && COLOURS.len().is_power_of_two()
        && THINGS.len().is_power_of_two()
);

/// How it is.
#[rustfmt::skip]
const MOODS: [&str; 64] = [
    "able", "agile", "alert", "apt", "basic", "brave", "brief", "brisk", "busy", "calm",
    "candid", "clear", "clever", "cosy", "deft", "eager", "early", "easy", "fair", "fast",
    "fine", "firm", "fond", "frank", "free", "fresh", "gentle", "glad", "grand", "happy",
    "hardy", "honest", "humble", "jolly", "keen", "kind", "late", "light", "lively", "loyal",
    "lucky", "merry", "mild", "modest", "neat", "nimble", "noble", "patient", "polite", "prime",
    "proud", "quick", "quiet", "ready", "robust", "sharp", "shy", "silent", "smooth", "steady",
    "swift", "tidy", "warm", "wise",
];

/// What it looks like.
#[rustfmt::skip]
const COLOURS: [&str; 64] = [
    "amber", "ash", "azure", "bamboo", "beige", "birch", "black", "blue", "brass", "bronze",
    "brown", "cedar", "chalk", "cherry", "clay", "coal", "copper", "coral", "cotton", "cream",
    "crimson", "crystal", "denim", "ebony", "elm", "emerald", "flint", "glass", "gold",
    "granite", "green", "grey", "hazel", "indigo", "iron", "ivory", "jade", "khaki", "lemon",
    "lilac", "lime", "linen", "maple", "marble", "mint", "navy", "oak", "olive", "opal",
    "orange", "peach", "pearl", "pine", "pink", "plum", "red", "ruby", "rust", "sand", "silk",
    "silver", "slate", "teal", "white",
];

/// What it is.
#[rustfmt::skip]
const THINGS: [&str; 128] = [
    "acorn", "ant", "anvil", "arrow", "badger", "barge", "basin", "bay", "beach", "beacon",
    "bear", "beaver", "bee", "bell", "bench", "bison", "boat", "bridge", "brook", "cabin",
    "camel", "canal", "candle", "canoe", "cape", "cat", "cave", "clock", "cloud", "comet",
    "cove", "crane", "creek", "crow", "dawn", "deer", "delta", "dove", "dune", "eagle", "ember",
    "falcon", "fern", "ferry", "field", "finch", "fjord", "flute", "forest", "fox", "frog",
    "gate", "geyser", "glacier", "goat", "goose", "gorge", "grove", "gull", "harbor", "hare",
    "harp", "hawk", "heron", "hill", "horse", "inlet", "island", "jay", "kettle", "kite",
    "koala", "lagoon", "lake", "lamp", "lark", "lemur", "lynx", "magpie", "marsh", "meadow",
    "mill", "mole", "moon", "moose", "moth", "newt", "orbit", "orchid", "osprey", "otter",
    "owl", "panda", "path", "pebble", "pier", "pigeon", "pond", "quail", "quarry", "rabbit",
    "raven", "reef", "ridge", "river", "robin", "rook", "seal", "sloop", "snail", "sparrow",
    "spring", "squid", "star", "stork", "summit", "swan", "thrush", "tiger", "toad", "trail",
    "trout", "valley", "walrus", "wharf", "willow", "wren", "yak",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::k1;

    #[test]
    fn the_name_of_a_peer_never_changes() {
        let key = k1::SecretKey::from_bytes(&[1; 32]).unwrap();
        let peer_id = k1::peer_id_bytes(&key.public_key());
        assert_eq!(peer_name(&peer_id), "brief-jade-frog");
    }

    #[test]
    fn words_are_short_and_different() {
        let words = MOODS.iter().chain(&COLOURS).chain(&THINGS);
        let words: Vec<_> = words.collect();
        assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), words.len());
        for word in words {
            assert!((2..=8).contains(&word.len()), "{word}");
            assert!(word.bytes().all(|it| it.is_ascii_lowercase()), "{word}");
        }
    }

    #[test]
    fn peers_of_a_cluster_have_different_names() {
        let names = (0..100_u8).map(|byte| peer_name(&[byte; 39]));
        assert_eq!(names.collect::<BTreeSet<_>>().len(), 100);
    }
}
