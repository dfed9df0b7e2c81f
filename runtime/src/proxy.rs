//! HTTP proxies between this process and the internet: how a proxy is named, when it is used, and
//! how a tunnel through it is opened.
//!
//! Many networks let a server reach the internet only through a proxy. Lanes and token endpoints
//! speak TLS with their own peers, and need one thing of a proxy: a tunnel, opened by the method
//! CONNECT (RFC 9110, section 9.3.6). TLS runs end to end inside the tunnel, so the proxy sees the
//! peer's host name, but neither device tokens nor credentials.
//!
//! | What | Where |
//! |---|---|
//! | address and credentials of a proxy | [`Proxy`] |
//! | whether a peer is reached through a proxy, and through which | [`Route`] |
//! | which connections use the proxy of `https_proxy` and `no_proxy` | [`rules`] |
//! | the request for a tunnel and the proxy's response, free of I/O | [`tunnel`] |
//!
//! Not supported: proxies that speak TLS themselves (`https://`), SOCKS, and authentication other
//! than Basic.

use std::{fmt, sync::Arc};

use data_encoding::BASE64;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};

use self::rules::ProxyRules;

pub mod rules;
pub mod tunnel;

/// Maximum size of a value of `Proxy-Authorization`, bytes: user and password of 1 KiB together.
pub const AUTHORIZATION_BYTES_MAX: usize = 2_048;
/// Maximum size of `host:port`, bytes: DNS allows 253 for a name.
const ADDRESS_BYTES_MAX: usize = 259;
/// Port of a proxy's URL without a port.
const HTTP_PORT: u16 = 80;

/// Address of an HTTP proxy, and the credentials for it.
#[derive(Clone)]
pub struct Proxy {
    address: String,
    authorization: Option<SecretString>,
}

/// How connections reach a peer on the internet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Route {
    /// Connections go to the peer itself.
    Direct,
    /// Connections follow `https_proxy` and `no_proxy` of the process that opens them.
    #[default]
    Environment,
    /// Connections go through this proxy, also to loopback addresses.
    Proxy(Arc<Proxy>),
}

impl Route {
    /// Proxy for connections to `host:port`, given the rules of this process's environment; `None`:
    /// direct connections.
    #[must_use]
    pub fn proxy_for(&self, target: &str, rules: &ProxyRules) -> Option<Arc<Proxy>> {
        match self {
            Self::Direct => None,
            Self::Environment => rules.proxy_for(target),
            Self::Proxy(proxy) => Some(Arc::clone(proxy)),
        }
    }
}

/// Problem of a proxy's URL, address or credentials. Shows nothing of what was given, because that
/// may be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProxyError(String);

impl Proxy {
    /// Parses `http://[user[:password]@]host[:port]`; the scheme may be absent if there is a port.
    /// User and password may be percent-encoded.
    ///
    /// # Errors
    /// Another scheme, or no URL of a host.
    pub fn parse(url: &str) -> Result<Self, ProxyError> {
        let wrong = || {
            let hint = match url.contains('@') {
                true => "; special characters of user and password must be percent-encoded",
                false => "",
            };
            ProxyError(format!("must be http://host:port{hint}"))
        };
        let uri: http::Uri = url.trim().parse().map_err(|_| wrong())?;
        match uri.scheme_str() {
            None | Some("http") => {}
            Some("https") => {
                return Err(ProxyError(
                    "must be http://host:port; got https://: TLS to the proxy itself is not \
                     supported, and the tunnel through the proxy is TLS in any case"
                        .to_owned(),
                ));
            }
            Some(other) => {
                let other = other.chars().take(16).collect::<String>();
                return Err(ProxyError(format!(
                    "must be http://host:port; got {other}://, which is not supported"
                )));
            }
        }
        // A slash in a password ends the authority.
        if uri.path().contains('@') {
            return Err(wrong());
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(ProxyError("must be http://host:port without a path".to_owned()));
        }
        let authority = uri.authority().ok_or_else(wrong)?;
        let (credentials, host_port) = match authority.as_str().rsplit_once('@') {
            // Other programs take the first `@` for the end of the credentials.
            Some((credentials, _)) if credentials.contains('@') => return Err(wrong()),
            Some((credentials, host_port)) => (Some(credentials), host_port),
            None => (None, authority.as_str()),
        };
        // `Authority::port` calls a port that is out of range absent.
        let port = host_port.strip_prefix(authority.host()).filter(|rest| !rest.is_empty());
        let port = match port.map(|port| port.trim_start_matches(':')) {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?,
            // Any word would be a host.
            None if uri.scheme().is_none() => return Err(wrong()),
            None => HTTP_PORT,
        };
        let proxy = Self::new(&format!("{}:{port}", authority.host()))?;
        let Some(credentials) = credentials else { return Ok(proxy) };
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let decoded = |text| {
            percent_decode_str(text).decode_utf8().map_err(|_| {
                ProxyError("user and password must be UTF-8 once percent-decoded".to_owned())
            })
        };
        proxy.with_credentials(&decoded(user)?, &decoded(password)?)
    }

