//! Progress of a run for people: bars in a terminal, plain lines elsewhere. Everything goes to
//! standard error, so that standard output holds only the summary.

use std::{
    fmt,
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use crate::numbers::thousands;

/// Shortest time between two drawings of a bar.
const REDRAW: Duration = Duration::from_millis(100);

/// Progress display of one run.
#[derive(Debug)]
pub struct Show {
    bars: Option<MultiProgress>,
}

/// Progress of one step towards a known total.
#[derive(Debug, Clone)]
pub struct Bar {
    label: &'static str,
    unit: &'static str,
    count: u64,
    drawn: Option<ProgressBar>,
    /// Current position, which is kept also without a drawn bar.
    position: Arc<AtomicU64>,
}

impl Show {
    /// Creates a display with bars if standard error is a terminal, otherwise with lines.
    #[must_use]
    pub fn new() -> Self {
        Self { bars: std::io::stderr().is_terminal().then(MultiProgress::new) }
    }

    /// Prints the name of the step that begins.
    pub fn begin(&self, label: &str, what: &str) {
        let line = format!("{label:>7}  {what}");
        match &self.bars {
            // Writing fails only if the terminal is closed; then nobody reads.
            Some(bars) => drop(bars.println(line)),
            None => eprintln!("{line}"),
        }
    }

    /// Creates a bar from 0 to `count`.
    #[must_use]
    pub fn bar(&self, label: &'static str, count: u64, unit: &'static str) -> Bar {
        let drawn = self.bars.as_ref().map(|bars| {
            let style = ProgressStyle::with_template(&format!(
                "{{prefix:>7}}  {{wide_bar:.cyan/dim}} {{human_pos:>10}} / {{human_len}} {unit}  \
                 {{rate:>9}}/s  {{elapsed}}"
            ));
            let bar = bars.add(ProgressBar::new(count));
            bar.set_style(
                style.unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("rate", whole_rate),
            );
            bar.set_prefix(label);
            bar.enable_steady_tick(REDRAW);
            bar
        });
        if drawn.is_none() {
            eprintln!("{label:>7}  {count} {unit} …");
        }
        Bar { label, unit, count, drawn, position: Arc::default() }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a rate, not negative
fn whole_rate(state: &ProgressState, out: &mut dyn fmt::Write) {
    // A bar that cannot be written to is not drawn.
    let _ = out.write_str(&thousands(state.per_sec().round() as u64));
}

impl Default for Show {
    fn default() -> Self {
        Self::new()
    }
}

impl Bar {
    /// Advances the position.
    pub fn inc(&self, more: u64) {
        let position = self.position.fetch_add(more, Ordering::Relaxed) + more;
        if let Some(bar) = &self.drawn {
            bar.set_position(position);
        }
    }

    /// Sets the position.
    pub fn set(&self, position: u64) {
        self.position.store(position, Ordering::Relaxed);
        if let Some(bar) = &self.drawn {
            bar.set_position(position);
        }
    }

    /// Returns the current position, from 0 to the total.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// Ends the step; the bar stays visible.
    pub fn finish(&self) {
        match &self.drawn {
            Some(bar) => bar.abandon(),
            None => {
                eprintln!("{:>7}  {} of {} {}", self.label, self.position(), self.count, self.unit);
            }
        }
    }
}
