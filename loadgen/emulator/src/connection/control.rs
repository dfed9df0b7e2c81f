//! Frames other than requests, and frames that the gateway sends on its own: SETTINGS, windows,
//! PING, RST_STREAM, GOAWAY.

use std::time::Duration;

use clarion_proto::time::Time;

use super::{
    super::{
        faults::{Action, Silence},
        fcm,
        frame::{self, Code, Head, flag, setting},
        policy::Policy,
        record,
    },
    Connection, Context, End, Phase,
};

/// Time after a GOAWAY at which the connection is closed even if answers are open.
const DRAIN: Duration = Duration::from_secs(30);
/// Largest flow-control window (RFC 9113, section 6.9.1).
const WINDOW_MAX: i64 = (1 << 31) - 1;

/// Content of a GOAWAY.
pub(super) struct Farewell {
    code: Code,
    debug: Vec<u8>,
    /// Whether waiting requests are refused as unprocessed, by a last stream id below theirs.
    refuse_open: bool,
}

impl Connection {
    /// Carries out an action on this connection. The driver carries out [`Action::Reset`].
    pub fn act(&mut self, action: &Action, context: &mut Context<'_>) {
        match action {
            Action::Goaway { reason, text, code, two_step_ms, refuse_open, .. } => {
                let debug = match (text, reason) {
                    (Some(text), _) => text.clone().into_bytes(),
                    (None, Some(reason)) => {
                        format!(r#"{{"reason":"{}"}}"#, reason.as_str()).into_bytes()
                    }
                    (None, None) if context.policy.fcm().is_some() => {
                        fcm::SESSION_TIMED_OUT.to_vec()
                    }
                    (None, None) => Vec::new(),
                };
                let farewell = Farewell { code: *code, debug, refuse_open: *refuse_open };
                self.goaway(farewell, two_step_ms.map(Duration::from_millis), context);
            }
            Action::StreamsMax { streams } => {
                let limit = self.limits.set_full(*streams);
                self.announce(limit);
            }
            Action::Settings { initial_window, header_table, header_list, unknown } => {
                self.change_settings(
                    *initial_window,
                    *header_table,
                    *header_list,
                    *unknown,
                    context,
                );
            }
            Action::Reset { .. } => {}
        }
    }

    fn change_settings(
        &mut self,
        window: Option<u32>,
        table: Option<u32>,
        list: Option<u32>,
        unknown: bool,
        context: &Context<'_>,
    ) {
        if self.phase == Phase::Failed {
            return;
        }
        let values = [
            window.map(|bytes| (setting::INITIAL_WINDOW_SIZE, bytes)),
            table.map(|bytes| (setting::HEADER_TABLE_SIZE, bytes)),
            list.map(|bytes| (setting::MAX_HEADER_LIST_SIZE, bytes)),
            unknown.then_some((setting::UNKNOWN, 0x7a7a_7a7a)),
        ];
        let values: Vec<_> = values.into_iter().flatten().collect();
        frame::settings(&mut self.output, &values);
        self.limits.set(window, table);
        // The client may use a larger table as soon as it has received the setting, and must use a
        // smaller one after it has acknowledged the setting.
        self.reader.limit_table(self.limits.table_believed());
        if self.limits.is_ignored() {
            return self.fail(Code::ProtocolError, b"");
        }
        // A client that has sent more than the smaller window allows may continue only with new
        // credit.
        for at in 0..self.receiving.len() {
            self.credit_stream(at, context);
        }
    }

    /// Returns credit for a stream, at once or delayed, if the client has less than half of its
    /// window left.
    pub(super) fn credit_stream(&mut self, at: usize, context: &Context<'_>) {
        let Some(request) = self.receiving.get_mut(at) else { return };
        let uncredited = request.received - request.credited;
        if uncredited > 0 && uncredited >= u64::from(self.limits.advertised().window / 2) {
            request.credited += uncredited;
            let (stream, bytes) = (request.stream, u32::try_from(uncredited).unwrap_or(u32::MAX));
            self.give_credit(stream, bytes, context);
        }
    }

    /// Sends credit for the connection (stream 0) or a stream: at once, or after the delay of a
    /// fault.
    pub(super) fn give_credit(&mut self, stream: u32, bytes: u32, context: &Context<'_>) {
        let now = context.now.at;
        let due = now + context.plan.credit_delay(now);
        if due > now {
            return self.credits.push_back((due, stream, bytes));
        }
        // Credits stay in order: no later credit overtakes an earlier one.
        self.write_credits(Time::NEVER);
        self.write_credit(stream, bytes);
    }

    /// Writes the delayed credits that are due.
    pub(super) fn write_credits(&mut self, now: Time) {
        while let Some((_, stream, bytes)) = self.credits.pop_front_if(|(due, ..)| *due <= now) {
            self.write_credit(stream, bytes);
        }
    }

    fn write_credit(&mut self, stream: u32, bytes: u32) {
        if stream == 0 {
            self.receive_window += i64::from(bytes);
        } else if !self.receiving.iter().any(|r| r.stream == stream) {
            // The request was complete or cancelled before its credit was due.
            return;
        }
        if self.phase != Phase::Failed {
            frame::window_update(&mut self.output, stream, bytes);
        }
    }

    pub(super) fn settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Code> {
        if head.stream != 0 {
            return Err(Code::ProtocolError);
        }
        if head.has(flag::ACK) {
            // An acknowledgement without open SETTINGS is ignored, as most servers do.
            self.limits.acknowledge();
            self.reader.limit_table(self.limits.table_believed());
            return if payload.is_empty() { Ok(()) } else { Err(Code::FrameSizeError) };
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Code::FrameSizeError);
        }
        for &[i, d, a, b, c, e] in settings {
            let value = u32::from_be_bytes([a, b, c, e]);
            match u16::from_be_bytes([i, d]) {
                setting::HEADER_TABLE_SIZE => self.encoder.set_table_size(value),
                setting::ENABLE_PUSH if value > 1 => return Err(Code::ProtocolError),
                setting::MAX_FRAME_SIZE if !(16_384..1 << 24).contains(&value) => {
                    return Err(Code::ProtocolError);
                }
                setting::INITIAL_WINDOW_SIZE => {
                    let value = i64::from(value);
                    if value > WINDOW_MAX {
                        return Err(Code::FlowControlError);
                    }
                    let change = value - self.stream_send_window;
                    self.stream_send_window = value;
                    // RFC 9113, section 6.9.2: a change of the initial window changes the window of
                    // every stream by the difference.
                    for window in self.stream_windows.values_mut() {
                        *window += change;
                        if *window > WINDOW_MAX {
                            return Err(Code::FlowControlError);
                        }
                    }
                }
                _ => {}
            }
        }
        frame::settings_ack(&mut self.output);
        self.write_blocked();
        Ok(())
    }

