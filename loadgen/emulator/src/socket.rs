//! The socket of one client: TCP, TLS on TCP, and HTTP/2 on TLS.

use std::{
    io::{self, Read as _, Write as _},
    sync::Arc,
    time::Duration,
};

use clarion_proto::time::Time;
use mio::net::TcpStream;
use rustls::ServerConfig;

use super::{
    clock,
    connection::{Connection, Context, End},
    policy::Policy,
    record::ConnectionRow,
    tls::Session,
};

/// Bytes of one read. Larger reads are not cheaper.
pub const READ_BYTES: usize = 256 << 10;
/// Most reads of one connection before other connections have their turn.
const READS_MAX: usize = 4;
/// Output that a client may leave unread before the gateway stops reading from it, bytes.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// Longest TLS record, bytes.
pub const RECORD_BYTES_MAX: usize = 16_384 + 256 + 5;
/// Time limit of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time limit for a client to read the last output.
const FAREWELL: Duration = Duration::from_secs(5);

/// A connection with its socket.
pub struct Socket {
    /// The client's TCP connection.
    pub stream: TcpStream,
    tls: Session,
    /// The connection's HTTP/2 state machine.
    pub http: Connection,
    /// The connection's row in the record.
    pub row: ConnectionRow,
    /// Bytes of an incomplete TLS record.
    leftover: Vec<u8>,
    /// Encrypted output, and the number of its bytes that are written.
    outgoing: Vec<u8>,
    written: usize,
    /// Position in `http`'s output at which `outgoing` ends.
    position: u64,
    readable: bool,
    writable: bool,
    /// Whether the client has ended its direction, so that the socket must be read to its end.
    hung_up: bool,
    opened: Time,
    /// Time before which the server neither sends nor reads; see [`Self::begin_at`].
    begins: Option<Time>,
    /// Time since which only unsent output keeps the connection open.
    ending: Option<Time>,
    /// Time of the next timer, as the worker has registered it.
    pub due: Option<Time>,
}

/// Buffers that one worker lends to its connections in turn.
pub struct Scratch {
    incoming: Vec<u8>,
    plaintext: Vec<u8>,
}

impl Scratch {
    /// Creates buffers with room for a read after an incomplete record.
    #[must_use]
    pub fn new() -> Self {
        Self { incoming: vec![0; READ_BYTES + RECORD_BYTES_MAX], plaintext: Vec::new() }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Socket {
    /// Begins a connection on an accepted socket.
    ///
    /// # Errors
    /// If the TLS session cannot be created.
    pub fn new(
        stream: TcpStream,
        number: u32,
        tls: Arc<ServerConfig>,
        policy: &Policy,
        now: Time,
    ) -> io::Result<Self> {
        let mut http = Connection::new(number, policy);
        let mut greeting = Vec::new();
        let position = http.take_output(&mut greeting);
        let tls = Session::new(tls, greeting).map_err(io::Error::other)?;
        let row = ConnectionRow { number, opened_us: now.0, ..ConnectionRow::default() };
        Ok(Self {
            stream,
            tls,
            http,
            row,
            leftover: Vec::new(),
            outgoing: Vec::new(),
            written: 0,
            position,
            readable: true,
            writable: true,
            hung_up: false,
            opened: now,
            begins: None,
            ending: None,
            due: None,
        })
    }

    /// Delays the start: before this time the server sends nothing, not even of TLS.
    pub fn begin_at(&mut self, time: Time) {
        self.begins = Some(time).filter(|&time| time > self.opened);
        self.opened = self.opened.max(time);
    }

    /// Records the readiness that the poller reported.
    pub fn ready(&mut self, readable: bool, writable: bool, hung_up: bool) {
        self.readable |= readable || hung_up;
        // A broken socket is written to as well, because the write returns its error.
        self.writable |= writable || hung_up;
        self.hung_up |= hung_up;
    }

    /// Reports whether another turn would find bytes to read at once.
    #[must_use]
    pub fn is_hungry(&self) -> bool {
        self.readable && self.begins.is_none() && !self.is_clogged() && self.http.end().is_none()
    }

    /// Returns the time of the next limit: the start of the handshake, its end, or the end of the
    /// last output.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        if let Some(begins) = self.begins {
            return Some(begins);
        }
        let handshake = (!self.tls.is_established()).then(|| self.opened + HANDSHAKE);
        handshake.or(self.ending.map(|since| since + FAREWELL))
    }

