//! One TCP connection with TLS over it, never blocking; through an HTTP proxy, if the lane has one.
//!
//! ```text
//! Resolving ──▶ Connecting ──────────────────▶ Handshaking ──▶ Open
//!                    └──with a proxy──▶ Tunnelling ──▲
//! ```
//!
//! The core's bytes go into TLS a piece at a time, and only when the socket has taken the former
//! ciphertext: user space buffers at most one flush of plaintext and [`PIECE`] of ciphertext. The
//! socket's own buffer is bounded too ([`SEND_BUFFER_BYTES`]), so that little still reaches the
//! gateway after a cancel.

use std::{
    io::{self, BufRead, Read, Write},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use clarion_runtime::proxy::{
    Proxy,
    tunnel::{Tunnel, TunnelError, TunnelProblem},
};
use mio::net::TcpStream;
use rustls::ClientConnection;
use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, Type};

use super::tls::speaks_h2;
use crate::{core::ConnectionId, lane::spec::LaneSpec};

/// Requested size of the socket's send buffer, which the system doubles for its own bookkeeping:
/// 256 KiB.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// Plaintext encrypted at once: two records, written with one call.
const PIECE: usize = 32 * 1024;
/// Bytes read from one socket before others have their turn.
const READ_BUDGET: usize = 256 * 1024;
/// Size of the buffer for one read, bytes.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// Whether a proxy that works refused this gateway or these credentials, which says nothing against
/// its address: other lanes use it, too.
pub(super) fn is_refusal_of_lane(error: &io::Error) -> bool {
    let told = error.get_ref().and_then(|inner| inner.downcast_ref::<TunnelError>());
    told.is_some_and(|told| {
        matches!(told.problem, TunnelProblem::Refused { status: 401 | 403 | 405 | 407, .. })
    })
}

/// A connection as the driver holds it.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) id: ConnectionId,
    pub(super) lane: Arc<LaneSpec>,
    /// Proxy of the connection; `None`: direct.
    pub(super) proxy: Option<Arc<Proxy>>,
    /// Address of the connection, once chosen.
    pub(super) address: Option<SocketAddr>,
    /// Other addresses of the name, in case this one does not accept.
    pub(super) others: Vec<SocketAddr>,
    /// Number of addresses tried so far.
    pub(super) dials: usize,
    stage: Stage,
    /// Readiness that the poller reported and no call has contradicted since.
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// Whether the peer has closed its sending direction.
    pub(super) read_closed: bool,
    /// Plaintext from the core, and the number of bytes that TLS has taken.
    pub(super) plain: Vec<u8>,
    taken: usize,
    /// Ciphertext that arrived with the end of the handshake.
    early: Vec<u8>,
}

#[derive(Debug)]
enum Stage {
    /// The name of the gateway, or of the proxy, is being resolved.
    Resolving,
    /// The TCP handshake is under way.
    Connecting(TcpStream, Box<ClientConnection>),
    /// The proxy is opening a tunnel to the gateway.
    Tunnelling(TcpStream, Box<ClientConnection>, Box<Tunnel>),
    /// The TLS handshake is under way.
    Handshaking(TcpStream, Box<ClientConnection>),
    /// The connection is established; the core knows of it.
    Open(TcpStream, Box<ClientConnection>),
}

/// Result of a connection attempt in one turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The attempt is still in progress.
    Waiting,
    /// TCP, TLS and ALPN have just been established.
    Established,
}

/// Result of one turn of reading.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// There may be more bytes.
    More,
    /// All available bytes were read.
    Drained,
    /// The peer has closed the connection in order.
    Closed,
}

impl Socket {
    pub(super) fn new(id: ConnectionId, lane: Arc<LaneSpec>, proxy: Option<Arc<Proxy>>) -> Self {
        Self {
            id,
            lane,
            proxy,
            address: None,
            others: Vec::new(),
            dials: 0,
            stage: Stage::Resolving,
            readable: false,
            writable: false,
            read_closed: false,
            plain: Vec::new(),
            taken: 0,
            early: Vec::new(),
        }
    }

