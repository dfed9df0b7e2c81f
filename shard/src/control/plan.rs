//! Checks the plan of a wave against the node's lanes and partitions and divides it over the cores.

use clarion_proto::{error::InvalidField, ids::LaneId};

use super::{
    message::{Rejected, Wave},
    ownership::Assignment,
    placement::Shares,
};
use crate::{
    command::{ShardSpec, WaveSpec},
    outcome::Platform,
};

/// A wave whose partitions are divided over the cores that own them.
#[derive(Debug)]
pub(super) struct Plan {
    /// Number of the ownership that the plan was made for.
    pub(super) ownership: u64,
    pub(super) bands: u32,
    /// The wave for every core, without the plan's number and the core's partitions.
    pub(super) spec: WaveSpec,
    /// The partitions of each core that takes part.
    pub(super) cores: Shares,
}

/// Checks the lane of each app. `platform`: platform of a lane; `None`: the lane does not exist.
///
/// # Errors
/// A lane was never described, or speaks another platform's protocol than its app.
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

/// Divides a wave over the cores of the node, by the core that owns each partition.
///
/// # Errors
/// The wave names a partition that this node does not own.
pub(super) fn split(wave: Wave, assignment: &Assignment) -> Result<Plan, Rejected> {
    let mut cores = Shares::new();
    for shard in wave.shards {
        let Some(core) = assignment.core_of(shard.partition) else {
            let problem =
                format_args!("name partition {}, which is not this node's", shard.partition);
            return Err(Rejected::of(wave.id, InvalidField::new("wave.shards", problem)));
        };
        cores.entry(core).or_default().push(ShardSpec {
            partition: shard.partition,
            start: shard.start,
            handed: shard.handed,
        });
    }
    let spec = WaveSpec {
        id: wave.id,
        alert: wave.alert,
        epoch: wave.epoch,
        plan: 0,
        cover: wave.cover,
        shards: Vec::new(),
        apps: wave.apps,
        segments: wave.segments,
        place_seen_after: wave.place_seen_after,
        expires: wave.expires,
    };
    Ok(Plan { ownership: wave.ownership, bands: wave.bands, spec, cores })
}
