//! Stretching a password into a key.

use rand::Rng;
use scrypt::{Params, scrypt};
use zeroize::Zeroizing;

use super::{
    Cost,
    pbkdf2::{self, HASH_BYTES, Lane},
};
use crate::json::{self, Field};

/// Most rounds of PBKDF2 that are computed: 64 times what is written, some seconds.
pub const MAX_PBKDF2_ROUNDS: u32 = 1 << 24;

/// Most memory for scrypt's table, `128 n r`: four times what is common, some seconds.
pub const MAX_SCRYPT_BYTES: usize = 1 << 30;

/// Most passes of scrypt over such a table.
pub const MAX_SCRYPT_PASSES: u32 = 16;

/// Most memory for scrypt's blocks, `128 r p`, which the table does not bound. A common keystore
/// has 1 KiB; chosen freely, larger is safe.
pub const MAX_SCRYPT_BLOCK_BYTES: usize = 16 << 20;

/// The cipher takes 16 bytes and the checksum 16 more.
const MIN_KEY_BYTES: usize = 32;
const MAX_KEY_BYTES: usize = 64;

pub(super) const KEY_HALF: usize = 16;

/// Of what is written (spec cluster, section 6.1).
const SALT_BYTES: usize = 32;

/// Memory that any one derivation may take.
pub(super) const MAX_MEMORY_BYTES: usize = MAX_SCRYPT_BYTES + MAX_SCRYPT_BLOCK_BYTES;

/// 32 to 64 bytes.
pub(super) type Key = Zeroizing<Vec<u8>>;

/// A key derivation whose parameters are within the bounds above.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Kdf {
    pub(super) function: Function,
    pub(super) key_bytes: usize,
    pub(super) salt: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    /// With HMAC-SHA-256.
    Pbkdf2 {
        rounds: u32,
    },
    Scrypt {
        log_n: u8,
        r: u32,
        p: u32,
    },
}

impl Kdf {
    /// For a new keystore, with a salt of its own.
    pub(super) fn new(cost: Cost) -> Self {
        let mut salt = vec![0; SALT_BYTES];
        rand::rng().fill_bytes(&mut salt);
        Self {
            function: Function::Pbkdf2 {
                rounds: cost.rounds(),
            },
            key_bytes: 2 * KEY_HALF,
            salt,
        }
    }

    /// Reads `crypto.kdf`; nothing is computed.
    pub(super) fn read(kdf: &Field<'_>) -> json::Result<Self> {
        let function = kdf.get("function")?;
        let params = kdf.get("params")?;
        let function = match function.str()? {
            "pbkdf2" => {
                params.get("prf")?.must_be("hmac-sha256")?;
                let rounds = params.get("c")?;
                let rounds = bounded(&rounds, 1, MAX_PBKDF2_ROUNDS, "1 to 2^24 rounds")?;
                Function::Pbkdf2 { rounds }
            }
            "scrypt" => read_scrypt(&params)?,
            _ => return Err(function.unsupported("pbkdf2 or scrypt")),
        };
        let key_bytes = params.get("dklen")?;
        let min = MIN_KEY_BYTES as u32;
        let key_bytes = bounded(&key_bytes, min, MAX_KEY_BYTES as u32, "32 to 64 bytes")?;
        Ok(Self {
            function,
            key_bytes: key_bytes as usize,
            salt: params.get("salt")?.hex()?,
        })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        match self.function {
            Function::Pbkdf2 { .. } => 0,
            Function::Scrypt { log_n, r, p } => 128 * r as usize * ((1 << log_n) + p as usize),
        }
    }

    /// Takes as long as the parameters say.
    pub(super) fn derive(&self, password: &[u8]) -> Key {
        match self.function {
            Function::Pbkdf2 { rounds } => {
                let lanes: Vec<_> = self.lanes(password).collect();
                self.key(&pbkdf2::derive(&lanes, rounds))
            }
            Function::Scrypt { log_n, r, p } => {
                let mut key = Zeroizing::new(vec![0; self.key_bytes]);
                let params = Params::new(log_n, r, p).expect("checked when read");
                scrypt(password, &self.salt, &params, &mut key).expect("32 to 64 bytes");
                key
            }
        }
    }

    /// Whether [`derive_pair`] does better than one after the other.
    pub(super) fn pairs_with(&self, other: &Self) -> bool {
        matches!(self.function, Function::Pbkdf2 { .. })
            && self.function == other.function
            && [self, other].iter().all(|kdf| kdf.key_bytes <= HASH_BYTES)
    }

    /// The blocks of the key.
    fn lanes<'a>(&'a self, password: &'a [u8]) -> impl Iterator<Item = Lane<'a>> {
        (1..)
            .take(self.key_bytes.div_ceil(HASH_BYTES))
            .map(|block| Lane {
                password,
                salt: &self.salt,
                block,
            })
    }

    fn key(&self, blocks: &[Zeroizing<[u8; HASH_BYTES]>]) -> Key {
        let mut key = Zeroizing::new(Vec::with_capacity(blocks.len() * HASH_BYTES));
        for block in blocks {
            key.extend_from_slice(block.as_slice());
        }
        key.truncate(self.key_bytes);
        key
    }
}

/// Derives two keys of [pairing](Kdf::pairs_with) parameters, faster than one after the other.
pub(super) fn derive_pair(kdfs: [&Kdf; 2], passwords: [&[u8]; 2]) -> [Key; 2] {
    let [first, second] = kdfs;
    match first.function {
        Function::Pbkdf2 { rounds } if first.pairs_with(second) => {
            let lanes: Vec<_> = first
                .lanes(passwords[0])
                .chain(second.lanes(passwords[1]))
                .collect();
            let blocks = pbkdf2::derive(&lanes, rounds);
            let (of_first, of_second) = blocks.split_at(1);
            [first.key(of_first), second.key(of_second)]
        }
        _ => [first.derive(passwords[0]), second.derive(passwords[1])],
    }
}

fn read_scrypt(params: &Field<'_>) -> json::Result<Function> {
    let (n_field, r_field, p_field) = (params.get("n")?, params.get("r")?, params.get("p")?);
    let p = bounded(&p_field, 1, MAX_SCRYPT_PASSES, "1 to 16 passes")?;
    let max_r = MAX_SCRYPT_BLOCK_BYTES as u32 / 128 / p;
    let r = bounded(&r_field, 1, max_r, "128 r p from 128 bytes to 16 MiB")?;
    let n = n_field.u64()?;
    if n < 2 || !n.is_power_of_two() || n > (MAX_SCRYPT_BYTES / 128 / r as usize) as u64 {
        return Err(n_field.out_of_range("a power of two from 2, with 128 n r up to 1 GiB"));
    }
    Ok(Function::Scrypt {
        log_n: n.ilog2() as u8,
        r,
        p,
    })
}

fn bounded(field: &Field<'_>, min: u32, max: u32, allowed: &'static str) -> json::Result<u32> {
    u32::try_from(field.u64()?)
        .ok()
        .filter(|value| (min..=max).contains(value))
        .ok_or_else(|| field.out_of_range(allowed))
}
