//! BLS12-381 signatures with public keys in G1, whole and in threshold shares.
//!
//! The scheme is Ethereum's (proof of possession, [`DST`]). A *share* is the value of a secret
//! polynomial at a [`ShareIdx`]; any `threshold` of them give the value at zero, which is the
//! validator's key or its signature.
//!
//! - **Validity:** a [`PublicKey`] or [`Signature`] that exists is in its subgroup and is not the
//!   point at infinity, so verification never checks that again.
//! - **Bounds:** at most [`MAX_SHARES`] shares per key. Batches are as long as the caller makes them.
//! - **Threads:** none are started; a caller splits a batch over cores as it likes.

mod ffi;

use std::{collections::HashMap, fmt, num::NonZeroU32, sync::OnceLock};

use blst::{
    BLST_ERROR, Pairing, blst_p1_affine, blst_p2_affine,
    min_pk::{self, AggregatePublicKey, AggregateSignature},
};
use rand::Rng;
use zeroize::{Zeroize, Zeroizing};

use self::ffi::Fr;

/// Domain separation tag of the Ethereum consensus signatures.
pub const DST: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";

/// Most shares of one key. Clusters have about ten operators; interpolation is quadratic, and this
/// keeps it in milliseconds. Chosen freely, larger is safe.
pub const MAX_SHARES: usize = 256;

/// Bits of a random factor in a batch: a forged batch passes with probability 2^-64.
const BATCH_FACTOR_BITS: usize = 64;

const BATCH_FACTOR_BYTES: usize = BATCH_FACTOR_BITS / 8;

/// The result of the operations here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a key, a signature or a set of shares was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Zero, or not below the group order.
    #[error("BLS secret key is zero or not below the group order")]
    InvalidSecretKey,
    /// Not the compressed form of a point on the curve.
    #[error("BLS public key is not a compressed curve point")]
    MalformedPublicKey,
    /// The point at infinity is nobody's key.
    #[error("BLS public key is the point at infinity")]
    InfinitePublicKey,
    /// On the curve, outside the subgroup.
    #[error("BLS public key is outside the subgroup")]
    PublicKeyNotInGroup,
    /// Not the compressed form of a point on the curve.
    #[error("BLS signature is not a compressed curve point")]
    MalformedSignature,
    /// No key makes the point at infinity.
    #[error("BLS signature is the point at infinity")]
    InfiniteSignature,
    /// On the curve, outside the subgroup.
    #[error("BLS signature is outside the subgroup")]
    SignatureNotInGroup,
    /// Well-formed, but not over this message by this key.
    #[error("BLS signature does not verify")]
    BadSignature,
    /// Nothing to combine.
    #[error("no shares, keys or signatures to combine")]
    Empty,
    /// One index twice.
    #[error("share {share_idx} occurs twice")]
    DuplicateShare {
        /// The repeated index.
        share_idx: ShareIdx,
    },
    /// Beyond [`MAX_SHARES`].
    #[error("{count} shares are more than {MAX_SHARES}")]
    TooManyShares {
        /// How many were given or asked for.
        count: usize,
    },
    /// A threshold is at least one and at most the number of shares.
    #[error("threshold {threshold} of {total} shares is impossible")]
    InvalidThreshold {
        /// Shares needed.
        threshold: usize,
        /// Shares made.
        total: usize,
    },
}

/// The items of a batch that do not verify.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} of the batch's signatures do not verify", indices.len())]
pub struct BadItems {
    /// Positions in the batch, ascending, never empty.
    pub indices: Vec<usize>,
}

/// 1-based index of a key share: where the secret polynomial is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareIdx(NonZeroU32);

impl ShareIdx {
    /// `None` for zero, where the secret itself is.
    #[must_use]
    pub const fn new(idx: u32) -> Option<Self> {
        match NonZeroU32::new(idx) {
            Some(idx) => Some(Self(idx)),
            None => None,
        }
    }

