//! The example, as its reader runs it.

#[path = "../examples/relay.rs"]
mod relay;

#[test]
fn the_example_works() {
    relay::main().expect("the peers meet");
}
