//! Devices by number: a pure function of seed and index, never stored as a whole.
//!
//! A run of a million devices needs them three times: to register them, to find the device of each
//! token in the gateways' record, and to judge which devices were inside. Storing them would cost
//! more memory than the cluster under test, so each device is computed again when needed, from
//! `(seed, index)` alone. Places come from [`Area`]s with shares; within a town, density falls off
//! exponentially with the distance from its centre.
//!
//! Coordinates are rounded to 1e-7 degrees (a centimetre). The sines of two machines' libraries may
//! differ in the last bit, but the rounded place does not, except for ties that no run meets.

pub mod cities;
pub mod draws;
pub mod token;

use clarion_emulator::Platform;
use serde::Deserialize;

use crate::place::Place;
use cities::CITIES;
use draws::Draws;
use token::TokenBytes;

/// Specification of a population in a scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PopulationSpec {
    /// Apps, among which devices are divided evenly.
    #[serde(default = "default_apps")]
    pub apps: Vec<AppSpec>,
    /// Areas of the devices. Shares are relative to their sum.
    pub areas: Vec<Area>,
}

fn default_apps() -> Vec<AppSpec> {
    vec![AppSpec { name: "guardian".to_owned(), platform: Platform::Apns }]
}

/// An app of the population and its platform.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppSpec {
    /// Id of the app: its resource name without `apps/`.
    pub name: String,
    /// Platform that issued the tokens of the app's devices.
    #[serde(default)]
    pub platform: Platform,
}

/// An area with a share of the devices.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Area {
    /// Devices around the cities of the table, by their inhabitants.
    Cities {
        /// Weight of this area, relative to the weights of the others.
        share: f64,
        /// Place around which cities are used; absent: all cities.
        #[serde(default)]
        near: Option<Place>,
        /// Radius around `near`, metres; given together with `near`.
        #[serde(default)]
        within_meters: Option<f64>,
    },
    /// Devices around one place that is not in the table.
    Town {
        /// Weight of this area, relative to the weights of the others.
        share: f64,
        /// Centre of the town.
        center: Place,
        /// Density falls off as exp(-distance / scale).
        scale_meters: f64,
    },
    /// Devices evenly over a disc: the countryside.
    Disc {
        /// Weight of this area, relative to the weights of the others.
        share: f64,
        /// Centre of the disc.
        center: Place,
        /// Radius of the disc, metres.
        radius_meters: f64,
    },
    /// Devices evenly over a narrow ring, for the end of a region, where mistakes are likely.
    Ring {
        /// Weight of this area, relative to the weights of the others.
        share: f64,
        /// Centre of the ring.
        center: Place,
        /// Distance from the centre to the middle of the ring, metres.
        radius_meters: f64,
        /// Whole width of the ring, metres.
        width_meters: f64,
    },
}

/// Error for a population that cannot be generated.
#[derive(Debug, thiserror::Error)]
#[error("population.{field}: {problem}")]
pub struct PopulationError {
    field: String,
    problem: String,
}

/// One device of a population, drawn from the seed.
pub struct Device {
    /// Number of the device in the population, from 0.
    pub index: u64,
    /// Id of the device, a UUID version 4.
    pub id: [u8; 16],
    /// Place of the device at the start.
    pub place: Place,
    /// Token by which the gateway knows the device.
    pub token: TokenBytes,
    /// Locale of the device, BCP 47.
    pub locale: &'static str,
    /// Audience segments to which the device belongs.
    pub segments: &'static [&'static str],
    /// Index into [`Population::apps`].
    pub app: usize,
    /// Platform of the device's app.
    pub platform: Platform,
}

/// A population that is computed from a seed.
#[derive(Debug, Clone)]
pub struct Population {
    seed: u64,
    count: u64,
    apps: Vec<AppSpec>,
    /// Cumulated share up to and with each spot, the last being 1.
    spots: Vec<(f64, Spot)>,
}

#[derive(Debug, Clone, Copy)]
struct Spot {
    center: Place,
    shape: Shape,
    locale: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    Town { scale_meters: f64 },
    Annulus { inner_meters: f64, outer_meters: f64 },
}

// Domains of draws; see `Draws::new`. A device's identity does not depend on the number of draws
// for its place.
const DOMAIN_IDENTITY: u64 = 1;
const DOMAIN_PLACE: u64 = 2;
const DOMAIN_TOKEN: u64 = 3;
const DOMAIN_LATER_TOKEN: u64 = 4;
/// Domain of draws for plans over a population, such as motion.
pub const DOMAIN_PLAN: u64 = 16;

