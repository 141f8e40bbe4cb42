//! Directories of keystores, deposit files and overrides: what is written, read and refused.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{fs, num::NonZeroUsize, ops::ControlFlow, path::Path};

use pluto_crypto::bls::{self, SecretKey};
use pluto_eth::{
    address::Address,
    deposit::{
        CredentialsKind, Deposit, Gwei, Message, WithdrawalCredentials,
        file::{self, Entry, EntryError},
    },
    files, json,
    keystore::{
        Cost, DecryptError, Derivations, MAX_FILE_BYTES, Sealed, decrypt_all,
        directory::{self, Error},
        encrypt_all, password,
    },
    network::{ForkVersion, Network},
    registration::{self, Registration},
    threads,
};
use serde_json::{Value, json};
use tempfile::TempDir;

#[test]
fn stored_keystores_come_back_in_order() {
    let scratch = tempfile::tempdir().unwrap();
    let (dir, secrets) = stored(&scratch, 12);

    let entries = directory::list_sequential(&dir).unwrap();
    let sealed: Vec<_> = entries.iter().map(|entry| entry.load().unwrap()).collect();
    let opened = decrypt_all(&sealed, threads(), |_| ());

    // Ten comes after nine, and not after one.
    let indices: Vec<_> = entries.iter().map(|entry| entry.index.unwrap()).collect();
    assert_eq!(indices, (0..12).collect::<Vec<_>>());
    assert_eq!(
        bytes(opened),
        secrets
            .iter()
            .map(|secret| *secret.to_bytes())
            .collect::<Vec<_>>()
    );
    let mut expected: Vec<_> = (0..12)
        .flat_map(|i| ["json", "txt"].map(|ext| format!("keystore-insecure-{i}.{ext}")))
        .collect();
    expected.sort();
    assert_eq!(names(&dir), expected);
    assert_eq!(names(scratch.path()), ["validator_keys"]);
    let password = fs::read_to_string(dir.join("keystore-insecure-3.txt")).unwrap();
    assert_eq!(password, sealed[3].password.expose());
}

#[cfg(unix)]
#[test]
fn files_are_read_only_and_passwords_are_for_the_owner() {
    let scratch = tempfile::tempdir().unwrap();
    let (dir, _) = stored(&scratch, 1);
    let allowed = 0o777 & !umask(scratch.path());

    assert_eq!(mode(&dir), allowed);
    assert_eq!(mode(&dir.join("keystore-insecure-0.json")), 0o444 & allowed);
    assert_eq!(mode(&dir.join("keystore-insecure-0.txt")), 0o400 & allowed);
    let paths = file::store(scratch.path(), &Network::HOODI, &[deposit(32)]).unwrap();
    assert_eq!(mode(&paths[0]), 0o444 & allowed);
    let path = scratch.path().join(registration::OVERRIDES_FILE_NAME);
    registration::write_overrides(&path, &[]).unwrap();
    assert_eq!(mode(&path), 0o644 & allowed);
}

#[test]
fn secure_and_insecure_keystores_have_different_names() {
    let scratch = tempfile::tempdir().unwrap();
    let sealed = seal(1);

    directory::store(scratch.path().join("a"), &sealed, Cost::Secure).unwrap();
    directory::store(scratch.path().join("b"), &sealed, Cost::Insecure).unwrap();

    assert_eq!(
        names(&scratch.path().join("a")),
        ["keystore-0.json", "keystore-0.txt"]
    );
    let insecure = ["keystore-insecure-0.json", "keystore-insecure-0.txt"];
    assert_eq!(names(&scratch.path().join("b")), insecure);
}

#[test]
fn an_empty_directory_is_filled_and_a_full_one_is_not_touched() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("keys");
    fs::create_dir(&dir).unwrap();
    let sealed = seal(2);

    directory::store(&dir, &sealed, Cost::Secure).unwrap();
    let before = content(&dir);
    assert_eq!(before.len(), 4);

    let error = directory::store(&dir, &seal(3), Cost::Secure).unwrap_err();
    assert!(matches!(error, Error::File(files::Error::NotEmpty { path }) if path == dir));
    assert_eq!(content(&dir), before);
    assert_eq!(names(scratch.path()), ["keys"]);
}

