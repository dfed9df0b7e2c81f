//! Writer of log lines to standard error that never blocks a caller.
//!
//! Standard error is often a pipe. A pipe whose reader has stopped takes 64 KiB and then blocks
//! every writer: a log line would freeze a thread that sends pushes. So lines go into a queue of at
//! most [`BYTES_MAX`] bytes, a separate thread writes them, and a line that finds the queue full is
//! dropped and counted. As soon as writing works again, one line reports the number of dropped
//! lines. At exit, the process waits up to [`FLUSH_WITHIN`] for the queue to be written.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

/// Longest queue of unwritten lines, bytes; some 5,000 lines.
pub const BYTES_MAX: usize = 1 << 20;
/// Time limit for writing the last lines at the end of the process.
pub const FLUSH_WITHIN: Duration = Duration::from_millis(500);

/// A queue of lines and the thread that writes them. Clones share it.
#[derive(Debug, Clone)]
pub struct Lines {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// A line has come, or the queue has been written.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    writing: bool,
    /// Lines dropped since the last line that reported dropped lines.
    untold: u64,
    dropped: u64,
}

impl Queue {
    fn drop_line(&mut self) {
        self.untold += 1;
        self.dropped += 1;
    }
}

impl Lines {
    /// The writer of this process to standard error.
    #[must_use]
    pub fn stderr() -> &'static Self {
        static STDERR: OnceLock<Lines> = OnceLock::new();
        STDERR.get_or_init(|| Self::start(io::stderr()))
    }

    /// Writes to `sink` in a thread of its own, which ends with the process.
    #[must_use]
    pub fn start(sink: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        let started = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.write_all(sink));
        if started.is_err() {
            // Then the queue fills and lines are counted; a process without room for a thread has other troubles.
            shared.queue.lock().drop_line();
        }
        Self { shared }
    }

    /// Queues a line; never waits.
    pub fn push(&self, line: Vec<u8>) {
        let mut queue = self.shared.queue.lock();
        if queue.bytes + line.len() > BYTES_MAX {
            return queue.drop_line();
        }
        queue.bytes += line.len();
        queue.lines.push_back(line);
        self.shared.changed.notify_all();
    }

    /// How many lines were dropped since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.queue.lock().dropped
    }

    /// Waits until all lines are written, for `within` at most; whether they are.
    pub fn flush(&self, within: Duration) -> bool {
        let mut queue = self.shared.queue.lock();
        let unwritten = |queue: &mut Queue| queue.writing || !queue.lines.is_empty();
        !self.shared.changed.wait_while_for(&mut queue, unwritten, within).timed_out()
    }
}

impl Shared {
    fn write_all(&self, mut sink: impl Write) {
        loop {
            let mut queue = self.queue.lock();
            self.changed.wait_while(&mut queue, |queue| queue.lines.is_empty());
            let Some(line) = queue.lines.pop_front() else { continue };
            queue.bytes -= line.len();
            queue.writing = true;
            drop(queue);
            let written = sink.write_all(&line);
            let mut queue = self.queue.lock();
            let mut notice = None;
            match written {
                Ok(()) => notice = (queue.untold > 0).then(|| std::mem::take(&mut queue.untold)),
                // Closed, or full: nobody is told now.
                Err(_) => queue.drop_line(),
            }
            if let Some(dropped) = notice {
                drop(queue);
                let told = writeln!(
                    sink,
                    "WARN log lines dropped because standard error was not read; dropped={dropped}"
                );
                queue = self.queue.lock();
                if told.is_err() {
                    queue.untold += dropped;
                }
            }
            queue.writing = false;
            self.changed.notify_all();
        }
    }
}

/// Each write is one complete event of the log.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints to standard error why the process ends, and waits until the line is written, for
/// [`FLUSH_WITHIN`] at most.
pub fn last_words(words: impl std::fmt::Display) {
    let lines = Lines::stderr();
    // What waits already is less urgent than this, but a queue that is full will not be read in time either.
    lines.push(format!("{words}\n").into_bytes());
    lines.flush(FLUSH_WITHIN);
}

/// Makes panics use the same writer: a process that aborts on panic must not hang in its last line.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("<unnamed>").to_owned();
        let backtrace = std::backtrace::Backtrace::capture();
        last_words(format_args!("thread '{name}' panicked: {panic}\n{backtrace}"));
    }));
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Takes a line whenever it is allowed to.
    struct Gate {
        open: mpsc::Receiver<()>,
        taken: Arc<Mutex<Vec<String>>>,
    }

    impl Write for Gate {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.open.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.taken.lock().push(String::from_utf8(line.to_vec()).unwrap());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_that_has_stopped_and_what_was_dropped_is_told() {
        let (open, gate) = mpsc::sync_channel(10_000);
        let taken = Arc::new(Mutex::new(Vec::new()));
        let lines = Lines::start(Gate { open: gate, taken: Arc::clone(&taken) });
        let line = vec![b'x'; 1_000];
        // More than the queue holds; none of these calls waits, since nobody reads.
        for _ in 0..2_000 {
            lines.push(line.clone());
        }
        let dropped = lines.dropped();
        assert!((900..=1_000).contains(&dropped), "{dropped}");
        assert!(!lines.flush(Duration::from_millis(1)), "nothing is written");
        for _ in 0..2_000 {
            open.send(()).unwrap();
        }
        assert!(lines.flush(PATIENCE));
        let taken = taken.lock();
        let notice = format!(
            "WARN log lines dropped because standard error was not read; dropped={dropped}\n"
        );
        assert_eq!(taken.concat().matches(&notice).count(), 1);
        assert_eq!(
            taken.iter().filter(|line| line.starts_with('x')).count() as u64,
            2_000 - dropped
        );
    }

    #[test]
    fn the_last_line_is_out_before_the_end() {
        let (open, gate) = mpsc::sync_channel(10);
        let taken = Arc::new(Mutex::new(Vec::new()));
        let lines = Lines::start(Gate { open: gate, taken: Arc::clone(&taken) });
        open.send(()).unwrap();
        lines.push(b"error: the end\n".to_vec());
        assert!(lines.flush(PATIENCE));
        assert_eq!(*taken.lock(), ["error: the end\n"]);
    }

    #[test]
    fn a_closed_reader_costs_lines_and_nothing_else() {
        let (open, gate) = mpsc::sync_channel(10);
        drop(open);
        let lines = Lines::start(Gate { open: gate, taken: Arc::default() });
        lines.push(b"lost\n".to_vec());
        assert!(lines.flush(PATIENCE));
        assert_eq!(lines.dropped(), 1);
    }
}
