//! Files on disk: they appear whole or not at all, and nothing is ever replaced.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{
    fs,
    sync::Barrier,
    thread,
    time::{Duration, SystemTime},
};

use common::{cluster, entries};
use pluto_cluster::{
    Definition, DepositAmountProblem, FileMode, Lock, LockFile, NewDefinition, NewDefinitionError,
    ReadError, Verifier, Version, WriteError,
};

#[test]
fn what_is_written_is_read_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let (lock, _) = cluster::lock(Version::V1_11, 4, 2);
    let lock_path = folder.path().join("cluster-lock.json");
    let definition_path = folder.path().join("cluster-definition.json");

    lock.create_file(&lock_path, FileMode::Owner).unwrap();
    lock.definition.create_file(&definition_path).unwrap();

    assert_eq!(LockFile::read(&lock_path).unwrap(), lock);
    assert_eq!(Definition::read(&definition_path).unwrap(), lock.definition);
    let usable = Lock::read(&lock_path).unwrap();
    assert_eq!(usable.operators(), lock.definition.members().unwrap());
    assert_eq!(usable.threshold(), 3);
    assert_eq!(entries(folder.path()).len(), 2, "nothing else is left");
}

#[cfg(unix)]
#[test]
fn modes_are_those_of_charon() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let (lock, _) = cluster::lock(Version::V1_11, 3, 1);
    let mode = |name| {
        let mode = fs::metadata(folder.path().join(name))
            .unwrap()
            .permissions();
        mode.mode() & 0o777
    };

    lock.create_file(folder.path().join("a"), FileMode::Owner)
        .unwrap();
    lock.create_file(folder.path().join("b"), FileMode::Everyone)
        .unwrap();
    lock.definition
        .create_file(folder.path().join("c"))
        .unwrap();

    assert_eq!([mode("a"), mode("b"), mode("c")], [0o400, 0o444, 0o444]);
}

#[test]
fn nothing_is_replaced_and_nothing_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (mut lock, _) = cluster::lock(Version::V1_11, 3, 1);
    let path = folder.path().join("cluster-lock.json");
    fs::write(&path, "precious").unwrap();

    let error = lock.create_file(&path, FileMode::Owner).unwrap_err();
    assert!(matches!(error, WriteError::Exists { path: it } if it == path));
    assert_eq!(fs::read(&path).unwrap(), b"precious");

    // A folder is in the way as well, and so is a link to nowhere.
    let error = lock.create_file(folder.path(), FileMode::Owner);
    assert!(matches!(error, Err(WriteError::Exists { .. })), "{error:?}");
    #[cfg(unix)]
    {
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        let error = lock.create_file(&link, FileMode::Owner);
        assert!(matches!(error, Err(WriteError::Exists { .. })), "{error:?}");
        fs::remove_file(link).unwrap();
    }

    let missing = folder.path().join("missing/cluster-lock.json");
    let error = lock.create_file(missing, FileMode::Owner);
    assert!(matches!(error, Err(WriteError::Io { .. })), "{error:?}");

    lock.definition.operators[1].address = "nobody".into();
    let other = folder.path().join("other");
    let error = lock.create_file(&other, FileMode::Owner).unwrap_err();
    let WriteError::Hash { source, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(
        source.errors[0].path,
        "cluster_definition.operators[1].address"
    );
    assert_eq!(entries(folder.path()), [path]);
}

#[test]
fn of_several_writers_one_wins() {
    const WRITERS: usize = 8;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster-definition.json");
    let definition = cluster::definition(Version::V1_11, 3, 1);
    let start = Barrier::new(WRITERS);

    let won = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (mut definition, path, start) = (definition.clone(), &path, &start);
                definition.name = format!("writer {writer}");
                scope.spawn(move || {
                    start.wait();
                    definition.create_file(path).is_ok()
                })
            })
            .collect();
        let won = writers.into_iter().map(|it| it.join().unwrap());
        won.filter(|won| *won).count()
    });

    assert_eq!(won, 1);
    assert!(Definition::read(&path).unwrap().name.starts_with("writer"));
    assert_eq!(entries(folder.path()), [path]);
}

