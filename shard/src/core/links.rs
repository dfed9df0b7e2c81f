//! The connections of all lanes of a core: opened for pending work, kept, replaced; and the events
//! of their sockets.

use std::time::Duration;

use clarion_proto::time::Time;
use rand::Rng;

use super::{
    Core, IoRequest, SHUTDOWN_PATIENCE,
    link::{ConnectionId, Link, State},
};
use crate::{
    lane::{
        Mute,
        connection::{Connection, ConnectionConfig},
        pool::{AGE_MAX, LATE_AFTER},
    },
    outcome::Platform,
};

/// Longest idle time of a connection without PINGs: less than the 4 to 6 minutes after which NATs
/// forget it, when a request on it would wait for its whole deadline.
const IDLE_MAX: Duration = Duration::from_mins(3);

/// A place for a connection.
#[derive(Debug, Default)]
pub(crate) struct LinkSlot {
    pub(crate) link: Option<Link>,
    generation: u32,
}

/// Reason for the end of a connection, as a driver saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disconnect {
    /// The connection was never established: no address, connection refused, certificate or ALPN.
    NotConnected,
    /// The peer closed the connection gracefully.
    Closed,
    /// The connection broke: reset, or an error while reading or writing.
    Broken,
}

impl Core {
    /// Records that TCP and TLS are established.
    pub fn connected(&mut self, id: ConnectionId, now: Time) {
        let Some(link) = self.link_of(id) else { return };
        if link.is_open() {
            return;
        }
        let lane = link.lane;
        let end = &self.lanes[lane].end;
        let Some((authorization, number)) = end.trust.best(now) else {
            self.close_link(id.slot, false);
            return;
        };
        let spec = &end.spec;
        // Silence while requests are in flight is noticed within one request's deadline. An idle
        // connection gets a PING once a minute, well within the 4 to 6 minutes after which NATs
        // forget it. But FCM takes PINGs for an attack at any interval (pigeon#81, #92: GOAWAY
        // `too_many_pings`): there requests have their deadlines, and an idle connection is closed
        // before a NAT forgets it.
        let (ping_after, idle_max) = match spec.platform {
            Platform::Apns => (
                Some(spec.request_deadline.clamp(Duration::from_secs(1), Duration::from_mins(1))),
                None,
            ),
            Platform::Fcm => (None, Some(IDLE_MAX)),
        };
        let config = ConnectionConfig {
            platform: spec.platform,
            authority: spec.server_name.clone(),
            streams_max: spec.streams_per_connection,
            request_deadline: spec.request_deadline,
            authorization_indexed: spec.authorization_indexed,
            ping_after,
            ping_deadline: spec.request_deadline,
            drain_deadline: spec.request_deadline,
            ..ConnectionConfig::default()
        };
        let patience = spec.request_deadline;
        let connection = Connection::new(config, authorization.clone(), now);
        if let Some(link) = self.link_of(id) {
            link.state = State::Open(Box::new(connection));
            (link.opened, link.idle_max) = (now, idle_max);
            (link.credential, link.patience) = (number, patience);
            self.lanes[lane].end.cannot_connect(String::new());
        }
    }

    /// Records the step that a connection attempt has reached, as the reason to report if the step
    /// takes too long; `None`: the gateway's own handshakes.
    pub fn waits_for(&mut self, id: ConnectionId, slow_step: Option<String>) {
        if let Some(link) = self.link_of(id) {
            link.slow_step = slow_step;
        }
    }

    /// Records that a connection could not be established, with the reason as text for people.
    pub fn not_connected(&mut self, id: ConnectionId, why: String, now: Time) {
        if let Some(lane) = self.link_of(id).map(|link| link.lane) {
            self.lanes[lane].end.cannot_connect(why);
            self.disconnected(id, Disconnect::NotConnected, now);
        }
    }

    /// Removes a connection that does not exist any more.
    pub fn disconnected(&mut self, id: ConnectionId, why: Disconnect, now: Time) {
        let Some(link) = self.link_of(id) else { return };
        let lane = link.lane;
        // A connection that was told to leave or closes gracefully has not failed.
        if !link.leaving || why == Disconnect::NotConnected {
            self.lanes[lane].end.pool.failed(now, &mut self.rng);
        }
        self.drop_link(id.slot, now);
    }

