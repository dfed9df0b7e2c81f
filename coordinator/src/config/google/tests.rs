use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::lane_owner::SubjectSource;

const RSA: &str = include_str!("../../../tests/keys/rsa-2048.pem");

fn external() -> Value {
    json!({
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/x",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "service_account_impersonation_url":
            "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a@p:generateAccessToken",
        "credential_source": { "file": "token.txt", "format": { "type": "text" } },
        "universe_domain": "googleapis.com",
    })
}

fn key_file() -> Value {
    json!({
        "type": "service_account",
        "project_id": "demo-project",
        "private_key": RSA,
        "client_email": "clarion@demo-project.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    })
}

fn given() -> Given {
    Given {
        service_account_file: None,
        credentials_file: None,
        application_default: false,
        project_id: Some("demo-project".to_owned()),
    }
}

fn no_variables(_: &str) -> Option<String> {
    None
}

/// The source that a file gives as `credentials_file`; the error without the folder.
fn of_file(content: &str) -> Result<TokenSource, String> {
    let directory = tempfile::tempdir().expect("a folder");
    let path = directory.path().join("c.json");
    fs::write(&path, content).expect("written");
    let given = Given { credentials_file: Some(path), ..given() };
    let found = source(given, "", no_variables).map(|(source, _)| source);
    found.map_err(|(key, problem)| {
        format!("{key}: {}", problem.replace(&format!("{}/", directory.path().display()), ""))
    })
}

#[test]
fn an_external_account_is_read_as_gcloud_writes_it() {
    let TokenSource::ExternalAccount(account) = of_file(&external().to_string()).expect("valid")
    else {
        panic!("another source")
    };
    assert_eq!(account.token_endpoint.host, "sts.googleapis.com");
    assert_eq!(account.lifetime_seconds, 3_600);
    assert!(account.impersonation.is_some_and(|e| e.host == "iamcredentials.googleapis.com"));
    // Relative to the credentials file.
    assert!(matches!(&account.subject, SubjectSource::File(path) if path.is_absolute()));
    let mut file = external();
    file["credential_source"] = json!({
        "url": "http://169.254.169.254/metadata/identity/oauth2/token?resource=x",
        "headers": { "Metadata": "True" },
        "format": { "type": "json", "subject_token_field_name": "access_token" },
    });
    let TokenSource::ExternalAccount(account) = of_file(&file.to_string()).expect("valid") else {
        panic!("another source")
    };
    assert_eq!(account.subject_field.as_deref(), Some("access_token"));
    assert!(matches!(&account.subject, SubjectSource::Url(e, _) if e.port == 80 && !e.is_tls));
    assert!(!format!("{account:?}").contains("True"), "headers may be secrets");
}

#[test]
fn what_people_paste_instead_is_named() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut file = external();
        change(&mut file);
        file.to_string()
    };
    let source = |source: Value| with(&|file| file["credential_source"] = source.clone());
    let cases: Vec<(String, &str)> = vec![
        (String::new(), "is empty"),
        ("[1]".to_owned(), "must be a JSON object; got an array"),
        ("7".to_owned(), "must be a JSON object; got a single value"),
        ("{".to_owned(), "must be JSON; stopped at line 1, column 1"),
        (RSA.to_owned(), "is PEM; must be the JSON file"),
        ("<?xml version=\"1.0\"?>".to_owned(), "is XML, such as GoogleService-Info.plist"),
        (
            json!({ "project_info": {}, "client": [] }).to_string(),
            "is google-services.json: the configuration of an app",
        ),
        (json!({ "installed": { "client_id": "x" } }).to_string(), "is an OAuth client for logins"),
        (json!({ "type": "authorized_user" }).to_string(), "a person's login cannot send"),
        (json!({ "type": "impersonated_service_account" }).to_string(), "a person's login is not"),
        (json!({ "type": "gdch_service_account" }).to_string(), "type: must be "),
        (with(&|f| f["token_url"] = json!("http://sts/")), "token_url: must be https://host/path"),
        (
            with(&|f| f["service_account_impersonation_url"] = json!("http://h/")),
            "service_account_impersonation_url: must be https://host/path",
        ),
        (with(&|f| f["audience"] = json!("")), "audience: is required"),
        (
            with(&|f| f["service_account_impersonation"] = json!({ "token_lifetime_seconds": 59 })),
            "service_account_impersonation.token_lifetime_seconds: must be 600 to 3600; got 59",
        ),
        (
            with(&|f| f["workforce_pool_user_project"] = json!("p")),
            "workforce pools are for people",
        ),
        (
            source(json!({ "environment_id": "aws1", "url": "http://h/" })),
            "credential_source.environment_id: AWS sources are not supported",
        ),
        (
            source(json!({ "executable": { "command": "/bin/x" } })),
            "credential_source.executable: executable sources are not supported",
        ),
        (
            source(json!({ "certificate": {} })),
            "credential_source.certificate: X.509 sources are not supported",
        ),
        (source(json!({})), "credential_source.file: must be set, or url; not both"),
        (
            source(json!({ "url": "file:///etc/passwd" })),
            "credential_source.url: must be https://host/path or http://host/path",
        ),
        (
            source(json!({ "file": "t", "format": { "type": "json" } })),
            "credential_source.format.subject_token_field_name: is required",
        ),
    ];
    for (content, words) in cases {
        let error = of_file(&content).expect_err(words);
        assert!(error.starts_with("credentials_file: c.json: "), "{error}");
        assert!(error.contains(words), "{error}\n instead of\n{words}");
    }
}

