//! Instructions per push: the work of a core between a page and a report, in a figure without
//! noise.
//!
//! ```text
//! cargo bench -p clarion-benches --bench instructions                    # the table
//! cargo bench -p clarion-benches --bench instructions -- --profile       # and where they go, of the first row
//! cargo bench -p clarion-benches --bench instructions -- --native        # nanoseconds instead, without valgrind
//! ```
//!
//! A core without sockets, TLS and clock ([`world`]) sends to a gateway in memory ([`gateway`]),
//! under `valgrind --tool=callgrind`. Only the core's own work is counted: walk, encode, read,
//! classify, report. Filling the partitions, connecting, the first tenth of the wave and the
//! gateway are outside. Per push it should be the same however many devices there are and however
//! many alerts share the core: 5 % is what is allowed.

mod gateway;
mod valgrind;
mod world;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use clarion_benches::{case::Case, city::City};

use world::World;

/// Instructions per push of the sans-I/O core, by callgrind.
#[derive(Debug, Parser)]
struct Arguments {
    /// Devices on the core
    #[arg(long, value_delimiter = ',', default_value = "100000,1000000,14000000")]
    devices: Vec<u64>,
    /// Number of alerts at the same time, each for all devices
    #[arg(long, value_delimiter = ',', default_value = "1,4,16")]
    alerts: Vec<usize>,
    /// Kinds of pushes
    #[arg(long = "case", value_delimiter = ',', default_value = "apns-indexed,apns-literal,fcm")]
    cases: Vec<Case>,
    /// Partitions of the core
    #[arg(long, default_value_t = 32)]
    partitions: u16,
    /// Pushes counted, at most
    #[arg(long, default_value_t = 200_000)]
    window: u64,
    /// Print where the instructions of the first row go: functions by their own and by all below
    /// them
    #[arg(long)]
    profile: bool,
    /// Keep callgrind's output in this directory, for callgrind_annotate or KCachegrind
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<std::path::PathBuf>,
    /// Measure nanoseconds by the clock instead of instructions, over whole waves, and check that
    /// every device was reached
    #[arg(long)]
    native: bool,
    /// One row, in this process: what runs under valgrind
    #[arg(long, hide = true)]
    inner: bool,
    /// Option that `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// Setting of one row of the table.
#[derive(Debug, Clone, Copy)]
struct Setting {
    case: Case,
    devices: u64,
    alerts: usize,
    partitions: u16,
    window: u64,
}

impl Setting {
    fn city(&self) -> City {
        let Self { case, devices, partitions, .. } = *self;
        City { case, devices, partitions }
    }

    /// Returns the number of pushes of all waves.
    fn pushes(&self) -> u64 {
        self.devices * self.alerts as u64
    }

    /// Returns the range of counted pushes, in which the waves run evenly and neither begin nor
    /// end.
    fn counted(&self) -> std::ops::Range<u64> {
        let begin = self.pushes() / 10;
        let counted = self.window.min(self.pushes() / 10 * 8);
        // The middle, if more pushes are left than counted, so that neither only near nor only far
        // bands count.
        let begin = begin.max(self.pushes() / 2 - counted / 2);
        begin..begin + counted
    }
}

/// Counts of one row.
#[derive(Debug)]
struct Counted {
    pushes: u64,
    bytes: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = if arguments.inner {
        settings(&arguments).try_for_each(|setting| inner(&setting))
    } else if arguments.native {
        settings(&arguments).try_for_each(|setting| native(&setting))
    } else {
        valgrind::table(&arguments)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn settings(arguments: &Arguments) -> impl Iterator<Item = Setting> {
    let Arguments { devices, alerts, cases, partitions, window, .. } = arguments;
    let (partitions, window) = (*partitions, *window);
    cases.iter().flat_map(move |&case| {
        devices.iter().flat_map(move |&devices| {
            alerts.iter().map(move |&alerts| Setting { case, devices, alerts, partitions, window })
        })
    })
}

/// Runs the counted part of one row: reports that it is ready, waits for the start, and prints the
/// counts.
fn inner(setting: &Setting) -> io::Result<()> {
    let mut world = World::new(*setting);
    world.start();
    let counted = setting.counted();
    while world.requests() < counted.start {
        world.step();
    }
    valgrind::wait_to_be_instrumented()?;
    let (requests, bytes) = (world.requests(), world.bytes());
    world.counting = true;
    while world.requests() < counted.end {
        world.step();
    }
    world.counting = false;
    valgrind::print(&Counted { pushes: world.requests() - requests, bytes: world.bytes() - bytes })
}

/// Measures one row by the clock, including the gateway's part, which is a few per cent and the
/// same for all rows.
#[allow(clippy::disallowed_methods)] // a bench measures time
fn native(setting: &Setting) -> io::Result<()> {
    let mut world = World::new(*setting);
    let mut core = Duration::ZERO;
    world.start();
    let begun = Instant::now();
    while !world.is_complete() {
        world.step();
    }
    core += begun.elapsed();
    world.check_everybody_was_reached();
    let pushes = world.requests() as f64;
    let Setting { case, devices, alerts, .. } = setting;
    println!(
        "{:<13} {devices:>9} devices {alerts:>3} alerts: {:6.1} ns a push, gateway included; {:.1} bytes",
        case.name(),
        core.as_nanos() as f64 / pushes,
        world.bytes() as f64 / pushes,
    );
    Ok(())
}
