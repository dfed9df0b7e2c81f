//! A span for each request, child of the caller's: `traceparent` (W3C Trace Context) is honoured on every method.

use std::task::{Context, Poll};

use opentelemetry::propagation::Extractor;
use tracing::{Instrument as _, instrument::Instrumented};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Puts a service into a span for each request.
#[derive(Debug, Clone, Copy)]
pub(super) struct TraceLayer;

impl<S> tower::Layer<S> for TraceLayer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced { inner }
    }
}

/// A service whose requests have spans.
#[derive(Debug, Clone)]
pub(super) struct Traced<S> {
    inner: S,
}

impl<S: tower::Service<http::Request<B>>, B> tower::Service<http::Request<B>> for Traced<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Instrumented<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let span = span(&request);
        let answer = span.in_scope(|| self.inner.call(request));
        answer.instrument(span)
    }
}

/// The span of a request, named by its method.
fn span<B>(request: &http::Request<B>) -> tracing::Span {
    let method = request.uri().path();
    let span = tracing::info_span!("request", otel.name = method, otel.kind = "server", rpc.system = "grpc", method);
    let parent = opentelemetry::global::get_text_map_propagator(|p| p.extract(&Headers(request.headers())));
    // Refused only where no layer for traces is installed: then there is nobody to tell.
    let _ = span.set_parent(parent);
    span
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
