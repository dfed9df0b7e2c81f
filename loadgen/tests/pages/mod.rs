//! The pages of the manual, `README.md` and `k8s/README.md`, and their blocks of code.
//!
//! A test takes a block by some of its words and executes it as it stands. Only places differ, so
//! that tests run side by side: ports, the folder for the reader's files, and the folder of built
//! programs.
#![allow(dead_code)] // each test uses a part

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{process::Command, time::timeout};

/// Time limit for a release build, packages for Python and Node, a cluster and its alert, on a busy
/// machine with two processors where nothing was built or installed before.
pub(crate) const DEADLINE: Duration = Duration::from_secs(1_800);

/// Names of the pages, relative to the repository.
pub(crate) const PAGES: [&str; 2] = ["README.md", "k8s/README.md"];

/// The manual's folder of built programs.
const PROGRAMS: &str = "target/release";

/// Returns the folder of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

/// Returns the target directory of this test's cargo, in which each profile has a folder of
/// programs.
pub(crate) fn target() -> &'static Path {
    let profile = Path::new(env!("CARGO_BIN_EXE_loadgen")).parent();
    profile.and_then(Path::parent).expect("the target directory")
}

/// Returns all blocks of code of a page, without the line with the language.
pub(crate) fn blocks(page: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(page)).expect("a page of the manual");
    let fenced = text.split("```").skip(1).step_by(2);
    fenced.map(|block| block.split_once('\n').expect("lines").1.to_owned()).collect()
}

/// Blocks of the manual with the places of one test.
pub(crate) struct Places {
    replaced: Vec<(String, String)>,
}

impl Places {
    /// Begins with the folder of programs that this test's cargo builds.
    pub(crate) fn new() -> Self {
        Self { replaced: Vec::new() }.with(PROGRAMS, &target().join("release").display())
    }

    /// Replaces `theirs` by `ours` in every block.
    pub(crate) fn with(mut self, theirs: &str, ours: &impl ToString) -> Self {
        self.replaced.push((theirs.to_owned(), ours.to_string()));
        self
    }

    /// Returns the only block with these words, with this test's places.
    pub(crate) fn block(&self, words: &str) -> String {
        let all = PAGES.into_iter().flat_map(blocks);
        let mut blocks = all.filter(|block| block.contains(words));
        let block = blocks.next().unwrap_or_else(|| panic!("no block with {words}"));
        assert!(blocks.next().is_none(), "one block has {words}");
        // In two passes, so that one of our places can contain one of theirs.
        let mark = |i: usize| format!("\u{1}{i}\u{2}");
        let theirs = self.replaced.iter().enumerate();
        let marked = theirs.fold(block, |text, (i, (theirs, _))| text.replace(theirs, &mark(i)));
        let ours = self.replaced.iter().enumerate();
        ours.fold(marked, |text, (i, (_, ours))| text.replace(&mark(i), ours))
    }

    /// Returns the command of a block that begins with these words, with its continued lines.
    pub(crate) fn command(&self, words: &str) -> String {
        let block = self.block(words);
        let begin = block.find(words).expect("as found");
        let command = &block[begin..];
        let end = command.match_indices('\n').find(|(at, _)| !command[..*at].ends_with('\\'));
        end.map_or(command, |(at, _)| &command[..at]).to_owned()
    }
}

/// Runs lines of the manual in a shell, in the repository. All processes that they start end with
/// this test, even if it is killed.
pub(crate) async fn by_hand(lines: &str, path: Option<&Path>, home: &Path) -> Output {
    // The other end of standard input belongs to this test, and is closed with it.
    let script =
        format!("set -e\n(cat >/dev/null 2>&1; kill 0) >/dev/null 2>&1 <&0 &\ndisown\n{lines}");
    let mut shell = Command::new("bash");
    shell
        .args(["-c", &script])
        .current_dir(root())
        .env("CARGO_TARGET_DIR", target())
        .env("CLARION_LOG", "warn")
        // A reader's folder would keep the devices of an earlier run.
        .env("CLARION_DATA_DIR", home.join("clarion-data"))
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // What cargo tells a test about its package. A reader's shell does not have these variables, and
    // ring's build depends on them: with them, everything would be compiled twice.
    let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    for (name, _) in std::env::vars() {
        if of_package.iter().any(|prefix| name.starts_with(prefix)) {
            shell.env_remove(name);
        }
    }
    if let Some(programs) = path {
        let before = std::env::var("PATH").expect("a path of programs");
        shell.env("PATH", format!("{}:{before}", programs.display()));
        // buf keeps a cache in the home folder; cargo does not move with it.
        let cargo = std::env::var("CARGO_HOME").ok();
        let cargo = cargo.or_else(|| Some(format!("{}/.cargo", std::env::var("HOME").ok()?)));
        let rustup = std::env::var("RUSTUP_HOME").ok();
        let rustup = rustup.or_else(|| Some(format!("{}/.rustup", std::env::var("HOME").ok()?)));
        shell.env("CARGO_HOME", cargo.expect("a home")).env("RUSTUP_HOME", rustup.expect("a home"));
        shell.env("HOME", home);
    }
    let mut child = shell.spawn().expect("bash starts");
    let _until_the_end = child.stdin.take();
    timeout(DEADLINE, child.wait_with_output()).await.expect("it ends in time").expect("its output")
}
