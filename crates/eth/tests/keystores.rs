//! Keystores: EIP-2335's own vectors, bad input, bounds, and what we write.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{collections::BTreeSet, num::NonZeroUsize};

use pluto_crypto::bls::SecretKey;
use pluto_eth::{
    json,
    keystore::{
        Cost, DecryptError, Derivations, Keystore, MAX_AHEAD, MAX_FILE_BYTES, ParseError, Password,
        Sealed, decrypt_all, encrypt_all,
    },
    threads,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The password, secret and public key of EIP-2335's test vectors.
const EIP_PASSWORD: &str = "𝔱𝔢𝔰𝔱𝔭𝔞𝔰𝔰𝔴𝔬𝔯𝔡🔑";
const EIP_SECRET: &str = "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f";
const EIP_PUBLIC_KEY: &str = "9612d7a727c9d0a22e185a1c768478dfe919cada9266988cb32359c11f2b7b27\
                              f4ae4040902382ae2910c15e2b420d07";

fn eip_scrypt() -> Value {
    json!({
        "crypto": {
            "kdf": {
                "function": "scrypt",
                "params": {
                    "dklen": 32,
                    "n": 262_144,
                    "p": 1,
                    "r": 8,
                    "salt": "d4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3"
                },
                "message": ""
            },
            "checksum": {
                "function": "sha256",
                "params": {},
                "message": "d2217fe5f3e9a1e34581ef8a78f7c9928e436d36dacc5e846690a5581e8ea484"
            },
            "cipher": {
                "function": "aes-128-ctr",
                "params": { "iv": "264daa3f303d7259501c93d997d84fe6" },
                "message": "06ae90d55fe0a6e9c5c3bc5b170827b2e5cce3929ed3f116c2811e6366dfe20f"
            }
        },
        "description": "This is a test keystore that uses scrypt to secure the secret.",
        "pubkey": EIP_PUBLIC_KEY,
        "path": "m/12381/60/3141592653/589793238",
        "uuid": "1d85ae20-35c5-4611-98e8-aa14a633906f",
        "version": 4
    })
}

fn eip_pbkdf2() -> Value {
    json!({
        "crypto": {
            "kdf": {
                "function": "pbkdf2",
                "params": {
                    "dklen": 32,
                    "c": 262_144,
                    "prf": "hmac-sha256",
                    "salt": "d4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3"
                },
                "message": ""
            },
            "checksum": {
                "function": "sha256",
                "params": {},
                "message": "8a9f5d9912ed7e75ea794bc5a89bca5f193721d30868ade6f73043c6ea6febf1"
            },
            "cipher": {
                "function": "aes-128-ctr",
                "params": { "iv": "264daa3f303d7259501c93d997d84fe6" },
                "message": "cee03fde2af33149775b7223e7845e4fb2c8ae1792e5f99fe9ecf474cc8c16ad"
            }
        },
        "description": "This is a test keystore that uses PBKDF2 to secure the secret.",
        "pubkey": EIP_PUBLIC_KEY,
        "path": "m/12381/60/0/0",
        "uuid": "64625def-3331-4eea-ab6f-782f3ed16a83",
        "version": 4
    })
}

#[test]
fn vectors_of_eip_2335_open() {
    for (name, value) in [("scrypt", eip_scrypt()), ("pbkdf2", eip_pbkdf2())] {
        let keystore = parse(&value).unwrap();
        let secret = keystore.decrypt(&Password::from(EIP_PASSWORD)).unwrap();

        assert_eq!(hex::encode(*secret.to_bytes()), EIP_SECRET, "{name}");
        assert_eq!(
            hex::encode(keystore.public_key().unwrap()),
            hex::encode(secret.public_key().to_bytes())
        );
        assert_eq!(parse_text(&keystore.to_json()).unwrap(), keystore);
    }
}

#[test]
fn wrong_password_is_told_apart_from_a_wrong_key() {
    let keystore = parse(&eip_pbkdf2()).unwrap();
    assert_eq!(
        keystore.decrypt(&Password::from("testpassword")).err(),
        Some(DecryptError::WrongPassword)
    );

    let other = "80e78f779d6976d398de2d490a7ffb47a147161bb2f6ece3bff5b8dfe24f46b8\
                 35eb56fa6579af6380b0813b8fad02df";
    let mut last_digit = EIP_PUBLIC_KEY.to_owned();
    let last = last_digit.pop();
    last_digit.push(if last == Some('0') { '1' } else { '0' });
    let mut value = eip_pbkdf2();
    for stated in [other, &last_digit] {
        value["pubkey"] = json!(stated);
        assert_eq!(
            parse(&value)
                .unwrap()
                .decrypt(&Password::from(EIP_PASSWORD))
                .err(),
            Some(DecryptError::OtherKey {
                stated: stated.to_owned(),
                actual: EIP_PUBLIC_KEY.to_owned(),
            })
        );
    }

    // Without a public key there is nothing to compare with.
    value["pubkey"] = json!("");
    let keystore = parse(&value).unwrap();
    assert_eq!(keystore.public_key(), None);
    assert!(keystore.decrypt(&Password::from(EIP_PASSWORD)).is_ok());
}

#[test]
fn a_flipped_bit_does_not_open() {
    let secret = SecretKey::generate();
    let password = Password::generate();
    let value: Value =
        serde_json::from_slice(&Keystore::encrypt(&secret, &password, Cost::Insecure).to_json())
            .unwrap();
    for pointer in [
        "/crypto/kdf/params/salt",
        "/crypto/checksum/message",
        "/crypto/cipher/message",
    ] {
        let mut value = value.clone();
        flip_bit(value.pointer_mut(pointer).unwrap());
        assert_eq!(
            parse(&value).unwrap().decrypt(&password).err(),
            Some(DecryptError::WrongPassword),
            "{pointer}"
        );
    }
    // The checksum covers the ciphertext and not the initialisation vector; the public key tells.
    for pointer in ["/crypto/cipher/params/iv", "/pubkey"] {
        let mut value = value.clone();
        flip_bit(value.pointer_mut(pointer).unwrap());
        let error = parse(&value).unwrap().decrypt(&password).err().unwrap();
        assert!(
            matches!(
                error,
                DecryptError::OtherKey { .. } | DecryptError::NotAKey { .. }
            ),
            "{pointer}: {error}"
        );
    }
}

#[test]
fn what_is_written_is_what_charon_writes() {
    let secret = SecretKey::generate();
    let keystore = Keystore::encrypt(&secret, &Password::from("x"), Cost::Insecure);
    let text = String::from_utf8(keystore.to_json()).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    let at = |pointer| value.pointer(pointer).unwrap().as_str().unwrap();

    let expected = format!(
        r#"{{
 "crypto": {{
  "checksum": {{
   "function": "sha256",
   "message": "{}",
   "params": {{}}
  }},
  "cipher": {{
   "function": "aes-128-ctr",
   "message": "{}",
   "params": {{
    "iv": "{}"
   }}
  }},
  "kdf": {{
   "function": "pbkdf2",
   "message": "",
   "params": {{
    "c": 16,
    "dklen": 32,
    "prf": "hmac-sha256",
    "salt": "{}"
   }}
  }}
 }},
 "description": "",
 "pubkey": "{}",
 "path": "m/12381/3600/0/0/0",
 "uuid": "{}",
 "version": 4
}}"#,
        at("/crypto/checksum/message"),
        at("/crypto/cipher/message"),
        at("/crypto/cipher/params/iv"),
        at("/crypto/kdf/params/salt"),
        hex::encode(secret.public_key().to_bytes()),
        at("/uuid"),
    );
    assert_eq!(text, expected);
    assert_eq!(at("/crypto/kdf/params/salt").len(), 64);
    let groups: Vec<_> = at("/uuid").split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12]);
    assert_eq!(at("/uuid"), at("/uuid").to_uppercase());
}

