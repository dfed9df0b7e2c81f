//! Responses in progress: those that wait for the client's window, and those that wait for the
//! kernel. [`super::line`] has the responses that wait for their time.
//!
//! A body needs the client's flow-control window (80 bytes that nearly always fit); a body that
//! does not fit waits in line. Written responses are remembered for a while, so that the record can
//! distinguish a response that left from one that the client cannot have read.

use std::{collections::VecDeque, time::Duration};

use clarion_proto::time::Time;

use super::super::{
    answer::Answer,
    apns::answer::Uuid,
    fcm,
    record::{Handle, Log, flag},
    script::Fate,
};

/// Written answers remembered for a reset that comes later: 40 bytes each. A client's streams,
/// thrice over.
const WRITTEN_MAX: usize = 4_096;
/// An answer that left so shortly before its connection ended may have been lost.
const DOUBT: Duration = Duration::from_secs(1);

/// A decided request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) due: Time,
    pub(super) stream: u32,
    pub(super) answer: Answer,
    pub(super) subject: Subject,
    pub(super) handle: Handle,
    /// Treatment of the answer.
    pub(super) fate: Fate,
}

/// Identity of the message that the answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// A push to APNs, by its `apns-id`.
    Apns(Uuid),
    /// A message to FCM: what its response refers to.
    Fcm(fcm::answer::Subject),
}

impl Pending {
    /// Due when a silence ends, whenever that is.
    pub(super) const HELD: Time = Time(u64::MAX - 1);
}

/// A body that waits for window.
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
    /// Position in the connection's output where the answer ends.
    end: u64,
    /// Time at which the response was handed to the kernel.
    at: Time,
}

/// Answers written: the newest may still be in the emulator's own buffers.
#[derive(Debug, Default)]
pub(super) struct Written {
    sent: VecDeque<Sent>,
    /// How many at the front were handed to the kernel.
    flushed: usize,
}

impl Written {
    pub(super) fn push(&mut self, stream: u32, handle: Handle, end: u64) {
        self.sent.push_back(Sent { stream, handle, end, at: Time(0) });
    }

    /// The kernel has all output up to a position.
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

    /// Records that the client reset a stream whose response was written; it may have received the
    /// response.
    pub(super) fn cancelled(&self, stream: u32, log: &mut Log) {
        // Newest first: a client gives up what it sent lately.
        if let Some(sent) = self.sent.iter().rev().find(|s| s.stream == stream) {
            log.mark(sent.handle, flag::CANCELLED);
        }
    }

    /// Records that the connection is gone.
    pub(super) fn lost(&self, now: Time, log: &mut Log) {
        for sent in
            self.sent.iter().take(self.flushed).rev().take_while(|s| now.since(s.at) < DOUBT)
        {
            log.mark(sent.handle, flag::DOUBTFUL);
        }
    }
}
