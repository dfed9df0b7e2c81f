//! Numbers as text for people: separators, decimal places and units.

/// Formats a count with separators: `1,234,567`.
#[must_use]
pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Formats a rate as a whole number with separators.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // not negative, below 2^53
pub fn whole(value: f64) -> String {
    if value.is_finite() && value >= 0.0 { thousands(value.round() as u64) } else { number(value) }
}

/// Formats a measured value: whole numbers and large ones with separators, others with three
/// significant digits.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // below 2^53
pub fn number(value: f64) -> String {
    let magnitude = value.abs();
    let sign = if value < 0.0 { "-" } else { "" };
    if value.is_finite() && magnitude < 9e15 && (value.fract() == 0.0 || magnitude >= 1_000.0) {
        format!("{sign}{}", thousands(magnitude.round() as u64))
    } else if magnitude >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    }
}

/// Formats a limit as in the scenario: all decimal places, whole numbers with separators.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a whole number below 2^53
pub fn exact(value: f64) -> String {
    let whole = value.fract() == 0.0 && (0.0..9e15).contains(&value);
    if whole { thousands(value as u64) } else { value.to_string() }
}

/// Formats a time: `3 ms`, `7.1 s`, `2 min 31 s`; a dash if nothing was measured.
#[must_use]
pub fn seconds(value: f64) -> String {
    let magnitude = value.abs();
    if !value.is_finite() {
        "–".to_owned()
    } else if magnitude < 0.000_95 {
        format!("{} µs", decimal(value * 1e6, 0))
    } else if magnitude < 0.0095 {
        format!("{} ms", decimal(value * 1e3, 1))
    } else if magnitude < 0.9995 {
        format!("{} ms", decimal(value * 1e3, 0))
    } else if magnitude < 9.995 {
        format!("{} s", decimal(value, 2))
    } else if magnitude < 119.95 {
        format!("{} s", decimal(value, 1))
    } else {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a time of a run
        let whole = magnitude.round() as u64;
        format!(
            "{}{} min {} s",
            if value < 0.0 { "−" } else { "" },
            thousands(whole / 60),
            whole % 60
        )
    }
}

/// Formats an amount of memory in binary units: `139 MiB`.
#[must_use]
#[allow(clippy::cast_precision_loss)] // shown to three places
pub fn bytes(value: u64) -> String {
    match value {
        0..1_024 => format!("{value} B"),
        1_024..1_048_576 => format!("{} KiB", decimal(value as f64 / 1_024.0, 0)),
        1_048_576..10_737_418_240 => format!("{} MiB", decimal(value as f64 / 1_048_576.0, 0)),
        _ => format!("{} GiB", decimal(value as f64 / 1_073_741_824.0, 1)),
    }
}

/// Formats a number with this many decimal places, and separators in the integer part.
#[must_use]
pub fn decimal(value: f64, places: usize) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let text = format!("{:.places$}", value.abs());
    let (whole, fraction) =
        text.split_once('.').map_or((text.as_str(), None), |(w, f)| (w, Some(f)));
    let whole = whole.parse().map_or_else(|_| whole.to_owned(), thousands);
    let sign =
        if value < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b)) { "−" } else { "" };
    fraction.map_or_else(|| format!("{sign}{whole}"), |f| format!("{sign}{whole}.{f}"))
}

/// Formats a share of 1 as `99.95 %`. A share below 1 is never rounded to 100 %.
#[must_use]
pub fn per_cent(share: f64) -> String {
    let places = if share >= 1.0 || share == 0.0 {
        0
    } else if !(0.01..=0.99).contains(&share) {
        2
    } else {
        1
    };
    let shown = if share < 1.0 { (share * 100.0).min(99.99) } else { share * 100.0 };
    format!("{} %", decimal(shown, places))
}

/// Formats a distance: `750 m`, `1.5 km`, `120 km`.
#[must_use]
pub fn meters(value: f64) -> String {
    if value < 1_000.0 {
        format!("{} m", decimal(value, 0))
    } else {
        format!(
            "{} km",
            decimal(
                value / 1_000.0,
                if value < 10_000.0 && value % 1_000.0 != 0.0 { 1 } else { 0 }
            )
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_have_commas() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }

    #[test]
    fn numbers_have_separators_and_places_that_matter() {
        let written = [0.0, -3.0, 80_000.0, 665_522.27, 1.667_6, 0.003_053, f64::NAN].map(number);
        assert_eq!(written, ["0", "-3", "80,000", "665,522", "1.67", "0.0031", "NaN"]);
    }

    #[test]
    fn figures_have_units_and_separators() {
        assert_eq!(seconds(0.000_4), "400 µs");
        assert_eq!(seconds(0.003_05), "3.1 ms");
        assert_eq!(seconds(0.545), "545 ms");
        assert_eq!(seconds(7.123), "7.12 s");
        assert_eq!(seconds(41.26), "41.3 s");
        assert_eq!(seconds(151.2), "2 min 31 s");
        assert_eq!(seconds(f64::NAN), "–");
        assert_eq!(
            (bytes(900), bytes(145_477_632), bytes(17 << 30)),
            ("900 B".into(), "139 MiB".into(), "17.0 GiB".into())
        );
        assert_eq!((decimal(-1_234.56, 1), decimal(-0.04, 1)), ("−1,234.6".into(), "0.0".into()));
        assert_eq!(
            (meters(500.0), meters(1_500.0), meters(120_000.0)),
            ("500 m".into(), "1.5 km".into(), "120 km".into())
        );
    }

    #[test]
    fn nearly_all_is_not_all() {
        assert_eq!(per_cent(1.0), "100 %");
        assert_eq!(per_cent(0.999_999_9), "99.99 %");
        assert_eq!(per_cent(0.3), "30.0 %");
        assert_eq!(per_cent(0.0), "0 %");
    }
}
