//! One phone is one push, however often it registers: real processes, and the emulator's record as
//! the judge.
//!
//! In an app with IDENTITY_TOKEN, each phone registers five times: with other places, locales and
//! spellings of its token. In an app with IDENTITY_DEVICE, each phone registers under a new
//! identifier that replaces the former one.

#[allow(dead_code, reason = "this test needs no process of a coordinator")]
mod coordinators;

use std::collections::BTreeMap;

use clarion_emulator::{clock, record::Record};
use clarion_loadgen::{
    cluster::{Cluster, ClusterPlan},
    drive::{self, alert, load},
    names,
    population::{Device, Population},
    verdict::recorded,
};
use clarion_proto::{
    device::token_hash,
    wire::v1::{
        self as wire, app_service_client::AppServiceClient, device_change::Change,
        registry_service_client::RegistryServiceClient,
    },
};
use coordinators::{PATIENCE, plan, scenario};
use data_encoding::{HEXLOWER, HEXUPPER};
use tonic::transport::Channel;

/// Phones of each app: an alert reaches no audience below 100.
const PHONES: u64 = 120;
const TOKENS: &str = "apps/tokens";
const DEVICES: &str = "apps/devices";

/// The two spellings of a token, and one with both cases.
fn spelled(device: &Device, spelling: usize) -> String {
    let token = device.token.as_slice();
    match spelling % 3 {
        0 => HEXLOWER.encode(token),
        1 => HEXUPPER.encode(token),
        _ => {
            let (first, second) = token.split_at(token.len() / 2);
            HEXUPPER.encode(first) + &HEXLOWER.encode(second)
        }
    }
}

/// The `n`th registration of a phone: with another place, locale and spelling each time.
fn registration(app: &str, device: &Device, n: usize) -> Change {
    let locales = ["zh-Hans-CN", "en", "", "fr_FR.UTF-8", "de-DE"];
    let registration = wire::Registration {
        app: app.to_owned(),
        token: spelled(device, n),
        locale: locales[n % locales.len()].to_owned(),
        ..Default::default()
    };
    #[allow(clippy::cast_precision_loss)] // below 5
    let latitude = device.place.latitude + 0.01 * n as f64;
    let point = wire::LatLng { latitude, longitude: device.place.longitude };
    let place = wire::Place { place: Some(wire::place::Place::Point(point)) };
    Change::Arrival(wire::Arrival { registration: Some(registration), place: Some(place) })
}

fn replacing(change: Change, former: &str) -> Change {
    let Change::Arrival(mut arrival) = change else { panic!("an arrival") };
    arrival.registration.as_mut().expect("set").replaces = vec![former.to_owned()];
    Change::Arrival(arrival)
}

struct Stage {
    channel: Channel,
    begun_ms: u64,
}

impl Stage {
    /// Writes changes of devices that are named by strings, observed at a time of the test.
    async fn write(&self, observed_ms: u64, changes: impl Iterator<Item = (String, Change)>) {
        let changes = changes.map(|(device, change)| self.change(observed_ms, device, change));
        self.send(changes.collect()).await;
    }

    fn change(&self, observed_ms: u64, device: String, change: Change) -> wire::DeviceChange {
        let at = self.begun_ms + observed_ms;
        let observe_time = prost_types::Timestamp {
            seconds: i64::try_from(at / 1_000).expect("this century"),
            nanos: i32::try_from(at % 1_000 * 1_000_000).expect("below 10^9"),
        };
        wire::DeviceChange {
            device,
            observe_time: Some(observe_time),
            change: Some(change),
            ..Default::default()
        }
    }

    async fn send(&self, changes: Vec<wire::DeviceChange>) {
        let client = RegistryServiceClient::new(self.channel.clone());
        let batch = wire::WriteDevicesRequest { batch_id: 1, changes };
        load::write(client, std::iter::once(batch), |_| {}).await.expect("written");
    }

    async fn create_app(&self, name: &str, identity: wire::Identity) {
        let app = wire::App {
            platform: wire::Platform::Apns.into(),
            gateway: names::gateway(clarion_emulator::Platform::Apns).to_owned(),
            credential: names::credential(clarion_emulator::Platform::Apns).to_owned(),
            topic: names::topic("guardian-ios"),
            environment: wire::Environment::Sandbox.into(),
            lane_kind: wire::LaneKind::Test.into(),
            identity: identity.into(),
            ..Default::default()
        };
        let app_id = name.trim_start_matches("apps/").to_owned();
        let request = wire::CreateAppRequest { app_id, app: Some(app) };
        AppServiceClient::new(self.channel.clone()).create_app(request).await.expect("created");
    }

