//! URIs of endpoints in Google's credentials files.

use crate::lane_owner::Endpoint;

/// Parses `https://host[:port][/path]`: signed requests must not be sent in plaintext, nor with a
/// password in the URI.
pub(super) fn tls(key: &str, uri: &str, ca_pem: &str) -> Result<Endpoint, String> {
    parse(uri, ca_pem)
        .filter(|endpoint| endpoint.is_tls)
        .ok_or_else(|| format!("{key}: must be https://host/path"))
}

/// Parses a URI of `https` or `http`.
pub(super) fn plain_or_tls(key: &str, uri: &str, ca_pem: &str) -> Result<Endpoint, String> {
    parse(uri, ca_pem)
        .ok_or_else(|| format!("{key}: must be https://host/path or http://host/path"))
}

fn parse(uri: &str, ca_pem: &str) -> Option<Endpoint> {
    let parsed: http::Uri = uri.parse().ok()?;
    let authority = parsed.authority().filter(|a| !a.as_str().contains('@'))?;
    let is_tls = match parsed.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    if uri.contains('#') {
        return None;
    }
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    rustls_pki_types::ServerName::try_from(host.as_str()).ok()?;
    let port = match authority
        .as_str()
        .strip_prefix(authority.host())
        .and_then(|rest| rest.strip_prefix(':'))
    {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None => {
            if is_tls {
                443
            } else {
                80
            }
        }
    };
    Some(Endpoint { uri: uri.to_owned(), host, port, is_tls, ca_pem: ca_pem.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_may_be_anywhere_but_only_over_https() {
        let endpoint = |uri: &str| tls("token_uri", uri, "").map(|e| (e.host, e.port));
        assert_eq!(endpoint("https://localhost:8443/token"), Ok(("localhost".into(), 8443)));
        assert_eq!(endpoint("https://[::1]:8443/token"), Ok(("::1".into(), 8443)));
        assert_eq!(endpoint("https://127.0.0.1"), Ok(("127.0.0.1".into(), 443)));
        for wrong in [
            "http://h/token",
            "/token",
            "h:443",
            "https://a:b@h/",
            "https://h:0/",
            "https://h:99999/",
            "https://h/#x",
            "file:///etc/passwd",
        ] {
            assert_eq!(
                endpoint(wrong),
                Err("token_uri: must be https://host/path".into()),
                "{wrong}"
            );
        }
        let plain = plain_or_tls("url", "http://169.254.169.254/token", "").expect("valid");
        assert_eq!((plain.port, plain.is_tls), (80, false));
        assert!(plain_or_tls("url", "ftp://h/", "").is_err());
    }
}
