//! A tunnel through an HTTP proxy: the request CONNECT and the proxy's response. Free of I/O.
//!
//! ```text
//! asking ──request sent, head of the response complete: 2xx──▶ open
//!    └────any other response, no HTTP, too long, bytes after the head, end of file──▶ TunnelError
//! ```
//!
//! Responses of 1xx before the final one are skipped (RFC 9110, section 15.2), and every 2xx opens the
//! tunnel (section 9.3.6).
//!
//! The shell sends [`Tunnel::to_send`], passes on what it reads, and has the deadline. Once a
//! tunnel is open, TLS begins: the client speaks first, so bytes after the head of the response
//! cannot be the peer's, and are refused.

use secrecy::{ExposeSecret, SecretString};

use super::Proxy;

/// Longest head of a response, bytes; a real one has some hundred.
pub const HEAD_BYTES_MAX: usize = 8 * 1_024;
/// Longest text that is kept of a proxy's own words, characters.
const WORDS_MAX: usize = 64;
/// First bytes of every response in HTTP/1.
const HTTP: &[u8] = b"HTTP/1.";

/// A tunnel that is being opened.
#[derive(Debug)]
pub struct Tunnel {
    proxy: String,
    target: String,
    has_credentials: bool,
    request: SecretString,
    sent: usize,
    head: Vec<u8>,
}

/// Reason why a proxy opened no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("proxy {proxy} {problem}")]
pub struct TunnelError {
    /// Address of the proxy.
    pub proxy: String,
    /// Description of the problem.
    pub problem: TunnelProblem,
}

/// What a proxy did instead of opening a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TunnelProblem {
    /// The proxy answered with a status other than 2xx.
    #[error("answered {status}{words}: {advice}")]
    Refused {
        /// Status of the response.
        status: u16,
        /// Reason phrase of the response, after a space.
        words: String,
        /// What the status means, for the operator.
        advice: String,
    },
    /// The answer is not HTTP/1.
    #[error("answered in another protocol than HTTP/1: set the address of an HTTP proxy")]
    NotHttp,
    /// The head of the answer exceeds [`HEAD_BYTES_MAX`].
    #[error("answered with more than {HEAD_BYTES_MAX} bytes of headers")]
    TooLong,
    /// The proxy sent more than its answer, before TLS began.
    #[error("sent {0} bytes after its answer to CONNECT, before TLS began")]
    Early(usize),
    /// The proxy closed the connection without an answer.
    #[error("closed the connection without an answer to CONNECT")]
    Closed,
}

impl TunnelError {
    /// Whether a later attempt may succeed without a change by an operator.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self.problem {
            TunnelProblem::Refused { status, .. } => matches!(status, 408 | 429 | 500..),
            TunnelProblem::Closed => true,
            TunnelProblem::NotHttp | TunnelProblem::TooLong | TunnelProblem::Early(_) => false,
        }
    }
}

impl Tunnel {
    /// Begins a tunnel through `proxy` to the target `host:port`, whose name the proxy resolves.
    #[must_use]
    pub fn new(proxy: &Proxy, target: &str) -> Self {
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(value) = proxy.authorization() {
            request.push_str("Proxy-Authorization: ");
            request.push_str(value.expose_secret());
            request.push_str("\r\n");
        }
        // Rules of some proxies refuse requests without a user agent.
        request.push_str("User-Agent: clarion\r\n\r\n");
        Self {
            proxy: proxy.address().to_owned(),
            target: target.to_owned(),
            has_credentials: proxy.authorization().is_some(),
            request: SecretString::from(request),
            sent: 0,
            head: Vec::new(),
        }
    }

    /// Bytes to send to the proxy; empty: the whole request was sent.
    #[must_use]
    pub fn to_send(&self) -> &[u8] {
        &self.request.expose_secret().as_bytes()[self.sent..]
    }

