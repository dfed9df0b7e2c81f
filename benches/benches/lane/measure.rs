//! CPU time of a whole process of any program.
//!
//! The measured program is the only child of a small process of its own, so that the system's
//! figures about its children are those of the program, from its start to its end.

use std::{
    ffi::OsStr,
    io::{self, Write as _},
    process::{Command, Stdio},
    time::Duration,
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};

/// Mark of the measuring process's line, after all other output.
const MARK: &str = "usage:";

/// Resource use and output of a program.
#[derive(Debug)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) rss_bytes: u64,
    pub(crate) said: String,
}

/// Returns a command that runs a program on one core, if the system has `taskset` and that core.
pub(crate) fn pinned(core: usize, program: &OsStr) -> Command {
    let probe = Command::new("taskset")
        .args(["-c", &core.to_string(), "true"])
        .stderr(Stdio::null())
        .status();
    if !probe.is_ok_and(|status| status.success()) {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

/// Runs a program under measurement on the second core.
pub(crate) fn measured(program: &OsStr, arguments: &[String]) -> io::Result<Usage> {
    let output = pinned(1, std::env::current_exe()?.as_os_str())
        .arg("measure")
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(io::Error::other(format!("{}: {}", program.display(), said.trim())));
    }
    let (said, usage) = said
        .rsplit_once(MARK)
        .ok_or_else(|| io::Error::other("the measuring process said nothing"))?;
    let mut numbers = usage.split_whitespace().map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(cpu_us)), Some(Ok(rss_kib))) => Ok(Usage {
            cpu: Duration::from_micros(cpu_us),
            rss_bytes: rss_kib * 1024,
            said: said.to_owned(),
        }),
        _ => Err(io::Error::other(format!("the measuring process said {usage:?}"))),
    }
}

/// Runs the program in the measuring process, and prints its resource use.
pub(crate) fn measure(command: &[String]) -> io::Result<()> {
    let (program, arguments) =
        command.split_first().ok_or_else(|| io::Error::other("what is to be measured?"))?;
    let status = Command::new(program).args(arguments).status()?;
    if !status.success() {
        return Err(io::Error::other(format!("{program} ended with {status}")));
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu_us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    writeln!(io::stdout(), "{MARK} {cpu_us} {}", usage.max_rss())
}