    /// Creates a proxy without credentials from `host:port`.
    ///
    /// # Errors
    /// The address is empty, too long, or has no port.
    pub fn new(address: &str) -> Result<Self, ProxyError> {
        let port = address
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic()))
            .and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none_or(|port| port == 0) || address.len() > ADDRESS_BYTES_MAX {
            return Err(ProxyError(format!(
                "must be host:port of at most {ADDRESS_BYTES_MAX} bytes"
            )));
        }
        Ok(Self { address: address.to_owned(), authorization: None })
    }

    /// Adds credentials for Basic authentication (RFC 7617).
    ///
    /// # Errors
    /// The user has a colon, one of the two has a control character, or both are too long.
    pub fn with_credentials(self, user: &str, password: &str) -> Result<Self, ProxyError> {
        if user.contains(':') {
            return Err(ProxyError("the user must not contain a colon".to_owned()));
        }
        if user.chars().chain(password.chars()).any(char::is_control) {
            return Err(ProxyError(
                "user and password must not contain control characters, such as a line feed"
                    .to_owned(),
            ));
        }
        let encoded = BASE64.encode(format!("{user}:{password}").as_bytes());
        self.with_authorization(format!("Basic {encoded}"))
    }

    /// Adds the value of `Proxy-Authorization`.
    ///
    /// # Errors
    /// The value is empty or too long, or has other than visible ASCII characters and spaces.
    pub fn with_authorization(self, value: String) -> Result<Self, ProxyError> {
        let visible = value.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        if value.is_empty() || value.len() > AUTHORIZATION_BYTES_MAX || !visible {
            return Err(ProxyError(format!(
                "must be 1 to {AUTHORIZATION_BYTES_MAX} visible ASCII characters; got {} bytes",
                value.len()
            )));
        }
        Ok(Self { authorization: Some(SecretString::from(value)), ..self })
    }

    /// Address of the proxy as `host:port`; an IPv6 address has brackets.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Value of `Proxy-Authorization`; `None`: the proxy gets no credentials.
    #[must_use]
    pub fn authorization(&self) -> Option<&SecretString> {
        self.authorization.as_ref()
    }
}

impl PartialEq for Proxy {
    /// Compares secrets in varying time: both are the operator's own, so the time tells others
    /// nothing.
    fn eq(&self, other: &Self) -> bool {
        let secret = |proxy: &Self| {
            proxy.authorization.as_ref().map(|value| value.expose_secret().to_owned())
        };
        self.address == other.address && secret(self) == secret(other)
    }
}

impl Eq for Proxy {}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("address", &self.address)
            .field("has_credentials", &self.authorization.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> (String, Option<String>) {
        let proxy = Proxy::parse(url).expect(url);
        let value = proxy.authorization().map(|value| value.expose_secret().to_owned());
        (proxy.address().to_owned(), value)
    }

    #[test]
    fn urls_as_people_write_them() {
        for (url, address) in [
            ("http://proxy.example:3128", "proxy.example:3128"),
            ("http://proxy.example:3128/", "proxy.example:3128"),
            ("proxy.example:3128", "proxy.example:3128"),
            ("http://10.0.0.1", "10.0.0.1:80"),
            ("HTTP://proxy.example:8080", "proxy.example:8080"),
            ("http://[fd00::1]:3128", "[fd00::1]:3128"),
        ] {
            assert_eq!(parsed(url), (address.to_owned(), None), "{url}");
        }
    }

    #[test]
    fn credentials_are_decoded_and_encoded_again_and_never_shown() {
        // "Aladdin:open sesame" is the example of RFC 7617.
        let (address, value) = parsed("http://Aladdin:open%20sesame@proxy.example:3128");
        assert_eq!(address, "proxy.example:3128");
        assert_eq!(value.as_deref(), Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
        assert_eq!(parsed("http://me:a%40b%3Ac@h:1").1.as_deref(), Some("Basic bWU6YUBiOmM="));
        assert_eq!(parsed("http://me@h:1").1.as_deref(), Some("Basic bWU6"));
        let proxy = Proxy::parse("http://Aladdin:secret@h:1").expect("valid");
        let shown = format!("{proxy:?}");
        assert!(!shown.contains("secret") && !shown.contains("QWxh"), "{shown}");
        assert_ne!(proxy, Proxy::parse("http://Aladdin:other@h:1").expect("valid"));
    }

    #[test]
    fn other_proxies_are_refused_by_name_and_nothing_of_the_url_is_shown() {
        for (url, words) in [
            ("https://u:secret@proxy:443", "got https://"),
            ("socks5://u:secret@proxy:1080", "got socks5://"),
            ("http://u:secret@proxy:3128/path", "without a path"),
            ("http://u:secret@proxy:0", "must be http://host:port"),
            ("http://u:secret@proxy:99999", "must be http://host:port"),
            ("http://u:secret@:3128", "must be "),
            ("", "must be http://host:port"),
            ("off", "must be http://host:port"),
            ("http://u:secret#1@proxy:3128", "must be percent-encoded"),
            ("http://u:se@cret@proxy:3128", "must be percent-encoded"),
            ("http://u:secret/@proxy:3128", "must be percent-encoded"),
            ("http://u:sec%0Aret@proxy:1", "control characters"),
            ("http://u:%ff@proxy:1", "UTF-8"),
        ] {
            let error = Proxy::parse(url).expect_err(url).to_string();
            assert!(error.contains(words), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
