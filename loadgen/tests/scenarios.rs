//! Small versions of the scenarios through the real processes: coordinator, shard nodes and
//! gateway, as `loadgen` runs them. What is judged is the program's own verdict in `report.json`;
//! its unit tests show that it finds failures.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

fn loadgen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen")).args(arguments).output().expect("loadgen starts")
}

/// Runs a scenario and gives its report; the run must have passed.
fn passes(scenario: &str, devices: u64, nodes: u32) -> Value {
    let dir = tempfile::tempdir().expect("a folder");
    let (devices, nodes) = (devices.to_string(), nodes.to_string());
    let folder = dir.path().to_str().expect("UTF-8");
    let output =
        loadgen(&["run", scenario, "--devices", &devices, "--nodes", &nodes, "--report", folder]);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    assert_eq!(output.status.code(), Some(0), "{text}\n{}", logs(dir.path()));
    serde_json::from_slice(&fs::read(dir.path().join("report.json")).expect("a report"))
        .expect("JSON")
}

/// The scenario of a file of this crate with something replaced.
fn varied(name: &str, from: &str, to: &str) -> tempfile::TempPath {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(format!("{name}.toml"));
    let text = fs::read_to_string(path).expect("a scenario");
    assert!(text.contains(from), "{name} has {from}");
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    fs::write(file.path(), text.replace(from, to)).expect("written");
    file.into_temp_path()
}

fn logs(dir: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(dir).expect("a folder").flatten() {
        if entry.path().extension().is_some_and(|e| e == "log") {
            let log = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(20)..].join("\n");
            text += &format!("--- {}\n{last}\n", entry.path().display());
        }
    }
    text
}

/// What every undisturbed wave must show, beyond what the run itself has judged.
fn undisturbed(report: &Value) {
    let number = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name} is a number"));
    assert!(number("region_devices") > 500 && number("edge_devices") > 0, "{report}");
    assert_eq!(
        number("accepted"),
        number("region_devices") + number("edge_devices") - number("dead_tokens")
    );
    for name in ["missed", "outside", "duplicates", "repeated", "unknown", "strangers"] {
        assert_eq!(number(name), 0, "{name}");
    }
    assert!(number("dead_tokens") > 0, "some tokens are dead in these scenarios");
    assert_eq!(report["reported"]["accepted"], report["accepted"]);
    assert_eq!(report["preview_devices"], number("region_devices") + number("edge_devices"));
    for role in ["shard", "coordinator", "emulator"] {
        assert!(report["cpu_us_per_push"][role].is_number());
    }
}

#[test]
fn city_on_one_node() {
    let report = passes("city", 5_000, 1);
    undisturbed(&report);
    let of = |platform: &str, name: &str| {
        report["platforms"][platform][name].as_u64().expect("a number")
    };
    assert_eq!(
        of("apns", "accepted") + of("fcm", "accepted"),
        report["accepted"].as_u64().unwrap()
    );
    for platform in ["apns", "fcm"] {
        assert!(of(platform, "accepted") > 1_500 && of(platform, "dead_tokens") > 0, "{report}");
        assert_eq!(
            of(platform, "requests"),
            of(platform, "accepted") + of(platform, "dead_tokens"),
            "one each"
        );
    }
}

#[test]
fn city_on_three_nodes() {
    undisturbed(&passes("city", 5_000, 3));
}

#[test]
fn a_wave_that_many_watch() {
    let report = passes(
        varied("watchers", "count = 1_000", "count = 300").to_str().expect("UTF-8"),
        5_000,
        1,
    );
    undisturbed(&report);
    let watchers = &report["watchers"];
    assert_eq!((watchers["watchers"].as_u64(), watchers["slow"].as_u64()), (Some(300), Some(150)));
    assert!(watchers["messages"].as_u64() >= Some(300), "{watchers}");
}

#[test]
fn a_circle_across_the_antimeridian() {
    undisturbed(&passes("antimeridian", 5_000, 1));
}

