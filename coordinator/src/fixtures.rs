//! What unit tests of dispatch and of sessions begin with.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_proto::{
    app::Platform,
    ids::{AlertName, AppName, BootId, Epoch, LaneId, LogIdentity, Position, UnixMillis, WaveId},
    time::Time,
};
use clarion_runtime::world::Moment;
use secrecy::SecretString;

use crate::{
    bands::Band,
    lane::{ConnectionLimits, Gateway, LaneKey, LaneSpec, ProviderToken, Quota},
    owners::{NodeName, Owned, Ownership},
    planned::{ApnsRequest, AppPlan, LocaleMessage, PlannedAlert, PushRequest},
    standing::{Phase, Standing, StandingWave},
};

pub(crate) const WAVE: WaveId = WaveId(7);
pub(crate) const LANE: LaneId = LaneId(3);
pub(crate) const BOOT_1: BootId = BootId([1; 16]);
pub(crate) const BOOT_2: BootId = BootId([2; 16]);
/// P in these tests.
pub(crate) const PARTITIONS: u16 = 8;

pub(crate) fn seconds(n: u64) -> Time {
    Time(n * 1_000_000)
}

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// The moment at which runs of [`alert`] begin: 1 s on both clocks.
pub(crate) const BEGUN: Moment = Moment { at: Time(1_000_000), wall: UnixMillis(1_000) };

/// Two bands, 1,000 a second, from 1 s to 100 s; log `l` stands at 10 + `l`.
pub(crate) fn alert() -> PlannedAlert {
    let cell = h3o::LatLng::new(22.54, 114.06).unwrap().to_cell(h3o::Resolution::Nine);
    let band = |from_m, to_m| Band { from_m, to_m, cells: vec![cell] };
    PlannedAlert {
        name: AlertName::from_id("a").unwrap(),
        wave: WAVE,
        epoch: Epoch(1),
        bands: vec![band(0.0, 1_000.0), band(1_000.0, 2_000.0)].into(),
        apps: vec![AppPlan {
            app: AppName::from_id("demo").unwrap(),
            lane: LaneKey { gateway: "g".to_owned(), credential: "c".to_owned() },
            request: PushRequest::Apns(ApnsRequest {
                topic: "org.example".to_owned(),
                push_type: "alert".to_owned(),
                priority: 10,
                expiration: 99,
                collapse_id: "a".to_owned(),
            }),
            messages: vec![LocaleMessage {
                locale: "en".to_owned(),
                body: Bytes::from_static(b"{}"),
                body_after_token: Bytes::new(),
            }],
        }],
        segments: Vec::new(),
        place_seen_after: UnixMillis(0),
        log: LogIdentity([0; 16]),
        positions: (0..u64::from(PARTITIONS)).map(|log| Position(10 + log)).collect(),
        created: UnixMillis(1_000),
        expires: UnixMillis(100_000),
        max_rate_per_second: 1_000,
    }
}

pub(crate) fn gateway(quota: Option<Quota>) -> Gateway {
    Gateway {
        name: "g".to_owned(),
        platform: Platform::Apns,
        endpoint: "localhost:443".to_owned(),
        server_name: "localhost".to_owned(),
        ca_pem: String::new(),
        live: false,
        route: clarion_runtime::proxy::Route::Direct,
        connections: ConnectionLimits { floor: 2, ceiling: 32 },
        streams_per_connection: 1_000,
        request_deadline: Duration::from_secs(10),
        connect_deadline: Duration::from_secs(5),
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(30),
        hpack_authorization_indexed: true,
        evidence_answers: 32,
        quota,
    }
}

pub(crate) fn token(authorization: &str) -> Arc<ProviderToken> {
    Arc::new(ProviderToken {
        authorization: SecretString::from(authorization.to_owned()),
        signer: 0,
    })
}

/// Nodes `a` and `b` with four partitions each, one lane with its token.
pub(crate) fn standing(quota: Option<Quota>) -> Standing {
    let ownership = Ownership::assign(5, PARTITIONS, &[node("a"), node("b")]);
    let owned = Some(Arc::new(Owned::new(ownership, PARTITIONS, PARTITIONS)));
    let mut standing = Standing { owned, ..Standing::default() };
    let key = LaneKey { gateway: "g".to_owned(), credential: "c".to_owned() };
    standing
        .lanes
        .insert(LANE, Arc::new(LaneSpec { id: LANE, key, gateway: Arc::new(gateway(quota)) }));
    standing.tokens.insert(LANE, token("bearer one"));
    standing
}

/// The wave of [`alert`].
pub(crate) fn wave(phase: Phase) -> Arc<StandingWave> {
    let (plan, expires) = (Arc::new(alert()), seconds(100));
    Arc::new(StandingWave { plan, lanes: vec![LANE], expires, phase })
}
