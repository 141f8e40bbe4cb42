//! Threshold signatures: what holds, and what must not.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../examples/threshold.rs"]
mod threshold;

use pluto_crypto::bls::{
    self, BatchItem, Error, MAX_SHARES, PublicKey, SecretKey, ShareIdx, SharedKey, Signature,
};
use proptest::{prelude::*, sample::subsequence};

const MESSAGE: &[u8] = b"what is signed";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_threshold_of_the_shares_is_the_key(
        (total, chosen) in (1_usize..=7).prop_flat_map(|total| {
            (Just(total), subsequence((0..total).collect::<Vec<_>>(), 1..=total))
        })
    ) {
        let secret = SecretKey::generate();
        let shares = bls::split(&secret, chosen.len(), total).unwrap();
        let chosen: Vec<_> = chosen.iter().map(|place| shares[*place].clone()).collect();
        prop_assert_eq!(bls::recover(&chosen).unwrap().to_bytes(), secret.to_bytes());
        let partials: Vec<_> = chosen.iter().map(|(i, share)| (*i, share.sign(MESSAGE))).collect();
        let signature = bls::threshold_aggregate(&partials).unwrap();
        prop_assert_eq!(signature, secret.sign(MESSAGE));
    }

    #[test]
    fn a_failing_batch_names_exactly_the_bad_items(
        (total, bad) in (1_usize..40).prop_flat_map(|total| {
            (Just(total), subsequence((0..total).collect::<Vec<_>>(), 0..=total.min(5)))
        }),
        one_message in any::<bool>(),
    ) {
        let mut signed: Vec<_> = (0..total)
            .map(|place| {
                let secret = SecretKey::generate();
                let message = if one_message { vec![0] } else { place.to_le_bytes().to_vec() };
                let signature = secret.sign(&message);
                (secret.public_key(), message, signature)
            })
            .collect();
        for place in &bad {
            signed[*place].2 = SecretKey::generate().sign(MESSAGE);
        }
        let result = bls::verify_batch(&items(&signed));
        match result {
            Ok(()) => prop_assert!(bad.is_empty()),
            Err(found) => prop_assert_eq!(found.indices, bad),
        }
    }
}

#[test]
fn shares_belong_to_their_own_key_and_to_no_other() {
    const THRESHOLD: usize = 3;
    let deal = |total| {
        let secret = SecretKey::generate();
        let shares = bls::split(&secret, THRESHOLD, total).unwrap();
        let shares = shares.iter().map(|(_, share)| share.public_key());
        (secret.public_key(), shares.collect::<Vec<_>>())
    };
    let dealt: Vec<_> = (0..5).map(|_| deal(4)).collect();
    let belong = |dealt: &[(PublicKey, Vec<PublicKey>)], threshold| {
        let keys = dealt.iter().map(|(public_key, shares)| SharedKey {
            public_key: *public_key,
            shares,
        });
        bls::shares_belong(&keys.collect::<Vec<_>>(), threshold)
    };
    assert!(belong(&dealt, THRESHOLD));
    assert!(belong(&dealt[..1], THRESHOLD));
    assert!(belong(&[], THRESHOLD));
    // More than the threshold make the key too; fewer make another one.
    assert!(belong(&dealt, THRESHOLD + 1));
    for impossible in [0, THRESHOLD - 1, 5] {
        assert!(!belong(&dealt, impossible), "{impossible}");
    }

    for share in 0..4 {
        let mut one_wrong = dealt.clone();
        one_wrong[2].1[share] = SecretKey::generate().public_key();
        assert!(!belong(&one_wrong, THRESHOLD), "share {share}");
        // The sum over all keys stays as it was.
        let mut exchanged = dealt.clone();
        (exchanged[1].1[share], exchanged[3].1[share]) = (dealt[3].1[share], dealt[1].1[share]);
        assert!(!belong(&exchanged, THRESHOLD), "share {share}");
    }
    let mut exchanged = dealt.clone();
    (exchanged[1].0, exchanged[3].0) = (dealt[3].0, dealt[1].0);
    assert!(!belong(&exchanged, THRESHOLD));
    let mut longer = dealt;
    longer.push(deal(5));
    assert!(!belong(&longer, THRESHOLD));
}

