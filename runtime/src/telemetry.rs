//! Log lines on standard error ([`crate::lines`]), and traces over OTLP if an endpoint is
//! configured.
//!
//! - `CLARION_LOG` filters log lines (default: `info`; example: `clarion_shard=debug,info`).
//! - `OTEL_EXPORTER_OTLP_ENDPOINT` enables traces; the other `OTEL_…` variables have the meaning that
//!   OpenTelemetry defines.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::lines::{self, Lines};

/// Filter of log lines without `CLARION_LOG`.
const DIRECTIVES: &str = "info,h2=warn,hyper_util=warn,opentelemetry_sdk=warn";

/// Keeps telemetry alive; on drop what is buffered is sent and written, for a few seconds at most.
#[derive(Debug)]
#[must_use = "telemetry ends when the guard is dropped"]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `CLARION_LOG` is not a valid filter.
    #[error("CLARION_LOG: {0}")]
    Filter(String),
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` is not usable.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT: {0}")]
    Exporter(String),
}

/// Starts telemetry for a process. Called once, within a tokio runtime (the exporter's connection lives on it); a
/// second call in the same process, as in tests, changes nothing.
///
/// # Errors
/// An environment variable that cannot be used.
pub fn init(service: &'static str) -> Result<Guard, TelemetryError> {
    let directives = std::env::var("CLARION_LOG");
    let directives = directives.as_deref().unwrap_or(DIRECTIVES);
    let filter: Targets = directives
        .parse()
        .map_err(|e| TelemetryError::Filter(format!("{directives:?} is not a filter: {e}")))?;
    let provider = match std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT") {
        Ok(endpoint) if !endpoint.is_empty() => Some(provider(service)?),
        _ => None,
    };
    lines::install_panic_hook();
    let traces = provider
        .as_ref()
        .map(|p| tracing_opentelemetry::layer().with_tracer(p.tracer(service)).boxed());
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let written = tracing_subscriber::fmt::layer()
        .with_writer(|| Lines::stderr().clone())
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(true);
    // Refused where a subscriber is set already: the first one stays.
    let _ = tracing_subscriber::registry().with(traces).with(filter).with(written).try_init();
    Ok(Guard { provider })
}

/// Makes a span part of the caller's trace, if the request carries one (`traceparent`, W3C Trace
/// Context).
pub fn continue_trace(span: &tracing::Span, metadata: &tonic::metadata::MetadataMap) {
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;
    let caller = opentelemetry::global::get_text_map_propagator(|p| p.extract(&Incoming(metadata)));
    // Refused where no traces are collected: then there is nothing to be part of.
    let _ = span.set_parent(caller);
}

struct Incoming<'a>(&'a tonic::metadata::MetadataMap);

impl opentelemetry::propagation::Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0
            .keys()
            .filter_map(|key| match key {
                tonic::metadata::KeyRef::Ascii(key) => Some(key.as_str()),
                tonic::metadata::KeyRef::Binary(_) => None,
            })
            .collect()
    }
}

fn provider(service: &'static str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .build()
        .map_err(|e| TelemetryError::Exporter(e.to_string()))?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name(format!("clarion-{service}")).build())
        .build())
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take() {
            // A collector that is away must not keep the process; the SDK gives up after its own time-out.
            let _ = provider.shutdown();
        }
        Lines::stderr().flush(lines::FLUSH_WITHIN);
    }
}
