//! The file as it is written: every key optional, unknown ones refused.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};

use super::{ConfigError, credentials::CredentialTable, lanes::GatewayTable};

/// All keys; see [`super::Config`] for what they mean.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) listen: Option<SocketAddr>,
    pub(super) health_listen: Option<SocketAddr>,
    pub(super) feed_listen: Option<SocketAddr>,
    pub(super) cluster: Option<String>,
    pub(super) nodes: Option<Vec<String>>,
    pub(super) nodes_min: Option<usize>,
    pub(super) partitions: Option<u16>,
    pub(super) logs: Option<u16>,
    pub(super) device_key_file: Option<PathBuf>,
    pub(super) exercise_prefix: Option<String>,
    pub(super) allow_live_without_identity: Option<bool>,
    pub(super) allow_small_audiences: Option<bool>,
    pub(super) connections_max: Option<usize>,
    pub(super) watchers_max: Option<usize>,
    pub(super) watchers_per_alert_max: Option<usize>,
    pub(super) band_edges_meters: Option<Vec<f64>>,
    pub(super) band_step_meters: Option<f64>,
    pub(super) alerts_active_max: Option<usize>,
    pub(super) admissions_max: Option<usize>,
    pub(super) store_bytes_max: Option<u64>,
    pub(super) drain_deadline_ms: Option<u64>,
    pub(super) gateways: Option<Vec<GatewayTable>>,
    pub(super) credentials: Option<Vec<CredentialTable>>,
}

/// Reads and decodes a file.
pub(super) fn read(path: &Path) -> Result<File, ConfigError> {
    let place = path.display().to_string();
    let error = |key: String, problem: String| ConfigError { place: place.clone(), key, problem };
    let text = fs::read_to_string(path)
        .map_err(|e| error(String::new(), format!("cannot be read: {e}")))?;
    toml::from_str(&text).map_err(|e| {
        let (key, problem) = problem(&text, &e);
        error(key, problem)
    })
}

/// An array of tables given as text: `[{name="a"}, {name="b"}]`.
pub(super) fn array<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    #[derive(Deserialize)]
    struct Wrapped<T> {
        value: Vec<T>,
    }
    let wrapped: Result<Wrapped<T>, _> = toml::from_str(&format!("value = {text}"));
    wrapped.map(|w| w.value).map_err(|e| one_line(e.message()))
}

/// The key that an error is about, and its words with the line: the parser tells the place only as bytes.
fn problem(text: &str, error: &toml::de::Error) -> (String, String) {
    let message = one_line(error.message());
    let Some(span) = error.span() else { return (String::new(), message) };
    let before = &text[..span.start.min(text.len())];
    let number = before.matches('\n').count();
    let line = text.lines().nth(number).unwrap_or_default().trim();
    let table = before.lines().chain([line]).map(str::trim).rfind(|l| l.starts_with('['));
    let table = table.map(|t| t.trim_matches(['[', ']']).trim().to_owned());
    let key = line.split_once('=').map(|(key, _)| key.trim().to_owned());
    let key = [table, key].into_iter().flatten().collect::<Vec<_>>().join(".");
    (key, format!("{message} (line {})", number + 1))
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