#[test]
fn a_sum_of_keys_signs_what_they_sign_together() {
    let keys = [(); 3].map(|()| SecretKey::generate());
    let each: Vec<_> = keys.iter().map(|key| key.sign(MESSAGE)).collect();

    let sum = bls::sum(&keys.each_ref()).unwrap();

    assert_eq!(sum.sign(MESSAGE), bls::aggregate(&each).unwrap());
    assert!(matches!(bls::sum(&[]), Err(Error::Empty)));
}

#[test]
fn errors_that_cancel_each_other_do_not_pass_a_batch() {
    // Two bad signatures whose sum is right: what the random factors are for.
    let [a, b] = [SecretKey::generate(), SecretKey::generate()];
    let signed = [
        (a.public_key(), MESSAGE.to_vec(), b.sign(MESSAGE)),
        (b.public_key(), MESSAGE.to_vec(), a.sign(MESSAGE)),
    ];
    let sum = bls::aggregate(&[signed[0].2, signed[1].2]).unwrap();
    bls::verify_aggregate(&[a.public_key(), b.public_key()], MESSAGE, &sum).unwrap();
    let bad = bls::verify_batch(&items(&signed)).unwrap_err();
    assert_eq!(bad.indices, [0, 1]);
}

#[test]
fn fewer_than_the_threshold_make_a_signature_of_nobody() {
    let secret = SecretKey::generate();
    let shares = bls::split(&secret, 3, 4).unwrap();
    let partials: Vec<_> = shares[..2]
        .iter()
        .map(|(i, s)| (*i, s.sign(MESSAGE)))
        .collect();
    let signature = bls::threshold_aggregate(&partials).unwrap();
    assert_eq!(
        bls::verify(&secret.public_key(), MESSAGE, &signature),
        Err(Error::BadSignature)
    );
}

#[test]
fn impossible_splits_and_sets_are_refused() {
    let secret = SecretKey::generate();
    for (threshold, total) in [(0, 4), (5, 4), (1, 0)] {
        assert_eq!(
            bls::split(&secret, threshold, total).unwrap_err(),
            Error::InvalidThreshold { threshold, total }
        );
    }
    assert_eq!(
        bls::split(&secret, 2, MAX_SHARES + 1).unwrap_err(),
        Error::TooManyShares {
            count: MAX_SHARES + 1
        }
    );
    assert_eq!(bls::threshold_aggregate(&[]), Err(Error::Empty));
    assert_eq!(bls::aggregate(&[]), Err(Error::Empty));
    let share_idx = ShareIdx::new(2).unwrap();
    let signature = secret.sign(MESSAGE);
    assert_eq!(
        bls::threshold_aggregate(&[(share_idx, signature), (share_idx, signature)]),
        Err(Error::DuplicateShare { share_idx })
    );
    assert_eq!(ShareIdx::new(0), None);
}

#[test]
fn points_that_are_no_keys_or_signatures_are_refused() {
    let mut infinity = [0; 48];
    infinity[0] = 0xc0;
    assert_eq!(
        PublicKey::from_bytes(&infinity),
        Err(Error::InfinitePublicKey)
    );
    assert_eq!(
        PublicKey::from_bytes(&[0xff; 48]),
        Err(Error::MalformedPublicKey)
    );
    let mut infinity = [0; 96];
    infinity[0] = 0xc0;
    assert_eq!(
        Signature::from_bytes(&infinity),
        Err(Error::InfiniteSignature)
    );
    assert_eq!(
        Signature::from_bytes(&[0; 96]),
        Err(Error::MalformedSignature)
    );
    assert_eq!(
        SecretKey::from_bytes(&[0; 32]).unwrap_err(),
        Error::InvalidSecretKey
    );
    assert_eq!(
        SecretKey::from_bytes(&[0xff; 32]).unwrap_err(),
        Error::InvalidSecretKey
    );
    // x = 4 is on the curve of G1 and outside of the subgroup.
    let mut outside = [0; 48];
    (outside[0], outside[47]) = (0x80, 4);
    assert_eq!(
        PublicKey::from_bytes(&outside),
        Err(Error::PublicKeyNotInGroup)
    );
}

#[test]
fn secrets_are_not_printed() {
    let secret = SecretKey::generate();
    assert_eq!(format!("{secret:?}"), "bls::SecretKey(..)");
}

#[test]
fn the_example_works() {
    threshold::main().unwrap();
}

fn items(signed: &[(PublicKey, Vec<u8>, Signature)]) -> Vec<BatchItem<'_>> {
    signed
        .iter()
        .map(|(public_key, message, signature)| BatchItem {
            public_key: *public_key,
            message,
            signature: *signature,
        })
        .collect()
}
