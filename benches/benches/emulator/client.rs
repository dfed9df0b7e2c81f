//! A client that costs next to nothing: requests are encoded beforehand, and answers are counted by
//! their END_STREAM.
//!
//! The client is not a lane: it checks only that complete frames follow one another.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use clarion_emulator::Platform;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::credentials::{PROJECT, TOPIC};

/// Number of requests encoded beforehand, each with a token of its own.
const REQUESTS: u32 = 4_096;
/// Text of an alert, 250 bytes.
const TEXT: &str = "A girl of seven, red coat, blue school bag, was last seen at the north gate of the park at 16:20. If you see \
                    her, stay with her and call 110.";
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Requests that are sent in turn.
pub(crate) struct Requests {
    /// First request, which fills the header table.
    first: Vec<u8>,
    bytes: Vec<u8>,
    /// Offset of each request and of its DATA frame, and at the end the total length.
    places: Vec<(usize, usize)>,
}

impl Requests {
    pub(crate) fn encode(platform: Platform, authorization: &str) -> Self {
        let fixed = match platform {
            Platform::Apns => vec![
                (":authority", "api.push.apple.com"),
                ("authorization", authorization),
                ("apns-topic", TOPIC),
                ("apns-push-type", "alert"),
                ("apns-priority", "10"),
            ],
            Platform::Fcm => vec![
                (":authority", "fcm.googleapis.com"),
                ("authorization", authorization),
                ("content-type", "application/json"),
            ],
        };
        let mut requests = Self { first: Vec::new(), bytes: Vec::new(), places: Vec::new() };
        for number in 0..=REQUESTS {
            let token = token(platform, number);
            let (path, body) = match platform {
                Platform::Apns => (
                    format!("/3/device/{token}"),
                    format!(
                        r#"{{"aps":{{"alert":{{"title":"Missing","body":"{TEXT}"}},"sound":"default"}}}}"#
                    ),
                ),
                Platform::Fcm => (
                    format!("/v1/projects/{PROJECT}/messages:send"),
                    format!(
                        r#"{{"message":{{"token":"{token}","notification":{{"title":"Missing","body":"{TEXT}"}}}}}}"#
                    ),
                ),
            };
            let mut block = vec![0x83, 0x87];
            literal(&mut block, 0x04, &path);
            let first = number == REQUESTS;
            for (i, (name, value)) in fixed.iter().enumerate() {
                if first {
                    block.push(0x40);
                    string(&mut block, name);
                    string(&mut block, value);
                } else {
                    // The newest entry of the table is 62.
                    block.push(0x80 | u8::try_from(62 + fixed.len() - 1 - i).expect("small"));
                }
            }
            if platform == Platform::Apns {
                block.push(0x00);
                string(&mut block, "apns-expiration");
                string(&mut block, "1900000000");
                block.push(0x00);
                string(&mut block, "apns-collapse-id");
                string(&mut block, "0123456789abcdef0123456789abcdef");
            }
            let to = if first { &mut requests.first } else { &mut requests.bytes };
            let start = to.len();
            frame(to, HEADERS, END_HEADERS, &block);
            let data = to.len();
            frame(to, DATA, END_STREAM, body.as_bytes());
            if !first {
                requests.places.push((start, data));
            }
        }
        requests.places.push((requests.bytes.len(), 0));
        requests
    }
}

fn token(platform: Platform, number: u32) -> String {
    match platform {
        Platform::Apns => format!("{number:08x}{}", "5ec7ed".repeat(10)).chars().take(64).collect(),
        Platform::Fcm => format!("{number:022}:APA91b{}", "kX-_9a".repeat(19)),
    }
}

fn frame(to: &mut Vec<u8>, kind: u8, flags: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    to.extend_from_slice(&[length[1], length[2], length[3], kind, flags, 0, 0, 0, 0]);
    to.extend_from_slice(payload);
}

fn literal(to: &mut Vec<u8>, first: u8, value: &str) {
    to.push(first);
    string(to, value);
}

/// Appends a string of RFC 7541, section 5.2, without Huffman coding.
fn string(to: &mut Vec<u8>, text: &str) {
    let mut rest = match text.len().checked_sub(127) {
        None => {
            to.push(u8::try_from(text.len()).expect("below 127"));
            return to.extend_from_slice(text.as_bytes());
        }
        Some(rest) => rest,
    };
    to.push(127);
    while rest >= 128 {
        to.push(u8::try_from(rest & 127).expect("seven bits") | 128);
        rest >>= 7;
    }
    to.push(u8::try_from(rest).expect("seven bits"));
    to.extend_from_slice(text.as_bytes());
}

