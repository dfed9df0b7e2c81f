//! Scheduling of one turn: which connection takes requests from which wave, and how many.
//!
//! A connection with room takes runs from the waves of its lane in turn, so that waves share a lane
//! by runs, however many devices each has.

use clarion_proto::{outcome::Outcome, time::Time};

use super::{
    Core, LaneSlot,
    buffers::Buffers,
    desk::{Desk, HEADER_BYTES},
    link::Link,
    links::LinkSlot,
    open::Opens,
    outlet::Steps,
    partitions::Partitions,
    run::WaveRun,
    tokens::Permits,
};
use crate::{
    lane::{LaneEnd, retry},
    partition::TokenBuffer,
};

/// Most devices of one wave before the next wave of the lane has its turn.
pub(super) const RUN: usize = 16;
/// Encoded bytes of one flush: two TLS records, where a write costs least per byte.
pub(super) const FLUSH_BYTES: usize = 32 * 1024;
/// Most requests of one lane in one turn. A lane with many connections (FCM's have 100 streams
/// each, so it needs dozens) could fill all of them before the few of another lane are written, and
/// so take ten times its part of the core, while both lanes are at their nearest phones at the same
/// time. The limit is half a millisecond of work, so a turn's own cost does not count.
const LANE_REQUESTS_PER_TURN: usize = 512;

impl Core {
    /// Sends all requests that may be sent on one lane now. Returns true if a request was sent.
    pub(super) fn pull(&mut self, lane: usize, now: Time, steps: &mut Steps) -> bool {
        let Self { lanes, links, waves, partitions, opens, buffers, token, config, .. } = self;
        let share = retry::ORDINALS_MAX / config.cores.max(1) / lanes.len().max(1);
        let LaneSlot {
            end,
            links: of_lane,
            reserved,
            next_link,
            outlets,
            next_outlet,
            run_left,
            ..
        } = &mut lanes[lane];
        let slice_room = end.room(now);
        let lane_room = slice_room.min(LANE_REQUESTS_PER_TURN);
        if lane_room == 0 || outlets.is_empty() || of_lane.is_empty() {
            return false;
        }
        let waiting = retries_waiting(waves, outlets);
        let mut permits = Permits::new(end, of_lane, links);
        let mut turn = LaneTurn {
            // No wave may use the whole line: there is always room for one more wave to begin.
            retries_max: if waiting < share { share / (outlets.len() + 1) } else { 0 },
            // A device that needs another connection waits for one only if there is one.
            others: waiting > 0 && has_two_connections(of_lane, links),
            reserve: end.reserve(),
            alone: config.single,
            now,
            slice_room,
            lane_room,
            sent: 0,
            deferred: 0,
            encoded: 0,
            waves,
            partitions,
            opens,
            buffers,
            token,
            end,
            outlets,
            next_outlet,
            run_left,
        };
        for n in 0..of_lane.len() {
            let link = of_lane[(*next_link + n) % of_lane.len()];
            if turn.lane_room == 0 {
                break;
            }
            let Some(link) = links[link as usize].link.as_mut() else { continue };
            let offer = permits.offer(turn.end, link, now);
            let kept = offer.min(*reserved);
            *reserved -= kept;
            turn.fill(link, offer - kept, steps);
        }
        let LaneTurn { sent, deferred, encoded, .. } = turn;
        if sent > 0 || deferred > 0 {
            // Only after a turn that sent: if idle turns advanced it too, a paced wave could meet
            // the same connection each time.
            *next_link = (*next_link + 1) % of_lane.len();
        }
        end.meter.sent(sent, encoded - sent * HEADER_BYTES);
        // A pace without tokens has its own deadline.
        sent > 0
            && outlets.iter().any(|(wave, _)| {
                waves[usize::from(*wave)].as_mut().is_some_and(|run| run.pace.room(now) > 0)
            })
    }

    /// Counts the devices that an expired wave will not reach, within the turn's work.
    pub(super) fn expire_walk(&mut self, wave: usize, steps: &mut Steps) {
        let Self { waves, partitions, config, .. } = self;
        let Some(run) = waves[wave].as_mut() else { return };
        for outlet in 0..run.outlets.len() {
            while let Some(found) = run.next(outlet, partitions, config.single, steps) {
                let outlet = u16::try_from(outlet).expect("few lanes");
                if run.check(outlet, found, partitions).is_ok() {
                    run.outlets[usize::from(outlet)].hand(found.part, found.ordinal);
                    run.ended_unsent(found.band, found.cell, Outcome::Expired);
                }
            }
        }
    }
}

