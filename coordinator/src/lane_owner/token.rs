//! Schedule of token replacement: when a credential's token is due. Pure; [`super::apns`] and
//! [`super::oauth`] make the tokens.

use std::time::Duration;

use clarion_proto::time::Time;

/// The rules of a kind of token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Shortest age at which a token that a gateway refused is replaced.
    pub(crate) spacing: Duration,
}

/// Schedule of one credential's token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refresh {
    rules: Rules,
    /// When the present token is replaced; `None`: no token yet.
    replace_at: Option<Time>,
    /// Whether a gateway refused the present token.
    refused: bool,
    /// Earliest time of the next try.
    not_before: Time,
    /// Number of failures in a row.
    failures: u32,
    /// Whether a token is being made.
    under_way: bool,
}

impl Refresh {
    /// Schedule without a token: due at once.
    pub(crate) fn new(rules: Rules) -> Self {
        let (replace_at, not_before) = (None, Time(0));
        Self { rules, replace_at, refused: false, not_before, failures: 0, under_way: false }
    }

    /// Marks a token as being made: none is due until [`Refresh::minted`] or [`Refresh::failed`].
    pub(crate) fn begin(&mut self) {
        self.under_way = true;
    }

    /// Records a new token, which is to be replaced after `replace_after`.
    pub(crate) fn minted(&mut self, now: Time, replace_after: Duration) {
        *self = Self {
            replace_at: Some(now + replace_after),
            not_before: now + self.rules.spacing.min(replace_after),
            ..Self::new(self.rules)
        };
    }

    /// Records a failure to make a token; the next try is due after `pause`.
    pub(crate) fn failed(&mut self, now: Time, pause: Duration) {
        self.under_way = false;
        self.failures = self.failures.saturating_add(1);
        self.not_before = self.not_before.max(now + pause);
    }

    /// Whether the last try failed and its pause is not over.
    pub(crate) fn is_paused(&self, now: Time) -> bool {
        self.failures > 0 && now < self.not_before
    }

    /// Number of failures in a row, before the present try.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Records that a gateway refuses the token. A node may report the refusal of the old token
    /// just after a new token was issued: then one more token is made once the spacing allows,
    /// which does no harm.
    pub(crate) fn refused(&mut self) {
        self.refused = true;
    }

    /// Resets the schedule because the key was replaced: a token is due at once.
    pub(crate) fn replaced(&mut self) {
        *self = Self::new(self.rules);
    }

    /// When the next token is due.
    pub(crate) fn deadline(&self) -> Time {
        match self.replace_at {
            _ if self.under_way => Time::NEVER,
            Some(at) if !self.refused => at.max(self.not_before),
            _ => self.not_before,
        }
    }

    /// Whether a new token is due now.
    pub(crate) fn due(&self, now: Time) -> bool {
        now >= self.deadline()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const APNS: Rules = Rules { spacing: Duration::from_mins(20) };
    const LIFE: Duration = Duration::from_mins(45);

    fn minutes(n: u64) -> Time {
        Time(0) + Duration::from_secs(n * 60)
    }

    #[test]
    fn a_token_is_replaced_at_45_minutes() {
        let mut refresh = Refresh::new(APNS);
        assert!(refresh.due(minutes(0)), "there is none yet");
        refresh.minted(minutes(0), LIFE);
        assert!(!refresh.due(minutes(44)));
        assert!(refresh.due(minutes(45)));
    }

    #[test]
    fn a_refused_token_is_replaced_early_but_not_within_20_minutes() {
        let mut refresh = Refresh::new(APNS);
        refresh.minted(minutes(0), LIFE);
        refresh.refused();
        assert_eq!(refresh.deadline(), minutes(20));
        assert!(!refresh.due(minutes(19)));
        assert!(refresh.due(minutes(20)));
    }

    #[test]
    fn a_refusal_after_20_minutes_is_answered_at_once() {
        let mut refresh = Refresh::new(APNS);
        refresh.minted(minutes(0), LIFE);
        refresh.refused();
        assert!(refresh.due(minutes(30)));
    }

    #[test]
    fn refusals_without_end_make_three_tokens_an_hour() {
        let mut refresh = Refresh::new(APNS);
        let mut made = 0;
        for second in 0..3_600 {
            let now = Time(0) + Duration::from_secs(second);
            if refresh.due(now) {
                refresh.minted(now, LIFE);
                made += 1;
            }
            refresh.refused();
        }
        assert_eq!(made, 3);
    }

    #[test]
    fn nothing_is_due_while_one_is_being_made() {
        let mut refresh = Refresh::new(APNS);
        refresh.begin();
        refresh.refused();
        assert!(!refresh.due(minutes(600)));
        refresh.failed(minutes(1), Duration::from_secs(60));
        assert_eq!((refresh.deadline(), refresh.failures()), (minutes(2), 1));
        refresh.minted(minutes(2), LIFE);
        assert_eq!(
            (refresh.deadline(), refresh.failures()),
            (minutes(47), 0),
            "the refusal was of the former one"
        );
    }

    #[test]
    fn a_failure_is_tried_again_after_its_pause() {
        let mut refresh = Refresh::new(APNS);
        refresh.minted(minutes(0), LIFE);
        refresh.failed(minutes(45), Duration::from_secs(60));
        assert_eq!(refresh.deadline(), minutes(46));
    }

    proptest! {
        #[test]
        fn no_two_tokens_within_the_spacing_whatever_nodes_say(
            life in 5u64..4_000, refused in proptest::collection::btree_set(0u64..3_600, 0..200),
        ) {
            let rules = Rules { spacing: Duration::from_secs(60) };
            let mut refresh = Refresh::new(rules);
            let mut last: Option<u64> = None;
            for second in 0..3_600 {
                let now = Time(0) + Duration::from_secs(second);
                if refused.contains(&second) {
                    refresh.refused();
                }
                if refresh.due(now) {
                    let apart = last.map_or(u64::MAX, |last| second - last);
                    prop_assert!(apart >= life.min(60), "{apart} s apart");
                    refresh.minted(now, Duration::from_secs(life));
                    last = Some(second);
                }
                prop_assert!(last.is_some_and(|last| second - last <= life), "a token's time is never over");
            }
        }
    }
}
