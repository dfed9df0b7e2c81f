//! A request from its HEADERS to the writing of its answer.

use clarion_proto::{device::token_hash, time::Time};
use rand::Rng as _;

use super::{
    super::{
        answer::{self, Answer, Reason, Uuid},
        auth::Verified,
        faults::Silence,
        frame::{self, Code, Head as Frame, flag},
        head::{Head, Read},
        policy::{Path, Policy, is_json_object},
        record::{self, Entry},
        script::{Script, answer_for},
    },
    BLOCK_BYTES_MAX, Connection, Context, TOO_MANY_STREAMS,
    answers::{Blocked, Pending},
    limits::Admission,
};

/// Bodies remembered as JSON objects: alerts times locales in flight.
const BODIES_MAX: usize = 8;

/// Answers that wait are due on the next tick of so many microseconds.
const TICK_US: u64 = 1_000;

/// A request whose body is still coming.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) stream: u32,
    head: Head,
    /// No more of it than the payload's limit.
    body: Vec<u8>,
}

/// Which provider token a connection is bound to.
#[derive(Debug, Default)]
pub(super) struct Binding {
    current: Option<Verified>,
    changed: Option<Time>,
    expired: bool,
}

impl Binding {
    /// What speaks against this token on this connection now.
    fn check(&mut self, token: Verified, policy: &Policy, context: &Context<'_>) -> Option<Reason> {
        if self.expired {
            return Some(Reason::ExpiredProviderToken);
        }
        if let Some(reason) = token.age(context.now.wall, policy.clock_skew_seconds) {
            self.expired = policy.expired_sticks && reason == Reason::ExpiredProviderToken;
            return Some(reason);
        }
        let Some(current) = self.current else {
            self.current = Some(token);
            return None;
        };
        if current.id == token.id {
            return None;
        }
        // The first push ties the connection to its team (Apple: "Establishing a token-based connection to APNs").
        if policy.keys[current.key].team_id != policy.keys[token.key].team_id {
            return Some(Reason::InvalidProviderToken);
        }
        let soon = |at: Time| context.now.at.since(at).as_secs() < policy.token_update_seconds_min;
        if self.changed.is_some_and(soon) {
            return Some(Reason::TooManyProviderTokenUpdates);
        }
        self.changed = Some(context.now.at);
        self.current = Some(token);
        None
    }
}

impl Connection {
    pub(super) fn headers(&mut self, frame: Frame, payload: &[u8], context: &mut Context<'_>) -> Result<(), Code> {
        let mut block = frame::unpadded(frame, payload)?;
        if frame.stream.is_multiple_of(2) {
            return Err(Code::ProtocolError);
        }
        if frame.has(flag::PRIORITY) {
            block = block.get(5..).ok_or(Code::FrameSizeError)?;
        }
        let ends = frame.has(flag::END_STREAM);
        if frame.has(flag::END_HEADERS) {
            return self.header_block(frame.stream, ends, block, context);
        }
        self.block = Some((frame.stream, ends, block.to_vec()));
        Ok(())
    }

    pub(super) fn continuation(&mut self, frame: Frame, payload: &[u8], context: &mut Context<'_>) -> Result<(), Code> {
        // The caller has seen that a block is being assembled, and of this stream.
        let Some((stream, ends, mut block)) = self.block.take() else { return Err(Code::ProtocolError) };
        if block.len() + payload.len() > BLOCK_BYTES_MAX {
            return Err(Code::EnhanceYourCalm);
        }
        block.extend_from_slice(payload);
        if frame.has(flag::END_HEADERS) {
            return self.header_block(stream, ends, &block, context);
        }
        self.block = Some((stream, ends, block));
        Ok(())
    }

    pub(super) fn data(&mut self, frame: Frame, payload: &[u8], context: &mut Context<'_>) -> Result<(), Code> {
        if frame.stream == 0 || frame.stream > self.highest {
            return Err(Code::ProtocolError);
        }
        let length = u32::try_from(payload.len()).map_err(|_| Code::FrameSizeError)?;
        self.receive_window -= i64::from(length);
        if self.receive_window < 0 {
            return Err(Code::FlowControlError);
        }
        self.owed += length;
        let bytes = frame::unpadded(frame, payload)?;
        // Streams that were refused, reset or answered early may still send: their bytes are counted and dropped.
        let Some(at) = self.receiving.iter().rposition(|r| r.stream == frame.stream) else { return Ok(()) };
        let request = &mut self.receiving[at];
        let room = request.head.rest.payload_bytes_max - request.body.len();
        let ends = frame.has(flag::END_STREAM);
        if !ends && bytes.len() <= room {
            request.body.extend_from_slice(bytes);
            return Ok(());
        }
        let mut request = self.receiving.swap_remove(at);
        if request.body.is_empty() {
            self.complete(frame.stream, &request.head, bytes, ends, context);
        } else {
            request.body.extend_from_slice(bytes);
            self.complete(frame.stream, &request.head, &request.body, ends, context);
        }
        Ok(())
    }

