//! Restarts: processes of a cluster end, come back, or come back with another configuration; then
//! an alert shows the result.
//!
//! Each case has its own cluster. Each of its phases changes something, waits until the health port
//! of every expected process reports a stable state, and then submits an alert. Two outcomes are
//! good: **exact**, every device inside was alerted once and no other device; or **loud**, a
//! process reports NOT_SERVING, or does not answer. A wrong alert while every process reports
//! SERVING is never good.

use serde::Deserialize;

use super::{
    Scenario, StoreKind,
    check::{Checked, case_names},
};
use crate::names;

/// Settings of a scenario of restarts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartsSpec {
    /// Time limit until all processes serve, seconds; a process that does not serve by then counts
    /// as loud.
    #[serde(default = "default_settle_s")]
    pub settle_s: u64,
    /// Cases in the order of the run.
    pub cases: Vec<RestartCase>,
}

fn default_settle_s() -> u64 {
    30
}

/// A case: one cluster and its phases.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartCase {
    /// Name by which `--case` selects it.
    pub name: String,
    /// Short description of the events.
    pub label: String,
    /// Numbers of the nodes that are not started at first.
    #[serde(default)]
    pub later: Vec<u32>,
    /// Whether the case runs only if it is named, because it takes long.
    #[serde(default)]
    pub by_name_only: bool,
    /// Number of shard nodes; absent: the scenario's.
    #[serde(default)]
    pub nodes: Option<u32>,
    /// Number of nodes, from the first, that the coordinator knows; absent: all.
    #[serde(default)]
    pub nodes_told: Option<u32>,
    /// Time between two snapshots of a partition, seconds; absent: the coordinator's default.
    #[serde(default)]
    pub snapshot_every_seconds: Option<u64>,
    /// Phases in the order of the run.
    pub phases: Vec<Phase>,
}

/// One change of the cluster, and its expected outcome.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Steps of the phase, in order.
    pub steps: Vec<Step>,
    /// Pushes per second of an alert during which the steps are done, and which is judged too;
    /// absent: the steps are done between alerts.
    #[serde(default)]
    pub under_alert: Option<u32>,
    /// Whether a device may be pushed to again, because a process is killed during the alert.
    #[serde(default)]
    pub repeats: bool,
    /// Number of repetitions of the steps, each under an alert of its own.
    #[serde(default = "one")]
    pub rounds: u32,
    /// Time limit that replaces the spec's, seconds: a process that stays loud need not be awaited
    /// as long.
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
    /// All processes serve, but the alert was not exact, or went to devices that are not
    /// registered.
    Wrong,
}

/// A step of a phase. Processes are `coordinator`, `coordinator-2`, `shard-0` and so on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Kills the process as a power failure would (SIGKILL). The process remains expected.
    Kill {
        /// Name of the process: `coordinator`, `coordinator-2` or `shard-0` and so on.
        what: String,
    },
    /// Asks the process to end (SIGTERM) and waits for its end. The process remains expected.
    Terminate {
        /// Name of the process: `coordinator`, `coordinator-2` or `shard-0` and so on.
        what: String,
    },
    /// Ends the process like `terminate`. The process is no longer expected.
    Remove {
        /// Name of the process: `coordinator`, `coordinator-2` or `shard-0` and so on.
        what: String,
    },
    /// Starts the process, in place of an earlier one or for the first time. A process that ends at
    /// its start remains expected.
    Start {
        /// Name of the process: `coordinator`, `coordinator-2` or `shard-0` and so on.
        what: String,
        /// Name of another cluster.
        #[serde(default)]
        cluster: Option<String>,
        /// Name of the node, if it differs from the name of its process.
        #[serde(default)]
        name: Option<String>,
        /// Number of partitions of the coordinator, if it differs from the default.
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
}

impl RestartsSpec {
    /// Keeps only the named cases.
    ///
    /// # Errors
    /// A name that no case has.
    pub fn choose(&mut self, names: &[String]) -> Result<(), String> {
        case_names(names, self.cases.iter().map(|case| &*case.name))?;
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
        if scenario.store == StoreKind::Memory {
            let problem = "must not be combined with store \"memory\", which a restart empties";
            return Err(("restarts", problem.to_owned()));
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
