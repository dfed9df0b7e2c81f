//! Our own gateway emulator, as a process: the one server that plays APNs.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::SystemTime,
};

use data_encoding::BASE64URL_NOPAD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::{super::Conversation, converse};
use crate::outcome::Platform;

/// A fresh conversation, if the program has been built beside this test.
pub(super) fn record(dir: &Path, requests: u8) -> Option<Vec<Conversation>> {
    let built = std::env::current_exe()
        .unwrap()
        .ancestors()
        .nth(2)
        .map(|dir| dir.join("loadgen"))
        .filter(|p| p.exists());
    let Some(program) = built else {
        eprintln!(
            "!!! SKIPPED: `cargo build -p clarion-loadgen` makes the emulator, to record what it \
             says"
        );
        return None;
    };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    fs::write(dir.join("gateway.toml"), config(&key.public_key_pem(), requests)).unwrap();
    let mut child = Command::new(program)
        .args(["gateway", "--config"])
        .arg(dir.join("gateway.toml"))
        .arg("--directory")
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut told = BufReader::new(child.stdout.take().unwrap());
    told.read_line(&mut line).unwrap();
    let said: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = said["listen"].as_str().unwrap().parse().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(said["ca_file"].as_str().unwrap()).unwrap()).unwrap();
    let conversations = converse(address, roots, Platform::Apns, &provider_token(&key));
    child.stdin.take().unwrap().write_all(b"{\"stop\":true}\n").unwrap();
    assert!(child.wait().unwrap().success());
    drop(told); // not sooner: it has answers to write
    Some(conversations)
}

/// Answers by the last digit of the token, as the foreign servers do.
fn config(public_key_pem: &str, requests: u8) -> String {
    let mut text = format!(
        "platform = \"apns\"\ntopics = [\"org.example.alerts\"]\n[[keys]]\nkey_id = \"KEYID12345\"\nteam_id = \"TEAMID1234\"\n\
         public_key_pem = '''{public_key_pem}'''\n[scripts.tokens]\n"
    );
    for n in 0..requests {
        let answer = match n % 16 {
            4 => "{ reason = \"Unregistered\", timestamp_ms = 1700000000123 }",
            5 => "{ reason = \"BadDeviceToken\" }",
            6 => "{ reason = \"ServiceUnavailable\" }",
            _ => continue,
        };
        writeln!(text, "{} = [{answer}]", format!("{n:02x}").repeat(32)).unwrap();
    }
    text
}

fn provider_token(key: &KeyPair) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let part = |json: String| BASE64URL_NOPAD.encode(json.as_bytes());
    let signed = format!(
        "{}.{}",
        part(r#"{"alg":"ES256","kid":"KEYID12345"}"#.to_owned()),
        part(format!(r#"{{"iss":"TEAMID1234","iat":{now}}}"#))
    );
    let random = ring::rand::SystemRandom::new();
    let signer =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der(), &random)
            .unwrap();
    let signature = signer.sign(&random, signed.as_bytes()).unwrap();
    format!("bearer {signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
}
