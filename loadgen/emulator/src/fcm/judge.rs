//! Checks of FCM on a request, and the cache that makes these checks cheap.
//!
//! A million pushes of one alert differ only in the token, which is in the body. The cache holds
//! the bytes before and after the token with their meaning. They are cached only after the same
//! bytes around another token were parsed completely and had the same meaning with that token. So
//! the gap between them is the string of the token and nothing else. A string with the form of a
//! token has no quote and no backslash, so it cannot end that string early. Any other body is
//! parsed completely.

use std::ops::Range;

use super::{
    super::{
        answer::{Answer, Reason},
        clock::Now,
    },
    Policy,
    message::{self, Meaning},
    quota::Entrance,
    request::{Ask, Unknown},
};

/// Number of bodies in the cache: alerts times locales in flight.
const BODIES_MAX: usize = 8;
/// Longest token around which a body is cached, bytes: three times the longest one observed. The
/// search for a token costs the product of its length and the body's.
const TOKEN_BYTES_MAX: usize = 512;

/// Google's text for requests without valid credentials.
const HELP: &str = "Expected OAuth 2 access token, login cookie or other valid authentication credential. See \
                    https://developers.google.com/identity/sign-in/web/devconsole-project.";

/// State of one connection for the checks of FCM.
#[derive(Debug, Default)]
pub struct Judge {
    bodies: Vec<Around>,
}

/// Bytes before and after the token of a body.
struct Around {
    before: Box<[u8]>,
    after: Box<[u8]>,
    meaning: Meaning,
}

impl std::fmt::Debug for Around {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Around({} + {} bytes)", self.before.len(), self.after.len())
    }
}

/// A parsed body: its token, if it has one, and its meaning or its fault.
#[derive(Debug)]
pub struct Body<'a> {
    /// Characters of the token, if the body has one.
    pub token: Option<std::borrow::Cow<'a, [u8]>>,
    /// Meaning of the request, or the refusal.
    pub meaning: Result<Meaning, Answer>,
}

impl Judge {
    /// Clears the cache of bodies.
    pub fn forget(&mut self) {
        self.bodies.clear();
    }

    /// Returns the meaning of a body, from the cache or by parsing.
    pub fn read<'a>(&mut self, body: &'a [u8]) -> Body<'a> {
        for (at, around) in self.bodies.iter().enumerate() {
            let Some(token) = around.token(body) else { continue };
            let (token, meaning) = (Some(body[token].into()), Ok(around.meaning));
            self.bodies.swap(0, at);
            return Body { token, meaning };
        }
        let (token, meaning) = message::read(body);
        let Some(token) = token else { return Body { token: None, meaning } };
        if let (Ok(meaning), true) = (&meaning, message::is_token(token.as_bytes())) {
            self.remember(body, token.as_bytes(), *meaning);
        }
        let meaning = match meaning {
            Ok(_) if !message::is_token(token.as_bytes()) => {
                Err(Answer::refused(Reason::FcmInvalidToken))
            }
            other => other,
        };
        Body { token: Some(token.into_bytes().into()), meaning }
    }

    fn remember(&mut self, body: &[u8], token: &[u8], meaning: Meaning) {
        if token.len() > TOKEN_BYTES_MAX {
            return;
        }
        let Some(at) = body.windows(token.len()).position(|w| w == token) else { return };
        let (before, after) = (&body[..at], &body[at + token.len()..]);
        // A token of the same form that differs from the real one in every character.
        let other: Vec<u8> = token.iter().map(|&b| if b == b'x' { b'y' } else { b'x' }).collect();
        let (found, again) = message::read(&[before, &other, after].concat());
        if found.is_some_and(|t| t.as_bytes() == other) && again == Ok(meaning) {
            self.bodies.truncate(BODIES_MAX - 1);
            self.bodies.insert(0, Around { before: before.into(), after: after.into(), meaning });
        }
    }
}

