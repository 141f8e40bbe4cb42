//! The `pluto` binary.
fn main() {}
