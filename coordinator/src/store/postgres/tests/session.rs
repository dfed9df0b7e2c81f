//! How connections are made: passwords, encryption, hosts, settings, values.

use std::{os::unix::fs as unix, path::Path};

use clarion_proto::ids::UnixMillis;
use clarion_runtime::world::{Clock, Tcp};

use super::*;

async fn open(url: &str, password: Option<&str>) -> Result<PostgresEngine, EngineError> {
    let address = Address::parse(url).expect("a URL");
    PostgresEngine::open(address, password.map(SecretString::from), &World::system()).await
}

#[tokio::test]
async fn values_come_back_as_they_went() {
    let Some(server) = shared() else { return };
    let (_, engine, _) = led(server).await;
    let echo = Statement::new("SELECT $1, $2, $3, NULL::bigint, 7")
        .integer(-5)
        .text("ä€😀")
        .bytes(vec![0, 255, 1]);
    let row = engine.query(echo).await.expect("up").remove(0);
    let bytes = Bytes::from_static(&[0, 255, 1]);
    let text = Value::Text("ä€😀".into());
    let expected = [Value::Integer(-5), text, Value::Bytes(bytes), Value::Null, Value::Integer(7)];
    assert_eq!(row.0, expected);
    let unknown = engine.query(Statement::new("SELECT 1.5")).await;
    assert!(matches!(unknown, Err(EngineError::Broken(_))), "{unknown:?}");
    let wrong = engine.query(Statement::new("SELECT nothing FROM nowhere")).await;
    assert!(matches!(wrong, Err(EngineError::Broken(_))), "{wrong:?}");
}

/// Text is ordered by bytes, whatever the locale of the database.
#[tokio::test]
async fn names_are_ordered_by_bytes() {
    let Some(server) = shared() else { return };
    let (name, _, _) = led(server).await;
    let collations = "SELECT string_agg(DISTINCT collation_name, ',') FROM \
                      information_schema.columns WHERE table_schema = 'public' \
                      AND data_type = 'text'";
    assert_eq!(server.sql(&name, collations), "C");
}

#[tokio::test]
async fn hosts_are_tried_until_one_accepts_writes() {
    let Some(server) = TestServer::start() else { return };
    let url = format!("postgres://clarion@127.0.0.1:1,127.0.0.1:{}/postgres", server.port());
    open(&format!("{url}?sslmode=disable"), None).await.expect("the second host");
    server.set("default_transaction_read_only", "on");
    let refused = open(&format!("{url}?sslmode=disable"), None).await.expect_err("read-only");
    let EngineError::Away(reason) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("127.0.0.1:1: ") && reason.contains("accepts no writes"), "{reason}");
}

#[tokio::test]
async fn a_password_is_needed_and_never_told() {
    let Some(server) = TestServer::start() else { return };
    server.sql("postgres", "CREATE ROLE caller LOGIN PASSWORD 'right horse'");
    let hba = server.folder().join("data/pg_hba.conf");
    std::fs::write(hba, "local all all trust\nhost all all all scram-sha-256\n").expect("written");
    server.sql("postgres", "SELECT pg_reload_conf()");
    let url = format!("postgres://caller@127.0.0.1:{}/postgres?sslmode=disable", server.port());
    let engine = open(&url, Some("right horse")).await.expect("the password");
    assert!(!format!("{engine:?}").contains("horse"));
    for wrong in [None, Some("wrong horse")] {
        let refused = open(&url, wrong).await.expect_err("no password");
        assert!(refused.to_string().contains("127.0.0.1:"), "{refused}");
        assert!(!refused.to_string().contains("horse"), "{refused}");
    }
}

#[tokio::test]
async fn sslmode_means_what_it_means_to_postgresql() {
    let Some(server) = TestServer::start() else { return };
    let url = |host: &str, parameters: &str| {
        format!("postgres://clarion@{host}:{}/postgres?{parameters}", server.port())
    };
    let refusal = async |url: String| open(&url, None).await.expect_err("refused").to_string();
    let plain = refusal(url("127.0.0.1", "sslmode=require")).await;
    assert!(plain.contains("the server does not encrypt"), "{plain}");

    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("valid");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("signed").pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned()];
    let certificate = rcgen::CertificateParams::new(names).expect("valid");
    let certificate = certificate.signed_by(&key, &issuer).expect("signed");
    let folder = server.folder();
    write_as_owner(&folder.join("data/server.crt"), &certificate.pem());
    write_as_owner(&folder.join("data/server.key"), &key.serialize_pem());
    let ca = folder.join("ca.pem");
    write_as_owner(&ca, &ca_pem);
    let other_ca = folder.join("other.pem");
    let other = rcgen::generate_simple_self_signed(vec!["other".to_owned()]).expect("signed");
    write_as_owner(&other_ca, &other.cert.pem());
    server.set("ssl", "on");
    let hba = "local all all trust\nhostssl all all all trust\n";
    std::fs::write(folder.join("data/pg_hba.conf"), hba).expect("written");
    server.sql("postgres", "SELECT pg_reload_conf()");
    tokio::time::sleep(Duration::from_millis(500)).await;

    let (ca, other_ca) = (ca.display(), other_ca.display());
    for trusted in [
        url("127.0.0.1", "sslmode=require"),
        url("127.0.0.1", &format!("sslmode=require&sslrootcert={ca}")),
        url("localhost", &format!("sslmode=verify-full&sslrootcert={ca}")),
        url("localhost", &format!("sslrootcert={ca}")),
    ] {
        let engine = open(&trusted, None).await.unwrap_or_else(|e| panic!("{trusted}: {e}"));
        let tls = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let version = engine.query(Statement::new(tls)).await.expect("up")[0].clone();
        assert_eq!(version.text(0), Ok("TLSv1.3"));
    }
    for (refused, reason) in [
        (url("127.0.0.1", &format!("sslmode=verify-full&sslrootcert={ca}")), "not valid for name"),
        (
            url("localhost", &format!("sslmode=require&sslrootcert={other_ca}")),
            "invalid peer certificate",
        ),
        (url("localhost", &format!("sslrootcert={other_ca}")), "invalid peer certificate"),
        (url("localhost", ""), "invalid peer certificate"),
        (url("127.0.0.1", "sslmode=disable"), "no pg_hba.conf entry"),
    ] {
        let told = refusal(refused.clone()).await;
        assert!(told.contains(reason), "{refused}: {told}");
    }
}

fn write_as_owner(path: &Path, text: &str) {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let owner = std::fs::metadata(path.parent().expect("a folder")).expect("there");
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("ours");
    unix::chown(path, Some(owner.uid()), Some(owner.gid())).expect("root or the owner");
}

#[tokio::test]
async fn a_clock_that_differs_is_seen() {
    let Some(server) = shared() else { return };
    let address = || Address::parse(&server.url("postgres")).expect("a URL");
    let right = PostgresEngine::open(address(), None, &World::system()).await.expect("up");
    assert!(!right.clock_offset().borrow().is_too_large());
    let now = World::system().clock().wall().0;
    for (wall, sign) in [(now + 60_000, -1), (now - 60_000, 1)] {
        let clock = Clock::start_at(UnixMillis(wall));
        let world = World::new(clock, 1, std::sync::Arc::new(Tcp));
        let engine = PostgresEngine::open(address(), None, &world).await.expect("up");
        let offset = *engine.clock_offset().borrow();
        assert!(offset.is_too_large() && offset.offset_ms.signum() == sign, "{offset:?}");
        assert!((55_000..65_000).contains(&offset.offset_ms.abs()), "{offset:?}");
    }
}
