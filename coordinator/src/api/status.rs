//! Conversion of errors to `Status`: the code has the kind, the details have the field, the reason
//! and the time of a retry.
//!
//! `google.rpc.BadRequest` names fields, `google.rpc.ErrorInfo` carries a reason that programs may
//! match on (domain `clarion`), `google.rpc.RetryInfo` says that a retry helps, and when. The same
//! time is in the metadata `grpc-retry-pushback-ms` ([`clarion_runtime::listener::retry`]).

use std::{collections::HashMap, time::Duration};

use clarion_proto::{error::InvalidField, ids::AlertName};
use clarion_runtime::{
    listener::retry::{self, DOMAIN},
    peers::{PeerKey, shares::Full},
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    admission::Refusal,
    dispatch::{CountError, StartError},
    store::StoreError,
};

/// Longest field and longest problem of a refusal, bytes. A status travels in headers, of which
/// callers accept 8 to 16 KiB: the text is sent twice, in the message (each byte as up to three)
/// and in the details (each byte as four thirds).
const SHOWN_BYTES_MAX: usize = 512;

/// INVALID_ARGUMENT for a field. The caller's own text in it is cut to [`SHOWN_BYTES_MAX`].
pub(super) fn invalid(mut field: InvalidField) -> Status {
    for text in [&mut field.field, &mut field.problem] {
        text.truncate(text.floor_char_boundary(SHOWN_BYTES_MAX));
    }
    let message = field.to_string();
    let details = ErrorDetails::with_bad_request_violation(field.field, field.problem);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// NOT_FOUND for a resource name.
pub(super) fn not_found(name: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_resource_info("", name, "", "the resource does not exist");
    Status::with_error_details(Code::NotFound, format!("there is no {name}"), details)
}

/// ALREADY_EXISTS: another resource has the name or the request id.
pub(super) fn already_exists(message: String) -> Status {
    let details = ErrorDetails::with_error_info("TAKEN", DOMAIN, HashMap::from([]));
    Status::with_error_details(Code::AlreadyExists, message, details)
}

/// ALREADY_EXISTS: the request id was used for an alert that differs first in `field`. The existing
/// alert is named, so that a caller that lost its first request finds it.
pub(super) fn used_for(alert: &AlertName, field: &str) -> Status {
    let metadata = [("alert", alert.name()), ("field", field.to_owned())]
        .map(|(key, value)| (key.to_owned(), value));
    let details = ErrorDetails::with_error_info("TAKEN", DOMAIN, HashMap::from(metadata));
    let message = format!(
        "request_id: was used for {alert}, which differs in {field}; use another request_id for \
         another alert"
    );
    Status::with_error_details(Code::AlreadyExists, message, details)
}

/// PERMISSION_DENIED for a region or an audience that is too small: addressing it, or counting it,
/// could single out a person. Says the limit, never the count.
pub(super) fn too_small(reason: &str, field: &str, limit: &str) -> Status {
    let metadata =
        [("field", field), ("limit", limit)].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::from(metadata));
    let message = format!(
        "{field}: must have at least {limit}; to accept less, start the coordinator with \
         --allow-small-audiences"
    );
    Status::with_error_details(Code::PermissionDenied, message, details)
}

/// INVALID_ARGUMENT for tonic's status of a message that it could not take: OUT_OF_RANGE for a
/// message that is too large, INTERNAL for a malformed message. Both are the caller's fault, and a
/// retry does not help. `None`: another status.
pub(super) fn unreadable(told: &Status) -> Option<Status> {
    match told.code() {
        Code::OutOfRange => Some(invalid(InvalidField::new("request", told.message()))),
        Code::Internal if told.message() != DEFECT => Some(invalid(InvalidField::new(
            "request",
            format_args!("cannot be read: {}", told.message()),
        ))),
        _ => None,
    }
}

/// FAILED_PRECONDITION, with a reason for programs.
pub(super) fn precondition(reason: &str, message: String) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::from([]));
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// RESOURCE_EXHAUSTED: too much at once; a retry after `retry` helps.
pub(super) fn exhausted(reason: &str, message: String, retry: Duration) -> Status {
    again(Code::ResourceExhausted, reason, message, retry)
}

/// RESOURCE_EXHAUSTED for a shared limit, or one peer's share of it; a retry helps when some of the
/// places are free again.
pub(super) fn share(
    reason: &str,
    what: &str,
    peer: PeerKey,
    full: Full,
    retry: Duration,
) -> Status {
    let Full { total, held } = full;
    let message = match held {
        0 => format!("all {total} {what} are in use"),
        held => format!("{peer} holds {held} of {total} {what}; the rest is kept for other peers"),
    };
    exhausted(reason, message, retry)
}

/// DEADLINE_EXCEEDED: the caller was too slow. The message names the awaited event.
pub(super) fn late(reason: &str, message: String) -> Status {
    again(Code::DeadlineExceeded, reason, message, Duration::from_secs(1))
}

/// UNAVAILABLE: another coordinator directs the alert, and knows its progress. A new connection may
/// reach that coordinator.
pub(super) fn elsewhere(alert: &AlertName) -> Status {
    again(
        Code::Unavailable,
        "DIRECTED_ELSEWHERE",
        format!("another coordinator directs {alert}; connect again to reach it there"),
        Duration::from_secs(1),
    )
}

/// UNAVAILABLE: the alert was stopped, but its cancel is not recorded.
pub(super) fn unrecorded(alert: &AlertName, error: &StoreError) -> Status {
    again(
        Code::Unavailable,
        "CANCEL_UNRECORDED",
        format!(
            "{alert} is stopped, but its cancel is not recorded yet: {error}; cancel it again until \
             the answer is OK"
        ),
        Duration::from_secs(1),
    )
}

