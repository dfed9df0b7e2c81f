//! The program: what it says and how it ends.

#![allow(clippy::disallowed_methods, reason = "tests have clocks and tasks of their own")]
#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    process::{Child, Command, Output, Stdio},
};

fn shard(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shard"));
    command.args(args).env_remove("CLARION_SHARD_CONFIG").stdin(Stdio::null());
    command
}

fn one_error_line(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let errors: Vec<_> = text.lines().collect();
    assert_eq!(errors.len(), 1, "{text}");
    errors[0].strip_prefix("error: ").unwrap().to_owned()
}

#[test]
fn a_wrong_option_is_one_line() {
    let output = shard(&["--cores", "0"]).output().unwrap();
    assert_eq!(one_error_line(&output), "cores: must be 1 to 1024; got 0");
}

#[test]
fn a_missing_file_is_one_line_and_the_environment_is_read() {
    let output = shard(&[]).env("CLARION_SHARD_CONFIG", "/nowhere/shard.toml").output().unwrap();
    assert!(one_error_line(&output).starts_with("configuration /nowhere/shard.toml: "));
}

#[test]
fn a_port_in_use_is_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = shard(&["--listen", &address, "--health-listen", "127.0.0.1:0"]).output().unwrap();
    assert!(one_error_line(&output).starts_with(&format!("cannot listen on {address}: ")));
}

#[test]
fn help_is_no_failure() {
    let output = shard(&["--help"]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    assert!(String::from_utf8(output.stdout).unwrap().contains("--coordinators"));
}

#[test]
fn it_announces_where_it_listens_and_ends_well_at_either_signal() {
    for signal in ["TERM", "INT"] {
        let args = [
            "--listen",
            "127.0.0.1:0",
            "--health-listen",
            "127.0.0.1:0",
            "--announce",
            "--cores",
            "2",
        ];
        let mut child = shard(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addresses = line.trim().strip_prefix("{\"listen\":\"127.0.0.1:").unwrap();
        let (listen, health) = addresses.split_once("\",\"health\":\"127.0.0.1:").unwrap();
        for port in [listen, health.strip_suffix("\"}").unwrap()] {
            assert_ne!(port.parse::<u16>().unwrap(), 0);
        }
        end(&mut child, signal);
    }
}

/// The deadline of the drain bounds the wait.
fn end(child: &mut Child, signal: &str) {
    let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let status = child.wait().unwrap();
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("error: "), "{log}");
}
