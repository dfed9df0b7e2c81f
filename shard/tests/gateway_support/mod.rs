//! A gateway made by hand, so that it can do what no library lets one do: threads that block, one
//! for each connection.
#![allow(clippy::disallowed_methods, reason = "tests have clocks and tasks of their own")]
#![allow(dead_code)] // each test program uses a part

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a connection does once TLS stands. An error means that the client has gone, which is
/// nothing unusual here.
pub(crate) type Dialect = Box<dyn FnOnce(Peer) -> io::Result<()> + Send>;

/// What the gateway saw.
#[derive(Default)]
pub(crate) struct Seen {
    /// How often each path was answered.
    pub(crate) answered: BTreeMap<String, u32>,
    /// Those that waited when an attack began, which may have answered them in its way.
    pub(crate) waiting: Vec<String>,
}

/// A gateway that runs.
pub(crate) struct Served {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// The first connections speak these, all others are honest.
pub(crate) fn serve_all(
    made: &rcgen::CertifiedKey<rcgen::KeyPair>,
    dialects: Vec<Dialect>,
) -> Served {
    serve(made, None, dialects)
}

/// As [`serve_all`], but the first connections are told these bytes, each piece by itself, in place
/// of TLS.
pub(crate) fn serve_after(
    made: &rcgen::CertifiedKey<rcgen::KeyPair>,
    nonsense: &'static [&'static [u8]],
    dialects: Vec<Dialect>,
) -> Served {
    serve(made, Some(nonsense), dialects)
}

fn serve(
    made: &rcgen::CertifiedKey<rcgen::KeyPair>,
    nonsense: Option<&'static [&'static [u8]]>,
    dialects: Vec<Dialect>,
) -> Served {
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .expect("a key");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::new(AtomicBool::new(false)));
    let (record, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
    let accept = move || {
        let mut dialects = VecDeque::from(dialects);
        let mut connections = Vec::new();
        loop {
            let (stream, _) = listener.accept().expect("a connection");
            if stopped.load(Ordering::SeqCst) {
                break;
            }
            let (config, record) = (Arc::clone(&config), Arc::clone(&record));
            let dialect = dialects.pop_front();
            connections.push(std::thread::spawn(move || {
                stream.set_read_timeout(Some(PATIENCE)).expect("set");
                stream.set_write_timeout(Some(PATIENCE)).expect("set");
                stream.set_nodelay(true).expect("set");
                match (dialect, nonsense) {
                    (Some(_), Some(nonsense)) => talk_nonsense(stream, nonsense),
                    (dialect, _) => {
                        let Ok(peer) = Peer::accept(stream, config, record) else { return };
                        // The client leaves when it has enough, which looks like an error from
                        // here.
                        let _ = match dialect {
                            Some(dialect) => dialect(peer),
                            None => peer.serve(),
                        };
                    }
                }
            }));
        }
        connections
            .into_iter()
            .for_each(|connection| connection.join().expect("no attacker waits in vain"));
    };
    Served { address, seen, stop, thread: std::thread::spawn(accept) }
}

