//! A PostgreSQL server that belongs to a test: `initdb` with checksums, in a temporary folder.
//!
//! The server runs under a shell that waits for the end of its standard input. It ends, and its
//! folder is removed, however the test ends: by return, by a panic, or by a signal. Only std is
//! used here, so that the tests of other crates can include this file.
#![allow(clippy::disallowed_methods, reason = "tests have clocks and connections of their own")]
#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Runs the server until standard input ends, or has a line: then the folder stays.
const SCRIPT: &str = r#"
set -eu
folder=$1; bin=$2; port=$3; source=$4; source_port=$5
made=
if [ -z "$folder" ]; then
  folder=$(mktemp -d "${TMPDIR:-/tmp}/clarion-postgres-XXXXXX"); made=1
fi
if [ -n "$source" ]; then
  rm -rf "$folder/data"
  "$bin/pg_basebackup" -R -c fast -w -U clarion -h "$source" -p "$source_port" \
    -D "$folder/data" >>"$folder/log" 2>&1
elif [ -n "$made" ]; then
  "$bin/initdb" -k -A trust -U clarion -E UTF8 --no-locale -D "$folder/data" >"$folder/log" 2>&1
  printf '%s\n' "include_if_exists = '../test.conf'" >>"$folder/data/postgresql.conf"
fi
rm -f "$folder/data/postmaster.pid"
echo "$folder"
"$bin/postgres" -D "$folder/data" -k "$folder" -p "$port" -c listen_addresses=127.0.0.1 \
  -c max_connections=200 >>"$folder/log" 2>&1 </dev/null &
server=$!
if read -r line; then keep=1; else keep=; fi
kill -QUIT "$server" 2>/dev/null || true
wait "$server" 2>/dev/null || true
[ -n "$keep" ] || rm -rf "$folder"
"#;

/// Time for a server to start: the recovery after a crash, on a machine with other work.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// A server that runs, or was killed and can be started again.
#[derive(Debug)]
pub(crate) struct TestServer {
    bin: PathBuf,
    folder: PathBuf,
    port: u16,
    shell: Child,
    input: Option<ChildStdin>,
}

impl TestServer {
    /// Starts a server. `None`: PostgreSQL is not installed, and this is not a check for which it
    /// has to be (`CI=1`).
    pub(crate) fn start() -> Option<Self> {
        let Some(bin) = programs() else {
            let must = env::var("CI").is_ok_and(|ci| ci == "1" || ci == "true");
            assert!(!must, "no initdb: install the package postgresql");
            eprintln!(
                "!!! SKIPPED: no initdb; `apt-get install postgresql` to prove the store on it"
            );
            return None;
        };
        let port = free_port();
        let (shell, input, folder) = run(&bin, Path::new(""), port, None);
        let server = Self { bin, folder, port, shell, input: Some(input) };
        server.wait_until_ready();
        Some(server)
    }

    /// Starts a standby that follows this server: a base backup in a folder of its own.
    pub(crate) fn standby(&self) -> Self {
        let (bin, port) = (self.bin.clone(), free_port());
        let (shell, input, folder) = run(&bin, Path::new(""), port, Some(self));
        let server = Self { bin, folder, port, shell, input: Some(input) };
        server.wait_until_ready();
        server
    }

    /// Ends the server if it runs, and starts it as a standby of another server.
    pub(crate) fn follow(&mut self, primary: &Self) {
        self.stop();
        let (shell, input, _) = run(&self.bin, &self.folder, self.port, Some(primary));
        (self.shell, self.input) = (shell, Some(input));
        self.wait_until_ready();
    }

    /// Makes this standby the primary.
    pub(crate) fn promote(&self) {
        assert_eq!(self.sql("postgres", "SELECT pg_promote(true, 60)"), "t");
    }

    /// Host and port of the server's socket, as a URL names them.
    pub(crate) fn host(&self) -> String {
        let folder = self.folder.to_str().expect("ASCII").replace('/', "%2F");
        format!("{folder}:{}", self.port)
    }

