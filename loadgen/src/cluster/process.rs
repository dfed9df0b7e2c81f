//! One child process: this program with a hidden subcommand, its announcement, its log and its end.
//!
//! A child that binds port 0 prints its address on its first line of standard output. All other
//! output goes to a file in the report's folder, whose last lines explain a crash.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// Number of lines of a dead child's log that are shown.
const LAST_LINES: usize = 12;

/// Role of a process, by which resources are added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Admits alerts, plans waves and directs nodes.
    Coordinator,
    /// Holds devices and sends pushes.
    Shard,
    /// Emulates a gateway.
    Gateway,
}

/// A running child, which is killed when it is dropped without [`Process::stop`].
#[derive(Debug)]
pub struct Process {
    /// Role of the process.
    pub role: Role,
    /// Name of the process, unique in the cluster: `shard-1`.
    pub name: String,
    /// Id of the process in the system.
    pub pid: u32,
    /// Announced addresses; `None` until the first line is printed.
    pub announced: Option<Announcement>,
    log: PathBuf,
    child: Child,
}

/// Arguments for the start of a child.
#[derive(Debug)]
pub struct Spec<'a> {
    /// Role of the child.
    pub role: Role,
    /// Name of the process, unique in the cluster.
    pub name: String,
    /// Path of the program that runs.
    pub program: &'a Path,
    /// Command-line arguments of the program.
    pub arguments: &'a [OsString],
    /// Environment variables of the child, in addition to this process's.
    pub environment: &'a [(&'static str, String)],
    /// Folder in which the process's log file is created.
    pub log_dir: &'a Path,
}

/// Addresses on the first line of a child; other fields are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct Announcement {
    /// Address on which the process serves.
    pub listen: String,
    /// Address of its health service, if any.
    #[serde(default)]
    pub health: Option<String>,
    /// Address of its feed for nodes, if any.
    #[serde(default)]
    pub feed: Option<String>,
    /// File with the CA of the certificate that the process generated, if it did.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Address of its token endpoint, if any.
    #[serde(default)]
    pub token_uri: Option<String>,
    /// Address of its metadata server, if any.
    #[serde(default)]
    pub metadata_host: Option<String>,
}

/// Standard input and output of a child, after its first line.
#[derive(Debug)]
pub struct Pipes {
    /// Standard input of the child.
    pub stdin: ChildStdin,
    /// Standard output of the child.
    pub stdout: BufReader<ChildStdout>,
}

/// Reason why a child could not be started, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program could not be started.
    #[error("cannot start {name}: {source}")]
    Start {
        /// The name of the process.
        name: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The process ended unasked.
    #[error("{name} ended by itself ({status}); its log {log} ends with:\n{last}")]
    Ended {
        /// The name of the process.
        name: String,
        /// Exit code or signal.
        status: String,
        /// Path of its log file.
        log: String,
        /// Last lines of its log.
        last: String,
    },
    /// The process runs, but has not announced its addresses.
    #[error(
        "{name} did not announce its addresses within {seconds} s; its log {log} ends with:\n{last}"
    )]
    Silent {
        /// Name of the process.
        name: String,
        /// Time limit for its start, seconds.
        seconds: u64,
        /// Path of its log file.
        log: String,
        /// Last lines of its log.
        last: String,
    },
    /// The first line is not an announcement.
    #[error("{name}: unreadable line with its address: {problem}")]
    Announcement {
        /// The name of the process.
        name: String,
        /// Error of the parser.
        problem: String,
    },
}

impl Process {
    /// Starts a child and waits until it has announced its addresses.
    ///
    /// # Errors
    /// If the child cannot be started, ends, or announces nothing within `deadline`.
    pub async fn start(
        spec: Spec<'_>,
        deadline: Duration,
    ) -> Result<(Self, Announcement, Pipes), ProcessError> {
        let Spec { role, name, program, arguments, environment, log_dir } = spec;
        let log = log_dir.join(format!("{name}.log"));
        let failed = |source| ProcessError::Start { name: name.clone(), source };
        let log_file = fs::File::create(&log).map_err(failed)?;
        let mut child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_file)
            // Ctrl-C in a terminal goes to the whole process group; this program ends its children
            // itself, in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let pid =
            child.id().ok_or_else(|| failed(io::Error::other("the process ended at once")))?;
        let stdin = child.stdin.take().expect("it was asked for");
        let mut stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
        let mut process = Self { role, name, pid, announced: None, log, child };

