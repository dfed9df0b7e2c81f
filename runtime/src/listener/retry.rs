//! Statuses that say whether and when a retry helps: for programs in `google.rpc.RetryInfo`, for
//! gRPC libraries in the metadata `grpc-retry-pushback-ms` (gRFC A6).
//!
//! A library with a retry policy waits as long as the pushback says instead of its own backoff, if
//! the policy names the code; a negative pushback ends its retries.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt};

/// Metadata by which gRPC libraries learn when to retry.
const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// Domain of all reasons in `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "clarion";

/// A status for which a retry helps after a time; with a reason for programs and its metadata.
pub fn again(
    code: Code,
    reason: &str,
    message: String,
    metadata: impl Into<HashMap<String, String>>,
    retry: Duration,
) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(retry));
    details.set_error_info(reason, DOMAIN, metadata);
    // Rounded up: a retry that is a part of a millisecond early is refused again.
    let pushback = retry.as_nanos().div_ceil(1_000_000).to_string();
    with_pushback(code, message, details, &pushback)
}

/// A status for which no retry helps, although its code suggests one.
pub fn never(
    code: Code,
    reason: &str,
    message: String,
    metadata: impl Into<HashMap<String, String>>,
) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    with_pushback(code, message, details, "-1")
}

fn with_pushback(code: Code, message: String, details: ErrorDetails, pushback: &str) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(PUSHBACK, pushback.parse().expect("digits are visible ASCII"));
    Status::with_error_details_and_metadata(code, message, details, metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushback_and_retry_info_agree() {
        let retry = Duration::from_micros(1_500_100);
        let status = again(Code::Unavailable, "AWAY", "away".to_owned(), [], retry);
        let pushback = status.metadata().get(PUSHBACK).expect("set");
        assert_eq!(pushback, "1501");
        assert_eq!(status.get_details_retry_info().and_then(|info| info.retry_delay), Some(retry));
        let status = never(Code::ResourceExhausted, "LARGE", "large".to_owned(), []);
        assert_eq!(status.metadata().get(PUSHBACK).expect("set"), "-1");
        assert!(status.get_details_retry_info().is_none());
    }
}
