//! How each method uses its stream, which decides what bounds it.

use clarion_runtime::{health, listener::Method};

/// How a method uses its stream.
pub(super) fn method(path: &str) -> Method {
    match path {
        "/clarion.v1.AlertService/WatchAlert" => Method::Events,
        "/clarion.v1.RegistryService/WriteDevices" => Method::Exchange,
        "/clarion.shard.v1.FeedService/Feed" => Method::Events,
        _ if path.starts_with("/grpc.reflection.") => Method::Exchange,
        _ => health::method(path),
    }
}