    /// Handles bytes received on a connection.
    pub fn receive(&mut self, id: ConnectionId, bytes: &[u8], now: Time) {
        let Some(link) = self.link_of(id) else { return };
        let lane = link.lane;
        let Some(connection) = link.connection() else { return };
        // The error is handled with the close of the connection, which `settle` reports.
        if let Err(error) = connection.receive(bytes, now) {
            let end = &mut self.lanes[lane].end;
            if let Some(times) = end.times_to_log(&error.to_string(), now) {
                let lane = &end.spec.name;
                tracing::warn!(
                    lane, %error, times,
                    "connection closed: gateway violated the protocol"
                );
            }
        }
        self.settle(id.slot, now);
    }

    /// Appends the bytes to write. The socket must have taken all bytes before, and the driver must
    /// call [`Core::written`] afterwards.
    pub fn transmit(&mut self, id: ConnectionId, out: &mut Vec<u8>, now: Time) {
        if let Some(connection) = self.link_of(id).and_then(Link::connection) {
            connection.transmit(out, now);
        }
    }

    /// Takes back a buffer that [`Core::transmit`] filled and the socket has emptied.
    pub fn give_back(&mut self, buffer: Vec<u8>) {
        self.buffers.take_back(buffer);
    }

    /// Records that the socket has taken `bytes` more (as the driver counts them). `drained` means
    /// that it has taken all.
    pub fn written(&mut self, id: ConnectionId, bytes: usize, drained: bool, now: Time) {
        let Some(link) = self
            .links
            .get_mut(id.slot as usize)
            .and_then(|s| s.link.as_mut())
            .filter(|l| l.id == id)
        else {
            return;
        };
        link.drained = drained;
        if bytes > 0 {
            link.last_write = Some(now);
        }
        for (wave, requests) in &link.unsent {
            let Some(run) = self.waves[usize::from(*wave)].as_mut() else { continue };
            if bytes > 0 {
                run.last_write = Some(now);
            }
            if drained {
                run.unsent -= 1;
                if let Some(cancel) = &mut run.cancel {
                    cancel.written_after += requests;
                }
                run.reporting.change();
            }
        }
        if drained {
            link.unsent.clear();
            link.reset_at = None;
            if !link.unsent_of_guests.is_empty() {
                self.report_written(id.slot, true);
            }
        }
    }

    /// Returns the next request to the driver, if there is one. The driver calls it after
    /// [`Core::transmit`], so that the last output of a connection is written before it is closed.
    pub fn poll_io(&mut self) -> Option<IoRequest> {
        let request = self.io.pop_front()?;
        if let IoRequest::Close { connection, .. } = &request
            && self.link_of(*connection).is_some()
        {
            self.drop_link(connection.slot, self.now);
        }
        Some(request)
    }

    /// Returns the established connection in a slot.
    pub(super) fn connection(&mut self, slot: u32) -> Option<&mut Connection> {
        self.links.get_mut(slot as usize)?.link.as_mut()?.connection()
    }

    fn link_of(&mut self, id: ConnectionId) -> Option<&mut Link> {
        self.links.get_mut(id.slot as usize)?.link.as_mut().filter(|link| link.id == id)
    }

    /// Handles the deadlines of connections, and opens new ones where they are wanted.
    pub(super) fn tend_links(&mut self, now: Time) {
        for slot in 0..self.links.len() {
            let Some(link) = self.links[slot].link.as_mut() else { continue };
            let id = link.id;
            if link.reset_at.is_some_and(|at| now >= at) {
                link.leaving = true;
                self.close_link(id.slot, true);
                self.drop_link(id.slot, now);
                continue;
            }
            if !link.late && now >= link.late_at && matches!(link.state, State::Connecting(_)) {
                link.late = true;
                let why = link.too_long();
                let end = &mut self.lanes[link.lane].end;
                end.pool.failed(now, &mut self.rng);
                end.cannot_connect(why);
            }
            let idled = link.idle_at().is_some_and(|at| now >= at);
            let retire = !link.leaving && now >= link.retire_at || idled;
            if idled {
                self.lanes[link.lane].end.rest();
            }
            match &mut link.state {
                State::Connecting(deadline) if now >= *deadline => {
                    let why = link.too_long();
                    self.close_link(id.slot, true);
                    self.not_connected(id, why, now);
                }
                State::Connecting(_) | State::Remote(_) => {}
                State::Open(connection) => {
                    if connection.deadline().is_some_and(|at| now >= at) {
                        connection.expire(now);
                    }
                    if retire {
                        self.retire(id.slot);
                    }
                    self.give_up_if_stuck(id.slot, now);
                    self.settle(id.slot, now);
                }
            }
        }
        for lane in 0..self.lanes.len() {
            self.tend_remote(lane);
            self.tend_tokens(lane, now);
            self.retire_surplus(lane);
            let busy = self.is_busy(lane);
            while self.wants_links(lane) && self.lanes[lane].end.pool.ready_at(busy) <= now {
                self.open_link(lane, now);
            }
        }
    }