    /// The index, at least 1.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for ShareIdx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A secret key or a share of one. Wiped when dropped; `Debug` shows no part of it.
#[derive(Clone)]
pub struct SecretKey {
    scalar: min_pk::SecretKey,
    /// Computed when it is first asked for.
    public_key: OnceLock<PublicKey>,
}

impl SecretKey {
    fn new(scalar: min_pk::SecretKey) -> Self {
        Self {
            scalar,
            public_key: OnceLock::new(),
        }
    }

    /// Makes a key from the thread's cryptographic random generator.
    #[must_use]
    pub fn generate() -> Self {
        let mut ikm = Zeroizing::new([0_u8; 32]);
        rand::rng().fill_bytes(ikm.as_mut_slice());
        let scalar = min_pk::SecretKey::key_gen(ikm.as_slice(), &[]);
        Self::new(scalar.expect("32 bytes of key material are enough"))
    }

    /// Reads a big-endian scalar.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self> {
        min_pk::SecretKey::from_bytes(bytes)
            .map(Self::new)
            .map_err(|_| Error::InvalidSecretKey)
    }

    /// The big-endian scalar.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.scalar.to_bytes())
    }

    /// The key's public half. About 0.1 ms the first time.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        *self
            .public_key
            .get_or_init(|| PublicKey(self.scalar.sk_to_pk()))
    }

    /// Signs a message, usually a 32-byte signing root. Deterministic.
    #[must_use]
    pub fn sign(&self, msg: &[u8]) -> Signature {
        Signature(self.scalar.sign(msg, DST, &[]))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bls::SecretKey(..)")
    }
}

/// A point of G1, uncompressed in memory so that verifying does not decompress it again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(min_pk::PublicKey);

impl PublicKey {
    /// Reads the compressed form; checks the subgroup, refuses infinity. About 0.1 ms: keep the result.
    pub fn from_bytes(bytes: &[u8; 48]) -> Result<Self> {
        let key = min_pk::PublicKey::uncompress(bytes).map_err(|_| Error::MalformedPublicKey)?;
        Self::validated(key)
    }

    /// The compressed form.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 48] {
        self.0.compress()
    }

    fn validated(key: min_pk::PublicKey) -> Result<Self> {
        match key.validate() {
            Ok(()) => Ok(Self(key)),
            Err(BLST_ERROR::BLST_PK_IS_INFINITY) => Err(Error::InfinitePublicKey),
            Err(_) => Err(Error::PublicKeyNotInGroup),
        }
    }

    fn point(&self) -> &blst_p1_affine {
        (&self.0).into()
    }
}

impl std::hash::Hash for PublicKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.to_bytes().hash(state);
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.to_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bls::PublicKey({self})")
    }
}

/// A point of G2: a signature, a partial one or an aggregate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(min_pk::Signature);

impl Signature {
    /// Reads the compressed form; checks the subgroup, refuses infinity.
    pub fn from_bytes(bytes: &[u8; 96]) -> Result<Self> {
        let signature =
            min_pk::Signature::uncompress(bytes).map_err(|_| Error::MalformedSignature)?;
        Self::validated(signature)
    }

    /// The compressed form.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 96] {
        self.0.compress()
    }

    fn validated(signature: min_pk::Signature) -> Result<Self> {
        match signature.validate(true) {
            Ok(()) => Ok(Self(signature)),
            Err(BLST_ERROR::BLST_PK_IS_INFINITY) => Err(Error::InfiniteSignature),
            Err(_) => Err(Error::SignatureNotInGroup),
        }
    }

    fn point(&self) -> &blst_p2_affine {
        (&self.0).into()
    }
}

impl std::hash::Hash for Signature {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.to_bytes().hash(state);
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.to_bytes()))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bls::Signature({self})")
    }
}

/// Checks one signature.
pub fn verify(public_key: &PublicKey, msg: &[u8], signature: &Signature) -> Result<()> {
    let mut pairing = Pairing::new(true, DST);
    let added = pairing.aggregate(
        public_key.point(),
        false,
        signature.point(),
        false,
        msg,
        &[],
    );
    finish(pairing, added)
}

