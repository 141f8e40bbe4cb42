//! The example prints what its header says.

#[allow(dead_code, reason = "`main` is for `cargo run`")]
#[path = "../examples/keystore.rs"]
mod keystore;

#[test]
fn example_prints_what_its_header_says() {
    let mut out = Vec::new();

    keystore::run(&mut out).unwrap();

    let source = include_str!("../examples/keystore.rs");
    let expected: String = source
        .lines()
        .skip_while(|line| !line.starts_with("//! $ "))
        .skip(1)
        .take_while(|line| *line != "//! ```")
        .map(|line| format!("{}\n", line.trim_start_matches("//! ")))
        .collect();
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}
