//! The devices that an alert over one region must reach, computed once for a series of alerts over
//! the same devices.
//!
//! [`super::judge`] computes every device and its place again. That is right for one alert, and
//! some two microseconds per device too slow for the hundredth. Here it is done once, and each
//! alert only merges two sorted lists, some hundred nanoseconds per request. So a series is judged
//! alert by alert while it runs, and nothing of an alert is kept.

use std::{collections::BTreeMap, num::NonZero, thread};

use clarion_emulator::Platform;

use super::{
    COVER_REACH_METERS, EXAMPLES_MAX, OUTSIDE_METERS, cells,
    geometry::Region,
    ledger::{Answer, Fate, Push, Tally},
};
use crate::population::Population;

/// All devices of a population by token, 16 bytes each.
#[derive(Debug)]
pub struct Roll {
    devices: Vec<Known>,
}

/// Facts about one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    token_hash: u64,
    index: u32,
    platform: Platform,
    place: Place,
    /// Whether a gateway has called its token dead, so that its registration may be removed.
    dead: bool,
}

const _: () = assert!(size_of::<Known>() == 16);

/// Position of a device relative to the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Exactly inside: the device must be alerted.
    Inside,
    /// Within the overshoot of a cover: the device may be alerted.
    Edge,
    /// Farther out: the device must not be alerted.
    Outside,
}

/// Result of one alert or of several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judged {
    /// Number of requests, whatever their result.
    pub requests: u64,
    /// Requests that the gateway refused, deferred, reset or ignored.
    pub struck: u64,
    /// Requests that the gateway left unanswered.
    pub unanswered: u64,
    /// Requests for tokens that no device has.
    pub strangers: u64,
    /// Devices accepted at least once.
    pub accepted: u64,
    /// Devices whose token a gateway called dead.
    pub dead: u64,
    /// Devices inside that were never accepted, and whose token was not called dead in this alert
    /// or before it.
    pub missed: u64,
    /// Missed devices by platform.
    pub missed_of: BTreeMap<Platform, u64>,
    /// Devices accepted while more than 500 m outside the region.
    pub outside: u64,
    /// Acceptances after the first that no unanswered or failed request explains.
    pub duplicates: u64,
    /// Acceptances after the first that follow an unanswered or failed request.
    pub repeated: u64,
    /// Devices with a request but without any answer.
    pub unknown: u64,
    /// Devices inside without a request.
    pub unsent: u64,
    /// Devices inside without a request whose token no gateway called dead.
    pub unsent_alive: u64,
    /// Numbers of some affected devices, by kind of failure.
    pub examples: BTreeMap<&'static str, Vec<u64>>,
}

impl Roll {
    /// Computes the roll of a population and a region, on all cores.
    #[must_use]
    pub fn new(population: &Population, region: &Region) -> Self {
        let workers = thread::available_parallelism().map_or(1, NonZero::get) as u64;
        let (count, share) = (population.count(), population.count().div_ceil(workers));
        let known = |index| {
            let device = population.device(index);
            let meters = region.outside_meters(device.place);
            let place = if meters == 0.0 {
                Place::Inside
            } else if meters <= OUTSIDE_METERS
                || (meters < COVER_REACH_METERS
                    && cells::in_cover(region, cells::cell_of(device.place)))
            {
                Place::Edge
            } else {
                Place::Outside
            };
            let index =
                u32::try_from(index).expect("checked: a scenario has fewer than 2^32 devices");
            Known {
                token_hash: device.token.hash(),
                index,
                platform: device.platform,
                place,
                dead: false,
            }
        };
        let mut devices: Vec<Known> = thread::scope(|scope| {
            let range = |w: u64| (w * share).min(count)..((w + 1) * share).min(count);
            let workers: Vec<_> = (0..workers)
                .map(|w| scope.spawn(move || range(w).map(known).collect::<Vec<_>>()))
                .collect();
            workers.into_iter().flat_map(|w| w.join().expect("this does not panic")).collect()
        });
        devices.sort_unstable();
        Self { devices }
    }

