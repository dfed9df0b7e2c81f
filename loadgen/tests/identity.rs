//! One phone is one push, however often it registers: real processes, and the emulator's record as
//! the judge.
//!
//! In an app with IDENTITY_TOKEN, each phone registers five times: with other places, locales and
//! spellings of its token. In an app with IDENTITY_DEVICE, each phone registers under a new
//! identifier that replaces the former one.

mod coordinators;

use std::{collections::BTreeMap, time::Duration};

use clarion_emulator::{Platform, clock, record::Record};
use clarion_loadgen::{
    cluster::{Cluster, ClusterPlan},
    drive::{
        self,
        alert::{self, Submitted},
        load,
    },
    names,
    population::{Device, Population},
    scenario::Scenario,
    verdict::recorded,
};
use clarion_proto::{
    device::token_hash,
    wire::v1::{
        self as wire, alert_service_client::AlertServiceClient,
        app_service_client::AppServiceClient, device_change::Change,
        registry_service_client::RegistryServiceClient,
    },
};
use coordinators::{PATIENCE, plan, scenario};
use data_encoding::{HEXLOWER, HEXUPPER};
use tokio::time::{Instant, sleep};
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
    let place = wire::Place { place: Some(wire::place::Place::Point(point)), datum: 0 };
    Change::Arrival(wire::Arrival { registration: Some(registration), place: Some(place) })
}

fn replacing(mut change: wire::DeviceChange, former: &str) -> wire::DeviceChange {
    let Some(Change::Arrival(arrival)) = &mut change.change else { panic!("{change:?}") };
    arrival.registration.as_mut().expect("set").replaces = vec![former.to_owned()];
    change
}

/// Sets the time of a change on the phone's clock.
fn observed(at_ms: u64, device: String, change: Change) -> wire::DeviceChange {
    let observe_time = prost_types::Timestamp {
        seconds: i64::try_from(at_ms / 1_000).expect("this century"),
        nanos: i32::try_from(at_ms % 1_000 * 1_000_000).expect("below 10^9"),
    };
    wire::DeviceChange {
        device,
        observe_time: Some(observe_time),
        change: Some(change),
        ..Default::default()
    }
}

/// A cluster with an app of each identity, and phones for both of them.
struct Stage {
    cluster: Cluster,
    folder: tempfile::TempDir,
    scenario: Scenario,
    population: Population,
    channel: Channel,
}

