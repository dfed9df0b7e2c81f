//! The runner of rows under callgrind, and the table.
//!
//! Filling partitions takes longer than the counted part, so callgrind instruments nothing at
//! first: the row prints when it has reached its counted part, and `callgrind_control --instr=on`
//! follows. That requires that vgdb reaches the process, so the process polls for the answer
//! instead of sleeping.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{Arguments, Counted, Setting, settings};

/// Function in which callgrind collects, as symbols spell it.
const COUNTED: &str = "instructions::world::counted*";
/// Environment variable with the file that the row waits for.
const GO: &str = "CLARION_BENCH_GO";
/// Line that the row prints when it waits.
const READY: &str = "ready";
/// Number of functions of a profile that are printed.
const PROFILE_LINES: usize = 25;

/// One row with its counts.
struct Row {
    setting: Setting,
    counted: Counted,
    instructions: u64,
}

impl Row {
    fn per_push(&self) -> f64 {
        self.instructions as f64 / self.counted.pushes as f64
    }
}

/// Runs all rows, and prints each and the difference between them.
pub(crate) fn table(arguments: &Arguments) -> io::Result<()> {
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("SKIPPED: valgrind is not installed, so no instructions are counted");
        return Ok(());
    }
    let temporary = tempfile::tempdir()?;
    let directory = arguments.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    fs::create_dir_all(&directory)?;
    println!("| case | devices | alerts | pushes counted | bytes/push | instructions/push |");
    println!("|---|---:|---:|---:|---:|---:|");
    let mut rows: Vec<Row> = Vec::new();
    let mut profile = None;
    for setting in settings(arguments) {
        let name = format!("{}-{}-{}", setting.case.name(), setting.devices, setting.alerts);
        let file = directory.join(format!("callgrind.{name}"));
        let counted = run(arguments, &setting, &file)?;
        let row = Row { setting, counted, instructions: instructions(&file)? };
        println!(
            "| {} | {} | {} | {} | {:.1} | {:.1} |",
            setting.case.name(),
            setting.devices,
            setting.alerts,
            row.counted.pushes,
            row.counted.bytes as f64 / row.counted.pushes as f64,
            row.per_push(),
        );
        rows.push(row);
        profile.get_or_insert(file);
    }
    println!();
    for &case in &arguments.cases {
        let costs = || rows.iter().filter(|row| row.setting.case == case).map(Row::per_push);
        let (low, high) = (costs().fold(f64::INFINITY, f64::min), costs().fold(0.0, f64::max));
        println!(
            "{}: {:.1} % between the cheapest and the dearest",
            case.name(),
            (high / low - 1.0) * 100.0
        );
    }
    match profile {
        Some(file) if arguments.profile => annotate(&file, &rows[0]),
        _ => Ok(()),
    }
}

/// Runs one row in a process of its own under valgrind.
fn run(arguments: &Arguments, setting: &Setting, file: &Path) -> io::Result<Counted> {
    let go = file.with_extension("go");
    let _ = fs::remove_file(&go);
    let mut child = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--instr-atstart=no", "--quiet"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(env::current_exe()?)
        .args(["--inner", "--case", setting.case.name()])
        .args(["--devices", &setting.devices.to_string(), "--alerts", &setting.alerts.to_string()])
        .args([
            "--partitions",
            &arguments.partitions.to_string(),
            "--window",
            &arguments.window.to_string(),
        ])
        .env(GO, &go)
        .stdout(Stdio::piped())
        .spawn()?;
    let ended = converse(&mut child, &go);
    if ended.is_err() {
        let _ = child.kill();
    }
    let status = child.wait()?;
    let _ = fs::remove_file(&go);
    match ended {
        Ok(counted) if status.success() => Ok(counted),
        Ok(_) => Err(io::Error::other(format!("valgrind ended with {status}"))),
        Err(error) => Err(error),
    }
}

fn converse(child: &mut Child, go: &Path) -> io::Result<Counted> {
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut line =
        || lines.next().unwrap_or_else(|| Err(io::Error::other("the row ended without a word")));
    if line()? != READY {
        return Err(io::Error::other("the row did not say that it is ready"));
    }
    let control = Command::new("callgrind_control")
        .args(["--instr=on", &child.id().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if !control.success() {
        return Err(io::Error::other("callgrind_control could not reach the process"));
    }
    fs::write(go, "")?;
    let counted = line()?;
    let mut numbers = counted.split(' ').map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(pushes)), Some(Ok(bytes))) => Ok(Counted { pushes, bytes }),
        _ => Err(io::Error::other(format!("the row said {counted:?}"))),
    }
}

