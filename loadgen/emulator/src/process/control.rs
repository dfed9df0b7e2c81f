//! Orders over TCP, for an emulator that runs in a pod of its own, where no parent holds its pipes.
//!
//! The lines are the same as on standard input, answered in order on the same connection. Where
//! caller and emulator share no files, the record comes over the connection as well:
//!
//! ```text
//! → {"fetch":true}    ← {"fetched":1000000,"bytes":32000112}, then so many bytes: the record as `export` writes it
//! ```
//!
//! The port is in plaintext and without identity: it is for closed networks, and off by default. So
//! a caller cannot choose where the emulator writes: `export` and `take` name a file, which is
//! created in the emulator's own folder ([`within`]).

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::{JoinSet, spawn_blocking},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{GatewayHandle, Order, obey};
use crate::record;

/// Callers at once. One more takes the place of the caller that has been silent for the longest: a
/// run that waits is better off than one that cannot begin, and whoever holds connections must not
/// keep a run out.
const CALLERS_MAX: usize = 8;
/// From the connection to the end of the first order.
const FIRST_ORDER_WITHIN: Duration = Duration::from_secs(10);
/// In a row; a person at a terminal may press the key once too often.
const BLANK_LINES_MAX: u32 = 16;
/// Longest order: faults with rules are some kilobytes. Eight callers hold 8 MiB.
const ORDER_BYTES_MAX: u64 = 1 << 20;
/// For a caller to take an answer; a record of 32 MB over a slow network takes seconds.
const TAKE_WITHIN: Duration = Duration::from_secs(120);
/// A caller that says nothing for so long, such as one that was killed with its machine, gives its
/// place to another. A run gives an order at least at its beginning and its end, 300 s of loading
/// and 600 s of wave apart.
const SPEAK_WITHIN: Duration = Duration::from_secs(1_800);
/// The system had no descriptor, or the connection was gone already: the next is accepted after
/// this.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Obeys all callers until one of them orders a stop.
///
/// # Errors
/// The listener's.
pub(super) async fn serve(
    listener: TcpListener,
    gateway: &Arc<GatewayHandle>,
    directory: &Path,
) -> io::Result<()> {
    let mut callers = JoinSet::new();
    // Since when each has been silent; who is being answered is not.
    let mut silent: Vec<Arc<Caller>> = Vec::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if callers.len() <= CALLERS_MAX => {
                // Whatever it is about, the record in memory must not go with it.
                match accepted {
                    Ok((stream, _)) => {
                        silent.retain(|caller| Arc::strong_count(caller) > 1);
                        if silent.len() >= CALLERS_MAX && !make_room(&mut silent) {
                            continue;
                        }
                        let caller = Arc::new(Caller::default());
                        silent.push(Arc::clone(&caller));
                        callers.spawn(converse(stream, caller, Arc::clone(gateway), directory.to_owned()));
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

/// One connection, as the listener sees it.
#[derive(Debug)]
struct Caller {
    /// `None`: it is being answered.
    silent_since: Mutex<Option<Instant>>,
    leave: CancellationToken,
}

impl Default for Caller {
    fn default() -> Self {
        Self { silent_since: Mutex::new(Some(Instant::now())), leave: CancellationToken::new() }
    }
}

/// Has the caller leave that has been silent for the longest; false: all are being answered.
fn make_room(callers: &mut Vec<Arc<Caller>>) -> bool {
    let silent = callers
        .iter()
        .enumerate()
        .filter_map(|(i, caller)| Some(((*caller.silent_since.lock())?, i)));
    let Some((_, longest)) = silent.min() else { return false };
    callers.swap_remove(longest).leave.cancel();
    true
}

/// What follows an answer.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    GoOn,
    Stop,
}

async fn converse(
    stream: TcpStream,
    caller: Arc<Caller>,
    gateway: Arc<GatewayHandle>,
    directory: PathBuf,
) -> io::Result<Then> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let (mut within, mut blank) = (FIRST_ORDER_WITHIN, 0);
    // Asked here as well: to a caller that never pauses, the next line would always be there first.
    while blank <= BLANK_LINES_MAX && !caller.leave.is_cancelled() {
        let mut line = Vec::new();
        let mut bounded = (&mut stream).take(ORDER_BYTES_MAX);
        let read = timeout(within, bounded.read_until(b'\n', &mut line));
        let Some(read) = caller.leave.run_until_cancelled(read).await else {
            return Ok(Then::GoOn);
        };
        if read?? == 0 {
            return Ok(Then::GoOn);
        }
        if line.len() as u64 == ORDER_BYTES_MAX && line.last() != Some(&b'\n') {
            let error =
                format!("an order has at most {ORDER_BYTES_MAX} bytes; the connection ends");
            timeout(TAKE_WITHIN, say(&json!({ "error": error }), stream.get_mut())).await??;
            return Ok(Then::GoOn);
        }
        within = SPEAK_WITHIN;
        *caller.silent_since.lock() = None;
        if line.iter().all(u8::is_ascii_whitespace) {
            blank += 1;
        } else {
            blank = 0;
            let answer = answer(&line, &gateway, &directory, stream.get_mut());
            if timeout(TAKE_WITHIN, answer).await?? == Then::Stop {
                return Ok(Then::Stop);
            }
        }
        *caller.silent_since.lock() = Some(Instant::now());
    }
    Ok(Then::GoOn)
}

async fn answer(
    line: &[u8],
    gateway: &Arc<GatewayHandle>,
    directory: &Path,
    to: &mut TcpStream,
) -> io::Result<Then> {
    let gateway = Arc::clone(gateway);
    let (said, stop) = match serde_json::from_slice(line) {
        Err(error) => (json!({ "error": error.to_string() }), false),
        Ok(Order::Fetch(true)) => match fetched(gateway, directory.to_owned()).await {
            Ok((entries, file)) => return send(entries, &file, to).await,
            Err(error) => (json!({ "error": error.to_string() }), false),
        },
        // It waits for the gateway's threads, or for the file system.
        Ok(order) => {
            let directory = directory.to_owned();
            let obeyed = move || match confined(&directory, order) {
                Ok(order) => obey(&gateway, order),
                Err(refused) => (json!({ "error": refused }), false),
            };
            spawn_blocking(obeyed).await?
        }
    };
    say(&said, to).await?;
    Ok(if stop { Then::Stop } else { Then::GoOn })
}

/// The order, with the file that it names in the emulator's folder.
fn confined(directory: &Path, order: Order) -> Result<Order, String> {
    Ok(match order {
        Order::Export(path) => Order::Export(within(directory, &path)?),
        Order::Take { path, before_us } => {
            Order::Take { path: within(directory, &path)?, before_us }
        }
        other => other,
    })
}

/// Where a caller's file goes: in the folder itself, under a plain name, as a new file or over one
/// that was made so before.
///
/// # Errors
/// The path, what it may be, and why it is not.
fn within(directory: &Path, path: &Path) -> Result<PathBuf, String> {
    let refused = |why: &str| {
        format!(
            "{}: must be a file name in the emulator's folder {}: {why}",
            path.display(),
            directory.display()
        )
    };
    let mut components = path.components();
    let (Some(Component::Normal(name)), None) = (components.next(), components.next()) else {
        return Err(refused("must not contain another folder"));
    };
    let inside = directory.join(name);
    match fs::symlink_metadata(&inside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(inside),
        Err(error) => Err(refused(&error.to_string())),
        // A link would be written through.
        Ok(there) if !there.is_file() => Err(refused("exists and is not a regular file")),
        // Keys and certificates lie there as well, whose names are known.
        Ok(_) if !record::is_record(&inside) => Err(refused("exists and is not a record")),
        Ok(_) => Ok(inside),
    }
}

/// The record in a file of its own, which goes when it is dropped.
async fn fetched(
    gateway: Arc<GatewayHandle>,
    directory: PathBuf,
) -> io::Result<(u64, NamedTempFile)> {
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
    use crate::{Gateway, GatewayConfig, Record};

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
            let there =
                told(&mut stream, r#"{"clock":true}"#).await["monotonic_us"].as_u64().unwrap();
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
            assert_eq!(
                std::fs::read_dir(directory.path()).unwrap().count(),
                0,
                "nothing is left behind"
            );
        };
        let (ended, ()) = tokio::join!(serve(listener, &gateway, directory.path()), calls);
        ended.unwrap();
    }

    #[test]
    fn a_caller_writes_only_into_the_emulators_folder() {
        let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let inside = |path: &str| within(directory.path(), Path::new(path));
        assert_eq!(inside("record"), Ok(directory.path().join("record")));
        std::fs::write(directory.path().join("ca.pem"), "a certificate").unwrap();
        std::fs::create_dir(directory.path().join("folder")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path().join("far"), directory.path().join("link"))
            .unwrap();
        let absolute = elsewhere.path().join("record").display().to_string();
        for path in [
            "../record",
            "folder/record",
            "folder/../record",
            "",
            ".",
            "..",
            "/",
            "link",
            "folder",
            "ca.pem",
            &absolute,
        ] {
            let refused = inside(path).expect_err(path);
            assert!(refused.contains("must be a file name in the emulator's folder"), "{refused}");
        }
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn callers_that_say_nothing_keep_nobody_out_and_orders_have_a_limit() {
        let gateway = Arc::new(Gateway::start(GatewayConfig::default()).unwrap());
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let calls = async {
            let mut held = Vec::new();
            for _ in 0..3 * CALLERS_MAX {
                held.push(TcpStream::connect(address).await.unwrap());
            }
            let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
            let refused = told(&mut stream, r#"{"export":"/nowhere/record"}"#).await;
            assert!(
                refused["error"].as_str().unwrap().contains("/nowhere/record: must be a file name"),
                "{refused}"
            );
            let exported = told(&mut stream, r#"{"export":"record"}"#).await;
            assert_eq!(exported["exported"], 0);
            assert!(Record::load(directory.path().join("record")).is_ok());
            assert_eq!(
                told(&mut stream, r#"{"export":"record"}"#).await["exported"],
                0,
                "once more over its own"
            );
            let endless = vec![b' '; usize::try_from(ORDER_BYTES_MAX).unwrap()];
            let mut other = BufReader::new(TcpStream::connect(address).await.unwrap());
            other.get_mut().write_all(&endless).await.unwrap();
            let mut line = String::new();
            other.read_line(&mut line).await.unwrap();
            assert!(line.contains("at most 1048576 bytes"), "{line}");
            assert_eq!(told(&mut stream, r#"{"stop":true}"#).await, json!({ "ok": true }));
        };
        let (ended, ()) = tokio::join!(serve(listener, &gateway, directory.path()), calls);
        ended.unwrap();
    }

    fn clock_now() -> u64 {
        crate::clock::monotonic().0
    }
}
