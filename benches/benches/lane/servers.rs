//! The servers to which clients push. Each is a process of its own, pinned to the first core and
//! started again for each run.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::Arc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::ValueEnum;
use clarion_emulator::{Gateway, GatewayConfig, KeyConfig};
use rcgen::{CertifiedKey, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::{
    client::{HOST, TOPIC},
    measure::pinned,
    sink::{Served, Sink},
};

const KEY: &str = "KEY0000001";
const TEAM: &str = "TEAM000001";
/// Time limit for a server to listen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Window of a connection at the emulator, as in `loadgen run`, bytes.
const WINDOW_BYTES: u32 = 1 << 20;

/// Kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Server {
    /// The sink, which scans frames and answers.
    Sink,
    /// The emulator of APNs, which checks and records each push.
    Emulator,
    /// nginx, which answers 200.
    Nginx,
    /// nghttp2's server, which answers 404.
    Nghttpd,
}

impl Server {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sink => "sink",
            Self::Emulator => "emulator",
            Self::Nginx => "nginx",
            Self::Nghttpd => "nghttpd",
        }
    }
}

/// Settings of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) server: Server,
    pub(crate) tls: bool,
    pub(crate) streams: usize,
    /// Time from a request to its answer.
    pub(crate) delay: Duration,
}

/// A server that listens.
pub(crate) struct Running {
    child: Child,
    /// Standard input of one of our servers, which stops when it is closed.
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
    pub(crate) address: SocketAddr,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) authorization_file: PathBuf,
}

impl Running {
    /// Starts a server, with its files in this directory.
    pub(crate) fn start(ask: &Ask, directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let (certificate, key) = (directory.join("ca.pem"), directory.join("key.pem"));
        let authorization_file = directory.join("authorization");
        let made =
            rcgen::generate_simple_self_signed([HOST.to_owned()]).map_err(io::Error::other)?;
        let CertifiedKey { cert, signing_key } = made;
        fs::write(&certificate, cert.pem())?;
        fs::write(&key, signing_key.serialize_pem())?;
        // As long as an ES256 provider token. The emulator replaces the file with a token that it
        // accepts.
        fs::write(&authorization_file, format!("bearer {}", "aZ09-_.x".repeat(25)))?;
        let mut running = match ask.server {
            Server::Sink | Server::Emulator => Self::ours(ask, directory)?,
            Server::Nginx => Self::foreign(&nginx(ask, directory)?, directory)?,
            Server::Nghttpd => Self::foreign(&nghttpd(ask, directory)?, directory)?,
        };
        running.ca_file = ask.tls.then_some(certificate);
        running.authorization_file = authorization_file;
        Ok(running)
    }

