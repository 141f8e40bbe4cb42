//! What was found, for people and for programs.

use std::path::Path;

use libp2p::PeerId;
use pluto_cluster::{Definition, Severity};
use pluto_eth::network::ForkVersion;
use pluto_p2p::identity::{name, peer_id};
use serde_json::{Value, json};

use super::{Check, Kind, Subject, VerifyError, problem::Finding};
use crate::say::{causes, say, shown};

/// Validators that are listed for people; programs get all.
const MAX_VALIDATORS: usize = 16;

pub(super) fn json(check: &Check<'_>, kind: Kind, ok: bool) {
    let findings: Vec<_> = check.findings.iter().map(finding).collect();
    let report = json!({
        "ok": ok,
        "kind": kind.name(),
        "summary": summary(check),
        "findings": findings,
    });
    say!("{report}");
}

/// Of what could not be looked at.
pub(super) fn failure(error: &VerifyError) {
    let error = causes(error);
    say!(
        "{}",
        json!({"ok": false, "kind": null, "summary": null, "findings": [], "error": error})
    );
}

fn finding(it: &Finding) -> Value {
    json!({
        "severity": it.problem.severity().to_string(),
        "file": it.file.display().to_string(),
        "path": it.path,
        "rule": it.problem.rule(),
        "message": message(it),
        "advice": it.problem.advice(),
    })
}

fn summary(check: &Check<'_>) -> Value {
    let Some(subject) = &check.subject else {
        return Value::Null;
    };
    let definition = subject.definition();
    let operators: Vec<_> = definition
        .operators
        .iter()
        .enumerate()
        .map(|(index, it)| {
            json!({
                "index": index,
                "share": index + 1,
                "peer_id": peer(definition, index).map(|it| it.to_string()),
                "peer_name": peer(definition, index).map(|it| name(&it)),
                "address": it.address,
            })
        })
        .collect();
    let nodes: Vec<_> = check
        .nodes
        .iter()
        .map(|it| {
            json!({
                "directory": it.dir.display().to_string(),
                "operator": it.operator,
                "keystores": it.keystores,
                "deposits": it.deposits,
            })
        })
        .collect();
    json!({
        "name": definition.name,
        "version": definition.version.to_string(),
        "uuid": definition.uuid,
        "network": network(check, definition),
        "fork_version": format!("0x{}", hex::encode(&definition.fork_version)),
        "threshold": definition.threshold,
        "num_validators": definition.num_validators,
        "lock_hash": match subject {
            Subject::Lock(lock) => json!(format!("0x{}", hex::encode(&lock.lock_hash))),
            Subject::Definition(_) => Value::Null,
        },
        "operators": operators,
        "validators": validators(subject),
        "nodes": nodes,
    })
}

pub(super) fn text(check: &Check<'_>, kind: Kind, path: &Path, ok: bool) {
    say!("{} {}", kind.name(), file(path));
    if let Some(subject) = &check.subject {
        describe(check, subject);
    }
    let mut shown = check.findings.iter().peekable();
    if shown.peek().is_some() {
        say!("");
    }
    for it in shown {
        let place = if it.path.is_empty() {
            String::new()
        } else {
            format!(": {}", it.path)
        };
        say!(
            "{}: {}{place}: {} [{}]",
            it.problem.severity(),
            file(&it.file),
            message(it),
            it.problem.rule()
        );
        say!("    {}", it.problem.advice());
    }
    let count = |severity| {
        let of = |it: &&Finding| it.problem.severity() == severity;
        check.findings.iter().filter(of).count()
    };
    say!(
        "\n{}: {} errors, {} warnings, {} unchecked, {} notes",
        if ok { "ok" } else { "not ok" },
        count(Severity::Error),
        count(Severity::Warning),
        count(Severity::Unchecked),
        count(Severity::Note)
    );
}

fn describe(check: &Check<'_>, subject: &Subject) {
    let definition = subject.definition();
    say!("  name        {}", short(&definition.name));
    say!(
        "  network     {} (fork version 0x{})",
        network(check, definition).unwrap_or("not known"),
        hex::encode(&definition.fork_version)
    );
    say!("  format      {}", definition.version);
    if let Subject::Lock(lock) = subject {
        say!("  lock hash   0x{}", hex::encode(&lock.lock_hash));
    }
    say!(
        "  threshold   {} of {} operators",
        definition.threshold,
        definition.operators.len()
    );
    for (index, it) in definition.operators.iter().enumerate() {
        let peer = peer(definition, index).map(|it| format!("{it}  {}", name(&it)));
        let peer = peer.unwrap_or_else(|| "no valid ENR".to_owned());
        say!("    {index:>3}  {peer}  {}", short(&it.address));
    }
    say!("  validators  {}", definition.num_validators);
    let validators = validators(subject);
    for (index, it) in validators.iter().take(MAX_VALIDATORS).enumerate() {
        say!("    {index:>3}  {it}");
    }
    if validators.len() > MAX_VALIDATORS {
        say!("         and {} more", validators.len() - MAX_VALIDATORS);
    }
    for it in &check.nodes {
        let operator = it
            .operator
            .map_or_else(|| "of nobody".to_owned(), |it| format!("operator {it}"));
        say!(
            "  {}: {operator}, {} keystores opened, {} deposits",
            file(&it.dir),
            it.keystores,
            it.deposits
        );
    }
}

/// A name or an address, which may be anything.
fn short(text: &str) -> String {
    shown(&text.chars().take(256).collect::<String>())
}

fn network<'a>(check: &Check<'a>, definition: &Definition) -> Option<&'a str> {
    let version = definition.fork_version.as_slice().try_into().ok()?;
    let network = check.networks.by_fork_version(ForkVersion(version))?;
    Some(network.name())
}

fn peer(definition: &Definition, operator: usize) -> Option<PeerId> {
    let enr = &definition.operators.get(operator)?.enr;
    let enr = pluto_crypto::enr::Enr::parse(enr).ok()?;
    Some(peer_id(enr.public_key()))
}

fn validators(subject: &Subject) -> Vec<String> {
    match subject {
        Subject::Lock(lock) => {
            let validators = lock.validators.iter();
            validators
                .map(|it| format!("0x{}", hex::encode(&it.pubkey)))
                .collect()
        }
        Subject::Definition(_) => Vec::new(),
    }
}

/// The message with its causes.
fn message(it: &Finding) -> String {
    shown(&causes(&it.problem))
}

/// The name of a file may have anything but a slash.
fn file(path: &Path) -> String {
    shown(&path.display().to_string())
}