/// Waits in the row's process until valgrind instruments it. Without valgrind it continues at once.
pub(crate) fn wait_to_be_instrumented() -> io::Result<()> {
    let Some(go) = env::var_os(GO).map(PathBuf::from) else { return Ok(()) };
    let mut out = io::stdout().lock();
    writeln!(out, "{READY}")?;
    out.flush()?;
    // Busy on purpose: valgrind serves its controller between blocks of code, and not while a
    // process sleeps.
    while !go.exists() {
        std::hint::spin_loop();
    }
    Ok(())
}

/// Prints the counts in the row's process.
pub(crate) fn print(counted: &Counted) -> io::Result<()> {
    writeln!(io::stdout(), "{} {}", counted.pushes, counted.bytes)
}

/// Returns the total of callgrind's output file.
fn instructions(file: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(file)?;
    let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
    totals
        .and_then(|total| total.trim().parse().ok())
        .filter(|&total| total > 0)
        .ok_or_else(|| io::Error::other(format!("{}: nothing was counted", file.display())))
}

/// Prints the instructions of a row: by function, by source file (inlined code in its own), and
/// including all calls.
fn annotate(file: &Path, row: &Row) -> io::Result<()> {
    let own = entries(file, "no")?;
    let by = |key: fn(&Entry) -> &str| {
        let mut sums = BTreeMap::<&str, u64>::new();
        own.iter().for_each(|entry| *sums.entry(key(entry)).or_default() += entry.count);
        sums
    };
    let with_calls = entries(file, "yes")?;
    let mut inclusive = BTreeMap::<&str, u64>::new();
    for entry in with_calls.iter().filter(|entry| entry.is_of_the_core()) {
        // A function has one line for each file that was inlined into it; the largest one includes
        // all its calls.
        let most = inclusive.entry(&entry.function).or_default();
        *most = entry.count.max(*most);
    }
    let Setting { case, devices, alerts, .. } = row.setting;
    for (title, sums) in [
        ("own, by function", by(|entry| &entry.function)),
        ("own, by source file", by(|entry| &entry.file)),
        ("with all that is called", inclusive),
    ] {
        println!(
            "\n{}, {devices} devices, {alerts} alerts: instructions a push, {title}\n",
            case.name()
        );
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
        for (name, count) in sums.into_iter().take(PROFILE_LINES) {
            println!("{:9.1}  {name}", count as f64 / row.counted.pushes as f64);
        }
    }
    Ok(())
}

/// Parsed line of `callgrind_annotate`.
struct Entry {
    count: u64,
    file: String,
    function: String,
}

impl Entry {
    /// Reports whether the function belongs neither to this program nor to its start-up code.
    fn is_of_the_core(&self) -> bool {
        let function = self.function.trim_start_matches('<');
        ["clarion_", "h3o", "roaring", "rustls", "alloc::", "hashbrown"]
            .iter()
            .any(|of| function.starts_with(of))
    }
}

fn entries(file: &Path, inclusive: &str) -> io::Result<Vec<Entry>> {
    let output = Command::new("callgrind_annotate")
        .args([&format!("--inclusive={inclusive}"), "--threshold=100", "--auto=no"])
        .arg(file)
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(entry).collect())
}

/// Parses `1,234 (56.7%)  file:function [object]`.
fn entry(line: &str) -> Option<Entry> {
    let (count, rest) = line.trim_start().split_once(' ')?;
    let count = count.replace(',', "").parse().ok()?;
    let (_, name) = rest.split_once("%)")?;
    let (file, function) = name.trim().split(" [").next()?.split_once(':')?;
    // Paths differ between machines; a crate's own paths begin with its folder.
    let file = ["/registry/src/", "/library/"]
        .iter()
        .find_map(|at| file.split_once(at))
        .map_or(file, |(_, file)| file);
    Some(Entry { count, file: file.to_owned(), function: function.to_owned() })
}
