//! One case of a series: the sum of its alerts, and its expectations.

use std::{collections::BTreeMap, time::Duration};

use clarion_emulator::Platform;
use clarion_proto::wire::v1::{AlertProgress, State, reason_count::Outcome};

use crate::{
    drive::alert::Ended,
    report::{
        Kind,
        check::{check, passes},
        series::CaseReport,
    },
    scenario::{CaseSpec, SeriesSpec},
    verdict::{
        ledger::{Fate, Push},
        roll::Judged,
    },
};

/// Sums of a case so far. Fields are named like [`crate::scenario::figures::FIGURES`].
#[derive(Debug, Default)]
pub(super) struct Case {
    pub begun_ns: u64,
    pub trouble: Duration,
    pub calm: Duration,
    pub proving: Duration,
    /// Hash of the undisturbed alert at the end.
    pub proof: Option<u64>,
    pub judged: Judged,
    pub late: u64,
    pub lost: u64,
    pub shard_growth_bytes: Option<u64>,
    pub shard_grown_bytes: Option<u64>,
    pub connections_opened: u64,
    pub connections_closed: u64,
    pub handshakes_failed: u64,
    pub protocol_errors: u64,
    lost_alive: u64,
    alerts: u64,
    unresolved: u64,
    untold: u64,
    repeats_uncounted: u64,
    unanswered_uncounted: u64,
    disagreement: u64,
    refused: u64,
    expired: u64,
    retried: u64,
    troubled: u64,
    alarmed: u64,
    speechless: u64,
    unexplained: u64,
    accepted_in_trouble: u64,
    /// Acceptances of disturbed gateways after the end of the fault, by [`BUCKET`].
    accepted_after: BTreeMap<u128, u64>,
}

/// Resolution of the time after a fault.
const BUCKET: Duration = Duration::from_millis(50);

impl Case {
    pub(super) fn new(begun_ns: u64, trouble: Duration) -> Self {
        Self { begun_ns, trouble, ..Self::default() }
    }

    /// Counts one request of any alert. `disturbed` means that its gateway was disturbed.
    pub(super) fn count(&mut self, push: &Push, disturbed: bool) {
        if push.fate != Fate::Accepted {
            return;
        }
        let end = u128::from(self.begun_ns) + self.trouble.as_nanos();
        match u128::from(push.at_ns).checked_sub(end) {
            None => self.accepted_in_trouble += 1,
            Some(after) if disturbed => {
                *self.accepted_after.entry(after / BUCKET.as_nanos()).or_default() += 1;
            }
            Some(_) => {}
        }
    }

    /// Returns the time from the end of the fault until half of the delayed pushes were accepted:
    /// by then a lane has its rate back. The rest are single devices that wait for their next
    /// attempt.
    fn recovery(&self) -> Duration {
        let calm = self.accepted_after.range(..=self.calm.as_nanos() / BUCKET.as_nanos());
        let held_up: u64 = calm.clone().map(|(_, count)| count).sum();
        let mut sum = 0;
        let half = calm.map(|(bucket, count)| (bucket, *count)).find(|(_, count)| {
            sum += count;
            2 * sum >= held_up
        });
        half.map_or(Duration::ZERO, |(bucket, _)| {
            BUCKET * u32::try_from(bucket + 1).unwrap_or(u32::MAX)
        })
    }

