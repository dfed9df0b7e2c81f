//! Start and end of `loadgen`: help, clear refusals, and no processes left behind.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal},
};

fn loadgen() -> Command {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
}

#[test]
fn help_and_list_explain_everything() {
    let help = loadgen().args(["run", "--help"]).output().unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    for option in [
        "--devices",
        "--nodes",
        "--seed",
        "--report",
        "--strict",
        "--cores",
        "--cluster",
        "--gateway",
    ] {
        assert!(text.contains(option), "{option} is in the help");
    }
    let list = String::from_utf8(loadgen().arg("list").output().unwrap().stdout).unwrap();
    for name in [
        "city",
        "city-far",
        "antimeridian",
        "pole",
        "polygon-hole",
        "slow-gateway",
        "silent-gateway",
        "cancel",
        "motion",
    ] {
        assert!(list.contains(name), "{name} is listed");
    }
}

#[test]
fn refusals_are_one_clear_line_and_exit_code_2() {
    for (arguments, words) in [
        (vec!["run", "nowhere"], "scenario: must be one of"),
        (vec!["run", "/nowhere.toml"], "cannot read scenario /nowhere.toml"),
        (vec!["run", "city", "--nodes", "0"], "nodes: must be 1 to 64; got 0"),
        (
            vec!["run", "city", "--case", "goaway"],
            "this scenario is one alert, not a series of cases",
        ),
        (
            vec!["run", "faults", "--case", "goway"],
            "--case: must be one of `undisturbed`, `goaway`",
        ),
        (
            vec!["run", "faults", "--nodes", "1", "--seconds", "0"],
            "series.seconds: must be greater than 0",
        ),
        (
            vec!["run", "pole", "--cluster", "http://127.0.0.1:1", "--gateway", "fcm=127.0.0.1:1"],
            "--gateway: is required for apns; give the control port",
        ),
        (vec!["gateway", "--directory", "/proc/nowhere"], "/proc/nowhere/ca.pem"),
        (vec!["keys", "--directory", "/proc/nowhere"], "/proc/nowhere"),
    ] {
        let output = loadgen().args(&arguments).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(
            text.starts_with("error: ") && text.contains(words) && text.lines().count() == 1,
            "{text}"
        );
    }
}

/// Returns the processes whose parent is `pid`, from `/proc`.
fn children(pid: u32) -> Vec<u32> {
    let parent_of = |child: u32| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = all.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|child| parent_of(*child) == Some(pid)).collect()
}

/// Starts a run that loads devices. Returns the run, its further output, and handles of the
/// processes that it started.
fn begun(dir: &Path, devices: &str) -> (Child, impl Iterator<Item = String>, Vec<OwnedFd>) {
    let mut run = loadgen()
        .args([
            "run",
            "city",
            "--devices",
            devices,
            "--nodes",
            "2",
            "--report",
            dir.to_str().expect("UTF-8"),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    // The load begins when all processes are up.
    let mut lines = BufReader::new(run.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("load")), "it began to load");
    let started: Vec<OwnedFd> = children(run.id())
        .into_iter()
        .map(|pid| Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not 0"))
        .map(|pid| pidfd_open(pid, PidfdFlags::empty()).expect("it runs"))
        .collect();
    assert_eq!(started.len(), 5, "coordinator, two nodes and two gateways");
    (run, lines, started)
}

/// Reports whether a process ends within half a minute.
fn ends(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    let deadline = Timespec { tv_sec: 30, tv_nsec: 0 };
    poll(&mut fds, Some(&deadline)).expect("a pidfd can be polled") == 1
}

#[test]
fn sigterm_ends_every_process_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (mut run, lines, started) = begun(dir.path(), "3000");
    kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
    let rest: Vec<_> = lines.collect();
    assert_eq!(run.wait().unwrap().code(), Some(2), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("ended by SIGTERM")), "{rest:?}");
    assert!(started.iter().all(ends), "none of them is left");
}

#[test]
fn children_end_with_a_parent_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut run, _lines, started) = begun(dir.path(), "3000");
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(started.iter().all(ends), "none of them is left");
}

#[test]
fn a_process_that_dies_is_named_with_its_last_words() {
    let dir = tempfile::tempdir().unwrap();
    // Enough devices that the load is still running when the signal arrives.
    let (mut run, lines, started) = begun(dir.path(), "200000");
    pidfd_send_signal(&started[1], Signal::KILL).unwrap();
    let rest: Vec<_> = lines.collect();
    assert_eq!(run.wait().unwrap().code(), Some(2), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("ended by itself (signal: 9")), "{rest:?}");
    assert!(started.iter().all(ends), "none of them is left");
}

#[test]
fn the_folder_of_the_report_may_be_relative() {
    // Without --report: `target/loadgen`, from any working directory.
    let dir = tempfile::tempdir().expect("a folder");
    let arguments =
        ["run", "city", "--devices", "1000", "--nodes", "1", "--report", "here/and/there"];
    let output = loadgen().args(arguments).current_dir(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(dir.path().join("here/and/there/report.json").is_file());
}
