//! The guest's side of a remote lane: pushes of this core over connections of another core.

use clarion_proto::{
    ids::{LaneId, WaveId},
    time::Time,
};

use super::{
    Core,
    consequence::Later,
    letter::{Became, Fate, Letter, Run},
    link::{Link, State},
    remote::Remote,
};

impl Core {
    /// Handles a letter of another core.
    pub fn letter(&mut self, from: usize, letter: Letter, now: Time) {
        match letter {
            Letter::Credit { lane, round, requests } => {
                if let Some(remote) = self.remote_of(from, lane)
                    && remote.wants
                    && remote.round == round
                {
                    remote.credits += requests;
                }
            }
            Letter::Fates { lane, fates } => {
                let Some(link) = self.remote_link(from, lane) else { return };
                self.fates(link, fates, now);
                self.drop_left(link);
            }
            Letter::Written { lane, wave, requests, at, whole } => {
                let Some(link) = self.remote_link(from, lane) else { return };
                self.left_host(link, wave, requests, at, whole);
                self.drop_left(link);
            }
            request => self.guest_asks(from, request, now),
        }
    }

    /// Returns the next letter to another core, with the number of that core. The driver calls it
    /// after all other work of a turn.
    pub fn poll_letter(&mut self) -> Option<(usize, Letter)> {
        self.letters.pop_front()
    }

    /// Puts a letter back for which there was no room in the queue; it is the next again.
    pub fn put_letter_back(&mut self, to: usize, letter: Letter) {
        self.letters.push_front((to, letter));
    }

    /// Starts borrowing from a host if this core has no connection of its own, and stops if it has
    /// one.
    pub(super) fn tend_remote(&mut self, lane: usize) {
        let (mut own, mut remotes) = (false, Vec::new());
        for link in
            self.lanes[lane].links.iter().filter_map(|l| self.links[*l as usize].link.as_ref())
        {
            match &link.state {
                State::Remote(remote) => remotes.push((link.id.slot, remote.host, link.leaving)),
                State::Open(_) => own |= !link.leaving,
                State::Connecting(_) => {}
            }
        }
        let host = self.lanes[lane].host;
        for (slot, with, leaving) in &remotes {
            // A core that opens connections of its own stays a guest until one of them is
            // established.
            let stays = if host.is_none() { !own } else { host == Some(*with) };
            if !leaving && !stays {
                self.leave_host(*slot);
            }
        }
        let Some(host) = host.filter(|_| self.shutdown.is_none()) else { return };
        if remotes.iter().any(|(_, with, _)| *with == host) {
            return; // also one that is just leaving: it has to be over first
        }
        let spec = self.lanes[lane].end.spec.clone();
        let remote = Remote::new(host, spec.platform, spec.id);
        let id = self.free_link();
        let mut link = Link::new(id, lane, Time::NEVER, Time::NEVER, Time::NEVER);
        link.credential = self.lanes[lane].end.trust.number();
        link.state = State::Remote(Box::new(remote));
        self.put_link(link);
    }

    /// Hands over the requests of this turn, and asks for credits if more would be useful.
    pub(super) fn hand_over(&mut self, now: Time) {
        for lane in 0..self.lanes.len() {
            let wants = self.lane_has_work(&self.lanes[lane]) && self.lanes[lane].end.is_open(now);
            let id = self.lanes[lane].end.spec.id;
            let Self { lanes, links, letters, .. } = self;
            for slot in &lanes[lane].links {
                let Some(link) = links[*slot as usize].link.as_mut() else { continue };
                let State::Remote(remote) = &mut link.state else { continue };
                if !remote.run.entries.is_empty() {
                    letters.push_back((
                        remote.host,
                        Letter::Run(std::mem::replace(&mut remote.run, Run::new(id))),
                    ));
                }
                match (wants && !link.leaving, remote.wants) {
                    (true, false) => {
                        remote.round = remote.round.wrapping_add(1);
                        letters.push_back((
                            remote.host,
                            Letter::Want { lane: id, round: remote.round },
                        ));
                    }
                    (false, true) => letters.push_back((remote.host, Letter::Enough { lane: id })),
                    _ => continue,
                }
                remote.wants = !remote.wants;
                remote.credits = 0;
            }
        }
    }

    /// Voids the requests of a wave at all hosts that have some.
    pub(super) fn void_wave(&mut self, wave: usize) {
        let Some(run) = &self.waves[wave] else { return };
        let id = run.spec.id;
        for link in self.links.iter().filter_map(|slot| slot.link.as_ref()) {
            if let State::Remote(remote) = &link.state
                && link.unsent.iter().any(|(w, _)| usize::from(*w) == wave)
            {
                let lane = self.lanes[link.lane].end.spec.id;
                self.letters.push_back((remote.host, Letter::Void { lane, wave: id }));
            }
        }
    }

    /// Makes all hosts forget a template that is not used again.
    pub(super) fn forget_remotely(&mut self, template: u32) {
        for link in self.links.iter_mut().filter_map(|slot| slot.link.as_mut()) {
            if let State::Remote(remote) = &mut link.state
                && let Some(known) = remote.known.get_mut(template as usize)
                && std::mem::replace(known, false)
            {
                let lane = self.lanes[link.lane].end.spec.id;
                self.letters.push_back((remote.host, Letter::Forget { lane, template }));
            }
        }
    }