    /// URL of a database over the server's socket.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://clarion@{}/{database}", self.host())
    }

    /// Port of TCP on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Folder of the server's data (`data`), its log and its sockets.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes an empty database.
    pub(crate) fn create_database(&self, name: &str) {
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
    }

    /// Runs SQL, and returns the rows as psql prints them: columns between bars.
    ///
    /// # Panics
    /// The server refuses the SQL.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        let ran = self.psql(database, sql).output().expect("psql starts");
        let told = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{sql}: {told}");
        String::from_utf8(ran.stdout).expect("UTF-8").trim().to_owned()
    }

    /// A session of psql, for what a test does beside others.
    pub(crate) fn psql(&self, database: &str, sql: &str) -> Command {
        let mut command = Command::new(self.bin.join("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "clarion"]);
        command.arg("-h").arg(&self.folder).arg("-p").arg(self.port.to_string());
        command.args(["-d", database, "-c", sql]);
        command
    }

    /// Kills the server and all its processes at once (SIGKILL).
    pub(crate) fn kill(&self) {
        let server = self.server_id();
        let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children"));
        let mut command = Command::new("kill");
        // The postmaster first: it must not see its children die, and start to recover.
        command.arg("-KILL").arg(server.to_string());
        command.args(children.unwrap_or_default().split_whitespace());
        command.stderr(Stdio::null()).status().expect("kill runs");
    }

    /// Stops the server's processes without ending them, or lets them go on.
    pub(crate) fn pause(&self, paused: bool) {
        let server = self.server_id();
        let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children"));
        let mut command = Command::new("kill");
        command.arg(if paused { "-STOP" } else { "-CONT" }).arg(server.to_string());
        command.args(children.unwrap_or_default().split_whitespace());
        command.stderr(Stdio::null()).status().expect("kill runs");
    }

    /// Ends the server if it runs, and starts it again with the same data.
    pub(crate) fn restart(&mut self) {
        self.stop();
        let (shell, input, _) = run(&self.bin, &self.folder, self.port, None);
        (self.shell, self.input) = (shell, Some(input));
        self.wait_until_ready();
    }

    /// Ends the server if it runs; the data stay.
    pub(crate) fn stop(&mut self) {
        if let Some(mut input) = self.input.take() {
            input.write_all(b"keep\n").expect("the shell waits");
            self.shell.wait().expect("the shell ends");
        }
    }

    /// Sets a parameter of the server while it runs.
    pub(crate) fn set(&self, parameter: &str, value: &str) {
        self.sql("postgres", &format!("ALTER SYSTEM SET {parameter} = '{value}'"));
        self.sql("postgres", "SELECT pg_reload_conf()");
    }

    fn server_id(&self) -> u32 {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid")).expect("it runs");
        file.lines().next().and_then(|line| line.trim().parse().ok()).expect("a process")
    }

    fn wait_until_ready(&self) {
        let since = Instant::now();
        loop {
            let file = fs::read_to_string(self.folder.join("data/postmaster.pid"));
            let is_up = |state: &str| ["ready", "standby"].contains(&state.trim());
            if file.is_ok_and(|file| file.lines().nth(7).is_some_and(is_up)) {
                return;
            }
            if since.elapsed() > START_DEADLINE {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                panic!("the server does not start: {log}");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        // With the folder, because the input ends without a line.
        if let Some(input) = self.input.take() {
            drop(input);
            let _ = self.shell.wait();
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Starts the shell of a server, as the user `postgres` if this is root: the server refuses to run
/// as root. An empty `folder`: the shell makes one. With a `source`, the data are its base backup.
fn run(
    bin: &Path,
    folder: &Path,
    port: u16,
    source: Option<&TestServer>,
) -> (Child, ChildStdin, PathBuf) {
    let is_root = fs::metadata("/proc/self")
        .is_ok_and(|process| std::os::unix::fs::MetadataExt::uid(&process) == 0);
    let mut command = if is_root {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "sh"]);
        command
    } else {
        Command::new("sh")
    };
    command.current_dir("/").args(["-c", SCRIPT, "sh"]);
    command.arg(folder).arg(bin).arg(port.to_string());
    let (source, source_port) = match source {
        Some(source) => (source.folder.as_path(), source.port.to_string()),
        None => (Path::new(""), String::new()),
    };
    command.arg(source).arg(source_port);
    let mut shell =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh starts");
    let mut folder = String::new();
    let mut output = BufReader::new(shell.stdout.take().expect("piped"));
    output.read_line(&mut folder).expect("its folder");
    let folder = PathBuf::from(folder.trim());
    assert!(folder.is_absolute(), "initdb failed: try it by hand");
    let input = shell.stdin.take().expect("piped");
    (shell, input, folder)
}

/// A port that is free until something else takes it; the test fails then, and is repeated.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port()
}

/// Folder of the server's programs; the newest version of several.
fn programs() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    let mut installed: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .collect();
    installed.sort();
    folders.extend(installed.into_iter().rev());
    let all = ["initdb", "postgres", "psql", "pg_basebackup"];
    folders.into_iter().find(|folder| all.iter().all(|program| folder.join(program).exists()))
}