    /// Starts a connection.
    #[allow(
        clippy::disallowed_methods,
        reason = "lanes' sockets are not the world's: a simulator replaces the whole driver"
    )]
    pub(super) fn connect(
        &mut self,
        address: SocketAddr,
        tls: ClientConnection,
    ) -> io::Result<&mut TcpStream> {
        let raw = RawSocket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        raw.set_tcp_nodelay(true)?;
        raw.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        #[cfg(target_os = "linux")]
        raw.set_tcp_user_timeout(Some(self.lane.request_deadline.max(Duration::from_secs(1))))?;
        match raw.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        self.stage = Stage::Connecting(TcpStream::from_std(raw.into()), Box::new(tls));
        (self.readable, self.writable, self.read_closed) = (false, false, false);
        Ok(self.stream().expect("just set"))
    }

    pub(super) fn stream(&mut self) -> Option<&mut TcpStream> {
        match &mut self.stage {
            Stage::Resolving => None,
            Stage::Connecting(tcp, _)
            | Stage::Tunnelling(tcp, ..)
            | Stage::Handshaking(tcp, _)
            | Stage::Open(tcp, _) => Some(tcp),
        }
    }

    /// Address that the connection is made to: the proxy's, or the gateway's.
    pub(super) fn endpoint(&self) -> &str {
        self.proxy.as_ref().map_or(&self.lane.endpoint, |proxy| proxy.address())
    }

    /// What a connection through a proxy needs from the proxy next; `None`: nothing.
    pub(super) fn proxy_step(&self) -> Option<&'static str> {
        match self.stage {
            _ if self.proxy.is_none() => None,
            Stage::Resolving | Stage::Connecting(..) => Some("accept a connection"),
            Stage::Tunnelling(..) => Some("answer CONNECT"),
            Stage::Handshaking(..) | Stage::Open(..) => None,
        }
    }

    /// Reason to report if the present step takes too long; `None`: the gateway.
    pub(super) fn slow_step(&self) -> Option<String> {
        let (step, proxy) = (self.proxy_step()?, self.proxy.as_ref()?);
        Some(format!("proxy {} takes too long to {step}", proxy.address()))
    }

    /// Whether the address has not answered yet.
    pub(super) fn is_dialling(&self) -> bool {
        matches!(self.stage, Stage::Connecting(..))
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(..))
    }

    /// Names the proxy in an error of the way to it; a [`Tunnel`] names the proxy itself.
    pub(super) fn named(&self, error: &io::Error) -> String {
        match &self.proxy {
            Some(proxy) if matches!(self.stage, Stage::Resolving | Stage::Connecting(..)) => {
                format!("proxy {} cannot be reached: {error}", proxy.address())
            }
            _ => error.to_string(),
        }
    }

    /// Goes on with the handshakes as far as the socket allows.
    pub(super) fn establish(&mut self, scratch: &mut [u8]) -> io::Result<Progress> {
        if let Stage::Connecting(tcp, _) = &mut self.stage {
            if !self.writable && !self.readable {
                return Ok(Progress::Waiting);
            }
            if let Some(error) = tcp.take_error()? {
                return Err(error);
            }
            match tcp.peer_addr() {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                    return Ok(Progress::Waiting);
                }
                Err(error) => return Err(error),
            }
            let proxy = self.proxy.as_deref();
            self.stage = match std::mem::replace(&mut self.stage, Stage::Resolving) {
                Stage::Connecting(tcp, tls) => match proxy {
                    Some(proxy) => {
                        let tunnel = Tunnel::new(proxy, &self.lane.endpoint);
                        Stage::Tunnelling(tcp, tls, Box::new(tunnel))
                    }
                    None => Stage::Handshaking(tcp, tls),
                },
                other => other,
            };
        }
        if let Stage::Tunnelling(tcp, _, tunnel) = &mut self.stage {
            if !send_request(tunnel, tcp, &mut self.writable)? {
                return Ok(Progress::Waiting);
            }
            loop {
                if !self.readable {
                    return Ok(Progress::Waiting);
                }
                let Some(n) = read_some(tcp, scratch, &mut self.readable, self.read_closed)? else {
                    continue;
                };
                if n == 0 {
                    return Err(io::Error::other(tunnel.closed()));
                }
                if tunnel.receive(&scratch[..n]).map_err(io::Error::other)? {
                    break;
                }
            }
            self.stage = match std::mem::replace(&mut self.stage, Stage::Resolving) {
                Stage::Tunnelling(tcp, tls, _) => Stage::Handshaking(tcp, tls),
                other => other,
            };
        }
        let Stage::Handshaking(tcp, tls) = &mut self.stage else { return Ok(Progress::Waiting) };
        while tls.is_handshaking() {
            if tls.wants_write() {
                if !self.writable || !write_ciphertext(tls, tcp, &mut self.writable)?.1 {
                    return Ok(Progress::Waiting);
                }
                continue;
            }
            if !self.readable {
                return Ok(Progress::Waiting);
            }
            let Some(n) = read_some(tcp, scratch, &mut self.readable, self.read_closed)? else {
                continue;
            };
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let rest = shake_hands(tls, &scratch[..n]).inspect_err(|_| {
                // The alert says what was wrong with it, to whoever runs the gateway.
                let _ = tls.write_tls(tcp);
            })?;
            self.early.extend_from_slice(rest);
        }
        if !speaks_h2(tls) {
            return Err(io::Error::other("the gateway did not agree to HTTP/2 (ALPN)"));
        }
        self.stage = match std::mem::replace(&mut self.stage, Stage::Resolving) {
            Stage::Handshaking(tcp, tls) => Stage::Open(tcp, tls),
            other => other,
        };
        Ok(Progress::Established)
    }

    /// Reads what has come, within this turn's budget, and hands on the plaintext.
    pub(super) fn receive(
        &mut self,
        scratch: &mut [u8],
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<Received> {
        let Stage::Open(tcp, tls) = &mut self.stage else { return Ok(Received::Drained) };
        // What came together with the end of the handshake.
        let early = std::mem::take(&mut self.early);
        if drain(tls, &mut take)? || decrypt(tls, &early, &mut take)? {
            return Ok(Received::Closed);
        }
        let mut left = READ_BUDGET;
        while self.readable {
            let Some(n) = read_some(tcp, scratch, &mut self.readable, self.read_closed)? else {
                break;
            };
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if decrypt(tls, &scratch[..n], &mut take)? {
                return Ok(Received::Closed);
            }
            left = left.saturating_sub(n);
            if left == 0 {
                return Ok(if self.readable { Received::More } else { Received::Drained });
            }
        }
        Ok(Received::Drained)
    }

    /// Whether everything from before has been taken by the socket.
    pub(super) fn is_drained(&self) -> bool {
        match &self.stage {
            Stage::Open(_, tls) => self.taken == self.plain.len() && !tls.wants_write(),
            _ => true,
        }
    }

    /// Writes as far as the socket allows. Returns the bytes written.
    pub(super) fn flush(&mut self) -> io::Result<usize> {
        let Stage::Open(tcp, tls) = &mut self.stage else { return Ok(0) };
        let mut written = 0;
        while self.writable {
            if tls.wants_write() {
                written += write_ciphertext(tls, tcp, &mut self.writable)?.0;
            } else if self.taken < self.plain.len() {
                let end = self.plain.len().min(self.taken + PIECE);
                self.taken += tls.writer().write(&self.plain[self.taken..end])?;
            } else {
                break;
            }
        }
        if self.taken == self.plain.len() {
            self.plain.clear();
            self.taken = 0;
        }
        Ok(written)
    }

    /// Closes: in order, after what can be written without waiting, or at once.
    pub(super) fn close(mut self, reset: bool) {
        if !reset {
            let _ = self.flush();
        }
        match &mut self.stage {
            Stage::Resolving => {}
            Stage::Open(tcp, tls) if !reset => {
                tls.send_close_notify();
                // Best effort: the peer learns the same from the end of the stream.
                let _ = tls.write_tls(tcp);
            }
            Stage::Connecting(tcp, _)
            | Stage::Tunnelling(tcp, ..)
            | Stage::Handshaking(tcp, _)
            | Stage::Open(tcp, _) => {
                let _ = SockRef::from(&*tcp).set_linger(Some(Duration::ZERO));
            }
        }
    }
}

