//! Trace of a request: a span, child of the caller's span (`traceparent`, W3C Trace Context), and
//! log lines that name the peer.
//!
//! | request | line |
//! |---|---|
//! | answered | `request answered in time`, debug |
//! | answered after more than [`SLOW`] | `request answered slowly`, warn |
//! | refused, by the caller's fault or a limit | `request refused with status`, info |
//! | failed: nodes or store away, a deadline, a defect | `request failed with status`, warn; a defect has an error line, too |
//!
//! The last three are logged at the first time and then once a minute, by peer, method and code
//! ([`Failures`]), so that a flood of requests is no flood of lines. A line has the peer's address,
//! the method, the code and the reason for programs, and no content of the request: neither place
//! nor token. Health and reflection leave no lines, because probes come every second.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use clarion_proto::time::Time;
use clarion_runtime::{
    listener::{Method, Peer},
    peers::PeerKey,
    repeated::{AGAIN_AFTER, Repeated},
    world::Clock,
};
use futures_util::{FutureExt, future::BoxFuture};
use opentelemetry::propagation::Extractor;
use parking_lot::Mutex;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Time after which a response is logged as slow. The slowest valid request counts on all nodes.
const SLOW: Duration = Duration::from_secs(2);
/// Maximum number of kinds of failures (peer, method, code) that are logged separately; further
/// kinds are logged together.
const KINDS_MAX: usize = 512;

/// All methods behind the doors; any other path counts as the method [`UNKNOWN`].
const METHODS: [&str; 20] = [
    "/clarion.v1.AlertService/CreateAlert",
    "/clarion.v1.AlertService/PreviewAlert",
    "/clarion.v1.AlertService/GetAlert",
    "/clarion.v1.AlertService/ListAlerts",
    "/clarion.v1.AlertService/WatchAlert",
    "/clarion.v1.AlertService/CancelAlert",
    "/clarion.v1.AppService/CreateApp",
    "/clarion.v1.AppService/GetApp",
    "/clarion.v1.AppService/ListApps",
    "/clarion.v1.AppService/UpdateApp",
    "/clarion.v1.AppService/DeleteApp",
    "/clarion.v1.RegistryService/WriteDevices",
    "/clarion.v1.RegistryService/GetRegistryStats",
    "/clarion.shard.v1.FeedService/Feed",
    "/clarion.shard.v1.SnapshotService/ListSnapshots",
    "/clarion.shard.v1.SnapshotService/LoadSnapshot",
    "/clarion.shard.v1.SnapshotService/SaveSnapshot",
    "/clarion.store.v1.BackupService/ReadBackup",
    UNKNOWN,
    OTHERS,
];
const UNKNOWN: &str = "unknown method";
const OTHERS: &str = "many methods or peers";

/// Method of a path, for the log; `None`: health and reflection.
fn method(path: &str) -> Option<&'static str> {
    if path.starts_with("/grpc.") {
        return None;
    }
    Some(METHODS.into_iter().find(|method| *method == path).unwrap_or(UNKNOWN))
}

/// Layer that gives each request of a service a span and log lines.
#[derive(Debug, Clone)]
pub(super) struct TraceLayer {
    clock: Clock,
    failures: Arc<Mutex<Failures>>,
}

impl TraceLayer {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, failures: Arc::default() }
    }
}

impl<S> tower::Layer<S> for TraceLayer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced { inner, layer: self.clone() }
    }
}

/// A service whose requests have spans and lines.
#[derive(Debug, Clone)]
pub(super) struct Traced<S> {
    inner: S,
    layer: TraceLayer,
}

impl<S, B, A> tower::Service<http::Request<B>> for Traced<S>
where
    S: tower::Service<http::Request<B>, Response = http::Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let Some(method) = method(request.uri().path()) else {
            return self.inner.call(request).boxed();
        };
        let address = request.extensions().get::<Peer>().map(|peer| peer.address);
        let span = span(&request, method, address);
        let answer = span.in_scope(|| self.inner.call(request));
        let (layer, begun) = (self.layer.clone(), self.layer.clock.now());
        let logged = async move {
            let answer = answer.await?;
            let elapsed = layer.clock.now().since(begun);
            layer.log(method, address, status(answer.headers()).as_ref(), elapsed);
            Ok(answer)
        };
        logged.instrument(span).boxed()
    }
}

/// The span of a request, named by its method.
fn span<B>(
    request: &http::Request<B>,
    method: &'static str,
    peer: Option<SocketAddr>,
) -> tracing::Span {
    let peer = peer.map(tracing::field::display);
    let span = tracing::info_span!(
        "request",
        otel.name = method,
        otel.kind = "server",
        rpc.system = "grpc",
        method,
        peer
    );
    let parent =
        opentelemetry::global::get_text_map_propagator(|p| p.extract(&Headers(request.headers())));
    // Fails only if no layer for traces is installed, and then the parent is not needed.
    let _ = span.set_parent(parent);
    span
}

