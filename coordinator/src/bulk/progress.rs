//! Progress of an import for people: a bar in a terminal, a line every 10 s elsewhere, both on
//! standard error.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use clarion_proto::time::Time;
use clarion_runtime::world::Clock;
use indicatif::{ProgressBar, ProgressStyle};

use super::{journal::Counts, position::Position};

/// Time between two lines.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Shortest time between two drawings of the bar.
const REDRAW: Duration = Duration::from_millis(200);

/// Progress through the bytes of all files.
pub(super) struct Progress {
    clock: Clock,
    /// Bytes of the files before each file; the last is the sum of all.
    before: Vec<u64>,
    bar: Option<ProgressBar>,
    /// Time of the next line, and time and rows of the last one.
    next_line: Time,
    last: (Time, u64),
}

impl Progress {
    /// Begins to show; `sizes`: bytes of the files.
    pub(super) fn new(clock: Clock, sizes: impl IntoIterator<Item = u64>) -> Self {
        let mut before = vec![0];
        for size in sizes {
            before.push(before.last().copied().unwrap_or_default() + size);
        }
        let total = before.last().copied().unwrap_or_default();
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = "import  {wide_bar:.cyan/dim} {percent:>3} %  {msg}  {eta} left";
            let style = ProgressStyle::with_template(style);
            let bar = ProgressBar::new(total);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(REDRAW);
            bar
        });
        let now = clock.now();
        Self { clock, before, bar, next_line: now + LINE_EVERY, last: (now, 0) }
    }

    /// Shows how far the acknowledged rows reach.
    pub(super) fn advance(&mut self, file: usize, at: Position, counts: Counts) {
        let now = self.clock.now();
        let rows = counts.written + counts.rejected;
        let done = self.before.get(file).copied().unwrap_or_default() + at.byte;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(format!("{} rows, {} rejected", counts.written, counts.rejected));
        } else if now >= self.next_line {
            let (then, rows_then) = self.last;
            let rate = per_second(rows - rows_then.min(rows), now.since(then));
            let total = self.before.last().copied().unwrap_or_default().max(1);
            self.say(&format!(
                "import: {} rows written, {} rejected, {} %, {rate} rows/s",
                counts.written,
                counts.rejected,
                u128::from(done) * 100 / u128::from(total)
            ));
            (self.next_line, self.last) = (now + LINE_EVERY, (now, rows));
        }
    }

    /// Writes a line, above the bar if there is one.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            // Without a reader of standard error there is nobody to tell.
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    /// Ends the bar, which stays visible.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

/// Rows per second, as a whole number.
pub(super) fn per_second(rows: u64, time: Duration) -> u64 {
    let rate = u128::from(rows) * 1_000 / time.as_millis().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}