#[test]
fn secure_keystores_have_the_rounds_of_the_standard() {
    let secret = SecretKey::generate();
    let sealed = encrypt_all(&[secret], Cost::Secure, threads(), |_| ());
    let value: Value = serde_json::from_slice(&sealed[0].keystore.to_json()).unwrap();

    assert_eq!(value["crypto"]["kdf"]["params"]["c"], 262_144);
    assert_eq!(sealed[0].password.expose().len(), 32);
}

#[test]
fn derivations_serve_as_many_keys_as_are_asked_for() {
    // None, one alone, a pair and one, more than may wait, and fewer than are wanted in the end.
    for (count, wanted) in [
        (0, 1),
        (1, 1),
        (3, 3),
        (MAX_AHEAD + 3, MAX_AHEAD + 3),
        (2, 5),
    ] {
        let mut derivations = Derivations::start(count, Cost::Insecure, threads());
        let secret = SecretKey::generate();
        let sealed = (0..wanted).map(|_| derivations.seal(&secret));
        let mut passwords = BTreeSet::new();
        for sealed in sealed {
            passwords.insert(sealed.password.expose().to_owned());
            let opened = sealed.keystore.decrypt(&sealed.password).unwrap();
            assert_eq!(opened.to_bytes(), secret.to_bytes());
        }
        assert_eq!(passwords.len(), wanted);
    }
}

