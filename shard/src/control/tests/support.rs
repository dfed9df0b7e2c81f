//! A control plane on a bench, and messages to lay on it.

use std::time::Duration;

use clarion_proto::{
    ids::{BootId, CoordinatorId, Epoch, LogIdentity},
    wire::shard_v1::{
        self as wire, session_request::Message as Say, session_response::Message as Wire,
    },
};
use roaring::RoaringBitmap;

use super::super::*;

/// The log of every session that does not say otherwise.
pub(super) const LOG: LogIdentity = LogIdentity([1; 16]);

pub(super) struct Bench {
    pub(super) control: Control,
    pub(super) now: Time,
    assembly: assembly::Assembly,
    /// Number of the newest list of snapshots that was asked for.
    list: u64,
}

impl Bench {
    pub(super) fn new(cores: usize) -> Self {
        let (node, cluster) = ("node-1".to_owned(), ClusterName::default());
        let identity = Identity { node, boot: BootId([7; 16]), cluster, version: "1.2.3", cores };
        let assembly = assembly::Assembly::new(crate::wave::Room::default());
        let control = Control::new(identity, || 4_096);
        Self { control, now: Time(1_000_000), assembly, list: 0 }
    }

    /// The first coordinator begins a session.
    pub(super) fn open(&mut self) {
        self.open_as(1);
    }

    /// A coordinator of the same log begins a session; its lanes epoch is its number.
    pub(super) fn open_as(&mut self, coordinator: u8) {
        self.control.open(&opened(coordinator, LOG), self.now).unwrap();
    }

    /// The session of a coordinator ends.
    pub(super) fn close_of(&mut self, coordinator: u8) {
        self.control.close(id(coordinator), self.now);
    }

    /// A message of the first coordinator comes in, through the same door as on a real session.
    pub(super) fn say(&mut self, message: Say) {
        self.say_as(1, message);
    }

    /// A message of a coordinator comes in.
    pub(super) fn say_as(&mut self, coordinator: u8, message: Say) {
        let request = wire::SessionRequest { message: Some(message) };
        if let Some(message) = self.assembly.take(request, self.now) {
            self.control.message(id(coordinator), message, self.now);
        }
    }

    pub(super) fn outputs(&mut self) -> Vec<Output> {
        let outputs: Vec<_> = std::iter::from_fn(|| self.control.poll()).collect();
        for output in &outputs {
            if let Output::List(list) = output {
                self.list = list.number;
            }
        }
        outputs
    }

    /// Answers the newest list.
    pub(super) fn list(&mut self, snapshots: Vec<snapshot::Snapshot>, interval: Duration) {
        let unread = self.outputs();
        let note = SnapshotNote::Listed { list: self.list, snapshots, interval };
        self.control.snapshots(note, self.now);
        self.control.expire(self.now);
        let answers = self.outputs();
        self.control.outputs.extend(unread.into_iter().chain(answers));
    }

    /// Answers the newest list: there are no snapshots, and all partitions begin with their logs.
    pub(super) fn list_nothing(&mut self) {
        self.list(Vec::new(), Duration::ZERO);
    }

    pub(super) fn commands(&mut self) -> Vec<(usize, Command)> {
        let commands = self.outputs().into_iter().filter_map(|o| match o {
            Output::Command { core, command } => Some((core, command)),
            _ => None,
        });
        commands.collect()
    }

    pub(super) fn message(&mut self) -> Option<Wire> {
        self.message_to(1)
    }

    pub(super) fn message_to(&mut self, coordinator: u8) -> Option<Wire> {
        self.control.next_message(id(coordinator), self.now).and_then(|m| m.message)
    }

    pub(super) fn messages(&mut self) -> Vec<Wire> {
        self.messages_to(1)
    }

    /// Everything that is due to a coordinator now.
    pub(super) fn messages_to(&mut self, coordinator: u8) -> Vec<Wire> {
        std::iter::from_fn(|| self.message_to(coordinator)).collect()
    }

    pub(super) fn refusals(&mut self) -> Vec<wire::Refusal> {
        self.refusals_to(1)
    }

    pub(super) fn refusals_to(&mut self, coordinator: u8) -> Vec<wire::Refusal> {
        let refusals = self.messages_to(coordinator).into_iter().filter_map(|m| match m {
            Wire::Refusal(r) => Some(r),
            _ => None,
        });
        refusals.collect()
    }
}

