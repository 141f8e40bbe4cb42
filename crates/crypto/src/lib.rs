//! secp256k1 identities and threshold BLS12-381
