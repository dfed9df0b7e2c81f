//! The proxy of a gateway or of a token endpoint.
//!
//! | In the file | Route |
//! |---|---|
//! | absent, or `proxy = "environment"` | `https_proxy`, `no_proxy` of the connecting process |
//! | `proxy = "none"` | direct, whatever the environment says |
//! | `proxy = "http://proxy.example:3128"` | this proxy |
//! | `proxy = { url = "…", username = "…", password_file = "…" }` | the same, with credentials |
//!
//! Nodes connect to gateways, so the coordinator sends them a gateway's proxy with its credentials.
//! Nodes hold these in memory only.

use std::{fmt, fs, path::PathBuf, sync::Arc};

use clarion_runtime::proxy::{Proxy, Route};
use secrecy::{ExposeSecret, SecretString};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{given::Place, lanes::Problem};

/// Value of `proxy` as written, before any check.
#[derive(Debug, Clone)]
pub(super) enum ProxySetting {
    /// A word or a URL.
    Text(String),
    /// A URL with credentials.
    Table(ProxyTable),
}

/// Table of a proxy with credentials.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyTable {
    url: String,
    username: Option<String>,
    #[serde(default, deserialize_with = "secret")]
    password: Option<SecretString>,
    password_file: Option<PathBuf>,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    // The parser's words would show what it found instead.
    String::deserialize(deserializer)
        .map(|text| Some(SecretString::from(text)))
        .map_err(|_| serde::de::Error::custom("password must be text in quotes"))
}

impl<'de> Deserialize<'de> for ProxySetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ProxySetting;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"environment\", \"none\", a URL, or a table with url")
            }

            fn visit_str<E>(self, text: &str) -> Result<ProxySetting, E> {
                Ok(ProxySetting::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ProxySetting, A::Error> {
                ProxyTable::deserialize(MapAccessDeserializer::new(map)).map(ProxySetting::Table)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Checks the proxy of a gateway or token endpoint, and reads its password.
pub(super) fn route(setting: Option<ProxySetting>, place: &Place<'_>) -> Result<Route, Problem> {
    let table = match setting {
        None => return Ok(Route::Environment),
        Some(ProxySetting::Text(text)) => match text.as_str() {
            "environment" => return Ok(Route::Environment),
            "none" => return Ok(Route::Direct),
            url => return Ok(Route::Proxy(Arc::new(proxy(url, "proxy")?))),
        },
        Some(ProxySetting::Table(table)) => table,
    };
    let proxy = proxy(&table.url, "proxy.url")?;
    let password = match (table.password, table.password_file) {
        (Some(_), Some(_)) => {
            return Err(("proxy.password_file", "must not be set with password".to_owned()));
        }
        (Some(password), None) => Some(password),
        (None, Some(path)) => {
            let path = place.resolve(&path);
            let text = fs::read_to_string(&path).map_err(|e| {
                ("proxy.password_file", format!("{}: cannot be read: {e}", path.display()))
            })?;
            // Editors and `echo` end a file with a line feed.
            Some(SecretString::from(text.trim_end_matches(['\r', '\n'])))
        }
        (None, None) => None,
    };
    let proxy = match (table.username, password) {
        (None, None) => proxy,
        (None, Some(_)) => {
            return Err(("proxy.username", "is required with a password".to_owned()));
        }
        (Some(username), password) => {
            let password = password.as_ref().map_or("", |password| password.expose_secret());
            proxy
                .with_credentials(&username, password)
                .map_err(|e| ("proxy.username", e.to_string()))?
        }
    };
    Ok(Route::Proxy(Arc::new(proxy)))
}

fn proxy(url: &str, key: &'static str) -> Result<Proxy, Problem> {
    let proxy = Proxy::parse(url).map_err(|e| {
        let words = if key == "proxy" { ", \"environment\" or \"none\"" } else { "" };
        (key, format!("{e}{words}"))
    })?;
    if proxy.authorization().is_some() {
        let problem = "must not contain user and password; set username and password_file";
        return Err((key, problem.to_owned()));
    }
    Ok(proxy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Written {
        proxy: Option<ProxySetting>,
    }

    fn routed(text: &str) -> Result<Route, String> {
        let written: Written = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        let directory = tempfile::tempdir().expect("a folder");
        fs::write(directory.path().join("password"), "open sesame\n").expect("written");
        let place =
            Place { name: "F".to_owned(), directory: Some(directory.path()), variables: |_| None };
        route(written.proxy, &place).map_err(|(key, problem)| format!("{key}: {problem}"))
    }

    #[test]
    fn every_form_is_a_route() {
        let given = |url: &str| Ok(Route::Proxy(Arc::new(Proxy::parse(url).expect("valid"))));
        assert_eq!(routed(""), Ok(Route::Environment));
        assert_eq!(routed("proxy = \"environment\""), Ok(Route::Environment));
        assert_eq!(routed("proxy = \"none\""), Ok(Route::Direct));
        assert_eq!(routed("proxy = \"http://p:3128\""), given("http://p:3128"));
        let with = |more: &str| routed(&format!("proxy = {{ url = \"http://p:3128\"{more} }}"));
        assert_eq!(with(""), given("http://p:3128"));
        let expected = given("http://me:open%20sesame@p:3128");
        assert_eq!(with(", username = \"me\", password_file = \"password\""), expected);
        assert_eq!(with(", username = \"me\", password = \"open sesame\""), expected);
    }

    #[test]
    fn problems_name_the_key_and_show_no_password() {
        let table = |more: &str| format!("proxy = {{ url = \"http://p:3128\", {more} }}");
        for (text, words) in [
            ("proxy = \"https://p:3128\"".to_owned(), "proxy: must be http://host:port; got https"),
            ("proxy = \"off\"".to_owned(), "proxy: must be "),
            ("proxy = \"http://u:hidden@p:1\"".to_owned(), "proxy: must not contain user"),
            ("proxy = { url = \"socks5://p:1\" }".to_owned(), "proxy.url: must be http://"),
            ("proxy = 7".to_owned(), "a URL, or a table with url"),
            (table("pass = \"hidden\""), "unknown field `pass`"),
            (table("username = \"a\", password = 48151623"), "must be text in quotes"),
            (table("password = \"hidden\""), "proxy.username: is required with a password"),
            (
                table("username = \"a:b\", password = \"hidden\""),
                "proxy.username: the user must not contain a colon",
            ),
            (
                table("username = \"a\", password = \"hidden\", password_file = \"password\""),
                "proxy.password_file: must not be set with password",
            ),
            (
                table("username = \"a\", password_file = \"absent\""),
                "absent: cannot be read: No such file",
            ),
        ] {
            let error = routed(&text).expect_err(&text);
            assert!(error.contains(words), "{text}: {error}");
            assert!(!error.contains("hidden") && !error.contains("48151623"), "{error}");
        }
    }
}
