//! A core's thread as a shard runs it, with a wave for all devices: from the walk to the report,
//! over real sockets and TLS.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_benches::{
    case::Case,
    city::{self, City, LANE},
};
use clarion_proto::{ids::PartitionId, outcome::Outcome, time::Time};
use clarion_runtime::world::World;
use clarion_shard::{
    command::{Command, Event},
    driver::{self, CoreHandle},
    lane::{
        health::LaneHealth, provider::authorization::Authorization, rate::Rate, spec::LaneSpec,
    },
};
use rustix::time::{ClockId, clock_gettime};

use crate::client::{Client, HOST, roots};

const PARTITIONS: u16 = 32;

/// Time and CPU of the wave. Loading the devices before it is not part of a push.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took {
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
}

/// Loads one device per push, and alerts all of them.
pub(crate) fn run(client: &Client) -> io::Result<Took> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(alert(client))
}

async fn alert(client: &Client) -> io::Result<Took> {
    let case = if client.literal { Case::ApnsLiteral } else { Case::ApnsIndexed };
    let city = City { case, devices: client.requests, partitions: PARTITIONS };
    let world = World::system();
    let clock = world.clock();
    let mut core = driver::spawn(1, &world)?.pop().expect("one core");
    let roots = roots(client)?.ok_or_else(|| io::Error::other("a core speaks TLS only"))?;
    let lane = LaneSpec {
        endpoint: client.address.to_string(),
        server_name: HOST.to_owned(),
        roots: Arc::new(roots),
        connections: client.connections,
        streams_per_connection: client.streams,
        request_deadline: Duration::from_secs(60),
        ..city::lane_spec(case)
    };
    let partitions: Vec<_> = (0..PARTITIONS).map(PartitionId).collect();
    send(&core, Command::Own(partitions.into())).await?;
    for batch in city::arrivals(&city) {
        send(&core, batch).await?;
        while core.events.try_recv().is_ok() {}
    }
    wait_for(&mut core, |event| matches!(event, Event::Held(held) if held.devices == city.devices))
        .await?;
    send(&core, Command::Lane(Arc::new(lane))).await?;
    let authorization = Authorization(Arc::new(client.authorization()?.into()));
    send(&core, Command::ProviderToken { lane: LANE, authorization, signer: 0 }).await?;
    send(&core, Command::Slice { lane: LANE, until: Time::NEVER, rate: None::<Rate> }).await?;
    wait_for(&mut core, |event| {
        matches!(event, Event::LaneState { health: LaneHealth::Ready, .. })
    })
    .await?;

    let mut wave = city::wave_spec(0, &city, city::cover());
    let body = Bytes::from(client.body());
    wave.apps[0].messages.iter_mut().for_each(|message| message.body = body.clone());
    let (cpu, began) = (cpu(), clock.now());
    send(&core, Command::Wave(Arc::new(wave))).await?;
    send(&core, Command::Grant { wave: city::wave_id(0), until: Time::NEVER, rate: None }).await?;
    let mut accepted = std::collections::BTreeMap::new();
    wait_for(&mut core, |event| {
        let Event::Report(report) = event else { return false };
        let of =
            |counts: clarion_shard::command::Counts| counts.outcomes[Outcome::Accepted as usize];
        accepted.extend(report.bands.iter().map(|(band, counts)| (*band, of(*counts))));
        report.complete && accepted.values().sum::<u64>() > 0
    })
    .await?;
    let took = Took { cpu: self::cpu().saturating_sub(cpu), wall: clock.now().since(began) };
    let accepted: u64 = accepted.values().sum();
    if accepted != city.devices {
        return Err(io::Error::other(format!(
            "{accepted} of {} devices were accepted",
            city.devices
        )));
    }
    send(&core, Command::Shutdown).await?;
    core.join.join().map_err(|_| io::Error::other("the core panicked"))?;
    Ok(took)
}

async fn send(core: &CoreHandle, command: Command) -> io::Result<()> {
    core.commands.send(command).await.map_err(io::Error::other)
}

async fn wait_for(core: &mut CoreHandle, mut wanted: impl FnMut(Event) -> bool) -> io::Result<()> {
    while let Some(event) = core.events.recv().await {
        if wanted(event) {
            return Ok(());
        }
    }
    Err(io::Error::other("the core has ended"))
}

/// Returns the CPU time of this process so far.
fn cpu() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.try_into().unwrap_or(0), used.tv_nsec.try_into().unwrap_or(0))
}
