//! The example shows what its header says.

#[path = "../examples/decode.rs"]
#[allow(dead_code, reason = "its `main` reads the command line")]
mod decode;

#[test]
fn the_example_shows_its_own_message() {
    let text = decode::show(&decode::sample().encode()).unwrap();
    let root = format!("07{}", "0".repeat(62));
    assert_eq!(
        text,
        format!("duty 224/randao\n020_020 share 1: DOMAIN_RANDAO, epoch 7, root 0x{root}\n")
    );
}
