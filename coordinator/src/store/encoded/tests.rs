use std::time::Duration;

use clarion_proto::ids::PartitionId;

use super::*;
use crate::{
    snapshot::{
        AnswerOutcome, BandCounts, CellCounts, Counts, LaneTrouble, PruningAlarm, ReasonCount,
        RefusedMessage, Snapshot, Trouble,
    },
    store::{
        fixtures::{ended, record},
        suite,
    },
};

fn demo() -> AppName {
    AppName::from_id("demo").expect("valid")
}

fn lane_key() -> LaneKey {
    LaneKey { gateway: "g".into(), credential: "c".into() }
}

/// A snapshot in which every field differs from its default.
fn whole_snapshot(alert: &AlertName) -> Snapshot {
    let counts = |handed| Counts { handed, outcomes: [5, 4, 3, 2, 1] };
    let reason = |of, outcome| ReasonCount {
        of,
        outcome,
        status: 410,
        reason: "Unregistered".to_owned(),
        count: 9,
    };
    let trouble = |kind| LaneTrouble {
        gateway: "g".into(),
        credential: "c".into(),
        kind,
        nodes: 2,
        detail: "503".into(),
        since: UnixMillis(7),
        next_probe: Some(UnixMillis(8)),
    };
    Snapshot {
        alert: alert.clone(),
        version: 17,
        state: State::Cancelled,
        settled: true,
        ended: Some(UnixMillis(99)),
        totals: counts(15),
        unanswered_requests: 1,
        retried_requests: 2,
        nodes_walked: 3,
        nodes: 4,
        first_accepted_after: Some(Duration::from_micros(1_234)),
        last_accepted_after: Some(Duration::from_micros(5_678)),
        bands: vec![BandCounts { from_m: 0.0, to_m: 1_000.5, walked: true, counts: counts(16) }],
        cells: vec![CellCounts {
            cell: 0x8641_11a0_7fff_ffff,
            handed: 3,
            accepted: 2,
            failed: 1,
            version: 16,
        }],
        refused_messages: vec![RefusedMessage { app: demo(), detail: "400 BadTopic".into() }],
        lane_troubles: [
            Trouble::Unreachable,
            Trouble::Throttled,
            Trouble::Credential,
            Trouble::Intermediary,
            Trouble::Project,
        ]
        .map(trouble)
        .to_vec(),
        isolated: vec![(NodeName::new("shard-1").expect("valid"), "too large".into())],
        reasons: vec![
            reason(Some((demo(), lane_key())), AnswerOutcome::Dead),
            reason(None, AnswerOutcome::Refused),
            reason(None, AnswerOutcome::Retried),
        ],
        other_reasons: 5,
        pruning_alarms: vec![PruningAlarm {
            app: demo(),
            lane: lane_key(),
            since: UnixMillis(3),
            withheld: 11,
            accepted_any: true,
        }],
    }
}

/// Both forms of a message: the record's type has no equality, its text shows every field.
fn shown(alert: &AlertRecord) -> String {
    format!("{alert:?}")
}

#[test]
fn an_alert_comes_back_as_it_was() {
    let mut active = record("a1", 5);
    active.positions = vec![Position(7), Position(0), Position(u64::MAX)];
    active.place_seen_after = UnixMillis(3);
    active.log = LogIdentity([9; 16]);
    let mut submitted = clarion_proto::wire::v1::Alert::default();
    submitted.labels.insert("case".into(), "7".into());
    active.submitted = Arc::new(submitted);
    let send = active.plan.as_deref().expect("active").clone();
    let fcm = AppPlan { request: PushRequest::Fcm { project: "p".into() }, ..send.apps[0].clone() };
    active.plan = Some(Arc::new(SendPlan { apps: vec![send.apps[0].clone(), fcm], ..send }));
    assert_eq!(shown(&read_alert(&alert(&active)).expect("readable")), shown(&active));
    for state in
        [State::Active, State::Cancelling, State::Cancelled, State::Resolved, State::Expired]
    {
        let over = AlertRecord {
            cancel_reason: Some("found".into()),
            settled: Some(Arc::new(whole_snapshot(&active.name))),
            ..ended(&active, state)
        };
        assert_eq!(shown(&read_alert(&alert(&over)).expect("readable")), shown(&over));
    }
}

#[test]
fn an_app_an_ownership_and_a_director_come_back_as_they_were() {
    let demo = suite::app("demo");
    assert_eq!(read_app(&app(&demo)), Ok(demo));
    let nodes = ["b", "a"].map(|name| NodeName::new(name).expect("valid"));
    for assigned in [Ownership::assign(3, 64, &nodes), Ownership::assign(4, 64, &[])] {
        assert_eq!(read_ownership(&ownership(&assigned)), Ok(assigned));
    }
    let director = LaneDirector { epoch: Epoch(4), coordinator: CoordinatorId([8; 16]) };
    assert_eq!(read_lane_director(&lane_director(&director)), Ok(director));
}

#[test]
fn what_is_damaged_or_later_is_named() {
    let bytes = alert(&record("a1", 5));
    assert!(matches!(read_alert(&bytes[..bytes.len() - 1]), Err(Unreadable::Damaged(_))));
    let later = wire::Alert { state: 77, ..wire::Alert::decode(&bytes[..]).expect("readable") };
    let problem = read_alert(&later.encode_to_vec()).expect_err("a later version's");
    assert_eq!(problem.to_string(), "state: has the value 77, which this version does not know");
    let nobody = wire::Ownership { number: 1, nodes: Vec::new(), owners: vec![0] };
    assert!(read_ownership(&nobody.encode_to_vec()).is_err());
    let whole = Ownership::assign(1, 4, &[NodeName::new("a").expect("valid")]);
    assert_eq!(whole.owner(PartitionId(3)).map(NodeName::as_str), Some("a"));
}
