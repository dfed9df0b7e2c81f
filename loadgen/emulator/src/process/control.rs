//! Orders over TCP, for an emulator that runs in a pod of its own, where no parent process holds
//! its pipes.
//!
//! The lines are the same as on standard input, and each is answered in order on the same
//! connection. Where caller and emulator share no files, the record is sent over the connection as
//! well:
//!
//! ```text
//! → {"fetch":true}    ← {"fetched":1000000,"bytes":32000112}, then so many bytes: the record as `export` writes it
//! ```
//!
//! The port has neither encryption nor identities. It is for closed networks and off by default. A
//! caller cannot choose where the emulator writes: `export` and `take` name a file, which is
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

use super::{GatewayHandle, Order, execute};
use crate::record;

/// Most callers at once. A further caller takes the place of the one that has been silent for the
/// longest. So a client that holds connections cannot prevent a run.
const CALLERS_MAX: usize = 8;
/// Time limit from the connection to the end of the first order.
const FIRST_ORDER_WITHIN: Duration = Duration::from_secs(10);
/// Most consecutive blank lines. A person at a terminal may press the key once too often.
const BLANK_LINES_MAX: u32 = 16;
/// Longest order, bytes. Faults with rules are some kilobytes; eight callers hold at most 8 MiB.
const ORDER_BYTES_MAX: u64 = 1 << 20;
/// Time limit for a caller to receive an answer. A record of 32 MB takes seconds over a slow
/// network.
const TAKE_WITHIN: Duration = Duration::from_secs(120);
/// Longest time without an order; after it, the connection ends and its place is free. A caller
/// whose machine has failed ends this way. A run sends an order at least at its beginning and its
/// end, which are 300 s of loading and 600 s of a wave apart.
const SPEAK_WITHIN: Duration = Duration::from_secs(1_800);
/// Pause after a failed accept: without a free file descriptor, or after a connection that has
/// ended.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves all callers until one of them orders the emulator to stop.
///
/// # Errors
/// If the listener fails.
pub(super) async fn serve(
    listener: TcpListener,
    gateway: &Arc<GatewayHandle>,
    directory: &Path,
) -> io::Result<()> {
    let mut callers = JoinSet::new();
    // Callers with the time since which each has been silent. A caller whose order is being
    // answered is not silent.
    let mut silent: Vec<Arc<Caller>> = Vec::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if callers.len() <= CALLERS_MAX => {
                // A failed accept must not end the process, because the record is in its memory.
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
                // A caller whose connection fails affects no other caller.
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
    /// Time since which the caller has been silent; `None` while an order is being answered.
    silent_since: Mutex<Option<Instant>>,
    leave: CancellationToken,
}

impl Default for Caller {
    fn default() -> Self {
        Self { silent_since: Mutex::new(Some(Instant::now())), leave: CancellationToken::new() }
    }
}

/// Disconnects the caller that has been silent for the longest. Returns false if all callers are
/// being answered.
fn make_room(callers: &mut Vec<Arc<Caller>>) -> bool {
    let silent = callers
        .iter()
        .enumerate()
        .filter_map(|(i, caller)| Some(((*caller.silent_since.lock())?, i)));
    let Some((_, longest)) = silent.min() else { return false };
    callers.swap_remove(longest).leave.cancel();
    true
}

/// Step after an answer.
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
    // Checked here too, because the next line of a caller that never pauses would always arrive
    // first.
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
                format!("order: must be at most {ORDER_BYTES_MAX} bytes; connection closed");
            timeout(TAKE_WITHIN, write_line(&json!({ "error": error }), stream.get_mut()))
                .await??;
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
    let (reply, stop) = match serde_json::from_slice(line) {
        Err(error) => (json!({ "error": error.to_string() }), false),
        Ok(Order::Fetch(true)) => match fetched(gateway, directory.to_owned()).await {
            Ok((entries, file)) => return send(entries, &file, to).await,
            Err(error) => (json!({ "error": error.to_string() }), false),
        },
        // An order waits for the gateway's threads or for the file system, so it must not block the
        // runtime.
        Ok(order) => {
            let directory = directory.to_owned();
            let executed = move || match confined(&directory, order) {
                Ok(order) => execute(&gateway, order),
                Err(refused) => (json!({ "error": refused }), false),
            };
            spawn_blocking(executed).await?
        }
    };
    write_line(&reply, to).await?;
    Ok(if stop { Then::Stop } else { Then::GoOn })
}

