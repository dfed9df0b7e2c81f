//! TLS without buffers of its own: records are decrypted in place, responses are encrypted directly
//! into the output.
//!
//! rustls' buffered interface reads 4 KiB at a time. A system call for every dozen pushes would
//! cost more than all other work.

use std::sync::Arc;

use rustls::{
    Error, ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{
        ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
        WriteTraffic,
    },
};

/// Most bytes that a record adds to its plaintext, and its longest plaintext (RFC 8446, section
/// 5.2).
const RECORD_OVERHEAD: usize = 256 + 5;
const RECORD_BYTES: usize = 16_384;
/// Most states that one call may pass without consuming input. A handshake has a dozen.
const STATES_MAX: usize = 64;

/// The server's TLS session of one connection.
pub struct Session {
    tls: UnbufferedServerConnection,
    /// Plaintext that is sent as soon as TLS allows. In TLS 1.3 that is with the server's first
    /// flight, so that a client knows the stream limit before its first request, as with APNs.
    greeting: Vec<u8>,
}

/// Result of [`Session::receive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Number of bytes consumed; the rest is an incomplete record.
    pub consumed: usize,
    /// Whether the client has closed its sending direction.
    pub closed: bool,
}

impl Session {
    /// Begins a handshake.
    ///
    /// # Errors
    /// If the configuration cannot be used.
    pub fn new(config: Arc<ServerConfig>, greeting: Vec<u8>) -> Result<Self, Error> {
        Ok(Self { tls: UnbufferedServerConnection::new(config)?, greeting })
    }

    /// Reports whether application data can be exchanged.
    #[must_use]
    pub fn is_established(&self) -> bool {
        !self.tls.is_handshaking()
    }

    fn speaks_h2(&self) -> bool {
        self.tls.alpn_protocol() == Some(b"h2")
    }

    /// Decrypts bytes from the socket, passes plaintext to `take`, and appends the session's own
    /// output to `out`.
    ///
    /// # Errors
    /// If the session failed, or the client speaks another protocol. The alert for the client is at
    /// the end of `out`.
    pub fn receive(
        &mut self,
        incoming: &mut [u8],
        out: &mut Vec<u8>,
        mut take: impl FnMut(&[u8]),
    ) -> Result<Received, Error> {
        let mut received = Received { consumed: 0, closed: false };
        let mut idle = 0;
        loop {
            if self.is_established() && !self.speaks_h2() {
                // A client that offers no ALPN protocol completes the handshake but gets no
                // further.
                return Err(Error::NoApplicationProtocol);
            }
            let UnbufferedStatus { mut discard, state } =
                self.tls.process_tls_records(&mut incoming[received.consumed..]);
            let mut more = true;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        take(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    fill(out, 0, |room| data.encode(room))?;
                }
                Ok(ConnectionState::TransmitTlsData(mut transmit)) => {
                    if let Some(mut traffic) = transmit.may_encrypt_app_data() {
                        encrypt(&mut traffic, &std::mem::take(&mut self.greeting), out)?;
                    }
                    transmit.done();
                }
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    encrypt(&mut traffic, &std::mem::take(&mut self.greeting), out)?;
                    more = false;
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    received.closed = true;
                    more = false;
                }
                Ok(_) => more = false,
                Err(error) => {
                    self.drain(out);
                    return Err(error);
                }
            }
            received.consumed += discard;
            idle = if discard > 0 { 0 } else { idle + 1 };
            if !more {
                return Ok(received);
            }
            if idle > STATES_MAX {
                return Err(Error::General("TLS makes no progress on received data".into()));
            }
        }
    }

    /// Appends plaintext in encrypted form.
    ///
    /// # Errors
    /// If the session failed.
    pub fn send(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.write(out, |traffic, out| encrypt(traffic, plaintext, out))
    }

    /// Appends the alert that closes the session; nothing before the handshake is complete.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        // If the alert cannot be written, the connection ends without it.
        let _ =
            self.write(out, |traffic, out| fill(out, 64, |room| traffic.queue_close_notify(room)));
    }

    fn write(
        &mut self,
        out: &mut Vec<u8>,
        send: impl FnOnce(
            &mut WriteTraffic<'_, rustls::server::ServerConnectionData>,
            &mut Vec<u8>,
        ) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for _ in 0..STATES_MAX {
            match self.tls.process_tls_records(&mut []).state? {
                ConnectionState::WriteTraffic(mut traffic) => return send(&mut traffic, out),
                ConnectionState::EncodeTlsData(mut data) => fill(out, 0, |room| data.encode(room))?,
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                ConnectionState::PeerClosed => {}
                _ => break,
            }
        }
        Err(Error::HandshakeNotComplete)
    }

    /// Appends the alert after an error.
    fn drain(&mut self, out: &mut Vec<u8>) {
        for _ in 0..STATES_MAX {
            match self.tls.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    if fill(out, 0, |room| data.encode(room)).is_err() {
                        return;
                    }
                }
                Ok(ConnectionState::TransmitTlsData(transmit)) => transmit.done(),
                _ => return,
            }
        }
    }
}

fn encrypt<Data>(
    traffic: &mut WriteTraffic<'_, Data>,
    plaintext: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    if plaintext.is_empty() {
        return Ok(());
    }
    let records = plaintext.len().div_ceil(RECORD_BYTES);
    fill(out, plaintext.len() + records * RECORD_OVERHEAD, |room| traffic.encrypt(plaintext, room))
}

/// Reason why rustls wrote nothing.
enum Unfilled {
    Short(usize),
    Broken(&'static str),
}

impl From<EncodeError> for Unfilled {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => {
                Self::Short(required_size)
            }
            EncodeError::AlreadyEncoded => Self::Broken("a TLS record was encoded twice"),
        }
    }
}

impl From<EncryptError> for Unfilled {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => {
                Self::Short(required_size)
            }
            EncryptError::EncryptExhausted => Self::Broken("the TLS keys are used up"),
        }
    }
}

/// Appends the bytes that `write` fills into a slice of `guess` bytes, and calls it once more if it
/// needs a longer slice.
fn fill<E: Into<Unfilled>>(
    out: &mut Vec<u8>,
    guess: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, E>,
) -> Result<(), Error> {
    let start = out.len();
    let mut size = guess;
    for _ in 0..2 {
        out.resize(start + size, 0);
        match write(&mut out[start..]).map_err(Into::into) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(Unfilled::Short(required)) => size = required,
            Err(Unfilled::Broken(why)) => {
                out.truncate(start);
                return Err(Error::General(why.into()));
            }
        }
    }
    out.truncate(start);
    Err(Error::General("TLS needs more buffer than any record has".into()))
}
