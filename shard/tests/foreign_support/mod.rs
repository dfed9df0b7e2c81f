//! Servers that nobody here wrote, as processes: nginx, nghttpd, node's http2, python's h2. Each
//! answers by the last hexadecimal digit of the path, as far as it can (see `node.mjs`), and leaves
//! a line for each answer. One that is not installed is said so loudly.
#![allow(clippy::disallowed_methods, reason = "tests have clocks and tasks of their own")]
#![allow(dead_code)] // each test program uses a part

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::JoinHandle,
    time::Duration,
};

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Closes each connection after so many requests; 1,000 is its default.
    Nginx { requests: u32 },
    /// Sends bodies back. Its frames are padded.
    Nghttpd,
    /// `shrink`: changes its stream limit in flight.
    Node { shrink: bool },
    /// The pure state machine, under asyncio.
    Python,
}

/// One answer, as its server logged it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) connection: u64,
}

/// A server that runs.
pub(crate) struct Foreign {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Log,
}

enum Log {
    /// Written out when the server ends.
    File(PathBuf),
    /// nghttpd tells all it does on its standard output.
    Told(JoinHandle<Vec<Answered>>),
}

impl Foreign {
    /// Starts it, if it is installed, in a directory where `cert.pem` and `key.pem` are.
    pub(crate) fn start(kind: Kind, dir: &Path) -> Option<Self> {
        match kind {
            Kind::Nginx { requests } => {
                let program =
                    find(&["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/bin/nginx"], "nginx")?;
                Some(at_a_free_port(|address| {
                    fs::write(dir.join("nginx.conf"), nginx_config(dir, address, requests))
                        .expect("written");
                    let mut command = Command::new(program);
                    command
                        .arg("-p")
                        .arg(dir)
                        .arg("-c")
                        .arg(dir.join("nginx.conf"))
                        .stdout(Stdio::null());
                    (command.spawn().expect("nginx starts"), Log::File(dir.join("access.log")))
                }))
            }
            Kind::Nghttpd => {
                let program = find(
                    &["/usr/sbin/nghttpd", "/usr/bin/nghttpd", "/usr/local/bin/nghttpd"],
                    "nghttp2",
                )?;
                Some(at_a_free_port(|address| {
                    let mut command = Command::new(program);
                    command.args(["-v", "--echo-upload", "--padding=32", "--address=127.0.0.1"]);
                    command
                        .arg(address.port().to_string())
                        .arg(dir.join("key.pem"))
                        .arg(dir.join("cert.pem"));
                    let mut child = command
                        .stdout(Stdio::piped())
                        .stderr(Stdio::null())
                        .spawn()
                        .expect("nghttpd starts");
                    let told = child.stdout.take().expect("piped");
                    (child, Log::Told(std::thread::spawn(|| listen(told))))
                }))
            }
            Kind::Node { shrink } => {
                let mut command =
                    Command::new(find(&["/usr/bin/node", "/usr/local/bin/node"], "nodejs")?);
                command.arg(script("node.mjs"));
                Some(at_its_own_port(command, dir, shrink.then_some("shrink")))
            }
            Kind::Python => {
                let has_h2 = |python: &&str| {
                    let mut command = Command::new(python);
                    command.args(["-c", "import h2"]).stdout(Stdio::null()).stderr(Stdio::null());
                    command.status().is_ok_and(|status| status.success())
                };
                let Some(python) = ["python3", "/usr/bin/python3", "/usr/local/bin/python3"]
                    .into_iter()
                    .find(has_h2)
                else {
                    eprintln!(
                        "!!! SKIPPED: no python3 with h2; `apt-get install python3-h2` to prove the lane against it"
                    );
                    return None;
                };
                let mut command = Command::new(python);
                command.arg(script("python.py"));
                Some(at_its_own_port(command, dir, None))
            }
        }
    }