/// The non-blocking connect is under way (Linux, `errno.h`).
#[cfg(target_os = "linux")]
const EINPROGRESS: i32 = 115;
/// The same on the BSDs and macOS.
#[cfg(not(target_os = "linux"))]
const EINPROGRESS: i32 = 36;

/// Sends the request for a tunnel. True: the proxy has the whole request.
fn send_request(tunnel: &mut Tunnel, tcp: &mut TcpStream, writable: &mut bool) -> io::Result<bool> {
    while !tunnel.to_send().is_empty() {
        if !*writable {
            return Ok(false);
        }
        match tcp.write(tunnel.to_send()) {
            Ok(n) => tunnel.sent(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => *writable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Writes ciphertext; returns the number of bytes, and whether it wrote all.
fn write_ciphertext(
    tls: &mut ClientConnection,
    tcp: &mut TcpStream,
    writable: &mut bool,
) -> io::Result<(usize, bool)> {
    let mut written = 0;
    while tls.wants_write() {
        match tls.write_tls(tcp) {
            Ok(n) => written += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                *writable = false;
                return Ok((written, false));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((written, true))
}

/// One read; `None`: nothing is available. A read that does not fill the buffer has emptied the
/// socket (epoll(7), on edge-triggered use), unless the peer's end of file follows.
fn read_some(
    tcp: &mut TcpStream,
    scratch: &mut [u8],
    readable: &mut bool,
    closed: bool,
) -> io::Result<Option<usize>> {
    match tcp.read(scratch) {
        Ok(n) => {
            *readable = n == scratch.len() || (closed && n > 0);
            Ok(Some(n))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            *readable = false;
            Ok(None)
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}

/// Passes ciphertext to the handshake; returns the rest when the handshake has ended, for
/// [`Socket::receive`]. TLS 1.3 lets a server send first, and APNs sends its SETTINGS so; TLS keeps
/// no more than 16 KiB of unread plaintext.
fn shake_hands<'c>(tls: &mut ClientConnection, mut ciphertext: &'c [u8]) -> io::Result<&'c [u8]> {
    while !ciphertext.is_empty() && tls.is_handshaking() {
        // One read takes what there is room for; after the peer's `close_notify` it takes no more,
        // and this would never end.
        if tls.read_tls(&mut ciphertext)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        tls.process_new_packets().map_err(io::Error::other)?;
    }
    Ok(ciphertext)
}

/// Decrypts ciphertext. True: the peer has closed its sending direction.
fn decrypt(
    tls: &mut ClientConnection,
    mut ciphertext: &[u8],
    mut take: impl FnMut(&[u8]),
) -> io::Result<bool> {
    while !ciphertext.is_empty() {
        if tls.read_tls(&mut ciphertext)? == 0 {
            return Ok(true);
        }
        let processed = tls.process_new_packets();
        // What came whole before an alert or a broken record counts: those answers will not come
        // again.
        let closed = drain(tls, &mut take)?;
        processed.map_err(io::Error::other)?;
        if closed {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Passes on all available plaintext. True: the peer has closed its sending direction.
fn drain(tls: &mut ClientConnection, take: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    loop {
        let mut reader = tls.reader();
        match reader.fill_buf() {
            Ok([]) => return Ok(true),
            Ok(chunk) => {
                take(chunk);
                let length = chunk.len();
                reader.consume(length);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