/// Returns the order with its file name resolved in the emulator's own folder.
fn confined(directory: &Path, order: Order) -> Result<Order, String> {
    Ok(match order {
        Order::Export(path) => Order::Export(within(directory, &path)?),
        Order::Take { path, before_us } => {
            Order::Take { path: within(directory, &path)?, before_us }
        }
        other => other,
    })
}

/// Resolves a caller's file name: a plain name in the folder itself, for a new file or one that an
/// earlier order created.
///
/// # Errors
/// The name, the rule and the reason for the refusal.
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
        // A symbolic link would be followed.
        Ok(file) if !file.is_file() => Err(refused("exists and is not a regular file")),
        // Keys and certificates with known names are in the folder too.
        Ok(_) if !record::is_record(&inside) => Err(refused("exists and is not a record")),
        Ok(_) => Ok(inside),
    }
}

/// Exports the record to a temporary file, which is removed when it is dropped, and sends it.
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
    write_line(&json!({ "fetched": entries, "bytes": bytes }), to).await?;
    tokio::io::copy(&mut from, to).await?;
    Ok(Then::GoOn)
}

async fn write_line(value: &Value, to: &mut TcpStream) -> io::Result<()> {
    to.write_all(format!("{value}\n").as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Gateway, GatewayConfig, Record};

    async fn answer_to(stream: &mut BufReader<TcpStream>, order: &str) -> Value {
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
            // One caller disconnects, one sends nonsense, and one sends correct orders.
            drop(TcpStream::connect(address).await.unwrap());
            let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
            assert!(answer_to(&mut stream, "nonsense").await["error"].is_string());
            let before = clock_now();
            let monotonic_us =
                answer_to(&mut stream, r#"{"clock":true}"#).await["monotonic_us"].as_u64().unwrap();
            assert!((before..=clock_now()).contains(&monotonic_us), "one machine, one clock");
            assert_eq!(answer_to(&mut stream, r#"{"reset":true}"#).await, json!({ "ok": true }));
            let head = answer_to(&mut stream, r#"{"fetch":true}"#).await;
            assert_eq!(head["fetched"], 0);
            let mut record = vec![0; usize::try_from(head["bytes"].as_u64().unwrap()).unwrap()];
            stream.read_exact(&mut record).await.unwrap();
            let copy = directory.path().join("copy");
            std::fs::write(&copy, &record).unwrap();
            assert_eq!(Record::load(&copy).unwrap().entries, []);
            std::fs::remove_file(copy).unwrap();
            assert_eq!(answer_to(&mut stream, r#"{"stop":true}"#).await, json!({ "ok": true }));
            // The previous connection has ended before the next answer.
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
            let refused = answer_to(&mut stream, r#"{"export":"/nowhere/record"}"#).await;
            assert!(
                refused["error"].as_str().unwrap().contains("/nowhere/record: must be a file name"),
                "{refused}"
            );
            let exported = answer_to(&mut stream, r#"{"export":"record"}"#).await;
            assert_eq!(exported["exported"], 0);
            assert!(Record::load(directory.path().join("record")).is_ok());
            assert_eq!(
                answer_to(&mut stream, r#"{"export":"record"}"#).await["exported"],
                0,
                "once more over its own"
            );
            let endless = vec![b' '; usize::try_from(ORDER_BYTES_MAX).unwrap()];
            let mut other = BufReader::new(TcpStream::connect(address).await.unwrap());
            other.get_mut().write_all(&endless).await.unwrap();
            let mut line = String::new();
            other.read_line(&mut line).await.unwrap();
            assert!(line.contains("at most 1048576 bytes"), "{line}");
            assert_eq!(answer_to(&mut stream, r#"{"stop":true}"#).await, json!({ "ok": true }));
        };
        let (ended, ()) = tokio::join!(serve(listener, &gateway, directory.path()), calls);
        ended.unwrap();
    }

    fn clock_now() -> u64 {
        crate::clock::monotonic().0
    }
}