    /// Records that a gateway has called a token dead. It must be called before a later alert is
    /// judged.
    pub fn called_dead(&mut self, token_hash: u64) {
        if let Ok(at) = self.devices.binary_search_by_key(&token_hash, |d| d.token_hash) {
            self.devices[at].dead = true;
        }
    }

    /// Records the devices that an undisturbed alert reached. They are registered, whatever
    /// gateways answered about their tokens before, and every later alert must reach them. Without
    /// this, a gateway that called every token dead would end all judgement of them.
    pub fn reached(&mut self, pushes: &[Push]) {
        for push in pushes.iter().filter(|push| push.fate == Fate::Accepted) {
            if let Ok(at) = self.devices.binary_search_by_key(&push.token_hash, |d| d.token_hash) {
                self.devices[at].dead = false;
            }
        }
    }

    /// Records that all devices were registered again, so that none counts as removed.
    pub fn registered_anew(&mut self) {
        self.devices.iter_mut().for_each(|d| d.dead = false);
    }

    /// Judges all requests of one alert.
    #[must_use]
    pub fn judge(&self, mut pushes: Vec<Push>) -> Judged {
        pushes.sort_unstable();
        let mut sum = Judged { requests: pushes.len() as u64, ..Judged::default() };
        let plain = |p: &Push| p.fate == Fate::Accepted && p.answer == Answer::Given;
        sum.struck = pushes.iter().filter(|p| !plain(p)).count() as u64;
        let mut rest = &pushes[..];
        for device in &self.devices {
            let strangers = rest.iter().take_while(|p| p.token_hash < device.token_hash).count();
            sum.strangers += strangers as u64;
            rest = &rest[strangers..];
            let (of_device, others) = rest
                .split_at(rest.iter().take_while(|p| p.token_hash == device.token_hash).count());
            rest = others;
            sum.device(device, of_device);
        }
        sum.strangers += rest.len() as u64;
        sum
    }
}

impl Judged {
    fn device(&mut self, device: &Known, pushes: &[Push]) {
        let tally = Tally::of(pushes);
        let reached = tally.first_accepted_ns.is_some();
        self.unanswered += tally.unanswered;
        self.repeated += tally.repeated;
        self.duplicates += tally.duplicates;
        self.dead += u64::from(tally.dead);
        self.unknown += u64::from(tally.unknown);
        self.accepted += u64::from(reached);
        if tally.duplicates > 0 {
            self.example("duplicates", device);
        }
        if reached && device.place == Place::Outside {
            self.outside += 1;
            self.example("outside", device);
        }
        if device.place != Place::Inside {
            return;
        }
        if pushes.is_empty() {
            self.unsent += 1;
            self.unsent_alive += u64::from(!device.dead);
        }
        if !reached && !tally.dead && !device.dead {
            self.missed += 1;
            *self.missed_of.entry(device.platform).or_default() += 1;
            self.example("missed", device);
        }
    }

    fn example(&mut self, kind: &'static str, device: &Known) {
        let examples = self.examples.entry(kind).or_default();
        if examples.len() < EXAMPLES_MAX {
            examples.push(u64::from(device.index));
        }
    }

