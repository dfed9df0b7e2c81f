//! Compiles the .proto files with protox, which is written in Rust: the build needs no protoc.

use std::{env, fs, path::PathBuf};

const FILES: [&str; 8] = [
    "clarion/v1/app.proto",
    "clarion/v1/alert.proto",
    "clarion/v1/registry.proto",
    "clarion/shard/v1/feed.proto",
    "clarion/shard/v1/session.proto",
    "clarion/shard/v1/snapshot.proto",
    "clarion/store/v1/backup.proto",
    "clarion/store/v1/record.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Descriptors for gRPC reflection. The coordinator's reflection service serves `clarion.v1`
    // only.
    fs::write(out.join("clarion.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        .bytes(".clarion.shard.v1.LocaleMessage.body")
        .bytes(".clarion.shard.v1.LocaleMessage.body_after_token")
        .bytes(".clarion.shard.v1.OrdinalSet.ordinals")
        .bytes(".clarion.shard.v1.RegistrationRecord.token")
        .bytes(".clarion.shard.v1.LoadSnapshotResponse.data")
        .bytes(".clarion.shard.v1.SaveSnapshotRequest.data")
        .bytes(".clarion.store.v1.BackupBatch.records")
        .bytes(".clarion.store.v1.BackupItem.snapshot_data")
        .bytes(".clarion.store.v1.LocaleMessage.body")
        .bytes(".clarion.store.v1.LocaleMessage.body_after_token")
        // Secrets: their `Debug` is in src/secret.rs.
        .skip_debug([".clarion.shard.v1.ProviderToken", ".clarion.shard.v1.ProxyAddress"])
        .compile_fds(descriptors)?;
    Ok(())
}
