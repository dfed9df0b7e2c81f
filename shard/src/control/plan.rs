//! The plan of a wave, checked against what the node holds and divided over its cores.

use std::{collections::BTreeMap, sync::Arc};

use clarion_proto::{
    error::InvalidField,
    ids::{Epoch, LaneId, WaveId, log_of},
    time::Time,
};

use super::{
    message::{Rejected, Wave},
    output::Output,
    ownership::Ownership,
};
use crate::{
    command::{AppSpec, Command, ShardSpec, WaveSpec},
    outcome::Platform,
    wave::{Cover, SegmentOp},
};

/// A wave whose partitions are divided over the cores that own them.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) id: WaveId,
    /// `alerts/{alert}`, for people.
    pub(super) alert: String,
    pub(super) epoch: Epoch,
    /// The ownership that it was made for.
    pub(super) ownership: u64,
    cover: Arc<Cover>,
    pub(super) bands: u32,
    /// The partitions of each core that takes part.
    pub(super) cores: BTreeMap<usize, Vec<ShardSpec>>,
    pub(super) apps: Vec<AppSpec>,
    segments: Vec<SegmentOp>,
    pub(super) expires: Time,
}

/// Checks the lane of each app. `platform`: what a lane speaks; `None`: there is no such lane.
///
/// # Errors
/// A lane was described by nobody, or speaks another platform's protocol than its app.
pub(super) fn check_lanes(
    wave: &Wave,
    platform: impl Fn(LaneId) -> Option<Platform>,
) -> Result<(), Rejected> {
    let refuse =
        |field: String, problem| Err(Rejected::of(wave.id, InvalidField::new(field, problem)));
    for (i, app) in wave.apps.iter().enumerate() {
        let speaks = app.request.platform();
        match platform(app.lane) {
            None => {
                let problem = format!("no lane {} is known", app.lane);
                return refuse(format!("wave.apps[{i}].lane"), problem);
            }
            Some(platform) if platform != speaks => {
                let problem = format!("is for {speaks:?}, lane {} is {platform:?}", app.lane);
                return refuse(format!("wave.apps[{i}].request"), problem);
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Divides a wave over the cores of the node, by the owner of each partition.
///
/// # Errors
/// It names a partition that is not this node's.
pub(super) fn split(wave: Wave, owned: &Ownership, cores: usize) -> Result<Plan, Rejected> {
    let mut parts: BTreeMap<usize, Vec<ShardSpec>> = BTreeMap::new();
    for shard in wave.shards {
        let Some(core) = owned.core_of(shard.partition, cores) else {
            let problem =
                format_args!("name partition {}, which is not this node's", shard.partition);
            return Err(Rejected::of(wave.id, InvalidField::new("wave.shards", problem)));
        };
        parts.entry(core).or_default().push(ShardSpec {
            partition: shard.partition,
            log: log_of(shard.partition, owned.log_count),
            start: shard.start,
            handed: shard.handed,
        });
    }
    Ok(Plan {
        id: wave.id,
        alert: wave.alert,
        epoch: wave.epoch,
        ownership: wave.ownership,
        cover: wave.cover,
        bands: wave.bands,
        cores: parts,
        apps: wave.apps,
        segments: wave.segments,
        expires: wave.expires,
    })
}

impl Plan {
    /// What each core that takes part is told.
    pub(super) fn into_commands(self) -> impl Iterator<Item = Output> {
        self.cores.into_iter().map(move |(core, shards)| {
            let spec = WaveSpec {
                id: self.id,
                alert: self.alert.clone(),
                epoch: self.epoch,
                cover: self.cover.clone(),
                shards,
                apps: self.apps.clone(),
                segments: self.segments.clone(),
                expires: self.expires,
            };
            Output::command(core, Command::Wave(Arc::new(spec)))
        })
    }
}
