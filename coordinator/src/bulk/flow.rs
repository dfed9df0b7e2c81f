//! The order of batches towards the coordinator: a state machine without I/O and clock.
//!
//! ```text
//!   read --push--> waiting --next_to_send--> sent --answered--> done
//!                     ^                        |
//!                     +-- broken: all of them -+
//! ```
//!
//! Batches are sent and answered in one order. After a connection has broken, every batch without an
//! answer is sent again: the changes have the same times, so writing them twice changes nothing.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use clarion_proto::wire::v1::WriteDevicesResponse;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    batch::{Batch, Outcome},
    error::ImportError,
};

/// Number of batches without an answer: one is written, one travels, one is read by the server.
pub(super) const WINDOW: usize = 3;
/// First and longest time between two attempts, if the coordinator names none.
const BACKOFF: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];
/// Time of pauses without an answer after which an import ends, to be resumed later.
const GIVE_UP_AFTER: Duration = Duration::from_secs(15 * 60);
/// The same before the first answer: the address is probably wrong.
const BEGIN_WITHIN: Duration = Duration::from_secs(60);

/// Batches that are not answered.
#[derive(Debug, Default)]
pub(super) struct Flow {
    window: VecDeque<Batch>,
    /// Number of batches of the window that the present stream has sent.
    sent: usize,
    /// Number of attempts since the last answer, and the time that they waited.
    failures: u32,
    waited: Duration,
    /// Whether any batch was answered.
    has_begun: bool,
}

/// What to do after an answer.
#[derive(Debug)]
pub(super) enum Step {
    /// The oldest batch is written.
    Written(Batch, Outcome),
    /// The store has no room: the stream must end, and another stream helps after this time.
    NoRoom(Option<Duration>),
}

impl Flow {
    /// Whether another batch may be pushed.
    pub(super) fn has_room(&self) -> bool {
        self.window.len() < WINDOW
    }

    /// Whether every batch is answered.
    pub(super) fn is_empty(&self) -> bool {
        self.window.is_empty()
    }

    /// Takes the next batch of the files.
    pub(super) fn push(&mut self, batch: Batch) {
        debug_assert!(self.has_room(), "the caller asks first");
        self.window.push_back(batch);
    }

    /// The next request for the present stream.
    pub(super) fn next_to_send(&mut self) -> Option<Bytes> {
        let next = self.window.get(self.sent)?;
        self.sent += 1;
        Some(next.request.clone())
    }

    /// Takes the answer to the oldest batch.
    ///
    /// # Errors
    /// The answer is not one to that batch.
    pub(super) fn answered(&mut self, answer: WriteDevicesResponse) -> Result<Step, ImportError> {
        if answer.errors.iter().any(|error| error.no_room) {
            let after = answer.retry_after.and_then(|after| Duration::try_from(after).ok());
            return Ok(Step::NoRoom(after));
        }
        let oldest = self.window.pop_front().filter(|_| self.sent > 0);
        let batch = oldest
            .ok_or_else(|| ImportError::Broken("an answer came without a batch".to_owned()))?;
        let outcome = batch.answered(answer)?;
        self.sent -= 1;
        (self.failures, self.waited, self.has_begun) = (0, Duration::ZERO, true);
        Ok(Step::Written(batch, outcome))
    }

    /// Notes that the stream is lost, and returns the time after which to open another stream.
    ///
    /// # Errors
    /// All attempts together have waited too long.
    pub(super) fn broken(
        &mut self,
        after: Option<Duration>,
        problem: &str,
    ) -> Result<Duration, ImportError> {
        self.sent = 0;
        let [first, longest] = BACKOFF;
        let own = first.saturating_mul(1 << self.failures.min(10)).min(longest);
        let after = after.unwrap_or(own);
        self.failures += 1;
        self.waited += after;
        let limit = if self.has_begun { GIVE_UP_AFTER } else { BEGIN_WITHIN };
        if self.waited > limit {
            let seconds = limit.as_secs();
            return Err(ImportError::GaveUp { seconds, problem: problem.to_owned() });
        }
        Ok(after)
    }
}

