//! How `loadgen` begins and ends: help, clear refusals, and nothing left behind.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

fn loadgen() -> Command {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
}

#[test]
fn help_and_list_explain_everything() {
    let help = loadgen().args(["run", "--help"]).output().unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    for option in ["--devices", "--nodes", "--seed", "--report", "--strict", "--cores"] {
        assert!(text.contains(option), "{option} is in the help");
    }
    let list = String::from_utf8(loadgen().arg("list").output().unwrap().stdout).unwrap();
    for name in ["city", "antimeridian", "pole", "polygon-hole", "slow-gateway", "silent-gateway", "cancel", "motion"] {
        assert!(list.contains(name), "{name} is listed");
    }
}

#[test]
fn refusals_are_one_clear_line_and_exit_code_2() {
    for (arguments, words) in [
        (vec!["run", "nowhere"], "no scenario `nowhere`"),
        (vec!["run", "/nowhere.toml"], "cannot read scenario /nowhere.toml"),
        (vec!["run", "city", "--nodes", "0"], "nodes: must be 1 to 64, is 0"),
    ] {
        let output = loadgen().args(&arguments).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.starts_with("error: ") && text.contains(words) && text.lines().count() == 1, "{text}");
    }
}

/// Processes whose parent is `pid`, from `/proc`.
fn children(pid: u32) -> Vec<u32> {
    let parent_of = |child: u32| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|child| parent_of(*child) == Some(pid)).collect()
}

fn is_loadgen(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("loadgen"))
}

#[test]
fn sigterm_ends_every_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = loadgen()
        .args(["run", "city", "--devices", "3000", "--nodes", "2", "--report", dir.path().to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The load begins when all processes are up.
    let mut lines = BufReader::new(run.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("load")), "it began to load");
    let started = children(run.id());
    assert_eq!(started.len(), 4, "coordinator, two nodes and the gateway");

    let pid = rustix::process::Pid::from_child(&run);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let rest: Vec<_> = lines.collect();
    let status = run.wait().unwrap();
    assert_eq!(status.code(), Some(2), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("ended by SIGTERM")), "{rest:?}");
    assert!(!started.iter().any(|child| is_loadgen(*child)), "none of them is left");
}