    fn header_block(&mut self, stream: u32, ends: bool, block: &[u8], context: &mut Context<'_>) -> Result<(), Code> {
        if stream <= self.highest {
            // Trailers, or a stream that is over.
            let at =
                self.receiving.iter().position(|r| r.stream == stream).filter(|_| ends).ok_or(Code::StreamClosed)?;
            self.reader.skip(block).map_err(|_| Code::CompressionError)?;
            let request = self.receiving.swap_remove(at);
            self.complete(stream, &request.head, &request.body, true, context);
            return Ok(());
        }
        self.highest = stream;
        if self.last.is_some() {
            // Above the last stream of our GOAWAY: the client knows that it is not processed.
            return self.reader.skip(block).map_err(|_| Code::CompressionError);
        }
        let policy = context.policy;
        let read = self.reader.read(block, &policy.keys, &policy.topics).map_err(|_| Code::CompressionError)?;
        match self.limits.admit(self.open_streams()) {
            Admission::Admitted => {}
            Admission::Refused => {
                self.refuse(stream, &read, context);
                return Ok(());
            }
            Admission::Violation => {
                self.fail(Code::RefusedStream, TOO_MANY_STREAMS);
                return Ok(());
            }
        }
        match read {
            Read::Malformed => frame::rst_stream(&mut self.output, stream, Code::ProtocolError),
            Read::Request(head) if ends => self.complete(stream, &head, &[], true, context),
            Read::Request(head) => self.receiving.push(Receiving { stream, head, body: Vec::new() }),
        }
        Ok(())
    }

    /// A request came whole, or has become longer than anything that could be accepted: decides it.
    fn complete(&mut self, stream: u32, head: &Head, body: &[u8], whole: bool, context: &mut Context<'_>) {
        self.idle_frames = 0;
        self.requests += 1;
        let rest = &head.rest;
        if whole && rest.content_length.is_some_and(|n| n != body.len() as u64) {
            return frame::rst_stream(&mut self.output, stream, Code::ProtocolError);
        }
        if context.plan.faults.refuse_ppm > 0 && context.plan.refuses(self.random.next_u64()) {
            let entry = Entry { flags: record::flag::UNPROCESSED, ..self.entry(head, context) };
            context.log.push(entry);
            return frame::rst_stream(&mut self.output, stream, Code::RefusedStream);
        }
        let (answer, accepted) = self.decide(head, body, context);
        let handle = context.log.push(Entry {
            status: answer.status,
            reason: answer.reason as u8,
            flags: if accepted { record::flag::ACCEPTED } else { 0 },
            ..self.entry(head, context)
        });
        let apns_id = rest.apns_id.unwrap_or_else(|| mint(&mut self.random));
        let due = self.due(context);
        let pending = Pending { due, stream, answer, apns_id, handle, unfinished: !whole };
        if due <= context.now.at {
            self.write_answer(&pending, context);
        } else {
            self.waiting.push(pending);
        }
    }

    /// The answer, and whether the push reaches the phone.
    fn decide(&mut self, head: &Head, body: &[u8], context: &mut Context<'_>) -> (Answer, bool) {
        let token = match self.fault(head, body, context) {
            Ok(token) => token,
            Err(reason) => return (Answer::refused(reason), false),
        };
        // Faults count attempts from when they were set; the gateway's own scripts from its start.
        let faults = (&context.plan.scripts, context.plan.generation + 1);
        for (scripts, series) in [faults, (&context.policy.scripts, 0)] {
            let script = answer_for(token, scripts);
            if script == Script::Accept {
                continue;
            }
            let attempt = if script.counts_attempts() { context.attempts.next(token, series) } else { 0 };
            if let Some(scripted) = script.at(attempt) {
                return (scripted.answer(context.now.wall), scripted.delivered);
            }
        }
        if !context.plan.faults.errors.is_empty()
            && let Some(error) = context.plan.error(self.random.next_u64(), context.now.at)
        {
            return (Answer::refused(error.reason), error.delivered);
        }
        (Answer::ACCEPTED, true)
    }

    /// What is wrong with a request, in the gateway's order; otherwise its token.
    fn fault<'a>(&mut self, head: &'a Head, body: &[u8], context: &mut Context<'_>) -> Result<&'a [u8], Reason> {
        let rest = &head.rest;
        if let Some(reason) = rest.method_fault {
            return Err(reason);
        }
        if head.path == Path::Bad {
            return Err(Reason::BadPath);
        }
        if let Some(reason) = self.auth.check(rest.authorization?, context.policy, context) {
            return Err(reason);
        }
        if let Some(reason) = rest.header_fault {
            return Err(reason);
        }
        let token = match &head.path {
            Path::Device(token) => token.as_bytes(),
            Path::BadToken(reason) => return Err(*reason),
            Path::Bad => return Err(Reason::BadPath),
        };
        if body.is_empty() {
            return Err(Reason::PayloadEmpty);
        }
        if body.len() > rest.payload_bytes_max {
            return Err(Reason::PayloadTooLarge);
        }
        if !self.is_object(body) {
            // Apple documents no reason for this; PayloadEmpty is what people report.
            context.log.totals.payload_not_json += 1;
            return Err(Reason::PayloadEmpty);
        }
        Ok(token)
    }

