use super::*;

const SMALL: &str = r#"
name = "small"
description = "a test"
seed = 1
devices = 10
nodes = 1
[population]
areas = [{ kind = "disc", share = 1, center = { latitude = 0, longitude = 0 }, radius_meters = 1000 }]
[alert]
region = { kind = "circle", center = { latitude = 0, longitude = 0 }, radius_meters = 500 }
[expect]
missed = 0
shard_growth_bytes = { max = 16777216 }
"#;

fn problem(text: &str) -> String {
    Scenario::parse("small.toml", text).expect_err("must be refused").to_string()
}

#[test]
fn every_named_scenario_is_valid_and_named_as_its_file() {
    let names: Vec<_> = Scenario::named().map(|(name, scenario)| (name, scenario.name)).collect();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    assert_eq!(
        names.len(),
        std::fs::read_dir(folder).unwrap().count(),
        "all files of the folder, none twice"
    );
    for (file, name) in names {
        assert_eq!(file, name);
    }
}

#[test]
fn a_small_one_is_read() {
    let small = Scenario::parse("small.toml", SMALL).unwrap();
    assert_eq!(small.expect.missed, Some(Bound::Exactly(0.0)));
    assert!(small.expect.shard_growth_bytes.unwrap().holds(16_777_216.0));
    assert!(!small.expect.shard_growth_bytes.unwrap().holds(16_777_217.0));
    assert_eq!(small.expect.outside, None);
    assert_eq!(small.last_seen().latitude, 0.0);
}

#[test]
fn a_misspelt_key_is_refused_with_its_line() {
    let text = problem(&SMALL.replace("missed = 0", "mised = 0"));
    assert!(text.contains("small.toml") && text.contains("mised"), "{text}");
    let text = problem(&SMALL.replace("seed = 1", "sead = 1"));
    assert!(text.contains("sead"), "{text}");
}

#[test]
fn values_out_of_bounds_are_named_with_limit_and_value() {
    assert_eq!(
        problem(&SMALL.replace("nodes = 1", "nodes = 0")),
        "scenario small.toml: nodes: must be 1 to 64; got 0"
    );
    let text = problem(&SMALL.replace("radius_meters = 500", "radius_meters = 2e7"));
    assert!(text.contains("alert.region.radius_meters") && text.contains("20000000"), "{text}");
    let text = problem(&SMALL.replace("[expect]", "[gateway]\ndead_share = 1.5\n[expect]"));
    assert!(text.contains("gateway.dead_share: must be 0 to 1; got 1.5"), "{text}");
    let text = problem(&SMALL.replace(
        "[expect]",
        "[gateway]\nfault = { kind = 'slow', factor = 9, after_ms = 0, for_ms = 1 }\n[expect]",
    ));
    assert!(text.contains("gateway.latency_us"), "{text}");
}

#[test]
fn a_polygon_needs_a_place_last_seen() {
    let ring =
        "outer = [{latitude=0,longitude=0},{latitude=0,longitude=1},{latitude=1,longitude=0}]";
    let text = SMALL.replace(
        "kind = \"circle\", center = { latitude = 0, longitude = 0 }, radius_meters = 500",
        &format!("kind = \"polygon\", {ring}"),
    );
    assert!(problem(&text).contains("alert.last_seen"), "{}", problem(&text));
}

#[test]
fn an_unknown_name_lists_those_there_are() {
    let text = Scenario::find("town").unwrap_err().to_string();
    assert!(text.contains("`city`") && text.contains("`motion`"), "{text}");
    assert!(
        Scenario::find("/nowhere/x.toml")
            .unwrap_err()
            .to_string()
            .contains("cannot read scenario /nowhere/x.toml")
    );
}

#[test]
fn bounds_say_what_they_ask() {
    assert_eq!(Bound::Limits { min: Some(1.0), max: None }.to_string(), "≥ 1");
    assert_eq!(Bound::Exactly(0.0).to_string(), "= 0");
    assert!(!Bound::Limits { min: None, max: Some(1.0) }.holds(f64::NAN));
}

#[test]
fn a_scripted_fault_is_checked_against_the_gateways_that_it_applies_to() {
    let fault = |reason: &str| {
        format!(
            "[gateway]\nfault = {{ kind = 'scripted', label = 'x', after_ms = 0, for_ms = 9, faults = {{ errors = [{{ \
             reason = '{reason}', ppm = 5, every_ms = 3 }}] }} }}\n[gateway.distance.apns]\nlatency = {{ p50_us = 5, \
             p99_us = 9 }}\n[expect]"
        )
    };
    let scenario = Scenario::parse("small.toml", &SMALL.replace("[expect]", &fault("Shutdown")))
        .expect("valid");
    assert_eq!(
        scenario.gateway.distance.of(clarion_emulator::Platform::Apns).latency.map(|l| l.p99_us),
        Some(9)
    );
    let text = problem(&SMALL.replace("[expect]", &fault("UNAVAILABLE")));
    assert!(
        text.contains("gateway.fault.faults: reason UNAVAILABLE: belongs to another platform"),
        "{text}"
    );
}

