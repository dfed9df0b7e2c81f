//! Requests from the first HEADERS frame to the writing of the response.

use clarion_proto::{device::token_hash, time::Time};
use rand::Rng as _;

use super::{
    super::{
        answer::{Reason, put_body, put_cut_head, put_proxy_page},
        apns::{self, answer::Uuid, request::Path},
        faults::Silence,
        fcm,
        frame::{self, Code, Head as Frame, flag},
        head::{Ask, Head, Read},
        policy::Provider,
        record::{self, Entry},
        script::Fate,
    },
    BLOCK_BYTES_MAX, Connection, Context, End,
    answers::{Blocked, Pending, Subject},
    limits::Admission,
};

/// A request whose body is incomplete.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) stream: u32,
    head: Head,
    /// Body so far, at most as long as the longest payload.
    body: Vec<u8>,
    /// Received bytes of DATA, and the bytes for which the client got credit.
    pub(super) received: u64,
    pub(super) credited: u64,
}

impl Connection {
    pub(super) fn headers(
        &mut self,
        frame: Frame,
        payload: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), Code> {
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

    pub(super) fn continuation(
        &mut self,
        frame: Frame,
        payload: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), Code> {
        // The caller has checked that a block of this stream is being assembled.
        let Some((stream, ends, mut block)) = self.block.take() else {
            return Err(Code::ProtocolError);
        };
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

    pub(super) fn data(
        &mut self,
        frame: Frame,
        payload: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), Code> {
        if frame.stream == 0 || frame.stream > self.highest {
            return Err(Code::ProtocolError);
        }
        let length = u32::try_from(payload.len()).map_err(|_| Code::FrameSizeError)?;
        self.receive_window -= i64::from(length);
        if self.receive_window < 0 {
            return Err(Code::FlowControlError);
        }
        self.uncredited += length;
        let window = u64::from(self.limits.window_believed());
        let bytes = frame::unpadded(frame, payload)?;
        // Streams that were refused, reset or answered early may still send: their bytes are
        // counted and dropped.
        let Some(at) = self.receiving.iter().rposition(|r| r.stream == frame.stream) else {
            return Ok(());
        };
        let request = &mut self.receiving[at];
        request.received += u64::from(length);
        if request.received > window + request.credited {
            // RFC 9113, section 6.9 allows an error of the stream or of the connection; no correct
            // client does this.
            return Err(Code::FlowControlError);
        }
        let room = request.head.body_bytes_max - request.body.len();
        let ends = frame.has(flag::END_STREAM);
        if !ends && bytes.len() <= room {
            request.body.extend_from_slice(bytes);
            self.credit_stream(at, context);
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

    fn header_block(
        &mut self,
        stream: u32,
        ends: bool,
        block: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), Code> {
        if stream <= self.highest {
            // Trailers, or a block on a stream that has ended.
            let at = self
                .receiving
                .iter()
                .position(|r| r.stream == stream)
                .filter(|_| ends)
                .ok_or(Code::StreamClosed)?;
            self.reader.skip(block).map_err(|_| Code::CompressionError)?;
            let request = self.receiving.swap_remove(at);
            self.complete(stream, &request.head, &request.body, true, context);
            return Ok(());
        }
        self.highest = stream;
        if self.last.is_some() {
            // The stream is above the last stream of our GOAWAY, so the client knows that it is not
            // processed.
            return self.reader.skip(block).map_err(|_| Code::CompressionError);
        }
        let policy = context.policy;
        let read = self.reader.read(block, policy).map_err(|_| Code::CompressionError)?;
        match self.limits.admit(self.open_streams()) {
            Admission::Admitted => {}
            Admission::Refused => {
                self.refuse(stream, &read, context);
                return Ok(());
            }
            Admission::Violation => {
                let (code, words) = policy.too_many_streams();
                self.fail(code, words);
                return Ok(());
            }
        }
        match read {
            Read::Malformed => frame::rst_stream(&mut self.output, stream, Code::ProtocolError),
            Read::Request(head) if ends => self.complete(stream, &head, &[], true, context),
            Read::Request(head) => {
                self.receiving.push(Receiving {
                    stream,
                    head,
                    body: Vec::new(),
                    received: 0,
                    credited: 0,
                });
            }
        }
        Ok(())
    }

    /// Decides a request that is complete, or longer than any request that could be accepted.
    fn complete(
        &mut self,
        stream: u32,
        head: &Head,
        body: &[u8],
        whole: bool,
        context: &mut Context<'_>,
    ) {
        self.idle_frames = 0;
        self.requests += 1;
        if whole && head.content_length.is_some_and(|n| n != body.len() as u64) {
            return frame::rst_stream(&mut self.output, stream, Code::ProtocolError);
        }
        let decision = self.decide(head, body, context);
        if decision.fate == Fate::Refuse {
            context.log.push(Entry {
                time_us: decision.at.0,
                token_hash: decision.token_hash,
                collapse_hash: decision.collapse_hash,
                connection: self.number,
                flags: record::flag::UNPROCESSED,
                ..Entry::default()
            });
            return frame::rst_stream(&mut self.output, stream, Code::RefusedStream);
        }
        let handle = context.log.push(Entry {
            time_us: decision.at.0,
            token_hash: decision.token_hash,
            collapse_hash: decision.collapse_hash,
            connection: self.number,
            status: decision.answer.status,
            reason: decision.answer.reason as u8,
            flags: decision.flags,
        });
        let due = if decision.fate == Fate::Stall { Time::NEVER } else { self.due(context) };
        // A client may stop sending a request that is answered early (RFC 9113, section 8.1).
        let reset =
            matches!(decision.fate, Fate::Reset | Fate::HeadThenReset | Fate::HeadThenClose);
        let fate = if whole || reset { decision.fate } else { Fate::AnswerThenReset };
        let pending = Pending {
            due,
            stream,
            answer: decision.answer,
            subject: decision.subject,
            handle,
            fate,
        };
        if due <= context.now.at {
            self.write_answer(&pending, context);
        } else {
            self.waiting.push(pending);
        }
    }

    /// Returns the time at which the answer is written.
    fn due(&mut self, context: &Context<'_>) -> Time {
        let (plan, now) = (context.plan, context.now.at);
        if plan.is_instant() {
            return now;
        }
        match plan.silent(self.number, now) {
            Some(Silence::DropAnswers) => return Time::NEVER,
            Some(Silence::HoldAnswers) => return Pending::HELD,
            Some(Silence::StopReading) | None => {}
        }
        let random = self.random.next_u64().to_le_bytes()[0];
        let due = now + plan.latency(random, now);
        plan.pace_ns(now).map_or(due, |interval| due.max(context.pace.place(now, interval)))
    }

    /// Writes an answer: its headers now, its body as soon as the client's window allows.
    pub(super) fn write_answer(&mut self, pending: &Pending, context: &mut Context<'_>) {
        let &Pending { stream, ref answer, handle, fate, .. } = pending;
        if fate == Fate::Reset {
            self.stream_windows.remove(&stream);
            self.active = Some(context.now.at);
            return frame::rst_stream(&mut self.output, stream, Code::InternalError);
        }
        if fate.is_cut() {
            return self.write_cut(stream, answer.status, fate, context);
        }
        let then_reset = fate == Fate::AnswerThenReset;
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        let unique_id = context.policy.apns().filter(|p| p.sandbox).map(|_| mint(&mut self.random));
        let (out, encoder) = (&mut self.output, &mut self.encoder);
        match (&pending.subject, &context.policy.provider) {
            _ if answer.reason == Reason::Page => {
                put_proxy_page(out, encoder, stream, answer.status, &mut body);
            }
            (Subject::Fcm(subject), Provider::Fcm(policy)) => {
                let reply = fcm::answer::Reply {
                    answer,
                    subject: *subject,
                    policy,
                    wall: context.now.wall,
                };
                fcm::answer::put(out, encoder, stream, &reply, &mut body);
            }
            (Subject::Apns(id), _) => {
                apns::answer::put(out, encoder, stream, answer, id, unique_id.as_ref(), &mut body);
            }
            (Subject::Fcm(_), Provider::Apns(_)) => {
                unreachable!("a decision is of its policy's provider")
            }
        }
        self.active = Some(context.now.at);
        if body.is_empty() {
            self.stream_windows.remove(&stream);
            self.finish(stream, handle, then_reset);
        } else if self.blocked.is_empty() && self.fits(stream, body.len()) {
            self.write_body(stream, &body, handle, then_reset);
        } else {
            self.blocked.push(Blocked { stream, body: body.clone(), handle, then_reset });
            self.write_blocked();
        }
        self.body = body;
        let limit = match answer.status {
            200 => self.limits.succeeded(),
            // Apple counts neither dead tokens nor too many pushes to one device as errors of the
            // provider.
            400..=499 if !matches!(answer.status, 410 | 429) => {
                let strict = context.policy.apns().is_some_and(|p| p.one_stream_after_reject);
                strict.then(|| self.limits.rejected()).flatten()
            }
            _ => None,
        };
        self.announce(limit);
    }

    /// Writes the head of an answer, and then resets the stream or ends the connection.
    fn write_cut(&mut self, stream: u32, status: u16, fate: Fate, context: &Context<'_>) {
        self.stream_windows.remove(&stream);
        self.active = Some(context.now.at);
        put_cut_head(&mut self.output, &mut self.encoder, stream, status);
        if fate == Fate::HeadThenReset {
            frame::rst_stream(&mut self.output, stream, Code::InternalError);
        } else {
            self.end.get_or_insert(End::Cut);
        }
    }

    /// Writes the waiting bodies that fit the client's windows, in order.
    pub(super) fn write_blocked(&mut self) {
        let mut at = 0;
        while let Some(blocked) = self.blocked.get(at) {
            if self.fits(blocked.stream, blocked.body.len()) {
                let Blocked { stream, body, handle, then_reset } = self.blocked.remove(at);
                self.write_body(stream, &body, handle, then_reset);
            } else {
                at += 1;
            }
        }
    }

    fn fits(&self, stream: u32, length: usize) -> bool {
        let window = self.stream_windows.get(&stream).copied().unwrap_or(self.stream_send_window);
        i64::try_from(length).is_ok_and(|length| length <= window.min(self.send_window))
    }

    fn write_body(&mut self, stream: u32, body: &[u8], handle: record::Handle, then_reset: bool) {
        self.send_window -= i64::try_from(body.len()).unwrap_or(i64::MAX);
        self.stream_windows.remove(&stream);
        put_body(&mut self.output, stream, body);
        self.finish(stream, handle, then_reset);
    }

    /// Records that the complete response is in the output.
    fn finish(&mut self, stream: u32, handle: record::Handle, then_reset: bool) {
        self.written.push(stream, handle, self.position());
        if then_reset {
            frame::rst_stream(&mut self.output, stream, Code::NoError);
        }
    }

    /// Refuses a stream as unprocessed because of a limit that the client may not have received
    /// yet.
    fn refuse(&mut self, stream: u32, read: &Read, context: &mut Context<'_>) {
        if let Read::Request(head) = read {
            let entry =
                Entry { flags: record::flag::UNPROCESSED, ..self.entry(head, &[], context) };
            if entry.token_hash == 0 {
                // FCM's tokens are in bodies, and this body is not awaited. An entry without a
                // token proves nothing, so only the total counts.
                context.log.totals.requests += 1;
                context.log.totals.unprocessed += 1;
            } else {
                context.log.push(entry);
            }
        }
        frame::rst_stream(&mut self.output, stream, Code::RefusedStream);
    }

    /// Creates the record entry of a request of which only the token is read.
    fn entry(&mut self, head: &Head, body: &[u8], context: &Context<'_>) -> Entry {
        let (token_hash, collapse_hash) = match &head.ask {
            Ask::Apns(ask) => match &ask.path {
                Path::Device(token) => (token_hash(token.as_bytes()), ask.rest.collapse_hash),
                Path::Bad | Path::BadToken(_) => (0, ask.rest.collapse_hash),
            },
            Ask::Fcm(_) if body.is_empty() => (0, 0),
            Ask::Fcm(_) => self.judge.hashes(body),
        };
        Entry {
            time_us: context.now.at.0,
            token_hash,
            collapse_hash,
            connection: self.number,
            ..Entry::default()
        }
    }
}

/// Returns a random UUID, version 4.
pub(super) fn mint(random: &mut impl rand::Rng) -> Uuid {
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&random.next_u64().to_le_bytes());
    uuid[8..].copy_from_slice(&random.next_u64().to_le_bytes());
    uuid[6] = 0x40 | uuid[6] & 0x0f;
    uuid[8] = 0x80 | uuid[8] & 0x3f;
    uuid
}
