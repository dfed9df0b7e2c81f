//! The gateways' records, merged for the verdict: one ledger of all requests, and the counts of
//! each gateway.

use std::{collections::BTreeMap, path::Path};

use clarion_emulator::{
    Platform,
    record::{ConnectionRow, Entry, Record, flag},
};

use super::ledger::{Answer, Fate, Ledger, Push};

/// Interval of a provider's quota, microseconds.
const MINUTE_US: u64 = 60_000_000;

/// Error for a record that cannot be used as evidence.
#[derive(Debug, thiserror::Error)]
#[error("gateway record {path}: {problem}")]
pub struct RecordError {
    /// Path of the record.
    pub path: String,
    /// Problem with the record.
    pub problem: String,
}

/// All records of a run.
#[derive(Debug)]
pub struct Recorded {
    /// Every request to any gateway.
    pub ledger: Ledger,
    /// Counts of each gateway.
    pub gateways: BTreeMap<Platform, Requests>,
}

/// Requests to one gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Requests {
    /// Number of all requests.
    pub count: u64,
    /// Requests answered with 429.
    pub throttled: u64,
    /// Requests answered with 5xx.
    pub failed: u64,
    /// Most requests in any 60 s, wherever these begin.
    pub minute_max: u64,
    /// Bytes received from clients, including TLS.
    pub bytes_received: u64,
    /// Time from the first to the last request, microseconds.
    pub busy_us: u64,
    /// Mean number of connections between the first and the last request.
    pub connections_mean: f64,
    /// Highest number of connections between the first and the last request.
    pub connections_max: u64,
}

/// Loads one exported record.
///
/// # Errors
/// If the file cannot be read or is incomplete.
pub fn load(path: &Path) -> Result<Record, RecordError> {
    let failed = |problem: String| RecordError { path: path.display().to_string(), problem };
    let record = Record::load(path).map_err(|e| failed(e.to_string()))?;
    match record.header.dropped {
        0 => Ok(record),
        dropped => {
            Err(failed(format!("{dropped} requests were not recorded; the record proves nothing")))
        }
    }
}

impl Recorded {
    /// Reads exported records.
    ///
    /// # Errors
    /// If a file is missing or incomplete.
    pub fn read<'a>(
        records: impl IntoIterator<Item = (Platform, &'a Path)>,
    ) -> Result<Self, RecordError> {
        let (mut pushes, mut gateways) = (Vec::new(), BTreeMap::new());
        for (platform, path) in records {
            let record = load(path)?;
            let counted = requests(&record.entries, &record.connections);
            gateways
                .insert(platform, Requests { bytes_received: record.bytes_received(), ..counted });
            pushes.reserve_exact(record.entries.len());
            pushes.extend(record.entries.iter().map(push));
        }
        Ok(Self { ledger: Ledger::new(pushes), gateways })
    }

    /// Returns the bytes that all gateways received.
    #[must_use]
    pub fn bytes_received(&self) -> u64 {
        self.gateways.values().map(|g| g.bytes_received).sum()
    }
}

/// Counts entries in order of time.
#[allow(clippy::cast_precision_loss)] // microseconds of a run
fn requests(entries: &[Entry], connections: &[ConnectionRow]) -> Requests {
    let begun = entries.first().map_or(0, |e| e.time_us);
    let ended = entries.last().map_or(0, |e| e.time_us);
    let stood = standing(connections, begun, ended);
    let with = |status: std::ops::Range<u16>| {
        entries.iter().filter(|e| status.contains(&e.status)).count() as u64
    };
    let (mut first, mut minute_max) = (0, 0);
    for (last, entry) in entries.iter().enumerate() {
        while entry.time_us - entries[first].time_us >= MINUTE_US {
            first += 1;
        }
        minute_max = minute_max.max(last - first + 1);
    }
    Requests {
        count: entries.len() as u64,
        throttled: with(429..430),
        failed: with(500..600),
        minute_max: minute_max as u64,
        bytes_received: 0,
        busy_us: ended - begun,
        connections_mean: stood.0 as f64 / (ended - begun).max(1) as f64,
        connections_max: stood.1,
    }
}