#[test]
fn changes_of_nodes_are_in_order_and_change_something() {
    let with = |changes: &str| {
        SMALL.replace("nodes = 1", &format!("nodes = 2\nnode_changes = [{changes}]"))
    };
    let (kill, start) =
        ("{ after_ms = 5, do = 'kill', node = 1 }", "{ after_ms = 9, do = 'start', node = 1 }");
    let scenario =
        Scenario::parse("small.toml", &with(&format!("{kill}, {start}"))).expect("valid");
    assert!(!scenario.comes_later(1));
    assert!(Scenario::parse("small.toml", &with(start)).expect("valid").comes_later(1));
    for wrong in [
        format!("{start}, {kill}"),
        format!("{kill}, {kill}"),
        kill.replace("node = 1", "node = 2"),
    ] {
        assert!(problem(&with(&wrong)).contains("node_changes"), "{wrong}");
    }
    let all = format!("{start}, {}", start.replace("node = 1", "node = 0"));
    assert!(problem(&with(&all)).contains("must leave one node"));
}

#[test]
fn cases_are_chosen_by_name_and_expect_what_the_series_does_unless_they_say_otherwise() {
    let mut series = Scenario::find("faults").unwrap().series.expect("a series");
    assert!(series.choose(&["goway".to_owned()]).unwrap_err().contains("`goaway`"));
    let all = series.cases.len();
    series.choose(&[]).unwrap();
    assert_eq!(series.cases.len(), all, "none takes long");
    series.cases.last_mut().expect("one").by_name_only = true;
    series.choose(&[]).unwrap();
    assert_eq!(series.cases.len(), all - 1, "one takes long");
    series.choose(&["wrong-environment".to_owned()]).unwrap();
    let names: Vec<_> = series.cases.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["undisturbed", "wrong-environment"]);
    let expected = series.expected(&series.cases[1]);
    assert_eq!(expected["missed"], Bound::Exactly(0.0));
    assert!(expected["alarmed"].holds(1.0) && !expected["alarmed"].holds(0.0), "its own");
    assert_eq!(series.expected(&series.cases[0])["alarmed"], Bound::Exactly(0.0), "of all");
    let targets = series.targets(&series.cases[1]);
    assert!(targets["recovery_seconds"].holds(3.0) && !targets["recovery_seconds"].holds(3.1));
    assert!(series.targets(&series.cases[0]).is_empty());
}

#[test]
fn a_case_expects_figures_that_there_are() {
    let series = "[series]\nseconds = 1\ncases = [{ name = 'a', label = 'a' }]\n[series.expect]\nmised = 0\n[expect]";
    assert!(
        problem(&SMALL.replace("[expect]", series)).contains("`mised` must be a figure of a case")
    );
    let series =
        "[series]\nseconds = 1\ncases = [{ name = 'a', label = 'a', faults = {} }]\n[expect]";
    assert!(problem(&SMALL.replace("[expect]", series)).contains("must begin with"));
}

/// CI runs each case over 20,000 devices of two apps, some 18,400 pushes at least; a case whose
/// fault strikes by chance and must have struck may not be left to luck. 15 expected strikes are
/// none in one run of three million (e^-15).
#[test]
fn a_fault_by_chance_that_must_strike_strikes_in_the_run_of_ci() {
    const PUSHES: u64 = 18_400;
    const STRIKES_MIN: u64 = 15;
    let series = Scenario::find("faults").unwrap().series.expect("a series");
    let must_strike = |case: &CaseSpec| {
        let expected = ["struck", "unanswered_requests", "repeated"];
        expected.iter().any(|figure| case.expect.get(*figure).is_some_and(|b| !b.holds(0.0)))
    };
    let mut judged = 0;
    for case in series.cases.iter().filter(|case| must_strike(case)) {
        let Some(faults) = &case.faults else { continue };
        let ppm: u64 = faults.errors.iter().map(|errors| u64::from(errors.ppm)).sum();
        if ppm == 0 {
            continue; // the fault strikes by rule or by time
        }
        let strikes = PUSHES * ppm / 1_000_000;
        assert!(strikes >= STRIKES_MIN, "{}: {strikes} strikes expected", case.name);
        judged += 1;
    }
    assert!(judged >= 10, "{judged} cases strike by chance");
}
