//! Orders over TCP, for an emulator that runs where nobody holds its pipes: a pod of its own.
//!
//! The same lines as on stdin, answered in order on the same connection. Where caller and emulator share no files, the record
//! comes over the connection as well:
//!
//! ```text
//! → {"fetch":true}    ← {"fetched":1000000,"bytes":32000112}, then so many bytes: the record as `export` writes it
//! ```
//!
//! In plaintext and without identity: it is for closed networks, and off unless asked for.

use std::{io, path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::{JoinSet, spawn_blocking},
    time::timeout,
};

use super::{GatewayHandle, LINE_BYTES_MAX, Order, obey};

/// Callers at once; one more is not accepted until another leaves.
const CALLERS_MAX: usize = 8;
/// For a caller to take an answer; a record of 32 MB over a slow network takes seconds.
const TAKE_WITHIN: Duration = Duration::from_secs(120);
/// A caller that says nothing for so long, such as one that was killed with its machine, gives its place to another. A run
/// gives an order at least at its beginning and its end, 300 s of loading and 600 s of wave apart.
const SPEAK_WITHIN: Duration = Duration::from_secs(1_800);
/// The system had no descriptor, or the connection was gone already: the next is accepted after this.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Obeys all callers until one of them orders a stop.
///
/// # Errors
/// The listener's.
pub(super) async fn serve(listener: TcpListener, gateway: &Arc<GatewayHandle>, directory: &Path) -> io::Result<()> {
    let mut callers = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if callers.len() < CALLERS_MAX => {
                // Whatever it is about, the record in memory must not go with it.
                match accepted {
                    Ok((stream, _)) => {
                        callers.spawn(converse(stream, Arc::clone(gateway), directory.to_owned()));
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
                }
            }
            Some(ended) = callers.join_next() => {
                // A caller that breaks off harms nobody else.
                if matches!(ended, Ok(Ok(Then::Stop))) {
                    return Ok(());
                }
            }
        }
    }
}

/// What follows an answer.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    GoOn,
    Stop,
}

async fn converse(stream: TcpStream, gateway: Arc<GatewayHandle>, directory: std::path::PathBuf) -> io::Result<Then> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut stream).take(LINE_BYTES_MAX);
        if timeout(SPEAK_WITHIN, bounded.read_until(b'\n', &mut line)).await?? == 0 {
            return Ok(Then::GoOn);
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let answer = answer(&line, &gateway, &directory, stream.get_mut());
        if timeout(TAKE_WITHIN, answer).await?? == Then::Stop {
            return Ok(Then::Stop);
        }
    }
}

async fn answer(line: &[u8], gateway: &Arc<GatewayHandle>, directory: &Path, to: &mut TcpStream) -> io::Result<Then> {
    let gateway = Arc::clone(gateway);
    let (said, stop) = match serde_json::from_slice(line) {
        Err(error) => (json!({ "error": error.to_string() }), false),
        Ok(Order::Fetch(true)) => match fetched(gateway, directory.to_owned()).await {
            Ok((entries, file)) => return send(entries, &file, to).await,
            Err(error) => (json!({ "error": error.to_string() }), false),
        },
        // It waits for the gateway's threads, or for the file system.
        Ok(order) => spawn_blocking(move || obey(&gateway, order)).await?,
    };
    say(&said, to).await?;
    Ok(if stop { Then::Stop } else { Then::GoOn })
}

/// The record in a file of its own, which goes when it is dropped.
async fn fetched(gateway: Arc<GatewayHandle>, directory: std::path::PathBuf) -> io::Result<(u64, NamedTempFile)> {
    let export = move || {
        let file = tempfile::Builder::new().prefix("record-").tempfile_in(directory)?;
        let entries = gateway.export(file.path())?;
        Ok((entries, file))
    };
    spawn_blocking(export).await?
}

async fn send(entries: u64, file: &NamedTempFile, to: &mut TcpStream) -> io::Result<Then> {
    let mut from = tokio::fs::File::open(file.path()).await?;
    let bytes = from.metadata().await?.len();
    say(&json!({ "fetched": entries, "bytes": bytes }), to).await?;
    tokio::io::copy(&mut from, to).await?;
    Ok(Then::GoOn)
}

async fn say(value: &Value, to: &mut TcpStream) -> io::Result<()> {
    to.write_all(format!("{value}\n").as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::{Gateway, GatewayConfig, Record};

    async fn told(stream: &mut BufReader<TcpStream>, order: &str) -> Value {
        stream.get_mut().write_all(format!("{order}\n").as_bytes()).await.unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }

    #[tokio::test]
    async fn orders_come_over_tcp_and_records_go_back() {
        let gateway = Arc::new(Gateway::start(GatewayConfig::default()).unwrap());
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let calls = async {
            // One caller that breaks off, one that talks nonsense, one that knows what it wants.
            drop(TcpStream::connect(address).await.unwrap());
            let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
            assert!(told(&mut stream, "nonsense").await["error"].is_string());
            let before = clock_now();
            let there = told(&mut stream, r#"{"clock":true}"#).await["monotonic_us"].as_u64().unwrap();
            assert!((before..=clock_now()).contains(&there), "one machine, one clock");
            assert_eq!(told(&mut stream, r#"{"reset":true}"#).await, json!({ "ok": true }));
            let head = told(&mut stream, r#"{"fetch":true}"#).await;
            assert_eq!(head["fetched"], 0);
            let mut record = vec![0; usize::try_from(head["bytes"].as_u64().unwrap()).unwrap()];
            stream.read_exact(&mut record).await.unwrap();
            let copy = directory.path().join("copy");
            std::fs::write(&copy, &record).unwrap();
            assert_eq!(Record::load(&copy).unwrap().entries, []);
            std::fs::remove_file(copy).unwrap();
            assert_eq!(told(&mut stream, r#"{"stop":true}"#).await, json!({ "ok": true }));
            // By the next answer the one before has ended.
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
        };
        let (ended, ()) = tokio::join!(serve(listener, &gateway, directory.path()), calls);
        ended.unwrap();
    }

    fn clock_now() -> u64 {
        crate::gateway::clock::monotonic().0
    }
}
