//! The emulator as a process of its own: orders are JSON lines on stdin, answers are JSON lines on
//! stdout; or both over TCP, where no parent holds the pipes (see [`control`]).
//!
//! ```text
//! → (start)                    ← {"ca_file":"/tmp/x/ca.pem","listen":"127.0.0.1:40001"}, and of FCM "token_uri":"https://…/token"
//! → {"faults":{…}}             ← {"ok":true}
//! → {"stats":true}             ← {"stats":{"requests":…,"accepted":…,…}}
//! → {"export":"/tmp/x/record"} ← {"exported":1000000,"path":"/tmp/x/record"}
//! → {"take":{"path":"/tmp/x/part","before_us":123}} ← {"taken":65536,"until_us":120,"path":"/tmp/x/part"}
//! → {"clock":true}             ← {"monotonic_us":123456789}
//! → {"reset":true}             ← {"ok":true}
//! → {"stop":true}              ← {"ok":true}, and the end
//! → (nonsense)                 ← {"error":"…"}
//! ```
//!
//! The process also ends on SIGTERM and SIGINT. If it takes orders from stdin, it ends at the end
//! of stdin, which means that the parent process has ended.

mod control;

use std::{
    ffi::OsString,
    fs, io,
    io::{BufRead as _, Read as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Parser;
use clarion_runtime::{
    health::{self, HealthPort},
    world::World,
};
use serde::Deserialize;
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc};

use super::{Gateway, GatewayConfig, GatewayHandle, clock, faults::Faults, platform::Platform};

/// Longest order on stdin, bytes. Faults with rules are some kilobytes.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// Emulate a push gateway until a signal ends it.
///
/// Prints one JSON line with its addresses, then reads orders: JSON lines on standard input, or on
/// --control. It ends on SIGTERM and Ctrl-C, and, without --control, at the end of standard input.
#[derive(Debug, Parser)]
#[command(name = "gateway")]
pub struct Arguments {
    /// TOML file with the complete configuration; paths in it are relative to its folder [default:
    /// the configuration's defaults]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Platform to emulate [default: the configuration's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// Address of the gateway; port 0: any free port [default: the configuration's]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Number of threads that serve connections, 1 to 64 [default: the configuration's]
    #[arg(long, value_name = "COUNT")]
    threads: Option<usize>,
    /// Folder for the CA's certificate, ca.pem, and for records while they are exported
    #[arg(long, value_name = "DIRECTORY")]
    directory: PathBuf,
    /// Address for orders over TCP, instead of standard input; every client that can reach it
    /// controls the emulator [default: standard input]
    #[arg(long, value_name = "ADDRESS")]
    control: Option<SocketAddr>,
    /// Address of grpc.health.v1, in plaintext [default: not served]
    #[arg(long, value_name = "ADDRESS")]
    health_listen: Option<SocketAddr>,
}

/// An order to the emulator; each order has exactly one of these names.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    Faults(Box<Faults>),
    Stats(bool),
    Export(PathBuf),
    Take { path: PathBuf, before_us: u64 },
    Fetch(bool),
    Clock(bool),
    Reset(bool),
    Stop(bool),
}

/// Runs the emulator until an order or a signal stops it. `args` begin with the name of the
/// program.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the emulator until an order or a signal stops it.
///
/// # Errors
/// If the configuration is invalid, or an address cannot be bound.
pub fn run(arguments: &Arguments) -> io::Result<()> {
    let gateway = Arc::new(Gateway::start(configuration(arguments)?)?);
    let ca_file = arguments.directory.join("ca.pem");
    fs::create_dir_all(&arguments.directory)
        .and_then(|()| fs::write(&ca_file, gateway.ca_pem()))
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", ca_file.display())))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(arguments, &gateway, announcement(&gateway, &ca_file)));
    // The thread that reads stdin may still wait for a line; it holds nothing that needs a
    // shutdown.
    runtime.shutdown_background();
    ended
}