    pub(super) fn window_update(
        &mut self,
        head: Head,
        payload: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), Code> {
        let &[a, b, c, d] = payload else { return Err(Code::FrameSizeError) };
        let bytes = i64::from(u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff);
        if head.stream == 0 {
            self.send_window += bytes;
            if bytes == 0 || self.send_window > WINDOW_MAX {
                return Err(if bytes == 0 { Code::ProtocolError } else { Code::FlowControlError });
            }
        } else if head.stream > self.highest {
            return Err(Code::ProtocolError);
        } else if self.is_open(head.stream) {
            let window = self.stream_windows.entry(head.stream).or_insert(self.stream_send_window);
            *window += bytes;
            if bytes == 0 || *window > WINDOW_MAX {
                let code = if bytes == 0 { Code::ProtocolError } else { Code::FlowControlError };
                self.abandon(head.stream, context);
                frame::rst_stream(&mut self.output, head.stream, code);
            }
        }
        self.write_blocked();
        Ok(())
    }

    pub(super) fn rst_stream(
        &mut self,
        head: Head,
        payload: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), Code> {
        if payload.len() != 4 {
            return Err(Code::FrameSizeError);
        }
        if head.stream == 0 || head.stream > self.highest {
            return Err(Code::ProtocolError);
        }
        self.abandon(head.stream, context);
        Ok(())
    }

    pub(super) fn ping(
        &mut self,
        head: Head,
        payload: &[u8],
        context: &Context<'_>,
    ) -> Result<(), Code> {
        let opaque = payload.try_into().map_err(|_| Code::FrameSizeError)?;
        if head.stream != 0 {
            return Err(Code::ProtocolError);
        }
        if head.has(flag::ACK) {
            return Ok(());
        }
        self.pings += 1;
        if context.policy.fcm().is_some() && self.pings > fcm::PINGS_MAX {
            self.fail(Code::EnhanceYourCalm, fcm::TOO_MANY_PINGS);
            return Ok(());
        }
        frame::ping_ack(&mut self.output, opaque);
        Ok(())
    }

    /// Returns the time at which the idle connection is closed.
    pub(super) fn idle_due(&self, policy: &Policy) -> Option<Time> {
        let idle = policy.fcm()?.session_idle?;
        let unused = self.open_streams() == 0 && self.drain_due.is_none() && self.end.is_none();
        self.active.filter(|_| unused).map(|active| active + idle)
    }

