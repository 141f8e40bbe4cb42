//! Every value of a definition and a lock: missing, null, of another type, of another length, out
//! of range, changed by a bit. Each is refused, or found, at its place.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::cluster;
use pluto_cluster::{
    Definition, FieldError, Finding, LockFile, MembersError, OperatorEntry, ParseProblem, Severity,
    Verifier, Version, verify::has_errors,
};
use pluto_crypto::{enr::Enr, k1::SecretKey};
use serde_json::{Value, json};

/// Versions that together have every field in every encoding.
const VERSIONS: [Version; 4] = [Version::V1_1, Version::V1_4, Version::V1_7, Version::V1_11];

/// Values that may be missing or null, because that is what they say anyway.
fn may_be_empty(version: Version, path: &str) -> bool {
    let unsigned = version < Version::V1_3
        && (path.ends_with("config_signature") || path.ends_with("enr_signature"));
    let unproven = version <= Version::V1_1 && path == "signature_aggregate";
    unsigned || unproven || path.ends_with("nonce")
}

/// Values that no rule is about when they are of another length, or changed by a bit.
fn may_change(path: &str) -> bool {
    // Only its being 0 counts, and that is refused on reading.
    path.ends_with("nonce")
}

#[test]
fn every_value_of_a_lock() {
    for version in VERSIONS {
        let (lock, _) = cluster::lock(version, 3, 1);
        let json = serde_json::from_slice(&lock.to_json().unwrap()).unwrap();
        let judge = |json: &[u8]| LockFile::from_json(json).map(|lock| Verifier::new().lock(&lock));
        let count = every_value(version, &json, &judge);
        assert!(count > 150, "{version}: {count}");
    }
}

#[test]
fn every_value_of_a_definition() {
    for version in Version::ALL {
        let definition = cluster::definition(version, 3, 2);
        let json = serde_json::from_slice(&definition.to_json().unwrap()).unwrap();
        let judge =
            |json: &[u8]| Definition::from_json(json).map(|it| Verifier::new().definition(&it));
        let count = every_value(version, &json, &judge);
        assert!(count > 100, "{version}: {count}");
    }
}

type Judge<'a> = &'a dyn Fn(&[u8]) -> Result<Vec<Finding>, FieldError<ParseProblem>>;

fn every_value(version: Version, good: &Value, judge: Judge<'_>) -> usize {
    let accepted = judge(good.to_string().as_bytes()).unwrap();
    assert!(!has_errors(&accepted), "{version}: {accepted:?}");
    let mut places = Vec::new();
    walk(good, &mut String::new(), &mut places);

    let mut count = 0;
    for pointer in &places {
        let path = path(pointer);
        let value = good.pointer(pointer).unwrap();
        for (what, changed) in changes(value) {
            let mut file = good.clone();
            match changed {
                Some(changed) => *file.pointer_mut(pointer).unwrap() = changed,
                None => remove(&mut file, pointer),
            }
            let case = format!("{version} {path} {what}");
            match judge(file.to_string().as_bytes()) {
                Err(error) => refused_at(&case, &path, &error),
                Ok(findings) => {
                    assert!(
                        !matches!(what, Change::Type | Change::Range),
                        "{case}: accepted"
                    );
                    let harmless = match what {
                        Change::Empty => may_be_empty(version, &path),
                        _ => may_change(&path),
                    };
                    if !harmless {
                        found(&case, &path, &findings);
                    }
                }
            }
            count += 1;
        }
    }
    count
}

/// The refusal is about the value, or about what it is counted or dated by.
fn refused_at(case: &str, path: &str, error: &FieldError<ParseProblem>) {
    let related = match error.problem {
        ParseProblem::UnsupportedVersion { .. } => error.path.ends_with("version"),
        ParseProblem::ValidatorCount { .. } => error.path.ends_with("validators"),
        ParseProblem::DepositAmount(_) => error.path.ends_with("deposit_amounts"),
        _ => error.path == path,
    };
    assert!(related, "{case}: {error}");
    assert!(!error.problem.rule().is_empty());
}

