//! The cheapest server for an HTTP/2 client: it scans frames, keeps no header, and accepts every
//! push.
//!
//! Its cost must not limit its clients, so it checks nothing; the emulator and the independent
//! servers do that. It can delay its answers, as a distant server does.

use std::{
    collections::VecDeque,
    io::{self, BufRead as _, Read as _, Write as _},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clarion_proto::time::Time;
use clarion_runtime::world::Clock;
use mio::{Events, Interest, Poll, Token, Waker, net::TcpListener, net::TcpStream};
use rustls::{ServerConfig, ServerConnection};

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
const WINDOW_BYTES: u32 = 16 << 20;
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const READ_BYTES: usize = 256 * 1024;
/// Bytes that are encrypted at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Fields of APNs's answer: `:status 200` and a literal `apns-id`.
const FIELDS: &[u8] = b"\x88\x00\x07apns-id\x24EC1BF194-B3B2-424A-89A9-5A918A6E6B5D";

/// Counts of a server until it was stopped.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Served {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
}

/// A server that is ready to serve.
pub(crate) struct Sink {
    poll: Poll,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    streams: u32,
    delay: Duration,
    clock: Clock,
    peers: Vec<Option<Peer>>,
    scratch: Vec<u8>,
    served: Served,
    stop: Arc<AtomicBool>,
    /// Waker of the poller, kept because dropping it would lose its last event.
    _waker: Arc<Waker>,
}

/// One connection.
struct Peer {
    tcp: TcpStream,
    tls: Option<Box<ServerConnection>>,
    readable: bool,
    writable: bool,
    greeted: bool,
    answered: bool,
    input: Vec<u8>,
    uncredited: u32,
    open: VecDeque<(Time, u32)>,
    out: Vec<u8>,
    taken: usize,
}

impl Sink {
    /// Binds to a free port. Returns the server, its address, and the handle that stops it.
    pub(crate) fn bind(
        tls: Option<Arc<ServerConfig>>,
        streams: u32,
        delay: Duration,
    ) -> io::Result<(Self, SocketAddr, impl FnOnce() + Send + 'static)> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind("127.0.0.1:0".parse().expect("an address"))?;
        let address = listener.local_addr()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let stop = Arc::new(AtomicBool::new(false));
        let sink = Self {
            poll,
            listener,
            tls,
            streams,
            delay,
            clock: Clock::start(),
            peers: Vec::new(),
            scratch: vec![0; READ_BYTES],
            served: Served::default(),
            stop: Arc::clone(&stop),
            _waker: Arc::clone(&waker),
        };
        let stopper = move || {
            stop.store(true, Ordering::Release);
            let _ = waker.wake();
        };
        Ok((sink, address, stopper))
    }

    /// Serves until it is stopped.
    pub(crate) fn serve(mut self) -> io::Result<Served> {
        let mut events = Events::with_capacity(256);
        while !self.stop.load(Ordering::Acquire) {
            let due = self
                .peers
                .iter()
                .flatten()
                .filter_map(|peer| peer.open.front())
                .map(|(due, _)| *due)
                .min();
            let wait = due.map(|due| due.since(self.clock.now()));
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                done => done?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    WAKER => {}
                    Token(slot) => {
                        if let Some(peer) = self.peers[slot].as_mut() {
                            peer.readable |=
                                event.is_readable() || event.is_read_closed() || event.is_error();
                            peer.writable |= event.is_writable();
                        }
                    }
                }
            }
            for slot in self.peers.iter_mut() {
                let Some(peer) = slot else { continue };
                let now = self.clock.now();
                if !matches!(
                    peer.turn(&mut self.scratch, &mut self.served, now, self.delay),
                    Ok(true)
                ) {
                    *slot = None;
                }
            }
        }
        Ok(self.served)
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut tcp = match self.listener.accept() {
                Ok((tcp, _)) => tcp,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            tcp.set_nodelay(true)?;
            let token = Token(self.peers.len());
            self.poll.registry().register(
                &mut tcp,
                token,
                Interest::READABLE | Interest::WRITABLE,
            )?;
            let tls = match &self.tls {
                Some(config) => Some(Box::new(
                    ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?,
                )),
                None => None,
            };
            let mut peer = Peer {
                tcp,
                tls,
                readable: true,
                writable: true,
                greeted: false,
                answered: false,
                input: Vec::new(),
                uncredited: 0,
                open: VecDeque::new(),
                out: Vec::new(),
                taken: 0,
            };
            let [a, b, c, d] = self.streams.to_be_bytes();
            let [e, f, g, h] = WINDOW_BYTES.to_be_bytes();
            peer.put(4, 0, 0, &[0, 3, a, b, c, d, 0, 4, e, f, g, h]);
            peer.put(8, 0, 0, &(WINDOW_BYTES - 65_535).to_be_bytes());
            self.peers.push(Some(peer));
        }
    }
}

