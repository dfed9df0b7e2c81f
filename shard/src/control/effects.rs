//! The effects of each message. The order of the resulting commands is the order in which a core
//! must receive them.

use clarion_proto::{
    error::InvalidField,
    ids::{LaneId, Position, UnixMillis, WaveId},
    time::Time,
};
use tracing::{debug, info};

use super::{
    Control, REFUSALS_MAX,
    lanes::{LANES_MAX, Taken},
    message::{Cause, Grant, Lane, Message, Rejected, Slice, Wave},
    output::Output,
    ownership::{Ownership, change},
    readiness::FeedState,
};
use crate::{command::Command, lane::slice::share};

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
        if result.is_ok() && self.ownership.as_ref() != Some(&new) {
            let old = self.ownership.take();
            self.own(old.as_ref(), new);
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
        match &self.ownership {
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
        self.tell_all(|| Command::Own(Vec::new()));
        self.registry.owned();
        self.registry.clear();
        (self.ownership, self.ownership_refused, self.feed) = (None, false, FeedState::Loading);
    }

    /// Changes the ownership from `old` to `new`: the feed stops, cores drop partitions that they
    /// do not keep, take the ones that they own, and the feed continues. Dropping and taking are
    /// two commands, so that a rebuilt partition starts empty.
    pub(super) fn own(&mut self, old: Option<&Ownership>, new: Ownership) {
        let change = change(old, &new, self.identity.cores);
        info!(
            number = new.number,
            partitions = new.partitions.len(),
            of = new.partition_count,
            kept = change.keep.iter().map(Vec::len).sum::<usize>(),
            "partition ownership changed"
        );
        self.outputs.push_back(Output::Unfollow);
        for owns in [&change.keep, &change.own] {
            let owns = owns.iter().enumerate();
            self.outputs
                .extend(owns.map(|(core, owns)| Output::command(core, Command::Own(owns.clone()))));
            self.registry.owned();
        }
        // A core goes by its position when it lets a wave begin: what is read again stands at its
        // beginning from now on.
        for (core, log) in new.follows(self.identity.cores).difference(&change.continues).copied() {
            let (position, appended) = (Position(0), UnixMillis(0));
            let from_the_beginning =
                Command::Apply { log, position, appended, records: Vec::new() };
            self.outputs.push_back(Output::command(core, from_the_beginning));
        }
        self.outputs.push_back(Output::Follow {
            ownership: new.clone(),
            continues: change.continues.clone(),
        });
        self.registry.keep(&change.continues);
        self.ownership = Some(new);
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
        let Some(owned) = &self.ownership else {
            let problem = "must be of partitions that this node owns; it owns none";
            return refuse("wave.ownership", problem, Cause::Superseded);
        };
        let platform = |lane| self.lanes.platform(lane);
        self.waves.take(wave, owned, self.identity.cores, platform, now, &mut self.outputs)?;
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
