//! Scales: from values to places on a page, linear with round ticks, and the colour ramp for time.
//!
//! The ramp goes through OKLab in steps of the same lightness, so that equal differences of time
//! look equal and the order is readable without colours, too (in print, and for people who do not
//! distinguish red from green). Early cells have the highest contrast: dark on a light page, bright
//! on a dark one.

use std::fmt::Write as _;

/// Number of steps of the colour ramp.
pub(super) const STEPS: usize = 16;

/// Linear mapping of values from one interval to another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Linear {
    pub(super) from: (f64, f64),
    pub(super) to: (f64, f64),
}

impl Linear {
    pub(super) fn at(self, value: f64) -> f64 {
        let width = self.from.1 - self.from.0;
        let share = if width > 0.0 { (value - self.from.0) / width } else { 0.0 };
        self.to.0 + share * (self.to.1 - self.to.0)
    }
}

/// Returns the smallest of 1, 2, 5, 10, 20, … (and their fractions) that is at least a value.
pub(super) fn round_up(value: f64) -> f64 {
    let magnitude = 10f64.powf(value.max(1e-12).log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * magnitude >= value * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * magnitude
}

/// Returns round values in an interval, at most `most`.
pub(super) fn ticks(from: f64, to: f64, most: u32) -> Vec<f64> {
    let step = round_up((to - from).max(1e-9) / f64::from(most.max(1)));
    let first = (from / step - 1e-9).ceil();
    (0..=most)
        .map(|i| (first + f64::from(i)) * step)
        .take_while(|v| *v <= to + step * 1e-9)
        .collect()
}

/// Returns the step of the ramp for a value between `from` and `to`.
// The value is between 0 and STEPS.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
pub(super) fn step(value: f64, from: f64, to: f64) -> usize {
    let share = if to > from { (value - from) / (to - from) } else { 0.0 };
    ((share.clamp(0.0, 1.0) * STEPS as f64) as usize).min(STEPS - 1)
}

/// Writes the ramp as custom properties of CSS, with `--t0` for the earliest step.
pub(super) fn properties(dark_page: bool) -> String {
    let mut out = String::new();
    for step in 0..STEPS {
        let at = if dark_page { STEPS - 1 - step } else { step };
        // Writing to a String cannot fail.
        let _ = write!(out, "--t{step}:{};", hex(colour(at, dark_page)));
    }
    out
}

/// Writes the classes that fill with a step's colour.
pub(super) fn classes() -> String {
    (0..STEPS).fold(String::new(), |mut out, step| {
        // Writing to a String cannot fail.
        let _ = write!(out, ".t{step}{{fill:var(--t{step})}}");
        out
    })
}

/// Returns the OKLab colour of one step: from indigo over teal and green to pale yellow.
#[allow(clippy::cast_precision_loss)] // below STEPS
fn colour(step: usize, dark_page: bool) -> [f64; 3] {
    let t = step as f64 / (STEPS - 1) as f64;
    let (darkest, lightest) = if dark_page { (0.36, 0.94) } else { (0.30, 0.91) };
    let hue = (288.0 - 183.0 * t).to_radians();
    // Lowest at the ends, where screens show the fewest colours.
    let chroma = 0.085 + 0.055 * (t * std::f64::consts::PI).sin() + 0.02 * t;
    [darkest + (lightest - darkest) * t, chroma * hue.cos(), chroma * hue.sin()]
}

/// Converts OKLab to sRGB (Ottosson 2020), clipped to the colours of screens.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped to a byte
fn hex([l, a, b]: [f64; 3]) -> String {
    let cone = |x: f64| x * x * x;
    let long = cone(l + 0.396_337_777_4 * a + 0.215_803_757_3 * b);
    let medium = cone(l - 0.105_561_345_8 * a - 0.063_854_172_8 * b);
    let short = cone(l - 0.089_484_177_5 * a - 1.291_485_548_0 * b);
    let linear = [
        4.076_741_662_1 * long - 3.307_711_591_3 * medium + 0.230_969_929_2 * short,
        -1.268_438_004_6 * long + 2.609_757_401_1 * medium - 0.341_319_396_5 * short,
        -0.004_196_086_3 * long - 0.703_418_614_7 * medium + 1.707_614_701_0 * short,
    ];
    let byte = |x: f64| {
        let x = x.clamp(0.0, 1.0);
        let gamma = if x <= 0.003_130_8 { 12.92 * x } else { 1.055 * x.powf(1.0 / 2.4) - 0.055 };
        (gamma * 255.0).round() as u8
    };
    let [r, g, b] = linear.map(byte);
    format!("#{r:02x}{g:02x}{b:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_keep_their_ends() {
        let scale = Linear { from: (2.0, 4.0), to: (100.0, 0.0) };
        assert_eq!((scale.at(2.0), scale.at(3.0), scale.at(4.0)), (100.0, 50.0, 0.0));
        assert_eq!(
            Linear { from: (1.0, 1.0), to: (5.0, 9.0) }.at(1.0),
            5.0,
            "an interval of nothing"
        );
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 1.08, 6), [0.0, 0.2, 0.4, 0.600_000_000_000_000_1, 0.8, 1.0]);
        assert_eq!(ticks(0.0, 700_000.0, 4), [0.0, 200_000.0, 400_000.0, 600_000.0]);
        assert_eq!(ticks(-3.0, 3.0, 3), [-2.0, 0.0, 2.0]);
        assert_eq!((round_up(0.009), round_up(1.0), round_up(21.0)), (0.01, 1.0, 50.0));
    }

    #[test]
    fn the_ramp_is_even_in_lightness_and_runs_the_other_way_on_a_dark_page() {
        for dark in [false, true] {
            let steps: Vec<f64> =
                (1..STEPS).map(|s| colour(s, dark)[0] - colour(s - 1, dark)[0]).collect();
            assert!(steps.iter().all(|s| (s - steps[0]).abs() < 1e-12), "{steps:?}");
        }
        assert!(properties(false).starts_with(&format!("--t0:{};", hex(colour(0, false)))));
        assert!(properties(true).starts_with(&format!("--t0:{};", hex(colour(STEPS - 1, true)))));
        assert_eq!(
            (step(0.0, 0.0, 1.0), step(1.0, 0.0, 1.0), step(5.0, 5.0, 5.0)),
            (0, STEPS - 1, 0)
        );
    }

    #[test]
    fn colours_are_srgb() {
        assert_eq!(hex([1.0, 0.0, 0.0]), "#ffffff");
        assert_eq!(hex([0.0, 0.0, 0.0]), "#000000");
        // Red of sRGB in OKLab, from Ottosson's page.
        assert_eq!(hex([0.627_955, 0.224_863, 0.125_846]), "#ff0000");
    }
}
