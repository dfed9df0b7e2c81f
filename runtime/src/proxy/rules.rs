//! Which connections go through the proxy of the environment: `https_proxy`, and the exceptions of
//! `no_proxy`.
//!
//! The variables have no standard; these rules are what most programs share (curl, Go, Python):
//!
//! - `https_proxy` or `HTTPS_PROXY` names the proxy; the one in lower case counts if both are set.
//!   Everything here speaks TLS, so `http_proxy` and `all_proxy` are not read.
//! - `no_proxy` or `NO_PROXY` lists exceptions, separated by commas: `*`, a domain (with its
//!   subdomains; a leading dot makes no difference), an IP address, or a network such as
//!   `10.0.0.0/8`. An entry with a port, such as `push.example:443`, counts for that port only.
//! - `localhost` and loopback addresses never go through the proxy of the environment.
//! - Names are compared as they are written and not resolved: `10.0.0.0/8` says nothing about a
//!   name.
//!
//! `hyper-util` compares domains, addresses and networks; ports and loopback are added here.

use std::{env, net::IpAddr, sync::Arc};

use hyper_util::client::proxy::matcher::Matcher;

use super::{Proxy, ProxyError};

/// Names of the variable with the proxy, in the order in which they are tried.
const PROXY: [&str; 2] = ["https_proxy", "HTTPS_PROXY"];
/// Names of the variable with the exceptions, in the order in which they are tried.
const EXCEPTIONS: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// The proxy of the environment and its exceptions. The default has no proxy.
#[derive(Debug, Clone, Default)]
pub struct ProxyRules {
    proxy: Option<Arc<Proxy>>,
    exceptions: String,
}

/// A variable of the environment that names no usable proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("environment: {variable}: {problem}")]
pub struct EnvironmentError {
    /// Name of the variable.
    pub variable: &'static str,
    /// Description of the problem, without the value.
    pub problem: ProxyError,
}

