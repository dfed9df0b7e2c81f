//! Recorded conversations with real servers: the servers' bytes are read again by both of our
//! readers, in pieces of every size, and by the `h2` crate as an independent client. All must
//! report the same for each request.
//!
//! The recordings are in `tests/conversations`, one file for each server. `just record` creates
//! them again (and needs all servers). In addition, each run records a new one from every server
//! that is installed.

mod h2_client;
mod recorder;

use std::{fmt::Write as _, fs, path::PathBuf, time::Duration};

use clarion_proto::time::Time;

use super::{
    super::{Connection, ConnectionConfig, ConnectionEvent, TemplateSpec},
    support::{BEARER, authorization, fcm_spec, spec},
};
use crate::outcome::{Answer, Platform};

/// One connection: the requests and the server's bytes, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Conversation {
    platform: Platform,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// A request for this token; its ticket is its number.
    Push(Vec<u8>),
    /// What one read gave.
    Hear(Vec<u8>),
}

/// Result of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Answer(Answer),
    /// Reset or cut off.
    Unanswered,
    /// Refused, or above the last stream of a GOAWAY.
    Unprocessed,
}

fn config(platform: Platform) -> ConnectionConfig {
    ConnectionConfig {
        platform,
        authority: "localhost".into(),
        streams_max: 100,
        request_deadline: Duration::from_secs(3_600),
        ping_after: None,
        ..ConnectionConfig::default()
    }
}

