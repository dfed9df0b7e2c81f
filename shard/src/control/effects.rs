//! The effects of each message. The order of the resulting commands is the order in which a core
//! must receive them.

use std::{collections::BTreeSet, time::Duration};

use clarion_proto::{
    error::InvalidField,
    ids::{CoordinatorId, Epoch, LaneId, PartitionId, WaveId},
    time::Time,
};
use tracing::{debug, info};

use super::{
    Control, REFUSALS_MAX,
    lanes::{LANES_MAX, Taken},
    message::{Cause, Grant, Lane, Message, Rejected, Slice, Wave},
    output::Output,
    ownership::{Assignment, Change, Ownership, change},
    readiness::FeedState,
};
use crate::{
    command::{Command, Owns},
    lane::slice::share,
};

impl Control {
    pub(super) fn take(
        &mut self,
        from: CoordinatorId,
        message: Message,
        now: Time,
    ) -> Result<(), Rejected> {
        match message {
            Message::Ownership(o) => self.ownership(from, o).map_err(Rejected::new),
            Message::Lane(lane) => self.lane(from, *lane),
            Message::ProviderToken { lane, authorization, signer } => {
                if self.directs(from, lane, "provider_token.lane")? {
                    self.tell_all(|| Command::ProviderToken {
                        lane,
                        authorization: authorization.clone(),
                        signer,
                    });
                }
                Ok(())
            }
            Message::Wave(wave) => self.wave(from, *wave, now),
            Message::Grant(grant) => {
                self.grant(from, &grant, now);
                Ok(())
            }
            Message::Slice(slice) => self.slice(from, &slice, now),
            Message::Connections { lane, connections } => {
                if self.directs(from, lane, "connections.lane")?
                    && self.lanes.set_connections(lane, connections)
                {
                    self.tell_connections(lane);
                }
                Ok(())
            }
            Message::Cancel { wave, epoch } => {
                let former = self.waves.cancel(from, wave, epoch, &mut self.outputs);
                self.supersede(former, wave, (from, epoch));
                self.stopped_unknown(from, wave)
            }
            Message::End { wave, epoch } => {
                self.waves.end(from, wave, epoch, now, &mut self.outputs)
            }
            Message::Left => {
                self.left(from);
                Ok(())
            }
            Message::Count(count) => {
                let (id, cores) = (count.id, self.identity.cores);
                let asked = self.counts.ask(from, *count, cores, now, &mut self.outputs);
                asked.map_err(|problem| Rejected::of_count(id, problem).because(Cause::Room))
            }
        }
    }

    fn ownership(&mut self, from: CoordinatorId, new: Ownership) -> Result<(), InvalidField> {
        let result = self.check_ownership(from, &new);
        if let Some(session) = self.sessions.get_mut(&from) {
            session.ownership_refused = result.is_err();
        }
        if result.is_ok() && self.owned() != Some(&new) {
            let held = self.assignment.take();
            let Change { assignment, gained } = change(held.as_ref(), new, self.identity.cores);
            self.own(&assignment, &gained);
            self.loading.own(&assignment, &gained, &mut self.outputs);
            self.saving.stop(&mut self.outputs);
            let is_kept = |p| assignment.core_of(p).is_some() && !gained.contains(&p);
            self.saving.forget(|p| !is_kept(p));
            self.follow(assignment);
            self.assigned_by = Some(from);
        }
        result
    }

    /// Checks the number of an ownership. Numbers are comparable because the node holds nothing of
    /// another log while a session is open ([`super::fence`]).
    fn check_ownership(&self, from: CoordinatorId, new: &Ownership) -> Result<(), InvalidField> {
        let field = "ownership.number";
        if self.fence.follows().is_some_and(|follows| follows != new.log) {
            let problem = format_args!("must be the log of this session; got {}", new.log);
            return Err(InvalidField::new("ownership.log_identity", problem));
        }
        match self.owned() {
            Some(held) if held.number > new.number => Err(InvalidField::new(
                field,
                format_args!(
                    "must be at least {}, which this node holds; got {}",
                    held.number, new.number
                ),
            )),
            Some(held) if held.number == new.number && held != new => {
                let (number, first) = (held.number, self.assigned_by.unwrap_or(from));
                let problem = format_args!(
                    "must grow with a new list of partitions; coordinator {first} assigned {} \
                     partitions with {number}, coordinator {from} assigns {} with {number} again",
                    held.partitions.len(),
                    new.partitions.len()
                );
                Err(InvalidField::new(field, problem))
            }
            _ => Ok(()),
        }
    }

