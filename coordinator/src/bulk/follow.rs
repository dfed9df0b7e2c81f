//! `coordinator follow`: the changes of a table in PostgreSQL, written into the registry through
//! the public API.
//!
//! ```text
//! table --pages--> seen? --new rows--> batch --requests--> stream --answers--> acknowledged
//!   ^                                                                              |
//!   +------------------------------- history <------------- end of the pass -------+
//! ```
//!
//! A pass reads the rows in the order of their cursor, from the place up to which everything is
//! read for good ([`history`]). Most rows of a pass were read before; those that were written are
//! left out by their hashes, and a row that is written twice has the same time of observation and
//! changes nothing. At most three batches are on their way, so memory is bounded whatever the size
//! of the table.
//!
//! | Table | Registry |
//! |---|---|
//! | a new or changed row | registration, with a place if the row has one, and the choice of a mute |
//! | a row with a mark of `--deleted-when` | removal |
//! | a row that vanishes | nothing: no pass can see it |

use std::{ffi::OsString, hash::Hasher as _, io::Write as _, process::ExitCode};

use clap::Parser;
use clarion_runtime::{lines, world::World};
use tokio::{sync::mpsc, time::sleep};
use xxhash_rust::xxh3::Xxh3;

use self::{
    acknowledged::{AllSent, Followed, Mark, Sent},
    args::FollowArgs,
    history::{History, Place, Transactions},
    seen::Seen,
    table::{PAGE_ROWS, Table},
};
use super::{
    REJECTED,
    batch::{Batch, Packed, QUEUE},
    error::ImportError,
    journal::Counts,
    ledger::Acknowledged as _,
    position::Position,
    row::Row,
    stream::{self, Batches, WriteError},
    value::Value,
};
use crate::store::postgres::{Foreign, ForeignError, TextRow};

mod acknowledged;
mod args;
mod history;
mod seen;
mod table;

/// Numbers of the oldest open transaction and of the next one.
const TRANSACTIONS: &str = "SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text \
     FROM pg_current_snapshot() AS s";

