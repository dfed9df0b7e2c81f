//! When a credential's token is to be replaced. Pure; what tokens are and how they are made stands
//! in [`super::apns`] and [`super::oauth`].

use std::time::Duration;

use clarion_proto::time::Time;

/// The rules of a kind of token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// A token that a gateway refused is replaced, but not within this of its making.
    pub(crate) spacing: Duration,
}

/// When one credential's token is to be replaced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refresh {
    rules: Rules,
    /// The present token's time is over then; `None`: there is none yet.
    replace_at: Option<Time>,
    /// A gateway refused the token.
    refused: bool,
    /// Nothing is done before.
    not_before: Time,
    /// In a row.
    failures: u32,
    /// Somebody is making one.
    under_way: bool,
}

impl Refresh {
    /// No token yet: due at once.
    pub(crate) fn new(rules: Rules) -> Self {
        let (replace_at, not_before) = (None, Time(0));
        Self { rules, replace_at, refused: false, not_before, failures: 0, under_way: false }
    }

    /// One is being made: nothing is due until it is [`Refresh::minted`] or has
    /// [`Refresh::failed`].
    pub(crate) fn begin(&mut self) {
        self.under_way = true;
    }

    /// A new token was issued, to be replaced after so long.
    pub(crate) fn minted(&mut self, now: Time, replace_after: Duration) {
        *self = Self {
            replace_at: Some(now + replace_after),
            not_before: now + self.rules.spacing.min(replace_after),
            ..Self::new(self.rules)
        };
    }

    /// No token could be made; how often in a row until now.
    pub(crate) fn failed(&mut self, now: Time, pause: Duration) {
        self.under_way = false;
        self.failures = self.failures.saturating_add(1);
        self.not_before = self.not_before.max(now + pause);
    }

    /// Failures in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// A gateway refuses the token. A node may say so just after a new one was issued, of the old
    /// one: then one token more is made when the spacing allows, which does no harm.
    pub(crate) fn refused(&mut self) {
        self.refused = true;
    }

    /// Another key has taken the place of the one that made the token: due at once, whatever the
    /// former key's rules were.
    pub(crate) fn replaced(&mut self) {
        *self = Self::new(self.rules);
    }

    /// The next time something is to be done.
    pub(crate) fn deadline(&self) -> Time {
        match self.replace_at {
            _ if self.under_way => Time::NEVER,
            Some(at) if !self.refused => at.max(self.not_before),
            _ => self.not_before,
        }
    }

    /// A new token is to be made now.
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