    fn is_object(&mut self, body: &[u8]) -> bool {
        if let Some(at) = self.bodies.iter().position(|known| **known == *body) {
            self.bodies.swap(0, at);
            return true;
        }
        if !is_json_object(body) {
            return false;
        }
        self.bodies.truncate(BODIES_MAX - 1);
        self.bodies.insert(0, body.into());
        true
    }

    /// When the answer is to be written.
    fn due(&mut self, context: &Context<'_>) -> Time {
        let (plan, now) = (context.plan, context.now.at);
        if plan.is_instant() {
            return now;
        }
        match plan.silent(now) {
            Some(Silence::DropAnswers) => return Time::NEVER,
            Some(Silence::HoldAnswers) => return Pending::HELD,
            Some(Silence::StopReading) | None => {}
        }
        let random = self.random.next_u64().to_le_bytes()[0];
        let due = now + plan.latency(random, now);
        let due = plan.pace_ns(now).map_or(due, |interval| due.max(context.pace.place(now, interval)));
        // Answers of one millisecond leave together: a write of one answer costs as much as one of hundreds.
        if due <= now { due } else { Time(due.0.next_multiple_of(TICK_US)) }
    }

    /// Writes an answer: its headers now, its body as soon as the client's window allows.
    pub(super) fn write_answer(&mut self, pending: &Pending, context: &mut Context<'_>) {
        let &Pending { stream, answer, handle, .. } = pending;
        let unique_id = context.policy.sandbox.then(|| mint(&mut self.random));
        let (out, encoder) = (&mut self.output, &mut self.encoder);
        let body = answer::put_headers(out, encoder, stream, &answer, &pending.apns_id, unique_id.as_ref());
        if body.is_empty() {
            self.stream_windows.remove(&stream);
            self.written.push(stream, handle, self.position());
        } else {
            self.blocked.push(Blocked { stream, body, handle, unfinished: pending.unfinished });
            self.write_blocked();
        }
        let limit = match answer.status {
            200 => self.limits.succeeded(),
            // Apple counts neither dead tokens nor a device's own flood as errors of the provider.
            400..=499 if context.policy.one_stream_after_reject && !matches!(answer.status, 410 | 429) => {
                self.limits.rejected()
            }
            _ => None,
        };
        self.announce(limit);
    }

    /// Writes the bodies that fit the client's windows, in order.
    pub(super) fn write_blocked(&mut self) {
        let mut at = 0;
        while let Some(blocked) = self.blocked.get(at) {
            let length = i64::try_from(blocked.body.len()).unwrap_or(i64::MAX);
            let window = self.stream_windows.get(&blocked.stream).copied().unwrap_or(self.stream_send_window);
            if length > self.send_window {
                return;
            }
            if length > window {
                at += 1;
                continue;
            }
            let Blocked { stream, body, handle, unfinished } = self.blocked.remove(at);
            self.send_window -= length;
            self.stream_windows.remove(&stream);
            answer::put_body(&mut self.output, stream, &body);
            if unfinished {
                // The client need not send the rest of its request (RFC 9113, section 8.1).
                frame::rst_stream(&mut self.output, stream, Code::NoError);
            }
            self.written.push(stream, handle, self.position());
        }
    }

    /// Over a limit that the client may not know yet: not processed.
    fn refuse(&mut self, stream: u32, read: &Read, context: &mut Context<'_>) {
        if let Read::Request(head) = read {
            let entry = Entry { flags: record::flag::UNPROCESSED, ..self.entry(head, context) };
            context.log.push(entry);
        }
        frame::rst_stream(&mut self.output, stream, Code::RefusedStream);
    }

    fn entry(&self, head: &Head, context: &Context<'_>) -> Entry {
        let token_hash = match &head.path {
            Path::Device(token) => token_hash(token.as_bytes()),
            Path::Bad | Path::BadToken(_) => 0,
        };
        Entry {
            time_us: context.now.at.0,
            token_hash,
            collapse_hash: head.rest.collapse_hash,
            connection: self.number,
            ..Entry::default()
        }
    }
}

/// A random UUID, version 4.
fn mint(random: &mut impl rand::Rng) -> Uuid {
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&random.next_u64().to_le_bytes());
    uuid[8..].copy_from_slice(&random.next_u64().to_le_bytes());
    uuid[6] = 0x40 | uuid[6] & 0x0f;
    uuid[8] = 0x80 | uuid[8] & 0x3f;
    uuid
}
