use serde_json::{Value, json};

use super::*;

const RSA: &str = include_str!("../../../tests/keys/rsa-2048.pem");
const RSA_SHORT: &str = include_str!("../../../tests/keys/rsa-1024.pem");

/// As Google's console hands it out, with a key that guards nothing.
fn key_file() -> Value {
    json!({
        "type": "service_account",
        "project_id": "demo-project",
        "private_key_id": "0123456789abcdef",
        "private_key": RSA,
        "client_email": "clarion@demo-project.iam.gserviceaccount.com",
        "client_id": "1",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": "https://oauth2.googleapis.com/token",
        "universe_domain": "googleapis.com",
    })
}

/// A file of that content, as the only credential; the error with the file's folder cut off.
fn load_all(files: &[(&str, &str)], gateways: &[Gateway]) -> Result<Vec<Credential>, String> {
    let directory = tempfile::tempdir().expect("temporary directory");
    let place =
        Place { name: "F".to_owned(), directory: Some(directory.path()), variables: |_| None };
    let tables = files.iter().map(|(name, content)| {
        fs::write(directory.path().join(format!("{name}.json")), content).expect("written");
        let text =
            format!("name = \"{name}\"\nkind = \"fcm\"\nservice_account_file = \"{name}.json\"");
        toml::from_str(&text).expect("a table")
    });
    let loaded = credentials(tables.collect(), &place)
        .and_then(|loaded| share_no_quota(&loaded, gateways, &place).map(|()| loaded));
    loaded.map_err(|e| e.to_string().replace(&format!("{}/", directory.path().display()), ""))
}

fn load(content: &str) -> Result<GoogleAccount, String> {
    load_all(&[("google", content)], &[]).map(|mut loaded| match loaded.remove(0) {
        Credential::Fcm(account) => account,
        Credential::Apns(key) => panic!("{key:?}"),
    })
}

#[test]
fn a_service_account_is_read_and_its_key_is_never_shown() {
    let account = load(&key_file().to_string()).expect("valid");
    assert_eq!(account.project_id, "demo-project");
    let TokenSource::ServiceAccount(key) = &account.source else { panic!("{account:?}") };
    assert_eq!(key.private_key_id, "0123456789abcdef");
    let endpoint = &key.token_endpoint;
    assert_eq!(
        (endpoint.host.as_str(), endpoint.port, endpoint.ca_pem.as_str()),
        ("oauth2.googleapis.com", 443, "")
    );
    let shown = format!("{account:?}");
    assert!(!shown.contains("PRIVATE KEY") && !shown.contains(&RSA[40..60]), "{shown}");
}

#[test]
fn a_problem_is_one_line_with_the_key_and_nothing_of_what_was_read() {
    let with = |key: &str, value: Value| {
        let mut file = key_file();
        file[key] = value;
        file.to_string()
    };
    let without = |key: &str| {
        let mut file = key_file();
        file.as_object_mut().expect("an object").remove(key);
        file.to_string()
    };
    let secret = "c2VjcmV0c2VjcmV0";
    let body = format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n");
    let cases = [
        (RSA.to_owned(), "is PEM; must be the JSON file that Google issued"),
        ("{\"type\": x}".to_owned(), "must be JSON; stopped at line 1, column 10"),
        (
            with("private_key", json!([secret])),
            "must be a service account's key file; stopped at line 1, column ",
        ),
        (
            with("type", json!("authorized_user")),
            "type: must be \"service_account\" or \"external_account\"; got \"authorized_user\": a \
             person's login cannot send",
        ),
        (without("type"), "type: must be \"service_account\""),
        (without("project_id"), "project_id: is required"),
        (with("project_id", json!("")), "project_id: is required"),
        (without("client_email"), "client_email: is required"),
        (with("client_email", json!("nobody")), "client_email: must be an e-mail address"),
        (
            with("client_email", json!("a@b\nc")),
            "client_email: must have only visible ASCII characters",
        ),
        (
            with("client_email", json!("x".repeat(513))),
            "client_email: must be at most 512 bytes; got 513 bytes",
        ),
        (without("private_key"), "private_key: is required"),
        (with("private_key", json!(secret)), "private_key: must have a `PRIVATE KEY` in PEM"),
        (
            with("private_key", json!(body)),
            "private_key: must be an RSA key of 2,048 to 4,096 bits; got ",
        ),
        (
            with("private_key", json!(RSA_SHORT)),
            "private_key: must be an RSA key of 2,048 to 4,096 bits; got TooSmall",
        ),
        (without("token_uri"), "token_uri: is required"),
        (with("token_uri", json!("http://h/token")), "token_uri: must be https://host/path"),
    ];
    for (content, words) in cases {
        let refused = load(&content).expect_err(words);
        let expected = format!("F: credentials[0].service_account_file: google.json: {words}");
        assert!(refused.starts_with(&expected), "{refused}\n instead of\n{expected}");
        assert!(!refused.contains('\n') && !refused.contains(secret), "{refused}");
        assert!(
            !refused.contains(&RSA_SHORT[40..60]) && !refused.contains(&RSA[40..60]),
            "{refused}"
        );
    }
}

#[test]
fn two_accounts_of_one_project_may_not_each_be_given_its_quota() {
    let file = key_file().to_string();
    let files = [("one", file.as_str()), ("two", file.as_str())];
    assert_eq!(load_all(&files, &[]).expect("no quota").len(), 2);
    let refused = load_all(&files, &[limited_gateway("google")]).expect_err("twice");
    let words = "F: credentials[1].service_account_file: must have another project than credential one, with which it would share a quota; got demo-project";
    assert_eq!(refused, words);
}

#[test]
fn two_gateways_at_one_endpoint_may_not_each_be_given_a_quota() {
    let file = key_file().to_string();
    let refused = load_all(&[("one", &file)], &[limited_gateway("a"), limited_gateway("b")])
        .expect_err("twice");
    assert!(
        refused.starts_with("F: gateways[1].endpoint: must differ from gateway a, "),
        "{refused}"
    );
}

fn limited_gateway(name: &str) -> Gateway {
    let quota =
        crate::lane::Quota { per_minute: 600, burst: None, ramp: std::time::Duration::ZERO };
    let gateway = crate::fixtures::gateway(Some(quota));
    Gateway { platform: Platform::Fcm, name: name.to_owned(), ..gateway }
}
