use std::time::Duration;

use clarion_proto::ids::UnixMillis;
use rand::Rng as _;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::*;
use crate::{
    channel::{self, ChannelLimits},
    health::{self, HealthPort},
};

const WALL: UnixMillis = UnixMillis(1_800_000_000_000);

fn world(seed: u64) -> World {
    World::new(Clock::start_at(WALL), seed, Arc::new(Pipes::default()))
}

/// Draws of every kind, in one order.
fn drawn(world: &World) -> (Vec<u64>, [u8; 16], u64) {
    let (mut one, mut two) = (world.random(), world.random());
    (vec![one.next_u64(), two.next_u64(), one.next_u64()], world.id(), world.seed())
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_identities_and_numbers() {
    let (a, b, c) = (world(7), world(7), world(8));
    assert_eq!(drawn(&a), drawn(&b));
    assert_eq!((a.uuid_v7(), a.uuid_v7()), (b.uuid_v7(), b.uuid_v7()));
    assert_ne!(drawn(&world(7)), drawn(&c));
    let of_clone = a.clone().id();
    assert_ne!(of_clone, a.id(), "clones share one state");
    assert_eq!(b.id(), of_clone, "a clone draws from that state");
    assert_ne!(World::system().id(), World::system().id(), "a process has its own seed");
}

#[tokio::test(start_paused = true)]
async fn a_uuid_has_the_wall_time_and_is_greater_than_the_one_before() {
    let world = world(1);
    let first = world.uuid_v7();
    assert_eq!(first.get_version(), Some(uuid::Version::SortRand));
    let millis = |uuid: Uuid| u64::try_from(uuid.as_u128() >> 80).unwrap();
    assert_eq!(millis(first), WALL.0);
    let same_millisecond: Vec<_> = (0..1_000).map(|_| world.uuid_v7()).collect();
    assert!(same_millisecond.is_sorted() && same_millisecond[0] > first);
    tokio::time::advance(Duration::from_millis(5)).await;
    assert_eq!(millis(world.uuid_v7()), WALL.0 + 5);
}

/// A gRPC call from one port of a world to another, without a socket, under paused time.
#[tokio::test(start_paused = true)]
async fn a_call_goes_over_pipes() {
    let world = world(1);
    let port = HealthPort::bind(&world, ([10, 0, 0, 1], 0).into()).await.unwrap();
    let (address, (_reporter, service)) = (port.address(), health::reporter().await);
    assert_ne!(address.port(), 0);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut served = tokio::task::JoinSet::new();
    served.spawn(port.serve(service, async { drop(stopped.await) }));
    let limits = ChannelLimits {
        connect_within: Duration::from_secs(1),
        window_bytes: 65_535,
        ping_every: Duration::from_secs(1),
        pong_within: Duration::from_secs(1),
    };
    let channel = channel::connect(&world, address, limits).await.unwrap();
    let request = HealthCheckRequest { service: String::new() };
    let answer = HealthClient::new(channel).check(request).await.unwrap();
    assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    stop.send(()).unwrap();
    served.join_next().await.unwrap().unwrap();
    let gone = channel::connect(&world, address, limits).await;
    assert!(gone.is_err(), "a listener that was dropped refuses connections");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let world = World::system();
    let first = world.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = first.address();
    let error = world.listen(address).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {address}: ")), "{error}");
}

#[tokio::test]
async fn an_address_is_its_own_name() {
    let world = world(1);
    let address: SocketAddr = "[::1]:443".parse().unwrap();
    assert_eq!(world.resolve("[::1]:443").await.unwrap(), [address]);
    assert_eq!(
        world.resolve("nobody.invalid:1").await.unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
}