        let mut line = String::new();
        // A line of at most 4 KiB: a child that prints without end must not fill the memory.
        let first = timeout(deadline, (&mut stdout).take(4_096).read_line(&mut line)).await;
        match first {
            Err(_) => return Err(process.silent(deadline)),
            Ok(Ok(0) | Err(_)) => return Err(process.ended_within(deadline).await),
            Ok(Ok(_)) => {}
        }
        let announcement: Announcement = serde_json::from_str(&line).map_err(|e| {
            ProcessError::Announcement { name: process.name.clone(), problem: e.to_string() }
        })?;
        process.announced = Some(announcement.clone());
        Ok((process, announcement, Pipes { stdin, stdout }))
    }

    /// Returns the error of a process that ended unasked.
    pub fn death(&mut self) -> Option<ProcessError> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(self.ended(status)),
            Err(e) => Some(ProcessError::Start { name: self.name.clone(), source: e }),
        }
    }

    /// Asks the process to end (SIGTERM), and kills it at the deadline. Returns true if it ended by
    /// itself and without an error.
    pub async fn stop(mut self, deadline: Duration) -> bool {
        self.signal(Signal::TERM);
        match timeout(deadline, self.child.wait()).await {
            Ok(status) => status.is_ok_and(|s| s.success()),
            Err(_) => {
                // The process is gone after SIGKILL; the wait only collects it.
                drop(self.child.kill().await);
                false
            }
        }
    }

    /// Kills the process as a power failure would (SIGKILL), and renames its log for its successor.
    pub async fn kill(mut self) {
        // An error means that the process has ended already. A log that cannot be kept is no reason
        // to end a run.
        drop(self.child.kill().await);
        self.keep_log("killed");
    }

    /// Stops the process as [`Process::stop`] does, and renames its log for its successor.
    pub async fn terminate(self, deadline: Duration) -> bool {
        let (log, name) = (self.log.clone(), self.name.clone());
        let well = self.stop(deadline).await;
        keep_log(&log, &name, "ended");
        well
    }

    fn keep_log(&self, how: &str) {
        keep_log(&self.log, &self.name, how);
    }

    fn signal(&self, signal: Signal) {
        // The id cannot belong to another process, because the child was not waited for yet.
        if let Some(pid) =
            self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
        {
            // An error means that the process has ended already, as intended.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    async fn ended_within(&mut self, deadline: Duration) -> ProcessError {
        match timeout(deadline, self.child.wait()).await {
            Ok(Ok(status)) => self.ended(status),
            _ => self.silent(deadline),
        }
    }

    fn ended(&self, status: ExitStatus) -> ProcessError {
        ProcessError::Ended {
            name: self.name.clone(),
            status: status.to_string(),
            log: self.log.display().to_string(),
            last: self.last_lines(),
        }
    }

    fn silent(&self, deadline: Duration) -> ProcessError {
        ProcessError::Silent {
            name: self.name.clone(),
            seconds: deadline.as_secs(),
            log: self.log.display().to_string(),
            last: self.last_lines(),
        }
    }

    fn last_lines(&self) -> String {
        let text = fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..]
            .iter()
            .map(|l| format!("    {l}\n"))
            .collect()
    }
}

/// Renames a log to the first number that is free. A log that cannot be kept is no reason to end a
/// run.
fn keep_log(log: &Path, name: &str, how: &str) {
    let kept = |n: u32| log.with_file_name(format!("{name}.{how}-{n}.log"));
    if let Some(free) = (1..1_000).map(kept).find(|path| !path.exists()) {
        drop(fs::rename(log, free));
    }
}

/// Makes the calling process end with its parent, even if the parent is killed. A child calls it at
/// its start.
///
/// # Errors
/// If the parent has ended already, or the system refuses.
pub fn end_with_parent(parent: u32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    // The parent may have ended before the line above; then no signal comes.
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    match now {
        Some(pid) if u32::try_from(pid).is_ok_and(|p| p == parent) => Ok(()),
        _ => Err(io::Error::other("the parent process has ended")),
    }
}