    /// Adds the result of one alert: its end as the cluster reported it, and its judgement.
    pub(super) fn alert(&mut self, hash: u64, ended: &Ended, judged: Judged) {
        let progress = ended.progress.progress.unwrap_or_default();
        let outcomes = progress.outcomes.unwrap_or_default();
        self.alerts += 1;
        self.unresolved += u64::from(ended.progress.state() != State::Resolved);
        let reported = outcomes.refused + outcomes.unknown + outcomes.expired;
        self.untold += judged.missed.saturating_sub(reported);
        let causes = progress.unanswered_requests + progress.retried_requests;
        self.repeats_uncounted += judged.repeated.saturating_sub(causes);
        self.unanswered_uncounted += judged.unanswered.saturating_sub(progress.unanswered_requests);
        self.disagreement +=
            outcomes.accepted.abs_diff(judged.accepted) + outcomes.dead.abs_diff(judged.dead);
        self.refused += outcomes.refused;
        self.expired += outcomes.expired;
        self.retried += progress.retried_requests;
        self.troubled += u64::from(ended.troubles.troubled);
        self.alarmed += u64::from(ended.troubles.alarmed);
        self.speechless += ended.troubles.speechless;
        self.unexplained += unexplained(&ended.progress);
        if self.proof == Some(hash) {
            (self.lost, self.lost_alive) = (judged.unsent, judged.unsent_alive);
        }
        self.judged.add(judged);
    }

    /// Concludes the case and returns its report.
    pub(super) fn report(
        mut self,
        spec: &CaseSpec,
        series: &SeriesSpec,
        strict: bool,
    ) -> CaseReport {
        let figures = self.figures();
        let value = |name: &str| figures.get(name).copied();
        let exact = series
            .expected(spec)
            .into_iter()
            .map(|(name, bound)| check(name, Kind::Exact, bound, value(name)));
        let targets = series.targets(spec).into_iter();
        let target = targets.map(|(name, bound)| check(name, Kind::Target, bound, value(name)));
        let checks: Vec<_> = exact.chain(target).collect();
        let mut examples = std::mem::take(&mut self.judged.examples);
        examples.retain(|kind, _| checks.iter().any(|c| c.name == *kind && !c.held));
        CaseReport {
            name: spec.name.clone(),
            label: spec.label.clone(),
            platform: spec.platform,
            passed: passes(&checks, strict),
            figures,
            checks,
            examples,
        }
    }

    #[allow(clippy::cast_precision_loss)] // counts and bytes far below 2^53
    fn figures(&self) -> BTreeMap<&'static str, f64> {
        let judged = &self.judged;
        let missed_of = |platform| judged.missed_of.get(&platform).copied().unwrap_or(0);
        let counts = [
            ("alerts", self.alerts),
            ("unresolved", self.unresolved),
            ("requests", judged.requests),
            ("struck", judged.struck),
            ("accepted", judged.accepted),
            ("dead_tokens", judged.dead),
            ("missed", judged.missed),
            ("missed_apns", missed_of(Platform::Apns)),
            ("missed_fcm", missed_of(Platform::Fcm)),
            ("untold", self.untold),
            ("outside", judged.outside),
            ("duplicates", judged.duplicates),
            ("repeated", judged.repeated),
            ("repeats_uncounted", self.repeats_uncounted),
            ("unknown", judged.unknown),
            ("strangers", judged.strangers),
            ("late_requests", self.late),
            ("unanswered_requests", judged.unanswered),
            ("unanswered_uncounted", self.unanswered_uncounted),
            ("disagreement", self.disagreement),
            ("refused", self.refused),
            ("expired", self.expired),
            ("retried_requests", self.retried),
            ("troubled", self.troubled),
            ("alarmed", self.alarmed),
            ("speechless", self.speechless),
            ("unexplained", self.unexplained),
            ("lost", self.lost),
            ("lost_alive", self.lost_alive),
            ("connections_opened", self.connections_opened),
            ("connections_closed", self.connections_closed),
            ("handshakes_failed", self.handshakes_failed),
            ("protocol_errors", self.protocol_errors),
        ];
        let trouble = self.trouble.as_secs_f64();
        let measured = [
            ("shard_growth_bytes", self.shard_growth_bytes.map(|bytes| bytes as f64)),
            ("shard_grown_bytes", self.shard_grown_bytes.map(|bytes| bytes as f64)),
            ("recovery_seconds", Some(self.recovery().as_secs_f64())),
            ("calm_seconds", Some(self.calm.as_secs_f64())),
            ("proof_seconds", Some(self.proving.as_secs_f64())),
            ("rate_per_second", Some(self.accepted_in_trouble as f64 / trouble.max(1e-3))),
            ("seconds", Some(trouble)),
        ];
        let counts = counts.into_iter().map(|(name, count)| (name, count as f64));
        counts
            .chain(measured.into_iter().filter_map(|(name, value)| Some((name, value?))))
            .collect()
    }
}

