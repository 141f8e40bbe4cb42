//! A validator key is split among four operators; any three of them sign for it.
//!
//!     cargo run -p pluto-crypto --example threshold

use pluto_crypto::bls::{self, SecretKey};

pub(crate) fn main() -> Result<(), bls::Error> {
    let validator = SecretKey::generate();
    let shares = bls::split(&validator, 3, 4)?;
    println!("validator {}", validator.public_key());

    let message = b"a signing root";
    let mut partials = Vec::new();
    for (share_idx, share) in &shares[1..] {
        let signature = share.sign(message);
        bls::verify(&share.public_key(), message, &signature)?;
        println!("operator {share_idx} signs");
        partials.push((*share_idx, signature));
    }

    let signature = bls::threshold_aggregate(&partials)?;
    bls::verify(&validator.public_key(), message, &signature)?;
    println!("together they have signed as the validator");
    Ok(())
}
