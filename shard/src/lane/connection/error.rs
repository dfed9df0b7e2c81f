//! Errors of a stream or connection: error codes of HTTP/2, and protocol violations by the peer.

/// Error code of a stream or connection (RFC 9113, 7). Peers may send other values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// No error: the connection ends gracefully.
    pub const NO_ERROR: Self = Self(0x0);
    /// A violation of the protocol without a more specific code.
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    /// The peer sent more than the window allowed, or opened a window above 2^31-1.
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    /// A frame has an impossible length.
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    /// The stream was not processed, so that the request may be sent again.
    pub const REFUSED_STREAM: Self = Self(0x7);
    /// The stream is no longer needed.
    pub const CANCEL: Self = Self(0x8);
    /// The state of the header tables is lost.
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    /// The peer causes too much load.
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
}

/// Violation of the protocol by the peer. GOAWAY tells the peer, and the connection ends. Another
/// connection may work; if every connection ends this way, the gateway (or an intermediary) is at
/// fault, not a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the gateway violated HTTP/2: {what} (code {})", code.0)]
pub struct ConnectionError {
    /// Error code sent in our GOAWAY.
    pub code: ErrorCode,
    /// Text of the violated rule.
    pub what: &'static str,
}

impl ConnectionError {
    pub(crate) const fn new(code: ErrorCode, what: &'static str) -> Self {
        Self { code, what }
    }

    pub(crate) const fn protocol(what: &'static str) -> Self {
        Self::new(ErrorCode::PROTOCOL_ERROR, what)
    }

    pub(crate) const fn frame_size(what: &'static str) -> Self {
        Self::new(ErrorCode::FRAME_SIZE_ERROR, what)
    }

    pub(crate) const fn flow_control(what: &'static str) -> Self {
        Self::new(ErrorCode::FLOW_CONTROL_ERROR, what)
    }

    pub(crate) const fn calm(what: &'static str) -> Self {
        Self::new(ErrorCode::ENHANCE_YOUR_CALM, what)
    }
}
