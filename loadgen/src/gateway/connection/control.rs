//! Frames that are not requests, and what the gateway does of its own accord: SETTINGS, windows, PING, RST_STREAM, GOAWAY.

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

/// After a GOAWAY: how long answers under way may take before the connection is closed on them.
const DRAIN: Duration = Duration::from_secs(30);
/// Largest flow-control window (RFC 9113, section 6.9.1).
const WINDOW_MAX: i64 = (1 << 31) - 1;

impl Connection {
    /// Does what was ordered to happen once. [`Action::Reset`] is the driver's.
    pub fn act(&mut self, action: &Action, context: &mut Context<'_>) {
        match action {
            Action::Goaway { reason, two_step_ms, refuse_open, .. } => {
                let debug = match reason {
                    Some(reason) => format!(r#"{{"reason":"{}"}}"#, reason.as_str()).into_bytes(),
                    None if context.policy.fcm().is_some() => fcm::SESSION_TIMED_OUT.to_vec(),
                    None => Vec::new(),
                };
                self.goaway(debug, two_step_ms.map(Duration::from_millis), *refuse_open, context);
            }
            Action::StreamsMax { streams } => {
                let limit = self.limits.set_full(*streams);
                self.announce(limit);
            }
            Action::Reset { .. } => {}
        }
    }

    pub(super) fn settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Code> {
        if head.stream != 0 {
            return Err(Code::ProtocolError);
        }
        if head.has(flag::ACK) {
            // An acknowledgement of nothing is forgiven, as most servers do.
            self.limits.acknowledge();
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
                setting::MAX_FRAME_SIZE if !(16_384..1 << 24).contains(&value) => return Err(Code::ProtocolError),
                setting::INITIAL_WINDOW_SIZE => {
                    let value = i64::from(value);
                    if value > WINDOW_MAX {
                        return Err(Code::FlowControlError);
                    }
                    let change = value - self.stream_send_window;
                    self.stream_send_window = value;
                    // RFC 9113, section 6.9.2: streams keep what they were given beyond the initial window.
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

    pub(super) fn window_update(&mut self, head: Head, payload: &[u8], context: &mut Context<'_>) -> Result<(), Code> {
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

    pub(super) fn rst_stream(&mut self, head: Head, payload: &[u8], context: &mut Context<'_>) -> Result<(), Code> {
        if payload.len() != 4 {
            return Err(Code::FrameSizeError);
        }
        if head.stream == 0 || head.stream > self.highest {
            return Err(Code::ProtocolError);
        }
        self.abandon(head.stream, context);
        Ok(())
    }

    pub(super) fn ping(&mut self, head: Head, payload: &[u8], context: &Context<'_>) -> Result<(), Code> {
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

    /// When a connection that nobody uses is ended.
    pub(super) fn idle_due(&self, policy: &Policy) -> Option<Time> {
        let idle = policy.fcm()?.session_idle?;
        let unused = self.open_streams() == 0 && self.drain_due.is_none() && self.end.is_none();
        self.active.filter(|_| unused).map(|active| active + idle)
    }

    /// Ends a connection that nobody used for long.
    pub(super) fn end_of_idleness(&mut self, context: &mut Context<'_>) {
        self.active.get_or_insert(context.now.at);
        if self.idle_due(context.policy).is_some_and(|due| due <= context.now.at) {
            self.goaway(fcm::SESSION_TIMED_OUT.to_vec(), None, false, context);
        }
    }

    /// Sends a stream limit, if it changed.
    pub(super) fn announce(&mut self, limit: Option<u32>) {
        if let Some(limit) = limit {
            frame::settings(&mut self.output, &[(setting::MAX_CONCURRENT_STREAMS, limit)]);
            if self.limits.is_ignored() {
                self.fail(Code::ProtocolError, b"");
            }
        }
    }

    fn goaway(&mut self, debug: Vec<u8>, two_step: Option<Duration>, refuse_open: bool, context: &mut Context<'_>) {
        if self.phase == Phase::Failed || self.drain_due.is_some() {
            return;
        }
        self.drain_due = Some(context.now.at + DRAIN);
        if let Some(step) = two_step {
            frame::goaway(&mut self.output, 0x7fff_ffff, Code::NoError, &debug);
            self.goaway_due = Some((context.now.at + step, debug));
            return;
        }
        if refuse_open {
            self.refuse_open(context);
        }
        let last = self.last.unwrap_or(self.highest);
        self.last = Some(last);
        frame::goaway(&mut self.output, last, Code::NoError, &debug);
    }

    /// Takes back all decisions whose answers wait, above the oldest stream of them.
    fn refuse_open(&mut self, context: &mut Context<'_>) {
        // The last stream that counts as processed is the one before the oldest that waits; whatever is older was answered,
        // and what is newer and answered already (latencies differ) keeps its answer: the client has it.
        let pending = self.waiting.take();
        if let Some(oldest) = pending.iter().map(|p| p.stream).min() {
            self.last = Some(oldest.saturating_sub(2));
        }
        for pending in pending {
            context.log.revoke(pending.handle);
        }
        self.receiving.clear();
    }

    /// The second half of a two-step GOAWAY, and the end of a drained connection.
    pub(super) fn advance_goaway(&mut self, context: &Context<'_>) {
        let now = context.now.at;
        if let Some((_, debug)) = self.goaway_due.take_if(|(due, _)| *due <= now) {
            self.last = Some(self.highest);
            frame::goaway(&mut self.output, self.highest, Code::NoError, &debug);
        }
        let drained = self.last.is_some() && self.open_streams() == 0;
        if self.end.is_none() && (drained || self.drain_due.is_some_and(|due| due <= now)) {
            self.end = Some(End::Drained);
            self.drain_due = None;
        }
    }

    /// Slowness or silence has ended: what waits in its line waits no longer than usual.
    pub(super) fn end_of_slowness(&mut self, context: &mut Context<'_>) {
        let (plan, now) = (context.plan, context.now.at);
        let (slow, held) = (plan.slow(now).is_some(), plan.silent(now) == Some(Silence::HoldAnswers));
        if !held && (self.was_held || self.was_slow && !slow) {
            self.waiting.hasten(now + plan.latency(128, now));
        }
        (self.was_slow, self.was_held) = (slow || self.was_slow && held, held);
    }

    /// A stream ends without its answer.
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
