//! A series: one cluster and many fault cases one after the other, each under alerts that never
//! stop.
//!
//! One alert shows the effect of a fault on its middle. A lane must endure a fault that continues
//! while alerts start and end, and then the next fault. So a case is an interval in which its fault
//! acts; meanwhile alert follows alert over the same devices, the next as soon as the last has
//! handed over all devices, so that there are always pushes in flight. Then the fault ends, every
//! device must have been alerted, and one more alert, undisturbed, shows that no effect remains.

use std::collections::BTreeMap;

use clarion_emulator::{Faults, Platform};
use serde::Deserialize;

use super::{
    Bound, Scenario,
    check::{Checked, case_names},
    figures::FIGURES,
    mixture::MixtureSpec,
};

/// Settings of a series.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeriesSpec {
    /// Duration of the fault in each case, seconds.
    pub seconds: f64,
    /// Most alerts in progress: an alert that waits for its last devices does not delay the next.
    #[serde(default = "default_alerts_max")]
    pub alerts_max: usize,
    /// Expectations of each case; a case may override them.
    #[serde(default)]
    pub expect: BTreeMap<String, Bound>,
    /// Targets of each case, which are judged only with `--strict`: rates and times.
    #[serde(default)]
    pub targets: BTreeMap<String, Bound>,
    /// Cases in order. The first is undisturbed and as long as any other, but at most 30 s; its
    /// memory is the steady state.
    pub cases: Vec<CaseSpec>,
}

fn default_alerts_max() -> usize {
    4
}

/// Case of a series: one kind of fault.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseSpec {
    /// Name by which `--case` selects it.
    pub name: String,
    /// Short description of the fault.
    pub label: String,
    /// Platform of the affected gateway; absent: all.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// Faults that act during the case.
    #[serde(default)]
    pub faults: Option<Box<Faults>>,
    /// Random mixture of faults, in place of `faults`.
    #[serde(default)]
    pub mixture: Option<MixtureSpec>,
    /// Whether the case runs only if it is named, because it takes long.
    #[serde(default)]
    pub by_name_only: bool,
    /// Expectations that differ from those of the series.
    #[serde(default)]
    pub expect: BTreeMap<String, Bound>,
    /// Targets in addition to those of the series.
    #[serde(default)]
    pub targets: BTreeMap<String, Bound>,
}

impl CaseSpec {
    /// Reports whether the case affects the gateway of a platform.
    #[must_use]
    pub fn applies_to(&self, gateway: Platform) -> bool {
        self.platform.is_none_or(|p| p == gateway)
    }

    /// Reports whether the case has no fault.
    #[must_use]
    pub fn is_undisturbed(&self) -> bool {
        self.faults.is_none() && self.mixture.is_none()
    }
}

impl SeriesSpec {
    /// Returns the expectations of a case.
    #[must_use]
    pub fn expected(&self, case: &CaseSpec) -> BTreeMap<&'static str, Bound> {
        let of_all = self.expect.iter().chain(&case.expect);
        of_all.filter_map(|(name, bound)| Some((known(name)?, *bound))).collect()
    }

    /// Returns the targets of a case.
    #[must_use]
    pub fn targets(&self, case: &CaseSpec) -> BTreeMap<&'static str, Bound> {
        let of_all = self.targets.iter().chain(&case.targets);
        of_all.filter_map(|(name, bound)| Some((known(name)?, *bound))).collect()
    }

    /// Keeps only the named cases and the undisturbed first one.
    ///
    /// # Errors
    /// A name that no case has.
    pub fn choose(&mut self, names: &[String]) -> Result<(), String> {
        case_names(names, self.cases.iter().map(|case| &*case.name))?;
        let all = names.is_empty();
        self.cases.retain(|case| {
            case.is_undisturbed() || names.contains(&case.name) || (all && !case.by_name_only)
        });
        Ok(())
    }

    pub(super) fn check(&self, scenario: &Scenario) -> Checked {
        if !(self.seconds > 0.0 && self.seconds <= 3_600.0) {
            return Err((
                "series.seconds",
                format!("must be greater than 0 and at most 3,600; got {}", self.seconds),
            ));
        }
        if !(1..=32).contains(&self.alerts_max) {
            return Err(("series.alerts_max", format!("must be 1 to 32; got {}", self.alerts_max)));
        }
        if !self.cases.first().is_some_and(CaseSpec::is_undisturbed) {
            return Err((
                "series.cases",
                "must begin with a case that has neither faults nor a mixture".to_owned(),
            ));
        }
        for (field, used) in [
            ("gateway.fault", scenario.gateway.fault.is_some()),
            ("cancel", scenario.cancel.is_some()),
            ("motion", scenario.motion.is_some()),
            ("watchers", scenario.watchers.is_some()),
            ("node_changes", !scenario.node_changes.is_empty()),
        ] {
            if used {
                return Err((field, "must be absent in a series: it is for one alert".to_owned()));
            }
        }
        for (n, case) in self.cases.iter().enumerate() {
            let of_case = |problem: String| ("series.cases", format!("{}: {problem}", case.name));
            if self.cases[..n].iter().any(|other| other.name == case.name) {
                return Err(of_case("must be unique; another case has this name".to_owned()));
            }
            if case.faults.is_some() && case.mixture.is_some() {
                return Err(of_case("must have faults or a mixture, not both".to_owned()));
            }
            case.mixture.iter().try_for_each(|mixture| mixture.check().map_err(of_case))?;
            let platforms = scenario.population.apps.iter().map(|app| app.platform);
            for platform in platforms.filter(|p| case.applies_to(*p)) {
                case.faults
                    .iter()
                    .try_for_each(|f| f.check(platform))
                    .map_err(|e| of_case(e.to_string()))?;
            }
            let of_all = self.expect.keys().chain(self.targets.keys());
            if let Some(name) = of_all
                .chain(case.expect.keys())
                .chain(case.targets.keys())
                .find(|name| known(name).is_none())
            {
                return Err(of_case(format!(
                    "`{name}` must be a figure of a case: {}",
                    FIGURES.join(", ")
                )));
            }
        }
        Ok(())
    }
}

fn known(name: &str) -> Option<&'static str> {
    FIGURES.iter().find(|known| **known == name).copied()
}