    /// Number of devices by app, once all changes are applied.
    async fn counted(&self) -> BTreeMap<String, u64> {
        let stats = drive::visible(self.channel.clone(), PHONES, PATIENCE).await.expect("visible");
        stats.apps.into_iter().map(|app| (app.app, app.devices)).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_that_registers_again_gets_one_push() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().canonicalize().expect("a folder");
    let scenario = scenario(2 * PHONES, 0);
    let population =
        Population::new(&scenario.population, scenario.seed, 2 * PHONES).expect("a population");
    let phones: Vec<Device> = (0..2 * PHONES).map(|n| population.device(n)).collect();
    let (of_tokens, of_devices) = phones.split_at(phones.len() / 2);
    let plan = ClusterPlan { nodes_later: vec![], ..plan(&folder, &scenario, &population) };
    let cluster = Cluster::start(&plan).await.expect("a cluster");
    let channel = drive::connect(&cluster.coordinator, PATIENCE).await.expect("it listens");
    // A minute ago, so that no change is observed in the future.
    let stage = Stage { channel: channel.clone(), begun_ms: clock::wall().0 - 60_000 };
    stage.create_app(TOKENS, wire::Identity::Token).await;
    stage.create_app(DEVICES, wire::Identity::Device).await;

    // By token: five registrations of each phone. The first phone is muted, the second removed.
    for n in 0..5 {
        let changes = of_tokens.iter().map(|phone| (String::new(), registration(TOKENS, phone, n)));
        stage.write(n as u64, changes).await;
    }
    let mute = Change::Mute(wire::Mute { muted: true });
    let removal = Change::Removal(wire::Removal {});
    let by_token = [(0, mute), (1, removal)].map(|(phone, change)| {
        let token = spelled(&of_tokens[phone], 2);
        let token_device = Some(wire::TokenDevice { app: TOKENS.to_owned(), token });
        wire::DeviceChange { token_device, ..stage.change(9, String::new(), change) }
    });
    stage.send(by_token.to_vec()).await;

    // By identifier: each phone replaces its former one. The first has two more that are replaced by
    // nothing, and the former identifier of the second registers once more.
    let named = |name: &str| {
        let names: Vec<_> = (0..of_devices.len()).map(|phone| format!("{name}-{phone}")).collect();
        names.into_iter().zip(of_devices)
    };
    let register = |phone, n| registration(DEVICES, phone, n);
    stage.write(0, named("old").map(|(name, phone)| (name, register(phone, 0)))).await;
    let former = named("old").map(|(name, _)| name);
    let replaced = named("new").zip(former);
    let replaced =
        replaced.map(|((name, phone), former)| (name, replacing(register(phone, 1), &former)));
    stage.write(1, replaced).await;
    let copies = ["copy-1", "copy-2"].map(|name| (name.to_owned(), register(&of_devices[0], 2)));
    stage.write(2, copies.into_iter()).await;
    let again = ("old-1".to_owned(), register(&of_devices[1], 2));
    stage.write(2, std::iter::once(again)).await;

    let expected = [(DEVICES, PHONES + 3), (TOKENS, PHONES - 1)];
    assert_eq!(stage.counted().await, expected.map(|(app, n)| (app.to_owned(), n)).into());

    let audience = wire::Audience {
        apps: vec![TOKENS.to_owned(), DEVICES.to_owned()],
        segments: String::new(),
    };
    let submitted =
        wire::Alert { audience: Some(audience), ..alert::alert(&scenario, &population) };
    let request_id = "0192d3a0-0000-7000-8000-000000000001".to_owned();
    let submitted = alert::submit(channel.clone(), submitted, request_id).await.expect("accepted");
    let ended = alert::watch(channel, &submitted.name, None, PATIENCE, |_| {}).await;
    let ended = ended.expect("it ends").progress;
    assert_eq!(ended.state(), wire::State::Resolved);

    let path = folder.join("record");
    cluster.emulators[0].export(&path).await.expect("exported");
    let Record { entries, .. } = recorded::load(&path).expect("whole");
    let mut pushes: BTreeMap<u64, u32> = BTreeMap::new();
    for entry in entries.iter().filter(|e| e.collapse_hash == submitted.collapse_hash()) {
        assert!(entry.accepted());
        *pushes.entry(entry.token_hash).or_default() += 1;
    }
    let of = |phone: &Device| pushes.get(&token_hash(phone.token.as_slice())).copied();
    let by_token: Vec<_> = of_tokens.iter().map(of).collect();
    assert_eq!(by_token[..2], [None, None], "muted; removed");
    assert!(by_token[2..].iter().all(|pushes| *pushes == Some(1)), "{by_token:?}");
    let by_name: Vec<_> = of_devices.iter().map(of).collect();
    assert_eq!(by_name[..2], [Some(3), Some(2)], "three identifiers; two");
    assert!(by_name[2..].iter().all(|pushes| *pushes == Some(1)), "{by_name:?}");
    assert_eq!(cluster.stop(PATIENCE).await, [""; 0]);
}
