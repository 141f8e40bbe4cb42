//! Compiles the protobuf files without a `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(
        [
            "proto/dkg/dkgpb/v1/bcast.proto",
            "proto/dkg/dkgpb/v1/nodesigs.proto",
            "proto/dkg/dkgpb/v1/sync.proto",
        ],
        ["proto"],
    )?;
    prost_build::Config::new()
        .bytes(["."])
        .enable_type_names()
        .compile_fds(files)?;
    Ok(())
}