#[test]
fn unreadable_files_are_named_with_the_place_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster-lock.json");
    let error = LockFile::read(&path).unwrap_err();
    assert!(matches!(error, ReadError::Io { path: it, .. } if it == path));

    let (lock, _) = cluster::lock(Version::V1_11, 3, 1);
    let json = String::from_utf8(lock.to_json().unwrap()).unwrap();
    fs::write(
        &path,
        json.replace("\"threshold\": 2", "\"threshold\": \"2\""),
    )
    .unwrap();
    let ReadError::Parse { source, .. } = LockFile::read(&path).unwrap_err() else {
        panic!("not about the content");
    };
    assert_eq!(source.path, "cluster_definition.threshold");
    assert_eq!(source.problem.rule(), "type");
    assert_eq!(
        source.to_string(),
        "cluster_definition.threshold: a string instead of a number"
    );
}

#[test]
fn new_definitions_are_accepted_and_impossible_ones_are_not_made() {
    let new = || {
        let pattern = cluster::definition(Version::V1_11, 4, 2);
        NewDefinition {
            version: Version::LATEST,
            name: "new".into(),
            operators: (pattern.operators.into_iter())
                .map(|it| pluto_cluster::OperatorEntry {
                    enr: it.enr,
                    ..Default::default()
                })
                .collect(),
            creator: Default::default(),
            threshold: None,
            fork_version: cluster::HOODI,
            validators: match pattern.addresses {
                pluto_cluster::Addresses::Each(list) => list,
                pluto_cluster::Addresses::Shared(_) => unreachable!(),
            },
            deposit_amounts: vec![],
            dkg_algorithm: "default".into(),
            consensus_protocol: String::new(),
            target_gas_limit: 60_000_000,
            compounding: false,
            created_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        }
    };

    for version in [Version::V1_10, Version::V1_11] {
        let definition = NewDefinition { version, ..new() }.build().unwrap();
        assert!(Verifier::new().definition(&definition).is_empty());
        assert_eq!(definition.threshold, 3);
        assert_eq!(definition.timestamp, "2027-01-15T08:00:00Z");
        let read = Definition::from_json(&definition.to_json().unwrap()).unwrap();
        assert_eq!(read, definition);
    }

    let refused = |change: fn(&mut NewDefinition)| {
        let mut it = new();
        change(&mut it);
        it.build().unwrap_err()
    };
    use NewDefinitionError as Error;
    assert!(matches!(
        refused(|it| it.version = Version::V1_9),
        Error::Version { .. }
    ));
    assert!(matches!(
        refused(|it| it.operators.clear()),
        Error::Operators { count: 0 }
    ));
    assert!(matches!(
        refused(|it| it.validators.clear()),
        Error::Validators { count: 0 }
    ));
    for threshold in [0, 5] {
        let mut it = new();
        it.threshold = Some(threshold);
        assert!(matches!(it.build(), Err(Error::Threshold { .. })));
    }
    assert!(matches!(
        refused(|it| it.operators[2].enr = it.operators[1].enr.clone()),
        Error::DuplicateOperator {
            first: 1,
            second: 2
        }
    ));
    assert!(matches!(
        refused(|it| it.operators[2].enr.push('!')),
        Error::Enr { operator: 2, .. }
    ));
    assert!(matches!(
        refused(|it| it.deposit_amounts = vec![1_000_000_000]),
        Error::DepositAmounts(DepositAmountProblem::SumTooSmall { .. })
    ));
    assert!(matches!(
        refused(|it| it.target_gas_limit = 0),
        Error::GasLimit
    ));
    assert!(matches!(
        refused(|it| it.name = "n".repeat(257)),
        Error::Hash(_)
    ));
}