/// Radius of a town in scales; beyond it, at e^-12 of the density, would be some 8 of a million
/// devices.
const TOWN_SCALES_MAX: f64 = 12.0;

const FOREIGN_LOCALES: &[&str] = &["en", "en-US", "zh-Hans-CN", "zh-Hant-TW", "ja-JP", "fr-FR", ""];

const SEGMENT_SETS: &[(&[&str], u32)] = &[
    (&[], 70),
    (&["volunteer"], 12),
    (&["student"], 9),
    (&["driver"], 5),
    (&["driver", "volunteer"], 2),
    (&["exercise", "staff"], 2),
];

impl Population {
    /// Creates a population of `count` devices.
    ///
    /// # Errors
    /// If a share or size is not a positive number, or no place is left.
    pub fn new(spec: &PopulationSpec, seed: u64, count: u64) -> Result<Self, PopulationError> {
        if spec.apps.is_empty() {
            return Err(error("apps", "must have at least one"));
        }
        if let Some((n, app)) = spec
            .apps
            .iter()
            .enumerate()
            .find(|(n, a)| spec.apps[..*n].iter().any(|b| b.name == a.name))
        {
            return Err(error(
                &format!("apps[{n}].name"),
                format!("must be unique; another app is named {}", app.name),
            ));
        }
        let mut weighted: Vec<(f64, Spot)> = Vec::new();
        for (n, area) in spec.areas.iter().enumerate() {
            let before = weighted.len();
            area.spots(&mut weighted)
                .map_err(|(field, problem)| error(&format!("areas[{n}].{field}"), problem))?;
            if weighted.len() == before {
                return Err(error(&format!("areas[{n}]"), "must have a city in reach"));
            }
        }
        let total: f64 = weighted.iter().map(|(w, _)| w).sum();
        if weighted.is_empty() || !(total.is_finite() && total > 0.0) {
            return Err(error("areas", "must have at least one with a share greater than 0"));
        }
        let mut sum = 0.0;
        for (weight, _) in &mut weighted {
            sum += *weight / total;
            *weight = sum;
        }
        Ok(Self { seed, count, apps: spec.apps.clone(), spots: weighted })
    }

    /// Returns the number of devices.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the seed of the population.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns the apps of the population in the scenario's order.
    #[must_use]
    pub fn apps(&self) -> &[AppSpec] {
        &self.apps
    }

    /// Returns the platforms of the apps, each once.
    #[must_use]
    pub fn platforms(&self) -> Vec<Platform> {
        Platform::ALL.into_iter().filter(|p| self.apps.iter().any(|a| a.platform == *p)).collect()
    }

    /// Returns all devices, one at a time.
    pub fn iter(&self) -> impl Iterator<Item = Device> + '_ {
        (0..self.count).map(|i| self.device(i))
    }

    /// Computes the device with this number.
    #[must_use]
    pub fn device(&self, index: u64) -> Device {
        let mut draws = Draws::new(self.seed, DOMAIN_IDENTITY, index);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&draws.bits().to_be_bytes());
        id[8..].copy_from_slice(&draws.bits().to_be_bytes());
        // RFC 9562, sections 4.1 and 4.2: version 4, variant 10.
        id[6] = (id[6] & 0x0F) | 0x40;
        id[8] = (id[8] & 0x3F) | 0x80;
        let app = draws.below(self.apps.len());
        let platform = self.apps[app].platform;
        let token = self.token(index, platform, 0);
        let segments = segments(&mut draws);
        let at_home = draws.unit() < 0.85;
        let foreign = FOREIGN_LOCALES[draws.below(FOREIGN_LOCALES.len())];
        let (place, home) = self.place(&mut Draws::new(self.seed, DOMAIN_PLACE, index));
        let locale = if at_home { home } else { foreign };
        Device { index, id, place, token, locale, segments, app, platform }
    }

    /// Returns the place of a device at the start.
    #[must_use]
    pub fn home(&self, index: u64) -> Place {
        self.place(&mut Draws::new(self.seed, DOMAIN_PLACE, index)).0
    }

    /// Returns the token of a device of a platform after this many changes.
    #[must_use]
    pub fn token(&self, index: u64, platform: Platform, generation: u16) -> TokenBytes {
        let draws = match generation {
            0 => Draws::new(self.seed, DOMAIN_TOKEN, index),
            // No device has a number with the bits that these shifts lose.
            later => Draws::new(self.seed, DOMAIN_LATER_TOKEN, index << 16 | u64::from(later)),
        };
        TokenBytes::draw(platform, &mut { draws })
    }

    /// Draws a place as for the population's devices, for one that moves, with the locale of that
    /// place.
    #[must_use]
    pub fn place(&self, draws: &mut Draws) -> (Place, &'static str) {
        let at = draws.unit();
        let index = self.spots.partition_point(|(upto, _)| *upto <= at).min(self.spots.len() - 1);
        let spot = self.spots[index].1;
        let meters = match spot.shape {
            // The radius of a plane exponential density is the sum of two exponential draws (Gamma
            // with k = 2).
            Shape::Town { scale_meters } => {
                let scales = -(draws.positive_unit().ln() + draws.positive_unit().ln());
                scale_meters * scales.min(TOWN_SCALES_MAX)
            }
            Shape::Annulus { inner_meters, outer_meters } => {
                let (inner, outer) = (inner_meters * inner_meters, outer_meters * outer_meters);
                (inner + draws.unit() * (outer - inner)).sqrt()
            }
        };
        let place = spot.center.toward(draws.unit() * std::f64::consts::TAU, meters);
        (place.rounded(), spot.locale)
    }
}

