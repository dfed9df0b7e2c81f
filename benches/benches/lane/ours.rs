//! The lane alone: its connections, TLS and sockets in the simplest loop. No partitions, no waves.
//!
//! The rules by which a core offers room are those of `core/link.rs`: a flush is 32 KiB, and while
//! requests are out a connection waits until its room is worth a write or 2 ms have passed.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use clarion_benches::devices::mixed;
use clarion_proto::time::Time;
use clarion_runtime::world::Clock;
use clarion_shard::{
    lane::{
        connection::{Connection, ConnectionConfig, ConnectionEvent, PushError, TemplateSpec},
        provider::{
            authorization::Authorization,
            request::{ApnsHeaders, Request},
        },
    },
    outcome::Platform,
};
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use rustls::ClientConnection;
use rustls_pki_types::ServerName;

use crate::client::{Client, HOST, TOPIC, tls_config};

const FLUSH_BYTES: usize = 32 * 1024;
const COLLECT: Duration = Duration::from_millis(2);
const BATCH: usize = 64;
const READ_BYTES: usize = 64 * 1024;
/// Bytes that are encrypted at once.
const PIECE_BYTES: usize = 32 * 1024;
/// Estimated bytes of headers beside a body.
const HEADER_BYTES: usize = 352;
/// Number of tokens in memory, which are used in turn.
const TOKENS: usize = 1 << 16;
const SEND_BUFFER_BYTES: usize = 128 * 1024;

struct Link {
    connection: Connection,
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
    readable: bool,
    writable: bool,
    plain: Vec<u8>,
    taken: usize,
    room_since: Option<Time>,
}

/// Pushes until all requests are answered.
pub(crate) fn run(client: &Client) -> io::Result<()> {
    let clock = Clock::start();
    let mut poll = Poll::new()?;
    let mut links = (0..client.connections)
        .map(|n| Link::open(client, clock.now(), &poll, Token(n)))
        .collect::<io::Result<Vec<_>>>()?;
    let spec = TemplateSpec {
        request: Request::Apns(ApnsHeaders {
            topic: TOPIC.to_owned(),
            push_type: "alert".to_owned(),
            priority: 10,
            expiration: 1_900_000_000,
            collapse_id: "alert-0123456789".to_owned(),
        }),
        body: Bytes::from(client.body()),
        body_after_token: Bytes::new(),
    };
    let tokens: Vec<[u8; 32]> = (0..TOKENS as u64)
        .map(|n| {
            let mut token = [0; 32];
            (0..4).for_each(|part| {
                token[part * 8..][..8].copy_from_slice(&mixed(n, part as u64).to_le_bytes());
            });
            token
        })
        .collect();
    let mut scratch = vec![0; READ_BYTES];
    let mut events = Events::with_capacity(64);
    let (mut pushed, mut answered) = (0u64, 0u64);
    loop {
        for link in &mut links {
            link.read(&mut scratch, clock.now())?;
            while let Some(event) = link.connection.poll() {
                match event {
                    ConnectionEvent::Answer { .. } => answered += 1,
                    // A core would send the push over another connection; here it is only sent
                    // again.
                    ConnectionEvent::Unprocessed { .. } => pushed -= 1,
                    other => {
                        return Err(io::Error::other(format!("the connection said {other:?}")));
                    }
                }
            }
            let now = clock.now();
            let mut room = if link.is_drained() { link.offer(now) } else { 0 };
            let mut bytes = 0;
            while room > 0 && bytes < FLUSH_BYTES && pushed < client.requests {
                #[allow(clippy::cast_possible_truncation)] // in turn
                let token = &tokens[pushed as usize % TOKENS];
                match link.connection.push(pushed, 0, &spec, token, now) {
                    Ok(()) => {}
                    Err(PushError::Full) => break,
                    Err(error) => return Err(io::Error::other(error)),
                }
                link.room_since = None;
                pushed += 1;
                room -= 1;
                bytes += HEADER_BYTES + client.body_bytes;
            }
            link.write(clock.now())?;
        }
        if answered >= client.requests {
            break;
        }
        let ready = links
            .iter()
            .any(|link| link.readable || (link.is_drained() && link.could_send(clock.now())));
        let held =
            links.iter().filter_map(|link| link.room_since).map(|since| since + COLLECT).min();
        let wait = match (ready && pushed < client.requests, held) {
            (true, _) => Some(Duration::ZERO),
            (false, Some(at)) if pushed < client.requests => Some(at.since(clock.now())),
            _ => None,
        };
        match poll.poll(&mut events, wait) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            done => done?,
        }
        for event in &events {
            let link = &mut links[event.token().0];
            link.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
            link.writable |= event.is_writable();
        }
    }
    Ok(())
}

