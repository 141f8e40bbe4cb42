//! Validator keys on disk (EIP-2335), as Charon writes and reads them.
//!
//! Spec: cluster, section 6. Written with PBKDF2 and AES-128-CTR; read also with scrypt.
//!
//! Charon does not look at a keystore's public key. Here a key that does not belong to it is refused,
//! and so is a version that is not 4. A keystore without `kdf`, whose password itself is the key, is
//! read by Charon and not here.
//!
//! - **Bounds:** [`MAX_FILE_BYTES`] per keystore; the parameters of the key derivation are checked
//!   against the bounds in this module when a keystore is read, before anything is computed.
//! - **Threads:** [`encrypt_all`] and [`decrypt_all`] start as many as they are told, and end them
//!   before they return; [`Derivations`] when it is dropped. Derivations of keystores that are read
//!   take, together, the memory of one of the largest.
//! - **Cancellation:** none; they block for as long as the work takes.

pub mod directory;
pub mod password;

mod derivations;
mod kdf;
mod pbkdf2;

use std::{fmt, num::NonZeroUsize};

use aes::Aes128;
use ctr::{
    Ctr128BE,
    cipher::{KeyIvInit, StreamCipher},
};
use pluto_crypto::bls::{self, SecretKey};
use rand::Rng;
use serde::Serialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use self::kdf::{Function, KEY_HALF, Kdf, Key};
pub use self::{
    derivations::{Derivations, MAX_AHEAD},
    kdf::{MAX_PBKDF2_ROUNDS, MAX_SCRYPT_BLOCK_BYTES, MAX_SCRYPT_BYTES, MAX_SCRYPT_PASSES},
    password::Password,
};
use crate::{
    json::{self, Field},
    parallel::{self, Budget},
};

/// Longest keystore that is read; one has about 800 bytes.
pub const MAX_FILE_BYTES: usize = 64 << 10;

const VERSION: u64 = 4;

/// Charon gives all keys one path, as they are not derived from a seed.
const PATH: &str = "m/12381/3600/0/0/0";

const KEY_BYTES: usize = 32;
const IV_BYTES: usize = 16;

/// How long it takes to try one password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// 2^18 rounds of PBKDF2, as EIP-2335 asks for.
    Secure,
    /// 2^4 rounds: `--insecure-keys`, for test networks. Files are named differently.
    Insecure,
}

impl Cost {
    const fn rounds(self) -> u32 {
        match self {
            Self::Secure => 1 << 18,
            Self::Insecure => 1 << 4,
        }
    }
}

/// Why a keystore was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Longer than any keystore.
    #[error("{bytes} bytes are more than the {MAX_FILE_BYTES} of a keystore")]
    TooLong {
        /// How many there are.
        bytes: usize,
    },
    /// A field is missing or wrong.
    #[error(transparent)]
    Field(#[from] json::Error),
}

/// Why a key did not come out of a keystore.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecryptError {
    /// The checksum does not fit, for each form of the password.
    #[error("the password is not the one of this keystore, or the keystore is damaged")]
    WrongPassword,
    /// The checksum fits, and what came out is no key.
    #[error("the keystore does not hold a BLS secret key")]
    NotAKey {
        /// What is wrong with it.
        #[source]
        source: bls::Error,
    },
    /// The key is not the one of `pubkey`.
    #[error("the keystore holds the key of {actual}, but says {stated}")]
    OtherKey {
        /// Hex of `pubkey`.
        stated: String,
        /// Hex of the public key of what came out.
        actual: String,
    },
}

/// A secret key, encrypted with a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Keystore {
    kdf: Kdf,
    iv: [u8; IV_BYTES],
    ciphertext: [u8; KEY_BYTES],
    checksum: [u8; 32],
    description: String,
    public_key: Option<[u8; 48]>,
    path: String,
    uuid: String,
}

impl Keystore {
    /// Encrypts a key. Takes about 30 ms of one core when secure; [`encrypt_all`] less for each.
    #[must_use]
    pub fn encrypt(secret: &SecretKey, password: &Password, cost: Cost) -> Self {
        let kdf = Kdf::new(cost);
        let key = kdf.derive(password.normalised().as_bytes());
        Self::seal(secret, kdf, &key)
    }

    fn seal(secret: &SecretKey, kdf: Kdf, key: &Key) -> Self {
        let (mut iv, mut uuid) = ([0; IV_BYTES], [0; 16]);
        rand::rng().fill_bytes(&mut iv);
        rand::rng().fill_bytes(&mut uuid);
        let mut keystore = Self {
            kdf,
            iv,
            ciphertext: [0; KEY_BYTES],
            checksum: [0; 32],
            description: String::new(),
            public_key: Some(secret.public_key().to_bytes()),
            path: PATH.to_owned(),
            uuid: uuid_text(uuid),
        };
        let mut text = secret.to_bytes();
        keystore.apply_cipher(key, &mut text);
        keystore.ciphertext = *text;
        keystore.checksum = keystore.checksum_with(key);
        keystore
    }