fn announcement(gateway: &GatewayHandle, ca_file: &Path) -> serde_json::Value {
    let mut said = json!({ "listen": gateway.addr(), "ca_file": ca_file });
    if let Some(uri) = gateway.token_uri() {
        said["token_uri"] = json!(uri);
    }
    if let Some(host) = gateway.metadata_host() {
        said["metadata_host"] = json!(host);
    }
    said
}

fn configuration(arguments: &Arguments) -> io::Result<GatewayConfig> {
    let mut config = match &arguments.config {
        Some(path) => {
            let named = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
            let text = fs::read_to_string(path).map_err(|e| io::Error::new(e.kind(), named(&e)))?;
            // One line with place and message; the parser's own description of the place takes four
            // lines.
            let at = |e: &toml::de::Error| {
                e.span().map_or(0, |s| text[..s.start].matches('\n').count()) + 1
            };
            let wrong =
                |e: toml::de::Error| named(&format_args!("line {}: {}", at(&e), e.message()));
            let mut config: GatewayConfig = toml::from_str(&text)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, wrong(e)))?;
            config.beside(path.parent().unwrap_or(Path::new("")));
            config
        }
        None => GatewayConfig::default(),
    };
    config.platform = arguments.platform.unwrap_or(config.platform);
    config.listen = arguments.listen.unwrap_or(config.listen);
    config.threads = arguments.threads.unwrap_or(config.threads);
    Ok(config)
}

/// Binds the addresses besides the gateway's own, announces all of them, and carries out orders
/// until the end.
async fn serve(
    arguments: &Arguments,
    gateway: &Arc<GatewayHandle>,
    mut announcement: serde_json::Value,
) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    if let Some(address) = arguments.health_listen {
        let port = HealthPort::bind(&World::system(), address).await?;
        announcement["health"] = json!(port.address());
        let (_, service) = health::reporter().await;
        // The task ends with the runtime.
        tokio::spawn(port.serve(service, std::future::pending()));
    }
    let control = match arguments.control {
        Some(address) => Some(TcpListener::bind(address).await.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
        })?),
        None => None,
    };
    if let Some(listener) = &control {
        announcement["control"] = json!(listener.local_addr()?);
    }
    write_line(&announcement)?;
    let orders = async {
        match control {
            Some(listener) => control::serve(listener, gateway, &arguments.directory).await,
            None => obey_stdin(gateway).await,
        }
    };
    tokio::select! {
        ended = orders => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

async fn obey_stdin(gateway: &GatewayHandle) -> io::Result<()> {
    let (to, mut lines) = mpsc::channel(16);
    std::thread::Builder::new().name("gateway-stdin".to_owned()).spawn(move || read_lines(&to))?;
    while let Some(line) = lines.recv().await {
        let (answer, stop) = match serde_json::from_slice(&line) {
            Ok(order) => execute(gateway, order),
            Err(error) => (json!({ "error": error.to_string() }), false),
        };
        write_line(&answer)?;
        if stop {
            break;
        }
    }
    Ok(())
}

fn execute(gateway: &GatewayHandle, order: Order) -> (serde_json::Value, bool) {
    let done = |result: io::Result<()>| match result {
        Ok(()) => json!({ "ok": true }),
        Err(error) => json!({ "error": error.to_string() }),
    };
    match order {
        Order::Faults(faults) => (done(gateway.set_faults(*faults)), false),
        Order::Stats(true) => (json!({ "stats": gateway.stats() }), false),
        Order::Export(path) => match gateway.export(&path) {
            Ok(entries) => (json!({ "exported": entries, "path": path }), false),
            Err(error) => (json!({ "error": format!("{}: {error}", path.display()) }), false),
        },
        Order::Take { path, before_us } => match gateway.take(&path, before_us) {
            Ok(taken) => {
                (json!({ "taken": taken.entries, "until_us": taken.until_us, "path": path }), false)
            }
            Err(error) => (json!({ "error": format!("{}: {error}", path.display()) }), false),
        },
        Order::Fetch(true) => {
            (json!({ "error": "fetch: must come over --control; use export" }), false)
        }
        Order::Clock(true) => (json!({ "monotonic_us": clock::monotonic().0 }), false),
        Order::Reset(true) => {
            gateway.reset();
            (done(Ok(())), false)
        }
        Order::Stop(true) => (done(Ok(())), true),
        Order::Stats(false)
        | Order::Fetch(false)
        | Order::Clock(false)
        | Order::Reset(false)
        | Order::Stop(false) => {
            (json!({ "error": "stats, fetch, clock, reset, stop: must be true; got false" }), false)
        }
    }
}

/// Sends each line of stdin to a channel, until the end of stdin or of the receiver.
fn read_lines(to: &mpsc::Sender<Vec<u8>>) {
    let mut stdin = io::stdin().lock();
    loop {
        let mut line = Vec::new();
        match stdin.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if line.iter().all(u8::is_ascii_whitespace) => {}
            Ok(_) => {
                if to.blocking_send(line).is_err() {
                    return;
                }
            }
        }
    }
}