impl Around {
    /// Returns the range of the token in a body whose other bytes are those of the cache.
    fn token(&self, body: &[u8]) -> Option<Range<usize>> {
        let end = body.len().checked_sub(self.after.len())?;
        let token = body.get(self.before.len()..end)?;
        let same = body.starts_with(&self.before)
            && body.ends_with(&self.after)
            && message::is_token(token);
        same.then_some(self.before.len()..end)
    }
}

/// Checks a request before its body is read, and returns the index of its project.
///
/// # Errors
/// The answer that refuses the request.
pub fn admit(ask: &Ask, policy: &Policy, now: Now) -> Result<usize, Answer> {
    if let Some(reason) = ask.path_fault {
        return Err(Answer::refused(reason));
    }
    let access = ask.access.map_err(|unknown| match unknown {
        Unknown::Missing => unauthenticated(
            "CREDENTIALS_MISSING",
            "Request is missing required authentication credential.",
        ),
        Unknown::Invalid => invalid_credentials("ACCESS_TOKEN_TYPE_UNSUPPORTED"),
    })?;
    if access.expires <= now.wall {
        return Err(invalid_credentials("ACCESS_TOKEN_EXPIRED"));
    }
    let project = ask.project.ok_or_else(|| Answer::refused(Reason::FcmProjectNotFound))?;
    if policy.accounts[access.account].projects.contains(&project) {
        Ok(project)
    } else {
        Err(Answer::refused(Reason::FcmPermissionDenied))
    }
}

/// Counts a request against the quota of its project.
pub fn enter(project: usize, policy: &Policy, now: Now) -> Entrance {
    policy.projects[project].quota.lock().enter(now.at)
}

fn invalid_credentials(reason: &str) -> Answer {
    unauthenticated(reason, "Request had invalid authentication credentials.")
}

fn unauthenticated(reason: &str, message: &str) -> Answer {
    let violation = super::super::answer::Violation {
        field: reason.to_owned(),
        description: format!("{message} {HELP}"),
    };
    Answer { violation: Some(Box::new(violation)), ..Answer::refused(Reason::FcmUnauthenticated) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(i: u32) -> String {
        format!("{i:022}:APA91b{}", "k".repeat(120))
    }

    fn body(token: &str, text: &str) -> Vec<u8> {
        format!(r#"{{"message":{{"token":"{token}","notification":{{"body":"{text}"}}}}}}"#)
            .into_bytes()
    }

    #[test]
    fn a_remembered_body_gives_what_reading_gives() {
        let mut judge = Judge::default();
        for i in 0..3 {
            let body = body(&token(i), "found");
            let read = judge.read(&body);
            assert_eq!(read.token.as_deref(), Some(token(i).as_bytes()));
            assert!(read.meaning.is_ok());
        }
        assert_eq!(judge.bodies.len(), 1, "all of them by the first");
        let (hostile, short) = (body("x\",\"topic\":\"all", "found"), body("short", "found"));
        assert_eq!(judge.read(&hostile).meaning.map_err(|a| a.reason), Err(Reason::FcmInvalidJson));
        assert_eq!(judge.read(&short).meaning.map_err(|a| a.reason), Err(Reason::FcmInvalidToken));
    }

    #[test]
    fn a_token_that_also_stands_elsewhere_is_not_taken_for_it() {
        let mut judge = Judge::default();
        // The token is written with an escape, and its plain form is in the text before it.
        let token = token(7);
        let escaped = token.replacen('0', "\\u0030", 1);
        let body = format!(r#"{{"message":{{"data":{{"x":"{token}"}},"token":"{escaped}"}}}}"#)
            .into_bytes();
        assert_eq!(judge.read(&body).token.as_deref(), Some(token.as_bytes()));
        assert_eq!(judge.bodies.len(), 0);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut judge = Judge::default();
        for i in 0..20 {
            assert!(judge.read(&body(&token(i), &i.to_string())).meaning.is_ok());
        }
        assert_eq!(judge.bodies.len(), BODIES_MAX);
    }
}
