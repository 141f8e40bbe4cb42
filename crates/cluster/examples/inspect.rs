//! Says what a lock or a definition is, and what is wrong with it.
//!
//! ```text
//! $ cargo run -p pluto-cluster --example inspect -- .charon/cluster-lock.json
//! lock v1.11.0 `my cluster`: 4 operators, threshold 3, 2 validators, fork version 0x10000910
//!   operator 0, share 1: 0x02bc8e…
//!   validator 0x8a3f…
//! nothing is wrong
//! ```

use std::{error::Error, process::ExitCode};

use pluto_cluster::{Definition, Finding, LockFile, Verifier, verify::has_errors};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: inspect FILE")?;
    let findings = match LockFile::read(&path) {
        Ok(lock) => {
            describe("lock", &lock.definition);
            for validator in &lock.validators {
                println!("  validator 0x{}", hex::encode(&validator.pubkey));
            }
            Verifier::new().lock(&lock)
        }
        Err(not_a_lock) => {
            // It is a definition, or the first error is the one to tell.
            let definition = Definition::read(&path).map_err(|_| not_a_lock)?;
            describe("definition", &definition);
            Verifier::new().definition(&definition)
        }
    };
    print(&findings);
    Ok(if has_errors(&findings) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn describe(kind: &str, definition: &Definition) {
    println!(
        "{kind} {} `{}`: {} operators, threshold {}, {} validators, fork version 0x{}",
        definition.version,
        definition.name,
        definition.operators.len(),
        definition.threshold,
        definition.num_validators,
        hex::encode(&definition.fork_version),
    );
    // Not every definition names its operators yet.
    for operator in definition.members().into_iter().flatten() {
        let (idx, key) = (operator.idx, operator.public_key);
        println!("  operator {idx}, share {}: {key}", idx.share_idx());
    }
}

fn print(findings: &[Finding]) {
    if findings.is_empty() {
        println!("nothing is wrong");
    }
    for it in findings {
        println!(
            "{}: {}: {} [{}]",
            it.severity(),
            it.path,
            it.problem,
            it.rule()
        );
        println!("  {}", it.advice());
    }
}