impl ProxyRules {
    /// Reads the variables of this process.
    ///
    /// # Errors
    /// The proxy's variable is set and names no HTTP proxy.
    pub fn of_environment() -> Result<Self, EnvironmentError> {
        Self::new(|name| env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// Reads the variables by a function; an empty value counts as not set.
    ///
    /// # Errors
    /// The proxy's variable is set and names no HTTP proxy.
    pub fn new(get: impl Fn(&str) -> Option<String>) -> Result<Self, EnvironmentError> {
        let first = |names: [&'static str; 2]| {
            let given = |name| get(name).filter(|value| !value.trim().is_empty());
            names.into_iter().find_map(|name| Some((name, given(name)?)))
        };
        let proxy = first(PROXY).map(|(variable, url)| {
            Proxy::parse(&url).map_err(|problem| EnvironmentError { variable, problem })
        });
        let exceptions = first(EXCEPTIONS).map(|(_, list)| list).unwrap_or_default();
        Ok(Self { proxy: proxy.transpose()?.map(Arc::new), exceptions })
    }

    /// Proxy of the environment; `None`: the environment names none.
    #[must_use]
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_deref()
    }

    /// Proxy for connections to `host:port`; `None`: direct connections.
    #[must_use]
    pub fn proxy_for(&self, target: &str) -> Option<Arc<Proxy>> {
        let proxy = self.proxy.as_ref()?;
        let (host, port) = target.rsplit_once(':')?;
        // A trailing dot is the root of names, not a part of them.
        let host = host.strip_suffix('.').unwrap_or(host);
        let is_direct = is_loopback(host) || self.excepts(host, port);
        (!is_direct).then(|| Arc::clone(proxy))
    }

    /// Whether the exceptions contain a host with this port.
    fn excepts(&self, host: &str, port: &str) -> bool {
        let entries = self.exceptions.split([',', ' ']).map(str::trim);
        let for_this_port = entries.filter_map(|entry| match with_port(entry) {
            Some((host, of)) => (of == port).then_some(host),
            None => Some(entry.trim_matches(['[', ']'])),
        });
        let entries = for_this_port.map(|entry| entry.strip_suffix('.').unwrap_or(entry));
        let entries = entries.collect::<Vec<_>>().join(",");
        // The matcher says whether a proxy is used; the proxy's own name does not matter here.
        let matcher = Matcher::builder().https("http://proxy").no(entries).build();
        let uri = format!("https://{host}/").parse::<http::Uri>();
        uri.is_ok_and(|uri| matcher.intercept(&uri).is_none())
    }
}

/// Splits an entry `host:port`; `None`: the entry has no port, also if it is an IPv6 address.
fn with_port(entry: &str) -> Option<(&str, &str)> {
    if entry.parse::<IpAddr>().is_ok() {
        return None;
    }
    let (host, port) = entry.rsplit_once(':')?;
    let is_port = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let is_whole = !host.contains(':') || host.ends_with(']');
    (is_port && is_whole).then(|| (host.trim_matches(['[', ']']), port))
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(variables: &[(&str, &str)]) -> Result<ProxyRules, EnvironmentError> {
        let get = |name: &str| {
            let found = variables.iter().find(|(of, _)| *of == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        ProxyRules::new(get)
    }

    fn is_direct(exceptions: &str, target: &str) -> bool {
        let rules = rules(&[("https_proxy", "http://p:3128"), ("no_proxy", exceptions)]);
        rules.expect("valid").proxy_for(target).is_none()
    }

    #[test]
    fn both_spellings_count_and_lower_case_counts_first() {
        let of = |variables: &[(&str, &str)]| {
            let rules = rules(variables).expect("valid");
            rules.proxy_for("api.push.apple.com:443").map(|proxy| proxy.address().to_owned())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("HTTPS_PROXY", "http://a:1")]).as_deref(), Some("a:1"));
        let both = [("HTTPS_PROXY", "http://a:1"), ("https_proxy", "http://b:2")];
        assert_eq!(of(&both).as_deref(), Some("b:2"));
        assert_eq!(of(&[("https_proxy", ""), ("HTTPS_PROXY", "a:1")]).as_deref(), Some("a:1"));
        assert_eq!(of(&[("http_proxy", "http://a:1"), ("ALL_PROXY", "http://a:1")]), None);
        assert_eq!(of(&[("HTTPS_PROXY", "a:1"), ("NO_PROXY", "apple.com")]), None);
    }

    #[test]
    fn exceptions_are_domains_addresses_networks_and_ports() {
        for (exceptions, target) in [
            ("*", "api.push.apple.com:443"),
            ("apple.com", "api.push.apple.com:443"),
            (".apple.com", "api.push.apple.com:443"),
            ("apple.com.", "api.push.apple.com:443"),
            ("apple.com", "api.push.apple.com.:443"),
            ("a.example, .APPLE.com", "api.push.apple.com:443"),
            ("a.example push.apple.com", "api.push.apple.com:443"),
            ("api.push.apple.com:443", "api.push.apple.com:443"),
            ("10.0.0.0/8", "10.1.2.3:443"),
            ("10.1.2.3", "10.1.2.3:443"),
            ("10.1.2.3:443", "10.1.2.3:443"),
            ("fd00::/8", "[fd00::1]:443"),
            ("fd00::1", "[fd00::1]:443"),
            ("[fd00::1]:443", "[fd00::1]:443"),
            ("[fd00::1]", "[fd00::1]:443"),
            ("", "localhost:443"),
            ("", "127.0.0.1:443"),
            ("", "[::1]:443"),
        ] {
            assert!(is_direct(exceptions, target), "{exceptions:?}: {target}");
        }
        for (exceptions, target) in [
            ("", "api.push.apple.com:443"),
            ("ple.com", "api.push.apple.com:443"),
            ("api.push.apple.com:2197", "api.push.apple.com:443"),
            ("10.0.0.0/8", "11.1.2.3:443"),
            ("10.0.0.0/8", "ten.example:443"),
            ("*.apple.com", "example.com:443"),
            ("localhost,,", "example.com:443"),
        ] {
            assert!(!is_direct(exceptions, target), "{exceptions:?}: {target}");
        }
    }

    #[test]
    fn a_variable_that_names_no_http_proxy_is_an_error_without_its_value() {
        let error = rules(&[("HTTPS_PROXY", "https://u:secret@p:1")]).expect_err("refused");
        let error = error.to_string();
        assert!(error.starts_with("environment: HTTPS_PROXY: must be http://host:port"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