    /// Adds the result of another alert.
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.struck += other.struck;
        self.unanswered += other.unanswered;
        self.strangers += other.strangers;
        self.accepted += other.accepted;
        self.dead += other.dead;
        self.missed += other.missed;
        self.outside += other.outside;
        self.duplicates += other.duplicates;
        self.repeated += other.repeated;
        self.unknown += other.unknown;
        self.unsent += other.unsent;
        self.unsent_alive += other.unsent_alive;
        for (platform, missed) in other.missed_of {
            *self.missed_of.entry(platform).or_default() += missed;
        }
        for (kind, indexes) in other.examples {
            let examples = self.examples.entry(kind).or_default();
            examples.extend(indexes);
            examples.truncate(EXAMPLES_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{place::Place, population::Device, scenario::RegionSpec};

    fn population() -> Population {
        let spec = toml::from_str(
            "areas = [{ kind = 'disc', share = 1, center = { latitude = 22.5, longitude = 114 }, \
             radius_meters = 20000 }]",
        );
        Population::new(&spec.unwrap(), 1, 500).unwrap()
    }

    fn region() -> Region {
        Region::new(&RegionSpec::Circle {
            center: Place::new(22.5, 114.0),
            radius_meters: 10_000.0,
        })
    }

    fn push(device: &Device, at_ns: u64, fate: Fate, answer: Answer) -> Push {
        Push { token_hash: device.token.hash(), at_ns, fate, answer }
    }

    fn inside() -> Vec<Device> {
        population().iter().filter(|d| region().outside_meters(d.place) == 0.0).collect()
    }

    fn all(devices: &[Device]) -> Vec<Push> {
        devices.iter().map(|d| push(d, 1, Fate::Accepted, Answer::Given)).collect()
    }

    #[test]
    fn everybody_inside_once_is_perfect() {
        let (roll, inside) = (Roll::new(&population(), &region()), inside());
        let judged = roll.judge(all(&inside));
        assert!(inside.len() > 50);
        let count = inside.len() as u64;
        assert_eq!(judged, Judged { requests: count, accepted: count, ..Judged::default() });
    }

    #[test]
    fn each_kind_of_failure_is_found() {
        let (roll, inside) = (Roll::new(&population(), &region()), inside());
        let mut pushes = all(&inside[3..]);
        // The first: no request. The second: no answer. The third: refused and never tried again.
        pushes.push(push(&inside[1], 1, Fate::Ignored, Answer::Withheld));
        pushes.push(push(&inside[2], 1, Fate::Failed, Answer::Given));
        let far = population().iter().find(|d| region().outside_meters(d.place) > 2_000.0).unwrap();
        pushes.push(push(&far, 1, Fate::Accepted, Answer::Given));
        pushes.push(push(&inside[3], 2, Fate::Accepted, Answer::Given));
        pushes.push(push(&inside[4], 2, Fate::Failed, Answer::Given));
        pushes.push(push(&inside[4], 3, Fate::Accepted, Answer::Given));
        pushes.push(Push { token_hash: 7, at_ns: 1, fate: Fate::Accepted, answer: Answer::Given });
        let judged = roll.judge(pushes);
        assert_eq!(
            (judged.missed, judged.unsent, judged.unsent_alive, judged.unknown),
            (3, 1, 1, 1)
        );
        assert_eq!(
            (judged.outside, judged.duplicates, judged.repeated, judged.strangers),
            (1, 1, 1, 1)
        );
        assert_eq!((judged.unanswered, judged.struck), (1, 3));
        assert_eq!(judged.missed_of, BTreeMap::from([(Platform::Apns, 3)]));
        assert_eq!(judged.examples["duplicates"], [inside[3].index]);
    }

    #[test]
    fn a_token_called_dead_is_owed_nothing_until_it_is_registered_anew() {
        let (mut roll, inside) = (Roll::new(&population(), &region()), inside());
        let mut pushes = all(&inside[1..]);
        pushes.push(push(&inside[0], 1, Fate::Dead, Answer::Given));
        assert_eq!((roll.judge(pushes).missed, roll.judge(all(&inside[1..])).missed), (0, 1));
        roll.called_dead(inside[0].token.hash());
        let judged = roll.judge(all(&inside[1..]));
        assert_eq!((judged.missed, judged.unsent, judged.unsent_alive), (0, 1, 0));
        roll.registered_anew();
        assert_eq!(roll.judge(all(&inside[1..])).missed, 1);
    }

    #[test]
    fn a_token_called_dead_and_accepted_later_is_owed_everything_again() {
        let (mut roll, inside) = (Roll::new(&population(), &region()), inside());
        inside.iter().for_each(|device| roll.called_dead(device.token.hash()));
        assert_eq!(roll.judge(Vec::new()).missed, 0);
        roll.reached(&all(&inside[..2]));
        roll.reached(&[push(&inside[2], 1, Fate::Dead, Answer::Given)]);
        assert_eq!(roll.judge(Vec::new()).missed, 2, "those that were reached");
    }
}