/// Splits a key into `total` shares, any `threshold` of which [`recover`] it.
pub fn split(
    secret: &SecretKey,
    threshold: usize,
    total: usize,
) -> Result<Vec<(ShareIdx, SecretKey)>> {
    if total > MAX_SHARES {
        return Err(Error::TooManyShares { count: total });
    }
    if threshold == 0 || threshold > total {
        return Err(Error::InvalidThreshold { threshold, total });
    }
    let mut coefficients = vec![Fr::from_secret(secret)];
    coefficients.extend((1..threshold).map(|_| Fr::from_secret(&SecretKey::generate())));

    (1_u32..)
        .take(total)
        .filter_map(ShareIdx::new)
        .map(|idx| {
            let x = Fr::from_share_idx(idx);
            let value = coefficients
                .iter()
                .rev()
                .fold(Fr::from_u64(0), |value, coefficient| {
                    value.mul(&x).add(coefficient)
                });
            Ok((idx, value.to_secret()?))
        })
        .collect()
}

/// Interpolates the whole key. Fewer shares than the threshold give another key, unnoticed.
pub fn recover(shares: &[(ShareIdx, SecretKey)]) -> Result<SecretKey> {
    let coefficients = lagrange_at_zero(shares.iter().map(|(idx, _)| *idx))?;
    shares
        .iter()
        .zip(&coefficients)
        .fold(Fr::from_u64(0), |sum, ((_, share), coefficient)| {
            sum.add(&Fr::from_secret(share).mul(coefficient))
        })
        .to_secret()
}

/// The key that signs what all of `keys` sign together: its signature is the [`aggregate`] of theirs,
/// for the work of one.
pub fn sum(keys: &[&SecretKey]) -> Result<SecretKey> {
    if keys.is_empty() {
        return Err(Error::Empty);
    }
    let all = keys.iter().map(|key| Fr::from_secret(key));
    all.fold(Fr::from_u64(0), |sum, key| sum.add(&key))
        .to_secret()
}

/// Interpolates the whole public key. Fewer shares than the threshold give another key, unnoticed.
pub fn recover_public_key(shares: &[(ShareIdx, PublicKey)]) -> Result<PublicKey> {
    let coefficients = lagrange_at_zero(shares.iter().map(|(idx, _)| *idx))?;
    let points: Vec<_> = shares.iter().map(|(_, key)| key.point()).collect();
    let scalars: Vec<_> = coefficients.iter().map(Fr::to_le_bytes).collect();
    PublicKey::validated(ffi::sum_g1(&points, &scalars, ffi::SCALAR_BITS).into())
}

/// A key that is shared: its public half, and those of its shares in order, from share 1 on.
#[derive(Debug, Clone, Copy)]
pub struct SharedKey<'a> {
    /// The whole key's.
    pub public_key: PublicKey,
    /// The shares', as many for each of several keys.
    pub shares: &'a [PublicKey],
}

