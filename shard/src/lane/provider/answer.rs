//! The parser for the body of an answer, by the platform of the lane.

use std::time::Duration;

use super::{apns, fcm};
use crate::outcome::{Answer, Platform};

/// Parses an answer from its status, the stored part of its body, and its `retry-after`.
#[must_use]
pub fn read(platform: Platform, status: u16, body: &[u8], retry_after: Option<Duration>) -> Answer {
    let answer = match platform {
        Platform::Apns => apns::answer(status, body),
        Platform::Fcm => fcm::answer(status, body),
    };
    Answer { retry_after, ..answer }
}

/// Returns the longest body of an answer that is read, bytes.
pub(crate) const fn body_bytes_max(platform: Platform) -> usize {
    match platform {
        Platform::Apns => apns::BODY_BYTES_MAX,
        Platform::Fcm => fcm::BODY_BYTES_MAX,
    }
}