#[test]
fn derivations_that_nobody_takes_end_when_they_are_dropped() {
    // Some would wait for ever for a place.
    drop(Derivations::start(3 * MAX_AHEAD, Cost::Insecure, threads()));
    // And none begins another one: all of these would take hours.
    drop(Derivations::start(usize::MAX, Cost::Secure, threads()));
}

#[test]
fn each_key_has_its_own_salt_vector_and_password() {
    let secret = SecretKey::generate();
    let sealed = encrypt_all(&[secret.clone(), secret], Cost::Insecure, threads(), |_| ());
    let values: Vec<Value> = sealed
        .iter()
        .map(|sealed| serde_json::from_slice(&sealed.keystore.to_json()).unwrap())
        .collect();

    for pointer in [
        "/crypto/kdf/params/salt",
        "/crypto/cipher/params/iv",
        "/crypto/cipher/message",
        "/uuid",
    ] {
        assert_ne!(values[0].pointer(pointer), values[1].pointer(pointer));
    }
    assert_ne!(sealed[0].password, sealed[1].password);
    assert_eq!(values[0]["pubkey"], values[1]["pubkey"]);
}

#[test]
fn keystores_of_all_kinds_open_together_and_in_order() {
    let secrets: Vec<_> = (0..6).map(|_| SecretKey::generate()).collect();
    let mut sealed = encrypt_all(&secrets, Cost::Insecure, threads(), |_| ());
    let eip = |value: &Value, password| Sealed {
        keystore: parse(value).unwrap(),
        password: Password::from(password),
    };
    let long = with(&eip_pbkdf2(), "/crypto/kdf/params/dklen", json!(64));
    sealed.insert(1, eip(&eip_scrypt(), EIP_PASSWORD));
    sealed.insert(3, eip(&eip_pbkdf2(), EIP_PASSWORD));
    sealed.insert(4, eip(&eip_pbkdf2(), "wrong"));
    sealed.insert(7, eip(&long, EIP_PASSWORD));

    for threads in [1, 2, 16] {
        let threads = NonZeroUsize::new(threads).unwrap();
        let mut progress = Vec::new();
        let opened = decrypt_all(&sealed, threads, |done| progress.push(done));

        assert!(progress.is_sorted());
        assert_eq!(progress.last(), Some(&sealed.len()));
        assert_eq!(opened.len(), sealed.len());
        for (at, (opened, sealed)) in opened.iter().zip(&sealed).enumerate() {
            if at == 4 {
                assert_eq!(opened.as_ref().err(), Some(&DecryptError::WrongPassword));
            } else {
                let key = opened.as_ref().unwrap().public_key().to_bytes();
                assert_eq!(Some(key), sealed.keystore.public_key(), "{at}");
            }
        }
    }
}

#[test]
fn debug_shows_neither_key_nor_password() {
    let secret = SecretKey::generate();
    let sealed = encrypt_all(
        std::slice::from_ref(&secret),
        Cost::Insecure,
        threads(),
        |_| (),
    );

    let shown = format!("{sealed:?}");

    assert!(!shown.contains(sealed[0].password.expose()));
    assert!(!shown.contains(&hex::encode(*secret.to_bytes())));
    assert!(shown.contains(&hex::encode(secret.public_key().to_bytes())));
}