    fn ours(ask: &Ask, directory: &Path) -> io::Result<Self> {
        let mut child = pinned(0, std::env::current_exe()?.as_os_str())
            .args(["serve", ask.server.name()])
            .arg(format!("--directory={}", directory.display()))
            .arg(format!("--streams={}", ask.streams))
            .arg(format!("--delay-us={}", ask.delay.as_micros()))
            .args(ask.tls.then_some("--tls"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (stdin, mut stdout) =
            (child.stdin.take(), BufReader::new(child.stdout.take().expect("piped")));
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let address = line
            .trim()
            .parse()
            .map_err(|_| io::Error::other(format!("the server said {line:?}")))?;
        let stdout = Some(stdout);
        Ok(Self {
            child,
            stdin,
            stdout,
            address,
            ca_file: None,
            authorization_file: PathBuf::new(),
        })
    }

    fn foreign(command: &Foreign, directory: &Path) -> io::Result<Self> {
        let log = fs::File::create(directory.join("server.log"))?;
        let child = pinned(0, command.program.as_ref())
            .args(&command.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", command.program)))?;
        let address = SocketAddr::from(([127, 0, 0, 1], command.port));
        let running = Self {
            child,
            stdin: None,
            stdout: None,
            address,
            ca_file: None,
            authorization_file: PathBuf::new(),
        };
        // These servers do not print that they listen: connect until they do.
        let until = std::time::Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(address).is_err() {
            if std::time::Instant::now() > until {
                return Err(io::Error::other(format!("{} does not listen", command.program)));
            }
            thread::yield_now();
        }
        Ok(running)
    }

    /// Stops the server. One of ours returns its counts.
    pub(crate) fn stop(mut self) -> io::Result<Option<Served>> {
        drop(self.stdin.take());
        let Some(mut stdout) = self.stdout.take() else { return Ok(None) };
        let mut said = String::new();
        stdout.read_to_string(&mut said)?;
        self.child.wait()?;
        let mut numbers = said.split_whitespace().map(str::parse);
        Ok(match (numbers.next(), numbers.next()) {
            (Some(Ok(requests)), Some(Ok(bytes))) => Some(Served { requests, bytes }),
            _ => None,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // nginx and nghttpd run in the foreground and leave nothing behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A third-party server program.
struct Foreign {
    program: String,
    arguments: Vec<String>,
    port: u16,
}

/// Returns a port that is free now; the server binds it a moment later.
fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn nginx(ask: &Ask, directory: &Path) -> io::Result<Foreign> {
    let (port, path, streams) = (free_port()?, directory.display(), ask.streams);
    let (ssl, certificates) = match ask.tls {
        true => {
            ("ssl ", format!("ssl_certificate {path}/ca.pem; ssl_certificate_key {path}/key.pem;"))
        }
        false => ("", String::new()),
    };
    let text = format!(
        "daemon off; master_process off; pid {path}/nginx.pid; error_log {path}/error.log;
events {{ worker_connections 256; }}
http {{ access_log off; keepalive_requests 1000000000; http2_max_concurrent_streams {streams};
client_body_temp_path {path}/b; proxy_temp_path {path}/p; fastcgi_temp_path {path}/f; uwsgi_temp_path {path}/u;
scgi_temp_path {path}/s;
server {{ listen 127.0.0.1:{port} {ssl}http2; {certificates} location / {{ return 200; }} }} }}"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, text)?;
    let arguments =
        vec!["-c".to_owned(), file.display().to_string(), "-p".to_owned(), path.to_string()];
    Ok(Foreign { program: "nginx".to_owned(), arguments, port })
}

fn nghttpd(ask: &Ask, directory: &Path) -> io::Result<Foreign> {
    let (port, path) = (free_port()?, directory.display());
    let mut arguments = vec![
        format!("--htdocs={path}"),
        format!("--max-concurrent-streams={}", ask.streams),
        "--window-bits=24".to_owned(),
        "--connection-window-bits=24".to_owned(),
        "--address=127.0.0.1".to_owned(),
    ];
    match ask.tls {
        true => arguments.extend([
            port.to_string(),
            format!("{path}/key.pem"),
            format!("{path}/ca.pem"),
        ]),
        false => arguments.extend(["--no-tls".to_owned(), port.to_string()]),
    }
    Ok(Foreign { program: "nghttpd".to_owned(), arguments, port })
}

/// Runs one of our servers as a process: prints its address, and its counts at the end of its
/// input.
pub(crate) fn serve(ask: &Ask, directory: &Path) -> io::Result<()> {
    if ask.server == Server::Emulator { emulate(ask, directory) } else { sink(ask, directory) }
}

fn sink(ask: &Ask, directory: &Path) -> io::Result<()> {
    let tls = if ask.tls { Some(server_config(directory)?) } else { None };
    let streams = u32::try_from(ask.streams).map_err(io::Error::other)?;
    let (sink, address, stop) = Sink::bind(tls, streams, ask.delay)?;
    print_line(format_args!("{address}"))?;
    thread::spawn(move || {
        wait_for_the_end();
        stop();
    });
    let served = sink.serve()?;
    print_line(format_args!("{} {}", served.requests, served.bytes))
}

fn emulate(ask: &Ask, directory: &Path) -> io::Result<()> {
    if !ask.tls {
        return Err(io::Error::other("the emulator speaks TLS only"));
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(io::Error::other)?;
    let mut config = GatewayConfig {
        keys: vec![KeyConfig {
            key_id: KEY.to_owned(),
            team_id: TEAM.to_owned(),
            public_key_file: None,
            public_key_pem: Some(key.public_key_pem()),
        }],
        topics: vec![TOPIC.to_owned()],
        streams_max: Some(u32::try_from(ask.streams).map_err(io::Error::other)?),
        connection_window: WINDOW_BYTES,
        ..GatewayConfig::default()
    };
    let delay_us = u32::try_from(ask.delay.as_micros()).map_err(io::Error::other)?;
    (config.faults.latency.p50_us, config.faults.latency.p99_us) =
        (delay_us.into(), delay_us.into());
    let gateway = Gateway::start(config)?;
    fs::write(directory.join("ca.pem"), gateway.ca_pem())?;
    fs::write(directory.join("authorization"), bearer(&key)?)?;
    print_line(format_args!("{}", gateway.addr()))?;
    wait_for_the_end();
    let stats = gateway.stats();
    print_line(format_args!("{} 0", stats.requests))
}

/// Returns a provider token that the emulator accepts.
fn bearer(key: &KeyPair) -> io::Result<String> {
    let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let issued = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_secs();
    let head = encode(format!(r#"{{"alg":"ES256","kid":"{KEY}"}}"#).as_bytes());
    let claims = encode(format!(r#"{{"iss":"{TEAM}","iat":{issued}}}"#).as_bytes());
    let random = SystemRandom::new();
    let der = key.serialize_der();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random)
        .map_err(|error| io::Error::other(error.to_string()))?;
    let signed = format!("{head}.{claims}");
    let signature = pair
        .sign(&random, signed.as_bytes())
        .map_err(|error| io::Error::other(error.to_string()))?;
    Ok(format!("bearer {signed}.{}", encode(signature.as_ref())))
}

fn server_config(directory: &Path) -> io::Result<Arc<ServerConfig>> {
    let certificate =
        CertificateDer::from_pem_file(directory.join("ca.pem")).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(directory.join("key.pem")).map_err(io::Error::other)?;
    let mut config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn print_line(what: std::fmt::Arguments<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{what}")?;
    out.flush()
}

fn wait_for_the_end() {
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
}