    /// Drops every partition: nothing that the node holds may be used any more.
    pub(super) fn disown(&mut self) {
        self.outputs.push_back(Output::Unfollow);
        self.tell_all(|| Command::Own(Owns::default()));
        self.registry.owned();
        self.registry.clear();
        self.loading.clear(&mut self.outputs);
        self.saving.stop(&mut self.outputs);
        self.saving.forget(|_| true);
        (self.assignment, self.assigned_by, self.feed) = (None, None, FeedState::Loading);
    }

    /// Carries out a change of ownership: the feed stops, cores let go of what they do not keep and
    /// take what they own. Those in `awaited` wait for their content.
    pub(super) fn own(&mut self, assignment: &Assignment, awaited: &BTreeSet<PartitionId>) {
        let owned = assignment.owned();
        info!(
            number = owned.number,
            partitions = owned.partitions.len(),
            of = owned.partition_count,
            gained = awaited.len(),
            "partition ownership changed"
        );
        self.outputs.push_back(Output::Unfollow);
        let log_count = owned.log_count;
        for (core, partitions) in assignment.shares().into_iter().enumerate() {
            let awaited = partitions.iter().copied().filter(|p| awaited.contains(p)).collect();
            let command = Command::Own(Owns { partitions, awaited, log_count });
            self.outputs.push_back(Output::command(core, command));
        }
        self.waves.own(assignment);
        self.registry.owned();
        self.registry.keep(|p| assignment.core_of(p).is_some() && !awaited.contains(&p));
    }

    /// Opens the feed for every partition that has its content.
    pub(super) fn follow(&mut self, assignment: Assignment) {
        let partitions = assignment.owned().partitions.iter().copied();
        let followed = partitions.filter(|p| self.loading.is_followed(*p)).collect();
        let begin = self.loading.take_ready();
        self.outputs.push_back(Output::Follow { assignment: assignment.clone(), followed, begin });
        self.assignment = Some(assignment);
        self.feed = FeedState::Loading;
    }

    /// Opens the feed anew: other partitions have their content than before.
    pub(super) fn follow_again(&mut self) {
        if let Some(assignment) = self.assignment.take() {
            self.outputs.push_back(Output::Unfollow);
            self.follow(assignment);
        }
    }

    fn lane(&mut self, from: CoordinatorId, lane: Lane) -> Result<(), Rejected> {
        let id = lane.terms.id;
        match self.lanes.take(lane, self.direction.is_director(from)) {
            Taken::Known => debug!(lane = %id, "lane terms received again without a change"),
            Taken::Made(specs) => {
                info!(
                    lane = %id, name = specs[0].name, live = specs[0].live,
                    "lane created or changed"
                );
                let specs = specs.into_iter().enumerate();
                self.outputs
                    .extend(specs.map(|(core, spec)| Output::command(core, Command::Lane(spec))));
                self.tell_connections(id);
                self.ask_now(|control, of| control.direction.is_director(of));
            }
            Taken::TooMany => {
                let problem = format_args!(
                    "must not be one more: this node has {LANES_MAX} lanes, the maximum"
                );
                return Err(Rejected::new(InvalidField::new("lane", problem)));
            }
            Taken::Speaks(platform) => {
                let problem =
                    format_args!("must not change: lane {id} was created with {platform:?}");
                return Err(Rejected::new(InvalidField::new("lane.platform", problem)));
            }
        }
        Ok(())
    }

    fn tell_connections(&mut self, lane: LaneId) {
        for (core, (connections, host)) in self.lanes.parts(lane).into_iter().enumerate() {
            self.outputs
                .push_back(Output::command(core, Command::Connections { lane, connections, host }));
        }
    }

