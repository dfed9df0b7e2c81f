//! Fuzz targets for all code that reads data from gateways.
//!
//! Each target is a function of bytes that panics on a finding. Two programs run them.
//! `tests/short.rs` runs the corpus and some thousand mutations of it, on any toolchain and in
//! seconds, in CI. `src/guided.rs` is libFuzzer, guided by coverage (`just fuzz TARGET SECONDS`; it
//! needs a C++ compiler, but neither nightly nor cargo-fuzz, because the instrumenting passes are
//! stable options of rustc). The corpus is what guided runs found, merged to the fewest inputs.

pub mod answers;
pub mod conversation;
pub mod corpus;
pub mod header_blocks;
pub mod input;
pub mod mutate;
pub mod waits;

/// One fuzz target and its name.
pub struct Target {
    /// Name of the target and of its file under `corpus`.
    pub name: &'static str,
    /// Function that runs one input and panics on a finding.
    pub run: fn(&[u8]),
}

/// All fuzz targets by name.
pub const TARGETS: &[Target] = &[
    Target { name: "conversation", run: conversation::run },
    Target { name: "header_blocks", run: header_blocks::run },
    Target { name: "huffman", run: header_blocks::run_huffman },
    Target { name: "answers", run: answers::run },
    Target { name: "waits", run: waits::run },
];

/// Returns the target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