pub(super) fn id(coordinator: u8) -> CoordinatorId {
    CoordinatorId([coordinator; 16])
}

pub(super) fn ownership(number: u64, partitions: &[u32]) -> Say {
    let partitions = partitions.to_vec();
    let log_identity = LOG.to_wire();
    Say::Ownership(wire::Ownership {
        number,
        partition_count: 16,
        log_count: 16,
        partitions,
        log_identity,
    })
}

/// What a coordinator says first.
pub(super) fn opened(coordinator: u8, log: LogIdentity) -> Opened {
    Opened {
        cluster: ClusterName::default(),
        coordinator: id(coordinator),
        log,
        lanes_epoch: Epoch(u64::from(coordinator)),
        version: "1.2.3".to_owned(),
    }
}

pub(super) fn lane(id: u32) -> Say {
    lane_of(wire::LanePlatform::Apns, id)
}

pub(super) fn lane_of(platform: wire::LanePlatform, id: u32) -> Say {
    Say::Lane(wire::Lane {
        id,
        name: "gateway/key".to_owned(),
        platform: platform.into(),
        endpoint: "127.0.0.1:2197".to_owned(),
        server_name: "gateway.test".to_owned(),
        ca_pem: String::new(),
        live: false,
        limits: Some(wire::LaneLimits {
            streams_per_connection: 1_000,
            request_deadline_ms: 10_000,
            connect_deadline_ms: 5_000,
            backoff_min_ms: 100,
            backoff_max_ms: 30_000,
            hpack_authorization_indexed: true,
            evidence_answers: 32,
        }),
        proxy: None,
    })
}

/// Three bands; each partition's log is to be applied up to its number + 10, its ordinal of the
/// same number was handed.
pub(super) fn wave(id: u64, epoch: u64, ownership: u64, partitions: &[u32]) -> Say {
    Say::Wave(plan(id, epoch, ownership, partitions))
}

pub(super) fn wave_through(id: u64, lane: u32) -> Say {
    let mut wave = plan(id, 1, 1, &[0]);
    wave.apps[0].lane = lane;
    Say::Wave(wave)
}

pub(super) fn wave_without_messages(id: u64) -> Say {
    let mut wave = plan(id, 1, 1, &[0]);
    wave.apps[0].messages.clear();
    Say::Wave(wave)
}

pub(super) fn count(id: u64, apps: &[&str]) -> Say {
    let apps = apps.iter().map(|a| (*a).to_owned()).collect();
    Say::Count(wire::Count { id, bands: bands(), apps, ..wire::Count::default() })
}

pub(super) fn plan(id: u64, epoch: u64, ownership: u64, partitions: &[u32]) -> wire::Wave {
    let shard = |p: &u32| {
        let mut handed = Vec::new();
        RoaringBitmap::from_iter([*p]).serialize_into(&mut handed).unwrap();
        wire::ShardWork { partition: *p, start_position: u64::from(*p) + 10, handed }
    };
    let body = bytes::Bytes::from_static(b"{\"aps\":{}}");
    wire::Wave {
        id,
        alert: format!("alerts/a{id}"),
        epoch,
        ownership,
        bands: bands(),
        shards: partitions.iter().map(shard).collect(),
        apps: vec![wire::AppMessages {
            app: "demo".to_owned(),
            lane: 1,
            request: Some(wire::app_messages::Request::Apns(wire::ApnsRequest {
                topic: "org.example.demo".to_owned(),
                push_type: "alert".to_owned(),
                priority: 10,
                expiration: 1_800_000_000,
                collapse_id: format!("a{id}"),
            })),
            messages: vec![wire::LocaleMessage {
                locale: "en".to_owned(),
                body,
                ..Default::default()
            }],
        }],
        segments: Vec::new(),
        expires_in_ms: 60_000,
        ..wire::Wave::default()
    }
}

/// Neighbouring cells of resolution 9 in Shenzhen.
fn bands() -> Vec<wire::Band> {
    let center = h3o::LatLng::new(22.54, 114.06).unwrap().to_cell(h3o::Resolution::Nine);
    let ring = |k: u32| center.grid_ring_fast(k).flatten().map(u64::from).collect();
    (0..3_u32)
        .map(|k| wire::Band {
            from_meters: f64::from(k) * 1e3,
            to_meters: f64::from(k + 1) * 1e3,
            cells: ring(k),
        })
        .collect()
}
