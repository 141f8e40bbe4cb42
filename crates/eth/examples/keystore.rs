//! Splits a validator key into shares, seals them as keystores, and opens them again.
//!
//! ```text
//! $ cargo run -p pluto-eth --example keystore
//! 3 of 3 keys sealed
//! wrote keystore-insecure-0.json, keystore-insecure-1.json, keystore-insecure-2.json
//! 3 of 3 keys opened
//! any 2 of them make the validator key again
//! ```

use std::{
    error::Error,
    io::{self, Write},
};

use pluto_crypto::bls::{SecretKey, recover, split};
use pluto_eth::{
    keystore::{Cost, decrypt_all, directory, encrypt_all},
    threads,
};

fn main() -> Result<(), Box<dyn Error>> {
    run(&mut io::stdout())
}

pub(crate) fn run(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let validator = SecretKey::generate();
    let (indices, shares): (Vec<_>, Vec<_>) = split(&validator, 2, 3)?.into_iter().unzip();

    // For a test network: a real cluster takes `Cost::Secure`.
    let cost = Cost::Insecure;
    let mut sealed_count = 0;
    let sealed = encrypt_all(&shares, cost, threads(), |done| sealed_count = done);
    writeln!(out, "{sealed_count} of {} keys sealed", shares.len())?;

    let scratch = std::env::temp_dir().join(format!("keystore-example-{}", std::process::id()));
    directory::store(&scratch, &sealed, cost)?;
    let entries = directory::list_sequential(&scratch)?;
    let names: Vec<_> = entries
        .iter()
        .filter_map(|entry| entry.path.file_name()?.to_str())
        .collect();
    writeln!(out, "wrote {}", names.join(", "))?;

    let loaded = entries
        .iter()
        .map(|entry| entry.load())
        .collect::<Result<Vec<_>, _>>()?;
    let opened = decrypt_all(&loaded, threads(), |_| ())
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    writeln!(out, "{} of {} keys opened", opened.len(), entries.len())?;
    std::fs::remove_dir_all(&scratch)?;

    let two: Vec<_> = indices.into_iter().zip(opened).skip(1).collect();
    let recovered = recover(&two)?;
    if recovered.public_key() != validator.public_key() {
        return Err("another key came out".into());
    }
    writeln!(out, "any 2 of them make the validator key again")?;
    Ok(())
}
