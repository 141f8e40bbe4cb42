//! The field and multi-scalar arithmetic that `blst` offers only as C functions.
//!
//! All `unsafe` of the crate is here. Each call passes pointers to live, initialised Rust values of
//! the C types (`#[repr(C)]`, plain integers); no function keeps a pointer after it returns.
#![expect(
    unsafe_code,
    reason = "blst has no safe wrapper for scalars and weighted sums of points"
)]

use blst::{
    blst_fr, blst_fr_add, blst_fr_from_scalar, blst_fr_from_uint64, blst_fr_inverse, blst_fr_mul,
    blst_fr_sub, blst_p1, blst_p1_affine, blst_p1_to_affine, blst_p1s_mult_pippenger,
    blst_p1s_mult_pippenger_scratch_sizeof, blst_p2, blst_p2_affine, blst_p2_to_affine,
    blst_p2s_mult_pippenger, blst_p2s_mult_pippenger_scratch_sizeof, blst_scalar,
    blst_scalar_from_fr,
};
use zeroize::Zeroize;

/// Bits of a scalar below the group order.
pub(super) const SCALAR_BITS: usize = 255;

/// An integer modulo the group order. Wiped when dropped, because it may be secret.
#[derive(Clone)]
pub(super) struct Fr(blst_fr);

impl Drop for Fr {
    fn drop(&mut self) {
        self.0.l.zeroize();
    }
}

impl Fr {
    pub(super) fn from_u64(value: u64) -> Self {
        let mut out = Self(blst_fr::default());
        let limbs = [value, 0, 0, 0];
        // SAFETY: the function reads four limbs, and `limbs` has four.
        unsafe { blst_fr_from_uint64(&mut out.0, limbs.as_ptr()) };
        out
    }

    pub(super) fn from_scalar(scalar: &blst_scalar) -> Self {
        let mut out = Self(blst_fr::default());
        // SAFETY: both are live values of the C types.
        unsafe { blst_fr_from_scalar(&mut out.0, scalar) };
        out
    }

    pub(super) fn to_le_bytes(&self) -> [u8; 32] {
        let mut scalar = blst_scalar::default();
        // SAFETY: both are live values of the C types.
        unsafe { blst_scalar_from_fr(&mut scalar, &self.0) };
        scalar.b
    }

    pub(super) fn add(&self, other: &Self) -> Self {
        let mut out = Self(blst_fr::default());
        // SAFETY: all three are live values of the C type.
        unsafe { blst_fr_add(&mut out.0, &self.0, &other.0) };
        out
    }

    pub(super) fn sub(&self, other: &Self) -> Self {
        let mut out = Self(blst_fr::default());
        // SAFETY: all three are live values of the C type.
        unsafe { blst_fr_sub(&mut out.0, &self.0, &other.0) };
        out
    }

    pub(super) fn mul(&self, other: &Self) -> Self {
        let mut out = Self(blst_fr::default());
        // SAFETY: all three are live values of the C type.
        unsafe { blst_fr_mul(&mut out.0, &self.0, &other.0) };
        out
    }

    /// Zero for zero.
    pub(super) fn inverse(&self) -> Self {
        let mut out = Self(blst_fr::default());
        // SAFETY: both are live values of the C type.
        unsafe { blst_fr_inverse(&mut out.0, &self.0) };
        out
    }
}

/// `Σ scalar · point` in G1, with little-endian scalars of `bits` bits. Not constant-time.
pub(super) fn sum_g1<const N: usize>(
    points: &[&blst_p1_affine],
    scalars: &[[u8; N]],
    bits: usize,
) -> blst_p1_affine {
    assert_eq!(points.len(), scalars.len(), "one scalar per point");
    assert!(bits <= N * 8, "a scalar has at least `bits` bits");
    let mut out = blst_p1_affine::default();
    if points.is_empty() {
        return out;
    }
    let points: Vec<*const blst_p1_affine> = points
        .iter()
        .map(|point| std::ptr::from_ref(*point))
        .collect();
    let scalars: Vec<*const u8> = scalars.iter().map(|scalar| scalar.as_ptr()).collect();
    let mut sum = blst_p1::default();
    // SAFETY: computes a number of bytes from a number.
    let scratch_bytes = unsafe { blst_p1s_mult_pippenger_scratch_sizeof(points.len()) };
    let mut scratch = vec![0_u64; scratch_bytes.div_ceil(size_of::<u64>())];
    // SAFETY: `points` and `scalars` hold `points.len()` pointers each, to values that the caller's
    // borrows keep alive; every scalar has `bits` bits; `scratch` has the size asked for.
    unsafe {
        blst_p1s_mult_pippenger(
            &mut sum,
            points.as_ptr(),
            points.len(),
            scalars.as_ptr(),
            bits,
            scratch.as_mut_ptr(),
        );
        blst_p1_to_affine(&mut out, &sum);
    }
    out
}

/// `Σ scalar · point` in G2, with little-endian scalars of `bits` bits. Not constant-time.
pub(super) fn sum_g2<const N: usize>(
    points: &[&blst_p2_affine],
    scalars: &[[u8; N]],
    bits: usize,
) -> blst_p2_affine {
    assert_eq!(points.len(), scalars.len(), "one scalar per point");
    assert!(bits <= N * 8, "a scalar has at least `bits` bits");
    let mut out = blst_p2_affine::default();
    if points.is_empty() {
        return out;
    }
    let points: Vec<*const blst_p2_affine> = points
        .iter()
        .map(|point| std::ptr::from_ref(*point))
        .collect();
    let scalars: Vec<*const u8> = scalars.iter().map(|scalar| scalar.as_ptr()).collect();
    let mut sum = blst_p2::default();
    // SAFETY: computes a number of bytes from a number.
    let scratch_bytes = unsafe { blst_p2s_mult_pippenger_scratch_sizeof(points.len()) };
    let mut scratch = vec![0_u64; scratch_bytes.div_ceil(size_of::<u64>())];
    // SAFETY: as in `sum_g1`.
    unsafe {
        blst_p2s_mult_pippenger(
            &mut sum,
            points.as_ptr(),
            points.len(),
            scalars.as_ptr(),
            bits,
            scratch.as_mut_ptr(),
        );
        blst_p2_to_affine(&mut out, &sum);
    }
    out
}
