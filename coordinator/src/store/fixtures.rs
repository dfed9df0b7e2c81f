//! Fixtures for unit tests of records.

use std::sync::Arc;

use clarion_proto::ids::{AlertName, AppName, Epoch, LogIdentity, UnixMillis, WaveId};

use super::{AlertRecord, RequestId, SendPlan};
use crate::{
    bands::BandEdges,
    seal::{Generation, KEY_BYTES, Seals},
    snapshot::State,
};

/// An active alert for `apps/demo`.
pub(crate) fn record(name: &str, created: u64) -> AlertRecord {
    AlertRecord {
        name: AlertName::from_id(name).expect("valid"),
        request_id: RequestId(uuid::Uuid::from_u128(u128::from(created))),
        submitted: Arc::default(),
        apps: vec![AppName::from_id("demo").expect("valid")],
        plan: Some(Arc::new(SendPlan {
            edges: BandEdges::default(),
            finest: h3o::Resolution::Nine,
            segments: Vec::new(),
            apps: crate::fixtures::alert().apps,
        })),
        overshoot_m: 449.0,
        band_step_m: 10_000.0,
        wave: WaveId(created),
        epoch: Epoch(1),
        log: LogIdentity([0; 16]),
        positions: Vec::new(),
        created: UnixMillis(created),
        place_seen_after: UnixMillis(0),
        expires: UnixMillis(created + 1_000),
        revision: 1,
        state: State::Active,
        ended: None,
        cancel_reason: None,
        settled: None,
    }
}

/// Seals with a key that is the same in every process of a test.
pub(crate) fn seals() -> Arc<Seals> {
    Arc::new(Seals::new(Generation(1), &[1; KEY_BYTES]))
}

/// The next revision of an alert that ended in the given state.
pub(crate) fn ended(alert: &AlertRecord, state: State) -> AlertRecord {
    let revision = alert.revision + 1;
    let (ended, plan) = (Some(UnixMillis(9)), None);
    AlertRecord { state, revision, ended, plan, ..alert.clone() }
}