/// Something is wrong with the value itself, or with a hash that it is part of.
fn found(case: &str, path: &str, findings: &[Finding]) {
    // The hash pads it, so that Charon accepts a zero behind it. What was signed is the address in
    // the definition, and that this one differs is only a warning.
    let shown = "builder_registration.message.fee_recipient";
    if path.ends_with(shown) && !has_errors(findings) {
        assert_eq!(findings.len(), 1, "{case}: {findings:?}");
        assert_eq!(findings[0].path, path);
        assert_eq!(findings[0].severity(), Severity::Warning);
        return;
    }
    assert!(has_errors(findings), "{case}: accepted with {findings:?}");
    let is_related = |finding: &&Finding| {
        finding.severity() == Severity::Error
            && (finding.path == path
                || finding.rule().ends_with("-hash")
                || path.starts_with(&finding.path)
                || finding.path.starts_with(path))
    };
    let related = findings.iter().find(is_related);
    assert!(related.is_some(), "{case}: {findings:?}");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Missing, null, an empty text or an empty list.
    Empty,
    Type,
    Length,
    Range,
    Bit,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// `None` removes the value.
fn changes(value: &Value) -> Vec<(Change, Option<Value>)> {
    let mut changes = vec![(Change::Empty, None), (Change::Empty, Some(Value::Null))];
    let types = [
        json!(1),
        json!("0x11"),
        json!(true),
        json!([1]),
        json!({"a": 1}),
    ];
    let kind = std::mem::discriminant(value);
    for other in types {
        if std::mem::discriminant(&other) != kind {
            changes.push((Change::Type, Some(other)));
        }
    }
    match value {
        Value::Number(number) => {
            changes.push((Change::Range, Some(json!(1.5))));
            // Beyond every type that there is, and beyond signed ones.
            changes.push((Change::Range, Some(json!(1e30))));
            changes.push((Change::Bit, Some(json!(number.as_i64().unwrap() ^ 1))));
        }
        Value::Bool(value) => changes.push((Change::Bit, Some(json!(!value)))),
        Value::String(text) => strings(text, &mut changes),
        Value::Array(list) if !list.is_empty() => {
            changes.push((Change::Empty, Some(json!([]))));
            changes.push((Change::Length, Some(json!(list[1..]))));
            let mut longer = list.clone();
            longer.push(list[0].clone());
            changes.push((Change::Length, Some(json!(longer))));
        }
        _ => {}
    }
    changes
}

fn strings(text: &str, changes: &mut Vec<(Change, Option<Value>)>) {
    if text.is_empty() {
        return;
    }
    changes.push((Change::Empty, Some(json!(""))));
    if let Some(digits) = text.strip_prefix("0x") {
        let bytes = hex::decode(digits).unwrap();
        let hex = |bytes: &[u8]| Some(json!(format!("0x{}", hex::encode(bytes))));
        changes.push((Change::Length, hex(&bytes[1..])));
        changes.push((Change::Length, hex(&[&[0], &bytes[..]].concat())));
        changes.push((Change::Length, hex(&[&bytes[..], &[0]].concat())));
        changes.push((Change::Length, hex(&bytes.repeat(50))));
        for at in [0, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            changes.push((Change::Bit, hex(&flipped)));
        }
    } else if let Ok(number) = text.parse::<u64>() {
        for other in ["x", "1.5", "+1", "1_0", "99999999999999999999"] {
            changes.push((Change::Range, Some(json!(other))));
        }
        changes.push((Change::Bit, Some(json!((number ^ 1).to_string()))));
    } else {
        changes.push((Change::Length, Some(json!(text[..text.len() - 1]))));
        changes.push((Change::Length, Some(json!(text.repeat(40)))));
        let changed = if text.ends_with('A') { "B" } else { "A" };
        let changed = format!("{}{changed}", &text[..text.len() - 1]);
        changes.push((Change::Bit, Some(json!(changed))));
    }
}

/// JSON pointers to everything below `value`.
fn walk(value: &Value, pointer: &mut String, out: &mut Vec<String>) {
    let mut step = |key: &str, value: &Value, out: &mut Vec<String>| {
        let len = pointer.len();
        pointer.push('/');
        pointer.push_str(key);
        out.push(pointer.clone());
        walk(value, pointer, out);
        pointer.truncate(len);
    };
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                step(key, value, out);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                step(&index.to_string(), value, out);
            }
        }
        _ => {}
    }
}

/// A pointer as the paths of findings are written.
fn path(pointer: &str) -> String {
    let mut path = String::new();
    for part in pointer.split('/').skip(1) {
        if part.parse::<usize>().is_ok() {
            path.push_str(&format!("[{part}]"));
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(part);
        }
    }
    path
}

fn remove(file: &mut Value, pointer: &str) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match file.pointer_mut(parent).unwrap() {
        Value::Object(members) => drop(members.remove(key)),
        Value::Array(list) => drop(list.remove(key.parse().unwrap())),
        _ => unreachable!(),
    }
}

#[test]
fn deposit_amounts_are_judged_on_reading() {
    // Cluster spec, appendix A.8.
    for (version, amounts, compounding, accepted) in [
        ("v1.8.0", json!(["1"]), false, false),
        ("v1.9.0", json!(["1"]), false, false),
        ("v1.10.0", json!(["1"]), false, false),
        ("v1.11.0", json!(["1"]), false, false),
        ("v1.11.0", json!(["48000000000"]), false, false),
        ("v1.11.0", json!(["48000000000"]), true, true),
        ("v1.9.0", json!(["48000000000"]), true, false),
        ("v1.8.0", json!(["16000000000", "16000000000"]), false, true),
        (
            "v1.8.0",
            json!(["16000000000", "15999999999"]),
            false,
            false,
        ),
        ("v1.8.0", json!([]), false, true),
        ("v1.8.0", json!(null), false, true),
        ("v1.8.0", json!([null]), false, false),
        ("v1.8.0", json!(["32000000000"]), false, true),
        ("v1.8.0", json!(["+32000000000"]), false, false),
        ("v1.8.0", json!([32_000_000_000_u64]), false, false),
        ("v1.7.0", json!(["1"]), false, true),
        ("v1.11.0", json!(vec!["32000000000"; 256]), false, true),
        ("v1.11.0", json!(vec!["32000000000"; 257]), false, false),
    ] {
        let file = json!({
            "version": version,
            "num_validators": 1,
            "validators": [{"fee_recipient_address": "", "withdrawal_address": ""}],
            "deposit_amounts": amounts,
            "compounding": compounding,
        });
        let read = Definition::from_json(file.to_string().as_bytes());
        assert_eq!(read.is_ok(), accepted, "{file}: {read:?}");
    }
}