/// Returns the sum of the connections' durations within a time, microseconds, and the highest
/// number of connections at once.
fn standing(connections: &[ConnectionRow], begun: u64, ended: u64) -> (u64, u64) {
    let mut changes = Vec::with_capacity(2 * connections.len());
    let mut stood = 0;
    for row in connections {
        let closed = if row.end == 0 { ended } else { row.closed_us.min(ended) };
        let opened = row.opened_us.max(begun);
        if opened < closed {
            stood += closed - opened;
            changes.extend([(opened, 1_i64), (closed, -1)]);
        }
    }
    // A connection that closes when another opens is counted first: -1 sorts before 1.
    changes.sort_unstable();
    let (mut now, mut most) = (0, 0);
    for (_, change) in changes {
        now += change;
        most = most.max(now);
    }
    (stood, most.unsigned_abs())
}

/// Converts an entry of the record to a request of the verdict.
#[must_use]
pub fn push(entry: &Entry) -> Push {
    let fate = match entry.reason() {
        _ if entry.accepted() => Fate::Accepted,
        Some(reason) if reason.is_dead_token() => Fate::Dead,
        _ => Fate::Failed,
    };
    let answered = entry.flags & (flag::ANSWERED | flag::UNPROCESSED) != 0;
    let doubtful = entry.flags & (flag::CANCELLED | flag::DOUBTFUL) != 0;
    let answer = match (answered, doubtful) {
        (false, _) => Answer::Withheld,
        (true, true) => Answer::Doubtful,
        (true, false) if entry.accepted() && entry.status != 200 => Answer::Denied,
        (true, false) => Answer::Given,
    };
    Push { token_hash: entry.token_hash, at_ns: entry.time_us * 1_000, fate, answer }
}

#[cfg(test)]
mod tests {
    use clarion_emulator::answer::Reason;

    use super::*;

    fn entry(time_us: u64, status: u16) -> Entry {
        Entry { time_us, status, ..Entry::default() }
    }

    #[test]
    fn a_minute_may_begin_anywhere_and_ends_before_its_sixtieth_second() {
        let second = 1_000_000;
        // Three in the seconds 50 to 109, although no minute of a clock holds more than two.
        let times = [0, 50, 59, 109, 110, 200].map(|s| entry(s * second, 200));
        assert_eq!(requests(&times, &[]).minute_max, 3);
        assert_eq!(requests(&[entry(0, 200), entry(MINUTE_US, 200)], &[]).minute_max, 1);
        assert_eq!(requests(&[entry(0, 200), entry(MINUTE_US - 1, 200)], &[]).minute_max, 2);
        assert_eq!(requests(&[], &[]), Requests::default());
    }

    #[test]
    fn connections_count_while_there_are_requests_and_they_stand() {
        let row = |end, opened_us, closed_us| ConnectionRow {
            end,
            opened_us,
            closed_us,
            ..ConnectionRow::default()
        };
        // One from before until the middle; its successor, which is never closed; one that ended
        // before, one that began too late.
        let rows =
            [row(1, 0, 150), row(0, 150, 0), row(1, 10, 90), row(0, 200, 0), row(1, 190, 300)];
        let counted = requests(&[entry(100, 200), entry(200, 200)], &rows);
        assert_eq!((counted.busy_us, counted.connections_max), (100, 2));
        assert!((counted.connections_mean - 1.1).abs() < 1e-9, "{counted:?}");
    }

    #[test]
    fn statuses_are_counted() {
        let counted = requests(
            &[entry(1, 200), entry(2, 429), entry(3, 503), entry(4, 500), entry(5, 404)],
            &[],
        );
        assert_eq!((counted.count, counted.throttled, counted.failed), (5, 1, 2));
    }

    #[test]
    fn an_error_though_delivered_is_an_acceptance_that_the_sender_was_denied() {
        let flags = flag::ACCEPTED | flag::ANSWERED;
        let delivered = push(&Entry { flags, ..entry(1, 503) });
        assert_eq!((delivered.fate, delivered.answer), (Fate::Accepted, Answer::Denied));
        let taken = push(&Entry { flags, ..entry(1, 200) });
        assert_eq!((taken.fate, taken.answer), (Fate::Accepted, Answer::Given));
        let unread = push(&Entry { flags: flags | flag::DOUBTFUL, ..entry(1, 503) });
        assert_eq!(unread.answer, Answer::Doubtful);
        for reason in [Reason::Unregistered, Reason::FcmUnregistered] {
            let number =
                u8::try_from(Reason::ALL.iter().position(|r| *r == reason).unwrap()).unwrap();
            let dead =
                push(&Entry { reason: number, flags: flag::ANSWERED, ..entry(1, reason.status()) });
            assert_eq!((dead.fate, dead.answer), (Fate::Dead, Answer::Given));
        }
    }
}