    /// Reports whether a lane should have more connections: one as soon as it may connect, so that
    /// the first push of an alert finds it established; none after its last one was idle for too
    /// long; all while a wave uses it.
    pub(super) fn wants_links(&self, lane: usize) -> bool {
        let slot = &self.lanes[lane];
        if self.shutdown.is_some() || !slot.end.may_connect(self.now) {
            return false;
        }
        let staying = slot
            .links
            .iter()
            .filter(|l| self.links[**l as usize].link.as_ref().is_some_and(Link::stays));
        let wanted = match self.is_busy(lane) {
            true => slot.end.connections(),
            false => usize::from(!slot.end.rests()).min(slot.end.connections()),
        };
        // One connection is enough to test whether an expired token is still refused.
        staying.count() < if slot.end.trust.probed_at().is_some() { wanted.min(1) } else { wanted }
    }

    /// Reports whether pushes wait for a lane's connections, on this core or another one.
    pub(super) fn is_busy(&self, lane: usize) -> bool {
        let slot = &self.lanes[lane];
        self.lane_has_work(slot) || self.guests.want(slot.end.spec.id)
    }

    /// Closes the oldest surplus connections of a lane, which would be the next to reach their age
    /// limit.
    fn retire_surplus(&mut self, lane: usize) {
        let Self { lanes, links, .. } = self;
        let staying = |slot: &u32| {
            let link = links[*slot as usize].link.as_ref().filter(|link| link.stays())?;
            Some((link.retire_at, *slot))
        };
        let mut staying: Vec<_> = lanes[lane].links.iter().filter_map(staying).collect();
        let surplus = staying.len().saturating_sub(lanes[lane].end.connections());
        if surplus > 0 {
            staying.sort_unstable();
            staying.truncate(surplus);
            staying.into_iter().for_each(|(_, slot)| self.retire(slot));
        }
    }

    fn open_link(&mut self, lane: usize, now: Time) {
        let id = self.free_link();
        let Self { lanes, rng, .. } = self;
        let end = &mut lanes[lane].end;
        end.pool.attempted(now, rng);
        end.wake();
        let spec = end.spec.clone();
        // Spread over a quarter of the age, so that connections opened together are not replaced
        // together.
        let spread = Duration::from_micros(
            self.rng.next_u64() % (u64::try_from(AGE_MAX.as_micros()).unwrap_or(1) / 4),
        );
        let (deadline, late_at) = (now + spec.connect_deadline, now + LATE_AFTER);
        self.put_link(Link::new(id, lane, deadline, late_at, now + AGE_MAX - spread));
        self.io.push_back(IoRequest::Connect { connection: id, lane: spec });
    }

    /// Returns a free slot for a link, with its new id.
    pub(super) fn free_link(&mut self) -> ConnectionId {
        let slot = self.links.iter().position(|slot| slot.link.is_none()).unwrap_or_else(|| {
            self.links.push(LinkSlot::default());
            self.links.len() - 1
        });
        let entry = &mut self.links[slot];
        entry.generation = entry.generation.wrapping_add(1);
        ConnectionId {
            slot: u32::try_from(slot).expect("few connections"),
            generation: entry.generation,
        }
    }

    pub(super) fn put_link(&mut self, link: Link) {
        let (slot, lane) = (link.id.slot, link.lane);
        self.links[slot as usize].link = Some(link);
        self.lanes[lane].links.push(slot);
    }

    /// Stops sending requests on a connection; its open ones may still be answered.
    pub(super) fn leave(&mut self, slot: u32) {
        if let Some(link) = self.links[slot as usize].link.as_mut() {
            link.leaving = true;
        }
    }