/// UNAVAILABLE during a graceful shutdown; another coordinator, or the next one, will answer.
pub(super) fn draining() -> Status {
    again(
        Code::Unavailable,
        "DRAINING",
        "the coordinator is shutting down".to_owned(),
        Duration::from_secs(1),
    )
}

/// UNAVAILABLE: the folder or bucket of objects does not answer.
pub(super) fn objects_away(message: String) -> Status {
    again(Code::Unavailable, "OBJECTS_AWAY", message, Duration::from_secs(1))
}

/// INTERNAL for a defect, which is logged here; the caller does not get its text.
pub(super) fn internal(error: &dyn std::fmt::Display) -> Status {
    tracing::error!(%error, "request hit a coordinator defect");
    Status::internal(DEFECT)
}

/// Message that a caller gets for a defect.
const DEFECT: &str = "the coordinator has a defect; see its log";

/// Status of an error of the store.
pub(super) fn store(error: StoreError) -> Status {
    let message = error.to_string();
    match error {
        StoreError::Conflict(_) | StoreError::Superseded { .. } => Status::aborted(message),
        StoreError::Trimmed { .. } => Status::not_found(message),
        StoreError::Missing(name) => not_found(&name),
        StoreError::InUse { .. } => precondition("APP_IN_USE", message),
        StoreError::TooManyActive { .. } => {
            exhausted("ALERTS_ACTIVE", message, Duration::from_secs(5))
        }
        StoreError::Full { .. }
        | StoreError::ReserveFull { .. }
        | StoreError::ReserveShare { .. } => exhausted("STORE_FULL", message, SOMEBODY_MUST_ACT),
        StoreError::TooManyApps { .. } => exhausted("APPS_MAX", message, SOMEBODY_MUST_ACT),
        StoreError::Away(_) | StoreError::TakenOver { .. } | StoreError::Broken(_) => {
            again(Code::Unavailable, "STORE_AWAY", message, Duration::from_secs(1))
        }
        StoreError::Busy(_) => exhausted("STORE_BUSY", message, Duration::from_secs(1)),
        StoreError::Damaged { .. } | StoreError::Unreadable { .. } => {
            tracing::error!(error = message, "request needs a damaged record of the store");
            Status::data_loss(message)
        }
    }
}

/// Status of a refusal by admission.
pub(super) fn refusal(refusal: Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::Invalid(field) => invalid(field),
        Refusal::LaneNotConfigured { .. } => precondition("LANE_NOT_CONFIGURED", message),
        Refusal::TestOnLiveLane { .. } => precondition("TEST_ON_LIVE_LANE", message),
        Refusal::LiveWithoutIdentity | Refusal::ExerciseWithoutIdentity { .. } => {
            precondition("IDENTITY_NOT_CONFIGURED", message)
        }
        Refusal::CoverFailed(_) => internal(&message),
        Refusal::LargeFull(_) => exhausted("LARGE_BUSY", message, Duration::from_secs(5)),
        Refusal::CoversFull { .. } => exhausted("COVERS_FULL", message, Duration::from_secs(5)),
    }
}

/// Status of an alert that dispatch cannot start.
pub(super) fn start(error: &StartError) -> Status {
    let message = error.to_string();
    match error {
        StartError::NoNodes { .. } => {
            again(Code::Unavailable, "NO_NODES", message, Duration::from_secs(1))
        }
        StartError::Lane(_) => precondition("LANE_NOT_CONFIGURED", message),
        StartError::Twice(_) | StartError::OtherLog { .. } => internal(&message),
    }
}

/// Status of a count that failed.
pub(super) fn count(error: &CountError) -> Status {
    let message = error.to_string();
    match error {
        CountError::NoNodes { .. } => {
            again(Code::Unavailable, "NO_NODES", message, Duration::from_secs(1))
        }
        CountError::Absent { .. } => {
            again(Code::Unavailable, "NODES_ABSENT", message, Duration::from_secs(1))
        }
        CountError::Deadline { .. } => {
            again(Code::DeadlineExceeded, "COUNT_DEADLINE", message, Duration::from_secs(1))
        }
        CountError::Busy { .. } => exhausted("COUNTS_BUSY", message, Duration::from_secs(1)),
        CountError::Refused { again: true, .. } => {
            exhausted("COUNT_REFUSED", message, Duration::from_secs(5))
        }
        CountError::Refused { again: false, .. } => precondition("COUNT_REFUSED", message),
    }
}

/// RESOURCE_EXHAUSTED for metadata that is too large. The code is the one that gRPC libraries give
/// for sizes; a retry with the same metadata does not help.
pub(super) fn metadata_too_large(bytes: usize, limit: usize) -> Status {
    let metadata = [("bytes", bytes.to_string()), ("limit", limit.to_string())];
    let message = format!(
        "metadata: must be at most {limit} bytes, with 32 bytes added for each entry; got {bytes} \
         bytes"
    );
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
    retry::never(Code::ResourceExhausted, "METADATA_TOO_LARGE", message, metadata)
}

fn again(code: Code, reason: &str, message: String, retry: Duration) -> Status {
    retry::again(code, reason, message, [], retry)
}

/// Time until a retry of a request that fails until the operator makes room.
pub(super) const SOMEBODY_MUST_ACT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_does_not_grow_with_what_it_refuses() {
        let status =
            invalid(InvalidField::new("name", format_args!("is {:?}", "ü".repeat(10_000))));
        assert!(
            status.message().len() <= 2 * SHOWN_BYTES_MAX
                && status.details().len() <= 4 * SHOWN_BYTES_MAX
        );
        assert!(status.message().starts_with("name: is \"üü"));
    }
}