/// Whether another stream can help after a status, and after which time; `None`: it cannot.
pub(super) fn retry(status: &Status) -> Option<Option<Duration>> {
    match status.code() {
        // The coordinator is away, busy or shutting down; or the stream was idle.
        Code::Unavailable
        | Code::ResourceExhausted
        | Code::DeadlineExceeded
        | Code::Aborted
        // What tonic makes of a connection that ends.
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal => {
            let info = status.get_details_retry_info();
            Some(info.and_then(|info| info.retry_delay))
        }
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => None,
    }
}

#[cfg(test)]
mod tests {
    use clarion_runtime::listener::retry::again;

    use super::*;
    use crate::bulk::batch::tests::batch;

    fn answer(id: u64) -> WriteDevicesResponse {
        WriteDevicesResponse { batch_id: id, written: 1, ..Default::default() }
    }

    #[test]
    fn what_is_not_answered_is_sent_again_in_order() {
        let mut flow = Flow::default();
        for id in 1..=3 {
            assert!(flow.has_room());
            flow.push(batch(id, &[id], &[]));
        }
        assert!(!flow.has_room() && flow.next_to_send().is_some() && flow.next_to_send().is_some());
        let Ok(Step::Written(first, outcome)) = flow.answered(answer(1)) else { panic!("written") };
        assert_eq!((first.id, outcome.written), (1, 1));
        assert_eq!(flow.broken(None, "lost").expect("again"), BACKOFF[0]);
        assert!(flow.next_to_send().is_some() && flow.next_to_send().is_some());
        assert!(flow.next_to_send().is_none());
        for id in 2..=3 {
            let Ok(Step::Written(next, _)) = flow.answered(answer(id)) else { panic!("written") };
            assert_eq!(next.id, id);
        }
        assert!(flow.is_empty() && flow.answered(answer(4)).is_err());
    }

    #[test]
    fn a_store_without_room_sends_the_whole_batch_again() {
        let mut flow = Flow::default();
        flow.push(batch(1, &[1], &[]));
        flow.next_to_send();
        let full = WriteDevicesResponse {
            batch_id: 1,
            errors: vec![clarion_proto::wire::v1::DeviceError {
                no_room: true,
                ..Default::default()
            }],
            retry_after: Duration::from_secs(60).try_into().ok(),
            ..Default::default()
        };
        let Ok(Step::NoRoom(after)) = flow.answered(full) else { panic!("no room") };
        assert_eq!(flow.broken(after, "no room").expect("again"), Duration::from_secs(60));
        assert!(flow.next_to_send().is_some());
    }

    #[test]
    fn attempts_slow_down_and_end() {
        for (has_begun, limit) in [(false, BEGIN_WITHIN), (true, GIVE_UP_AFTER)] {
            let mut flow = Flow { has_begun, ..Flow::default() };
            let mut waited = Duration::ZERO;
            let gave_up = loop {
                match flow.broken(None, "connection refused") {
                    Ok(after) => waited += after,
                    Err(error) => break error.to_string(),
                }
            };
            assert!(waited <= limit && waited + BACKOFF[1] > limit);
            let words = format!("no rows were taken for {} s", limit.as_secs());
            assert!(gave_up.starts_with(&words), "{gave_up}");
            assert!(gave_up.contains("connection refused"));
        }
    }

    #[test]
    fn a_status_says_when_to_try_again() {
        let busy = again(
            Code::ResourceExhausted,
            "WRITE_STREAMS_MAX",
            "full".to_owned(),
            [],
            Duration::from_secs(5),
        );
        assert_eq!(retry(&busy), Some(Some(Duration::from_secs(5))));
        assert_eq!(retry(&Status::unavailable("gone")), Some(None));
        assert_eq!(retry(&Status::invalid_argument("wrong")), None);
    }
}
