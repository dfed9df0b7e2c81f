//! The report of restarts: for each phase the state of the health probes and the verdict.

use std::{collections::BTreeMap, io, path::Path};

use serde::Serialize;

use super::Machine;
use crate::{numbers::thousands, scenario::restarts::Outcome, verdict::roll::Judged};

/// Result of one alert, as the cluster reported it and by the gateways' records.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verdict {
    /// State in which the alert ended, or the reason why it did not.
    pub state: String,
    /// Number of requests that the gateways received.
    pub requests: u64,
    /// Devices inside that were never accepted.
    pub missed: u64,
    /// Acceptances that no answer of the gateway explains.
    pub repeated: u64,
    /// Devices accepted while more than 500 m outside the region.
    pub outside: u64,
    /// Requests to devices that are not registered (any more), or for another alert.
    pub strangers: u64,
    /// Duration of the alert, seconds.
    pub seconds: f64,
}

impl Verdict {
    /// Builds the result from the judged alert.
    #[must_use]
    pub fn new(state: String, judged: &Judged, of_others: u64, seconds: f64) -> Self {
        Self {
            state,
            requests: judged.requests,
            missed: judged.missed,
            // The emulators answer every request here, so every repetition is a fault of the
            // cluster.
            repeated: judged.duplicates + judged.repeated,
            outside: judged.outside,
            strangers: judged.strangers + of_others,
            seconds,
        }
    }

    /// Reports whether every device inside was alerted once, and no other device.
    #[must_use]
    pub fn is_exact(&self, repeats: bool) -> bool {
        self.state == "RESOLVED"
            && self.missed == 0
            && self.is_harmless()
            && (repeats || self.repeated == 0)
    }

    /// Reports whether no device was alerted by mistake.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        self.outside == 0 && self.strangers == 0
    }

    /// Returns the result in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { state, requests, missed, repeated, outside, strangers, seconds } = self;
        format!(
            "{state}, {} requests, missed {missed}, repeated {repeated}, outside {outside}, \
             unknown tokens {strangers}, {seconds:.1} s",
            thousands(*requests)
        )
    }
}

/// Result of one phase of a case: the expectation, the probes and the judged alerts.
#[derive(Debug, Clone, Serialize)]
pub struct PhaseReport {
    /// Name of the case to which the phase belongs.
    pub case: String,
    /// Steps of the phase, as text for people.
    pub label: String,
    /// Number of the phase in its case, from 1.
    pub phase: usize,
    /// State of each process: SERVING, or the reason why it does not serve.
    pub probes: BTreeMap<String, String>,
    /// Results of the alerts during which the steps were done.
    pub under: Vec<Verdict>,
    /// Result of the alert after the steps.
    pub after: Verdict,
    /// Outcome of the phase.
    pub outcome: Outcome,
    /// Expected outcome of the phase.
    pub expected: Outcome,
    /// Time from the first step until the probes were stable, seconds.
    pub settled_seconds: f64,
    /// Processes that did not shut down gracefully.
    pub unruly: Vec<String>,
    /// Whether the outcome was the expected one.
    pub passed: bool,
}

impl PhaseReport {
    /// Returns the result in several lines.
    #[must_use]
    pub fn lines(&self) -> String {
        let mark = if self.passed { "✓" } else { "✗" };
        let mut out = format!(
            "{mark} {} {}: {:?} (expected {:?}), settled in {:.1} s: {}\n",
            self.case, self.phase, self.outcome, self.expected, self.settled_seconds, self.label
        );
        let loud = self.probes.iter().filter(|(_, said)| *said != "SERVING");
        let loud: Vec<_> = loud.map(|(name, said)| format!("{name}: {said}")).collect();
        out += &format!(
            "    probes  {}\n",
            if loud.is_empty() { "all SERVING".to_owned() } else { loud.join("; ") }
        );
        self.under.iter().for_each(|verdict| out += &format!("    under   {}\n", verdict.line()));
        out += &format!("    after   {}\n", self.after.line());
        if !self.unruly.is_empty() {
            out += &format!("    no graceful shutdown: {}\n", self.unruly.join(", "));
        }
        out
    }
}

/// Content of `report.json` for restarts.
#[derive(Debug, Clone, Serialize)]
pub struct RestartsReport {
    /// Name of the scenario.
    pub scenario: String,
    /// Seed from which everything random is drawn.
    pub seed: u64,
    /// Number of devices of each population.
    pub devices: u64,
    /// Command line that repeats the run.
    pub command: String,
    /// Whether every phase passed.
    pub passed: bool,
    /// Duration of the whole run, from the start of the program, seconds.
    pub total_seconds: f64,
    /// Phases in the order of the run.
    pub phases: Vec<PhaseReport>,
    /// Machine on which the run took place, for comparisons.
    pub machine: Machine,
}

impl RestartsReport {
    /// Returns the report as text for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let phases = self.phases.iter().map(PhaseReport::lines).collect::<String>();
        let passed = self.phases.iter().filter(|p| p.passed).count();
        format!(
            "\n{} · {} devices · seed {} · {:.0} s total\n\n{phases}\n{passed} of {} phases \
             passed\n",
            self.scenario,
            thousands(self.devices),
            self.seed,
            self.total_seconds,
            self.phases.len()
        )
    }

    /// Writes `report.json` into a folder.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        super::write(self, dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_exact_only_if_nothing_is_wrong_with_it() {
        let exact = Verdict { state: "RESOLVED".to_owned(), requests: 9, ..Verdict::default() };
        assert!(exact.is_exact(false));
        for wrong in [
            Verdict { state: "ACTIVE".to_owned(), ..exact.clone() },
            Verdict { missed: 1, ..exact.clone() },
            Verdict { repeated: 1, ..exact.clone() },
            Verdict { outside: 1, ..exact.clone() },
            Verdict { strangers: 1, ..exact.clone() },
        ] {
            assert!(!wrong.is_exact(false), "{}", wrong.line());
            assert_eq!(wrong.is_exact(true), wrong.repeated == 1);
        }
    }
}