#[test]
fn keys_are_encrypted_into_their_directories_in_order() {
    let scratch = tempfile::tempdir().unwrap();
    let dirs = ["a", "b"].map(|name| scratch.path().join(name));
    let secrets: Vec<_> = (0..24).map(|_| SecretKey::generate()).collect();
    let derivations = Derivations::start(secrets.len(), Cost::Insecure, threads());
    let mut progress = Vec::new();

    let told = |done| {
        progress.push(done);
        ControlFlow::Continue(())
    };
    directory::encrypt_and_store(&dirs, &secrets, derivations, told).unwrap();

    assert_eq!(progress, (1..=24).collect::<Vec<_>>());
    for (dir, secrets) in dirs.iter().zip(secrets.chunks(12)) {
        let entries = directory::list_sequential(dir).unwrap();
        assert_eq!(entries.len(), secrets.len());
        for (entry, secret) in entries.iter().zip(secrets) {
            let opened = open(&entry.load().unwrap()).unwrap();
            assert_eq!(opened.to_bytes(), secret.to_bytes());
        }
    }
}

#[test]
fn a_write_that_fails_in_the_middle_ends_it_all() {
    const KEYS: usize = 1000;
    let scratch = tempfile::tempdir().unwrap();
    let away = tempfile::tempdir().unwrap();
    let dirs = ["a", "b"].map(|name| scratch.path().join(name));
    let secrets = vec![SecretKey::generate(); KEYS];
    let derivations = Derivations::start(KEYS, Cost::Insecure, threads());
    let mut last = 0;

    let result = directory::encrypt_and_store(&dirs, &secrets, derivations, |done| {
        if done == 20 {
            // Pulled away from under the writers, at once: one could write while they are removed.
            for name in names(scratch.path()) {
                fs::rename(scratch.path().join(&name), away.path().join(name)).unwrap();
            }
        }
        last = done;
        ControlFlow::Continue(())
    });

    let error = result.unwrap_err();
    assert!(
        matches!(error, Error::File(files::Error::Unwritable { .. })),
        "{error}"
    );
    assert!(last < KEYS, "nothing more is encrypted");
    assert_eq!(names(scratch.path()), [""; 0]);
}

#[test]
fn who_is_told_of_the_progress_can_end_it_and_nothing_stays() {
    let scratch = tempfile::tempdir().unwrap();
    let dirs = ["a", "b"].map(|name| scratch.path().join(name));
    let secrets = vec![SecretKey::generate(); 24];
    for end in [1, 13, 24] {
        let derivations = Derivations::start(secrets.len(), Cost::Insecure, threads());
        let mut last = 0;

        let error = directory::encrypt_and_store(&dirs, &secrets, derivations, |done| {
            last = done;
            if done == end {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap_err();

        assert!(matches!(error, Error::Stopped), "{error}");
        assert_eq!(last, end);
        assert_eq!(names(scratch.path()), [""; 0]);
    }
}

#[test]
fn a_file_in_place_of_the_directory_is_not_touched() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("keys");
    fs::write(&path, "mine").unwrap();

    let error = directory::store(&path, &seal(1), Cost::Secure).unwrap_err();

    assert!(
        matches!(error, Error::File(files::Error::Exists { .. })),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn nothing_appears_where_the_parent_is_missing() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("missing/keys");

    let error = directory::store(&dir, &seal(1), Cost::Secure).unwrap_err();

    assert!(
        matches!(error, Error::File(files::Error::Unwritable { .. })),
        "{error}"
    );
    assert!(names(scratch.path()).is_empty());
}

#[test]
fn sequences_with_gaps_doubles_and_strangers_are_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let (dir, _) = stored(&scratch, 3);
    let at = |name: &str| dir.join(name);
    let copy = |from: &str, to: &str| fs::copy(at(from), at(to)).unwrap();

    copy("keystore-insecure-1.json", "keystore-01.json");
    let error = directory::list_sequential(&dir).unwrap_err();
    assert!(
        matches!(&error, Error::DuplicateIndex { index: 1, first, second }
            if *first == at("keystore-01.json") && *second == at("keystore-insecure-1.json")),
        "{error}"
    );
    fs::remove_file(at("keystore-01.json")).unwrap();

    copy("keystore-insecure-1.json", "keystore-1a.json");
    let error = directory::list_sequential(&dir).unwrap_err();
    assert!(matches!(&error, Error::NoIndex { path } if *path == at("keystore-1a.json")));
    fs::remove_file(at("keystore-1a.json")).unwrap();

    fs::remove_file(at("keystore-insecure-1.json")).unwrap();
    let error = directory::list_sequential(&dir).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::MissingIndex {
                index: 1,
                count: 2,
                ..
            }
        ),
        "{error}"
    );

    for i in [0, 2] {
        fs::remove_file(at(&format!("keystore-insecure-{i}.json"))).unwrap();
    }
    assert!(matches!(
        directory::list_sequential(&dir),
        Err(Error::Empty { .. })
    ));
    assert!(directory::list(&dir).unwrap().is_empty());
    let missing = scratch.path().join("missing");
    assert!(matches!(
        directory::list(&missing),
        Err(Error::File(files::Error::Missing { path })) if path == missing
    ));
}

