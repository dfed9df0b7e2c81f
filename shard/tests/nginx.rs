//! A hundred thousand pushes through a stock nginx: a server that nobody here wrote. It closes a connection every 1,000
//! requests (`keepalive_requests`), so the wave crosses some hundred GOAWAYs; none may be missed, none sent twice.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command as Program, Stdio},
};

use clarion_proto::outcome::Outcome;
use clarion_shard::driver::{self, Clock};

mod wave_support;

use wave_support::{Gateway, PATIENCE, certificate, complete, prepare, shut_down};

const DEVICES: u32 = 100_000;

#[tokio::test]
async fn a_hundred_thousand_pushes_through_nginx() {
    let Some(program) =
        ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/bin/nginx"].into_iter().find(|p| Path::new(p).exists())
    else {
        eprintln!("!!! SKIPPED: nginx is not installed; `apt-get install nginx` to prove the lane against it");
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let (made, roots) = certificate();
    fs::write(dir.path().join("cert.pem"), made.cert.pem()).expect("written");
    fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).expect("written");
    let nginx = Nginx::start(program, dir.path()).await;

    let gateway = Gateway { address: nginx.address, roots, connections: 4 };
    let mut cores = driver::spawn(1, Clock::start()).expect("a thread");
    prepare(&cores, &gateway, DEVICES, None).await;
    let total = complete(&mut cores).await;
    assert_eq!(total.handed, u64::from(DEVICES));
    assert_eq!(total.outcomes[Outcome::Accepted as usize], u64::from(DEVICES));
    shut_down(cores).await;

    // Ended in order, nginx has written all of its log.
    nginx.stop().await;
    let log = fs::read_to_string(dir.path().join("access.log")).expect("the log");
    let (mut once, mut connections) = (BTreeSet::new(), BTreeSet::new());
    for line in log.lines() {
        let [path, status, connection] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("a line: {line}") };
        assert_eq!(status, "200");
        assert!(once.insert(path), "twice: {path}");
        connections.insert(connection);
    }
    assert_eq!(once.len(), DEVICES as usize, "missed");
    assert!(connections.len() >= DEVICES as usize / 1_000, "nginx closes each after 1,000 requests");
}

struct Nginx {
    child: Child,
    address: SocketAddr,
}

impl Nginx {
    /// Starts it in a directory that holds the certificate. nginx cannot choose a port, so a free one is looked for; if
    /// somebody else was faster, another.
    async fn start(program: &str, dir: &Path) -> Self {
        for _ in 0..10 {
            let probe = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            let address = probe.local_addr().expect("bound");
            drop(probe);
            fs::write(dir.join("nginx.conf"), config(dir, address)).expect("written");
            let mut child = Program::new(program)
                .arg("-p")
                .arg(dir)
                .arg("-c")
                .arg(dir.join("nginx.conf"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("nginx starts");
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while child.try_wait().expect("asked").is_none() && tokio::time::Instant::now() < deadline {
                if tokio::net::TcpStream::connect(address).await.is_ok() {
                    return Self { child, address };
                }
                tokio::task::yield_now().await;
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("nginx did not start; see {}", dir.join("error.log").display());
    }

    /// Ends it in order: workers finish and write out their log.
    async fn stop(mut self) {
        let quit = Program::new("kill").arg("-QUIT").arg(self.child.id().to_string()).status().expect("kill");
        assert!(quit.success());
        let ended = tokio::task::spawn_blocking(move || self.child.wait().expect("waited for"));
        assert!(tokio::time::timeout(PATIENCE, ended).await.expect("it ends").expect("joined").success());
    }
}

fn config(dir: &Path, address: SocketAddr) -> String {
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
    server {{
        listen {address} ssl http2;
        ssl_certificate {dir}/cert.pem;
        ssl_certificate_key {dir}/key.pem;
        location / {{ return 200; }}
    }}
}}
"
    )
}