#[test]
fn the_key_says_which_file_it_takes_and_exactly_one_is_given() {
    let directory = tempfile::tempdir().expect("a folder");
    let write = |name: &str, content: &Value| {
        let path = directory.path().join(name);
        fs::write(&path, content.to_string()).expect("written");
        path
    };
    let (key, identity) = (write("k.json", &key_file()), write("e.json", &external()));
    let found = |given: Given| {
        source(given, "", no_variables)
            .map(|(_, project)| project)
            .map_err(|(key, e)| (key, e.replace(&format!("{}/", directory.path().display()), "")))
    };
    let demo = || Ok("demo-project".to_owned());
    let file = |path: &PathBuf| Given { credentials_file: Some(path.clone()), ..given() };
    assert_eq!(found(file(&identity)), demo());
    assert_eq!(found(file(&key)), demo());
    assert_eq!(found(Given { project_id: None, ..file(&key) }), demo());
    let refused = found(Given { project_id: None, ..file(&identity) }).expect_err("no project");
    assert_eq!(refused.0, "project_id");
    let refused = found(Given { project_id: Some("p".to_owned()), ..file(&key) });
    assert_eq!(
        refused,
        Err((
            "project_id",
            "must be the project of the service account, demo-project; got p".to_owned()
        ))
    );
    let refused = found(Given { service_account_file: Some(identity.clone()), ..given() });
    assert!(refused.expect_err("another type").1.contains("set credentials_file and project_id"));
    for (two, key) in [
        (Given { service_account_file: Some(key.clone()), ..file(&key) }, "credentials_file"),
        (Given { application_default: true, ..file(&key) }, "application_default"),
    ] {
        assert_eq!(found(two).expect_err("two sources").0, key);
    }
    assert!(found(given()).expect_err("none").1.contains("or application_default = true"));
}

#[test]
fn application_default_credentials_are_searched_in_googles_order() {
    let adc = || Given { application_default: true, ..given() };
    let found = source(adc(), "", no_variables).expect("the metadata server").0;
    let TokenSource::Metadata(endpoint) = found else { panic!("another source") };
    let expected = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/\
                    default/token?scopes=https://www.googleapis.com/auth/firebase.messaging";
    assert_eq!((endpoint.uri.as_str(), endpoint.port), (expected, 80));

    let elsewhere = |name: &str| (name == METADATA_VARIABLE).then(|| "127.0.0.1:8080".to_owned());
    let TokenSource::Metadata(endpoint) = source(adc(), "", elsewhere).expect("valid").0 else {
        panic!("another source")
    };
    assert_eq!((endpoint.host.as_str(), endpoint.port), ("127.0.0.1", 8_080));
    let wrong = |name: &str| (name == METADATA_VARIABLE).then(|| "a b".to_owned());
    assert!(
        source(adc(), "", wrong).expect_err("no host").1.contains("GCE_METADATA_HOST: must be")
    );

    let missing = |name: &str| (name == FILE_VARIABLE).then(|| "/nowhere/c.json".to_owned());
    let (key, problem) = source(adc(), "", missing).expect_err("no file");
    assert_eq!(key, "application_default");
    assert!(
        problem.starts_with("GOOGLE_APPLICATION_CREDENTIALS: /nowhere/c.json: cannot be read"),
        "{problem}"
    );
    let (key, problem) =
        source(Given { project_id: None, ..adc() }, "", no_variables).expect_err("no project");
    assert!(key == "project_id" && problem.starts_with("is required"), "{problem}");
}