impl Peer {
    /// Reads, answers and writes as much as possible. Returns false if the client has disconnected.
    fn turn(
        &mut self,
        scratch: &mut [u8],
        served: &mut Served,
        now: Time,
        delay: Duration,
    ) -> io::Result<bool> {
        while self.readable {
            let length = match self.tcp.read(scratch) {
                Ok(0) => return Ok(false),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if !self.decrypt(&scratch[..length])? {
                return Ok(false);
            }
            self.scan(served, now + delay);
        }
        self.answer(now);
        self.write()?;
        Ok(true)
    }

    fn decrypt(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else {
            self.input.extend_from_slice(bytes);
            return Ok(true);
        };
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes)?;
            tls.process_new_packets().map_err(io::Error::other)?;
            loop {
                let mut reader = tls.reader();
                match reader.fill_buf() {
                    Ok([]) => return Ok(false),
                    Ok(plain) => {
                        self.input.extend_from_slice(plain);
                        let length = plain.len();
                        reader.consume(length);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(true)
    }

    fn scan(&mut self, served: &mut Served, due: Time) {
        let input = std::mem::take(&mut self.input);
        let mut bytes = &input[..];
        if !self.greeted && bytes.len() >= PREFACE_BYTES {
            bytes = &bytes[PREFACE_BYTES..];
            self.greeted = true;
        }
        while self.greeted && bytes.len() >= HEAD_BYTES {
            let length =
                usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
            if bytes.len() < HEAD_BYTES + length {
                break;
            }
            let (kind, flags) = (bytes[3], bytes[4]);
            let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
            let payload = &bytes[HEAD_BYTES..HEAD_BYTES + length];
            match kind {
                0 => self.uncredited += u32::try_from(length).expect("a frame"),
                4 if flags & 1 == 0 => self.put(4, 1, 0, &[]),
                6 if flags & 1 == 0 => self.put(6, 1, 0, payload),
                _ => {}
            }
            if kind <= 1 && flags & 1 == 1 {
                served.requests += 1;
                self.open.push_back((due, stream));
            }
            if kind <= 1 {
                served.bytes += (HEAD_BYTES + length) as u64;
            }
            bytes = &bytes[HEAD_BYTES + length..];
        }
        if self.uncredited >= WINDOW_BYTES / 4 {
            let uncredited = std::mem::take(&mut self.uncredited);
            self.put(8, 0, 0, &uncredited.to_be_bytes());
        }
        let left = bytes.len();
        let read = input.len() - left;
        self.input = input;
        self.input.drain(..read);
    }

    fn answer(&mut self, now: Time) {
        while let Some((_, stream)) = self.open.pop_front_if(|(due, _)| *due <= now) {
            // The size update that SETTINGS_HEADER_TABLE_SIZE of 0 requires (RFC 7541, 4.2), which
            // is always allowed.
            if std::mem::replace(&mut self.answered, true) {
                self.put(1, 5, stream, FIELDS);
            } else {
                self.put(1, 5, stream, &[&[0x20], FIELDS].concat());
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let Self { tcp, tls, out, taken, writable, .. } = self;
        while *writable {
            let written = match tls {
                Some(tls) if tls.wants_write() => tls.write_tls(tcp),
                Some(tls) if *taken < out.len() && !tls.is_handshaking() => {
                    let end = out.len().min(*taken + PIECE_BYTES);
                    *taken += tls.writer().write(&out[*taken..end])?;
                    continue;
                }
                None if *taken < out.len() => {
                    tcp.write(&out[*taken..]).inspect(|written| *taken += written)
                }
                _ => break,
            };
            match written {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => *writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if *taken == out.len() {
            out.clear();
            *taken = 0;
        }
        Ok(())
    }

    fn put(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        self.out.extend_from_slice(&length[1..]);
        self.out.extend_from_slice(&[kind, flags]);
        self.out.extend_from_slice(&stream.to_be_bytes());
        self.out.extend_from_slice(payload);
    }
}
