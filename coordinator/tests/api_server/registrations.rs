//! What is stored of a registration: its token, its locale and the id of its device.

use clarion_proto::{device::Change, ids::DeviceId, wire::v1 as wire};

use crate::{
    registry::{arrival, device, logged, write},
    support::{Server, fcm_app, soon},
};

#[tokio::test]
async fn a_token_is_checked_as_its_apps_platform_wants_it() {
    let server = Server::with_demo().await;
    soon(server.apps().create_app(fcm_app("android"))).await.expect("created");
    let with = |n, app: &str, token: &str| {
        let mut change = device(n);
        let Some(wire::device_change::Change::Arrival(arrival)) = &mut change.change else {
            panic!("{change:?}")
        };
        let registration = arrival.registration.as_mut().expect("set");
        (registration.app, registration.token) = (app.to_owned(), token.to_owned());
        change
    };
    let good = "dK3x_:APA91b-Zz09";
    let changes = vec![
        with(0, "apps/android", good),
        with(1, "apps/demo", good),
        with(2, "apps/android", "s3cret\""),
        with(3, "apps/android", &"x".repeat(513)),
    ];
    let answers = write(
        &server,
        vec![wire::WriteDevicesRequest { batch_id: 1, changes, ..Default::default() }],
    )
    .await
    .expect("answered");
    let errors: Vec<_> = answers[0].errors.iter().map(|e| (e.index, e.field.as_str())).collect();
    assert_eq!(errors, [1, 2, 3].map(|index| (index, "arrival.registration.token")));
    assert!(
        answers[0]
            .errors
            .iter()
            .all(|e| !e.description.contains("s3cret") && !e.description.contains("APA91b"))
    );
    let logged = logged(&server).await;
    let [(_, records)] = &logged[..] else { panic!("one device: {logged:?}") };
    let Change::Arrival(registration, _) = &records[0].change else { panic!("{records:?}") };
    assert_eq!(registration.token.as_bytes(), good.as_bytes(), "the characters themselves");
}

#[tokio::test]
async fn strings_are_hashed_and_locales_folded() {
    let server = Server::with_demo().await;
    let changes = vec![arrival("phone-1"), arrival("phone-1")];
    write(&server, vec![wire::WriteDevicesRequest { batch_id: 1, changes, ..Default::default() }])
        .await
        .expect("answered");
    let logged = logged(&server).await;
    let [(_, records)] = &logged[..] else { panic!("one device, one log, one batch: {logged:?}") };
    assert_eq!(records[0].device, records[1].device);
    assert_ne!(records[0].device, DeviceId(*uuid::Uuid::nil().as_bytes()));
    let Change::Arrival(registration, _) = &records[0].change else { panic!("{records:?}") };
    assert_eq!((registration.locale.as_str(), registration.token.as_bytes().len()), ("en-gb", 32));
}

#[tokio::test]
async fn no_locale_loses_a_device_and_uuids_have_many_spellings() {
    let server = Server::with_demo().await;
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let spellings =
        [id.to_owned(), id.to_uppercase(), format!("{{{id}}}"), format!("urn:uuid:{id}")];
    let locales = ["zh_TW_#Hant", "iw-IL", "?", ""];
    let changes = spellings.iter().zip(locales).map(|(device, locale)| {
        let mut change = arrival(device);
        let Some(wire::device_change::Change::Arrival(arrival)) = &mut change.change else {
            panic!("an arrival")
        };
        arrival.registration.as_mut().expect("of one").locale = locale.to_owned();
        change
    });
    let batch =
        wire::WriteDevicesRequest { batch_id: 1, changes: changes.collect(), ..Default::default() };
    let answers = write(&server, vec![batch]).await.expect("answered");
    let warned: Vec<_> = answers[0].warnings.iter().map(|w| (w.index, w.field.as_str())).collect();
    assert_eq!((answers[0].written, answers[0].errors.len()), (4, 0));
    assert_eq!(warned, [(2, "arrival.registration.locale")]);
    let logged = logged(&server).await;
    let [(_, records)] = &logged[..] else { panic!("one device, one log, one batch: {logged:?}") };
    let stored: Vec<_> = records
        .iter()
        .map(|record| match &record.change {
            Change::Arrival(registration, _) => (record.device, registration.locale.as_str()),
            other => panic!("{other:?}"),
        })
        .collect();
    let device = DeviceId(*uuid::Uuid::parse_str(id).expect("valid").as_bytes());
    assert_eq!(stored, ["zh-hant-tw", "he-il", "", ""].map(|locale| (device, locale)));
}
