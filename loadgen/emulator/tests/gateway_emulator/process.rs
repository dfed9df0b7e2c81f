//! The emulator as a process, configured as FCM by a file.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
};

use clarion_emulator::config::TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM;

use super::{
    client::{ask, connect, secure, send},
    sender::{ACCOUNT, FCM_PATH, assertion, fcm_body, fcm_token},
};

#[tokio::test]
async fn a_file_makes_it_fcm_from_token_to_record() {
    let directory = tempfile::tempdir().expect("a directory");
    let (config, key) = (directory.path().join("gateway.toml"), directory.path().join("key.pem"));
    std::fs::write(&key, TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM).expect("written");
    let text = format!(
        r#"
        platform = "fcm"
        projects = [{{ project = "missing-children", quota_per_minute = 2 }}]
        [[service_accounts]]
        client_email = "{ACCOUNT}"
        public_key_file = "{}"
        projects = ["missing-children"]
        "#,
        key.display()
    );
    std::fs::write(&config, text).expect("written");
    let mut child = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args([
            "--config",
            &config.display().to_string(),
            "--directory",
            &directory.path().display().to_string(),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut stdin = child.stdin.take().expect("piped");
    let mut line = || -> serde_json::Value {
        serde_json::from_str(&lines.next().expect("a line").expect("UTF-8")).expect("JSON")
    };
    let told = line();
    let uri = told["token_uri"].as_str().expect("announced").to_owned();
    let ca_pem =
        std::fs::read_to_string(told["ca_file"].as_str().expect("announced")).expect("read");
    let address =
        uri.trim_start_matches("https://").trim_end_matches("/token").parse().expect("an address");
    drop(secure(address, &ca_pem, &[b"http/1.1"]).await);

    let (requests, _driver) = connect(address, &ca_pem).await;
    let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    let form = format!("grant_type={grant}&assertion={}", assertion(&uri, &[]));
    let seen = ask(&requests, send("/token", &[]), form.as_bytes()).await.expect("answered");
    let body: serde_json::Value = serde_json::from_str(&seen.body).expect("JSON");
    let bearer = format!("Bearer {}", body["access_token"].as_str().expect("a token"));

    let listen = told["listen"].as_str().expect("announced").parse().expect("an address");
    let (requests, _driver) = connect(listen, &ca_pem).await;
    let mut statuses = Vec::new();
    for i in 0..3 {
        let request = send(FCM_PATH, &[("authorization", &bearer)]);
        statuses.push(
            ask(&requests, request, &fcm_body(&fcm_token(i))).await.expect("answered").status,
        );
    }
    assert_eq!(statuses, [200, 200, 429]);
    stdin.write_all(b"{\"stats\":true}\n").expect("told");
    let quota = &line()["stats"]["quota"]["missing-children"];
    assert_eq!(
        (&quota["counted"], &quota["asked"], &quota["refused"]),
        (&2.into(), &3.into(), &1.into())
    );
    stdin.write_all(b"{\"stop\":true}\n").expect("told");
    assert_eq!(line(), serde_json::json!({ "ok": true }));
    assert!(child.wait().expect("ended").success());
}
