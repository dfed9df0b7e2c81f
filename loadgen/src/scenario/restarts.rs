//! Restarts: processes of a cluster end, come back, or come back with another configuration; then
//! an alert shows the result.
//!
//! Each case has its own cluster. Each of its phases changes something, waits until the health port
//! of every expected process reports a stable state, and then submits an alert. Two outcomes are
//! good: **exact**, every device inside was alerted once and no other device; or **loud**, a
//! process reports NOT_SERVING, or does not answer. Green and wrong is never good.

use serde::Deserialize;

use super::{Scenario, check::Checked};
use crate::names;

/// Settings of a scenario of restarts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartsSpec {
    /// Time limit until all processes serve, seconds; a process that does not serve by then is
    /// loud.
    #[serde(default = "default_settle_s")]
    pub settle_s: u64,
    /// Cases in the order of the run.
    pub cases: Vec<RestartCase>,
}

fn default_settle_s() -> u64 {
    30
}

/// One cluster, from its start.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartCase {
    /// Name by which `--case` selects it.
    pub name: String,
    /// Short description of the events.
    pub label: String,
    /// Nodes that are not there at first.
    #[serde(default)]
    pub later: Vec<u32>,
    /// It takes so long that it is run only if it is named.
    #[serde(default)]
    pub by_name_only: bool,
    /// Shard nodes; absent: the scenario's.
    #[serde(default)]
    pub nodes: Option<u32>,
    /// Number of nodes, from the first, that the coordinator knows; absent: all.
    #[serde(default)]
    pub nodes_told: Option<u32>,
    /// Phases in the order of the run.
    pub phases: Vec<Phase>,
}

/// One change of the cluster, and its expected outcome.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Steps, one after the other.
    pub steps: Vec<Step>,
    /// Pushes a second of an alert under which the steps are done, and which is judged, too;
    /// absent: they are done between alerts.
    #[serde(default)]
    pub under_alert: Option<u32>,
    /// A process was killed under the alert: devices that were pushed to just before may be pushed
    /// to again.
    #[serde(default)]
    pub repeats: bool,
    /// Number of repetitions of the steps, each under an alert of its own.
    #[serde(default = "one")]
    pub rounds: u32,
    /// Instead of the spec's: what stays loud need not be waited for as long as what becomes quiet.
    #[serde(default)]
    pub settle_s: Option<u64>,
    /// Expected outcome of the phase.
    pub expect: Outcome,
}

fn one() -> u32 {
    1
}

/// Outcome of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All processes serve, and the alert was exact.
    Exact,
    /// A process reports that it does not serve, or does not answer.
    Loud,
    /// All processes serve, and the alert was not exact; or devices were pushed to that are not
    /// there.
    Wrong,
}

/// One step. Processes are `coordinator`, `coordinator-2`, `shard-0` and so on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Ends it as a power failure would (SIGKILL); it should be there.
    Kill {
        /// Name of the process: `coordinator`, `coordinator-2` or `shard-0` and so on.
        what: String,
    },
    /// Asks it to end (SIGTERM) and waits for that; it should be there.
    Terminate {
        /// Name of the process: `coordinator`, `coordinator-2` or `shard-0` and so on.
        what: String,
    },
    /// As `terminate`, but it should not be there any more.
    Remove {
        /// Name of the process: `coordinator`, `coordinator-2` or `shard-0` and so on.
        what: String,
    },
    /// Starts it, in place of a former one or for the first time.
    Start {
        /// Name of the process: `coordinator`, `coordinator-2` or `shard-0` and so on.
        what: String,
        /// Another cluster name.
        #[serde(default)]
        cluster: Option<String>,
        /// A node under another name than its own.
        #[serde(default)]
        name: Option<String>,
        /// A coordinator with another count of partitions than the default.
        #[serde(default)]
        partitions: Option<u16>,
        /// Number of nodes, from the first, that a coordinator knows.
        #[serde(default)]
        nodes: Option<u32>,
    },
    /// Lets time pass.
    Wait {
        /// Duration of the wait, milliseconds.
        ms: u64,
    },
    /// Waits until every process serves.
    Ready {},
}

impl Step {
    fn process(&self) -> Option<&str> {
        match self {
            Self::Kill { what }
            | Self::Terminate { what }
            | Self::Remove { what }
            | Self::Start { what, .. } => Some(what),
            Self::Wait { .. } | Self::Ready {} => None,
        }
    }

    /// Whether the registry is empty afterwards: a coordinator keeps it in memory.
    #[must_use]
    pub fn empties_registry(&self) -> bool {
        matches!(self, Self::Start { what, .. } if what == names::COORDINATOR)
    }
}

impl RestartsSpec {
    /// Leaves the named cases.
    ///
    /// # Errors
    /// A name that no case has.
    pub fn choose(&mut self, names: &[String]) -> Result<(), String> {
        if let Some(unknown) =
            names.iter().find(|name| self.cases.iter().all(|case| case.name != **name))
        {
            let there =
                self.cases.iter().map(|c| format!("`{}`", c.name)).collect::<Vec<_>>().join(", ");
            return Err(format!("no case `{unknown}`; there are {there}"));
        }
        let all = names.is_empty();
        self.cases.retain(|case| names.contains(&case.name) || (all && !case.by_name_only));
        Ok(())
    }

    pub(super) fn check(&self, scenario: &Scenario) -> Checked {
        if self.cases.is_empty() || !(1..=600).contains(&self.settle_s) {
            return Err((
                "restarts",
                "must have at least one case, and settle_s must be 1 to 600".to_owned(),
            ));
        }
        if scenario.series.is_some()
            || !scenario.node_changes.is_empty()
            || scenario.motion.is_some()
        {
            return Err((
                "restarts",
                "must not be combined with series, node_changes or motion".to_owned(),
            ));
        }
        for case in &self.cases {
            let nodes = case.nodes.unwrap_or(scenario.nodes);
            let of_case = |problem: String| ("restarts.cases", format!("{}: {problem}", case.name));
            for phase in &case.phases {
                let known = |what: &str| {
                    what == names::COORDINATOR
                        || what == names::SECOND_COORDINATOR
                        || names::node_number(what).is_some_and(|n| n < nodes)
                };
                if let Some(unknown) =
                    phase.steps.iter().filter_map(Step::process).find(|what| !known(what))
                {
                    return Err(of_case(format!("process `{unknown}` does not exist in the case")));
                }
                if phase.rounds == 0 || (phase.rounds > 1 && phase.under_alert.is_none()) {
                    return Err(of_case("rounds must be 1; more only with under_alert".to_owned()));
                }
                if phase.expect == Outcome::Wrong {
                    return Err(of_case(
                        "expectation must not be an outcome that is always wrong".to_owned(),
                    ));
                }
            }
        }
        Ok(())
    }
}
