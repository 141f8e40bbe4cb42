//! Duties, partial signatures and their wire encodings