    fn wave(&mut self, from: CoordinatorId, wave: Wave, now: Time) -> Result<(), Rejected> {
        let (id, epoch) = (wave.id, wave.epoch);
        let refuse = |field: &str, problem, cause| {
            Err(Rejected::of(wave.id, InvalidField::new(field, problem)).because(cause))
        };
        if self.draining {
            return refuse("wave", "must arrive before the node shuts down", Cause::Draining);
        }
        let Some(held) = &self.assignment else {
            let problem = "must be of partitions that this node owns; it owns none";
            return refuse("wave.ownership", problem, Cause::Superseded);
        };
        let platform = |lane| self.lanes.platform(lane);
        let taken = self.waves.take(from, wave, held, platform, now, &mut self.outputs);
        if taken.is_err() && self.waves.is_cancelled(id) {
            // Another coordinator sent the cancel: the confirmation is the news of it.
            self.waves.confirm_to(from, id);
            self.stopped_unknown(from, id)?;
        }
        let former = taken?;
        self.supersede(former, id, (from, epoch));
        self.ask_now(|_, of| of == from);
        Ok(())
    }

    /// Tells the former director of a wave, if there is one, who directs it now: it is asked for
    /// nothing any more, and would wait for reports.
    fn supersede(
        &mut self,
        former: Option<CoordinatorId>,
        wave: WaveId,
        (director, epoch): (CoordinatorId, Epoch),
    ) {
        let Some(former) = former else { return };
        let problem =
            format_args!("must be at least {epoch}, under which coordinator {director} directs it");
        let superseded = Rejected::of(wave, InvalidField::new("wave.epoch", problem));
        self.refuse(former, superseded.because(Cause::Superseded));
    }

    /// Applies a grant. A grant that comes too late, or to another request, is not a mistake of the
    /// coordinator: nothing is refused.
    fn grant(&mut self, from: CoordinatorId, grant: &Grant, now: Time) {
        let Some(until) = self.leased_until(from, grant.nonce, grant.lease, now) else {
            debug!(nonce = grant.nonce, "grant ignored: it arrived too late");
            return;
        };
        for granted in &grant.waves {
            if let Err(rejected) = self.waves.grant(from, granted, until, &mut self.outputs) {
                self.reject(from, rejected, now);
            }
        }
    }

    fn slice(&mut self, from: CoordinatorId, slice: &Slice, now: Time) -> Result<(), Rejected> {
        let lane = slice.lane;
        if !self.directs(from, lane, "slice.lane")? {
            return Ok(());
        }
        let Some(until) = self.leased_until(from, slice.nonce, slice.lease, now) else {
            debug!(nonce = slice.nonce, "quota slice ignored: it arrived too late");
            return Ok(());
        };
        let rate =
            slice.rate.map(|(per_second, burst)| share(per_second, burst, self.identity.cores));
        self.tell_all(|| Command::Slice { lane, until, rate });
        Ok(())
    }

    /// Until when an answer to a coordinator's lease request holds; `None`: it came too late.
    fn leased_until(
        &self,
        from: CoordinatorId,
        nonce: u64,
        lease: Duration,
        now: Time,
    ) -> Option<Time> {
        self.sessions.get(&from)?.leases.until(nonce, lease, now)
    }

    /// Asks those coordinators at once for what they may grant.
    pub(super) fn ask_now(&mut self, which: impl Fn(&Self, CoordinatorId) -> bool) {
        let ids: Vec<_> = self.sessions.keys().copied().filter(|id| which(self, *id)).collect();
        for id in ids {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.leases.ask_now();
            }
        }
    }

    /// Whether a message about a lane counts: every coordinator states its lanes, and the node
    /// follows the one that directs the lanes.
    fn directs(&self, from: CoordinatorId, lane: LaneId, field: &str) -> Result<bool, Rejected> {
        if !self.direction.is_director(from) {
            debug!(%lane, coordinator = %from, "lane message ignored: another coordinator directs");
            return Ok(false);
        }
        if self.lanes.contains(lane) {
            return Ok(true);
        }
        Err(Rejected::new(InvalidField::new(
            field,
            format_args!("must be the number of a known lane; got {lane}"),
        )))
    }

    /// Answers a cancel of an unknown wave at once: nothing of the wave will be written, as
    /// requested.
    fn stopped_unknown(&mut self, from: CoordinatorId, wave: WaveId) -> Result<(), Rejected> {
        let known = self.waves.contains(wave);
        let Some(session) = self.sessions.get_mut(&from).filter(|_| !known) else {
            return Ok(());
        };
        if session.stopped_unknown.len() >= REFUSALS_MAX {
            let problem = format_args!(
                "must be a known wave while {REFUSALS_MAX} cancels of unknown waves are pending"
            );
            return Err(Rejected::of(wave, InvalidField::new("cancel.wave", problem)));
        }
        session.stopped_unknown.insert(wave);
        Ok(())
    }
}
