//! Use of its stream by each method, which decides the limits that apply.

use clarion_runtime::{health, listener::Method};

/// Use of the stream by the method of a path.
pub(super) fn method(path: &str) -> Method {
    match path {
        "/clarion.v1.AlertService/WatchAlert" => Method::Events,
        "/clarion.v1.RegistryService/WriteDevices" => Method::Exchange,
        "/clarion.shard.v1.FeedService/Feed" => Method::Events,
        "/clarion.shard.v1.SnapshotService/LoadSnapshot" => Method::Events,
        "/clarion.store.v1.BackupService/ReadBackup" => Method::Events,
        "/clarion.shard.v1.SnapshotService/SaveSnapshot" => Method::Upload,
        _ if path.starts_with("/grpc.reflection.") => Method::Exchange,
        _ => health::method(path),
    }
}
