//! Keys on disk and records: right ones, and wrong ones that are told apart.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;

use pluto_crypto::{
    enr::{self, Enr},
    k1::{self, SecretKey},
    keyfile::{self, Error},
};
use proptest::prelude::*;

#[test]
fn a_key_is_stored_once_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("below/charon-enr-private-key");
    let key = keyfile::create(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(
        text,
        hex::encode(*key.expose_bytes()),
        "64 digits, nothing else"
    );
    let read = keyfile::load(&path).unwrap();
    assert_eq!(*read.expose_bytes(), *key.expose_bytes());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let files: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(files.len(), 1, "nothing is left beside it");
}

#[test]
fn whatever_is_at_the_path_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    for content in ["", "not a key", &"ab".repeat(32)] {
        fs::write(&path, content).unwrap();
        let error = keyfile::create(&path).unwrap_err();
        assert!(matches!(error, Error::Exists { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
    fs::remove_file(&path).unwrap();
    #[cfg(unix)]
    {
        // A link to nowhere is something too.
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &path).unwrap();
        assert!(matches!(
            keyfile::create(&path).unwrap_err(),
            Error::Exists { .. }
        ));
        assert!(!dir.path().join("nowhere").exists());
    }
}

#[test]
fn wrong_key_files_are_told_apart_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let missing = keyfile::load(&path).unwrap_err();
    assert!(matches!(missing, Error::Missing { .. }));
    let secret = "7f".repeat(32);
    for (content, expected) in [
        (format!("0x{secret}"), "starts with 0x"),
        (format!("{secret}zz"), "is not hexadecimal"),
        (secret[2..].to_owned(), "62 hex digits instead of 64"),
        ("00".repeat(32), "zero or too large"),
        ("ff".repeat(32), "zero or too large"),
        ("a".repeat(5000), "is longer than"),
        (String::new(), "0 hex digits"),
    ] {
        fs::write(&path, &content).unwrap();
        let error = keyfile::load(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert!(!error.contains(&secret[..16]), "{error}");
    }
}

#[test]
fn both_forms_of_a_signature_are_read_and_a_changed_one_is_not() {
    let key = SecretKey::generate();
    let (public, digest) = (key.public_key(), [7; 32]);
    let signature = key.sign(&digest);
    assert!(signature[64] < 2);
    let mut v27 = signature;
    v27[64] += 27;
    public.verify65(&digest, &v27).unwrap();
    let mut v2 = signature;
    v2[64] = 2;
    assert_eq!(
        public.verify65(&digest, &v2),
        Err(k1::Error::InvalidRecoveryId { v: 2 })
    );
    let mut flipped = signature;
    flipped[40] ^= 1;
    assert!(public.verify65(&digest, &flipped).is_err());
    assert!(public.verify65(&[8; 32], &signature).is_err());
    assert_eq!(format!("{key:?}"), "k1::SecretKey(..)");
}

#[test]
fn a_record_with_a_bad_signature_is_refused() {
    let text = Enr::for_key(&SecretKey::generate()).text().to_owned();
    assert_eq!(text.len(), 163);
    // The signature's bytes stand right behind the head.
    let mut bad = text.clone().into_bytes();
    bad[20] = if bad[20] == b'A' { b'B' } else { b'A' };
    let error = Enr::parse(std::str::from_utf8(&bad).unwrap()).unwrap_err();
    assert!(matches!(error, enr::Error::Signature(_)), "{error}");
    assert_eq!(Enr::parse(&text[1..]), Err(enr::Error::NoPrefix));
    assert_eq!(Enr::parse("enr:ä"), Err(enr::Error::NotBase64));
    assert!(Enr::parse(&text[..100]).is_err());
    let long = format!("enr:{}", "A".repeat(100_000));
    assert!(matches!(Enr::parse(&long), Err(enr::Error::TooLong { .. })));
}

proptest! {
    #[test]
    fn no_text_makes_the_record_parser_panic(text in "(enr:)?[-A-Za-z0-9_=\n]{0,300}") {
        let _ = Enr::parse(&text);
    }
}
