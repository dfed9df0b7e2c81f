//! The number of answers of one kind, and of their connections, that decide about more than one
//! device.
//!
//! One odd answer among thousands of good ones must not decide about anything but its own device.
//! So each answer counts for the narrowest subject that it can concern, and answers about more than
//! a device are counted in rows:
//!
//! | answer | its own device | counted in the row of | when the row is full |
//! |---|---|---|---|
//! | accepted | done | ends the rows of its message, credential, lane | |
//! | signed, about the token | dead or refused | | |
//! | signed, about the message | 3 more tries elsewhere, then refused | its message | the message ends: the rest is refused |
//! | signed, about the project | 3 more tries elsewhere, then refused | the lane | the lane pauses with probes |
//! | signed, about the credential | again at once, elsewhere | the credential | the credential pauses with probes |
//! | signed, about load or a quota | later | the lane | the lane pauses with probes |
//! | not signed by the provider | again, elsewhere, for ever | the lane | the lane pauses with probes |
//!
//! A row is **full** with [`crate::lane::spec::LaneSpec::evidence`] answers (32 by default) from at
//! least two connections and no success between. If all of them came over one connection, that
//! connection is replaced (see [`Row::is_from_one`]), and the first answer of the same kind on
//! another connection completes the row. The first success of a probe revokes the conclusion of a
//! full row of a credential or a lane; such a row ends nothing.
//!
//! In the row of a message each device counts once, with its first such answer: four answers each
//! for three devices prove no more than one answer each. In the row of unsigned answers a device
//! counts with its first three attempts: one device whose requests an intermediary always blocks
//! must not stop a lane by itself when the other devices are done. No code here does I/O.

use clarion_proto::outcome::Outcome;

use crate::outcome::{Answer, Answers};

/// Number of attempts on other connections before a device is refused whose message, project or
/// refusal is in question.
pub const TRIES_ELSEWHERE: u8 = 3;
/// Number of attempts with which a device counts in the row of unsigned answers.
pub const UNSIGNED_TRIES: u8 = 3;

/// Source of an answer: one connection of this node, by its number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Witness(pub u64);

/// Answers of one kind without a success between them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Row {
    answers: u32,
    first: Witness,
    others: bool,
}

impl Row {
    /// Adds an answer. Returns true if the row is full.
    pub fn add(&mut self, by: Witness, needed: u32) -> bool {
        if self.answers == 0 {
            (self.first, self.others) = (by, false);
        }
        self.others |= by != self.first;
        self.answers = self.answers.saturating_add(1);
        self.is_full(needed)
    }

    /// Records the source of a repeated answer for a device that already counts, perhaps another
    /// connection.
    pub fn see(&mut self, by: Witness) {
        self.others |= self.answers > 0 && by != self.first;
    }

    /// Reports whether the row has enough answers and connections to decide.
    #[must_use]
    pub fn is_full(&self, needed: u32) -> bool {
        self.answers >= needed && self.others
    }

    /// Reports whether the row lacks only an answer from a second connection.
    #[must_use]
    pub fn is_from_one(&self, needed: u32) -> bool {
        self.answers >= needed && !self.others
    }

    /// Clears the row after a success.
    pub fn clear(&mut self) {
        self.answers = 0;
    }

    /// Reports whether no answer was counted since the last success.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.answers == 0
    }
}

/// Cause of an answer that calls the message wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The token is wrong: other devices accepted the message, and the gateway names no other
    /// cause.
    Token,
    /// The cause is undecided: the device is tried again on another connection.
    Open,
    /// The message is wrong and is not sent to other devices.
    Message,
}

/// An answer that calls a message wrong, with its circumstances.
#[derive(Debug, Clone, Copy)]
pub struct Complaint<'a> {
    /// Connection that gave the answer.
    pub by: Witness,
    /// Whether it is the device's first such answer.
    pub first: bool,
    /// Whether the device's token may be wrong instead.
    pub token: bool,
    /// Number of the batch in which the answer arrived.
    pub batch: u64,
    /// The answer of the gateway.
    pub answer: &'a Answer,
}

/// Evidence about one message. Successes are read from counts that exist anyway, so they cost
/// nothing more.
#[derive(Debug, Default)]
pub struct MessageEvidence {
    row: Row,
    /// Number of accepted pushes of the message when its row began.
    accepted: u64,
    /// Batch in which the row began. Only answers of later batches extend it, because the order
    /// within a batch is unknown.
    begun_in: u64,
    /// Answer that filled the row, if it is full.
    refused: Option<Box<Answer>>,
}

