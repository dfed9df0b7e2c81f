//! A run in motion: the cost and lateness of an alert while devices move, compared with the same
//! alert without motion.
//!
//! Four parts run in one cluster, so that they differ in nothing else: the cluster idle; the alert
//! over devices that do not move; the changes alone, for as long as that alert took; the alert
//! while the changes continue. Costs are differences of `/proc` readings between the parts.

use std::time::Duration;

use clarion_emulator::clock;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{
    RunError,
    scene::{Loaded, Scene},
    wave::Observed,
};
use crate::{
    cluster::{accounting::cpu_used, process::Role},
    drive::motion::{self, Plan, Ways},
    report::motion::{Carried, Spent},
    scenario::{MotionSpec, RegionSpec},
};

/// Time at the beginning that is not measured: the first changes find caches cold and streams
/// unopened.
const WARM: Duration = Duration::from_secs(1);
/// Radius of the circle around the place last seen that trains cross, for a region that is not a
/// circle, metres.
const RIM_METERS: f64 = 20_000.0;

/// Observations of the other parts of a run in motion.
#[derive(Debug)]
pub struct Moving {
    /// Observations of the alert over devices that do not move.
    pub still: Observed,
    /// Changes of the devices during the wave, as carried out.
    pub carried: Carried,
    /// CPU time of the idle cluster.
    pub idle: Spent,
    /// CPU time of the changes alone.
    pub feed: Spent,
}

impl Scene<'_> {
    /// Runs all four parts.
    ///
    /// # Errors
    /// If a part does not end within its deadline.
    pub async fn play_moving(
        &self,
        channel: Channel,
        spec: MotionSpec,
        loaded: Loaded,
    ) -> Result<(Observed, Moving), RunError> {
        let idle = self.spend(Duration::from_millis(spec.idle_ms), || 0).await?;
        let still = self.alert(channel.clone(), loaded, "-still", || 0).await?;
        for emulator in &self.emulators {
            emulator.forget().await?;
        }
        let took = Duration::from_nanos(still.ended.seen_ns.saturating_sub(still.called_ns));

        let rim_meters = match self.scenario.alert.region {
            RegionSpec::Circle { radius_meters, .. } => radius_meters,
            RegionSpec::Polygon { .. } => RIM_METERS,
        };
        let ways = Ways { center: self.scenario.last_seen(), rim_meters };
        let plan = Plan::new(self.population, ways, spec.changes_per_second);
        let (acknowledged, seen) = watch::channel(0);
        let (stop, changes) = (CancellationToken::new(), || *seen.borrow());
        let moving = async {
            let carried = motion::carry_out(
                channel.clone(),
                self.population,
                plan,
                &acknowledged,
                stop.clone(),
            )
            .await?;
            Ok::<_, RunError>(carried)
        };
        let rest = async {
            self.show.begin("move", &format!("{} changes per second", spec.changes_per_second));
            sleep(WARM).await;
            let feed = self.spend(took, changes).await?;
            let observed = self.alert(channel.clone(), loaded, "", changes).await?;
            stop.cancel();
            Ok((feed, observed))
        };
        let (carried, (feed, observed)) = tokio::try_join!(moving, rest)?;
        Ok((observed, Moving { still, carried, idle, feed }))
    }

    /// Measures the CPU time of the nodes over an interval.
    async fn spend(&self, time: Duration, changes: impl Fn() -> u64) -> Result<Spent, RunError> {
        let (begun, before, already) = (clock::monotonic(), self.cpu()?, changes());
        sleep(time).await;
        let (after, upto) = (self.cpu()?, changes());
        Ok(Spent {
            cpu_us: cpu_used(Role::Shard, &before, &after),
            seconds: clock::monotonic().since(begun).as_secs_f64(),
            changes: upto - already,
        })
    }
}

impl Observed {
    /// Returns the CPU time of the nodes over the wave.
    #[must_use]
    pub fn spent(&self) -> Spent {
        Spent {
            cpu_us: cpu_used(Role::Shard, &self.cpu.0, &self.cpu.1),
            seconds: Duration::from_nanos(self.ended.seen_ns.saturating_sub(self.called_ns))
                .as_secs_f64(),
            changes: self.changes,
        }
    }
}
