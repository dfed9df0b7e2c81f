//! `report.html` of a real run in a real browser: it opens from a disk without a complaint, says
//! what `report.json` says, and its map is coloured, in light and dark and on a telephone. Without
//! Chromium the tests say so and pass.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// A browser that takes longer has hung.
const DEADLINE_SECONDS: &str = "90";
/// A step of the ramp with fewer pixels than this may be that of the legend, some 300.
const PIXELS_MIN: usize = 1_000;

/// Chromium by one of its names.
fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|p| p.is_file());
    if found.is_none() {
        eprintln!("\n!!! SKIPPED: no chromium on PATH: nobody has looked at report.html\n");
    }
    found
}

fn run(scenario: &str, devices: u32, dir: &Path) -> Value {
    let devices = devices.to_string();
    let folder = dir.to_str().expect("UTF-8");
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["run", scenario, "--devices", &devices, "--report", folder])
        .output()
        .expect("loadgen starts");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("report.html"), "it says where the page is: {text}");
    serde_json::from_slice(&fs::read(dir.join("report.json")).expect("a report")).expect("JSON")
}

/// Opens the page of a run; `timeout` ends the browser with all its processes.
fn browse(chromium: &Path, dir: &Path, arguments: &[&str]) -> Output {
    let profile = tempfile::tempdir().expect("a folder");
    let page = format!("file://{}", dir.join("report.html").display());
    let output = Command::new("timeout")
        .arg(DEADLINE_SECONDS)
        .arg(chromium)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ])
        .arg("--enable-logging=stderr")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(arguments)
        .arg(page)
        .output()
        .expect("chromium starts");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(!log.contains("CONSOLE"), "the browser complains: {log}");
    output
}

/// Pixels of a screenshot by colour.
fn colours(file: &Path) -> BTreeMap<[u8; 3], usize> {
    let decoder =
        png::Decoder::new(std::io::BufReader::new(fs::File::open(file).expect("a screenshot")));
    let mut reader = decoder.read_info().expect("PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("fits memory")];
    let info = reader.next_frame(&mut pixels).expect("PNG");
    assert_eq!(info.bit_depth, png::BitDepth::Eight);
    let mut colours = BTreeMap::new();
    for pixel in pixels[..info.buffer_size()].chunks_exact(info.color_type.samples()) {
        *colours.entry([pixel[0], pixel[1], pixel[2]]).or_default() += 1;
    }
    colours
}

/// The ramp as the page's style declares it: for light pages first, then for dark ones.
fn ramp(page: &str, dark: bool) -> Vec<[u8; 3]> {
    let properties = page
        .split(":root{")
        .filter(|part| part.starts_with("--t0"))
        .nth(usize::from(dark))
        .expect("a ramp");
    let hex = |text: &str| {
        let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
        [byte(0), byte(2), byte(4)]
    };
    let declared =
        properties.split('}').next().expect("closed").split(';').filter(|p| !p.is_empty());
    declared.map(|p| hex(p.split_once('#').expect("a colour").1)).collect()
}

/// How many steps of the ramp cover more than the legend does.
fn coloured(chromium: &Path, dir: &Path, name: &str, arguments: &[&str], dark: bool) -> usize {
    let file = dir.join(format!("{name}.png"));
    let screenshot = format!("--screenshot={}", file.display());
    browse(chromium, dir, &[&[screenshot.as_str()], arguments].concat());
    let colours = colours(&file);
    let ramp = ramp(&fs::read_to_string(dir.join("report.html")).expect("a page"), dark);
    ramp.iter().filter(|colour| colours.get(*colour).is_some_and(|n| *n >= PIXELS_MIN)).count()
}

fn thousands(number: &Value) -> String {
    clarion_loadgen::numbers::thousands(number.as_u64().expect("a count"))
}

#[test]
fn the_page_of_a_city_is_a_picture() {
    let Some(chromium) = chromium() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let report = run("city", 20_000, dir.path());
    let page = fs::read_to_string(dir.path().join("report.html")).expect("a page");
    for outside in ["http://", "https://", "src=", "<script", "@import", "url(http"] {
        assert!(!page.contains(outside), "it loads nothing and runs nothing: {outside}");
    }

    let dom = browse(&chromium, dir.path(), &["--dump-dom"]).stdout;
    let dom = String::from_utf8(dom).expect("UTF-8");
    assert!(dom.contains(r#"<p class="verdict good">Passed</p>"#), "{dom}");
    assert!(dom.contains(&format!("{} phones of", thousands(&report["accepted"]))), "{dom}");
    assert!(dom.contains("120 km of Shenzhen"));
    assert!(dom.matches(r#"<path class="cell t"#).count() > 50, "the map has cells with a colour");
    for check in report["checks"].as_array().expect("checks") {
        assert!(dom.contains(check["name"].as_str().expect("a name")), "{check}");
    }
    assert!(dom.contains(&format!("--seed {}", report["seed"])), "how to repeat it");

    let wide = ["--window-size=1280,2400"];
    assert!(coloured(&chromium, dir.path(), "light", &wide, false) >= 6);
    let dark = ["--window-size=1280,2400", "--force-dark-mode"];
    assert!(coloured(&chromium, dir.path(), "dark", &dark, true) >= 6);
    // The browser's own least width is 500.
    assert!(coloured(&chromium, dir.path(), "narrow", &["--window-size=500,6000"], false) >= 6);
}

#[test]
fn a_map_across_the_antimeridian_and_one_of_the_pole_are_whole() {
    let Some(chromium) = chromium() else { return };
    for (scenario, label) in [("antimeridian", "180°"), ("pole", "North Pole")] {
        let dir = tempfile::tempdir().expect("a folder");
        run(scenario, 8_000, dir.path());
        let page = fs::read_to_string(dir.path().join("report.html")).expect("a page");
        assert!(page.contains(label), "{scenario}");
        // Cells that went round the world would leave the map, or cover all of it with one colour.
        assert!(
            coloured(&chromium, dir.path(), scenario, &["--window-size=1280,2400"], false) >= 6,
            "{scenario}"
        );
    }
}