#[test]
fn names_without_a_plain_number_have_no_index() {
    let scratch = tempfile::tempdir().unwrap();
    let cases = [
        ("keystore-0.json", Some(0)),
        ("keystore-insecure-7.json", Some(7)),
        ("keystore-00012.json", Some(12)),
        ("keystore-.json", None),
        ("keystore-+1.json", None),
        ("keystore--1.json", None),
        ("keystore-insecure-.json", None),
        ("keystore-1-2.json", None),
        ("keystore-99999999999999999999999.json", None),
    ];
    for (name, _) in cases {
        fs::write(scratch.path().join(name), "").unwrap();
    }
    for other in [
        "keystore-1.txt",
        "keystore.json",
        "Keystore-1.json",
        "deposit-data.json",
    ] {
        fs::write(scratch.path().join(other), "").unwrap();
    }

    let mut listed: Vec<_> = directory::list(scratch.path())
        .unwrap()
        .into_iter()
        .map(|entry| (name(&entry.path), entry.index))
        .collect();

    listed.sort();
    let mut expected = cases.map(|(name, index)| (name.to_owned(), index));
    expected.sort();
    assert_eq!(listed, expected);
}

#[test]
fn a_missing_wrong_or_unreadable_password_is_told_apart() {
    let scratch = tempfile::tempdir().unwrap();
    let (dir, _) = stored(&scratch, 1);
    let entry = directory::list(&dir).unwrap().remove(0);
    let path = entry.password_path();
    let replace = |content: &[u8]| {
        fs::remove_file(&path).unwrap();
        fs::write(&path, content).unwrap();
    };
    let right = fs::read(&path).unwrap();

    let mut with_line_end = right.clone();
    with_line_end.extend(b"\r\n");
    replace(&with_line_end);
    assert!(open(&entry.load().unwrap()).is_ok());

    replace(b"wrong");
    assert_eq!(
        open(&entry.load().unwrap()).err(),
        Some(DecryptError::WrongPassword)
    );

    replace(&[0xff]);
    let error = entry.load().unwrap_err();
    assert!(
        matches!(&error, Error::Password { path: at, .. } if *at == path),
        "{error}"
    );

    replace(&vec![b'a'; password::MAX_FILE_BYTES + 1]);
    let error = entry.load().unwrap_err();
    assert!(
        matches!(&error, Error::File(files::Error::TooLong { path: at, .. }) if *at == path),
        "{error}"
    );
    assert!(!format!("{error:?} {error}").contains("aaaa"));

    fs::remove_file(&path).unwrap();
    let error = entry.load().unwrap_err();
    assert!(
        matches!(&error, Error::File(files::Error::Missing { path: at }) if *at == path),
        "{error}"
    );
}