    /// Stops handing over requests to a host.
    pub(super) fn leave_host(&mut self, slot: u32) {
        let Some(link) = self.links[slot as usize].link.as_mut() else { return };
        let State::Remote(remote) = &mut link.state else { return };
        if !std::mem::replace(&mut link.leaving, true) {
            let lane = self.lanes[link.lane].end.spec.id;
            (remote.wants, remote.credits) = (false, 0);
            self.letters.push_back((remote.host, Letter::Leave { lane }));
        }
        self.drop_left(slot);
    }

    /// Handles the results of handed-over requests; acceptances are handled together.
    fn fates(&mut self, link: u32, fates: Vec<Fate>, now: Time) {
        if let Some(State::Remote(remote)) =
            self.links[link as usize].link.as_mut().map(|link| &mut link.state)
        {
            remote.out = remote.out.saturating_sub(fates.len());
        }
        self.batch.begin(fates.iter().any(|fate| matches!(fate.what, Became::Accepted)));
        let mut accepted = Vec::with_capacity(fates.len());
        for fate in fates {
            match fate.what {
                Became::Accepted => accepted.push(fate.ticket),
                _ => self.fate(link, fate, now),
            }
        }
        if !accepted.is_empty() {
            self.accepted(link, &accepted, now);
        }
    }

    /// Handles the result of one handed-over request.
    fn fate(&mut self, link: u32, Fate { ticket, credential, by, what }: Fate, now: Time) {
        if let Some(slot) = self.opens.find(ticket) {
            self.opens.get(slot).credential = credential;
        }
        match what {
            Became::Accepted => self.accepted(link, &[ticket], now),
            Became::Answer(answer) => self.answered(link, ticket, by, &answer, now),
            Became::Unanswered(status) => self.unanswered(link, ticket, by, status, now),
            Became::Unprocessed => self.unprocessed(link, ticket, now),
            Became::Returned => {
                self.settle_unwritten(link, ticket, now);
                if let Some(slot) = self.opens.find(ticket) {
                    self.put_off(slot, now, Later::AtOnce);
                }
            }
            Became::Refused(header) => {
                self.settle_unwritten(link, ticket, now);
                if let Some(slot) = self.opens.find(ticket) {
                    self.header_refused(slot, header);
                }
            }
        }
    }

    /// Handles a request that came back unsent.
    fn settle_unwritten(&mut self, link: u32, ticket: u64, now: Time) {
        if let Some(l) = &self.links[link as usize].link {
            self.lanes[l.lane].end.settled(1, now);
        }
        let Some(slot) = self.opens.find(ticket) else { return };
        let wave = usize::from(self.opens.get(slot).wave);
        if let Some(id) = self.waves[wave].as_ref().map(|run| run.spec.id) {
            self.left_host(link, id, 1, None, false);
        }
    }

    /// Counts requests of a wave that the host no longer has.
    fn left_host(&mut self, link: u32, wave: WaveId, requests: u64, at: Option<Time>, whole: bool) {
        let Some(slot) = self.wave_slot(wave) else { return };
        let (Some(run), Some(link)) =
            (self.waves[slot].as_mut(), self.links[link as usize].link.as_mut())
        else {
            return;
        };
        let Some(entry) = link.unsent.iter().position(|(w, _)| usize::from(*w) == slot) else {
            return;
        };
        link.unsent[entry].1 = link.unsent[entry].1.saturating_sub(requests);
        run.last_write = run.last_write.max(at);
        if let Some(cancel) = run.cancel.as_mut().filter(|_| whole) {
            cancel.written_after += requests;
        }
        if link.unsent[entry].1 == 0 {
            link.unsent.swap_remove(entry);
            run.unsent -= 1;
        }
        run.reporting.change();
    }

    /// Drops a link that has left, once no request of it is open.
    fn drop_left(&mut self, slot: u32) {
        let Some(link) = self.links[slot as usize].link.as_ref() else { return };
        let State::Remote(remote) = &link.state else { return };
        if link.leaving
            && remote.out == 0
            && link.unsent.is_empty()
            && remote.run.entries.is_empty()
        {
            let lane = link.lane;
            self.links[slot as usize].link = None;
            self.lanes[lane].links.retain(|l| *l != slot);
        }
    }

    fn remote_link(&self, host: usize, lane: LaneId) -> Option<u32> {
        let of_lane = &self.lanes[self.find_lane(lane)?].links;
        of_lane.iter().copied().find(|slot| {
            match self.links[*slot as usize].link.as_ref().map(|link| &link.state) {
                Some(State::Remote(remote)) => remote.host == host,
                _ => false,
            }
        })
    }

    fn remote_of(&mut self, host: usize, lane: LaneId) -> Option<&mut Remote> {
        let slot = self.remote_link(host, lane)?;
        match &mut self.links[slot as usize].link.as_mut()?.state {
            State::Remote(remote) => Some(remote),
            _ => None,
        }
    }
}
