//! Messages to coordinators: which message is due to which session, and its content.
//!
//! Messages are *pulled* by a session that has room for one: messages that are not pulled are
//! merged, not queued. Every session is asked for by itself, so a coordinator that reads slowly
//! delays no other.

use clarion_proto::{
    ids::{CoordinatorId, WaveId},
    time::Time,
    wire::shard_v1::{self as wire, session_response::Message as Wire},
};

use super::{
    Control,
    message::{About, Cause},
    registry,
    session::Farewell,
};

impl Control {
    /// Time at which a message can be pulled for a coordinator; [`Time::default`]: at once. `None`:
    /// it has no session, or there is no news.
    #[must_use]
    pub fn message_due(&self, to: CoordinatorId, now: Time) -> Option<Time> {
        let session = self.sessions.get(&to)?;
        let at_once = !session.greeted
            || !session.refusals.is_empty()
            || !session.stopped_unknown.is_empty()
            || session.lanes_wanted
            || self.waves.is_stopped_due(to)
            || self.counts.is_due(to)
            || self.lanes.is_due(&session.lanes);
        if at_once {
            return Some(Time::default());
        }
        let ask = self.asks(to, now).then(|| session.leases.due());
        let farewell = (session.farewell == Farewell::Due).then(Time::default);
        let due = [
            ask,
            self.waves.report_due(to),
            self.lanes.load_due(&session.lanes),
            self.registry.due(&session.registry),
        ];
        due.into_iter().flatten().min().or(farewell)
    }

    /// The most urgent message that is due to a coordinator.
    pub fn next_message(&mut self, to: CoordinatorId, now: Time) -> Option<wire::SessionResponse> {
        if self.message_due(to, now)? > now {
            return None;
        }
        let message = self.urgent(to, now).or_else(|| self.regular(to, now));
        message.map(|m| wire::SessionResponse { message: Some(m) })
    }

    fn urgent(&mut self, to: CoordinatorId, now: Time) -> Option<Wire> {
        if !std::mem::replace(&mut self.sessions.get_mut(&to)?.greeted, true) {
            return Some(Wire::Hello(self.hello()));
        }
        if let Some(refusal) = self.next_refusal(to) {
            return Some(Wire::Refusal(refusal));
        }
        let session = self.sessions.get_mut(&to)?;
        let unknown = session.stopped_unknown.pop_first().map(never_written);
        if let Some(stopped) = unknown.or_else(|| self.waves.take_stopped(to, now)) {
            return Some(Wire::Stopped(stopped));
        }
        if let Some(counted) = self.counts.take(to) {
            return Some(Wire::Counted(counted));
        }
        if std::mem::take(&mut session.lanes_wanted) {
            return Some(Wire::LanesWanted(wire::LanesWanted {}));
        }
        self.lanes.take_state(&mut session.lanes, now).map(Wire::LaneState)
    }

    fn regular(&mut self, to: CoordinatorId, now: Time) -> Option<Wire> {
        let asks = self.asks(to, now);
        let session = self.sessions.get_mut(&to)?;
        if asks && session.leases.due() <= now {
            return self.ask(to, now).map(Wire::LeaseRequest);
        }
        if let Some(report) = self.waves.take_report(to, now) {
            return Some(Wire::Report(report));
        }
        if let Some(load) = self.lanes.take_load(&mut session.lanes, now) {
            return Some(Wire::LaneLoad(load));
        }
        match self.registry.due(&session.registry) {
            Some(due) if due > now => None,
            Some(_) => {
                let rss_bytes = (self.rss_bytes)();
                session.registry = self.registry.told(now);
                let state = self.registry.state(self.assignment.as_ref(), rss_bytes);
                Some(Wire::RegistryState(state))
            }
            None => self.farewell(to),
        }
    }

    /// After everything else: nothing is due to this session any more.
    fn farewell(&mut self, to: CoordinatorId) -> Option<Wire> {
        let session = self.sessions.get_mut(&to)?;
        if session.farewell != Farewell::Due {
            return None;
        }
        session.farewell = Farewell::Told;
        Some(Wire::Leaving(wire::Leaving {}))
    }

    fn hello(&self) -> wire::Hello {
        wire::Hello {
            node: self.identity.node.clone(),
            boot_id: self.identity.boot.0.to_vec(),
            version: self.identity.version.to_owned(),
            cores: u32::try_from(self.identity.cores).unwrap_or(u32::MAX),
            positions: registry::to_wire(&self.registry.positions(self.assignment.as_ref())),
            cluster: self.identity.cluster.to_string(),
            log_identity: self.owned().map(|o| o.log.to_wire()).unwrap_or_default(),
        }
    }

    fn next_refusal(&mut self, to: CoordinatorId) -> Option<wire::Refusal> {
        let (rejected, reason) = self.sessions.get_mut(&to)?.refusals.pop()?;
        let ownership = self.owned().map_or(0, |o| o.number);
        let (wave, count, epoch) = match rejected.about {
            About::Other => (0, 0, 0),
            About::Wave(wave) => (wave.0, 0, self.waves.epoch(wave).0),
            About::Count(id) => (0, id, 0),
        };
        let cause = match rejected.cause {
            Cause::Message => wire::RefusalCause::Message,
            Cause::Room => wire::RefusalCause::Room,
            Cause::Superseded => wire::RefusalCause::Superseded,
            Cause::Draining => wire::RefusalCause::Draining,
        };
        Some(wire::Refusal { ownership, wave, reason, count, cause: cause.into(), epoch })
    }

    /// Whether there is anything to ask a coordinator for: grants for the waves that it directs,
    /// slices if it directs the lanes.
    fn asks(&self, of: CoordinatorId, now: Time) -> bool {
        let lanes = self.direction.is_director(of) && !self.lanes.is_empty();
        !self.draining && (lanes || self.waves.active(of, now).next().is_some())
    }

    fn ask(&mut self, of: CoordinatorId, now: Time) -> Option<wire::LeaseRequest> {
        let waves = self.waves.active(of, now).map(|w| w.0).collect();
        let lanes = match self.direction.is_director(of) {
            true => self.lanes.ids().map(|l| l.0).collect(),
            false => Vec::new(),
        };
        self.nonce += 1;
        self.sessions.get_mut(&of)?.leases.ask(self.nonce, now);
        Some(wire::LeaseRequest { nonce: self.nonce, waves, lanes })
    }
}

/// The answer to a cancel of a wave of which this node never wrote anything.
pub(super) fn never_written(wave: WaveId) -> wire::Stopped {
    wire::Stopped { wave: wave.0, last_write_ago_us: None, written_after_cancel: 0 }
}
