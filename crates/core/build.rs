//! Compiles the protobuf files without a `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(
        [
            "proto/core/corepb/v1/core.proto",
            "proto/core/corepb/v1/parsigex.proto",
        ],
        ["proto"],
    )?;
    prost_build::Config::new()
        .btree_map(["."])
        .bytes(["."])
        .compile_fds(files)?;
    Ok(())
}
