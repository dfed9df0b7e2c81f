//! One alert, end to end, on the bus: every phone in the region once, nearest first, whatever the
//! seed.
//!
//! `CLARION_SIM_SEEDS=1000` runs that many seeds; `CLARION_SIM_SEED=17` runs that one, as the
//! message of a failing seed says. `CLARION_SIM_TRACE=FILE` writes the trace of each run to a file,
//! which the next run overwrites.

#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

use std::time::Duration;

use clarion_proto::time::Time;
use clarion_sim::{
    scene::{Scene, SceneConfig},
    verdict::{Effort, Reached, judge},
};

const SECOND: u64 = 1_000_000;

/// Seeds of an ordinary run.
const SEEDS: u64 = 8;

fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    match (number("CLARION_SIM_SEED"), number("CLARION_SIM_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, count) => (1..=count.unwrap_or(SEEDS)).collect(),
    }
}

/// Prints, while a test fails, how to repeat the failing seed alone.
struct Repeat {
    test: &'static str,
    seed: u64,
}

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { test, seed } = self;
            eprintln!(
                "seed {seed} failed; repeat: \
                 CLARION_SIM_SEED={seed} cargo test --workspace --test one_alert -- {test}"
            );
        }
    }
}

/// A scene whose alert has just started.
fn started(config: SceneConfig) -> Scene {
    let mut scene = Scene::new(config);
    assert!(scene.run_until_ready(Time(20 * SECOND)), "no ownership: {:?}", scene.problems());
    scene.run_until(scene.bus().now() + Duration::from_secs(1));
    scene.start_alert();
    scene
}

/// Runs the alert of a scene to its end, and judges it.
fn finish(scene: &mut Scene) -> (Reached, Effort) {
    let is_settled = scene.run_until_settled(Time(120 * SECOND));
    if let Some(file) = std::env::var_os("CLARION_SIM_TRACE") {
        std::fs::write(file, scene.bus().trace().to_string()).unwrap();
    }
    assert!(is_settled, "not settled: {:?}", scene.snapshot());
    judge(scene).unwrap_or_else(|problem| panic!("{problem}"))
}

#[test]
fn one_node_with_one_core_reaches_everybody_once() {
    let ordinary = SceneConfig::ordinary(1);
    let config = SceneConfig { nodes: 1, cores: 1, devices: 500, connections: 1, ..ordinary };
    let (reached, effort) = finish(&mut started(config));
    assert_eq!(reached.phones.len(), 400);
    assert_eq!(effort.connections, 1);
}

#[test]
fn every_seed_reaches_everybody_once_and_nearest_first() {
    let mut same = None;
    for seed in seeds() {
        let _repeat = Repeat { test: "every_seed", seed };
        let mut scene = started(SceneConfig::ordinary(seed));
        let start = scene.bus().now();
        let (reached, effort) = finish(&mut scene);
        let trace = scene.bus().trace();
        println!(
            "seed {seed}: {effort:?}, {} deliveries, digest {:016x}",
            trace.entries().len(),
            trace.digest()
        );
        assert_eq!(reached.phones.len(), 4_000);
        assert!(reached.by_band.len() == 4 && reached.by_band.iter().all(|phones| *phones > 0));
        assert!(effort.connections >= 3, "several connections: {effort:?}");
        // Three in a hundred of all requests.
        assert!((40..400).contains(&effort.refused), "refused now and then: {effort:?}");
        // 1,000 requests a second at most, and at the end some pauses before further tries.
        assert!((3_500_000..12_000_000).contains(&effort.sending_us), "{effort:?}");
        assert!(scene.bus().now().since(start) < Duration::from_secs(30), "no waiting at the end");
        let same = same.get_or_insert_with(|| reached.clone());
        assert!(*same == reached, "another result than that of the first seed");
    }
}

#[test]
fn a_seed_repeats_and_two_seeds_differ() {
    let run = |seed| {
        let mut scene = started(SceneConfig { devices: 2_000, ..SceneConfig::ordinary(seed) });
        let (reached, _) = finish(&mut scene);
        (scene.bus().trace().clone(), reached)
    };
    let seed = seeds()[0];
    let _repeat = Repeat { test: "a_seed_repeats", seed };
    let ((first, reached), (second, _), (other, other_reached)) =
        (run(seed), run(seed), run(seed + 1));
    assert_eq!(first.first_difference(&second), None);
    assert!(first.to_string() == second.to_string(), "the printed traces differ");
    assert!(first.first_difference(&other).is_some(), "two seeds, one trace");
    assert!(reached == other_reached, "two seeds, two results");
}

#[test]
fn a_session_cut_in_mid_wave_misses_nobody_and_repeats_nobody() {
    for seed in seeds() {
        let _repeat = Repeat { test: "a_session_cut", seed };
        // A lower rate, so that the wave lasts longer than any cut.
        let mut scene = started(SceneConfig { rate: 400, ..SceneConfig::ordinary(seed) });
        let node = u16::try_from(seed % 2).unwrap();
        // Shorter than a grant, and longer.
        let length = Duration::from_millis(1_000 + seed * 1_300 % 8_000);
        let from = scene.bus().now() + Duration::from_millis(1_000 + seed * 170 % 1_000);
        scene.cut_off(node, from, from + length);
        scene.run_until(from);
        let before = scene.record().len();
        assert!(before > 100, "in mid-wave: {before} requests before the cut");
        scene.run_until(from + length);
        let during = scene.record().len() - before;
        assert!(during < 3_900 - before, "in mid-wave: {during} requests during the cut");
        let (reached, effort) = finish(&mut scene);
        println!("seed {seed}: cut {length:?} after {before}, {during} during it, {effort:?}");
        assert_eq!(reached.phones.len(), 4_000);
        let hellos =
            scene.bus().trace().entries().iter().filter(|e| e.detail == "Hello" && !e.lost);
        assert_eq!(hellos.count(), 3, "the session of one node began twice");
    }
}

#[test]
fn a_push_whose_answer_is_lost_is_seen_as_a_repeat() {
    let faults = r#"{"errors": [{"fate": "reset", "delivered": true, "ppm": 20000}]}"#;
    let ordinary = SceneConfig::ordinary(1);
    let mut scene = started(SceneConfig { devices: 1_000, faults, ..ordinary });
    assert!(scene.run_until_settled(Time(120 * SECOND)));
    let problem = judge(&mut scene).unwrap_err();
    assert!(problem.contains("reached twice"), "{problem}");
}