/// Runs the program; see [`super::requested`] for the exit code.
pub(super) fn run(args: &[OsString]) -> ExitCode {
    let args = match FollowArgs::try_parse_from(args) {
        Ok(args) => args,
        Err(usage) => {
            // If standard error is closed, there is no place to report the failure.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let followed = runtime.map_err(ImportError::from).and_then(|runtime| {
        runtime.block_on(async { Follow::begin(&args).await?.follow(&args).await })
    });
    match followed {
        Ok(counts) => {
            let Counts { written, rejected, .. } = counts;
            // If standard output is closed, nobody reads the summary.
            let _ = writeln!(std::io::stdout(), "{written} rows written; rejected {rejected}");
            if rejected == 0 { ExitCode::SUCCESS } else { ExitCode::from(REJECTED) }
        }
        Err(error) => {
            lines::last_words(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// A table that is followed.
struct Follow {
    world: World,
    reader: Reader,
    history: History,
    followed: Followed,
    host: String,
}

/// Reads pages of a table, and packs the rows that are new.
struct Reader {
    database: Foreign,
    table: Table,
    app: Option<String>,
    historic: bool,
    seen: Seen,
    sent: AllSent,
    batches: u64,
}

impl Follow {
    /// Looks the table up, and continues behind the resume file.
    async fn begin(args: &FollowArgs) -> Result<Self, ImportError> {
        let (world, app) = (World::system(), args.app()?);
        let host = args.host()?.to_owned();
        let (address, password) = args.database()?;
        let database = Foreign::new(address, password, &world).map_err(ImportError::Database)?;
        let table = Table::find(&database, &args.table_options()).await;
        let table = table.map_err(|error| ImportError::Database(error.to_string()))?;
        let start = Mark::start(&args.table, &args.cursor, &host);
        let (resume, rejects) = (args.resume.as_deref(), args.rejects.as_deref());
        let followed = Followed::open(start, resume, rejects, world.clock())?;
        let history = History::new(args.overlap, followed.mark.begin.clone());
        let (sent, historic) = (followed.sent(), args.historic);
        let seen = Seen::default();
        let reader = Reader { database, table, app, historic, seen, sent, batches: 0 };
        Ok(Self { world, reader, history, followed, host })
    }

    /// Follows the table; ends with `--once`, or if the program cannot go on. Returns the rows of
    /// this run and of those that it continues.
    async fn follow(mut self, args: &FollowArgs) -> Result<Counts, ImportError> {
        let clock = self.world.clock();
        // The pass of the run that is continued is completed first.
        let mut from = self.followed.mark.reached.clone();
        let mut held_told = clock.now();
        loop {
            let (is_whole, begun) = (from.is_none(), clock.now());
            match self.pass(from.take()).await? {
                Passed::Whole(end) if is_whole => {
                    if let Some((place, transactions)) = end {
                        self.history.ended(clock.now(), transactions, place);
                    }
                    self.followed.completed(self.history.begin())?;
                    if args.once {
                        return Ok(self.followed.mark.counts);
                    }
                }
                Passed::Whole(_) => {
                    self.followed.completed(self.history.begin())?;
                    continue;
                }
                Passed::Away(problem) => {
                    self.followed.say(&format!("{problem}; trying again"));
                    from = self.followed.mark.reached.clone().filter(|_| !is_whole);
                }
            }
            if self.history.is_held(clock.now()) && clock.now().since(held_told) >= args.overlap {
                held_told = clock.now();
                self.followed.say(
                    "a transaction of the database stays open; the newest rows are read again \
                     until it ends",
                );
            }
            // A pass that takes longer than the overlap is not repeated before its end can become
            // the beginning of passes: the next one would read the whole table for nothing.
            let is_long = clock.now().since(begun) >= args.overlap;
            sleep(if is_long { args.overlap.max(args.every) } else { args.every }).await;
        }
    }

    /// Reads all rows behind a place and writes those that are new; default: from the beginning of
    /// passes.
    async fn pass(&mut self, from: Option<Place>) -> Result<Passed, ImportError> {
        let transactions = match self.reader.transactions().await {
            Ok(transactions) => transactions,
            Err(error) => return passed(error),
        };
        self.history.begins(self.world.clock().now(), transactions);
        let from = from.or_else(|| self.history.begin().cloned());
        let (to, batches) = mpsc::channel(QUEUE);
        let mut batches = Batches::new(batches);
        let reader = &mut self.reader;
        let (read, written) = tokio::join!(reader.read(from, to), async {
            // Without new rows there is no connection to the coordinator.
            if !batches.wait().await {
                return Ok(());
            }
            let (world, followed) = (&self.world, &mut self.followed);
            let written = stream::write_all(world, &self.host, &mut batches, followed).await;
            batches.close();
            written
        });
        match written {
            Ok(()) => batches.end()?,
            Err(WriteError::Import(error)) => return Err(error),
            Err(WriteError::Journal(_)) => return Err(self.followed.failure()),
        }
        match read {
            Ok(end) => Ok(Passed::Whole(end)),
            Err(error) => passed(error),
        }
    }
}

/// How a pass has ended.
enum Passed {
    /// All rows are read and written; the last place, and the transactions behind it. `None`: there
    /// are no rows.
    Whole(Option<(Place, Transactions)>),
    /// The database cannot be reached; what was read is written.
    Away(String),
}

/// A pass that the database has ended.
fn passed(error: ForeignError) -> Result<Passed, ImportError> {
    match error {
        ForeignError::Away(problem) => Ok(Passed::Away(problem)),
        ForeignError::Refused(problem) => Err(ImportError::Database(problem)),
    }
}

impl Reader {
    async fn transactions(&self) -> Result<Transactions, ForeignError> {
        let rows = self.database.query(TRANSACTIONS, &[]).await?;
        let number =
            |index: usize| -> Option<u64> { rows.first()?.get(index)?.as_ref()?.parse().ok() };
        let malformed = || {
            ForeignError::Refused(
                "pg_current_snapshot: PostgreSQL 13 or newer is required".to_owned(),
            )
        };
        Ok(Transactions {
            oldest: number(0).ok_or_else(malformed)?,
            next: number(1).ok_or_else(malformed)?,
        })
    }

    /// Reads all rows behind a place, and hands over the new ones. Returns the last place.
    async fn read(
        &mut self,
        from: Option<Place>,
        to: mpsc::Sender<Result<Batch, ImportError>>,
    ) -> Result<Option<(Place, Transactions)>, ForeignError> {
        let mut at = from;
        loop {
            let page = match &at {
                Some(place) => {
                    let bound = [place.cursor.as_str(), place.key.as_str()];
                    self.database.query(self.table.next, &bound).await?
                }
                None => self.database.query(self.table.first, &[]).await?,
            };
            let is_last = page.len() < PAGE_ROWS;
            let mut rows = page.into_iter().peekable();
            while rows.peek().is_some() {
                let (batch, end) = self.pack(&mut rows);
                at = end.or(at);
                // The writer has ended if it takes no more batches; it knows why.
                if let Some(batch) = batch
                    && to.send(Ok(batch)).await.is_err()
                {
                    return Ok(None);
                }
            }
            if is_last {
                let transactions = self.transactions().await?;
                return Ok(at.map(|place| (place, transactions)));
            }
        }
    }

    /// Packs the next rows of a page: those that are new, and the place behind them.
    fn pack(&mut self, rows: &mut impl Iterator<Item = TextRow>) -> (Option<Batch>, Option<Place>) {
        self.batches += 1;
        let mut packed = Packed::new(self.batches, self.historic);
        let (mut keys, mut end) = (Vec::new(), None);
        while !packed.is_full()
            && let Some(values) = rows.next()
        {
            let is_new = self.seen.insert(hash(&values));
            let mut values = values.into_iter();
            let (Some(Some(cursor)), Some(Some(key))) = (values.next(), values.next()) else {
                continue;
            };
            if is_new {
                let mut row = self.row(&mut values);
                let removed = values.next().flatten();
                let app = self.app.as_deref();
                let changes = match removed.filter(|_| self.table.has_deleted) {
                    Some(mark) if !is_false(&mark) => row.take_removal(app, &Value::of_text(&mark)),
                    _ => row.take_changes(app),
                };
                packed.push(keys.len() as u64, changes);
                keys.push(key.clone());
            }
            end = Some(Place { cursor, key });
        }
        let batch = packed.into_batch(0, Position::default());
        if let (Some(batch), Some(end)) = (&batch, &end) {
            self.sent.lock().insert(batch.id, Sent { keys, end: end.clone() });
        }
        (batch, end)
    }

    fn row(&self, values: &mut impl Iterator<Item = Option<String>>) -> Row {
        let mut row = Row::default();
        for column in &self.table.columns {
            let value = values.next().flatten();
            row.values[column.index()] = value.map_or(Value::Absent, |text| Value::of_text(&text));
        }
        row
    }
}

/// Whether the value of the column of `--deleted-when` says that the device is there.
fn is_false(mark: &str) -> bool {
    ["", "false", "f", "0", "no"].contains(&mark.trim())
}

/// Hash of all values of a row.
fn hash(values: &[Option<String>]) -> u64 {
    let mut hash = Xxh3::new();
    for value in values {
        hash.write_u8(u8::from(value.is_some()));
        let text = value.as_deref().unwrap_or_default();
        hash.write_usize(text.len());
        hash.write(text.as_bytes());
    }
    hash.finish()
}
