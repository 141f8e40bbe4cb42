//! Crypto crates stand in the lock file once: two copies have types that do not fit together.

#[test]
fn each_crypto_crate_has_one_copy() {
    let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock");
    let lock = std::fs::read_to_string(lock).unwrap();
    for name in [
        "k256",
        "blst",
        "libp2p-identity",
        "prometheus-client",
        "libp2p-swarm",
    ] {
        let copies = lock.matches(&format!("name = \"{name}\"\n")).count();
        assert!(copies == 1, "{copies} copies of {name}");
    }
}
