//! Responses in progress: those that wait for the client's window, and those that the kernel has
//! not taken yet. [`super::line`] holds the responses whose time has not come.
//!
//! A body needs the client's flow-control window. Its some 80 bytes nearly always fit; a body that
//! does not fit waits in line. The connection remembers written responses for a while, so that the
//! record can distinguish a response that was sent from one that the client cannot have read.

use std::{collections::VecDeque, time::Duration};

use clarion_proto::time::Time;

use super::super::{
    answer::Answer,
    apns::answer::Uuid,
    fcm,
    record::{Handle, Log, flag},
    script::Fate,
};

/// Number of written answers that are remembered in case the client resets their stream: three
/// times the streams of a client, 40 bytes each.
const WRITTEN_MAX: usize = 4_096;
/// Time before the end of a connection in which a sent answer may have been lost.
const DOUBT: Duration = Duration::from_secs(1);

/// A request that is decided and whose answer is not written yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) due: Time,
    pub(super) stream: u32,
    pub(super) answer: Answer,
    pub(super) subject: Subject,
    pub(super) handle: Handle,
    /// Way in which the request is answered.
    pub(super) fate: Fate,
}

/// Message that an answer refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// A push to APNs, by its `apns-id`.
    Apns(Uuid),
    /// A message to FCM, by the data that its response contains.
    Fcm(fcm::answer::Subject),
}

impl Pending {
    /// Due time of an answer that waits for the end of a silence.
    pub(super) const HELD: Time = Time(u64::MAX - 1);
}

/// A response body that waits for the client's window.
#[derive(Debug)]
pub(super) struct Blocked {
    pub(super) stream: u32,
    pub(super) body: Vec<u8>,
    pub(super) handle: Handle,
    /// Whether RST_STREAM with NO_ERROR follows the response.
    pub(super) then_reset: bool,
}

#[derive(Debug)]
struct Sent {
    stream: u32,
    handle: Handle,
    /// Position in the connection's output at which the answer ends.
    end: u64,
    /// Time at which the response was handed to the kernel.
    at: Time,
}

/// Answers that were written. The newest ones may still be in the emulator's own buffers.
#[derive(Debug, Default)]
pub(super) struct Written {
    sent: VecDeque<Sent>,
    /// Number of answers at the front that were handed to the kernel.
    flushed: usize,
}

impl Written {
    pub(super) fn push(&mut self, stream: u32, handle: Handle, end: u64) {
        self.sent.push_back(Sent { stream, handle, end, at: Time(0) });
    }

    /// Records the answers up to a position of the output as handed to the kernel.
    pub(super) fn flushed(&mut self, position: u64, now: Time, log: &mut Log) {
        while let Some(sent) = self.sent.get_mut(self.flushed).filter(|s| s.end <= position) {
            sent.at = now;
            log.answered(sent.handle);
            self.flushed += 1;
        }
        let forget = self.sent.len().saturating_sub(WRITTEN_MAX).min(self.flushed);
        self.sent.drain(..forget);
        self.flushed -= forget;
    }

    /// Records that the client reset a stream whose response was written. The client may have
    /// received the response.
    pub(super) fn cancelled(&self, stream: u32, log: &mut Log) {
        // Newest first, because a client resets the streams that it opened last.
        if let Some(sent) = self.sent.iter().rev().find(|s| s.stream == stream) {
            log.mark(sent.handle, flag::CANCELLED);
        }
    }

    /// Records the answers that may have been lost with the connection.
    pub(super) fn lost(&self, now: Time, log: &mut Log) {
        for sent in
            self.sent.iter().take(self.flushed).rev().take_while(|s| now.since(s.at) < DOUBT)
        {
            log.mark(sent.handle, flag::DOUBTFUL);
        }
    }
}