    /// Records the number of bytes of [`Tunnel::to_send`] that were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
    }

    /// Takes bytes from the proxy. Returns true once the tunnel is open.
    ///
    /// # Errors
    /// The proxy opens no tunnel.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<bool, TunnelError> {
        let mut rest = bytes;
        loop {
            let room = HEAD_BYTES_MAX - self.head.len();
            let (now, later) = rest.split_at(rest.len().min(room));
            self.head.extend_from_slice(now);
            rest = later;
            let begun = self.head.len().min(HTTP.len());
            if self.head[..begun] != HTTP[..begun] {
                return Err(self.error(TunnelProblem::NotHttp));
            }
            let Some(end) = head_end(&self.head) else {
                if self.head.len() == HEAD_BYTES_MAX {
                    return Err(self.error(TunnelProblem::TooLong));
                }
                return Ok(false);
            };
            let after = self.head.len() - end + rest.len();
            let head = String::from_utf8_lossy(&self.head[..end]).into_owned();
            match status(&head) {
                None => return Err(self.error(TunnelProblem::NotHttp)),
                Some((200..=299, _)) if after > 0 => {
                    return Err(self.error(TunnelProblem::Early(after)));
                }
                Some((200..=299, _)) => return Ok(true),
                // 101 would be the answer to an upgrade, which was not asked for.
                Some((100 | 102..=199, _)) => drop(self.head.drain(..end)),
                Some((status, words)) => {
                    let advice = self.advice(status, &head);
                    let words = shown(words);
                    let words = if words.is_empty() { words } else { format!(" {words}") };
                    return Err(self.error(TunnelProblem::Refused { status, words, advice }));
                }
            }
        }
    }

    /// The error of a proxy that closed the connection before the tunnel was open.
    #[must_use]
    pub fn closed(&self) -> TunnelError {
        self.error(TunnelProblem::Closed)
    }

    fn error(&self, problem: TunnelProblem) -> TunnelError {
        TunnelError { proxy: self.proxy.clone(), problem }
    }

    /// What a refusal means, and what an operator can do.
    fn advice(&self, status: u16, head: &str) -> String {
        let target = &self.target;
        match status {
            // tinyproxy answers 401 to wrong credentials, and 407 to none.
            401 | 407 => {
                let schemes = header_values(head, "proxy-authenticate")
                    .filter_map(|value| value.split([' ', ',']).next())
                    .map(|scheme| scheme.chars().filter(char::is_ascii_alphanumeric).take(16))
                    .map(Iterator::collect::<String>)
                    .collect::<Vec<_>>();
                let offers_basic = schemes.iter().any(|s| s.eq_ignore_ascii_case("basic"));
                if !schemes.is_empty() && !offers_basic {
                    let schemes = shown(&schemes.join(", "));
                    format!("the proxy demands {schemes} authentication; only Basic is supported")
                } else if self.has_credentials {
                    "the proxy refuses the credentials; check user and password".to_owned()
                } else {
                    "the proxy demands credentials; set user and password".to_owned()
                }
            }
            403 | 405 => format!("the proxy's rules must allow CONNECT to {target}"),
            502..=504 => format!("the proxy cannot reach {target}"),
            300..=399 => "a proxy must not redirect CONNECT; is it a login page?".to_owned(),
            _ => "expected 2xx".to_owned(),
        }
    }
}

/// Length of a complete head with its empty line. Lines may end without a carriage return
/// (RFC 9112, section 2.2).
fn head_end(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|&b| b == b'\n') {
        let line = &bytes[from..from + at];
        from += at + 1;
        if line.is_empty() || line == b"\r" {
            return Some(from);
        }
    }
    None
}

/// Status and reason phrase of a status line; the phrase may be absent.
fn status(head: &str) -> Option<(u16, &str)> {
    let line = head.lines().next()?;
    let (version, rest) = line.split_once(' ')?;
    let (status, words) = rest.split_once(' ').unwrap_or((rest, ""));
    let is_status = status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit());
    let is_http = matches!(version, "HTTP/1.0" | "HTTP/1.1");
    status.parse().ok().filter(|_| is_http && is_status).map(|status| (status, words))
}

fn header_values<'a>(head: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    head.lines().skip(1).filter_map(move |line| {
        let (of, value) = line.split_once(':')?;
        of.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Cuts a proxy's words to visible characters that fit a log line.