/// Returns the number of devices of a lane's waves that wait for another attempt.
fn retries_waiting(waves: &[Option<WaveRun>], outlets: &[(u16, u16)]) -> usize {
    let waiting = |(wave, outlet): &(u16, u16)| {
        Some(waves[usize::from(*wave)].as_ref()?.outlets[usize::from(*outlet)].retry.len())
    };
    outlets.iter().filter_map(waiting).sum()
}

/// Reports whether a lane has at least two established connections.
fn has_two_connections(of_lane: &[u32], links: &[LinkSlot]) -> bool {
    let stands = |l: &&u32| {
        links[**l as usize].link.as_ref().is_some_and(|link| link.is_open() && !link.leaving)
    };
    of_lane.iter().filter(stands).nth(1).is_some()
}

/// One turn of one lane: the requests that it may still send, those that it has sent, and the state
/// of the core that it needs.
struct LaneTurn<'a> {
    /// Number of retries of one wave and lane beyond which its walk waits.
    retries_max: usize,
    /// Whether the lane has another connection.
    others: bool,
    /// Requests of the slice that are reserved for new waves.
    reserve: usize,
    /// Whether this core opens bands by itself.
    alone: bool,
    now: Time,
    /// Requests that the slice of the quota still allows.
    slice_room: usize,
    /// Requests that may still be sent in this turn.
    lane_room: usize,
    sent: usize,
    deferred: usize,
    /// Bytes encoded so far in this turn, approximately.
    encoded: usize,
    waves: &'a mut [Option<WaveRun>],
    partitions: &'a Partitions,
    opens: &'a mut Opens,
    buffers: &'a mut Buffers,
    token: &'a mut TokenBuffer,
    end: &'a mut LaneEnd,
    outlets: &'a [(u16, u16)],
    next_outlet: &'a mut usize,
    run_left: &'a mut usize,
}

impl LaneTurn<'_> {
    /// Takes runs of the lane's waves in turn until the connection has no room left or no wave has
    /// a device for it.
    #[inline]
    fn fill(&mut self, link: &mut Link, offer: usize, steps: &mut Steps) {
        let outlets = self.outlets;
        let mut room = offer.min(self.lane_room);
        let mut bytes = 0;
        // Numbers of waves without a request since the last one, and of waves that were skipped
        // without losing their turn.
        let (mut idle, mut passed) = (0, 0);
        while room > 0 && bytes < FLUSH_BYTES && idle < outlets.len() {
            let (wave, outlet) = outlets[(*self.next_outlet + passed) % outlets.len()];
            let Some(run) = self.waves[usize::from(wave)].as_mut() else { break };
            let its = &run.outlets[usize::from(outlet)];
            let walk = its.retry.len() < self.retries_max;
            let kept = if its.begun < self.reserve { 0 } else { self.reserve };
            let its_run = if passed == 0 { *self.run_left } else { RUN };
            let most = room.min(its_run).min(self.slice_room.saturating_sub(kept));
            if most == 0 {
                (idle, passed) = (idle + 1, passed + 1);
                continue;
            }
            let mut desk = Desk {
                partitions: self.partitions,
                opens: self.opens,
                buffers: self.buffers,
                end: self.end,
                link,
                run,
                wave,
                outlet,
                alone: self.alone,
                others: self.others,
                now: self.now,
                token: self.token,
            };
            let took = desk.run(most, walk, &mut bytes, &mut self.deferred, steps);
            run.outlets[usize::from(outlet)].begun += took;
            room -= took;
            self.took(took);
            if passed == 0 {
                self.pass_turn(took, took < most);
            }
            (idle, passed) = match took {
                0 => (idle + 1, if passed == 0 { 0 } else { passed + 1 }),
                _ => (0, 0),
            };
        }
        self.encoded += bytes;
    }

    /// Counts requests that were sent.
    #[inline]
    fn took(&mut self, requests: usize) {
        self.lane_room -= requests;
        self.slice_room -= requests;
        self.sent += requests;
    }

    /// Ends the turn of a wave that has sent `took` requests. The next wave's turn comes when the
    /// run is complete, or the wave had fewer requests than it might have sent.
    ///
    /// A wave that is cut short continues its run first next time: a quota that gives 20 at a time
    /// would otherwise give one wave 16 of them each time.
    #[inline]
    fn pass_turn(&mut self, took: usize, had_fewer: bool) {
        *self.run_left -= took;
        if had_fewer || *self.run_left == 0 {
            *self.next_outlet = (*self.next_outlet + 1) % self.outlets.len();
            *self.run_left = RUN;
        }
    }
}