#[test]
fn a_keystore_that_is_none_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let (dir, _) = stored(&scratch, 1);
    let entry = directory::list(&dir).unwrap().remove(0);

    fs::remove_file(&entry.path).unwrap();
    fs::write(&entry.path, "{\"version\": 4}").unwrap();
    let error = entry.load().unwrap_err();
    assert!(
        matches!(&error, Error::Keystore { path, .. } if *path == entry.path),
        "{error}"
    );

    fs::write(&entry.path, vec![b' '; MAX_FILE_BYTES + 1]).unwrap();
    let error = entry.load().unwrap_err();
    assert!(
        matches!(
            &error,
            Error::File(files::Error::TooLong {
                limit: MAX_FILE_BYTES,
                ..
            })
        ),
        "{error}"
    );

    fs::remove_file(&entry.path).unwrap();
    fs::create_dir(&entry.path).unwrap();
    let error = entry.load().unwrap_err();
    assert!(
        matches!(&error, Error::File(files::Error::NotAFile { .. })),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn symlinks_are_followed_inside_the_directory_only() {
    use std::os::unix::fs::symlink;

    let scratch = tempfile::tempdir().unwrap();
    let (outside, _) = stored(&scratch, 1);
    let dir = scratch.path().join("mounted");
    fs::create_dir_all(dir.join("..data")).unwrap();
    for name in ["keystore-insecure-0.json", "keystore-insecure-0.txt"] {
        fs::copy(outside.join(name), dir.join("..data").join(name)).unwrap();
        symlink(Path::new("..data").join(name), dir.join(name)).unwrap();
    }

    let entry = directory::list(&dir).unwrap().remove(0);
    assert!(open(&entry.load().unwrap()).is_ok());

    // The password now comes from elsewhere.
    let link = dir.join("keystore-insecure-0.txt");
    fs::remove_file(&link).unwrap();
    symlink(outside.join("keystore-insecure-0.txt"), &link).unwrap();
    let error = entry.load().unwrap_err();
    assert!(
        matches!(&error, Error::File(files::Error::Outside { path }) if *path == link),
        "{error}"
    );
    let error = directory::find(&dir).unwrap_err();
    assert!(
        matches!(&error, Error::File(files::Error::Outside { .. })),
        "{error}"
    );

    let data = scratch.path().join("deposits");
    fs::create_dir(&data).unwrap();
    let real = file::store(scratch.path(), &Network::HOODI, &[deposit(32)]).unwrap();
    symlink(&real[0], data.join("deposit-data.json")).unwrap();
    let error = file::read_all(&data).unwrap_err();
    assert!(
        matches!(&error, file::Error::File(files::Error::Outside { .. })),
        "{error}"
    );
}

#[test]
fn keys_of_other_tools_are_found_below_a_directory() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let deeper = root.join("a/b");
    fs::create_dir_all(&deeper).unwrap();
    let sealed = seal(3);
    let write = |path: &Path, content: &[u8]| fs::write(path, content).unwrap();
    // With its own password, with one of another name, and with none that fits.
    write(&root.join("one.json"), &sealed[0].keystore.to_json());
    write(
        &root.join("one.txt"),
        sealed[0].password.expose().as_bytes(),
    );
    write(&deeper.join("two.json"), &sealed[1].keystore.to_json());
    write(&deeper.join("two.txt"), b"not this one");
    write(
        &root.join("all.txt"),
        sealed[1].password.expose().as_bytes(),
    );
    write(&deeper.join("three.json"), &sealed[2].keystore.to_json());
    // Others that end in .json or .txt.
    write(&root.join("deposit-data.json"), b"[]");
    write(&root.join("notes.json"), b"{\"a\": 1}");
    write(&root.join("broken.json"), b"{");
    write(&root.join("lock.json"), &vec![b' '; MAX_FILE_BYTES + 1]);
    write(&root.join("binary.txt"), &[0xff]);
    write(
        &root.join("long.txt"),
        &vec![b'a'; password::MAX_FILE_BYTES + 1],
    );

    let found = directory::find(&root).unwrap();
    let opened = found.decrypt_all(threads(), |_| ());

    let paths: Vec<_> = found
        .keystores
        .iter()
        .map(|found| found.path.clone())
        .collect();
    assert_eq!(
        paths,
        [
            deeper.join("three.json"),
            deeper.join("two.json"),
            root.join("one.json")
        ]
    );
    assert_eq!(
        found.skipped,
        [
            "broken.json",
            "deposit-data.json",
            "lock.json",
            "notes.json"
        ]
        .map(|name| root.join(name))
    );
    assert_eq!(opened[0].as_ref().err(), Some(&DecryptError::WrongPassword));
    for (opened, sealed) in opened[1..].iter().zip([&sealed[1], &sealed[0]]) {
        let opened = opened.as_ref().unwrap().public_key().to_bytes();
        assert_eq!(Some(opened), sealed.keystore.public_key());
    }
    assert!(!format!("{found:?}").contains(sealed[0].password.expose()));

    // What has `crypto` means to be a keystore.
    write(&root.join("notes.json"), b"{\"crypto\": 1}");
    let error = directory::find(&root).unwrap_err();
    assert!(matches!(&error, Error::Keystore { path, .. } if path.ends_with("notes.json")));
}