/// Says its pieces as segments of their own, then waits for the client to leave.
fn talk_nonsense(mut stream: TcpStream, pieces: &[&[u8]]) {
    let mut hello = [0; 4_096];
    let _ = stream.read(&mut hello);
    for piece in pieces {
        if stream.write_all(piece).is_err() {
            return;
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Write);
    while matches!(stream.read(&mut hello), Ok(1..)) {}
}

impl Served {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// After the clients have gone.
    pub(crate) fn stop(self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        self.thread.join().expect("no attacker failed");
        std::mem::take(&mut *self.seen.lock())
    }
}

/// One connection, from the gateway's side.
pub(crate) struct Peer {
    pub(crate) tls: StreamOwned<ServerConnection, TcpStream>,
    /// Plaintext of each record.
    pub(crate) record_bytes: usize,
    input: Vec<u8>,
    decoder: fluke_hpack::Decoder<'static>,
    /// Requests without their END_STREAM, and their paths.
    begun: BTreeMap<u32, String>,
    /// The one that [`Self::be_honest`] left unanswered.
    waiting: Option<(u32, String)>,
    seen: Arc<Mutex<Seen>>,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Peer {
    fn accept(
        stream: TcpStream,
        config: Arc<ServerConfig>,
        seen: Arc<Mutex<Seen>>,
    ) -> io::Result<Self> {
        let tls = ServerConnection::new(config).map_err(io::Error::other)?;
        let decoder = fluke_hpack::Decoder::new();
        let tls = StreamOwned::new(tls, stream);
        let mut peer = Self {
            tls,
            record_bytes: 16_384,
            input: Vec::new(),
            decoder,
            begun: BTreeMap::new(),
            waiting: None,
            seen,
        };
        while peer.input.len() < 24 {
            peer.read()?;
        }
        assert!(peer.input.starts_with(b"PRI * HTTP/2.0"));
        peer.input.drain(..24);
        peer.say(&crate::settings(&[(3, 100)]))?;
        Ok(peer)
    }

    fn read(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16_384];
        match self.tls.read(&mut bytes)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.input.extend_from_slice(&bytes[..n]);
                Ok(())
            }
        }
    }

    /// Writes plaintext.
    pub(crate) fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(self.record_bytes) {
            self.tls.write_all(piece)?;
            self.tls.flush()?;
        }
        Ok(())
    }

    fn frame(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(header) = self.input.first_chunk::<9>() {
                let length = usize::from(header[0]) << 16
                    | usize::from(header[1]) << 8
                    | usize::from(header[2]);
                let (kind, flags) = (header[3], header[4]);
                let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
                if self.input.len() >= 9 + length {
                    let payload = self.input.drain(..9 + length).skip(9).collect();
                    return Ok(Frame { kind, flags, stream, payload });
                }
            }
            self.read()?;
        }
    }

    /// The next whole request: its stream and path.
    fn request(&mut self) -> io::Result<(u32, String)> {
        loop {
            let frame = self.frame()?;
            match frame.kind {
                1 => {
                    assert_eq!(frame.flags & 4, 4, "a push has a small header");
                    let fields =
                        self.decoder.decode(&frame.payload).expect("a block that can be read");
                    let path =
                        fields.into_iter().find(|(name, _)| name == b":path").expect("a path").1;
                    self.begun.insert(frame.stream, String::from_utf8(path).expect("text"));
                }
                4 if frame.flags & 1 == 0 => self.say(&crate::floods::frame(4, 1, 0, &[]))?,
                7 => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
            if matches!(frame.kind, 0 | 1) && frame.flags & 1 != 0 {
                return Ok((frame.stream, self.begun.remove(&frame.stream).expect("begun")));
            }
        }
    }

    /// Answers so many requests; then the stream of one more that waits, and of the last that does
    /// not.
    pub(crate) fn be_honest(&mut self, requests: usize) -> io::Result<(u32, u32)> {
        let mut ended = 0;
        for _ in 0..requests {
            let (stream, path) = self.request()?;
            self.answer(stream, path)?;
            ended = stream;
        }
        let (open, path) = self.request()?;
        self.seen.lock().waiting.push(path.clone());
        self.waiting = Some((open, path));
        Ok((open, ended))
    }

    fn answer(&mut self, stream: u32, path: String) -> io::Result<()> {
        *self.seen.lock().answered.entry(path).or_default() += 1;
        self.say(&crate::floods::frame(1, 5, stream, b"\x20\x88"))
    }

    /// Answers the one that waits, and in the same segment says what is no TLS: the answer still
    /// counts.
    pub(crate) fn answer_and_break_off(&mut self, noise: &[u8]) -> io::Result<()> {
        let (stream, path) = self.waiting.take().expect("one waits");
        *self.seen.lock().answered.entry(path).or_default() += 1;
        let mut bytes = Vec::new();
        self.tls.conn.writer().write_all(&crate::floods::frame(1, 5, stream, b"\x88"))?;
        self.tls.conn.write_tls(&mut bytes)?;
        bytes.extend_from_slice(noise);
        self.tls.sock.write_all(&bytes)
    }

    fn serve(mut self) -> io::Result<()> {
        self.be_honest(usize::MAX).map(drop)
    }

    /// Takes all windows away while requests are on their way, below zero even, and gives them back
    /// bit by bit.
    pub(crate) fn starve(&mut self) -> io::Result<()> {
        self.say(&crate::settings(&[(4, 0)]))?;
        if let Some((stream, path)) = self.waiting.take() {
            self.answer(stream, path)?;
        }
        // Requests without their bodies.
        while self.begun.len() < 3 {
            let frame = self.frame()?;
            if frame.kind == 1 {
                let fields = self.decoder.decode(&frame.payload).expect("a block that can be read");
                let path = fields.into_iter().find(|(name, _)| name == b":path").expect("a path").1;
                self.begun.insert(frame.stream, String::from_utf8(path).expect("text"));
            }
            if matches!(frame.kind, 0 | 1) && frame.flags & 1 != 0 {
                let path = self.begun.remove(&frame.stream).expect("begun");
                self.answer(frame.stream, path)?;
            }
        }
        for size in [20, 3, 0, 7, 5, 30, 65_535] {
            self.say(&crate::settings(&[(4, size)]))?;
            let streams: Vec<_> = self.begun.keys().copied().collect();
            for stream in streams {
                self.say(&crate::floods::frame(8, 0, stream, &[0, 0, 0, 1]))?;
            }
        }
        Ok(())
    }

    /// Whether the client has left, or said that it leaves. `read`: takes from the socket what it
    /// says meanwhile.
    pub(crate) fn has_hung_up(&mut self, read: bool) -> bool {
        if !read {
            return false; // found out by the next write
        }
        self.tls.sock.set_nonblocking(true).expect("set");
        let result = self.read();
        self.tls.sock.set_nonblocking(false).expect("set");
        self.input.clear();
        !matches!(result, Ok(()))
            && !matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Reads until the client has gone.
    pub(crate) fn wait_for_the_end(&mut self) -> io::Result<()> {
        loop {
            self.input.clear();
            self.read()?;
        }
    }
}
