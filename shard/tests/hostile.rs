//! Hostile gateways, through the driver, over TCP and TLS: each is one of a lane's connections,
//! behaves for fifty requests and then attacks. That connection ends with one clear line in the
//! log; the others go on, and the wave ends complete.

use std::{io, sync::Arc};

use clarion_proto::outcome::Outcome;
use clarion_runtime::world::World;
use clarion_shard::driver;
use parking_lot::Mutex;

mod floods;
mod gateway_support;
mod wave_support;

use floods::{floods, frame};
use gateway_support::{Dialect, Peer, Served, serve_all};
use wave_support::{certificate, complete_through, prepare, shut_down};

/// So many that the honest connection cannot have had them all before the other one has had its
/// fifty.
const DEVICES: u32 = 1_600;
/// Answered before the attack, so that it meets a connection in full work.
const HONEST: usize = 50;
/// Bytes that an attacker may get rid of before it is cut off: the frames put up with at their
/// longest, and buffers.
const SAID_BYTES_MAX: usize = 256 << 20;

/// One way to attack.
struct Attack {
    name: String,
    /// After that many honest answers the rest of the connection is its own.
    dialect: Dialect,
    /// The one line; none for what is only odd.
    line: &'static [&'static str],
}

#[tokio::test]
async fn whatever_one_connection_does_the_wave_goes_on() {
    let log = Log::catch();
    for attack in attacks() {
        log.lines.lock().clear();
        let (made, roots) = certificate();
        let served = serve_all(&made, vec![attack.dialect]);
        let gateway = wave_support::Gateway {
            address: served.address(),
            roots,
            connections: 2,
            hosts: usize::MAX,
        };
        let mut cores = driver::spawn(1, &World::system()).expect("a thread");
        prepare(&cores, &gateway, DEVICES, None).await;
        let total = complete_through(&mut cores, |_| {}).await;
        let (name, handed) = (&attack.name, u64::from(DEVICES));
        assert_eq!(
            (total.handed, total.outcomes[Outcome::Accepted as usize]),
            (handed, handed),
            "{name}"
        );
        shut_down(cores).await;
        check(name, served, DEVICES);

        let lines: Vec<_> = log.take().into_iter().filter(|l| l.contains("connect")).collect();
        match attack.line {
            [] => assert!(lines.is_empty(), "{name}: {lines:?}"),
            meant => {
                assert_eq!(lines.len(), 1, "{name}: {lines:?}");
                assert!(meant.iter().any(|end| lines[0].contains(end)), "{name}: {lines:?}");
                assert!(lines[0].contains("test/demo"), "{name}: which lane?");
                eprintln!("{name}: {}", lines[0].trim());
            }
        }
    }
    a_handshake_that_is_nonsense_costs_no_more_than_its_connection(&log).await;
}

/// Every device was seen, and none twice by those who answered it.
fn check(name: &str, served: Served, devices: u32) {
    let seen = served.stop();
    let by_attack = seen.waiting.iter().filter(|path| !seen.answered.contains_key(*path)).count();
    assert_eq!(seen.answered.len() + by_attack, devices as usize, "{name}: missed");
    // A reset takes with it the answers that the gateway's system had not sent yet (ten small
    // segments are under way at first, RFC 6928): such a request has no answer for anybody.
    let may_repeat = name == "TCP reset";
    assert!(
        may_repeat || seen.answered.values().all(|n| *n == 1),
        "{name}: answered, and sent again"
    );
}