/// What each field may be, in the order it is looked at, and what is said when it is not.
#[test]
fn bad_fields_are_refused_by_name() {
    let path = |pointer: &str| pointer[1..].replace('/', ".");
    let pbkdf2 = eip_pbkdf2();
    let scrypt = eip_scrypt();
    let texts = [
        (&pbkdf2, "/crypto/kdf/function"),
        (&pbkdf2, "/crypto/kdf/params/prf"),
        (&pbkdf2, "/crypto/kdf/params/salt"),
        (&pbkdf2, "/crypto/checksum/function"),
        (&pbkdf2, "/crypto/checksum/message"),
        (&pbkdf2, "/crypto/cipher/function"),
        (&pbkdf2, "/crypto/cipher/params/iv"),
        (&pbkdf2, "/crypto/cipher/message"),
    ];
    let numbers = [
        (&pbkdf2, "/version"),
        (&pbkdf2, "/crypto/kdf/params/c"),
        (&pbkdf2, "/crypto/kdf/params/dklen"),
        (&scrypt, "/crypto/kdf/params/dklen"),
        (&scrypt, "/crypto/kdf/params/n"),
        (&scrypt, "/crypto/kdf/params/r"),
        (&scrypt, "/crypto/kdf/params/p"),
    ];
    let objects = [
        (&pbkdf2, "/crypto"),
        (&pbkdf2, "/crypto/kdf"),
        (&pbkdf2, "/crypto/kdf/params"),
        (&pbkdf2, "/crypto/checksum"),
        (&pbkdf2, "/crypto/cipher"),
        (&pbkdf2, "/crypto/cipher/params"),
    ];
    for (base, pointer) in texts.iter().chain(&numbers).chain(&objects) {
        let missing = field_error(&without(base, pointer));
        assert_eq!(
            missing,
            json::Error::Missing {
                path: path(pointer)
            }
        );
    }
    let wrong_types = [
        (
            texts.as_slice(),
            vec![Value::Null, json!(1), json!([]), json!({}), json!(true)],
        ),
        (
            numbers.as_slice(),
            vec![
                Value::Null,
                json!("1"),
                json!(-1),
                json!(1.5),
                json!(1e3),
                json!([]),
            ],
        ),
    ];
    for (fields, values) in wrong_types {
        for (base, pointer) in fields {
            for value in &values {
                let error = field_error(&with(base, pointer, value.clone()));
                assert!(
                    matches!(&error, json::Error::WrongType { path: at, .. } if *at == path(pointer)),
                    "{pointer} {value}: {error}"
                );
            }
        }
    }
    for (base, pointer) in objects {
        for value in [Value::Null, json!(1), json!("x"), json!([])] {
            let error = field_error(&with(base, pointer, value));
            let at = path(pointer);
            assert!(matches!(&error, json::Error::WrongType { path, .. } if *path == at));
        }
    }
}

#[test]
fn bad_hex_and_lengths_are_refused_by_name() {
    let base = eip_pbkdf2();
    let cases = [
        ("/crypto/checksum/message", 32),
        ("/crypto/cipher/message", 32),
        ("/crypto/cipher/params/iv", 16),
        ("/pubkey", 48),
    ];
    for (pointer, expected) in cases {
        let path = pointer[1..].replace('/', ".");
        for digits in ["0", "0g", "zz", "0x0x00"] {
            let error = field_error(&with(&base, pointer, json!(digits)));
            assert_eq!(error, json::Error::NotHex { path: path.clone() });
        }
        for found in [1, expected - 1, expected + 1] {
            let digits = "00".repeat(found);
            let error = field_error(&with(&base, pointer, json!(digits)));
            let path = path.clone();
            assert_eq!(
                error,
                json::Error::WrongLength {
                    path,
                    expected,
                    found
                }
            );
        }
    }
    let error = field_error(&with(&base, "/crypto/cipher/message", json!("")));
    assert!(matches!(error, json::Error::WrongLength { found: 0, .. }));
    let error = field_error(&with(&base, "/crypto/kdf/params/salt", json!("0g")));
    assert!(matches!(error, json::Error::NotHex { .. }));
}