    /// Sends GOAWAY on a connection; it closes when its open requests have ended.
    ///
    /// A link to a host is unaffected: its connections belong to the host, which gets the same
    /// messages.
    pub(super) fn retire(&mut self, slot: u32) {
        if self.links[slot as usize].link.as_ref().is_some_and(Link::is_remote) {
            return;
        }
        self.leave(slot);
        match self.connection(slot) {
            Some(connection) => connection.close(),
            None => self.close_link(slot, true),
        }
    }

    /// Sends GOAWAY on all connections of a lane.
    pub(super) fn retire_lane(&mut self, lane: usize) {
        for n in 0..self.lanes[lane].links.len() {
            self.retire(self.lanes[lane].links[n]);
        }
    }

    /// Requests that a socket is closed after the last output; the link is removed with the
    /// request.
    pub(super) fn close_link(&mut self, slot: u32, reset: bool) {
        if let Some(link) = self.links[slot as usize].link.as_mut()
            && !std::mem::replace(&mut link.closing, true)
        {
            self.io.push_back(IoRequest::Close { connection: link.id, reset });
        }
    }

    /// Removes a connection; its open requests continue elsewhere.
    fn drop_link(&mut self, slot: u32, now: Time) {
        if let Some(link) = self.links[slot as usize].link.as_mut() {
            link.leaving = true;
            link.closing = true;
        }
        if let Some(connection) = self.connection(slot) {
            connection.drop_all();
        }
        self.settle(slot, now);
        self.report_written(slot, false);
        let Some(link) = self.links[slot as usize].link.take() else { return };
        for (wave, _) in &link.unsent {
            if let Some(run) = self.waves[usize::from(*wave)].as_mut() {
                run.unsent -= 1;
                run.reporting.change();
            }
        }
        self.lanes[link.lane].links.retain(|l| *l != slot);
    }

    /// Replaces connections that proved to be useless.
    pub(super) fn drop_useless(&mut self, now: Time) {
        for slot in 0..self.links.len() {
            let Some(link) =
                self.links[slot].link.as_mut().filter(|link| link.useless && !link.leaving)
            else {
                continue;
            };
            let slot = link.id.slot;
            if let Some(obstacle) = link.connection().map(|connection| connection.obstacle()) {
                self.give_up(slot, Mute::Obstacle(obstacle), now);
            }
        }
    }

    /// Closes an established connection that takes no request for its whole patience. Another
    /// connection may serve the waiting pushes, and the trouble must be reported.
    fn give_up_if_stuck(&mut self, slot: u32, now: Time) {
        let Some(link) = self.links[slot as usize].link.as_mut().filter(|link| link.is_stuck(now))
        else {
            return;
        };
        let (lane, obstacle) =
            (link.lane, link.connection().map(|connection| connection.obstacle()));
        link.unstick();
        if let Some(obstacle) = obstacle.filter(|_| self.is_busy(lane)) {
            self.give_up(slot, Mute::Obstacle(obstacle), now);
        }
    }

    /// Closes and logs an established connection that serves no requests; the next attempt waits
    /// for its pause.
    pub(super) fn give_up(&mut self, slot: u32, why: Mute, now: Time) {
        let Some(link) = self.links[slot as usize].link.as_ref().filter(|link| !link.leaving)
        else {
            return;
        };
        let lane = link.lane;
        self.retire(slot);
        let Self { lanes, links, rng, .. } = self;
        let stands = |l: &u32| {
            links[*l as usize].link.as_ref().is_some_and(|link| link.stays() && link.is_open())
        };
        let alone = !lanes[lane].links.iter().any(stands);
        let end = &mut lanes[lane].end;
        end.pool.failed(now, rng);
        end.went_mute(why, alone, now);
        if let Some(times) = end.times_to_log(&why.to_string(), now) {
            let lane = &end.spec.name;
            tracing::warn!(lane, %why, times, "connection closed: it serves no requests");
        }
    }

    /// Closes all connections gracefully.
    pub(super) fn shut_down(&mut self, now: Time) {
        self.shutdown = Some(now + SHUTDOWN_PATIENCE);
        self.stop_save();
        for slot in 0..self.links.len() {
            if let Some(link) = &self.links[slot].link {
                let slot = link.id.slot;
                self.leave_host(slot);
                self.retire(slot);
            }
        }
    }
}
