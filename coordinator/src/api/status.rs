//! Errors to `Status`, in one place: the code says what kind, the details say which field, whose
//! limit, when to try again.
//!
//! `google.rpc.BadRequest` names fields, `google.rpc.ErrorInfo` carries a reason that programs may
//! match on (domain `clarion`), `google.rpc.RetryInfo` says that trying again helps and when.

use std::{collections::HashMap, time::Duration};

use clarion_proto::error::InvalidField;
use clarion_runtime::peers::{PeerKey, shares::Full};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    admission::Refusal,
    dispatch::{CountError, StartError},
    store::StoreError,
};

/// Domain of all reasons.
const DOMAIN: &str = "clarion";

/// Longest field and longest problem of a refusal, bytes. A status travels in headers, of which
/// callers take 8 to 16 KiB, twice (message and details), each byte of it as three or as four
/// thirds.
const SHOWN_BYTES_MAX: usize = 512;

/// A field that cannot be taken. What the caller sent is repeated so far as it helps, and no
/// further.
pub(super) fn invalid(mut field: InvalidField) -> Status {
    for text in [&mut field.field, &mut field.problem] {
        text.truncate(text.floor_char_boundary(SHOWN_BYTES_MAX));
    }
    let message = field.to_string();
    let details = ErrorDetails::with_bad_request_violation(field.field, field.problem);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// There is none of that name.
pub(super) fn not_found(name: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_resource_info("", name, "", "there is none of that name");
    Status::with_error_details(Code::NotFound, format!("there is no {name}"), details)
}

/// The name or request id is taken by something else.
pub(super) fn already_exists(message: String) -> Status {
    let details = ErrorDetails::with_error_info("TAKEN", DOMAIN, HashMap::from([]));
    Status::with_error_details(Code::AlreadyExists, message, details)
}

/// A region or an audience so small that addressing it, or counting it, singles somebody out. Says
/// the limit, never the count.
pub(super) fn too_small(reason: &str, field: &str, limit: &str) -> Status {
    let metadata =
        [("field", field), ("limit", limit)].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::from(metadata));
    let message = format!(
        "{field}: has less than {limit}; only --allow-small-audiences at the coordinator's start takes it"
    );
    Status::with_error_details(Code::PermissionDenied, message, details)
}

/// What tonic says of a message that it could not take, as this API says it: too large is
/// OUT_OF_RANGE to tonic, no message of that kind INTERNAL. Both are the caller's fault, and trying
/// again does not help. `None`: it is something else.
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

/// The state of things does not allow it; a reason for programs.
pub(super) fn precondition(reason: &str, message: String) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::from([]));
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// Too much at once; trying again helps.
pub(super) fn exhausted(reason: &str, message: String, retry: Duration) -> Status {
    again(Code::ResourceExhausted, reason, message, retry)
}

/// As many as there may be of something, or as many as one peer may have of it; trying again helps
/// when some have ended.
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

/// The caller was too slow. Says what was waited for.
pub(super) fn late(reason: &str, message: String) -> Status {
    again(Code::DeadlineExceeded, reason, message, Duration::from_secs(1))
}

/// The process stops in order; another one, or the next, will answer.
pub(super) fn draining() -> Status {
    again(
        Code::Unavailable,
        "DRAINING",
        "the coordinator is stopping".to_owned(),
        Duration::from_secs(1),
    )
}

/// A defect: logged here, told without its words.
pub(super) fn internal(error: &dyn std::fmt::Display) -> Status {
    tracing::error!(%error, "a defect of the coordinator");
    Status::internal(DEFECT)
}

/// All that a caller is told of a defect.
const DEFECT: &str = "a defect of the coordinator; its log says more";

/// What the store refuses.
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
        StoreError::Away(_) => {
            again(Code::Unavailable, "STORE_AWAY", message, Duration::from_secs(1))
        }
    }
}

/// What admission refuses.
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
        Refusal::CoversFull { .. } => exhausted("COVERS_FULL", message, Duration::from_secs(5)),
    }
}

/// What dispatch refuses.
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

/// What cannot be counted.
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

fn again(code: Code, reason: &str, message: String, retry: Duration) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(retry));
    details.set_error_info(reason, DOMAIN, HashMap::from([]));
    Status::with_error_details(code, message, details)
}

/// When to try again what does not pass by itself: the operator has to make room.
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