#[test]
fn what_charon_tolerates_is_tolerated() {
    for (file, accepted) in [
        // Letter case of keys, unknown keys, nothing but a version.
        (r#"{"Version":"v1.3.0","x":{"y":[1,2]}}"#, true),
        (r#"{"version":"v1.3.0","VERSION":"v1.4.0"}"#, true),
        (
            r#"{"version":"v1.3.0","operators":null,"creator":null}"#,
            true,
        ),
        (r#"{"version":"v1.3.0"} "#, true),
        (r#"{"version":"v1.3.0"}x"#, false),
        (r#"{"version":"v1.3"}"#, false),
        (r#"{"version":"V1.3.0"}"#, false),
        (r#"{"version":null}"#, false),
        ("null", false),
        ("[]", false),
        ("{}", false),
        // Hex with and without prefix and in any case, but no 0X.
        (r#"{"version":"v1.3.0","config_hash":"AbCd"}"#, true),
        (r#"{"version":"v1.3.0","config_hash":"0x"}"#, true),
        (r#"{"version":"v1.3.0","config_hash":"0Xab"}"#, false),
        (r#"{"version":"v1.3.0","config_hash":"0xabc"}"#, false),
        // Base64 before v1.2, with line breaks and loose last bits.
        (r#"{"version":"v1.1.0","config_hash":"AQ\r\nI="}"#, true),
        (r#"{"version":"v1.1.0","config_hash":"AQJ="}"#, true),
        (r#"{"version":"v1.1.0","config_hash":"AQI"}"#, false),
        (r#"{"version":"v1.1.0","config_hash":"0x0102"}"#, false),
        // The oldest versions check the fork version's length, later ones do not.
        (r#"{"version":"v1.1.0","fork_version":"00001020"}"#, true),
        (r#"{"version":"v1.1.0","fork_version":""}"#, true),
        (r#"{"version":"v1.1.0","fork_version":"0x0010"}"#, false),
        (r#"{"version":"v1.3.0","fork_version":"0x0010"}"#, true),
        // Fields of other versions are unknown keys.
        (r#"{"version":"v1.3.0","creator":7,"validators":7}"#, true),
        (r#"{"version":"v1.4.0","creator":7}"#, false),
        (r#"{"version":"v1.1.0","operators":[{"nonce":1}]}"#, false),
        (r#"{"version":"v1.2.0","operators":[{"nonce":1}]}"#, true),
        (r#"{"version":"v1.3.0","num_validators":-5}"#, true),
        (r#"{"version":"v1.5.0","num_validators":-1}"#, false),
        (
            r#"{"version":"v1.3.0","num_validators":9223372036854775807}"#,
            true,
        ),
    ] {
        let read = Definition::from_json(file.as_bytes());
        assert_eq!(read.is_ok(), accepted, "{file}: {read:?}");
        // Verifying what was read ends, and does not panic.
        let _ = read.map(|it| Verifier::new().definition(&it));
    }
}

#[test]
fn a_cluster_has_1_to_256_members() {
    let mut definition = cluster::definition(Version::V1_11, 3, 1);
    definition.operators = (0..257).map(|_| operator()).collect();
    let mut count = |operators: usize| {
        definition.operators.truncate(operators);
        definition.members().map(|members| members.len())
    };
    let refused = |count| Err(MembersError::OperatorCount { count });
    for (operators, expected) in [
        (257, refused(257)),
        (256, Ok(256)),
        (1, Ok(1)),
        (0, refused(0)),
    ] {
        assert_eq!(format!("{:?}", count(operators)), format!("{expected:?}"));
    }
}

fn operator() -> OperatorEntry {
    OperatorEntry {
        enr: Enr::for_key(&SecretKey::generate()).text().to_owned(),
        ..OperatorEntry::default()
    }
}

#[test]
fn files_and_lists_beyond_their_bounds_are_refused() {
    let operators = |count| {
        let file = json!({"version": "v1.3.0", "operators": vec![json!({}); count]});
        Definition::from_json(file.to_string().as_bytes())
    };
    assert!(operators(256).is_ok());
    let error = operators(257).unwrap_err();
    assert_eq!(error.path, "operators");
    assert_eq!(error.problem, ParseProblem::TooManyEntries { max: 256 });

    let mut large = br#"{"version":"v1.3.0"}"#.to_vec();
    large.resize(16 << 20, b' ');
    assert!(Definition::from_json(&large).is_ok());
    large.push(b' ');
    let error = Definition::from_json(&large).unwrap_err();
    assert_eq!(error.problem, ParseProblem::TooLarge { max: 16 << 20 });
}