#[test]
fn a_circle_around_a_pole() {
    undisturbed(&passes("pole", 5_000, 1));
}

#[test]
fn a_polygon_with_a_hole() {
    undisturbed(&passes("polygon-hole", 5_000, 2));
}

#[test]
fn an_alert_cancelled_in_its_middle() {
    // Four thousand at a thousand a second: there is a middle to be cancelled in.
    let scenario = varied("cancel", "max_rate_per_second = 20_000", "max_rate_per_second = 1_000");
    let report = passes(scenario.to_str().expect("UTF-8"), 5_000, 2);
    assert_eq!(report["state"], "CANCELLED");
    assert_eq!(report["cancel"]["late_after_cancel"], 0);
    assert!(
        report["missed"].as_u64().unwrap() > 0,
        "it was cancelled before everybody was reached"
    );
}

#[test]
fn an_alert_while_everything_moves() {
    // Some three seconds of a wave, and as many changes as devices.
    let slower = varied("motion", "max_rate_per_second = 10_000", "max_rate_per_second = 1_000");
    let text = fs::read_to_string(&slower).expect("a scenario");
    fs::write(&slower, text.replace("changes_per_second = 20_000", "changes_per_second = 2_000"))
        .expect("written");
    let report = passes(slower.to_str().unwrap(), 6_000, 2);
    let motion = &report["motion"];
    for (name, least) in
        [("devices", 2_000), ("inside", 1_000), ("entered", 10), ("still_accepted", 3_000)]
    {
        assert!(motion[name].as_u64().unwrap() >= least, "{name}: {report}");
    }
    for kind in
        ["commutes", "rides", "leaps", "installs", "tokens", "removals", "mutes", "late", "twice"]
    {
        assert!(motion["changes"][kind].as_u64().unwrap() > 0, "{kind}: {report}");
    }
}

#[test]
fn a_quota_paces_one_lane_and_not_the_other() {
    // A hundred a second for some 1,500 phones; that no minute exceeds a quota takes minutes, and
    // the scenario itself.
    let scenario = varied("quota", "quota_per_minute = 60_000", "quota_per_minute = 6_000");
    let report = passes(scenario.to_str().unwrap(), 3_000, 2);
    let (apns, fcm) = (&report["platforms"]["apns"], &report["platforms"]["fcm"]);
    // The bucket's one second of burst makes the mean of a short wave a little higher than the
    // quota's rate.
    let rate = fcm["rate_per_second"].as_f64().unwrap();
    assert!(rate < 120.0, "{report}");
    assert_eq!(fcm["throttled"], 0);
    assert!(apns["last_push_seconds"].as_f64() < fcm["last_push_seconds"].as_f64(), "{report}");
}

