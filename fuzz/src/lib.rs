//! What has to hold for any bytes that stand in a file.
//!
//! The fuzz targets call these with bytes of libFuzzer's; the tests of `pluto-cluster` call the same
//! with mutated files.

use pluto_cluster::{Definition, LockFile, Verifier};
use pluto_crypto::enr::Enr;
use pluto_eth::keystore::Keystore;

/// A definition is read or refused, can be judged, and is the same when it is written and read again.
pub fn definition(data: &[u8]) {
    let Ok(definition) = Definition::from_json(data) else {
        return;
    };
    let _ = definition.members();
    let _ = definition.usable_threshold();
    for finding in Verifier::new().definition(&definition) {
        assert!(!finding.problem.to_string().is_empty());
        assert!(!finding.advice().is_empty());
    }
    // What cannot be hashed is not written.
    if let Ok(json) = definition.to_json() {
        let again = Definition::from_json(&json).expect("what is written is read");
        assert_eq!(again.to_json().expect("it was hashed before"), json);
    }
}

/// As [`definition`], for a lock.
pub fn lock(data: &[u8]) {
    let Ok(lock) = LockFile::from_json(data) else {
        return;
    };
    for finding in Verifier::new().lock(&lock) {
        assert!(!finding.problem.to_string().is_empty());
        assert!(!finding.advice().is_empty());
    }
    if let Ok(json) = lock.to_json() {
        let again = LockFile::from_json(&json).expect("what is written is read");
        assert_eq!(again.to_json().expect("it was hashed before"), json);
    }
}

/// An ENR is read or refused, and its text names the same key.
pub fn enr(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(enr) = Enr::parse(text) {
        let again = Enr::parse(enr.text()).expect("it was read before");
        assert_eq!(again.public_key(), enr.public_key());
    }
}

/// A keystore is read or refused, and is the same when it is written and read again.
///
/// It is not opened: that takes as long as its parameters say, within their bounds.
pub fn keystore(data: &[u8]) {
    let Ok(keystore) = Keystore::from_json(data) else {
        return;
    };
    let json = keystore.to_json();
    let again = Keystore::from_json(&json).expect("what is written is read");
    assert_eq!(again.to_json(), json);
    assert_eq!(again.public_key(), keystore.public_key());
}