fn message(platform: Platform) -> TemplateSpec {
    match platform {
        Platform::Apns => spec(r#"{"aps":{"alert":"a child is missing"}}"#),
        Platform::Fcm => fcm_spec(r#"{"message":{"token":""#, r#""}}"#),
    }
}

/// How the server's bytes come.
#[derive(Debug, Clone, Copy)]
enum Cut {
    AsRecorded,
    Bytes(usize),
    /// Sizes of a generator with this state.
    Random(u64),
}

/// Replays the server's bytes to our connection. `fast` says whether it may use the fast path.
fn replay(conversation: &Conversation, cut: Cut, fast: bool) -> Vec<Fate> {
    let (mut now, spec) = (Time(0), message(conversation.platform));
    let mut connection = Connection::new(config(conversation.platform), authorization(BEARER), now);
    if !fast {
        connection = connection.without_fast_reader();
    }
    let (mut fates, mut out, mut random) =
        (Vec::new(), Vec::new(), if let Cut::Random(state) = cut { state } else { 0 });
    for step in &conversation.steps {
        now = now + Duration::from_micros(10);
        match step {
            Step::Push(token) => {
                connection
                    .push(fates.len() as u64, 7, &spec, token, now)
                    .expect("as it was recorded");
                fates.push(None);
            }
            Step::Hear(bytes) => {
                out.clear();
                connection.transmit(&mut out, now);
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let size = match cut {
                        Cut::AsRecorded => rest.len(),
                        Cut::Bytes(size) => size,
                        Cut::Random(_) => {
                            random = random
                                .wrapping_mul(6_364_136_223_846_793_005)
                                .wrapping_add(1_442_695_040_888_963_407);
                            usize::try_from(random >> 33).unwrap() % 40 + 1
                        }
                    };
                    let (piece, after) = rest.split_at(size.min(rest.len()));
                    connection.receive(piece, now).expect("a real server keeps to the rules");
                    rest = after;
                }
            }
        }
        take(&mut connection, &mut fates);
    }
    connection.drop_all();
    take(&mut connection, &mut fates);
    fates.into_iter().map(|fate| fate.expect("each has one")).collect()
}

fn take(connection: &mut Connection, fates: &mut [Option<Fate>]) {
    while let Some(event) = connection.poll() {
        let (ticket, fate) = match event {
            ConnectionEvent::Answer { ticket, answer } => (ticket, Fate::Answer(answer)),
            ConnectionEvent::Unanswered { ticket, .. } => (ticket, Fate::Unanswered),
            ConnectionEvent::Unprocessed { ticket } => (ticket, Fate::Unprocessed),
            ConnectionEvent::Closing { .. } | ConnectionEvent::Closed => continue,
        };
        let before = fates[usize::try_from(ticket).unwrap()].replace(fate);
        assert!(before.is_none(), "one fate for each ticket");
    }
}

/// Checks that all ways of reading agree, and returns the results.
fn agree(name: &str, conversation: &Conversation) -> Vec<Fate> {
    let meant = replay(conversation, Cut::AsRecorded, true);
    for cut in [
        Cut::AsRecorded,
        Cut::Bytes(1),
        Cut::Bytes(10),
        Cut::Random(1),
        Cut::Random(2),
        Cut::Random(3),
    ] {
        for fast in [true, false] {
            assert_eq!(replay(conversation, cut, fast), meant, "{name}: {cut:?}, fast: {fast}");
        }
    }
    for (n, (ours, theirs)) in meant.iter().zip(h2_client::replay(conversation)).enumerate() {
        assert!(theirs.contains(ours), "{name}: request {n}: {ours:?}, but h2: {theirs:?}");
    }
    meant
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conversations")
}

const NAMES: [&str; 5] = ["nginx", "nghttpd", "node", "python", "emulator"];

#[test]
fn all_readers_agree_on_what_was_recorded() {
    for name in NAMES {
        let text = fs::read_to_string(directory().join(name)).expect("a recording");
        let conversations = parse(&text);
        assert_eq!(parse(&write(&conversations)), conversations);
        let fates: Vec<_> =
            conversations.iter().flat_map(|conversation| agree(name, conversation)).collect();
        // What each of them was recorded for.
        let answers = |status| {
            fates.iter().filter(|f| matches!(f, Fate::Answer(a) if a.status == status)).count()
        };
        let count = |fate: &Fate| fates.iter().filter(|f| *f == fate).count();
        assert!(answers(200) >= 80, "{name}");
        if name != "nghttpd" {
            assert!(answers(410) >= 5 && answers(400) >= 5 && answers(503) >= 5, "{name}");
        }
        if ["node", "python"].contains(&name) {
            assert!(count(&Fate::Unanswered) >= 5 && count(&Fate::Unprocessed) >= 5, "{name}");
        }
        if name == "nginx" {
            assert!(conversations.len() >= 3, "{name} closes its connections");
        }
    }
}

/// The same with servers as they are installed here.
#[test]
fn all_readers_agree_on_what_servers_say_today() {
    for name in NAMES {
        let Some(conversations) = recorder::record(name) else { continue };
        for conversation in &conversations {
            agree(name, conversation);
        }
    }
}

/// `just record`.
#[test]
#[ignore = "writes the recordings that the tests read"]
fn record_anew() {
    for name in NAMES {
        let conversations =
            recorder::record(name).unwrap_or_else(|| panic!("{name} is not installed"));
        fs::write(directory().join(name), write(&conversations)).unwrap();
    }
}

/// Writes lines of `connect PLATFORM`, `push TOKEN`, `hear BYTES`.
fn write(conversations: &[Conversation]) -> String {
    let mut text = String::new();
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    for conversation in conversations {
        writeln!(text, "connect {:?}", conversation.platform).unwrap();
        for step in &conversation.steps {
            match step {
                Step::Push(token) => writeln!(text, "push {}", hex(token)).unwrap(),
                Step::Hear(bytes) => writeln!(text, "hear {}", hex(bytes)).unwrap(),
            }
        }
    }
    text
}

fn parse(text: &str) -> Vec<Conversation> {
    let mut conversations: Vec<Conversation> = Vec::new();
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').expect("two words");
        let bytes = || data_encoding::HEXLOWER.decode(rest.as_bytes()).expect("hexadecimal");
        let step = match word {
            "connect" => {
                let platform = if rest == "Fcm" { Platform::Fcm } else { Platform::Apns };
                conversations.push(Conversation { platform, steps: Vec::new() });
                continue;
            }
            "push" => Step::Push(bytes()),
            "hear" => Step::Hear(bytes()),
            other => panic!("no such line: {other}"),
        };
        conversations.last_mut().expect("connect comes first").steps.push(step);
    }
    conversations
}
