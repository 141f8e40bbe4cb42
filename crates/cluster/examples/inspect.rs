//! Says what a lock or a definition is, and what is wrong with it.
//!
//! ```text
//! $ cargo run -p pluto-cluster --example inspect -- .charon/cluster-lock.json
//! lock v1.11.0 `my cluster`: 4 operators, threshold 3, 2 validators, fork version 0x10000910
//!   operator 0, share 1: 0x02bc8e…
//!   validator 0x8a3f…
//! nothing is wrong
//! ```

use std::{error::Error, io::Write, path::Path, process::ExitCode};

use pluto_cluster::{Definition, Finding, LockFile, Verifier, verify::has_errors};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: inspect FILE")?;
    Ok(if inspect(path.as_ref(), &mut std::io::stdout())? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Whether it is free of errors.
pub(crate) fn inspect(path: &Path, out: &mut impl Write) -> Result<bool, Box<dyn Error>> {
    let findings = match LockFile::read(path) {
        Ok(lock) => {
            describe("lock", &lock.definition, out)?;
            for validator in &lock.validators {
                writeln!(out, "  validator 0x{}", hex::encode(&validator.pubkey))?;
            }
            Verifier::new().lock(&lock)
        }
        Err(not_a_lock) => {
            // It is a definition, or the first error is the one to tell.
            let definition = Definition::read(path).map_err(|_| not_a_lock)?;
            describe("definition", &definition, out)?;
            Verifier::new().definition(&definition)
        }
    };
    print(&findings, out)?;
    Ok(!has_errors(&findings))
}

fn describe(kind: &str, definition: &Definition, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(
        out,
        "{kind} {} `{}`: {} operators, threshold {}, {} validators, fork version 0x{}",
        definition.version,
        definition.name,
        definition.operators.len(),
        definition.threshold,
        definition.num_validators,
        hex::encode(&definition.fork_version),
    )?;
    // Not every definition names its operators yet.
    for operator in definition.members().into_iter().flatten() {
        let (idx, key) = (operator.idx, operator.public_key);
        writeln!(out, "  operator {idx}, share {}: {key}", idx.share_idx())?;
    }
    Ok(())
}

fn print(findings: &[Finding], out: &mut impl Write) -> std::io::Result<()> {
    if findings.is_empty() {
        writeln!(out, "nothing is wrong")?;
    }
    for it in findings {
        let (severity, path, rule) = (it.severity(), &it.path, it.rule());
        writeln!(out, "{severity}: {path}: {} [{rule}]", it.problem)?;
        writeln!(out, "  {}", it.advice())?;
    }
    Ok(())
}
