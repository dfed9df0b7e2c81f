//! Messages between actors: values of the contracts between processes, commands and events within a
//! node, bytes between lane and gateway.

use std::{fmt::Write, sync::Arc};

use clarion_coordinator::planned::PlannedAlert;
use clarion_proto::wire::shard_v1 as wire;
use clarion_shard::{
    command::{Command, Event},
    core::Letter,
};
use prost::Message as _;
use xxhash_rust::xxh3::Xxh3Default;

/// A message from one actor to another.
#[derive(Debug)]
pub enum Message {
    /// A coordinator to a node, on a session.
    Request(Box<wire::SessionRequest>),
    /// A node to a coordinator, on a session.
    Response(Box<wire::SessionResponse>),
    /// A node's request for logs.
    Follow(wire::FeedRequest),
    /// A batch of a log.
    Batch(wire::FeedResponse),
    /// Bytes of a lane's connection, without TLS.
    Bytes(Vec<u8>),
    /// A node's control plane to one of its cores.
    Command(Box<Command>),
    /// A core to its control plane.
    Event(Box<Event>),
    /// One core of a node to another.
    Letter(Box<Letter>),
    /// A caller starts an alert.
    Start(Arc<PlannedAlert>),
}

impl Message {
    /// The kind of message, for the trace.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Request(_) => "request",
            Self::Response(_) => "response",
            Self::Follow(_) => "follow",
            Self::Batch(_) => "batch",
            Self::Bytes(_) => "bytes",
            Self::Command(_) => "command",
            Self::Event(_) => "event",
            Self::Letter(_) => "letter",
            Self::Start(_) => "start",
        }
    }

    /// A digest of the content. Values without an encoding count as their `Debug` text.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut digest = Digest(Xxh3Default::new());
        match self {
            Self::Request(request) => digest.0.update(&request.encode_to_vec()),
            Self::Response(response) => digest.0.update(&response.encode_to_vec()),
            Self::Follow(request) => digest.0.update(&request.encode_to_vec()),
            Self::Batch(batch) => digest.0.update(&batch.encode_to_vec()),
            Self::Bytes(bytes) => digest.0.update(bytes),
            Self::Command(command) => digest.text(format_args!("{command:?}")),
            Self::Event(event) => digest.text(format_args!("{event:?}")),
            Self::Letter(letter) => digest.text(format_args!("{letter:?}")),
            Self::Start(alert) => digest.text(format_args!("{alert:?}")),
        }
        digest.0.digest()
    }

    /// A word that distinguishes kinds of requests and responses, for readers of the trace.
    #[must_use]
    pub fn detail(&self) -> String {
        let mut word = Word::default();
        // The write fails on purpose at the end of the first word.
        let _ = match self {
            Self::Request(request) => write!(word, "{:?}", request.message),
            Self::Response(response) => write!(word, "{:?}", response.message),
            Self::Command(command) => write!(word, "{command:?}"),
            Self::Event(event) => write!(word, "{event:?}"),
            Self::Letter(letter) => write!(word, "{letter:?}"),
            Self::Bytes(bytes) => write!(word, "{}", bytes.len()),
            Self::Follow(_) | Self::Batch(_) | Self::Start(_) => Ok(()),
        };
        word.0
    }
}

/// The first word of a text, without a leading `Some(`.
#[derive(Default)]
struct Word(String);

impl Write for Word {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for letter in text.chars() {
            if letter.is_ascii_alphanumeric() {
                self.0.push(letter);
            } else if self.0 == "Some" {
                self.0.clear();
            } else {
                return Err(std::fmt::Error);
            }
        }
        Ok(())
    }
}

struct Digest(Xxh3Default);

impl Digest {
    fn text(&mut self, text: std::fmt::Arguments<'_>) {
        self.write_fmt(text).expect("hashing does not fail");
    }
}

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}