impl Stage {
    async fn set() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().canonicalize().expect("a folder");
        let scenario = scenario(2 * PHONES, 0);
        let population =
            Population::new(&scenario.population, scenario.seed, 2 * PHONES).expect("devices");
        let plan = ClusterPlan { nodes_later: vec![], ..plan(&path, &scenario, &population) };
        let cluster = Cluster::start(&plan).await.expect("a cluster");
        let channel = drive::connect(&cluster.coordinator, PATIENCE).await.expect("it listens");
        let stage = Self { cluster, folder, scenario, population, channel };
        stage.create_app(TOKENS, wire::Identity::Token).await;
        stage.create_app(DEVICES, wire::Identity::Device).await;
        stage
    }

    async fn create_app(&self, name: &str, identity: wire::Identity) {
        let app = wire::App {
            platform: wire::Platform::Apns.into(),
            gateway: names::gateway(Platform::Apns).to_owned(),
            credential: names::credential(Platform::Apns).to_owned(),
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

    /// The phones of the app with IDENTITY_TOKEN, and those of the other app.
    fn phones(&self) -> [Vec<Device>; 2] {
        [0..PHONES, PHONES..2 * PHONES].map(|n| n.map(|n| self.population.device(n)).collect())
    }

    async fn write(&self, changes: impl IntoIterator<Item = wire::DeviceChange>) {
        let client = RegistryServiceClient::new(self.channel.clone());
        let changes = changes.into_iter().collect();
        let batch = wire::WriteDevicesRequest { batch_id: 1, changes, historic: false };
        load::write(client, std::iter::once(batch), |_| {}).await.expect("written");
    }

    /// Number of devices by app, once all changes are applied.
    async fn counted(&self) -> BTreeMap<String, u64> {
        let stats = drive::visible(self.channel.clone(), PHONES, PATIENCE).await.expect("visible");
        stats.apps.into_iter().map(|app| (app.app, app.devices)).collect()
    }

    async fn submit(&self, max_rate_per_second: u32) -> Submitted {
        let apps = [TOKENS, DEVICES].map(str::to_owned).to_vec();
        let alert = wire::Alert {
            audience: Some(wire::Audience {
                apps,
                segments: String::new(),
                place_seen_within: None,
            }),
            max_rate_per_second,
            ..alert::alert(&self.scenario, &self.population)
        };
        let request_id = "0192d3a0-0000-7000-8000-000000000001".to_owned();
        alert::submit(self.channel.clone(), alert, request_id).await.expect("accepted")
    }

    /// Waits for the end of an alert, and stops the cluster. Returns the number of pushes by token.
    async fn pushes(self, of: &Submitted) -> BTreeMap<u64, u32> {
        let ended = alert::watch(self.channel, &of.name, None, PATIENCE, |_| {}).await;
        assert_eq!(ended.expect("it ends").progress.state(), wire::State::Resolved);
        let path = self.folder.path().join("record");
        self.cluster.emulators[0].export(&path).await.expect("exported");
        assert_eq!(self.cluster.stop(PATIENCE).await, [""; 0]);
        let Record { entries, .. } = recorded::load(&path).expect("whole");
        let mut pushes = BTreeMap::new();
        for entry in entries.iter().filter(|e| e.collapse_hash == of.collapse_hash()) {
            assert!(entry.accepted());
            *pushes.entry(entry.token_hash).or_default() += 1;
        }
        pushes
    }
}

/// Number of pushes of each phone.
fn of_each(phones: &[Device], pushes: &BTreeMap<u64, u32>) -> Vec<u32> {
    let of = |phone: &Device| pushes.get(&token_hash(phone.token.as_slice()));
    phones.iter().map(|phone| of(phone).copied().unwrap_or_default()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_that_registers_again_gets_one_push() {
    let stage = Stage::set().await;
    let [of_tokens, of_devices] = stage.phones();
    // A minute ago, so that no change is observed in the future.
    let begun = clock::wall().0 - 60_000;

    // By token: five registrations of each phone. The first phone is muted, the second removed.
    for (at, n) in (begun..).zip(0..5) {
        let phones = of_tokens.iter();
        stage.write(phones.map(|p| observed(at, String::new(), registration(TOKENS, p, n)))).await;
    }
    let mute = Change::Mute(wire::Mute { muted: true });
    let removal = Change::Removal(wire::Removal {});
    let by_token = [(0, mute), (1, removal)].map(|(phone, change)| {
        let token = spelled(&of_tokens[phone], 2);
        let token_device = Some(wire::TokenDevice { app: TOKENS.to_owned(), token });
        wire::DeviceChange { token_device, ..observed(begun + 9, String::new(), change) }
    });
    stage.write(by_token).await;

    // By identifier: each phone replaces its former one. The first has two more that nothing
    // replaces, and the former identifier of the second registers once more.
    let register = |at, name: &str, phone, n| {
        observed(at, name.to_owned(), registration(DEVICES, &of_devices[phone], n))
    };
    let all = || 0..of_devices.len();
    stage.write(all().map(|phone| register(begun, &format!("old-{phone}"), phone, 0))).await;
    let replaced = all().map(|phone| {
        let new = register(begun + 1, &format!("new-{phone}"), phone, 1);
        replacing(new, &format!("old-{phone}"))
    });
    stage.write(replaced).await;
    let more = [("copy-1", 0), ("copy-2", 0), ("old-1", 1)];
    stage.write(more.map(|(name, phone)| register(begun + 2, name, phone, 2))).await;

    let expected = [(DEVICES, PHONES + 3), (TOKENS, PHONES - 1)];
    assert_eq!(stage.counted().await, expected.map(|(app, n)| (app.to_owned(), n)).into());

    let submitted = stage.submit(0).await;
    let pushes = stage.pushes(&submitted).await;
    let by_token = of_each(&of_tokens, &pushes);
    assert_eq!(by_token[..2], [0, 0], "muted; removed");
    assert!(by_token[2..].iter().all(|pushes| *pushes == 1), "{by_token:?}");
    let by_name = of_each(&of_devices, &pushes);
    assert_eq!(by_name[..2], [3, 2], "three identifiers; two");
    assert!(by_name[2..].iter().all(|pushes| *pushes == 1), "{by_name:?}");
}

/// In the middle of an alert, all phones register again: by token, they are the same devices; under
/// a new identifier, a phone that has got its push may get one more, and none is missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_that_registers_again_during_an_alert_is_not_missed() {
    let stage = Stage::set().await;
    let [of_tokens, of_devices] = stage.phones();
    let begun = clock::wall().0 - 60_000;
    let changes = |at, name: &str, n| {
        let name = name.to_owned();
        let tokens = of_tokens
            .iter()
            .map(move |phone| observed(at, String::new(), registration(TOKENS, phone, n)));
        let devices = of_devices.iter().enumerate().map(move |(i, phone)| {
            observed(at, format!("{name}-{i}"), registration(DEVICES, phone, n))
        });
        (tokens, devices)
    };
    let (tokens, devices) = changes(begun, "old", 0);
    stage.write(tokens.chain(devices)).await;
    stage.counted().await;

    // Four seconds for all; the phones register again when a quarter has got its push.
    let submitted = stage.submit(60).await;
    let accepted = until_accepted(&stage.channel, &submitted.name, PHONES / 2).await;
    assert!(accepted < 2 * PHONES, "the alert was over");
    let (tokens, devices) = changes(begun + 1, "new", 1);
    let devices = devices.enumerate().map(|(i, change)| replacing(change, &format!("old-{i}")));
    stage.write(tokens.chain(devices)).await;

    let pushes = stage.pushes(&submitted).await;
    let by_token = of_each(&of_tokens, &pushes);
    assert!(by_token.iter().all(|pushes| *pushes == 1), "{by_token:?}");
    let by_name = of_each(&of_devices, &pushes);
    assert!(by_name.iter().all(|pushes| matches!(pushes, 1 | 2)), "{by_name:?}");
}

/// Waits until an alert has this number of accepted pushes; returns their number.
async fn until_accepted(channel: &Channel, name: &str, count: u64) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    let mut client = AlertServiceClient::new(channel.clone());
    loop {
        let request = wire::GetAlertRequest { name: name.to_owned(), with_region: false };
        let alert = client.get_alert(request).await.expect("there").into_inner();
        let outcomes = alert.progress.and_then(|progress| progress.outcomes);
        let accepted = outcomes.unwrap_or_default().accepted;
        if accepted >= count {
            return accepted;
        }
        assert!(Instant::now() < deadline, "{accepted} of {count}");
        sleep(Duration::from_millis(20)).await;
    }
}
