//! The ledger: every request that the gateways recorded, by device.

/// Decision of a gateway about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// The push reaches the phone.
    Accepted,
    /// The gateway called the token dead.
    Dead,
    /// The gateway refused or deferred the push.
    Failed,
    /// The gateway read the request and did not process it.
    Ignored,
}

/// Knowledge of the sender about the gateway's decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// The response reached the sender.
    Given,
    /// The sender got an error, although the push reaches the device.
    Denied,
    /// The response was sent, but the connection ended right after, or the stream was reset, so the
    /// sender may know the decision or not.
    Doubtful,
    /// The gateway sent no response.
    Withheld,
}

/// One push request in the gateways' record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Push {
    /// Hash of the token, xxh3-64.
    pub token_hash: u64,
    /// Time of the decision, nanoseconds of `CLOCK_MONOTONIC`, which all processes of a machine
    /// share.
    pub at_ns: u64,
    /// Decision of the gateway.
    pub fate: Fate,
    /// Knowledge of the sender about the decision.
    pub answer: Answer,
}

/// All requests of a run, in the order of token and time, 24 bytes each. Nothing else of a run is
/// kept completely.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    pushes: Vec<Push>,
}

impl Ledger {
    /// Creates a ledger of requests in any order.
    #[must_use]
    pub fn new(mut pushes: Vec<Push>) -> Self {
        pushes.sort_unstable();
        Self { pushes }
    }

    /// Returns the requests of one token, oldest first.
    #[must_use]
    pub fn of(&self, token_hash: u64) -> &[Push] {
        let from = self.pushes.partition_point(|p| p.token_hash < token_hash);
        let count = self.pushes[from..].iter().take_while(|p| p.token_hash == token_hash).count();
        &self.pushes[from..from + count]
    }

    /// Returns all requests in order.
    #[must_use]
    pub fn pushes(&self) -> &[Push] {
        &self.pushes
    }
}

/// Sums over the requests of one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Time of the first acceptance.
    pub first_accepted_ns: Option<u64>,
    /// Acceptances after the first that follow an unanswered or failed request.
    pub repeated: u64,
    /// Acceptances after the first that no unanswered or failed request explains.
    pub duplicates: u64,
    /// Whether a gateway called the token dead.
    pub dead: bool,
    /// Whether requests were read and none was answered.
    pub unknown: bool,
    /// Requests that the gateway left unanswered.
    pub unanswered: u64,
}

impl Tally {
    /// Adds up the requests of one device, oldest first.
    #[must_use]
    pub fn of(pushes: &[Push]) -> Self {
        let unknown = !pushes.is_empty() && pushes.iter().all(|p| p.answer == Answer::Withheld);
        let mut tally = Self { unknown, ..Self::default() };
        // Whether the sender has had a reason to try again since the last acceptance.
        let mut reason = false;
        for push in pushes {
            tally.unanswered += u64::from(push.answer == Answer::Withheld);
            match push.fate {
                Fate::Accepted => {
                    match (tally.first_accepted_ns, reason) {
                        (None, _) => tally.first_accepted_ns = Some(push.at_ns),
                        (Some(_), true) => tally.repeated += 1,
                        (Some(_), false) => tally.duplicates += 1,
                    }
                    reason = push.answer != Answer::Given;
                }
                Fate::Dead => tally.dead = true,
                Fate::Failed | Fate::Ignored => reason = true,
            }
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(requests: &[(Fate, Answer)]) -> Tally {
        let pushes: Vec<_> = requests
            .iter()
            .zip(1..)
            .map(|((fate, answer), at_ns)| Push {
                token_hash: 1,
                at_ns,
                fate: *fate,
                answer: *answer,
            })
            .collect();
        Tally::of(&pushes)
    }

    const TAKEN: (Fate, Answer) = (Fate::Accepted, Answer::Given);
    const TAKEN_SILENTLY: (Fate, Answer) = (Fate::Accepted, Answer::Withheld);
    const FAILED: (Fate, Answer) = (Fate::Failed, Answer::Given);
    const IGNORED: (Fate, Answer) = (Fate::Ignored, Answer::Withheld);

    #[test]
    fn acceptances_after_the_first_are_duplicates_unless_there_was_a_reason() {
        assert_eq!(tally(&[TAKEN]), Tally { first_accepted_ns: Some(1), ..Tally::default() });
        assert_eq!(tally(&[TAKEN, TAKEN, TAKEN]).duplicates, 2);
        let again = tally(&[TAKEN, FAILED, TAKEN]);
        assert_eq!((again.duplicates, again.repeated), (0, 1));
        let again = tally(&[TAKEN_SILENTLY, TAKEN]);
        assert_eq!((again.duplicates, again.repeated, again.unanswered), (0, 1, 1));
        let again = tally(&[(Fate::Accepted, Answer::Denied), TAKEN]);
        assert_eq!((again.duplicates, again.repeated, again.unanswered), (0, 1, 0));
        let again = tally(&[(Fate::Accepted, Answer::Doubtful), TAKEN]);
        assert_eq!((again.duplicates, again.repeated, again.unanswered), (0, 1, 0));
        // The acceptance that follows a reason uses it up.
        let again = tally(&[TAKEN_SILENTLY, TAKEN, TAKEN]);
        assert_eq!((again.duplicates, again.repeated), (1, 1));
        // A failure before the first acceptance is an ordinary retry.
        let once = tally(&[FAILED, IGNORED, TAKEN]);
        assert_eq!((once.duplicates, once.repeated, once.first_accepted_ns), (0, 0, Some(3)));
    }

    #[test]
    fn unknown_is_sent_and_never_answered() {
        assert!(tally(&[IGNORED]).unknown);
        assert!(!tally(&[IGNORED, FAILED]).unknown);
        assert!(!tally(&[]).unknown);
        assert!(tally(&[IGNORED, TAKEN_SILENTLY]).unknown);
    }

    #[test]
    fn requests_are_found_by_token() {
        let push = |token_hash, at_ns| Push {
            token_hash,
            at_ns,
            fate: Fate::Accepted,
            answer: Answer::Given,
        };
        let ledger = Ledger::new(vec![push(9, 3), push(5, 2), push(9, 1)]);
        assert_eq!(ledger.of(9), [push(9, 1), push(9, 3)]);
        assert_eq!(ledger.of(5), [push(5, 2)]);
        assert!(ledger.of(7).is_empty());
    }
}