    /// Ends it in order; all that it answered, in order.
    pub(crate) fn stop(mut self) -> Vec<Answered> {
        // nginx finishes what it does and writes out its log at QUIT, the others at TERM.
        let quick = matches!(self.log, Log::Told(_));
        let signal = if quick { "-KILL" } else { "-QUIT" };
        let is_nginx = matches!(&self.log, Log::File(path) if path.ends_with("access.log"));
        let signal = if is_nginx || quick { signal } else { "-TERM" };
        let sent = Command::new("kill")
            .arg(signal)
            .arg(self.child.id().to_string())
            .status()
            .expect("kill");
        assert!(sent.success(), "it had ended before");
        let status = self.child.wait().expect("waited for");
        match self.log {
            Log::Told(told) => told.join().expect("read"),
            Log::File(path) => {
                assert!(status.success(), "{status}");
                let text = fs::read_to_string(path).expect("its log");
                text.lines().map(answered).collect()
            }
        }
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign_support").join(name)
}

fn find(places: &[&'static str], package: &str) -> Option<&'static str> {
    let found = places.iter().find(|place| Path::new(place).exists());
    if found.is_none() {
        eprintln!(
            "!!! SKIPPED: {} is missing; `apt-get install {package}` to prove the lane against it",
            places[0]
        );
    }
    found.copied()
}

/// For those who cannot choose a port: a free one is looked for; if somebody else was faster,
/// another.
fn at_a_free_port(start: impl Fn(SocketAddr) -> (Child, Log)) -> Foreign {
    for _ in 0..10 {
        let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = probe.local_addr().expect("bound");
        drop(probe);
        let (mut child, log) = start(address);
        while child.try_wait().expect("asked").is_none() {
            if TcpStream::connect_timeout(&address, Duration::from_secs(60)).is_ok() {
                return Foreign { child, address, log };
            }
            std::thread::yield_now();
        }
    }
    panic!("the server does not start");
}

/// For those who say their port.
fn at_its_own_port(mut command: Command, dir: &Path, argument: Option<&str>) -> Foreign {
    let log = dir.join("answers.log");
    command.arg(dir.join("cert.pem")).arg(dir.join("key.pem")).arg(&log).args(argument);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let port: u16 = line.trim().parse().expect("a port");
    Foreign { child, address: (Ipv4Addr::LOCALHOST, port).into(), log: Log::File(log) }
}

/// `path status connection`.
fn answered(line: &str) -> Answered {
    let [path, status, connection] = line.split(' ').collect::<Vec<_>>()[..] else {
        panic!("a line: {line}")
    };
    let connection = connection.parse().expect("a number");
    Answered { path: path.to_owned(), status: status.parse().expect("a status"), connection }
}

/// Of nghttpd's tale, the requests: `[id=1] [  1.026] recv (stream_id=1) :path: /3/device/abcd`. It
/// answers each with 200.
fn listen(told: impl std::io::Read) -> Vec<Answered> {
    let mut answered = Vec::new();
    let mut lines = BufReader::with_capacity(1 << 20, told);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).expect("text") > 0 {
        const MARK: &[u8] = b" :path: ";
        if line.starts_with(b"[id=")
            && let Some(at) = line.windows(MARK.len()).position(|window| window == MARK)
        {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
            let connection =
                text(&line[4..]).split(']').next().and_then(|id| id.parse().ok()).expect("an id");
            answered.push(Answered {
                path: text(&line[at + MARK.len()..]),
                status: 200,
                connection,
            });
        }
        line.clear();
    }
    answered
}

fn nginx_config(dir: &Path, address: SocketAddr, requests: u32) -> String {
    let dir = dir.display();
    format!(
        "daemon off;
master_process off;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
events {{ worker_connections 256; }}
http {{
    log_format pushes '$request_uri $status $connection';
    access_log {dir}/access.log pushes buffer=64k;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    keepalive_requests {requests};
    server {{
        listen {address} ssl http2;
        ssl_certificate {dir}/cert.pem;
        ssl_certificate_key {dir}/key.pem;
        location ~ 4$ {{ return 410 '{{\"reason\":\"Unregistered\",\"timestamp\":1700000000123}}'; }}
        location ~ 5$ {{ return 400 '{{\"reason\":\"BadDeviceToken\"}}'; }}
        location ~ 6$ {{ add_header retry-after 30 always; return 503 '<html>later</html>'; }}
        location ~ 9$ {{ return 200 'a body where none is due'; }}
        location / {{ return 200; }}
    }}
}}
"
    )
}
