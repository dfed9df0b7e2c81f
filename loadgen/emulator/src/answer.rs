//! Answers of the gateway: the status of a response and the reason of a refusal. Each provider's
//! module writes them in that provider's format.

use std::io::Write as _;

use serde::{Deserialize, Serialize};

use super::{
    frame::{self, flag, kind},
    hpack::{Encoder, put_literal},
    platform::Platform,
};

macro_rules! reasons {
    ($($name:ident $text:literal = $status:literal,)*) => {
        /// Reason of a refusal, of either provider. `None` means status 200. Records store the
        /// number of a reason, so new reasons are appended at the end.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[allow(missing_docs, reason = "the providers' names; see their tables of reasons")]
        #[repr(u8)]
        pub enum Reason { None, $(#[serde(rename = $text)] $name,)* }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[Self::None, $(Self::$name,)*];

            /// Returns the status that the provider documents for the reason.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { Self::None => 200, $(Self::$name => $status,)* }
            }

            /// Returns the text of the reason in configuration and statistics; APNs also sends it
            /// in the body.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { Self::None => "", $(Self::$name => $text,)* }
            }
        }
    };
}

reasons! {
    // Apple's ("Handling notification responses from APNs").
    BadCollapseId "BadCollapseId" = 400,
    BadDeviceToken "BadDeviceToken" = 400,
    BadExpirationDate "BadExpirationDate" = 400,
    BadMessageId "BadMessageId" = 400,
    BadPriority "BadPriority" = 400,
    BadTopic "BadTopic" = 400,
    DeviceTokenNotForTopic "DeviceTokenNotForTopic" = 400,
    DuplicateHeaders "DuplicateHeaders" = 400,
    IdleTimeout "IdleTimeout" = 400,
    InvalidPushType "InvalidPushType" = 400,
    MissingDeviceToken "MissingDeviceToken" = 400,
    MissingTopic "MissingTopic" = 400,
    PayloadEmpty "PayloadEmpty" = 400,
    TopicDisallowed "TopicDisallowed" = 400,
    BadCertificate "BadCertificate" = 403,
    BadCertificateEnvironment "BadCertificateEnvironment" = 403,
    BadEnvironmentKeyIdInToken "BadEnvironmentKeyIdInToken" = 403,
    ExpiredProviderToken "ExpiredProviderToken" = 403,
    Forbidden "Forbidden" = 403,
    InvalidProviderToken "InvalidProviderToken" = 403,
    MissingProviderToken "MissingProviderToken" = 403,
    UnrelatedKeyIdInToken "UnrelatedKeyIdInToken" = 403,
    BadPath "BadPath" = 404,
    MethodNotAllowed "MethodNotAllowed" = 405,
    ExpiredToken "ExpiredToken" = 410,
    Unregistered "Unregistered" = 410,
    PayloadTooLarge "PayloadTooLarge" = 413,
    TooManyProviderTokenUpdates "TooManyProviderTokenUpdates" = 429,
    TooManyRequests "TooManyRequests" = 429,
    InternalServerError "InternalServerError" = 500,
    ServiceUnavailable "ServiceUnavailable" = 503,
    Shutdown "Shutdown" = 503,
    // Google's error codes (https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode).
    FcmUnregistered "UNREGISTERED" = 404,
    FcmInvalidArgument "INVALID_ARGUMENT" = 400,
    FcmSenderIdMismatch "SENDER_ID_MISMATCH" = 403,
    FcmQuotaExceeded "QUOTA_EXCEEDED" = 429,
    FcmUnavailable "UNAVAILABLE" = 503,
    FcmInternal "INTERNAL" = 500,
    FcmThirdPartyAuthError "THIRD_PARTY_AUTH_ERROR" = 401,
    FcmUnspecified "UNSPECIFIED_ERROR" = 500,
    // Answers of FCM that have no error code of their own but a body of their own; see
    // `fcm::answer`.
    FcmRateLimitExceeded "RATE_LIMIT_EXCEEDED" = 429,
    FcmInvalidToken "INVALID_TOKEN" = 400,
    FcmMissingRecipient "MISSING_RECIPIENT" = 400,
    FcmInvalidJson "INVALID_JSON" = 400,
    FcmPayloadTooLarge "PAYLOAD_TOO_LARGE" = 400,
    FcmUnauthenticated "UNAUTHENTICATED" = 401,
    FcmPermissionDenied "PERMISSION_DENIED" = 403,
    FcmProjectNotFound "PROJECT_NOT_FOUND" = 404,
    FcmPathNotFound "PATH_NOT_FOUND" = 404,
    FcmBadGateway "BAD_GATEWAY" = 502,
    FcmUnauthorizedPage "UNAUTHORIZED_PAGE" = 401,
    // A 429 whose `error.message` alone says that it concerns one device.
    FcmDeviceRateExceeded "DEVICE_RATE_EXCEEDED" = 429,
    // No provider's reason: an HTML page of a proxy. A fault may combine it with any status.
    Page "PAGE" = 502,
}

impl Reason {
    /// Returns the reason that a record stores under this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Returns the platform whose gateway gives the reason; `None` if both gateways may give it.
    #[must_use]
    pub fn platform(self) -> Option<Platform> {
        match self as u8 {
            _ if matches!(self, Self::None | Self::Page) => None,
            n if n < Self::FcmUnregistered as u8 => Some(Platform::Apns),
            _ => Some(Platform::Fcm),
        }
    }