#[test]
fn what_was_delivered_and_denied_is_repeated_and_no_duplicate() {
    // Four thousand at a thousand a second: there is a middle for the trouble to be in.
    let scenario =
        varied("failing-gateway", "max_rate_per_second = 10_000", "max_rate_per_second = 1_000");
    let report = passes(scenario.to_str().unwrap(), 5_000, 1);
    assert!(report["platforms"]["fcm"]["failed_requests"].as_u64().unwrap() > 0, "{report}");
    assert!(report["platforms"]["fcm"]["repeated"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(report["platforms"]["apns"]["repeated"], 0);
}

/// Runs some cases of the series `faults` for a second each; gives exit code and report.
fn cases(scenario: &str, names: &[&str]) -> (Option<i32>, Value) {
    let dir = tempfile::tempdir().expect("a folder");
    let names: Vec<&str> = names.iter().flat_map(|name| ["--case", name]).collect();
    let more =
        ["--seconds", "1", "--devices", "3000", "--report", dir.path().to_str().expect("UTF-8")];
    let output = loadgen(&[&["run", scenario], &names[..], &more].concat());
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    let report = fs::read(dir.path().join("report.json"))
        .unwrap_or_else(|_| panic!("{text}\n{}", logs(dir.path())));
    (output.status.code(), serde_json::from_slice(&report).expect("JSON"))
}

#[test]
fn cases_of_trouble_under_alerts_that_never_stop() {
    let (code, report) = cases("faults", &["goaway", "reset-streams", "dead-since", "dead-before"]);
    assert_eq!(code, Some(0), "{report:#}");
    let figure = |case: &str, name: &str| {
        let of_case = report["cases"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["name"] == case)
            .expect("it was run");
        of_case["figures"][name].as_f64().unwrap_or_else(|| panic!("{name} of {case}"))
    };
    for case in ["undisturbed", "goaway", "reset-streams", "dead-since", "dead-before"] {
        assert!(figure(case, "alerts") >= 2.0 && figure(case, "accepted") > 2_000.0, "{report:#}");
        assert_eq!((figure(case, "missed"), figure(case, "duplicates")), (0.0, 0.0), "{case}");
    }
    assert!(figure("reset-streams", "repeated") >= 1.0, "{report:#}");
    assert_eq!((figure("dead-since", "lost_alive"), figure("dead-before", "lost")), (0.0, 0.0));
}

#[test]
fn one_answer_decides_for_nobody_else_and_nothing_is_silent() {
    let names = ["one-404", "cut-403", "wrong-environment", "token-updates"];
    let (code, report) = cases("faults", &names);
    assert_eq!(code, Some(0), "{report:#}");
    let figure = |case: &str, name: &str| {
        let of_case = report["cases"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["name"] == case)
            .expect("it was run");
        of_case["figures"][name].as_f64().unwrap_or_else(|| panic!("{name} of {case}"))
    };
    for case in names {
        assert!(figure(case, "struck") >= 1.0 && figure(case, "accepted") > 1_000.0, "{report:#}");
        assert_eq!((figure(case, "missed"), figure(case, "refused")), (0.0, 0.0), "{case}");
    }
    assert!(
        figure("wrong-environment", "alarmed") >= 1.0 && figure("token-updates", "troubled") >= 1.0
    );
    assert_eq!((figure("wrong-environment", "lost"), figure("undisturbed", "alarmed")), (0.0, 0.0));
}

#[test]
fn a_case_fails_its_series() {
    let scenario = varied("faults", "missed = 0", "missed = { min = 1 }");
    let (code, report) = cases(scenario.to_str().unwrap(), &["undisturbed"]);
    assert_eq!((code, report["passed"].as_bool()), (Some(1), Some(false)));
}

#[test]
fn a_node_is_killed_and_replaced_and_another_joins() {
    let scenario = varied("quota-nodes", "quota_per_minute = 60_000", "quota_per_minute = 6_000");
    let text = fs::read_to_string(&scenario).unwrap();
    let sooner =
        text.replace("20_000", "4_000").replace("25_000", "5_000").replace("35_000", "6_000");
    fs::write(&scenario, sooner).unwrap();
    let report = passes(scenario.to_str().unwrap(), 4_000, 5);
    assert_eq!(report["node_changes"].as_array().map(Vec::len), Some(3), "{report}");
    assert_eq!(report["reported"]["accepted"], report["accepted"]);
}

/// Cases of the scenario `restarts`, each with a cluster of its own; gives what was found by case
/// and phase.
fn restarts(names: &[&str]) -> Value {
    let dir = tempfile::tempdir().expect("a folder");
    // Some 4 s of an alert, in which both nodes come back one after the other.
    let scenario = varied("restarts", "under_alert = 6_000", "under_alert = 700");
    let text = fs::read_to_string(&scenario).expect("a scenario");
    fs::write(&scenario, text.replace("under_alert = 60_000", "under_alert = 700"))
        .expect("written");
    let names: Vec<&str> = names.iter().flat_map(|name| ["--case", name]).collect();
    let more = ["--devices", "3000", "--report", dir.path().to_str().expect("UTF-8")];
    let output =
        loadgen(&[&["run", scenario.to_str().expect("UTF-8")], &names[..], &more].concat());
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    let report = fs::read(dir.path().join("report.json"));
    let of_cases = || {
        fs::read_dir(dir.path())
            .expect("a folder")
            .flatten()
            .filter(|e| e.path().is_dir())
            .map(|e| logs(&e.path()))
    };
    assert_eq!(output.status.code(), Some(0), "{text}\n{}", of_cases().collect::<String>());
    serde_json::from_slice(&report.expect("a report")).expect("JSON")
}

#[test]
fn a_coordinator_comes_back_with_everything() {
    let report = restarts(&["coordinator-killed", "coordinator-terminated"]);
    for phase in report["phases"].as_array().expect("phases") {
        let under = &phase["under"][0];
        assert_eq!(
            (under["state"].as_str(), under["missed"].as_u64(), under["repeated"].as_u64()),
            (Some("RESOLVED"), Some(0), Some(0)),
            "{report:#}"
        );
        assert_eq!(phase["outcome"].as_str(), Some("exact"), "{report:#}");
        assert!(phase["after"]["requests"].as_u64() > Some(2_000), "{report:#}");
    }
}

#[test]
fn a_store_of_another_cluster_is_refused_and_stays_as_it_is() {
    let report = restarts(&["partitions-changed", "coordinator-of-another-cluster"]);
    for phase in [0, 2] {
        let said = &report["phases"][phase]["probes"]["coordinator"];
        assert_eq!(said.as_str(), Some("process not found"), "{report:#}");
    }
}

#[test]
fn a_rolling_restart_under_an_alert_loses_and_repeats_nothing() {
    let report = restarts(&["rolling"]);
    let under = report["phases"][0]["under"].as_array().expect("alerts");
    assert_eq!(under.len(), 2);
    for alert in under {
        assert_eq!(
            (alert["missed"].as_u64(), alert["repeated"].as_u64()),
            (Some(0), Some(0)),
            "{report:#}"
        );
    }
}

#[test]
fn another_cluster_and_a_second_coordinator_are_loud_and_harm_nobody() {
    let report = restarts(&["other-cluster", "two-coordinators"]);
    let said = |phase: usize, process: &str| {
        report["phases"][phase]["probes"][process].as_str().expect("asked")
    };
    assert_eq!((said(0, "shard-0"), said(0, "shard-1")), ("NOT_SERVING", "SERVING"), "{report:#}");
    assert_eq!(
        (said(2, "coordinator-2"), said(2, "coordinator")),
        ("NOT_SERVING", "SERVING"),
        "{report:#}"
    );
    // The first one goes on as if there were no second.
    let alert = &report["phases"][2]["after"];
    assert_eq!(
        (alert["state"].as_str(), alert["missed"].as_u64(), alert["repeated"].as_u64()),
        (Some("RESOLVED"), Some(0), Some(0))
    );
}

#[test]
fn an_expectation_that_does_not_hold_fails_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let run = |scenario: &Path, more: &[&str]| {
        let arguments = [
            "run",
            scenario.to_str().unwrap(),
            "--devices",
            "2000",
            "--report",
            dir.path().to_str().unwrap(),
        ];
        let output = loadgen(&[&arguments[..], more].concat());
        let report: Value =
            serde_json::from_slice(&fs::read(dir.path().join("report.json")).unwrap()).unwrap();
        assert_eq!(report["passed"].as_bool(), Some(output.status.success()));
        output.status.code()
    };
    let exact = varied("antimeridian", "missed = 0", "missed = 1");
    assert_eq!(run(&exact, &[]), Some(1), "an exact one fails it always");
    let target =
        varied("city", "rate_per_second = { min = 80_000 }", "rate_per_second = { min = 1e12 }");
    assert_eq!(run(&target, &[]), Some(0), "a target is only printed");
    assert_eq!(run(&target, &["--strict"]), Some(1), "unless it is asked for");
}
