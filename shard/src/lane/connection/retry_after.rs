//! The header `retry-after`, in seconds or as a date (RFC 9110, 10.2.3), without a local clock.
//!
//! A date has a meaning only relative to the clock that made it, and the same answer carries that
//! clock's time: `date` (RFC 9110, 6.6.1). So the wait is the difference of both, and the gateway's
//! clock may be wrong by any amount. A date without a `date` header is ignored.

use std::time::{Duration, SystemTime};

use crate::outcome::RETRY_AFTER_MAX;

/// The two header fields of one answer.
#[derive(Debug, Default)]
pub(super) struct RetryAfter {
    seconds: Option<u64>,
    at: Option<SystemTime>,
    date: Option<SystemTime>,
}

impl RetryAfter {
    /// Stores a field if it is one of the two; for most others only the length is compared.
    pub(super) fn field(&mut self, name: &[u8], value: &[u8]) {
        let date = || {
            std::str::from_utf8(value).ok().and_then(|text| httpdate::parse_http_date(text).ok())
        };
        match name {
            b"retry-after" if value.first().is_some_and(u8::is_ascii_digit) => {
                self.seconds = seconds(value);
            }
            b"retry-after" => self.at = date(),
            b"date" => self.date = date(),
            _ => {}
        }
    }

    /// Returns the time to wait, at most [`RETRY_AFTER_MAX`].
    pub(super) fn wait(&self) -> Option<Duration> {
        let until = || Some(self.at?.duration_since(self.date?).unwrap_or_default());
        let wait = self.seconds.map(Duration::from_secs).or_else(until)?;
        Some(wait.min(RETRY_AFTER_MAX))
    }
}

/// Parses digits. A number beyond all reason is a long wait, not an error.
fn seconds(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit);
    digits.then(|| {
        value.iter().fold(0u64, |n, d| n.saturating_mul(10).saturating_add(u64::from(d - b'0')))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wait(fields: &[(&str, &str)]) -> Option<u64> {
        let mut read = RetryAfter::default();
        fields.iter().for_each(|(name, value)| read.field(name.as_bytes(), value.as_bytes()));
        read.wait().map(|wait| wait.as_secs())
    }

    const DATE: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");

    #[test]
    fn seconds_and_dates() {
        assert_eq!(wait(&[("retry-after", "30")]), Some(30));
        assert_eq!(wait(&[("retry-after", "0")]), Some(0));
        assert_eq!(wait(&[DATE, ("retry-after", "Sun, 06 Nov 1994 08:51:07 GMT")]), Some(90));
        // In any order, and in the two obsolete forms.
        assert_eq!(wait(&[("retry-after", "Sunday, 06-Nov-94 08:49:47 GMT"), DATE]), Some(10));
        assert_eq!(wait(&[("retry-after", "Sun Nov  6 08:49:47 1994"), DATE]), Some(10));
        assert_eq!(
            wait(&[DATE, ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]),
            Some(0),
            "in the past: at once"
        );
    }

    #[test]
    fn an_hour_is_the_most_that_is_believed() {
        assert_eq!(wait(&[("retry-after", "86400")]), Some(3_600));
        assert_eq!(wait(&[("retry-after", "99999999999999999999999999")]), Some(3_600));
        assert_eq!(wait(&[DATE, ("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")]), Some(3_600));
    }

    #[test]
    fn what_is_neither_says_nothing() {
        for value in ["", "soon", "-1", "1.5", "3 s", "Sun, 06 Nov 1994"] {
            assert_eq!(wait(&[DATE, ("retry-after", value)]), None, "{value}");
        }
        assert_eq!(
            wait(&[("retry-after", "Sun, 06 Nov 1994 08:51:07 GMT")]),
            None,
            "no clock to compare with"
        );
        assert_eq!(wait(&[DATE]), None);
    }

    proptest! {
        #[test]
        fn arbitrary_values_are_harmless(value in proptest::collection::vec(any::<u8>(), 0..60), date in "\\PC{0,40}") {
            let mut read = RetryAfter::default();
            read.field(b"retry-after", &value);
            read.field(b"date", date.as_bytes());
            prop_assert!(read.wait().is_none_or(|wait| wait <= RETRY_AFTER_MAX));
        }
    }
}
