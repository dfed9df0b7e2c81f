//! Objects and keys in a bucket of a real third-party server (moto, `moto_server`). Without it the
//! test prints `SKIPPED`.

#![allow(clippy::disallowed_methods, reason = "a client with a world of its own")]

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clarion_coordinator::{
    keys::keeper::KeyKeeper,
    objects::{
        ObjectError, Objects,
        owner::{OwnerError, claim},
    },
    seal::{Generation, SealError, Seals},
    store::{ChangeLog as _, memory::MemoryStore},
};
use clarion_proto::ids::LogIdentity;
use clarion_runtime::world::World;

const HOUR: Duration = Duration::from_secs(3_600);
/// Time for the server to start: a Python program on a machine with other work.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// A server of S3, ended with the test.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start() -> Option<Self> {
        // The port is free until something else takes it; the test fails then, and is repeated.
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
        let port = port.port();
        let mut command = Command::new("moto_server");
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let spawned = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = match spawned {
            Ok(process) => process,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                eprintln!("!!! SKIPPED: no moto_server; pip install 'moto[server]' to prove S3");
                return None;
            }
            Err(error) => panic!("moto_server: {error}"),
        };
        let server = Self { process, port };
        let since = Instant::now();
        while server.create_bucket().is_none() {
            assert!(since.elapsed() < START_DEADLINE, "moto_server does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(server)
    }

    fn create_bucket(&self) -> Option<()> {
        self.put("/alerts", "")
    }

    /// Sends a request without a signature, which this server does not ask for.
    fn put(&self, path: &str, body: &str) -> Option<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let request = format!(
            "PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Some(())
    }

    fn objects(&self, url: &str) -> Objects {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        Objects::in_bucket(url, &variables(&endpoint), &World::system()).expect("valid")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn variables(endpoint: &str) -> Vec<(String, String)> {
    let variables = [
        ("AWS_ENDPOINT", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("PATH", "/bin"),
    ];
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

#[tokio::test]
async fn a_bucket_keeps_objects_and_halves_of_keys() {
    let Some(server) = Server::start() else { return };
    let versions = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    for (url, keeps_versions) in [("s3://alerts", false), ("s3://alerts/clarion/prod", true)] {
        if keeps_versions {
            server.put("/alerts?versioning", versions).expect("up");
        }
        let place = server.objects(url);
        let objects = place.of(LogIdentity([1; 16]));
        let missing = objects.get("a/1").await;
        assert!(matches!(missing, Err(ObjectError::Missing(_))), "{missing:?}");
        let large = Bytes::from(vec![7; 9 << 20]);
        for (name, bytes) in [("a/1", Bytes::from_static(b"first")), ("a/2", large)] {
            let written = objects.write(name, bytes.clone()).await.expect("new");
            assert_eq!(written.keeps_versions, keeps_versions);
            let again = objects.put(name, Bytes::from_static(b"other")).await;
            assert!(matches!(again, Err(ObjectError::Exists(_))), "written once: {again:?}");
            assert_eq!(objects.get(name).await, Ok(bytes));
        }
        let mut names: Vec<_> =
            objects.list("a").await.expect("up").into_iter().map(|found| found.name).collect();
        names.sort();
        assert_eq!(names, ["a/1", "a/2"], "{url}");
        assert!(place.folders().await.expect("up").contains(&"01".repeat(16)));
        objects.erase("a/1").await.expect("there");
        objects.erase("a/1").await.expect("gone is gone");
        objects.sweep().await.expect("nothing to do");
        assert!(matches!(objects.get("a/1").await, Err(ObjectError::Missing(_))));
    }
}

#[tokio::test]
async fn keys_of_two_clusters_live_in_one_bucket() {
    let Some(server) = Server::start() else { return };
    let place = server.objects("s3://alerts");
    let world = World::system();
    let stores = [0, 1].map(|_| Arc::new(MemoryStore::new(4, 1 << 20, &world)));
    for (store, cluster) in stores.iter().zip(["north", "south"]) {
        let objects = claim(&place, cluster, store.identity(), false).await.expect("shared");
        let lost = claim(&place, cluster, LogIdentity([9; 16]), true).await;
        assert!(matches!(lost, Err(OwnerError::HalvesMissing { .. })), "{lost:?}");
        let open = async |seals: &Arc<Seals>| {
            let (objects, seals) = (objects.clone(), Arc::clone(seals));
            KeyKeeper::open(Arc::clone(store) as _, objects, seals, HOUR, world.clock()).await
        };
        let seals = Arc::<Seals>::default();
        let keys = open(&seals).await.expect("a key is made");
        let sealed = seals.seal(b"p", cluster.as_bytes());
        assert_eq!(keys.rotate().await, Ok(Generation(2)));
        let again = Arc::<Seals>::default();
        open(&again).await.expect("both are there");
        assert_eq!(again.open(b"p", &sealed), Ok(cluster.as_bytes().to_vec()));
        keys.erase_unused().await.expect("up");
        let again = Arc::<Seals>::default();
        open(&again).await.expect("one is there");
        assert_eq!(again.open(b"p", &sealed), Err(SealError::NoKey(Generation(1))));
    }
}

/// A server that is away, one that does not speak HTTP, and one that may not be used in plaintext.
#[tokio::test]
async fn a_bucket_that_does_not_answer_is_away_with_its_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let talking = std::thread::spawn(move || {
        // The first attempt and those after it.
        for mut stream in listener.incoming().flatten().take(5) {
            let _ = stream.write_all(b"220 mail.example.org ESMTP\r\n");
        }
    });
    let endpoint = format!("http://127.0.0.1:{port}");
    let get = async |variables: &[(String, String)]| {
        let objects = Objects::in_bucket("s3://alerts", variables, &World::system());
        let got = objects.expect("valid").get("a").await;
        let Err(ObjectError::Away { problem, .. }) = got else { panic!("{got:?}") };
        assert!(!problem.contains("secret"), "{problem}");
        problem
    };
    let problem = get(&variables(&endpoint)).await;
    assert!(problem.contains("HTTP"), "{problem}");
    talking.join().expect("it has answered");
    let problem = get(&variables(&endpoint)).await;
    assert!(problem.contains("cannot connect"), "{problem}");
    let mut https_only = variables(&endpoint);
    https_only.retain(|(name, _)| name != "AWS_ALLOW_HTTP");
    let problem = get(&https_only).await;
    assert!(problem.contains("must be https://, unless AWS_ALLOW_HTTP=true"), "{problem}");
}