impl MessageEvidence {
    /// Records an answer that calls the message wrong, and returns its cause.
    pub fn refuse(&mut self, so_far: &Answers, complaint: Complaint<'_>, needed: u32) -> Blame {
        let Complaint { by, first, token, batch, answer } = complaint;
        let accepted = so_far.of(Outcome::Accepted);
        // All devices get the same bytes except for the token. FCM answers INVALID_ARGUMENT for a
        // malformed token and for a message that it does not accept, often with the same text. To
        // mistake one for the other either discards a good registration or sends a wrong message to
        // millions.
        if token && accepted > 0 {
            return Blame::Token;
        }
        if accepted != self.accepted {
            (self.accepted, self.begun_in, self.refused) = (accepted, batch, None);
            self.row.clear();
        }
        match first {
            _ if accepted > 0 && batch == self.begun_in => {}
            true => _ = self.row.add(by, needed),
            false => self.row.see(by),
        }
        if self.row.is_full(needed) {
            self.refused.get_or_insert_with(|| Box::new(answer.clone()));
        }
        if self.refused.is_some() { Blame::Message } else { Blame::Open }
    }

    /// Returns the answer that ended the message. A later acceptance (of a request that was in
    /// flight) revokes it.
    #[must_use]
    pub fn refused(&self, so_far: &Answers) -> Option<&Answer> {
        self.refused.as_deref().filter(|_| so_far.of(Outcome::Accepted) == self.accepted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Reason, apns};

    const K: u32 = 32;

    fn bad_topic() -> Answer {
        Answer {
            status: 400,
            reason: Reason::Apns(apns::Reason::BadTopic),
            timestamp_ms: None,
            retry_after: None,
        }
    }

    #[test]
    fn a_row_is_full_with_enough_answers_of_two_connections() {
        let mut row = Row::default();
        assert!((1..K).all(|_| !row.add(Witness(1), K)));
        assert!(!row.add(Witness(1), K), "all from one");
        assert!(row.is_from_one(K));
        assert!(row.add(Witness(2), K));
        row.clear();
        assert!(row.is_empty() && !row.add(Witness(1), K));
        assert!((2..K).all(|n| !row.add(Witness(u64::from(n % 2)), K)));
        assert!(row.add(Witness(1), K));
    }

    /// Returns the answer of device n, over connections 0 and 1 by turns, each in a batch of its
    /// own.
    fn complain(
        message: &mut MessageEvidence,
        so_far: &Answers,
        n: u32,
        (first, token): (bool, bool),
    ) -> Blame {
        let (by, answer) = (Witness(u64::from(n % 2)), &bad_topic());
        let batch = message.begun_in + 1;
        message.refuse(so_far, Complaint { by, first, token, batch, answer }, K)
    }

    #[test]
    fn before_a_success_nobody_is_dead_and_after_enough_refusals_nobody_is_asked() {
        let (mut message, mut so_far) = (MessageEvidence::default(), Answers::default());
        assert!((1..K).all(|n| complain(&mut message, &so_far, n, (true, true)) == Blame::Open));
        assert_eq!(complain(&mut message, &so_far, K, (true, true)), Blame::Message);
        so_far.count(Outcome::Accepted);
        let blame = complain(&mut message, &so_far, 0, (true, true));
        assert_eq!(blame, Blame::Token, "once a device has accepted the message it is the token");
        assert!(message.refused(&so_far).is_none(), "and the message is good after all");
    }

    #[test]
    fn a_device_that_says_it_again_says_nothing_new() {
        let (mut message, so_far) = (MessageEvidence::default(), Answers::default());
        assert!((0..8).all(|n| complain(&mut message, &so_far, n, (true, false)) == Blame::Open));
        assert!(
            (0..1_000).all(|n| complain(&mut message, &so_far, n, (false, false)) == Blame::Open)
        );
    }

    #[test]
    fn a_message_that_was_accepted_may_be_refused_later() {
        let (mut message, mut so_far) = (MessageEvidence::default(), Answers::default());
        for _ in 0..10 {
            so_far.count(Outcome::Accepted);
            assert!(
                (1..K).all(|n| complain(&mut message, &so_far, n, (true, false)) == Blame::Open)
            );
        }
        // The first of these was still in the batch of the success.
        let blames: Vec<_> =
            (0..2).map(|n| complain(&mut message, &so_far, n, (true, false))).collect();
        assert_eq!(blames.last(), Some(&Blame::Message));
        assert_eq!(message.refused(&so_far), Some(&bad_topic()));
    }

    #[test]
    fn what_came_together_with_a_success_is_no_row() {
        let (mut message, mut so_far) = (MessageEvidence::default(), Answers::default());
        so_far.count(Outcome::Accepted);
        for n in 0..10 * K {
            let (by, answer) = (Witness(u64::from(n % 2)), &bad_topic());
            let complaint = Complaint { by, first: true, token: false, batch: 7, answer };
            assert_eq!(message.refuse(&so_far, complaint, K), Blame::Open);
        }
    }
}