impl Area {
    fn spots(&self, out: &mut Vec<(f64, Spot)>) -> Result<(), (&'static str, String)> {
        let share = positive(
            "share",
            match self {
                Self::Cities { share, .. }
                | Self::Town { share, .. }
                | Self::Disc { share, .. }
                | Self::Ring { share, .. } => *share,
            },
        )?;
        let locale = "en";
        match self {
            Self::Cities { near, within_meters, .. } => {
                let reach = within_meters
                    .map(|m| positive("within_meters", m))
                    .transpose()?
                    .unwrap_or(f64::INFINITY);
                let chosen = CITIES
                    .iter()
                    .filter(|c| near.is_none_or(|n| c.center().spherical_distance(n) <= reach));
                let people: f64 = chosen.clone().map(|c| f64::from(c.people_thousands)).sum();
                out.extend(chosen.map(|c| {
                    let shape = Shape::Town { scale_meters: c.scale_meters() };
                    (
                        share * f64::from(c.people_thousands) / people,
                        Spot { center: c.center(), shape, locale: c.locale },
                    )
                }));
            }
            Self::Town { center, scale_meters, .. } => {
                let shape = Shape::Town { scale_meters: positive("scale_meters", *scale_meters)? };
                out.push((share, Spot { center: valid(*center)?, shape, locale }));
            }
            Self::Disc { center, radius_meters, .. } => {
                let shape = Shape::Annulus {
                    inner_meters: 0.0,
                    outer_meters: positive("radius_meters", *radius_meters)?,
                };
                out.push((share, Spot { center: valid(*center)?, shape, locale }));
            }
            Self::Ring { center, radius_meters, width_meters, .. } => {
                let half = positive("width_meters", *width_meters)? / 2.0;
                let inner_meters = positive("radius_meters", *radius_meters - half)?;
                let shape = Shape::Annulus { inner_meters, outer_meters: radius_meters + half };
                out.push((share, Spot { center: valid(*center)?, shape, locale }));
            }
        }
        Ok(())
    }
}

fn segments(draws: &mut Draws) -> &'static [&'static str] {
    let total: u32 = SEGMENT_SETS.iter().map(|(_, weight)| weight).sum();
    let mut left = draws.below(total as usize);
    for (set, weight) in SEGMENT_SETS {
        match left.checked_sub(*weight as usize) {
            Some(rest) => left = rest,
            None => return set,
        }
    }
    &[]
}

fn positive(field: &'static str, value: f64) -> Result<f64, (&'static str, String)> {
    if value.is_finite() && value > 0.0 {
        Ok(value)
    } else {
        Err((field, format!("must be greater than 0; got {value}")))
    }
}

fn valid(center: Place) -> Result<Place, (&'static str, String)> {
    if center.is_valid() {
        Ok(center)
    } else {
        Err(("center", "must be a latitude of -90 to 90 and a longitude of -180 to 180".to_owned()))
    }
}

fn error(field: &str, problem: impl Into<String>) -> PopulationError {
    PopulationError { field: field.to_owned(), problem: problem.into() }
}

#[cfg(test)]
mod tests;