#[test]
fn the_search_for_keys_ends_at_its_depth() {
    let scratch = tempfile::tempdir().unwrap();
    let mut path = scratch.path().to_owned();
    for _ in 0..directory::MAX_DEPTH {
        path.push("d");
    }
    fs::create_dir_all(&path).unwrap();
    assert!(
        directory::find(scratch.path())
            .unwrap()
            .keystores
            .is_empty()
    );

    path.push("d");
    fs::create_dir(&path).unwrap();
    assert!(matches!(
        directory::find(scratch.path()),
        Err(Error::TooDeep { path: at }) if at == path
    ));
}

#[test]
fn one_thread_gives_the_same_as_many() {
    let sealed = seal(5);

    let one = bytes(decrypt_all(&sealed, NonZeroUsize::MIN, |_| ()));
    let many = bytes(decrypt_all(&sealed, NonZeroUsize::new(8).unwrap(), |_| ()));

    assert_eq!(one, many);
}

#[test]
fn deposits_are_stored_by_amount_and_sorted_by_key() {
    let scratch = tempfile::tempdir().unwrap();
    let deposits: Vec<_> = [32, 1, 32, 8].map(deposit).to_vec();

    let paths = file::store(scratch.path(), &Network::HOODI, &deposits).unwrap();

    let expected = [
        "deposit-data-1eth.json",
        "deposit-data-8eth.json",
        "deposit-data.json",
    ];
    assert_eq!(
        paths.iter().map(|path| name(path)).collect::<Vec<_>>(),
        expected
    );
    assert_eq!(names(scratch.path()), expected);
    let read = file::read_all(scratch.path()).unwrap();
    assert_eq!(
        read.iter()
            .map(|(path, _)| path.clone())
            .collect::<Vec<_>>(),
        paths
    );
    let both = &read[2].1;
    let keys = |entries: &[Entry]| -> Vec<_> {
        entries
            .iter()
            .map(|entry| entry.deposit.message.public_key)
            .collect()
    };
    assert!(keys(both).is_sorted());
    assert_eq!(both.len(), 2);
    for (_, entries) in &read {
        assert_eq!(file::check(entries), []);
        assert!(
            entries
                .iter()
                .all(|entry| deposits.contains(&entry.deposit))
        );
        assert!(entries.iter().all(|entry| entry.network_name == "hoodi"));
    }
    let merged = file::by_amount(read.into_iter().flat_map(|(_, entries)| entries));
    let amounts: Vec<_> = merged.keys().copied().collect();
    assert_eq!(amounts, [1, 8, 32].map(|eth| Gwei::from_eth(eth).unwrap()));
}

#[test]
fn failing_to_store_deposits_leaves_what_was_there() {
    let scratch = tempfile::tempdir().unwrap();
    // The last of the three files is in the way.
    fs::write(scratch.path().join("deposit-data.json"), "mine").unwrap();

    let error = file::store(scratch.path(), &Network::HOODI, &[1, 8, 32].map(deposit)).unwrap_err();

    assert!(
        matches!(&error, file::Error::File(files::Error::Exists { .. })),
        "{error}"
    );
    assert_eq!(names(scratch.path()), ["deposit-data.json"]);
    assert_eq!(
        fs::read_to_string(scratch.path().join("deposit-data.json")).unwrap(),
        "mine"
    );
}