    /// Reads, answers and writes as much as possible. Returns the reason if the connection has
    /// ended.
    pub fn serve(&mut self, scratch: &mut Scratch, context: &mut Context<'_>) -> Option<End> {
        if let Some(begins) = self.begins {
            if context.now.at < begins {
                return None;
            }
            self.begins = None;
        }
        if self.deadline().is_some_and(|due| due <= context.now.at) {
            return self.http.end().or(Some(End::Handshake));
        }
        for _ in 0..READS_MAX {
            if !self.is_hungry() {
                break;
            }
            if let Err(end) = self.read(scratch, context) {
                // The output that is left is sent if possible: an alert, a GOAWAY, the last
                // answers.
                let _ = self.flush(scratch, context);
                return Some(end);
            }
            if let Err(end) = self.flush(scratch, context) {
                return Some(end);
            }
        }
        self.http.advance(context);
        if let Err(end) = self.flush(scratch, context) {
            return Some(end);
        }
        let end = self.http.end()?;
        self.ending.get_or_insert(context.now.at);
        self.is_flushed().then_some(end)
    }

    /// Closes TLS and TCP gracefully, as far as the socket takes the bytes at once.
    pub fn close(&mut self) {
        self.tls.close(&mut self.outgoing);
        let _ = self.stream.write(&self.outgoing[self.written..]);
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// Ends the connection by a TCP reset; data that the client has not read is lost.
    pub fn reset(&mut self) {
        // SO_LINGER of 0 turns the close into a reset. If the option cannot be set, the client sees
        // an ordinary close.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    fn read(&mut self, scratch: &mut Scratch, context: &mut Context<'_>) -> Result<(), End> {
        let begun = self.leftover.len();
        let buffer = &mut scratch.incoming;
        buffer[..begun].copy_from_slice(&self.leftover);
        let room = begun + READ_BYTES;
        let count = match self.stream.read(&mut buffer[begun..room]) {
            Ok(0) => {
                return Err(if self.tls.is_established() { End::Client } else { End::Handshake });
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(_) => return Err(End::Socket),
        };
        // A short read means an empty socket, unless the end of the stream follows (epoll(7),
        // question 9).
        self.readable = count == READ_BYTES || self.hung_up;
        self.row.bytes_received += count as u64;
        context.log.totals.bytes_received += count as u64;
        context.now = clock::now();
        let (http, total) = (&mut self.http, begun + count);
        let received = self
            .tls
            .receive(&mut buffer[..total], &mut self.outgoing, |b| http.receive(b, context));
        let received = received.map_err(|error| match error {
            rustls::Error::NoApplicationProtocol => End::Handshake,
            _ if self.tls.is_established() => End::Protocol,
            _ => End::Handshake,
        })?;
        self.leftover.clear();
        self.leftover.extend_from_slice(&buffer[received.consumed..total]);
        if self.leftover.len() > RECORD_BYTES_MAX {
            return Err(End::Protocol);
        }
        if received.closed { Err(End::Client) } else { Ok(()) }
    }

    /// Encrypts and writes until nothing is left or the socket is full.
    fn flush(&mut self, scratch: &mut Scratch, context: &mut Context<'_>) -> Result<(), End> {
        loop {
            if self.outgoing.is_empty() {
                if self.http.output_len() == 0 || !self.tls.is_established() {
                    return Ok(());
                }
                scratch.plaintext.clear();
                self.position = self.http.take_output(&mut scratch.plaintext);
                self.tls.send(&scratch.plaintext, &mut self.outgoing).map_err(|_| End::Protocol)?;
            }
            if !self.writable {
                return Ok(());
            }
            match self.stream.write(&self.outgoing[self.written..]) {
                Ok(count) => {
                    self.written += count;
                    self.row.bytes_sent += count as u64;
                    context.log.totals.bytes_sent += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(End::Socket),
            }
            if self.written == self.outgoing.len() {
                self.outgoing.clear();
                self.written = 0;
                self.http.flushed(self.position, context);
            }
        }
    }

    fn is_flushed(&self) -> bool {
        self.outgoing.is_empty() && self.http.output_len() == 0
    }

    fn is_clogged(&self) -> bool {
        self.http.output_len() + self.outgoing.len() - self.written > OUTPUT_BYTES_MAX
    }
}