/// Returns the difference between the devices that ended as dead or refused and the reported
/// reasons.
fn unexplained(ended: &AlertProgress) -> u64 {
    let outcomes = ended.progress.and_then(|progress| progress.outcomes).unwrap_or_default();
    let explained = |outcome| {
        ended.reasons.iter().filter(|r| r.outcome() == outcome).map(|r| r.count).sum::<u64>()
    };
    let (dead, refused) = (explained(Outcome::Dead), explained(Outcome::Refused));
    // Reasons that are reported as a sum may be of either outcome.
    let difference = outcomes.dead.abs_diff(dead) + outcomes.refused.abs_diff(refused);
    difference.saturating_sub(ended.other_reasons_count)
}

#[cfg(test)]
mod tests {
    use clarion_proto::wire::v1::{Outcomes, Progress, ReasonCount};

    use super::*;
    use crate::{scenario::figures::FIGURES, verdict::ledger::Answer};

    #[test]
    fn every_figure_has_its_value() {
        let case =
            Case { shard_growth_bytes: Some(0), shard_grown_bytes: Some(0), ..Case::default() };
        let (mut known, figures) = (FIGURES.to_vec(), case.figures());
        known.sort_unstable();
        assert_eq!(figures.keys().copied().collect::<Vec<_>>(), known);
    }

    #[test]
    fn every_refused_and_dead_device_has_a_reason() {
        let reason = |outcome: Outcome, count| ReasonCount {
            outcome: outcome.into(),
            count,
            ..ReasonCount::default()
        };
        let outcomes = Outcomes { dead: 5, refused: 3, accepted: 9, ..Outcomes::default() };
        let ended = |reasons, other_reasons_count| AlertProgress {
            progress: Some(Progress { outcomes: Some(outcomes), ..Progress::default() }),
            reasons,
            other_reasons_count,
            ..AlertProgress::default()
        };
        let retried = reason(Outcome::Retried, 77);
        assert_eq!(unexplained(&ended(vec![], 0)), 8);
        assert_eq!(unexplained(&ended(vec![reason(Outcome::Dead, 5), retried.clone()], 0)), 3);
        assert_eq!(unexplained(&ended(vec![reason(Outcome::Dead, 5), retried.clone()], 3)), 0);
        assert_eq!(
            unexplained(&ended(
                vec![reason(Outcome::Dead, 6), reason(Outcome::Refused, 3), retried],
                0
            )),
            1
        );
    }

    #[test]
    fn recovery_is_when_half_of_what_was_held_up_is_accepted() {
        let mut case =
            Case { calm: Duration::from_secs(9), ..Case::new(1_000, Duration::from_secs(1)) };
        let mut accept = |millis: u64, disturbed| {
            let at_ns = 1_000 + millis * 1_000_000;
            case.count(
                &Push { token_hash: 1, at_ns, fate: Fate::Accepted, answer: Answer::Given },
                disturbed,
            );
        };
        accept(999, true);
        (0..100).for_each(|_| accept(1_010, false));
        (0..10).for_each(|_| accept(2_210, true));
        (0..9).for_each(|_| accept(9_900, true));
        // Of the undisturbed alert at the end.
        (0..100).for_each(|_| accept(11_000, true));
        assert_eq!((case.accepted_in_trouble, case.recovery()), (1, Duration::from_millis(1_250)));
        assert_eq!(Case::default().recovery(), Duration::ZERO);
    }
}
