//! The short run: every input of the corpus, then mutations of them. It takes seconds in CI.
//! `CLARION_FUZZ_EXECUTIONS` and `CLARION_FUZZ_SEED` change it; `just fuzz` is the guided run.

use clarion_fuzz::{TARGETS, corpus, mutate, target};
use rand::SeedableRng as _;
use rand_pcg::Pcg64Mcg;

/// Number of mutations of each target: a few seconds in a debug build.
const EXECUTIONS: u64 = 3_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().expect("a number"))
}

fn run(name: &str) {
    let target = target(name).expect("a target");
    let corpus = corpus::read(name).expect("a corpus");
    assert!(!corpus.is_empty());
    for (n, input) in corpus.iter().enumerate() {
        if std::panic::catch_unwind(|| (target.run)(input)).is_err() {
            panic!("{name}: line {} of the corpus found something", n + 1);
        }
    }
    let seed = setting("CLARION_FUZZ_SEED", 1);
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    for n in 0..setting("CLARION_FUZZ_EXECUTIONS", EXECUTIONS) {
        let input = mutate::another(&corpus, &mut rng);
        if std::panic::catch_unwind(|| (target.run)(&input)).is_err() {
            panic!(
                "{name}: execution {n} of seed {seed} found something: {}",
                input.escape_ascii()
            );
        }
    }
}

#[test]
fn every_target_has_its_test() {
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, ["conversation", "header_blocks", "huffman", "answers", "waits"]);
}

#[test]
fn conversation() {
    run("conversation");
}

#[test]
fn header_blocks() {
    run("header_blocks");
}

#[test]
fn huffman() {
    run("huffman");
}

#[test]
fn answers() {
    run("answers");
}

#[test]
fn waits() {
    run("waits");
}