#[test]
fn deposits_that_would_lose_money_are_not_written() {
    let scratch = tempfile::tempdir().unwrap();
    let store =
        |network: Network, deposits: &[Deposit]| file::store(scratch.path(), &network, deposits);
    let good = deposit(32);
    let mut edited = good;
    edited.message.withdrawal_credentials.0[31] ^= 1;

    assert!(matches!(
        store(Network::HOODI, &[]),
        Err(file::Error::Empty)
    ));
    let error = store(Network::HOODI, &[deposit(32), edited]).unwrap_err();
    assert!(
        matches!(&error, file::Error::BadSignature { public_key, .. }
            if *public_key == edited.message.public_key),
        "{error}"
    );
    // Signed for another network.
    let error = store(Network::MAINNET, &[good]).unwrap_err();
    assert!(matches!(error, file::Error::BadSignature { .. }));
    let error = store(Network::HOODI, &[good, deposit(32), good]).unwrap_err();
    assert!(
        matches!(&error, file::Error::Duplicate { public_key, .. }
            if *public_key == good.message.public_key),
        "{error}"
    );
    let mixed = [deposit(1), deposit(32)].map(|deposit| Entry::new(deposit, &Network::HOODI));
    assert!(matches!(
        file::to_json(&mixed),
        Err(file::Error::MixedAmounts { .. })
    ));
    assert!(names(scratch.path()).is_empty());
}

#[test]
fn up_to_256_amounts_are_written_and_each_validator_once_in_each() {
    let files = |amounts: usize| {
        let deposits: Vec<_> = (0..amounts).map(|at| unsigned(at as u64)).collect();
        file::Files::of_verified(&Network::HOODI, &deposits)
    };
    assert!(files(file::MAX_FILES).is_ok());
    assert!(matches!(
        files(file::MAX_FILES + 1),
        Err(file::Error::TooManyAmounts)
    ));
    assert!(matches!(
        file::Files::of_verified(&Network::HOODI, &[unsigned(1), unsigned(1)]),
        Err(file::Error::Duplicate { .. })
    ));
}

/// For what does not look at signatures.
fn unsigned(amount: u64) -> Deposit {
    let mut deposit = Deposit {
        signature: [0; 96],
        ..deposit(32)
    };
    deposit.message.amount = Gwei(amount);
    deposit.message.public_key = [7; 48];
    deposit
}

#[test]
fn everything_wrong_with_deposits_is_told_with_its_place() {
    let entries: Vec<_> = (0..6)
        .map(|_| Entry::new(deposit(32), &Network::HOODI))
        .collect();
    assert_eq!(file::check(&entries), []);
    let mut bad = entries.clone();
    bad[0].message_root[0] ^= 1;
    bad[1].data_root[0] ^= 1;
    bad[2].deposit.message.public_key = [0; 48];
    bad[3].deposit.signature[20] ^= 1;
    bad[4].deposit.message.amount.0 += 1;
    bad[5].fork_version = ForkVersion([9; 4]);

    let errors = file::check(&bad);

    let told: Vec<_> = errors
        .iter()
        .map(|(at, error)| (*at, error.field()))
        .collect();
    assert_eq!(
        told,
        [
            (0, "deposit_message_root"),
            (1, "deposit_data_root"),
            (2, "deposit_message_root"),
            (2, "deposit_data_root"),
            (2, "pubkey"),
            (3, "deposit_data_root"),
            (3, "signature"),
            (4, "deposit_message_root"),
            (4, "deposit_data_root"),
            (4, "signature"),
            (5, "signature"),
        ]
    );
    let network = &errors[10];
    assert_eq!(
        network,
        &(5, EntryError::Signature(bls::Error::BadSignature))
    );
}

#[test]
fn bad_fields_of_deposits_are_refused_by_name() {
    let text = file::to_json(&[Entry::new(deposit(32), &Network::HOODI)]).unwrap();
    let good: Value = serde_json::from_slice(&text).unwrap();
    let parse = |value: &Value| file::parse(&serde_json::to_vec(value).unwrap());
    let fields = good[0].as_object().unwrap().clone();
    assert_eq!(fields.len(), 9);
    for (key, value) in &fields {
        let path = format!("[0].{key}");
        let with = |value: Value| {
            let mut changed = good.clone();
            changed[0][key] = value;
            parse(&changed).unwrap_err()
        };
        let mut without = good.clone();
        without[0].as_object_mut().unwrap().remove(key);
        let path_of = path.clone();
        assert_eq!(
            parse(&without).unwrap_err(),
            json::Error::Missing { path: path_of }
        );

        let wrong = if value.is_string() {
            json!(1)
        } else {
            json!("1")
        };
        for value in [
            Value::Null,
            wrong,
            json!([]),
            json!({}),
            json!(-1),
            json!(0.5),
        ] {
            let error = with(value);
            assert!(
                matches!(&error, json::Error::WrongType { path: at, .. } if *at == path),
                "{error}"
            );
        }
        let is_hex = !["amount", "network_name", "deposit_cli_version"].contains(&key.as_str());
        if is_hex {
            let digits = value.as_str().unwrap();
            let (expected, found) = (digits.len() / 2, digits.len() / 2 - 1);
            let path_of = path.clone();
            assert_eq!(
                with(json!(digits[2..])),
                json::Error::WrongLength {
                    path: path_of,
                    expected,
                    found
                }
            );
            for bad in [
                format!("0x{digits}"),
                digits[1..].to_owned(),
                format!("{digits}zz"),
            ] {
                let path = path.clone();
                assert_eq!(with(json!(bad)), json::Error::NotHex { path });
            }
        }
    }
    for value in [json!({}), json!(null), json!("x")] {
        assert!(matches!(parse(&value), Err(json::Error::WrongType { .. })));
    }
    assert_eq!(parse(&json!([])), Ok(Vec::new()));
}