/// Whether of each key any `threshold` of the shares [recover](recover_public_key) it; about as fast
/// as for one.
///
/// Each key is multiplied by its own random 64-bit factor, and so are its shares; then the keys are
/// added up, and the first shares, and the second ones. The sums belong together if those of each key
/// do. If those of any key do not, the sums do not either, except by a chance of 2^-64.
#[must_use]
pub fn shares_belong(keys: &[SharedKey<'_>], threshold: usize) -> bool {
    let Some(total) = keys.first().map(|key| key.shares.len()) else {
        return true;
    };
    let possible = (1..=total.min(MAX_SHARES)).contains(&threshold);
    if !possible || keys.iter().any(|key| key.shares.len() != total) {
        return false;
    }
    let factors: Vec<_> = keys.iter().map(|_| batch_factor()).collect();
    let sum = |points: Vec<_>| {
        let sum = ffi::sum_g1(&points, &factors, BATCH_FACTOR_BITS);
        PublicKey::validated(sum.into())
    };
    let Ok(whole) = sum(keys.iter().map(|key| key.public_key.point()).collect()) else {
        return false;
    };
    let shares = (1_u32..).filter_map(ShareIdx::new).zip(0..total);
    let shares = shares.map(|(idx, at)| {
        let points = keys.iter().map(|key| key.shares[at].point());
        Ok((idx, sum(points.collect())?))
    });
    let Ok(shares) = shares.collect::<Result<Vec<_>>>() else {
        return false;
    };
    // Who fits to the others fits to all that do.
    let (first, further) = shares.split_at(threshold);
    let with = |share| [&first[..threshold - 1], &[share]].concat();
    further
        .iter()
        .chain(first.last())
        .all(|share| recover_public_key(&with(*share)).is_ok_and(|key| key == whole))
}

/// Interpolates the whole signature from verified partial ones over one message.
///
/// Fewer than the threshold, or one bad partial signature, give a signature that does not verify.
pub fn threshold_aggregate(partials: &[(ShareIdx, Signature)]) -> Result<Signature> {
    let coefficients = lagrange_at_zero(partials.iter().map(|(idx, _)| *idx))?;
    let points: Vec<_> = partials
        .iter()
        .map(|(_, signature)| signature.point())
        .collect();
    let scalars: Vec<_> = coefficients.iter().map(Fr::to_le_bytes).collect();
    Signature::validated(ffi::sum_g2(&points, &scalars, ffi::SCALAR_BITS).into())
}

/// Adds signatures up, without coefficients.
pub fn aggregate(signatures: &[Signature]) -> Result<Signature> {
    let signatures: Vec<_> = signatures.iter().map(|signature| &signature.0).collect();
    let sum = AggregateSignature::aggregate(&signatures, false).map_err(|_| Error::Empty)?;
    Signature::validated(sum.to_signature())
}

/// Checks an [`aggregate`] of signatures by all of `public_keys` over one message.
///
/// Whoever can choose keys freely can forge this (rogue keys): each key must be known to be owned.
pub fn verify_aggregate(
    public_keys: &[PublicKey],
    msg: &[u8],
    signature: &Signature,
) -> Result<()> {
    let keys: Vec<_> = public_keys.iter().map(|key| &key.0).collect();
    let sum = AggregatePublicKey::aggregate(&keys, false).map_err(|_| Error::Empty)?;
    verify(&PublicKey::validated(sum.to_public_key())?, msg, signature)
}

/// One signature to check in a batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchItem<'a> {
    /// Who signed.
    pub public_key: PublicKey,
    /// What was signed.
    pub message: &'a [u8],
    /// The signature.
    pub signature: Signature,
}

