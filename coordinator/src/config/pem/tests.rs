//! Keys as people have them. Every command of an error is run by a shell with the real openssl; its
//! result must be a key that is accepted.

use std::{fs, path::Path, process::Command};

use super::*;

/// The shell commands that make each kind of file from nothing, and words of its error.
struct Case {
    name: &'static str,
    make: &'static str,
    found: &'static str,
    /// Whether the error has a command, which must convert the file.
    converts: bool,
}

const P256: &str = "openssl ecparam -name prime256v1 -genkey -noout";
const RSA: &str = include_str!("../../../tests/keys/rsa-2048.pem");
const RSA_SHORT: &str = include_str!("../../../tests/keys/rsa-1024.pem");

/// Whether the tests against openssl can run; otherwise says so past the capture of the harness.
fn has_openssl() -> bool {
    let found = Command::new("openssl").arg("version").output().is_ok_and(|o| o.status.success());
    if !found {
        use std::io::Write as _;
        let line = b"!!! SKIPPED: openssl is not installed: conversions of keys were not tried\n";
        std::io::stderr().lock().write_all(line).expect("standard error is there");
    }
    found
}

fn shell(directory: &Path, command: &str) {
    let output = Command::new("sh")
        .args(["-c", &format!("set -e; {command}")])
        .current_dir(directory)
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
}

fn read(directory: &Path, name: &str, algorithm: Algorithm) -> Result<SecretString, String> {
    let bytes = fs::read(directory.join(name)).expect("written");
    private_key(&bytes, algorithm, Source::File(name))
}

#[test]
fn every_file_is_named_and_every_command_converts_it() {
    if !has_openssl() {
        return;
    }
    let converts = [
        Case {
            name: "sec1.pem",
            make: "openssl ecparam -name prime256v1 -genkey -noout > sec1.pem",
            found: "is in the format SEC1",
            converts: true,
        },
        Case {
            name: "sec1 with parameters.pem",
            make: "openssl ecparam -name prime256v1 -genkey > 'sec1 with parameters.pem'",
            found: "is in the format SEC1",
            converts: true,
        },
        Case {
            name: "der.p8",
            make: "KEY | openssl pkcs8 -topk8 -nocrypt -outform DER > der.p8",
            found: "is binary (DER)",
            converts: true,
        },
        Case {
            name: "bare.txt",
            make: "KEY | openssl pkcs8 -topk8 -nocrypt | grep -v -- ----- > bare.txt",
            found: "is base64 without the lines BEGIN and END",
            converts: true,
        },
        Case {
            name: "twice.txt",
            make: "KEY | openssl pkcs8 -topk8 -nocrypt | base64 > twice.txt",
            found: "is encoded in base64 once more",
            converts: true,
        },
        Case {
            name: "written out.p8",
            make: r#"KEY | openssl pkcs8 -topk8 -nocrypt | awk '{printf "%s\\n", $0}' \
                     > 'written out.p8'"#,
            found: r"has `\n` written out instead of line feeds",
            converts: true,
        },
        Case {
            name: "windows.p8",
            make: "KEY | openssl pkcs8 -topk8 -nocrypt | iconv -t UTF-16 > windows.p8",
            found: "is in UTF-16",
            converts: true,
        },
        Case {
            name: "p384.p8",
            make: "openssl ecparam -name secp384r1 -genkey -noout | \
                   openssl pkcs8 -topk8 -nocrypt > p384.p8",
            found: "got a key on the curve P-384",
            converts: false,
        },
        Case {
            name: "ed25519.p8",
            make: "openssl genpkey -algorithm ed25519 > ed25519.p8",
            found: "got an Ed25519 key",
            converts: false,
        },
        Case {
            name: "rsa.p8",
            make: "openssl genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:2048 > rsa.p8",
            found: "got an RSA key",
            converts: false,
        },
        Case {
            name: "public.pem",
            make: "KEY | openssl pkey -pubout > public.pem",
            found: "got a public key",
            converts: false,
        },
        Case {
            name: "push.p12",
            make: "KEY > k.pem; openssl req -x509 -key k.pem -subj /CN=push -days 9 > push.pem; \
                   openssl pkcs12 -export -inkey k.pem -in push.pem -passout pass:x -out push.p12",
            found: "is a PKCS#12 container (.p12)",
            converts: false,
        },
        Case { name: "push.pem", make: "true", found: "got a certificate", converts: false },
    ];
    let directory = tempfile::tempdir().expect("a folder");
    let path = directory.path();
    for Case { name, make, found, converts } in converts {
        shell(path, &make.replace("KEY", P256));
        let error = read(path, name, Algorithm::P256).expect_err(name);
        assert!(error.contains(found) && !error.contains('\n'), "{name}: {error}");
        let command = error.split_once("; convert it: ").map(|(_, command)| command);
        assert_eq!(command.is_some(), converts, "{name}: {error}");
        if let Some(command) = command {
            let _ = fs::remove_file(path.join("key.p8"));
            shell(path, command);
            read(path, "key.p8", Algorithm::P256).unwrap_or_else(|e| panic!("{command}: {e}"));
        }
    }
}

