//! What came of a series: for each case the same figures, a few of them in a table for people.

use std::{collections::BTreeMap, fs, io, path::Path};

use clarion_emulator::Platform;
use serde::Serialize;

use super::{Check, Machine};
use crate::numbers::{number, thousands};

/// What is known of a case by the end of it; expectations are about these.
pub const FIGURES: &[&str] = &[
    // Of all alerts of the case together, the last, undisturbed one included.
    "alerts",
    // Alerts that ended in another state than RESOLVED.
    "unresolved",
    // By the gateways' records: requests, and of those the ones that were not plainly accepted.
    "requests",
    "struck",
    // Devices accepted at least once in an alert; called dead.
    "accepted",
    "dead_tokens",
    // Inside, alive, never accepted.
    "missed",
    "missed_apns",
    "missed_fcm",
    // Of those, more than the cluster tells as refused, unknown or expired.
    "untold",
    "outside",
    "duplicates",
    // Acceptances after the first that the gateway caused: it left a request unanswered, or failed it.
    "repeated",
    // Of those, more than the cluster counts requests without an answer, and put off.
    "repeats_uncounted",
    "unknown",
    "strangers",
    // Of alerts that had ended: the cluster had told these requests as unanswered, and a gateway that had stopped reading
    // went on with what lay before it.
    "late_requests",
    // Requests that the gateway left unanswered; of those, how many fewer the cluster counted, alert by alert.
    "unanswered_requests",
    "unanswered_uncounted",
    // |accepted reported - recorded| + |dead reported - recorded|, alert by alert.
    "disagreement",
    // What the cluster tells of.
    "refused",
    "expired",
    "retried_requests",
    // Alerts whose watcher was told of a lane's trouble; of an app whose devices are kept though called dead.
    "troubled",
    "alarmed",
    // Lane troubles that did not say why, or not since when.
    "speechless",
    // Dead and refused devices beyond the reasons told, and the other way round, alert by alert.
    "unexplained",
    // In the undisturbed alert at the end: devices inside to which nothing was sent; and those never called dead.
    "lost",
    "lost_alive",
    // Connections that were accepted by a gateway, ended, ended in the handshake, ended by an error of the lane's HTTP/2.
    "connections_opened",
    "connections_closed",
    "handshakes_failed",
    "protocol_errors",
    // Of the worst shard node, over its most in the undisturbed alert right before; and over that in the first case.
    "shard_growth_bytes",
    "shard_grown_bytes",
    // From the end of the trouble until half of what it had held up was accepted, and until every alert had ended; and what
    // the undisturbed one took.
    "recovery_seconds",
    "calm_seconds",
    "proof_seconds",
    // Acceptances a second while the trouble acted, and how long it did.
    "rate_per_second",
    "seconds",
];

/// One case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// Which.
    pub name: String,
    /// What went wrong.
    pub label: String,
    /// At whose gateway; none: at all.
    pub platform: Option<Platform>,
    /// Whether every check held.
    pub passed: bool,
    /// By the names of [`FIGURES`]; what could not be measured is absent.
    pub figures: BTreeMap<&'static str, f64>,
    /// What was expected, and what was measured.
    pub checks: Vec<Check>,
    /// For each kind of failure some devices by number, of this seed.
    pub examples: BTreeMap<&'static str, Vec<u64>>,
}

/// `report.json` of a series.
#[derive(Debug, Clone, Serialize)]
pub struct SeriesReport {
    /// Which scenario.
    pub scenario: String,
    /// Everything drawn comes from it.
    pub seed: u64,
    /// Devices of the population.
    pub devices: u64,
    /// Shard nodes.
    pub nodes: u32,
    /// The command line that does the same again.
    pub command: String,
    /// Whether every case passed.
    pub passed: bool,
    /// How long each trouble acted.
    pub seconds: f64,
    /// Everything, from the start of the program.
    pub total_seconds: f64,
    /// In their order.
    pub cases: Vec<CaseReport>,
    /// The highest memory of each process, bytes.
    pub peaks: BTreeMap<String, u64>,
    /// The machine, for comparisons.
    pub machine: Machine,
}

/// What the table shows, and how it calls it.
const COLUMNS: &[(&str, &str)] = &[
    ("alerts", "alerts"),
    ("requests", "requests"),
    ("rate_per_second", "a second"),
    ("struck", "struck"),
    ("missed", "missed"),
    ("duplicates", "twice"),
    ("repeated", "repeated"),
    ("unanswered_requests", "unanswered"),
    ("connections_opened", "connects"),
    ("calm_seconds", "calm s"),
    ("shard_growth_bytes", "growth MB"),
    ("shard_grown_bytes", "in all MB"),
];

impl CaseReport {
    /// One line of the table.
    #[must_use]
    pub fn line(&self) -> String {
        let cell = |(figure, heading): &(&str, &str)| {
            let width = heading.len().max(9);
            let value = match self.figures.get(figure) {
                None => "-".to_owned(),
                Some(bytes) if figure.ends_with("_bytes") => format!("{:.1}", bytes / 1e6),
                Some(seconds) if figure.ends_with("seconds") => format!("{seconds:.1}"),
                Some(rate) if figure.starts_with("rate") => number(rate.round()),
                Some(value) => number(*value),
            };
            format!("{value:>width$}")
        };
        let cells: Vec<_> = COLUMNS.iter().map(cell).collect();
        format!("{} {:<26} {}", if self.passed { "✓" } else { "✗" }, self.name, cells.join(" "))
    }
}

/// The headings of [`CaseReport::line`].
#[must_use]
pub fn headings() -> String {
    let cells: Vec<_> = COLUMNS
        .iter()
        .map(|(_, heading)| format!("{heading:>w$}", w = heading.len().max(9)))
        .collect();
    format!("  {:<26} {}", "case", cells.join(" "))
}

impl SeriesReport {
    /// The whole as text: one line for each case, and what did not hold.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut out = format!(
            "\n{} · {} devices · {} nodes · seed {} · {} s each, {:.0} s in all\n\n{}\n",
            self.scenario,
            thousands(self.devices),
            self.nodes,
            self.seed,
            self.seconds,
            self.total_seconds,
            headings()
        );
        for case in &self.cases {
            out += &format!("{}\n", case.line());
        }
        for case in self.cases.iter().filter(|c| !c.passed) {
            for check in case.checks.iter().filter(|c| !c.held) {
                out += &format!(
                    "\n✗ {}: {} {}, is {}",
                    case.name, check.name, check.expected, check.measured
                );
                if let Some(examples) = case.examples.get(check.name) {
                    out += &format!(" (devices {examples:?})");
                }
            }
        }
        let passed = self.cases.iter().filter(|c| c.passed).count();
        out + &format!("\n{passed} of {} cases passed\n", self.cases.len())
    }

    /// Writes `report.json` into a folder.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let json = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        fs::write(dir.join("report.json"), json + "\n")
    }
}