    /// Closes a connection whose idle timeout has passed.
    pub(super) fn end_of_idleness(&mut self, context: &mut Context<'_>) {
        self.active.get_or_insert(context.now.at);
        if self.idle_due(context.policy).is_some_and(|due| due <= context.now.at) {
            let farewell = Farewell {
                code: Code::NoError,
                debug: fcm::SESSION_TIMED_OUT.to_vec(),
                refuse_open: false,
            };
            self.goaway(farewell, None, context);
        }
    }

    /// Sends a new stream limit; `None` means that the limit has not changed.
    pub(super) fn announce(&mut self, limit: Option<u32>) {
        if let Some(limit) = limit {
            frame::settings(&mut self.output, &[(setting::MAX_CONCURRENT_STREAMS, limit)]);
            if self.limits.is_ignored() {
                self.fail(Code::ProtocolError, b"");
            }
        }
    }

    fn goaway(
        &mut self,
        farewell: Farewell,
        two_step: Option<Duration>,
        context: &mut Context<'_>,
    ) {
        if self.phase == Phase::Failed || self.drain_due.is_some() {
            return;
        }
        self.drain_due = Some(context.now.at + DRAIN);
        if let Some(step) = two_step {
            frame::goaway(&mut self.output, 0x7fff_ffff, Code::NoError, &farewell.debug);
            self.goaway_due = Some((context.now.at + step, farewell));
            return;
        }
        self.end_with(&farewell, context);
    }

    /// Sends the GOAWAY that names the real last stream.
    fn end_with(&mut self, farewell: &Farewell, context: &mut Context<'_>) {
        if farewell.refuse_open {
            self.refuse_open(context);
        }
        let last = self.last.unwrap_or(self.highest);
        self.last = Some(last);
        frame::goaway(&mut self.output, last, farewell.code, &farewell.debug);
    }

    /// Revokes the decisions whose answers wait, from the oldest waiting stream on.
    fn refuse_open(&mut self, context: &mut Context<'_>) {
        // The last processed stream is the one before the oldest waiting one. Older streams were
        // answered. Newer streams that were answered already (latencies differ) keep their answers,
        // because the client has received them.
        let pending = self.waiting.take();
        if let Some(oldest) = pending.iter().map(|p| p.stream).min() {
            self.last = Some(oldest.saturating_sub(2));
        }
        for pending in pending {
            context.log.revoke(pending.handle);
        }
        self.receiving.clear();
    }

    /// Sends the second part of a two-step GOAWAY when it is due, and ends a drained connection.
    pub(super) fn advance_goaway(&mut self, context: &mut Context<'_>) {
        let now = context.now.at;
        if let Some((_, farewell)) = self.goaway_due.take_if(|(due, _)| *due <= now) {
            self.end_with(&farewell, context);
        }
        let drained = self.last.is_some() && self.open_streams() == 0;
        if self.end.is_none() && (drained || self.drain_due.is_some_and(|due| due <= now)) {
            self.end = Some(End::Drained);
            self.drain_due = None;
        }
    }

    /// Handles the end of slowness or silence: waiting answers then wait no longer than usual.
    pub(super) fn end_of_slowness(&mut self, context: &mut Context<'_>) {
        let (plan, now) = (context.plan, context.now.at);
        let (slow, held) =
            (plan.slow(now).is_some(), plan.silent(self.number, now) == Some(Silence::HoldAnswers));
        if !held && (self.was_held || self.was_slow && !slow) {
            self.waiting.hasten(now + plan.latency(128, now));
        }
        (self.was_slow, self.was_held) = (slow || self.was_slow && held, held);
    }

    /// Ends a stream without an answer.
    fn abandon(&mut self, stream: u32, context: &mut Context<'_>) {
        self.stream_windows.remove(&stream);
        if let Some(at) = self.receiving.iter().position(|r| r.stream == stream) {
            self.receiving.swap_remove(at);
        } else if let Some(pending) = self.waiting.remove(stream) {
            context.log.mark(pending.handle, record::flag::CANCELLED);
        } else if let Some(at) = self.blocked.iter().position(|b| b.stream == stream) {
            context.log.mark(self.blocked.swap_remove(at).handle, record::flag::CANCELLED);
        } else {
            self.written.cancelled(stream, context.log);
        }
    }

    fn is_open(&self, stream: u32) -> bool {
        self.receiving.iter().any(|r| r.stream == stream)
            || self.blocked.iter().any(|b| b.stream == stream)
            || self.waiting.contains(stream)
    }
}