pub(crate) fn tls_config(ca_pem: &str) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(io::Error::other)?;
    roots.add(ca).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// One connection.
pub(crate) struct Client<'a> {
    requests: &'a Requests,
    tls: ClientConnection,
    socket: TcpStream,
    stream: u32,
    next: usize,
    in_flight: usize,
    plaintext: Vec<u8>,
    /// Bytes of an incomplete frame.
    partial: Vec<u8>,
    incoming: Vec<u8>,
}

impl<'a> Client<'a> {
    /// Connects, and sends the request that fills the header table.
    pub(crate) fn connect(
        address: SocketAddr,
        ca_pem: &str,
        requests: &'a Requests,
    ) -> io::Result<Self> {
        let name = "localhost".try_into().map_err(io::Error::other)?;
        let mut tls =
            ClientConnection::new(Arc::new(tls_config(ca_pem)?), name).map_err(io::Error::other)?;
        tls.set_buffer_limit(None);
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        let mut client = Self {
            requests,
            tls,
            socket,
            stream: 1,
            next: 0,
            in_flight: 1,
            plaintext: Vec::new(),
            partial: Vec::new(),
            incoming: vec![0; 64 << 10],
        };
        client.plaintext.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        frame(&mut client.plaintext, 4, 0, &[]);
        // More than the answers of a run, so no further credit is needed.
        frame(&mut client.plaintext, 8, 0, &0x7000_0000_u32.to_be_bytes());
        let at = client.plaintext.len();
        client.plaintext.extend_from_slice(&requests.first);
        let data = at + HEAD_BYTES + length(&requests.first);
        for place in [at, data] {
            client.plaintext[place + 5..place + 9].copy_from_slice(&1_u32.to_be_bytes());
        }
        client.write()?;
        client.drain()?;
        // The server raises its stream limit after its first answer.
        frame(&mut client.plaintext, 4, 1, &[]);
        frame(&mut client.plaintext, 4, 1, &[]);
        client.write()?;
        Ok(client)
    }

    /// Fills up the requests in flight, once half of them are answered.
    pub(crate) fn send(&mut self, streams: usize) -> io::Result<()> {
        if self.in_flight > streams / 2 {
            return Ok(());
        }
        while self.in_flight < streams {
            let (start, data) = self.requests.places[self.next];
            let (end, _) = self.requests.places[self.next + 1];
            self.next = (self.next + 1) % (self.requests.places.len() - 1);
            self.stream += 2;
            let at = self.plaintext.len();
            self.plaintext.extend_from_slice(&self.requests.bytes[start..end]);
            for place in [at, at + data - start] {
                self.plaintext[place + 5..place + 9].copy_from_slice(&self.stream.to_be_bytes());
            }
            self.in_flight += 1;
        }
        self.write()
    }

    /// Reads the available bytes, and waits for some if half of the requests in flight are
    /// unanswered. Returns the number of answers.
    pub(crate) fn receive(&mut self) -> io::Result<u64> {
        if self.tls.read_tls(&mut self.socket)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.tls.process_new_packets().map_err(io::Error::other)?;
        // At first the end of the handshake.
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        let mut answers = 0;
        loop {
            match self.tls.reader().read(&mut self.incoming) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.partial.extend_from_slice(&self.incoming[..count]);
                    let mut at = 0;
                    while let Some(rest) = self.partial.get(at..).filter(|r| r.len() >= HEAD_BYTES)
                    {
                        let size = HEAD_BYTES + length(rest);
                        if rest.len() < size {
                            break;
                        }
                        answers += u64::from(
                            matches!(rest[3], DATA | HEADERS) && rest[4] & END_STREAM != 0,
                        );
                        if matches!(rest[3], 3 | 7) {
                            return Err(io::Error::other("a reset, or GOAWAY"));
                        }
                        at += size;
                    }
                    self.partial.drain(..at);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.in_flight -= usize::try_from(answers).expect("few");
        Ok(answers)
    }

    /// Waits for all answers.
    pub(crate) fn drain(&mut self) -> io::Result<u64> {
        let mut answers = 0;
        while self.in_flight > 0 {
            answers += self.receive()?;
        }
        Ok(answers)
    }

    fn write(&mut self) -> io::Result<()> {
        self.tls.writer().write_all(&self.plaintext)?;
        self.plaintext.clear();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

fn length(frame: &[u8]) -> usize {
    usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2])
}
