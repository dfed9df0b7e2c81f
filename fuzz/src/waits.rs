//! Fuzz target: the headers `retry-after` and `date`.

use std::time::Duration;

use clarion_shard::{lane::connection::testing::retry_after, outcome::RETRY_AFTER_MAX};

use crate::input::Input;

/// Reads some header fields of one answer, in any order and number, and checks the wait.
///
/// # Panics
/// If the wait exceeds the limit, or differs from another reading of the same fields.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let mut fields: Vec<(&[u8], &[u8])> = Vec::new();
    while !input.is_empty() && fields.len() < 8 {
        let name: &[u8] = match input.byte() % 4 {
            0 | 1 => b"retry-after",
            2 => b"date",
            _ => b"expires",
        };
        fields.push((name, input.piece()));
    }
    let wait = retry_after(&fields);
    assert!(wait.is_none_or(|wait| wait <= RETRY_AFTER_MAX));

    let of = |wanted: &[u8]| {
        fields
            .iter()
            .filter(|(name, _)| *name == wanted)
            .map(|(_, value)| *value)
            .collect::<Vec<_>>()
    };
    match (&of(b"retry-after")[..], &of(b"date")[..]) {
        ([], _) => assert_eq!(wait, None),
        ([value], _) if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
            // More digits than a number holds still mean a long wait.
            let seconds = std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<u64>().ok())
                .unwrap_or(u64::MAX);
            assert_eq!(wait, Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX)));
        }
        ([at], [date]) => {
            if let (Some(at), Some(date)) = (unix_seconds(at), unix_seconds(date)) {
                let meant =
                    Duration::from_secs(u64::try_from(at - date).unwrap_or(0)).min(RETRY_AFTER_MAX);
                assert_eq!(wait, Some(meant));
            }
        }
        _ => {}
    }
}

/// Parses the only form that servers write today (RFC 9110, 5.6.7, IMF-fixdate), strictly and by
/// other arithmetic. A wrong weekday makes the date invalid.
fn unix_seconds(text: &[u8]) -> Option<i64> {
    const MONTHS: &[u8] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    const DAYS: &[u8] = b"ThuFriSatSunMonTueWed";
    let text: &[u8; 29] = text.try_into().ok()?;
    let number = |from: usize, digits: usize| {
        text[from..from + digits]
            .iter()
            .try_fold(0i64, |n, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')))
    };
    let (day, year) = (number(5, 2)?, number(12, 4)?);
    let month = MONTHS.chunks(3).position(|name| *name == text[8..11])?;
    let (hour, minute, second) = (number(17, 2)?, number(20, 2)?, number(23, 2)?);
    let marks = [
        (3, b','),
        (4, b' '),
        (7, b' '),
        (11, b' '),
        (16, b' '),
        (19, b':'),
        (22, b':'),
        (25, b' '),
    ];
    if marks.iter().any(|(at, mark)| text[*at] != *mark) || &text[26..] != b"GMT" {
        return None;
    }
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = |year: i64, month: usize| match month {
        1 => 28 + i64::from(leap(year)),
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    };
    if !(1970..9_999).contains(&year)
        || !(1..=length(year, month)).contains(&day)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let years: i64 = (1970..year).map(|year| 365 + i64::from(leap(year))).sum();
    let days = years + (0..month).map(|month| length(year, month)).sum::<i64>() + day - 1;
    let weekday = usize::try_from(days % 7).ok()? * 3;
    (text[..3] == DAYS[weekday..weekday + 3])
        .then_some(((days * 24 + hour) * 60 + minute) * 60 + second)
}