fn attacks() -> Vec<Attack> {
    let mut attacks = Vec::new();
    for read in [true, false] {
        // The streams are only known in the middle of the conversation; lengths and texts are the
        // same for all.
        for (n, flood) in floods(3, 1).into_iter().enumerate() {
            if !read && flood.again.is_empty() {
                continue;
            }
            let name = format!("{}, {}", flood.name, if read { "read" } else { "unread" });
            let dialect: Dialect = Box::new(move |mut peer: Peer| {
                let (open, ended) = peer.be_honest(HONEST)?;
                let flood = floods(open, ended).swap_remove(n);
                peer.say(&flood.first)?;
                let mut said = flood.first.len();
                while !flood.again.is_empty() && !peer.has_hung_up(read) {
                    // Some at once, or each would be a record and a system call.
                    let many = flood.again.repeat(16_384_usize.div_ceil(flood.again.len()));
                    said += many.len();
                    assert!(said < SAID_BYTES_MAX, "{}: never cut off", flood.name);
                    peer.say(&many)?;
                }
                peer.wait_for_the_end()
            });
            attacks.push(Attack { name, dialect, line: flood.ends });
        }
    }
    let mut add = |name: &str, line, dialect: Dialect| {
        attacks.push(Attack { name: name.to_owned(), dialect, line });
    };

    add(
        "noise instead of TLS records",
        &["connection to gateway lost"],
        Box::new(|mut peer| {
            peer.be_honest(HONEST)?;
            peer.answer_and_break_off(&[0x5a; 4_096])?;
            peer.wait_for_the_end()
        }),
    );
    add(
        "TCP reset",
        &["connection to gateway lost"],
        Box::new(|mut peer| {
            peer.be_honest(HONEST)?;
            socket2::SockRef::from(&peer.tls.sock).set_linger(Some(std::time::Duration::ZERO))
        }),
    );
    // These are not against any rule; requests must get through them all the same.
    add(
        "records of one byte",
        &[],
        Box::new(|mut peer| {
            peer.record_bytes = 1;
            peer.be_honest(usize::MAX).map(drop)
        }),
    );
    add(
        "windows below zero",
        &[],
        Box::new(|mut peer| {
            peer.be_honest(HONEST)?;
            peer.starve()?;
            peer.be_honest(usize::MAX).map(drop)
        }),
    );
    attacks
}

/// A TLS that says goodbye and goes on talking before it has said hello, and other nonsense: nobody
/// may wait for it, or spin on it. One line each, too.
async fn a_handshake_that_is_nonsense_costs_no_more_than_its_connection(log: &Log) {
    let nonsense: [&'static [&'static [u8]]; 4] = [
        // close_notify, and more.
        &[&[21, 3, 3, 0, 2, 1, 0], &[23; 9_000]],
        &[b"HTTP/1.1 400 Bad Request\r\n\r\n"],
        &[&[22, 3, 3, 0x40, 0]],
        &[],
    ];
    for pieces in nonsense {
        log.lines.lock().clear();
        let (made, roots) = certificate();
        let nonsense: Dialect = Box::new(|_| unreachable!("TLS never stands"));
        let served = gateway_support::serve_after(&made, pieces, vec![nonsense]);
        let gateway = wave_support::Gateway {
            address: served.address(),
            roots,
            connections: 2,
            hosts: usize::MAX,
        };
        let mut cores = driver::spawn(1, &World::system()).expect("a thread");
        prepare(&cores, &gateway, DEVICES, None).await;
        let total = complete_through(&mut cores, |_| {}).await;
        assert_eq!(total.outcomes[Outcome::Accepted as usize], u64::from(DEVICES));
        shut_down(cores).await;
        check("nonsense", served, DEVICES);
        let lines: Vec<_> = log.take().into_iter().filter(|l| l.contains("connect")).collect();
        assert!(
            matches!(&lines[..], [line] if line.contains("connecting to the gateway failed")),
            "{lines:?}"
        );
    }
}

/// What the program logs, line by line.
#[derive(Clone)]
struct Log {
    lines: Arc<Mutex<Vec<u8>>>,
}

impl Log {
    /// From now on, all threads.
    fn catch() -> Self {
        let log = Self { lines: Arc::default() };
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::set_global_default(subscriber).expect("the first");
        log
    }

    fn take(&self) -> Vec<String> {
        let text = std::mem::take(&mut *self.lines.lock());
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lines.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Used by [`gateway_support`] too.
pub(crate) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(id, v)| [&id.to_be_bytes()[..], &v.to_be_bytes()].concat())
        .collect();
    frame(4, 0, 0, &payload)
}
