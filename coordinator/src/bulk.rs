//! `coordinator import`: devices from files into the registry, through the public API, or straight
//! into the store of a coordinator that does not run. [`follow`] keeps the registry in step with a
//! table.
//!
//! ```text
//! source: csv, parquet --rows--> batch --requests--> flow, stream --answers--> ledger --> journal
//!   (a thread)                 (the same thread)     (tasks)                            (a thread)
//! ```
//!
//! Between the parts are bounded queues, so a slow coordinator stops the reading, and a slow disk
//! stops the writing. A row that cannot be imported is a reject, and the import goes on. The resume
//! file remembers acknowledged rows only; a row that is written twice has the same time and changes
//! nothing.

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
    thread::{self, JoinHandle},
    time::Duration,
};

use clap::Parser;
use clarion_runtime::{lines, world::World};
use tokio::sync::mpsc;

use self::{
    args::{ImportArgs, StoreAt},
    batch::{Packing, pack_all},
    direct::Direct,
    error::ImportError,
    journal::{Counts, Journal, Mark},
    ledger::Ledger,
    progress::{Progress, per_second},
    source::Source,
    stream::{Batches, WriteError},
};

mod args;
mod batch;
mod column;
mod csv;
mod direct;
mod error;
mod flow;
mod follow;
mod journal;
mod ledger;
mod parquet;
mod position;
mod progress;
mod row;
mod source;
mod stream;
mod value;

pub(crate) use args::host_of;

/// Exit code of an import that has rejected rows.
const REJECTED: u8 = 3;

/// Runs the import, or follows a table, if the command line asks for it. `None`: it does not.
///
/// Exit code: 0 if every row is imported, 3 if rows were rejected, 1 after a failure, 2 for an
/// invalid command line.
#[must_use]
pub(crate) fn requested(args: &[OsString]) -> Option<ExitCode> {
    match args.get(1)?.to_str() {
        Some("import") => {}
        Some("follow") => return Some(follow::run(&args[1..])),
        _ => return None,
    }
    let args = match ImportArgs::try_parse_from(&args[1..]) {
        Ok(args) => args,
        Err(usage) => {
            // If standard error is closed, there is no place to report the failure.
            let _ = usage.print();
            return Some(ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2)));
        }
    };
    let target = match args.host() {
        Some(host) => host.map(|host| Target::Api { host: host.to_owned() }),
        None => args.store().map(Target::Store),
    };
    Some(match target.and_then(|target| import(&args, target)) {
        Ok(Counts { rejected: 0, .. }) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(REJECTED),
        Err(error) => {
            lines::last_words(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    })
}

/// Where an import writes.
enum Target {
    /// The API of a coordinator at `host:port`.
    Api { host: String },
    /// A store that no coordinator holds.
    Store(StoreAt),
}

/// Imports all files; returns the rows of this run and of the runs that it continues.
fn import(args: &ImportArgs, target: Target) -> Result<Counts, ImportError> {
    let (app, world) = (args.app()?, World::system());
    let open = |path| Source::open(path, args.format, app.is_some());
    let mut sources: Vec<Source> =
        args.files.iter().map(|path| open(path)).collect::<Result<_, _>>()?;
    let start = Mark::start(&sources, app.as_deref(), args.historic, args.destination());
    let resumed = args.resume.as_deref().map(|path| start.resume(path)).transpose()?.flatten();
    if let Some(mark) = &resumed
        && let Some(source) = sources.get_mut(mark.file)
    {
        source.seek(mark.at)?;
    }
    let mut mark = resumed.unwrap_or(start);
    let journal = Journal::open(&mut mark, args.rejects.as_deref(), args.resume.as_deref())?;

    let (clock, before, first) = (world.clock(), mark.counts, mark.file);
    let begun = clock.now();
    let progress = Progress::new(clock, sources.iter().map(|source| source.print.bytes));
    let names = || sources.iter().map(|source| source.path.display().to_string()).collect();
    let shown = args.rejects.is_none().then(names);
    let (to, entries) = mpsc::channel(journal::QUEUE);
    let journal = spawn("import-journal", move || journal.write_all(entries))?;
    let mut ledger = Ledger::new(mark, to, progress, shown);
    let (to, from) = mpsc::channel(batch::QUEUE);
    let packing = Packing { app, historic: args.historic };
    let reader = spawn("import-reader", move || pack_all(sources, first, &packing, &to))?;
    let mut batches = Batches::new(from);

    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let written = runtime.block_on(async {
        match target {
            Target::Api { host } => {
                stream::write_all(&world, &host, &mut batches, &mut ledger).await
            }
            Target::Store(at) => match Direct::open(at, &world).await {
                Ok(store) => store.write_all(clock, &mut batches, &mut ledger).await,
                Err(error) => Err(WriteError::Import(error)),
            },
        }
    });
    let counts = ledger.finish();
    let read = batches.end();
    let journaled = journal.join().map_err(|_| io::Error::other("the journal has panicked"))?;
    let reader = reader.join().map_err(|_| io::Error::other("the reader has panicked"));
    journaled?;
    match written {
        Ok(()) => {}
        Err(WriteError::Import(error)) => return Err(error),
        Err(WriteError::Journal(_)) => {
            return Err(io::Error::other("the journal ended too early").into());
        }
    }
    read?;
    reader?;
    tell(counts.counts, before, clock.now().since(begun));
    Ok(counts.counts)
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// Prints the summary to standard output.
fn tell(all: Counts, before: Counts, time: Duration) {
    let Counts { written, rejected, warned } = all;
    let rows = written + rejected - before.written - before.rejected;
    let mut text = format!(
        "imported {written} of {} rows; rejected {rejected}; {:.1} s, {} rows/s",
        written + rejected,
        time.as_secs_f64(),
        per_second(rows, time)
    );
    if before != Counts::default() {
        text += &format!("; of these, {} rows in earlier runs", before.written + before.rejected);
    }
    if warned > 0 {
        text += &format!("; {warned} rows without a part of their locale, which has no meaning");
    }
    // If standard output is closed, nobody reads the summary.
    let _ = writeln!(io::stdout(), "{text}");
}