    /// Decrypts the key and checks that it belongs to `pubkey`, if the keystore states one.
    ///
    /// Takes as long as the keystore asks for, up to some seconds and [`MAX_SCRYPT_BYTES`]. A wrong
    /// password with letters beyond ASCII takes up to three times as long.
    pub fn decrypt(&self, password: &Password) -> Result<SecretKey, DecryptError> {
        self.open(self.kdf.derive(password.normalised().as_bytes()), password)
    }

    /// Decrypts with the key of the normalised password, or else with those of its other forms.
    fn open(&self, key: Key, password: &Password) -> Result<SecretKey, DecryptError> {
        let others = password.other_forms();
        let key = std::iter::once(key)
            .chain(others.iter().map(|form| self.kdf.derive(form.as_bytes())))
            .find(|key| self.checksum_with(key) == self.checksum)
            .ok_or(DecryptError::WrongPassword)?;
        let mut secret = Zeroizing::new(self.ciphertext);
        self.apply_cipher(&key, &mut secret);
        let secret =
            SecretKey::from_bytes(&secret).map_err(|source| DecryptError::NotAKey { source })?;

        let actual = secret.public_key().to_bytes();
        match self.public_key {
            Some(stated) if stated != actual => Err(DecryptError::OtherKey {
                stated: hex::encode(stated),
                actual: hex::encode(actual),
            }),
            _ => Ok(secret),
        }
    }

    /// The public key that the keystore states; [`decrypt`](Self::decrypt) checks it.
    #[must_use]
    pub fn public_key(&self) -> Option<[u8; 48]> {
        self.public_key
    }

    /// Reads the JSON form. Unknown fields are ignored; `pubkey` and those for people may be absent.
    pub fn from_json(text: &[u8]) -> Result<Self, ParseError> {
        if text.len() > MAX_FILE_BYTES {
            return Err(ParseError::TooLong { bytes: text.len() });
        }
        let value = json::parse(text)?;
        Ok(Self::read(&Field::root(&value))?)
    }

    fn read(root: &Field<'_>) -> json::Result<Self> {
        let version = root.get("version")?;
        if version.u64()? != VERSION {
            return Err(version.unsupported("4"));
        }
        let crypto = root.get("crypto")?;
        let cipher = crypto.get("cipher")?;
        cipher.get("function")?.must_be("aes-128-ctr")?;
        let checksum = crypto.get("checksum")?;
        checksum.get("function")?.must_be("sha256")?;
        let text = |key| match root.find(key)? {
            Some(field) => field.str().map(str::to_owned),
            None => Ok(String::new()),
        };
        Ok(Self {
            kdf: Kdf::read(&crypto.get("kdf")?)?,
            iv: cipher.get("params")?.get("iv")?.hex_array()?,
            ciphertext: cipher.get("message")?.hex_array()?,
            checksum: checksum.get("message")?.hex_array()?,
            description: text("description")?,
            public_key: match root.find("pubkey")? {
                Some(field) if !field.str()?.is_empty() => Some(field.hex0x_array()?),
                _ => None,
            },
            path: text("path")?,
            uuid: text("uuid")?,
        })
    }

    /// The text that Charon would write.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let salt = hex::encode(&self.kdf.salt);
        let dklen = self.kdf.key_bytes;
        let (kdf, params) = match self.kdf.function {
            Function::Pbkdf2 { rounds } => (
                "pbkdf2",
                KdfParamsJson::Pbkdf2 {
                    c: rounds,
                    dklen,
                    prf: "hmac-sha256",
                    salt,
                },
            ),
            Function::Scrypt { log_n, r, p } => (
                "scrypt",
                KdfParamsJson::Scrypt {
                    dklen,
                    n: 1 << log_n,
                    p,
                    r,
                    salt,
                },
            ),
        };
        let keystore = KeystoreJson {
            crypto: CryptoJson {
                checksum: StepJson {
                    function: "sha256",
                    message: hex::encode(self.checksum),
                    params: NoParamsJson {},
                },
                cipher: StepJson {
                    function: "aes-128-ctr",
                    message: hex::encode(self.ciphertext),
                    params: CipherParamsJson {
                        iv: hex::encode(self.iv),
                    },
                },
                kdf: StepJson {
                    function: kdf,
                    message: String::new(),
                    params,
                },
            },
            description: &self.description,
            pubkey: self.public_key.map(hex::encode).unwrap_or_default(),
            path: &self.path,
            uuid: &self.uuid,
            version: VERSION,
        };
        json::to_vec(&keystore, " ")
    }

    /// Encrypting and decrypting are the same.
    fn apply_cipher(&self, key: &[u8], text: &mut [u8; KEY_BYTES]) {
        let mut half = Zeroizing::new([0; KEY_HALF]);
        half.copy_from_slice(&key[..KEY_HALF]);
        Ctr128BE::<Aes128>::new((&*half).into(), (&self.iv).into()).apply_keystream(text);
    }

    fn checksum_with(&self, key: &[u8]) -> [u8; 32] {
        Sha256::new()
            .chain_update(&key[KEY_HALF..2 * KEY_HALF])
            .chain_update(self.ciphertext)
            .finalize()
            .into()
    }
}