#[test]
fn a_directory_without_deposits_or_with_too_many_files_is_told() {
    let scratch = tempfile::tempdir().unwrap();
    assert!(matches!(
        file::read_all(scratch.path()),
        Err(file::Error::NoFile { .. })
    ));

    for i in 0..=file::MAX_FILES {
        fs::write(
            scratch.path().join(format!("deposit-data-{i}eth.json")),
            "[]",
        )
        .unwrap();
    }
    assert!(matches!(
        file::read_all(scratch.path()),
        Err(file::Error::TooManyFiles { .. })
    ));
    fs::remove_file(scratch.path().join("deposit-data-0eth.json")).unwrap();
    assert_eq!(
        file::read_all(scratch.path()).unwrap().len(),
        file::MAX_FILES
    );
}

#[test]
fn names_of_custom_networks_are_escaped_as_charon_does() {
    let network = pluto_eth::network::CustomFlags {
        name: "a<b>&c".into(),
        fork_version: "0x01017000".into(),
        chain_id: 17_000,
        genesis_time: 1,
        ..Default::default()
    };
    let network = network.network().unwrap().unwrap();
    let deposit = signed(network.genesis_version(), 32);

    let text = file::to_json(&[Entry::new(deposit, &network)]).unwrap();

    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains(r#""network_name": "a\u003cb\u003e\u0026c""#),
        "{text}"
    );
    assert_eq!(
        file::parse(text.as_bytes()).unwrap()[0].network_name,
        "a<b>&c"
    );
}

#[test]
fn overrides_come_back_and_replace_what_was_there() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join(registration::OVERRIDES_FILE_NAME);
    let version = Network::HOODI.genesis_version();
    assert_eq!(registration::read_overrides(&path, version).unwrap(), []);

    let first = [signed_registration(1)];
    registration::write_overrides(&path, &first).unwrap();
    assert_eq!(registration::read_overrides(&path, version).unwrap(), first);
    let second = [signed_registration(2), signed_registration(3)];
    registration::write_overrides(&path, &second).unwrap();
    assert_eq!(
        registration::read_overrides(&path, version).unwrap(),
        second
    );
    assert_eq!(names(scratch.path()), [registration::OVERRIDES_FILE_NAME]);

    let text = fs::read(&path).unwrap();
    assert_eq!(registration::overrides_to_json(&second), text);
    let message = &first[0].message;
    let expected = format!(
        r#"[
  {{
    "version": "v1",
    "v1": {{
      "message": {{
        "fee_recipient": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "gas_limit": "60000000",
        "timestamp": "1",
        "pubkey": "0x{}"
      }},
      "signature": "0x{}"
    }}
  }}
]"#,
        hex::encode(message.public_key),
        hex::encode(first[0].signature)
    );
    assert_eq!(
        String::from_utf8(registration::overrides_to_json(&first)).unwrap(),
        expected
    );
}

#[test]
fn one_bad_override_is_named_and_none_is_used() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("overrides.json");
    let mut bad = signed_registration(2);
    bad.message.fee_recipient = Address::ZERO;
    registration::write_overrides(&path, &[signed_registration(1), bad]).unwrap();

    let error = registration::read_overrides(&path, Network::HOODI.genesis_version()).unwrap_err();

    assert!(
        matches!(&error, registration::Error::BadSignature { at: 1, public_key, .. }
            if *public_key == bad.message.public_key),
        "{error}"
    );
}

