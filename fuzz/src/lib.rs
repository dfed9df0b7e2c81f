//! Fuzz targets for all code that reads data from gateways.
//!
//! Each target is a function of bytes that panics on a finding. Two things run them:
//! `tests/short.rs`, the corpus and some thousand mutations of it, on any toolchain and in seconds,
//! with CI; and `src/guided.rs`, libFuzzer, guided by coverage (`just fuzz TARGET SECONDS`; it
//! needs a C++ compiler, and neither nightly nor cargo-fuzz, as the passes that instrument are
//! stable options of rustc). What the guided run finds worth keeping, merged to the fewest inputs,
//! is the corpus.

pub mod answers;
pub mod conversation;
pub mod corpus;
pub mod header_blocks;
pub mod input;
pub mod mutate;
pub mod waits;

/// One fuzz target and its name.
pub struct Target {
    /// Also of its file under `corpus`.
    pub name: &'static str,
    /// Panics on a finding.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "conversation", run: conversation::run },
    Target { name: "header_blocks", run: header_blocks::run },
    Target { name: "huffman", run: header_blocks::run_huffman },
    Target { name: "answers", run: answers::run },
    Target { name: "waits", run: waits::run },
];

/// The target of that name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