    /// Reports whether the reason means that the device token is dead.
    #[must_use]
    pub fn is_dead_token(self) -> bool {
        matches!(
            self,
            Self::BadDeviceToken
                | Self::DeviceTokenNotForTopic
                | Self::ExpiredToken
                | Self::Unregistered
                | Self::FcmUnregistered
                | Self::FcmInvalidToken
                | Self::FcmSenderIdMismatch
        )
    }
}

/// Value of the `Retry-After` header of a response.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryAfter {
    /// Seconds to wait before the next attempt.
    pub seconds: u32,
    /// Whether the header is a date (RFC 9110, section 10.2.3) instead of a number of seconds.
    #[serde(default)]
    pub date: bool,
}

/// An invalid field of a request body, in Google's format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field; empty if the body as a whole is invalid.
    pub field: String,
    /// Description of the problem.
    pub description: String,
}

/// The decided answer to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status of the response.
    pub status: u16,
    /// Reason in the body of the response; `None` for status 200.
    pub reason: Reason,
    /// `timestamp` in the body of an APNs 410, milliseconds since 1970.
    pub timestamp_ms: Option<u64>,
    /// Value of the `Retry-After` header; FCM only.
    pub retry_after: Option<RetryAfter>,
    /// Description of the violated quota; FCM only. Boxed, because hundreds of thousands of answers
    /// wait at once and hardly any has a violation.
    pub violation: Option<Box<Violation>>,
}

impl Answer {
    /// The answer to an accepted push: status 200 without a reason.
    pub const ACCEPTED: Self = Self {
        status: 200,
        reason: Reason::None,
        timestamp_ms: None,
        retry_after: None,
        violation: None,
    };

    /// Returns a refusal with the status that the provider documents for the reason.
    #[must_use]
    pub fn refused(reason: Reason) -> Self {
        Self { status: reason.status(), reason, ..Self::ACCEPTED }
    }
}

/// Begins a HEADERS frame with END_HEADERS and returns the offset of the frame in `out`. The caller
/// completes the frame with [`end_headers`].
pub fn begin_headers(out: &mut Vec<u8>, stream: u32, ends: bool) -> usize {
    let start = out.len();
    frame::head(
        out,
        0,
        kind::HEADERS,
        flag::END_HEADERS | if ends { flag::END_STREAM } else { 0 },
        stream,
    );
    start
}

/// Fills in the length of the frame that [`begin_headers`] began at `start`.
///
/// # Panics
/// If the header block has more than 255 bytes. The block of an answer has at most half of that.
pub fn end_headers(out: &mut [u8], start: usize) {
    let length = out.len() - start - frame::HEAD_BYTES;
    // The length field has three octets; a short block needs only the last one.
    out[start + 2] = u8::try_from(length).expect("a short header block");
}

/// Appends the body of an answer as one DATA frame with END_STREAM.
pub fn put_body(out: &mut Vec<u8>, stream: u32, body: &[u8]) {
    frame::head(out, body.len(), kind::DATA, flag::END_STREAM, stream);
    out.extend_from_slice(body);
}

/// Appends the HEADERS frame of an answer that is cut: it has a status and announces a body that is
/// never sent.
pub fn put_cut_head(out: &mut Vec<u8>, encoder: &mut Encoder, stream: u32, status: u16) {
    let start = begin_headers(out, stream, false);
    encoder.begin(out);
    put_status(out, status);
    put_literal(out, b"content-length", b"1024");
    end_headers(out, start);
}

/// Appends the HEADERS frame of a proxy's HTML page to `out`, and the page to `body`.
pub fn put_proxy_page(
    out: &mut Vec<u8>,
    encoder: &mut Encoder,
    stream: u32,
    status: u16,
    body: &mut Vec<u8>,
) {
    let start = begin_headers(out, stream, false);
    encoder.begin(out);
    put_status(out, status);
    put_literal(out, b"content-type", b"text/html");
    match status {
        300..=399 => put_literal(out, b"location", b"https://login.proxy.example/"),
        407 => put_literal(out, b"proxy-authenticate", b"Basic realm=\"proxy.example\""),
        _ => {}
    }
    end_headers(out, start);
    let written = write!(
        body,
        "<html>\r\n<head><title>{status}</title></head>\r\n<body>\r\n<center><h1>{status}</h1></center>\r\n\
         <hr><center>proxy.example</center>\r\n</body>\r\n</html>\r\n"
    );
    written.expect("writing to memory");
}

/// Appends the `:status` pseudo-header to a header block.
pub fn put_status(out: &mut Vec<u8>, status: u16) {
    // The static table holds :status with these values from entry 8 on (RFC 7541, appendix A).
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match INDEXED.iter().position(|&s| s == status) {
        Some(i) => out.push(0x88 + u8::try_from(i).expect("one of seven")),
        None => {
            out.extend_from_slice(&[0x08, 3]);
            write!(out, "{status:03}").expect("writing to memory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_reasons_come_back() {
        for &reason in Reason::ALL {
            assert_eq!(Reason::from_number(reason as u8), Some(reason));
        }
        assert_eq!(Reason::from_number(200), None);
    }

    #[test]
    fn every_reason_has_its_platform_and_name() {
        assert_eq!(Reason::None.platform(), None);
        assert_eq!(Reason::Shutdown.platform(), Some(Platform::Apns));
        assert_eq!(Reason::FcmUnregistered.platform(), Some(Platform::Fcm));
        assert_eq!(Reason::Page.platform(), None, "a proxy may stand before either");
        for &reason in &Reason::ALL[1..] {
            let name = format!("\"{}\"", reason.as_str());
            assert_eq!(serde_json::from_str::<Reason>(&name).expect("named"), reason);
        }
    }
}
