//! The effects of each message. The order of the resulting commands is the order in which a core
//! must receive them.

use std::collections::BTreeMap;

use clarion_proto::{
    error::InvalidField,
    ids::{LaneId, PartitionId, Position, WaveId, log_of},
    time::Time,
};
use tracing::{debug, info};

use super::{
    Control, REFUSALS_MAX,
    lanes::{LANES_MAX, Taken},
    message::{Cause, Grant, Lane, Message, Rejected, Slice, Wave},
    output::Output,
    ownership::{Change, Ownership, change},
    readiness::FeedState,
};
use crate::{
    command::{Command, Owns},
    lane::slice::share,
};

impl Control {
    pub(super) fn take(&mut self, message: Message, now: Time) -> Result<(), Rejected> {
        match message {
            Message::Ownership(o) => self.ownership(o).map_err(Rejected::new),
            Message::Lane(lane) => self.lane(*lane),
            Message::ProviderToken { lane, authorization, signer } => {
                self.check_lane(lane, "provider_token.lane")?;
                self.tell_all(|| Command::ProviderToken {
                    lane,
                    authorization: authorization.clone(),
                    signer,
                });
                Ok(())
            }
            Message::Wave(wave) => self.wave(*wave, now),
            Message::Grant(grant) => {
                self.grant(&grant, now);
                Ok(())
            }
            Message::Slice(slice) => self.slice(&slice, now),
            Message::Connections { lane, connections } => {
                self.check_lane(lane, "connections.lane")?;
                if self.lanes.set_connections(lane, connections) {
                    self.tell_connections(lane);
                }
                Ok(())
            }
            Message::Cancel { wave, epoch } => {
                self.waves.cancel(wave, epoch, &mut self.outputs)?;
                self.stopped_unknown(wave)
            }
            Message::End(wave) => {
                self.waves.end(wave, now, &mut self.outputs);
                Ok(())
            }
            Message::Left => {
                self.left();
                Ok(())
            }
            Message::Count(count) => {
                let id = count.id;
                let asked = self.counts.ask(*count, self.identity.cores, now, &mut self.outputs);
                asked.map_err(|problem| Rejected::of_count(id, problem))
            }
        }
    }

    fn ownership(&mut self, new: Ownership) -> Result<(), InvalidField> {
        let result = self.check_ownership(&new);
        self.ownership_refused = result.is_err();
        if result.is_ok() && self.owned() != Some(&new) {
            let held = self.assignment.take();
            let change = change(held.as_ref(), new, self.identity.cores);
            // No wave may meet an older state of a partition than it has met before.
            let log_count = change.assignment.owned().log_count;
            let rebuilt = change.rebuilt.iter().enumerate();
            let rebuilt = rebuilt.flat_map(|(core, list)| list.iter().map(move |p| (core, *p)));
            let applied = |(core, p)| (p, self.registry.position(core, log_of(p, log_count)));
            let walk_from = rebuilt.map(applied).collect();
            self.own(change, &walk_from);
        }
        result
    }

    /// Checks the number of an ownership. Numbers are comparable because the node holds nothing of
    /// another log while a session is open ([`super::fence`]).
    fn check_ownership(&self, new: &Ownership) -> Result<(), InvalidField> {
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
            Some(held) if held.number == new.number && held != new => Err(InvalidField::new(
                field,
                format_args!("must grow with a new list of partitions; got {} again", new.number),
            )),
            _ => Ok(()),
        }
    }

    /// Drops every partition: nothing that the node holds may be used any more.
    pub(super) fn disown(&mut self) {
        self.outputs.push_back(Output::Unfollow);
        self.tell_all(|| Command::Own(Owns::default()));
        self.registry.owned();
        self.registry.clear();
        (self.assignment, self.ownership_refused, self.feed) = (None, false, FeedState::Loading);
    }

    /// Carries out a change of ownership: the feed stops, cores let go of what they do not keep and
    /// take what they own, the feed goes on. Waves walk a partition that is rebuilt when its log is
    /// applied up to `walk_from`, if that says something of the partition.
    pub(super) fn own(&mut self, change: Change, walk_from: &BTreeMap<PartitionId, Position>) {
        let Change { assignment, rebuilt, continues } = change;
        let owned = assignment.owned();
        info!(
            number = owned.number,
            partitions = owned.partitions.len(),
            of = owned.partition_count,
            rebuilt = rebuilt.iter().map(Vec::len).sum::<usize>(),
            "partition ownership changed"
        );
        self.outputs.push_back(Output::Unfollow);
        let follows = assignment.follows();
        for (core, (partitions, rebuilt)) in
            assignment.shares().into_iter().zip(rebuilt).enumerate()
        {
            let from = |p| (p, walk_from.get(&p).copied().unwrap_or_default());
            let rebuilt = rebuilt.into_iter().map(from).collect();
            let restarted = follows.difference(&continues).filter(|(of, _)| *of == core);
            let restarted = restarted.map(|(_, log)| *log).collect();
            let command = Command::Own(Owns { partitions, rebuilt, restarted });
            self.outputs.push_back(Output::command(core, command));
        }
        self.waves.own(&assignment);
        self.registry.owned();
        self.registry.keep(&continues);
        let follow = Output::Follow { assignment: assignment.clone(), continues };
        self.outputs.push_back(follow);
        self.assignment = Some(assignment);
        self.feed = FeedState::Loading;
    }

    fn lane(&mut self, lane: Lane) -> Result<(), Rejected> {
        let id = lane.terms.id;
        match self.lanes.take(lane) {
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
                self.leases.ask_now();
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

    fn wave(&mut self, wave: Wave, now: Time) -> Result<(), Rejected> {
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
        self.waves.take(wave, held, platform, now, &mut self.outputs)?;
        self.leases.ask_now();
        Ok(())
    }

    /// Applies a grant. A grant that comes too late, or to another request, is not a mistake of the
    /// coordinator: nothing is refused.
    fn grant(&mut self, grant: &Grant, now: Time) {
        let Some(until) = self.leases.until(grant.nonce, grant.lease, now) else {
            debug!(nonce = grant.nonce, "grant ignored: it arrived too late");
            return;
        };
        for (wave, per_second) in &grant.waves {
            self.waves.grant(*wave, *per_second, until, &mut self.outputs);
        }
    }

    fn slice(&mut self, slice: &Slice, now: Time) -> Result<(), Rejected> {
        let lane = slice.lane;
        self.check_lane(lane, "slice.lane")?;
        let Some(until) = self.leases.until(slice.nonce, slice.lease, now) else {
            debug!(nonce = slice.nonce, "quota slice ignored: it arrived too late");
            return Ok(());
        };
        let rate =
            slice.rate.map(|(per_second, burst)| share(per_second, burst, self.identity.cores));
        self.tell_all(|| Command::Slice { lane, until, rate });
        Ok(())
    }

    fn check_lane(&self, lane: LaneId, field: &str) -> Result<(), Rejected> {
        if self.lanes.contains(lane) {
            return Ok(());
        }
        Err(Rejected::new(InvalidField::new(
            field,
            format_args!("must be the number of a known lane; got {lane}"),
        )))
    }

    /// Answers a cancel of an unknown wave at once: nothing of the wave will be written, as
    /// requested.
    fn stopped_unknown(&mut self, wave: WaveId) -> Result<(), Rejected> {
        let Some(session) = self.session.as_mut().filter(|_| !self.waves.contains(wave)) else {
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