#[test]
fn other_functions_and_versions_are_refused_by_name() {
    let base = eip_pbkdf2();
    let cases = [
        ("/version", json!(3), "4"),
        ("/version", json!(5), "4"),
        (
            "/crypto/kdf/function",
            json!("argon2id"),
            "pbkdf2 or scrypt",
        ),
        ("/crypto/kdf/function", json!("PBKDF2"), "pbkdf2 or scrypt"),
        (
            "/crypto/kdf/params/prf",
            json!("hmac-sha512"),
            "hmac-sha256",
        ),
        (
            "/crypto/cipher/function",
            json!("aes-256-ctr"),
            "aes-128-ctr",
        ),
        ("/crypto/checksum/function", json!("sha512"), "sha256"),
    ];
    for (pointer, value, supported) in cases {
        let path = pointer[1..].replace('/', ".");
        let error = field_error(&with(&base, pointer, value));
        assert_eq!(error, json::Error::Unsupported { path, supported });
    }
}

#[test]
fn bounds_of_the_key_derivation_are_checked_before_time_is_spent() {
    let (pbkdf2, scrypt) = (eip_pbkdf2(), eip_scrypt());
    let refused = |base: &Value, field: &str, value: u64| {
        let pointer = format!("/crypto/kdf/params/{field}");
        let error = field_error(&with(base, &pointer, json!(value)));
        assert!(
            matches!(&error, json::Error::OutOfRange { path, .. } if path.ends_with(field)),
            "{field} {value}: {error}"
        );
    };
    let accepted = |base: &Value, field: &str, value: u64| {
        let pointer = format!("/crypto/kdf/params/{field}");
        assert!(
            parse(&with(base, &pointer, json!(value))).is_ok(),
            "{field} {value}"
        );
    };
    for (field, values) in [
        ("c", [0, (1 << 24) + 1, 1 << 32, u64::MAX]),
        ("dklen", [0, 31, 65, u64::MAX]),
    ] {
        values
            .iter()
            .for_each(|value| refused(&pbkdf2, field, *value));
    }
    for (field, values) in [("c", [1, 16, 1 << 24]), ("dklen", [32, 33, 64])] {
        values
            .iter()
            .for_each(|value| accepted(&pbkdf2, field, *value));
    }
    for (field, values) in [
        ("dklen", [0, 31, 65, 1 << 32, u64::MAX]),
        // With r = 8 a table of 1 GiB has 2^20 rows.
        ("n", [0, 1, 3, (1 << 20) + 1, 1 << 21]),
        ("n", [6, 1 << 32, 1 << 63, u64::MAX, 262_143]),
        ("p", [0, 17, 1 << 30, 1 << 32, u64::MAX]),
        ("r", [0, 131_073, 1 << 25, 1 << 32, u64::MAX]),
    ] {
        values
            .iter()
            .for_each(|value| refused(&scrypt, field, *value));
    }
    for (field, value) in [("n", 2), ("n", 1 << 20), ("p", 16), ("r", 1), ("r", 32)] {
        accepted(&scrypt, field, value);
    }
    // 128 n r counts, not n alone.
    let wide = with(&scrypt, "/crypto/kdf/params/r", json!(16));
    refused(&wide, "n", 1 << 20);
    accepted(&wide, "n", 1 << 19);
    // And 128 r p: 16 MiB, with the smallest table.
    let small = with(&scrypt, "/crypto/kdf/params/n", json!(2));
    accepted(&small, "r", 131_072);
    let small = with(&small, "/crypto/kdf/params/p", json!(16));
    refused(&small, "r", 8_193);
}

#[test]
fn longest_derived_key_opens_too() {
    // Made with 64 bytes: the first 32 are those of a shorter one with PBKDF2.
    let value = with(&eip_pbkdf2(), "/crypto/kdf/params/dklen", json!(64));
    let keystore = parse(&value).unwrap();

    assert!(keystore.decrypt(&Password::from(EIP_PASSWORD)).is_ok());
}