fn shown(words: &str) -> String {
    words.trim().chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tunnel(url: &str) -> Tunnel {
        Tunnel::new(&Proxy::parse(url).expect("a proxy"), "api.push.apple.com:443")
    }

    fn answered(url: &str, answer: &[u8]) -> Result<bool, String> {
        tunnel(url).receive(answer).map_err(|e| e.to_string())
    }

    #[test]
    fn the_request_names_the_target_unresolved_and_has_the_credentials() {
        let mut tunnel = tunnel("http://Aladdin:open%20sesame@p:3128");
        let expected = "CONNECT api.push.apple.com:443 HTTP/1.1\r\n\
                        Host: api.push.apple.com:443\r\n\
                        Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\
                        User-Agent: clarion\r\n\r\n";
        assert_eq!(tunnel.to_send(), expected.as_bytes());
        tunnel.sent(8);
        assert!(tunnel.to_send().starts_with(b"api.push"));
        tunnel.sent(expected.len() - 8);
        assert!(tunnel.to_send().is_empty());
        assert!(!format!("{tunnel:?}").contains("QWxh"));
    }

    #[test]
    fn answers_of_real_proxies_open_a_tunnel() {
        for answer in [
            // squid, tinyproxy, Go's httputil, and one without a phrase and carriage returns.
            "HTTP/1.1 200 Connection established\r\n\r\n",
            "HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200\n\n",
            // Interim responses, and another 2xx.
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103\r\nLink: x\r\n\r\nHTTP/1.1 204\r\n\r\n",
        ] {
            assert_eq!(answered("p:1", answer.as_bytes()), Ok(true), "{answer:?}");
            let mut tunnel = tunnel("p:1");
            let (last, first) = answer.as_bytes().split_last().expect("not empty");
            assert!(first.iter().all(|byte| tunnel.receive(&[*byte]) == Ok(false)), "{answer:?}");
            assert_eq!(tunnel.receive(&[*last]), Ok(true), "byte by byte");
        }
    }

    #[test]
    fn every_refusal_names_the_proxy_the_answer_and_what_to_do() {
        let with = "http://u:secret@p:3128";
        for (url, answer, words) in [
            (
                "p:3128",
                "HTTP/1.1 407 Proxy Authentication Required\r\n\
                 Proxy-Authenticate: Basic realm=\"Squid\"\r\n\r\n",
                "proxy p:3128 answered 407 Proxy Authentication Required: the proxy demands \
                 credentials; set user and password",
            ),
            (
                with,
                "HTTP/1.1 407 Nope\r\nProxy-Authenticate: Basic realm=x\r\n\r\n<html>",
                "answered 407 Nope: the proxy refuses the credentials; check user and password",
            ),
            (
                with,
                "HTTP/1.1 407 Nope\r\nProxy-Authenticate: Negotiate\r\n\
                 Proxy-Authenticate: NTLM\r\n\r\n",
                "the proxy demands Negotiate, NTLM authentication; only Basic is supported",
            ),
            (
                with,
                "HTTP/1.0 401 Unauthorized\r\nServer: tinyproxy/1.11.1\r\n\r\n",
                "answered 401 Unauthorized: the proxy refuses the credentials; check user",
            ),
            (
                "p:3128",
                "HTTP/1.0 403 Filtered\r\n\r\n",
                "answered 403 Filtered: the proxy's rules must allow CONNECT to \
                 api.push.apple.com:443",
            ),
            (
                "p:3128",
                "HTTP/1.1 503 Service Unavailable\r\n\r\n",
                "the proxy cannot reach api.push.apple.com:443",
            ),
            ("p:3128", "HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "login page"),
            ("p:3128", "HTTP/1.1 101\r\n\r\n", "answered 101: expected 2xx"),
            ("p:3128", "HTTP/1.1 2000 OK\r\n\r\n", "another protocol"),
            ("p:3128", "HTTP/2 200 OK\r\n\r\n", "another protocol"),
            ("p:3128", "\u{15}\u{3}\u{1}", "another protocol"),
            ("p:3128", "SSH-2.0-x\r\n", "another protocol"),
            ("p:3128", "HTTP/1.1 200 OK\r\n\r\n\0\0\0", "sent 3 bytes after its answer"),
        ] {
            let error = answered(url, answer.as_bytes()).expect_err(answer);
            assert!(error.contains(words), "{answer:?}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(tunnel("p:1").closed().to_string().contains("closed the connection without"));
    }

    #[test]
    fn a_head_without_end_is_refused_at_its_limit() {
        let mut tunnel = tunnel("p:1");
        assert_eq!(tunnel.receive(b"HTTP/1.1 200 OK\r\n"), Ok(false));
        let line = b"X-Filler: 0123456789012345678901234567890123456789\r\n";
        let received = (0..HEAD_BYTES_MAX).find_map(|_| tunnel.receive(line).err());
        assert_eq!(received.expect("an end").problem, TunnelProblem::TooLong);
        assert!(tunnel.head.len() <= HEAD_BYTES_MAX);
    }

    proptest! {
        /// However an answer is cut, the result is that of the whole answer.
        #[test]
        fn cuts_change_nothing(
            answer in proptest::sample::select(vec![
                "HTTP/1.1 200 OK\r\nVia: x\r\n\r\n", "HTTP/1.0 407 No\r\n\r\n", "nonsense\r\n\r\n",
            ]),
            cut in 0usize..30,
        ) {
            let whole = tunnel("p:1").receive(answer.as_bytes());
            let (first, rest) = answer.as_bytes().split_at(cut.min(answer.len()));
            let mut cut = tunnel("p:1");
            let result = match cut.receive(first) {
                Ok(false) => cut.receive(rest),
                ended => ended,
            };
            prop_assert_eq!(result, whole);
        }

        /// No bytes make the machine panic or hold more than its limit.
        #[test]
        fn any_bytes(pieces in proptest::collection::vec(any::<Vec<u8>>(), 0..20)) {
            let mut tunnel = tunnel("p:1");
            for piece in pieces {
                let ended = tunnel.receive(&piece);
                prop_assert!(tunnel.head.len() <= HEAD_BYTES_MAX);
                if ended != Ok(false) {
                    break;
                }
            }
        }
    }
}