impl Link {
    fn open(client: &Client, now: Time, poll: &Poll, token: Token) -> io::Result<Self> {
        let mut tcp = std::net::TcpStream::connect(client.address)?;
        tcp.set_nodelay(true)?;
        socket2::SockRef::from(&tcp).set_send_buffer_size(SEND_BUFFER_BYTES)?;
        let tls = match tls_config(client)? {
            Some(config) => {
                let name = ServerName::try_from(HOST).map_err(io::Error::other)?;
                let mut tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
                while tls.is_handshaking() {
                    tls.complete_io(&mut tcp)?;
                }
                Some(Box::new(tls))
            }
            None => None,
        };
        tcp.set_nonblocking(true)?;
        let mut tcp = TcpStream::from_std(tcp);
        poll.registry().register(&mut tcp, token, Interest::READABLE | Interest::WRITABLE)?;
        let config = ConnectionConfig {
            platform: Platform::Apns,
            authority: HOST.to_owned(),
            streams_max: client.streams,
            authorization_indexed: !client.literal,
            request_deadline: Duration::from_secs(60),
            ..ConnectionConfig::default()
        };
        let authorization = Authorization(Arc::new(client.authorization()?.into()));
        let connection = Connection::new(config, authorization, now);
        let (plain, room_since) = (Vec::new(), None);
        Ok(Self {
            connection,
            tcp,
            tls,
            readable: true,
            writable: true,
            plain,
            taken: 0,
            room_since,
        })
    }

    fn is_drained(&self) -> bool {
        self.taken == self.plain.len() && self.tls.as_ref().is_none_or(|tls| !tls.wants_write())
    }

    /// Reports whether [`Link::offer`] would return a request.
    fn could_send(&self, now: Time) -> bool {
        let (room, out) = (self.connection.room(), self.connection.open_streams());
        let worth = BATCH.min(out.saturating_add(room) / 4).max(1);
        room > 0
            && (out == 0
                || room >= worth
                || self.room_since.is_some_and(|since| now >= since + COLLECT))
    }

    fn offer(&mut self, now: Time) -> usize {
        let room = self.connection.room();
        if room == 0 {
            self.room_since = None;
            return 0;
        }
        self.room_since.get_or_insert(now);
        if self.could_send(now) { room } else { 0 }
    }

    fn read(&mut self, scratch: &mut [u8], now: Time) -> io::Result<()> {
        // Bytes that arrived together with the end of the handshake.
        self.hand_on(now)?;
        while self.readable {
            let length = match self.tcp.read(scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.readable = length == scratch.len();
            let mut bytes = &scratch[..length];
            if self.tls.is_none() {
                self.connection.receive(bytes, now).map_err(io::Error::other)?;
                continue;
            }
            while !bytes.is_empty() {
                let tls = self.tls.as_mut().expect("asked above");
                tls.read_tls(&mut bytes)?;
                tls.process_new_packets().map_err(io::Error::other)?;
                self.hand_on(now)?;
            }
        }
        Ok(())
    }

    fn hand_on(&mut self, now: Time) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        loop {
            let mut reader = tls.reader();
            match reader.fill_buf() {
                Ok([]) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(plain) => {
                    self.connection.receive(plain, now).map_err(io::Error::other)?;
                    let length = plain.len();
                    reader.consume(length);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn write(&mut self, now: Time) -> io::Result<()> {
        if self.is_drained() {
            self.plain.clear();
            self.taken = 0;
            self.connection.transmit(&mut self.plain, now);
        }
        let Self { tcp, tls, plain, taken, writable, .. } = self;
        while *writable {
            let written = match tls {
                Some(tls) if tls.wants_write() => tls.write_tls(tcp),
                Some(tls) if *taken < plain.len() => {
                    let end = plain.len().min(*taken + PIECE_BYTES);
                    *taken += tls.writer().write(&plain[*taken..end])?;
                    continue;
                }
                None if *taken < plain.len() => {
                    tcp.write(&plain[*taken..]).inspect(|written| *taken += written)
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
        Ok(())
    }
}
