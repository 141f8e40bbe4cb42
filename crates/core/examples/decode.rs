//! Shows what a partial-signature message says.
//!
//! Run: `cargo run -p pluto-core --example decode -- <hex of a message, without its length>`
//!
//! Without an argument it shows a message of its own:
//!
//! ```text
//! duty 224/randao
//! 020_020 share 1: DOMAIN_RANDAO, epoch 7, root 0x0700000000000000000000000000000000000000000000000000000000000000
//! ```

use std::{error::Error, fmt::Write, num::NonZeroU64};

use pluto_core::{
    Duty, DutyType, ParSigEx, ParSignedData, ParSignedDataSet, PubKey, ShareIdx,
    signed::{SignedData, SignedRandao},
};

/// As on mainnet.
const SLOTS_PER_EPOCH: NonZeroU64 = NonZeroU64::new(32).expect("not zero");

fn main() -> Result<(), Box<dyn Error>> {
    let bytes = match std::env::args().nth(1) {
        Some(text) => hex::decode(text)?,
        None => sample().encode().to_vec(),
    };
    print!("{}", show(&bytes)?);
    Ok(())
}

pub(crate) fn show(bytes: &[u8]) -> Result<String, Box<dyn Error>> {
    let message = ParSigEx::decode(bytes)?;
    let mut text = format!("duty {}\n", message.duty);
    for (pubkey, item) in &message.set {
        write!(text, "{} share {}: ", pubkey.short(), item.share_idx)?;
        match SignedData::decode(message.duty.kind, &item.data) {
            Ok(data) => writeln!(text, "{}", describe(&data))?,
            Err(err) => writeln!(text, "{err}")?,
        }
    }
    Ok(text)
}

fn describe(data: &SignedData) -> String {
    let facts = (
        data.domain(),
        data.epoch(SLOTS_PER_EPOCH),
        data.message_root(),
    );
    match facts {
        (Some(domain), Some(epoch), Some(root)) => {
            let root = hex::encode(root);
            format!("{}, epoch {epoch}, root 0x{root}", domain.name())
        }
        _ => "a bare signature".into(),
    }
}

pub(crate) fn sample() -> ParSigEx {
    let randao = SignedRandao::new(7, [1; 96]);
    let item = ParSignedData {
        data: randao.to_json(),
        signature: randao.signature.to_vec().into(),
        share_idx: ShareIdx::new(1).expect("not zero"),
    };
    ParSigEx {
        duty: Duty::new(7 * 32, DutyType::Randao),
        set: ParSignedDataSet::one(PubKey::new([2; 48]), item),
    }
}
