//! The reported changes of each device during a run, and its possible states over time.
//!
//! The rules are those of the contract, implemented a second time. Each facet of a device (place,
//! registration, mute) keeps the newest observation, and at a tie the one that was recorded later;
//! a removal is an observation of the absence of all three. The registry knows a change from some
//! moment between the sending of its batch and the acknowledgement, and a node somewhat later. So a
//! device is *possibly* at a place from the sending of the change until its next change must have
//! been seen, and *certainly* from the acknowledgement until the next change is sent.

use clarion_emulator::Platform;

use super::geometry::Region;
use crate::{
    place::Place,
    population::{Population, token::TokenBytes},
};

/// A change that a phone reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// The phone is at this place.
    Place(Place),
    /// The app was installed, with this token at this place. Tokens of a device are counted from 0.
    Arrival(u16, Place),
    /// The phone has a new token.
    Registration(u16),
    /// The phone was removed.
    Removal,
    /// The phone mutes alerts, or unmutes them.
    Mute(bool),
}

/// A change as delivered to the registry.
#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    /// Number of the device; numbers from the population's count on are devices installed during
    /// the run.
    pub device: u32,
    /// Number of the batch of the delivery.
    pub batch: u32,
    /// Time of the phone's observation, microseconds from the beginning of all motion.
    pub observed_us: u64,
    /// The reported change.
    pub change: Change,
}

/// Times of a batch, nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Time at which the batch was sent.
    pub sent_ns: u64,
    /// Time at which the acknowledgement arrived.
    pub acknowledged_ns: u64,
}

/// All deliveries of a run, by device and in order.
#[derive(Debug, Default)]
pub struct History {
    deliveries: Vec<Delivery>,
    batches: Vec<Batch>,
    devices: u64,
}

impl History {
    /// Creates the history from deliveries in the order of sending. `devices` includes those that
    /// were installed during the run.
    #[must_use]
    pub fn new(mut deliveries: Vec<Delivery>, batches: Vec<Batch>, devices: u64) -> Self {
        deliveries.sort_by_key(|d| d.device); // stable
        Self { deliveries, batches, devices }
    }

    /// Returns the number of devices that ever existed; at least those of the population.
    #[must_use]
    pub fn devices(&self, population: &Population) -> u64 {
        self.devices.max(population.count())
    }

    /// Returns the deliveries of a device in the order of sending.
    #[must_use]
    pub fn of(&self, device: u64) -> &[Delivery] {
        let from = self.deliveries.partition_point(|d| u64::from(d.device) < device);
        let count =
            self.deliveries[from..].iter().take_while(|d| u64::from(d.device) == device).count();
        &self.deliveries[from..from + count]
    }

    /// Returns the batches in the order of sending.
    #[must_use]
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }

    /// Returns the number of changes that the registry acknowledged.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.deliveries.len() as u64
    }

    /// Returns the states of a device in order of time.
    #[must_use]
    pub fn stretches(&self, population: &Population, device: u64, home: Place) -> Vec<Stretch> {
        let registered = device < population.count();
        let mut facets = Facets {
            // The home was observed before all motion.
            place: (0, registered.then_some(home)),
            registration: (0, registered.then_some(0)),
            mute: (0, false),
        };
        let mut stretches = vec![Stretch {
            sent_ns: 0,
            acknowledged_ns: 0,
            moved: false,
            standing: facets.standing(),
            until: None,
        }];
        for delivery in self.of(device) {
            let batch = self.batches[delivery.batch as usize];
            facets.take(delivery);
            let last = stretches.last_mut().expect("the first");
            let standing = facets.standing();
            if standing != last.standing {
                last.until = Some(batch);
                let Batch { sent_ns, acknowledged_ns } = batch;
                stretches.push(Stretch {
                    sent_ns,
                    acknowledged_ns,
                    moved: true,
                    standing,
                    until: None,
                });
            }
        }
        stretches
    }
}

/// Facets of a device, each with the time of its observation.
struct Facets {
    place: (u64, Option<Place>),
    registration: (u64, Option<u16>),
    mute: (u64, bool),
}

impl Facets {
    fn take(&mut self, Delivery { observed_us, change, .. }: &Delivery) {
        // The registry stores milliseconds.
        let at = observed_us / 1_000 + 1;
        fn keep<T>(facet: &mut (u64, T), at: u64, value: T) {
            if facet.0 <= at {
                *facet = (at, value);
            }
        }
        match *change {
            Change::Place(place) => keep(&mut self.place, at, Some(place)),
            Change::Arrival(generation, place) => {
                keep(&mut self.registration, at, Some(generation));
                keep(&mut self.place, at, Some(place));
            }
            Change::Registration(generation) => keep(&mut self.registration, at, Some(generation)),
            Change::Removal => {
                keep(&mut self.registration, at, None);
                keep(&mut self.place, at, None);
                keep(&mut self.mute, at, false);
            }
            Change::Mute(muted) => keep(&mut self.mute, at, muted),
        }
    }

    fn standing(&self) -> Option<Standing> {
        match (self.registration.1, self.place.1, self.mute.1) {
            (Some(generation), Some(place), false) => Some(Standing { generation, place }),
            _ => None,
        }
    }
}

/// State of a device that can be alerted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// Number of its current token.
    pub generation: u16,
    /// Place of the device.
    pub place: Place,
}

/// An interval in which the state of a device did not change.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    /// Time from which the device may have had the state, nanoseconds.
    pub sent_ns: u64,
    /// Time from which the device certainly had the state for an observer of all changes,
    /// nanoseconds.
    pub acknowledged_ns: u64,
    /// Whether the state began with a change; otherwise the device had it before all motion.
    pub moved: bool,
    /// State of the device; `None` if it must not be alerted, wherever it is.
    pub standing: Option<Standing>,
    /// Batch that ended the state; `None` if the state lasted.
    pub until: Option<Batch>,
}

impl Stretch {
    /// Reports whether a node that is behind by at most `settle_ns` may have seen the state between
    /// two times.
    #[must_use]
    pub fn possible(&self, from_ns: u64, until_ns: u64, settle_ns: u64) -> bool {
        self.sent_ns <= until_ns
            && self.until.is_none_or(|end| end.acknowledged_ns + settle_ns >= from_ns)
    }

    /// Returns the time until which the state certainly lasted, nanoseconds.
    #[must_use]
    pub fn lasted_ns(&self) -> u64 {
        self.until.map_or(u64::MAX, |end| end.sent_ns)
    }

    /// Returns the distance of the device from the region, metres; infinite if it must not be
    /// alerted.
    #[must_use]
    pub fn outside_meters(&self, region: &Region) -> f64 {
        self.standing.map_or(f64::INFINITY, |standing| region.outside_meters(standing.place))
    }
}

/// Returns all tokens of a device by number, possibly some that the registry never had.
pub fn tokens<'a>(
    population: &'a Population,
    device: u64,
    platform: Platform,
    deliveries: &'a [Delivery],
) -> impl Iterator<Item = (u16, TokenBytes)> + 'a {
    let last = deliveries.iter().filter_map(|d| match d.change {
        Change::Arrival(generation, _) | Change::Registration(generation) => Some(generation),
        _ => None,
    });
    (0..=last.max().unwrap_or(0))
        .map(move |generation| (generation, population.token(device, platform, generation)))
}