#[test]
fn bad_fields_of_overrides_are_refused_by_name() {
    let text = registration::overrides_to_json(&[signed_registration(1)]);
    let good: Value = serde_json::from_slice(&text).unwrap();
    let parse = |value: &Value| registration::parse_overrides(&serde_json::to_vec(value).unwrap());
    assert_eq!(parse(&good).unwrap().len(), 1);
    let cases = [
        (
            "/0/version",
            json!("v2"),
            "[0].version is not v1, which is what is supported",
        ),
        ("/0/version", Value::Null, "[0].version is not a string"),
        ("/0/v1", json!([]), "[0].v1 is not an object"),
        (
            "/0/v1/message/gas_limit",
            json!(1),
            "[0].v1.message.gas_limit is not a string",
        ),
        (
            "/0/v1/message/timestamp",
            json!("-1"),
            "[0].v1.message.timestamp is not a decimal number in quotes",
        ),
        (
            "/0/v1/message/fee_recipient",
            json!("0x11"),
            "[0].v1.message.fee_recipient has 1 bytes instead of 20",
        ),
        (
            "/0/v1/message/pubkey",
            json!("0xzz"),
            "[0].v1.message.pubkey is not hexadecimal",
        ),
        (
            "/0/v1/signature",
            json!(""),
            "[0].v1.signature has 0 bytes instead of 96",
        ),
    ];
    for (pointer, value, expected) in cases {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        assert_eq!(parse(&changed).unwrap_err().to_string(), expected);
    }
    let mut missing = good.clone();
    missing[0]["v1"]
        .as_object_mut()
        .unwrap()
        .remove("signature");
    assert_eq!(
        parse(&missing).unwrap_err().to_string(),
        "[0].v1.signature is missing"
    );
}

fn seal(count: usize) -> Vec<Sealed> {
    let secrets: Vec<_> = (0..count).map(|_| SecretKey::generate()).collect();
    encrypt_all(&secrets, Cost::Insecure, threads(), |_| ())
}

fn stored(scratch: &TempDir, count: usize) -> (std::path::PathBuf, Vec<SecretKey>) {
    let dir = scratch.path().join("validator_keys");
    let secrets: Vec<_> = (0..count).map(|_| SecretKey::generate()).collect();
    let sealed = encrypt_all(&secrets, Cost::Insecure, threads(), |_| ());
    directory::store(&dir, &sealed, Cost::Insecure).unwrap();
    (dir, secrets)
}

fn open(sealed: &Sealed) -> Result<SecretKey, DecryptError> {
    sealed.keystore.decrypt(&sealed.password)
}

fn bytes(opened: Vec<Result<SecretKey, DecryptError>>) -> Vec<[u8; 32]> {
    opened
        .into_iter()
        .map(|secret| *secret.unwrap().to_bytes())
        .collect()
}

fn deposit(eth: u64) -> Deposit {
    signed(Network::HOODI.genesis_version(), eth)
}

fn signed(version: ForkVersion, eth: u64) -> Deposit {
    let secret = SecretKey::generate();
    let kind = CredentialsKind::Compounding;
    let message = Message {
        public_key: secret.public_key().to_bytes(),
        withdrawal_credentials: WithdrawalCredentials::new(kind, Address([7; 20])),
        amount: Gwei::from_eth(eth).unwrap(),
    };
    message.sign(&secret, version)
}

fn signed_registration(timestamp: u64) -> Registration {
    let secret = SecretKey::generate();
    let message = registration::Message {
        fee_recipient: "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
            .parse()
            .unwrap(),
        gas_limit: registration::DEFAULT_GAS_LIMIT,
        timestamp,
        public_key: secret.public_key().to_bytes(),
    };
    message.sign(&secret, Network::HOODI.genesis_version())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| name(&entry.unwrap().path()))
        .collect();
    names.sort();
    names
}

fn content(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |name: String| (name.clone(), fs::read(dir.join(name)).unwrap());
    names(dir).into_iter().map(read).collect()
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// What the process takes away from modes.
#[cfg(unix)]
fn umask(scratch: &Path) -> u32 {
    let dir = scratch.join("umask");
    fs::create_dir(&dir).unwrap();
    let umask = 0o777 & !mode(&dir);
    fs::remove_dir(&dir).unwrap();
    umask
}