impl fmt::Debug for Keystore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keystore")
            .field("public_key", &self.public_key.map(hex::encode))
            .field("uuid", &self.uuid)
            .finish_non_exhaustive()
    }
}

/// A key's keystore and the password of it.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// The encrypted key.
    pub keystore: Keystore,
    /// What opens it.
    pub password: Password,
}

/// Encrypts keys, each with a password of its own, in their order.
///
/// `progress` is called on this thread with the number of keys that are done.
#[must_use]
pub fn encrypt_all(
    secrets: &[SecretKey],
    cost: Cost,
    threads: NonZeroUsize,
    mut progress: impl FnMut(usize),
) -> Vec<Sealed> {
    let mut derivations = Derivations::start(secrets.len(), cost, threads);
    let each = secrets.iter().zip(1..).map(|(secret, done)| {
        let sealed = derivations.seal(secret);
        progress(done);
        sealed
    });
    each.collect()
}

/// Decrypts keystores, in their order.
///
/// `progress` is called on this thread with the number of keystores that are done.
pub fn decrypt_all(
    sealed: &[Sealed],
    threads: NonZeroUsize,
    progress: impl FnMut(usize),
) -> Vec<Result<SecretKey, DecryptError>> {
    let memory = Budget::new(kdf::MAX_MEMORY_BYTES);
    let decrypt = |sealed: &&[Sealed]| match sealed {
        [first, second] => {
            let both = [first, second];
            let normalised = both.map(|sealed| sealed.password.normalised());
            let keys = kdf::derive_pair(
                both.map(|sealed| &sealed.keystore.kdf),
                normalised.each_ref().map(|password| password.as_bytes()),
            );
            both.into_iter()
                .zip(keys)
                .map(|(sealed, key)| sealed.keystore.open(key, &sealed.password))
                .collect()
        }
        _ => sealed
            .iter()
            .map(|sealed| {
                memory.with(sealed.keystore.kdf.memory_bytes(), || {
                    sealed.keystore.decrypt(&sealed.password)
                })
            })
            .collect(),
    };
    let units: Vec<_> = sealed
        .chunk_by(|a, b| a.keystore.kdf.pairs_with(&b.keystore.kdf))
        .flat_map(|alike| alike.chunks(width(sealed.len(), threads)))
        .collect();
    map_units(&units, threads, decrypt, progress)
}

/// How many derivations one thread does in step: two, unless that leaves a thread without work.
fn width(items: usize, threads: NonZeroUsize) -> usize {
    if items > threads.get() { 2 } else { 1 }
}

/// Maps slices of items and counts the items.
fn map_units<T: Sync, R: Send>(
    units: &[&[T]],
    threads: NonZeroUsize,
    work: impl Fn(&&[T]) -> Vec<R> + Sync,
    mut progress: impl FnMut(usize),
) -> Vec<R> {
    let mut done = 0;
    let results = parallel::map(units, threads, work, |at| {
        done += units[at].len();
        progress(done);
    });
    results.into_iter().flatten().collect()
}

/// 16 bytes as Charon prints them, in keystores and in definitions: grouped, in upper case. Which
/// version of UUID they are is not looked at; in keystores they are of none.
#[must_use]
pub fn uuid_text(bytes: [u8; 16]) -> String {
    let digits = hex::encode_upper(bytes);
    let groups = [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ];
    groups.join("-")
}

#[derive(Serialize)]
struct KeystoreJson<'a> {
    crypto: CryptoJson,
    description: &'a str,
    pubkey: String,
    path: &'a str,
    uuid: &'a str,
    version: u64,
}

#[derive(Serialize)]
struct CryptoJson {
    checksum: StepJson<NoParamsJson>,
    cipher: StepJson<CipherParamsJson>,
    kdf: StepJson<KdfParamsJson>,
}

#[derive(Serialize)]
struct StepJson<P> {
    function: &'static str,
    message: String,
    params: P,
}

#[derive(Serialize)]
struct NoParamsJson {}

#[derive(Serialize)]
struct CipherParamsJson {
    iv: String,
}

#[derive(Serialize)]
#[serde(untagged)]
enum KdfParamsJson {
    Pbkdf2 {
        c: u32,
        dklen: usize,
        prf: &'static str,
        salt: String,
    },
    Scrypt {
        dklen: usize,
        n: u64,
        p: u32,
        r: u32,
        salt: String,
    },
}