/// Status of a response that is only an error; a stream that fails later has it in its trailers.
fn status(headers: &http::HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

impl TraceLayer {
    // The span has method and peer.
    fn log(
        &self,
        method: &'static str,
        address: Option<SocketAddr>,
        status: Option<&Status>,
        elapsed: Duration,
    ) {
        let elapsed_ms = elapsed.as_millis();
        let code = status.map_or(Code::Ok, Status::code);
        // A snapshot takes as long as its node needs.
        let is_slow = elapsed >= SLOW && super::method::method(method) != Method::Upload;
        if code == Code::Ok && !is_slow {
            return tracing::debug!(elapsed_ms, "request answered in time");
        }
        let peer = address.map_or(PeerKey::NONE, |address| PeerKey::of(address.ip()));
        let now = self.clock.now().since(Time(0));
        let Some((method, times)) = self.failures.lock().note(peer, method, code, now) else {
            return;
        };
        let reason =
            status.and_then(|status| status.get_details_error_info()).map(|info| info.reason);
        let reason = reason.unwrap_or_default();
        match code {
            Code::Ok => tracing::warn!(of = method, elapsed_ms, times, "request answered slowly"),
            Code::Cancelled
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated => {
                tracing::info!(
                    of = method,
                    ?code,
                    reason,
                    elapsed_ms,
                    times,
                    "request refused with status"
                );
            }
            Code::Unknown
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => {
                tracing::warn!(
                    of = method,
                    ?code,
                    reason,
                    elapsed_ms,
                    times,
                    "request failed with status"
                );
            }
        }
    }
}

/// Failures by kind, so that each kind is logged once a minute. Pure, and of limited size.
#[derive(Debug, Default)]
struct Failures {
    kinds: BTreeMap<(PeerKey, &'static str, i32), (Repeated, Duration)>,
    /// Failures of kinds beyond [`KINDS_MAX`].
    others: Repeated,
}

impl Failures {
    /// Records a failure. `Some`: log it for this method, with the number since the last line.
    fn note(
        &mut self,
        peer: PeerKey,
        method: &'static str,
        code: Code,
        now: Duration,
    ) -> Option<(&'static str, u64)> {
        let kind = (peer, method, i32::from(code));
        if self.kinds.len() >= KINDS_MAX && !self.kinds.contains_key(&kind) {
            self.kinds.retain(|_, (_, last)| now.saturating_sub(*last) < AGAIN_AFTER);
        }
        if self.kinds.len() >= KINDS_MAX && !self.kinds.contains_key(&kind) {
            return self.others.note("", now).map(|times| (OTHERS, times));
        }
        let (repeated, last) = self.kinds.entry(kind).or_default();
        *last = now;
        repeated.note("", now).map(|times| (method, times))
    }
}

struct Headers<'a>(&'a http::HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use clarion_proto::wire::DESCRIPTORS;
    use prost_reflect::DescriptorPool;

    use super::*;

    fn peer(n: u32) -> PeerKey {
        PeerKey::of(std::net::Ipv4Addr::from_bits(n).into())
    }

    #[test]
    fn every_method_has_its_name_and_probes_have_none() {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("the contract");
        for service in
            pool.services().filter(|service| !service.full_name().contains("ShardService"))
        {
            for method_of in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method_of.name());
                assert_eq!(method(&path), Some(path.as_str()));
            }
        }
        assert_eq!(method("/clarion.v1.AlertService/../../x"), Some(UNKNOWN));
        assert_eq!(
            (
                method("/grpc.health.v1.Health/Check"),
                method("/grpc.reflection.v1.ServerReflection/x")
            ),
            (None, None)
        );
    }

    #[test]
    fn a_flood_of_failures_is_a_line_a_minute_for_each_kind_and_bounded_kinds() {
        let mut failures = Failures::default();
        let at = Duration::from_secs;
        let mut note = |n, code, s| failures.note(peer(n), METHODS[0], code, at(s));
        assert_eq!(note(1, Code::NotFound, 0), Some((METHODS[0], 1)));
        assert_eq!((0..1_000).filter_map(|_| note(1, Code::NotFound, 1)).count(), 0);
        assert_eq!(note(1, Code::Aborted, 1), Some((METHODS[0], 1)), "another code");
        assert_eq!(note(2, Code::NotFound, 1), Some((METHODS[0], 1)), "another peer");
        assert_eq!(note(1, Code::NotFound, 60), Some((METHODS[0], 1_001)));
        let told = (10..10_010).filter_map(|n| note(n, Code::NotFound, 60)).count();
        assert!(told <= KINDS_MAX, "{told} lines of 10,000 addresses");
        assert_eq!(
            note(20_000, Code::NotFound, 120),
            Some((METHODS[0], 1)),
            "those of a minute ago are forgotten"
        );
        assert!(failures.kinds.len() <= KINDS_MAX);
    }
}
