//! The example, as its reader runs it.

#[path = "../examples/two_nodes.rs"]
mod two_nodes;

#[test]
fn the_example_works() {
    two_nodes::main().expect("the nodes meet");
}
