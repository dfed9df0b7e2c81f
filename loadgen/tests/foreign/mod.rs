//! Third-party programs, installed by the tests that need them.
//!
//! What they need is named with exact versions in `package.json` with its lock and in
//! `requirements.txt`, and installed into `target/foreign/`, once for each content of these files.
//! A machine without node, python or a package registry cannot run them; a test then says so in one
//! loud line and passes, because the defect is not Clarion's.
#![allow(dead_code)] // each test uses a part

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::{process::Command, sync::Mutex, time::timeout};

/// Time limit of an installation. 110 MB of node modules or 80 MB of wheels from a near registry
/// take half a minute.
const INSTALL_DEADLINE: Duration = Duration::from_secs(300);
/// Time limit of a third-party program. It ends within seconds; on a busy machine it may take ten
/// times that.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(240);

/// Lock of the installation, because tests of one binary run in parallel.
static INSTALLING: Mutex<()> = Mutex::const_new(());

/// Returns the folder of the third-party programs.
pub(crate) fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign")
}

/// Prints that a test is skipped, past the capture of the test harness, so that people see it.
pub(crate) fn skip(what: &str) {
    let line = format!("!!! SKIPPED: {what}\n");
    std::io::stderr().lock().write_all(line.as_bytes()).expect("standard error is there");
}

/// Ends the test with a message if the tool that it needs cannot be installed.
macro_rules! or_skip {
    ($tool:expr) => {
        match $tool {
            Ok(tool) => tool,
            Err(why) => return $crate::foreign::skip(&why),
        }
    };
}

/// Node with the packages of `package.json`.
pub(crate) struct Node {
    modules: PathBuf,
}

impl Node {
    /// Installs the packages if they are missing.
    ///
    /// # Errors
    /// The reason why they cannot be installed.
    pub(crate) async fn installed() -> Result<Self, String> {
        let version = version_of("node").await?;
        version_of("npm").await?;
        let wanted = [read("package.json"), read("package-lock.json"), version].concat();
        let modules = installed("node", &wanted, async |dir| {
            for name in ["package.json", "package-lock.json"] {
                fs::copy(programs().join(name), dir.join(name)).expect("copied");
            }
            // Not `npm ci`, which refuses a lock without buf's packages for other systems, and not
            // every registry has these. Versions and hashes are those of the lock all the same.
            // Scripts of packages are not run: none is needed.
            run(
                "npm install",
                Command::new("npm")
                    .args(["install", "--ignore-scripts", "--no-audit", "--no-fund"])
                    .current_dir(dir),
            )
            .await
        })
        .await?;
        Ok(Self { modules: modules.join("node_modules") })
    }

    /// Returns a command for a program of this folder.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new("node");
        command.arg(programs().join(name)).env("NODE_PATH", &self.modules);
        command
    }

    /// Returns the folder of the packages.
    pub(crate) fn modules(&self) -> &Path {
        &self.modules
    }

    /// Returns a command for a program of a package.
    pub(crate) fn binary(&self, name: &str) -> Command {
        Command::new(self.binary_path(name))
    }

    /// Returns the path of a program of a package.
    pub(crate) fn binary_path(&self, name: &str) -> PathBuf {
        self.modules.join(".bin").join(name)
    }
}

/// Python with the packages of `requirements.txt`.
pub(crate) struct Python {
    interpreter: PathBuf,
}

impl Python {
    /// Installs the packages if they are missing.
    ///
    /// # Errors
    /// The reason why they cannot be installed.
    pub(crate) async fn installed() -> Result<Self, String> {
        let version = version_of("python3").await?;
        let wanted = [read("requirements.txt"), version].concat();
        let dir = installed("python", &wanted, async |dir| {
            run("python3 -m venv", Command::new("python3").args(["-m", "venv"]).arg(dir)).await?;
            let mut pip = Command::new(dir.join("bin/python"));
            pip.args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
            ]);
            pip.args(["--only-binary", ":all:", "--requirement"])
                .arg(programs().join("requirements.txt"));
            run("pip install", &mut pip).await
        })
        .await?;
        Ok(Self { interpreter: dir.join("bin/python") })
    }

    /// Returns a command for a program of this folder.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(&self.interpreter);
        command.arg(programs().join(name)).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// Returns the path of the interpreter with the packages.
    pub(crate) fn path(&self) -> &Path {
        &self.interpreter
    }
}

/// Runs a third-party program to its end and reads the JSON object that it prints last.
pub(crate) async fn verdict(program: &mut Command) -> Value {
    let output = output(program).await;
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {out}\n{err}", output.status);
    let last = out.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|e| panic!("no verdict ({e}): {out}\n{err}"))
}

/// Runs a third-party program to its end.
pub(crate) async fn output(program: &mut Command) -> Output {
    let child = program.stdin(Stdio::null()).kill_on_drop(true).output();
    timeout(PROGRAM_DEADLINE, child).await.expect("it ends in time").expect("it starts")
}

/// Returns the folder of the result of `install` for `wanted`, and runs `install` if no earlier run
/// has.
async fn installed(
    name: &str,
    wanted: &str,
    install: impl AsyncFnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let _one = INSTALLING.lock().await;
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target").join("foreign");
    let key = xxhash_rust::xxh3::xxh3_64(wanted.as_bytes());
    let dir = all.join(format!("{name}-{key:016x}"));
    if dir.is_dir() {
        return Ok(dir);
    }
    // An incomplete installation stays in a folder that is never used.
    fs::create_dir_all(&all).map_err(|e| format!("{}: {e}", all.display()))?;
    let half = tempfile::tempdir_in(&all).map_err(|e| e.to_string())?;
    install(half.path()).await?;
    match fs::rename(half.keep(), &dir) {
        Err(e) if !dir.is_dir() => Err(format!("{}: {e}", dir.display())),
        // Another process was faster.
        _ => Ok(dir),
    }
}

async fn version_of(program: &str) -> Result<String, String> {
    let output = Command::new(program).arg("--version").kill_on_drop(true).output();
    match timeout(PROGRAM_DEADLINE, output).await {
        Ok(Ok(output)) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        _ => Err(format!("{program} is not installed: nothing that is written for it was tried")),
    }
}

async fn run(what: &str, command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    match timeout(INSTALL_DEADLINE, output).await {
        Err(_) => Err(format!("{what} did not end within {} s", INSTALL_DEADLINE.as_secs())),
        Ok(Err(e)) => Err(format!("{what}: {e}")),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let text = String::from_utf8_lossy(&output.stderr);
            let words =
                text.lines().map(str::trim).filter(|l| l.to_lowercase().contains("error")).take(4);
            let words = words.collect::<Vec<_>>().join(" | ");
            Err(format!("{what} failed, so nothing that needs it was tried: {words}"))
        }
    }
}

fn read(name: &str) -> String {
    fs::read_to_string(programs().join(name)).expect("a file of this folder")
}