/// Checks many signatures for less than one [`verify`] each, and names the bad ones.
///
/// Each item is multiplied by its own random 64-bit factor before the pairings are multiplied, so
/// that bad signatures cannot cancel each other. Items with an equal message share one pairing.
/// A failed batch is bisected: `k` bad items cost about `2 k log2(n)` smaller batches more.
pub fn verify_batch(items: &[BatchItem<'_>]) -> std::result::Result<(), BadItems> {
    if items.is_empty() || batch_holds(items) {
        return Ok(());
    }
    let mut indices = Vec::new();
    bisect(items, 0, &mut indices);
    if indices.is_empty() {
        Ok(())
    } else {
        Err(BadItems { indices })
    }
}

/// Finds the bad items of a batch that is known to fail.
fn bisect(items: &[BatchItem<'_>], offset: usize, bad: &mut Vec<usize>) {
    if let [item] = items {
        if verify(&item.public_key, item.message, &item.signature).is_err() {
            bad.push(offset);
        }
        return;
    }
    let (left, right) = items.split_at(items.len() / 2);
    let left_holds = batch_holds(left);
    if !left_holds {
        bisect(left, offset, bad);
    }
    // When the left half holds, the fault of the whole is on the right.
    if left_holds || !batch_holds(right) {
        bisect(right, offset + left.len(), bad);
    }
}

fn batch_holds(items: &[BatchItem<'_>]) -> bool {
    if let [item] = items {
        return verify(&item.public_key, item.message, &item.signature).is_ok();
    }
    let mut by_message: HashMap<&[u8], Vec<&BatchItem<'_>>> = HashMap::with_capacity(items.len());
    for item in items {
        by_message.entry(item.message).or_default().push(item);
    }

    let mut pairing = Pairing::new(true, DST);
    for (message, group) in by_message {
        let added = if let [item] = group.as_slice() {
            pairing.mul_n_aggregate(
                item.public_key.point(),
                false,
                item.signature.point(),
                false,
                &batch_factor(),
                BATCH_FACTOR_BITS,
                message,
                &[],
            )
        } else {
            let factors: Vec<_> = group.iter().map(|_| batch_factor()).collect();
            let keys: Vec<_> = group.iter().map(|item| item.public_key.point()).collect();
            let signatures: Vec<_> = group.iter().map(|item| item.signature.point()).collect();
            let key = ffi::sum_g1(&keys, &factors, BATCH_FACTOR_BITS);
            let signature = ffi::sum_g2(&signatures, &factors, BATCH_FACTOR_BITS);
            pairing.aggregate(&key, false, &signature, false, message, &[])
        };
        if added != BLST_ERROR::BLST_SUCCESS {
            return false;
        }
    }
    finish(pairing, BLST_ERROR::BLST_SUCCESS).is_ok()
}

fn batch_factor() -> [u8; BATCH_FACTOR_BYTES] {
    let mut rng = rand::rng();
    loop {
        // A factor of zero would skip the item.
        let factor = rng.next_u64();
        if factor != 0 {
            return factor.to_le_bytes();
        }
    }
}

fn finish(mut pairing: Pairing<'_>, added: BLST_ERROR) -> Result<()> {
    if added != BLST_ERROR::BLST_SUCCESS {
        return Err(Error::BadSignature);
    }
    pairing.commit();
    if pairing.finalverify(None) {
        Ok(())
    } else {
        Err(Error::BadSignature)
    }
}

/// The factor of each share in the value at zero: `Π x_j / (x_j - x_i)` over `j ≠ i`.
fn lagrange_at_zero(indices: impl ExactSizeIterator<Item = ShareIdx>) -> Result<Vec<Fr>> {
    let count = indices.len();
    if count == 0 {
        return Err(Error::Empty);
    }
    if count > MAX_SHARES {
        return Err(Error::TooManyShares { count });
    }
    let indices: Vec<_> = indices.collect();
    let mut sorted = indices.clone();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::DuplicateShare { share_idx: pair[0] });
    }

    let xs: Vec<_> = indices.into_iter().map(Fr::from_share_idx).collect();
    Ok(xs
        .iter()
        .enumerate()
        .map(|(i, xi)| {
            let mut numerator = Fr::from_u64(1);
            let mut denominator = Fr::from_u64(1);
            for (_, xj) in xs.iter().enumerate().filter(|(j, _)| *j != i) {
                numerator = numerator.mul(xj);
                denominator = denominator.mul(&xj.sub(xi));
            }
            numerator.mul(&denominator.inverse())
        })
        .collect())
}

impl Fr {
    fn from_share_idx(idx: ShareIdx) -> Self {
        Self::from_u64(u64::from(idx.get()))
    }

    fn from_secret(secret: &SecretKey) -> Self {
        Self::from_scalar((&secret.scalar).into())
    }

    /// Fails for zero.
    fn to_secret(&self) -> Result<SecretKey> {
        let mut bytes = self.to_le_bytes();
        bytes.reverse();
        let secret = SecretKey::from_bytes(&bytes);
        bytes.zeroize();
        secret
    }
}