fn write_line(value: &serde_json::Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_to(gateway: &GatewayHandle, line: &str) -> (serde_json::Value, bool) {
        execute(gateway, serde_json::from_str(line).expect("an order"))
    }

    #[test]
    fn orders_are_obeyed_and_answered() {
        let gateway = Gateway::start(GatewayConfig::default()).expect("a gateway on a free port");
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("record");
        assert_eq!(
            answer_to(&gateway, r#"{"faults":{"errors":[{"fate":"refuse","ppm":5}]}}"#),
            (json!({ "ok": true }), false)
        );
        assert_eq!(answer_to(&gateway, r#"{"stats":true}"#).0["stats"]["requests"], 0);
        let (answer, _) = answer_to(&gateway, &json!({ "export": path }).to_string());
        assert_eq!(answer, json!({ "exported": 0, "path": path }));
        assert!(super::super::Record::load(&path).is_ok());
        let (answer, _) = answer_to(&gateway, r#"{"export":"/nonexistent/record"}"#);
        assert!(
            answer["error"].as_str().is_some_and(|e| e.starts_with("/nonexistent/record: ")),
            "{answer}"
        );
        let (answer, _) =
            answer_to(&gateway, &json!({ "take": { "path": path, "before_us": 1 } }).to_string());
        assert!(answer["taken"] == 0 && answer["until_us"].is_u64(), "{answer}");
        assert_eq!(answer_to(&gateway, r#"{"reset":true}"#), (json!({ "ok": true }), false));
        assert!(answer_to(&gateway, r#"{"stop":false}"#).0["error"].is_string());
        assert!(answer_to(&gateway, r#"{"stop":true}"#).1);
        assert!(
            serde_json::from_str::<Order>(r#"{"faults":{},"stop":true}"#).is_err(),
            "one order a line"
        );
    }

    #[test]
    fn configuration_is_read_from_toml_and_flags_win() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("gateway.toml");
        let toml = r#"
            threads = 3
            topics = ["com.example.app"]
            keys = [{ key_id = "K", team_id = "T", public_key_file = "key.pem" }]
            [faults]
            latency = { p50_us = 40000, p99_us = 90000 }
            [[scripts.rules]]
            ppm = 1000
            answer = { reason = "Unregistered", timestamp_offset_ms = -60000 }
            [scripts.tokens]
            abcd = [{ reason = "TooManyRequests" }]
        "#;
        fs::write(&path, toml).expect("written");
        let arguments = |threads| Arguments {
            config: Some(path.clone()),
            platform: None,
            listen: None,
            threads,
            directory: directory.path().to_owned(),
            control: None,
            health_listen: None,
        };
        let config = configuration(&arguments(None)).expect("well formed");
        assert_eq!(
            (config.threads, config.faults.latency.p99_us, config.scripts.tokens.len()),
            (3, 90_000, 1)
        );
        assert_eq!(
            config.keys[0].public_key_file,
            Some(directory.path().join("key.pem")),
            "beside the file"
        );
        assert_eq!(configuration(&arguments(Some(1))).expect("well formed").threads, 1);
        fs::write(&path, "\nthread = 3").expect("written");
        let error = configuration(&arguments(None)).expect_err("an unknown field").to_string();
        assert!(error.contains("gateway.toml: line 2: unknown field `thread`"), "{error}");
        assert_eq!(error.lines().count(), 1);
    }
}
