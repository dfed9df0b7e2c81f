//! The libFuzzer program; `CLARION_FUZZ_TARGET` names the target.

#![no_main]

use std::sync::LazyLock;

use clarion_fuzz::{TARGETS, Target, target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("CLARION_FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        panic!("CLARION_FUZZ_TARGET must be one of {names:?}")
    })
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| (TARGET.run)(data));
