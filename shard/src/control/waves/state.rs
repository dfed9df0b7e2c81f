//! The state of one wave, over all its plans.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use clarion_proto::{
    ids::{CoordinatorId, LaneId},
    time::Time,
};
use tracing::Span;

use super::super::{merge::Merge, output::Output, placement::Placement, plan::Plan};
use crate::command::{Command, WaveSpec};

/// One wave of the node.
#[derive(Debug)]
pub(super) struct State {
    /// The newest plan, without partitions.
    pub(super) spec: WaveSpec,
    /// Coordinator that offered the newest plan.
    pub(super) director: CoordinatorId,
    pub(super) ownership: u64,
    pub(super) bands: u32,
    /// Number of open bands, by lane of the wave.
    pub(super) bands_open: BTreeMap<LaneId, u32>,
    /// Cores that got the wave, in this plan or a former plan.
    pub(super) told: BTreeSet<usize>,
    /// Number of cores that have partitions of the newest plan.
    pub(super) parts: usize,
    pub(super) placement: Placement,
    pub(super) merge: Merge,
    pub(super) report_due: Time,
    pub(super) cancel: Option<Cancel>,
    /// Set when the wave has ended on all nodes: its state is kept until this time for the last
    /// report.
    pub(super) ended_until: Option<Time>,
    pub(super) span: Span,
}

/// The cancel of one wave.
#[derive(Debug, Default)]
pub(super) struct Cancel {
    pub(super) answers: BTreeMap<usize, (Option<Time>, u64)>,
    /// Coordinators that wait for the confirmation.
    pub(super) waiting: BTreeSet<CoordinatorId>,
}

impl State {
    /// Creates the state of a wave that has no plan yet.
    pub(super) fn new(now: Time, director: CoordinatorId, spec: WaveSpec) -> Self {
        Self {
            spec,
            director,
            ownership: 0,
            bands: 0,
            bands_open: BTreeMap::new(),
            told: BTreeSet::new(),
            parts: 0,
            placement: Placement::default(),
            merge: Merge::default(),
            report_due: now,
            cancel: None,
            ended_until: None,
            span: Span::none(),
        }
    }

    /// Switches to a plan and sends it to the cores. Totals and handed devices are kept.
    pub(super) fn replanned(self, plan: Plan, span: Span, out: &mut VecDeque<Output>) -> Self {
        let Plan { ownership, bands, spec, cores } = plan;
        let number = if self.told.is_empty() { 0 } else { self.spec.plan + 1 };
        let mut state = Self {
            spec: WaveSpec { plan: number, ..spec },
            ownership,
            bands,
            cancel: None,
            ended_until: None,
            span,
            parts: cores.len(),
            ..self
        };
        // A core opens the first band without a command.
        state.bands_open = state.spec.apps.iter().map(|app| (app.lane, 1)).collect();
        state.merge.set_cores(cores.keys().copied(), number);
        let mut shares = state.placement.plan(cores);
        state.told.extend(shares.keys());
        for core in &state.told {
            let shards = shares.remove(core).unwrap_or_default();
            let spec = Arc::new(WaveSpec { shards, ..state.spec.clone() });
            out.push_back(Output::command(*core, Command::Wave(spec)));
        }
        state
    }

    pub(super) fn tell(&self, out: &mut VecDeque<Output>, command: impl Fn() -> Command) {
        out.extend(self.told.iter().map(|core| Output::command(*core, command())));
    }

    /// Whether every core has stopped the wave and a coordinator waits to hear it.
    pub(super) fn is_confirmed_to(&self, to: CoordinatorId) -> bool {
        self.cancel
            .as_ref()
            .filter(|cancel| cancel.waiting.contains(&to))
            .is_some_and(|cancel| self.told.iter().all(|core| cancel.answers.contains_key(core)))
    }
}