#[test]
fn text_that_is_no_keystore_is_refused_without_repeating_it() {
    for text in [
        "",
        "{",
        "null",
        "[]",
        "\"secret\"",
        "12345678901234567890",
        "secret",
        "{}x",
    ] {
        let error = parse_text(text.as_bytes()).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(
            !shown.contains("secret") && !shown.contains("12345678"),
            "{shown}"
        );
    }
    let deep = "[".repeat(MAX_FILE_BYTES);
    assert!(matches!(
        parse_text(deep.as_bytes()),
        Err(ParseError::Field(json::Error::Syntax { .. }))
    ));
}

#[test]
fn keystore_is_at_most_64_kib() {
    let mut text = serde_json::to_vec(&eip_pbkdf2()).unwrap();
    text.resize(MAX_FILE_BYTES, b' ');
    assert!(parse_text(&text).is_ok());

    text.push(b' ');
    let bytes = MAX_FILE_BYTES + 1;
    assert_eq!(parse_text(&text), Err(ParseError::TooLong { bytes }));
}

#[test]
fn fields_for_people_may_be_absent_and_unknown_ones_are_ignored() {
    let mut value = eip_pbkdf2();
    for key in ["description", "path", "uuid", "pubkey"] {
        value.as_object_mut().unwrap().remove(key);
    }
    value["name"] = json!("mine");
    value["crypto"]["kdf"]
        .as_object_mut()
        .unwrap()
        .remove("message");

    let keystore = parse(&value).unwrap();

    assert!(keystore.decrypt(&Password::from(EIP_PASSWORD)).is_ok());
}

#[test]
fn password_with_controls_opens_in_each_convention() {
    // C1 controls stay with Charon and go with EIP-2335; line ends go with both.
    let secret = SecretKey::generate();
    let opens = |written: &str, read: &str| {
        let keystore = Keystore::encrypt(&secret, &Password::from(written), Cost::Insecure);
        keystore.decrypt(&Password::from(read)).is_ok()
    };

    assert!(opens("pass", "pass\r\n"));
    assert!(opens("pass\u{85}", "pass\u{85}"));
    assert!(opens("pass", "pass\u{85}"));
    assert!(opens("e\u{301}", "\u{e9}"));
    assert!(opens("e", "\u{e9}"), "an older library lost the accent");
    assert!(!opens("pass", "pass "));
    assert!(!opens("pass", "Pass"));
}

proptest! {
    #[test]
    fn what_is_written_reads_back(seed in prop::array::uniform32(1_u8..), password in ".*") {
        let mut seed = seed;
        seed[0] &= 0x3f;
        let secret = SecretKey::from_bytes(&seed).unwrap();
        let password = Password::from(password.as_str());

        let keystore = Keystore::encrypt(&secret, &password, Cost::Insecure);
        let text = keystore.to_json();
        let read = Keystore::from_json(&text).unwrap();

        prop_assert_eq!(&read, &keystore);
        prop_assert_eq!(read.to_json(), text);
        prop_assert_eq!(read.decrypt(&password).unwrap().to_bytes(), secret.to_bytes());
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in ".*") {
        let _ = Keystore::from_json(text.as_bytes());
    }

    #[test]
    fn no_damage_makes_the_reader_panic(at in 0_usize..900, byte: u8) {
        let mut text = serde_json::to_vec(&eip_scrypt()).unwrap();
        let at = at % text.len();
        text[at] = byte;
        let _ = Keystore::from_json(&text);
    }
}

fn parse(value: &Value) -> Result<Keystore, ParseError> {
    parse_text(&serde_json::to_vec(value).unwrap())
}

fn parse_text(text: &[u8]) -> Result<Keystore, ParseError> {
    Keystore::from_json(text)
}

fn field_error(value: &Value) -> json::Error {
    match parse(value) {
        Err(ParseError::Field(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn with(base: &Value, pointer: &str, value: Value) -> Value {
    let mut changed = base.clone();
    *changed.pointer_mut(pointer).unwrap() = value;
    changed
}

fn without(base: &Value, pointer: &str) -> Value {
    let mut changed = base.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = changed.pointer_mut(parent).unwrap();
    parent.as_object_mut().unwrap().remove(key).unwrap();
    changed
}

fn flip_bit(digits: &mut Value) {
    let mut bytes = hex::decode(digits.as_str().unwrap()).unwrap();
    bytes[0] ^= 1;
    *digits = json!(hex::encode(bytes));
}
