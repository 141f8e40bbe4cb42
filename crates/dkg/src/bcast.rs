//! Reliable broadcast.
