//! Runs the example as its header says.

use std::process::Command;

#[test]
fn example_shows_its_own_message() {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--offline", "-p", "pluto-core"])
        .args(["--example", "decode"])
        .output()
        .unwrap();

    assert!(output.status.success(), "{output:?}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let root = format!("07{}", "0".repeat(62));
    assert_eq!(
        stdout,
        format!("duty 224/randao\n020_020 share 1: DOMAIN_RANDAO, epoch 7, root 0x{root}\n")
    );
}