#[test]
fn encrypted_keys_are_named_and_decrypted_by_the_command() {
    if !has_openssl() {
        return;
    }
    let directory = tempfile::tempdir().expect("a folder");
    let path = directory.path();
    shell(path, &format!("{P256} > k.pem"));
    shell(path, "openssl pkcs8 -topk8 -passout pass:open -in k.pem > pkcs8.p8");
    shell(path, "openssl ec -aes128 -passout pass:open -in k.pem > sec1.p8");
    for name in ["pkcs8.p8", "sec1.p8"] {
        let error = read(path, name, Algorithm::P256).expect_err(name);
        let command =
            error.split_once("is encrypted; nobody could enter its password; convert it: ");
        let command = command.unwrap_or_else(|| panic!("{error}")).1;
        // A person is asked for the password; the test gives it.
        shell(path, &format!("{command} -passin pass:open"));
        read(path, "key.p8", Algorithm::P256).expect(command);
    }
}

#[test]
fn rsa_keys_of_google() {
    private_key(RSA.as_bytes(), Algorithm::Rsa, Source::Json).expect("valid");
    let short = private_key(RSA_SHORT.as_bytes(), Algorithm::Rsa, Source::Json);
    assert!(short.expect_err("short").contains("2,048 to 4,096 bits; got TooSmall"));
    let escaped = RSA.replace('\n', "\\n");
    let error = private_key(escaped.as_bytes(), Algorithm::Rsa, Source::Json).expect_err("escaped");
    assert!(error.starts_with(r"has `\n` written out"), "{error}");
    if !has_openssl() {
        return;
    }
    let directory = tempfile::tempdir().expect("a folder");
    let path = directory.path();
    fs::write(path.join("k.pem"), RSA).expect("written");
    shell(path, "openssl pkey -in k.pem -traditional > pkcs1.pem");
    let error = read(path, "pkcs1.pem", Algorithm::Rsa).expect_err("PKCS#1");
    let (found, command) = error.split_once("; convert it: ").expect("a command");
    assert_eq!(found, "is in the format PKCS#1; must be PKCS#8");
    shell(path, command);
    read(path, "key.p8", Algorithm::Rsa).expect("converted");
    shell(path, &format!("{P256} | openssl pkcs8 -topk8 -nocrypt > ec.p8"));
    let error = read(path, "ec.p8", Algorithm::Rsa).expect_err("EC");
    assert!(error.ends_with("got a key on the curve P-256"), "{error}");
    // The command for a whole JSON file that was escaped twice.
    let json = serde_json::json!({ "private_key": escaped }).to_string();
    fs::write(path.join("FILE"), json).expect("written");
    let error = private_key(escaped.as_bytes(), Algorithm::Rsa, Source::Json).expect_err("escaped");
    shell(path, error.split_once("convert it: ").expect("a command").1);
    let json = fs::read_to_string(path.join("key.json")).expect("converted");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let key = json["private_key"].as_str().expect("text");
    private_key(key.as_bytes(), Algorithm::Rsa, Source::Json).expect("converted");
}

#[test]
fn a_byte_order_mark_and_other_line_ends_do_no_harm() {
    let with_mark = format!("\u{feff}{RSA}");
    let windows = RSA.replace('\n', "\r\n");
    for pem in [with_mark, windows, format!("Bag Attributes\n  x: y\n{RSA}")] {
        private_key(pem.as_bytes(), Algorithm::Rsa, Source::File("k")).expect("valid");
    }
}

#[test]
fn nothing_of_a_file_is_shown() {
    let secret = "c2VjcmV0c2VjcmV0";
    for text in [
        secret.to_owned(),
        format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n"),
        format!("-----BEGIN PRIVATE KEY-----\n{secret}"),
        format!("-----BEGIN {secret} KEY-----\nAAAA\n-----END {secret} KEY-----\n"),
        format!("{{\"private_key\": \"{secret}\"}}"),
        String::new(),
    ] {
        let error = private_key(text.as_bytes(), Algorithm::P256, Source::File("k"));
        let error = error.expect_err("no key");
        assert!(!error.contains(secret) && !error.contains('\n'), "{error}");
    }
}
