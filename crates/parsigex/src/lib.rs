//! Exchange of partial signatures
