//! Is the message wrong, or the token?
//!
//! FCM says INVALID_ARGUMENT of a token that is none and of a message that it does not take (F-err), and often in the same
//! words. Who takes one for the other either throws a good registration away or sends a wrong message to millions. The
//! devices tell both apart: all get the same bytes but for the token. Once one was accepted, the message is good and what is
//! invalid is the token. While none was, nobody is called dead, and after [`INVALID_MAX`] refusals in a row nobody else is
//! asked.

/// Refusals of a message that nobody has accepted yet, before it is not sent any more. Registries with one dead token in two
/// would stop a good message once in four thousand million alerts.
pub(crate) const INVALID_MAX: u32 = 32;

/// What has been heard of one message.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Trial {
    accepted: bool,
    invalid: u32,
}

/// What an answer that calls message or token invalid means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// Others get this message: it is the token.
    Token,
    /// Nobody knows yet.
    Either,
    /// Nobody gets this message: it is the message.
    Message,
}

impl Trial {
    /// Somebody got it.
    pub(crate) fn accepted(&mut self) {
        self.accepted = true;
    }

    /// Somebody did not, message or token being invalid.
    pub(crate) fn invalid(&mut self) -> Invalid {
        if self.accepted {
            return Invalid::Token;
        }
        self.invalid = self.invalid.saturating_add(1);
        if self.is_refused() { Invalid::Message } else { Invalid::Either }
    }

    /// Nobody else is asked.
    pub(crate) fn is_refused(&self) -> bool {
        !self.accepted && self.invalid >= INVALID_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_a_success_nobody_is_dead_and_after_enough_refusals_nobody_is_asked() {
        let mut trial = Trial::default();
        for _ in 1..INVALID_MAX {
            assert_eq!(trial.invalid(), Invalid::Either);
            assert!(!trial.is_refused());
        }
        assert_eq!(trial.invalid(), Invalid::Message);
        assert!(trial.is_refused());
    }

    #[test]
    fn after_a_success_it_is_always_the_token() {
        let mut trial = Trial::default();
        for _ in 1..INVALID_MAX {
            trial.invalid();
        }
        trial.accepted();
        for _ in 0..10 * INVALID_MAX {
            assert_eq!(trial.invalid(), Invalid::Token);
        }
        // The answer to a request that was out when the message had been given up: it is good after all.
        let mut trial = Trial::default();
        for _ in 0..INVALID_MAX {
            trial.invalid();
        }
        trial.accepted();
        assert!(!trial.is_refused());
    }
}
