//! Routes a session's notes to the machines concerned; free of I/O.
//!
//! | Note | Machine |
//! |---|---|
//! | about a wave | the alert's director; the caller delivers it, because alerts have inputs of their own |
//! | health, load or number of a lane end | lane owner |
//! | registry state | roster; nothing of it counts under another log |
//! | answer to a count, or its failure | the count |
//! | defect of the node | the log |

use clarion_proto::{
    ids::{LaneId, LogIdentity, WaveId},
    wire::shard_v1 as wire,
};

use super::note::{Note, WaveNote};
use crate::owners::NodeName;

/// The machines of a coordinator other than its alerts, wherever they are kept.
pub(crate) trait Machines {
    /// Records the health of a lane end in the lane owner.
    fn lane_health(&mut self, node: &NodeName, state: &wire::LaneState);
    /// Creates in the lane owner the lane with this number, which a node uses for another
    /// coordinator.
    fn lane_unknown(&mut self, lane: LaneId);
    /// Records the load of a lane's connections in the lane owner.
    fn lane_load(&mut self, node: &NodeName, load: wire::LaneLoad);
    /// Records a registry state in the roster; `None`: the node has no data of this log.
    fn registry(&mut self, node: &NodeName, state: Option<&wire::RegistryState>);
    /// Passes a node's answer to the count.
    fn counted(&mut self, node: &NodeName, counted: wire::Counted);
    /// Reports that a node cannot take a count; `again`: a retry may succeed.
    fn count_failed(&mut self, node: &NodeName, id: u64, reason: String, again: bool);
    /// Reports a defect of a node.
    fn fault(&mut self, node: &NodeName, what: String);
}

/// Routes a note of a node's session, in a coordinator that serves `log`. Returns a note about a
/// wave, which the caller delivers to the alert.
pub(crate) fn route(
    note: Note,
    node: &NodeName,
    log: LogIdentity,
    machines: &mut impl Machines,
) -> Option<(WaveId, WaveNote)> {
    match note {
        Note::Wave(wave, note) => return Some((wave, note)),
        Note::Lane(state) => machines.lane_health(node, &state),
        Note::LaneUnknown(lane) => machines.lane_unknown(lane),
        Note::Load(load) => machines.lane_load(node, load),
        Note::Registry(state) => {
            let of_this_log = LogIdentity::from_wire(&state.log_identity) == Ok(log);
            machines.registry(node, of_this_log.then_some(&state));
        }
        Note::Counted(counted) => machines.counted(node, counted),
        Note::CountFailed { id, reason, again } => machines.count_failed(node, id, reason, again),
        Note::Fault(what) => machines.fault(node, what),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{WAVE, node};

    /// Writes down what arrives.
    #[derive(Default)]
    struct Noted(Vec<String>);

    impl Machines for Noted {
        fn lane_health(&mut self, _: &NodeName, state: &wire::LaneState) {
            self.0.push(format!("health {}", state.lane));
        }
        fn lane_unknown(&mut self, lane: LaneId) {
            self.0.push(format!("unknown {}", lane.0));
        }
        fn lane_load(&mut self, _: &NodeName, load: wire::LaneLoad) {
            self.0.push(format!("load {}", load.lane));
        }
        fn registry(&mut self, _: &NodeName, state: Option<&wire::RegistryState>) {
            self.0.push(format!("registry {:?}", state.map(|state| state.devices)));
        }
        fn counted(&mut self, _: &NodeName, counted: wire::Counted) {
            self.0.push(format!("counted {}", counted.id));
        }
        fn count_failed(&mut self, _: &NodeName, id: u64, reason: String, again: bool) {
            self.0.push(format!("count failed {id} {reason} {again}"));
        }
        fn fault(&mut self, node: &NodeName, what: String) {
            self.0.push(format!("fault {node} {what}"));
        }
    }

    #[test]
    fn each_note_goes_to_one_machine() {
        let (log, other) = (LogIdentity([1; 16]), LogIdentity([2; 16]));
        let registry = |log: LogIdentity| {
            let log_identity = log.to_wire();
            Note::Registry(wire::RegistryState { log_identity, devices: 5, ..Default::default() })
        };
        for (note, expected) in [
            (Note::Lane(wire::LaneState { lane: 3, ..Default::default() }), "health 3"),
            (Note::LaneUnknown(LaneId(8)), "unknown 8"),
            (Note::Load(wire::LaneLoad { lane: 4, ..Default::default() }), "load 4"),
            (registry(log), "registry Some(5)"),
            (registry(other), "registry None"),
            (Note::Counted(wire::Counted { id: 6, ..Default::default() }), "counted 6"),
            (
                Note::CountFailed { id: 7, reason: "no".to_owned(), again: true },
                "count failed 7 no true",
            ),
            (Note::Fault("odd".to_owned()), "fault a odd"),
        ] {
            let mut noted = Noted::default();
            assert!(route(note, &node("a"), log, &mut noted).is_none());
            assert_eq!(noted.0, [expected]);
        }
        let mut noted = Noted::default();
        let wave = route(Note::Wave(WAVE, WaveNote::Granted), &node("a"), log, &mut noted);
        assert!(matches!(wave, Some((WAVE, WaveNote::Granted))) && noted.0.is_empty());
    }
}
