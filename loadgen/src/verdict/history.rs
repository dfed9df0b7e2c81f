//! The reported changes of each device during a run, and its possible states at each time.
//!
//! The rules are those of the contract, implemented a second time: each facet of a device (place,
//! registration, mute) keeps the newest observation, at a tie the one that was recorded later; a
//! removal is an observation of absence, of all three. The registry knows a change from some moment
//! between the sending of its batch and the acknowledgement, and a node somewhat later. So a device
//! is at a place *possibly* from the sending of the change until its next change must have been
//! seen, and *certainly* from the acknowledgement until the next change is sent.

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
    /// It was installed: token and place. Tokens of a device are counted from 0.
    Arrival(u16, Place),
    /// The phone has a new token.
    Registration(u16),
    /// The phone was removed.
    Removal,
    /// The phone mutes alerts, or unmutes them.
    Mute(bool),
}

/// A change as it reached the registry.
#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    /// Number of the device; numbers from the population's count on were installed during the run.
    pub device: u32,
    /// Number of the batch.
    pub batch: u32,
    /// When the phone saw it, microseconds from the beginning of all motion.
    pub observed_us: u64,
    /// The reported change.
    pub change: Change,
}

/// When a batch was on its way, nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Time of sending.
    pub sent_ns: u64,
    /// Time of the acknowledgement.
    pub acknowledged_ns: u64,
}

/// All deliveries of a run, by device and in their order.
#[derive(Debug, Default)]
pub struct History {
    deliveries: Vec<Delivery>,
    batches: Vec<Batch>,
    devices: u64,
}

impl History {
    /// Of deliveries in the order in which they were sent; `devices`: those installed included.
    #[must_use]
    pub fn new(mut deliveries: Vec<Delivery>, batches: Vec<Batch>, devices: u64) -> Self {
        deliveries.sort_by_key(|d| d.device); // stable
        Self { deliveries, batches, devices }
    }

    /// Devices there ever were; at least those of a population.
    #[must_use]
    pub fn devices(&self, population: &Population) -> u64 {
        self.devices.max(population.count())
    }

    /// Deliveries of a device, in the order in which they were sent.
    #[must_use]
    pub fn of(&self, device: u64) -> &[Delivery] {
        let from = self.deliveries.partition_point(|d| u64::from(d.device) < device);
        let count =
            self.deliveries[from..].iter().take_while(|d| u64::from(d.device) == device).count();
        &self.deliveries[from..from + count]
    }

    /// Batches of deliveries, in the order of sending.
    #[must_use]
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }

    /// Number of changes that the registry acknowledged.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.deliveries.len() as u64
    }

    /// States of a device, one after the other.
    #[must_use]
    pub fn stretches(&self, population: &Population, device: u64, home: Place) -> Vec<Stretch> {
        let registered = device < population.count();
        let mut facets = Facets {
            // Observed before all motion.
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

/// Each facet with the time from which it is.
struct Facets {
    place: (u64, Option<Place>),
    registration: (u64, Option<u16>),
    mute: (u64, bool),
}

impl Facets {
    fn take(&mut self, Delivery { observed_us, change, .. }: &Delivery) {
        // The registry keeps milliseconds.
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

/// A time in which a device stood the same.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    /// The state possibly began here.
    pub sent_ns: u64,
    /// The state certainly began here, for an observer of all changes.
    pub acknowledged_ns: u64,
    /// It began with a change; otherwise the device stood so before all motion.
    pub moved: bool,
    /// State; none: the device must not be alerted, wherever it is.
    pub standing: Option<Standing>,
    /// Batch that ended the state.
    pub until: Option<Batch>,
}

impl Stretch {
    /// Whether a node that is behind by at most `settle_ns` can have seen the device so at some
    /// time between two.
    #[must_use]
    pub fn possible(&self, from_ns: u64, until_ns: u64, settle_ns: u64) -> bool {
        self.sent_ns <= until_ns
            && self.until.is_none_or(|end| end.acknowledged_ns + settle_ns >= from_ns)
    }

    /// Until when it certainly lasted.
    #[must_use]
    pub fn lasted_ns(&self) -> u64 {
        self.until.map_or(u64::MAX, |end| end.sent_ns)
    }

    /// Distance of the device from the region, metres; infinite if it must not be alerted.
    #[must_use]
    pub fn outside_meters(&self, region: &Region) -> f64 {
        self.standing.map_or(f64::INFINITY, |standing| region.outside_meters(standing.place))
    }
}

/// All tokens of a device, by number; some of them possibly never known to the registry.
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
