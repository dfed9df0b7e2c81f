//! One connection: it is made, its session is set up and checked, and its statements are prepared
//! once.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clarion_runtime::world::{Stream, World};
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{net::UnixStream, task::JoinSet, time::timeout};
use tokio_postgres::{
    AsyncMessage, Client, Config, NoTls, SimpleQueryMessage, Statement, config::SslMode,
    tls::NoTlsStream, types::ToSql,
};

use super::{
    address::{Address, Host},
    doubt::Doubt,
    failure::{Failure, of_server, words},
    query::Query,
    tls::Tls,
};

/// Time for a connection to one host: name, TCP, TLS, password, session.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Settings of a migration: an index over all rows takes longer than other statements.
const MIGRATION_SETTINGS: &str = "SET LOCAL statement_timeout = '45s'";

/// Settings of a session that reads another system's database: it changes nothing, and values have
/// one form as text.
const FOREIGN_SETTINGS: &str = "SET default_transaction_read_only = on; \
    SET statement_timeout = '60s'; SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET jit = off";

/// Where connections lead, and what they share.
pub(super) struct Server {
    pub(super) address: Address,
    password: Option<SecretString>,
    tls: Tls,
    pub(super) world: World,
    pub(super) doubt: Doubt,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Flushes and the role of chief.
    Appends,
    /// Reads, and writes of one record.
    Records,
    /// Writes that decide by rows that they do not write.
    Decisions,
    /// Renewal of the chief's counter, and the server's clock. Nothing that it writes has to
    /// survive the server, so it does not wait for the disk or a standby.
    Guard,
    /// Reads of another system's database, which may be a standby.
    Foreign,
}

/// An established connection.
pub(super) struct Connection {
    client: Client,
    host: String,
    prepared: BTreeMap<&'static str, Statement>,
    notices: Arc<Notices>,
    /// The task that moves the bytes; ends with the connection.
    _driver: JoinSet<()>,
}

/// What the server said without being asked.
#[derive(Default)]
struct Notices {
    warnings: AtomicU64,
    last: Mutex<Option<String>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    pub(super) fn new(
        address: Address,
        password: Option<SecretString>,
        world: World,
    ) -> Result<Self, String> {
        let tls = Tls::new(&address.tls)?;
        Ok(Self { address, password, tls, world, doubt: Doubt::new() })
    }

    /// Connects to the first host that accepts writes.
    ///
    /// # Errors
    /// Every host with the reason why it was of no use.
    pub(super) async fn connect(&self, role: Role) -> Result<Connection, String> {
        let mut reasons = Vec::new();
        for host in &self.address.hosts {
            match timeout(CONNECT_DEADLINE, self.connect_to(host, role)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(reason)) => reasons.push(format!("{host}: {reason}")),
                Err(_) => reasons.push(format!("{host}: no connection within 5 s")),
            }
        }
        Err(reasons.join("; "))
    }

    async fn connect_to(&self, host: &Host, role: Role) -> Result<Connection, String> {
        let stream = self.open(host).await.map_err(|e| e.to_string())?;
        let mut config = Config::new();
        config
            .user(&*self.address.user)
            .dbname(&*self.address.database)
            .application_name(&*self.address.application_name)
            // The stream is encrypted already, if it has to be.
            .ssl_mode(SslMode::Disable);
        if let Some(password) = &self.password {
            config.password(password.expose_secret());
        }
        let connected = config.connect_raw(stream, NoTls).await;
        let (client, driver) = connected.map_err(|e| words(&e))?;
        let connection = Connection::new(client, driver, host.to_string());
        connection.set_up(role).await?;
        Ok(connection)
    }

    /// A stream to a host, encrypted if the URL asks for it.
    async fn open(&self, host: &Host) -> io::Result<Stream> {
        match host {
            Host::Socket(path) => Ok(Stream::new(UnixStream::connect(path).await?)),
            Host::Tcp { host: name, .. } => {
                let mut last = io::Error::other("the name has no address");
                for address in self.world.resolve(&host.to_string()).await? {
                    match self.world.connect(address).await {
                        Ok(stream) => return self.tls.encrypt(stream, name).await,
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }
}

impl Role {
    /// The settings of the session. A client that vanished is noticed within 10 s, so that its
    /// locks do not stay.
    fn settings(self) -> String {
        if self == Self::Foreign {
            return FOREIGN_SETTINGS.to_owned();
        }
        let synchronous_commit = self.synchronous_commit();
        let isolation = if self == Self::Decisions { "serializable" } else { "read committed" };
        let statement_timeout = match self {
            Self::Appends => "10s",
            Self::Records | Self::Decisions => "8s",
            Self::Guard => "1500ms",
            Self::Foreign => "60s",
        };
        format!(
            "SET synchronous_commit = {synchronous_commit};
             SET default_transaction_isolation = '{isolation}';
             SET statement_timeout = '{statement_timeout}';
             SET idle_in_transaction_session_timeout = '5s';
             SET tcp_user_timeout = '10s';
             SET client_connection_check_interval = '2s';
             SET jit = off"
        )
    }

    fn synchronous_commit(self) -> &'static str {
        if self == Self::Guard { "off" } else { "on" }
    }

    /// Whether a commit of the connection waits until it is durable.
    pub(super) fn is_durable(self) -> bool {
        !matches!(self, Self::Guard | Self::Foreign)
    }
}

impl Connection {
    fn new(
        client: Client,
        mut driver: tokio_postgres::Connection<Stream, NoTlsStream>,
        host: String,
    ) -> Self {
        let notices = Arc::new(Notices::default());
        let heard = Arc::clone(&notices);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // A notice is handed over before the answer behind it is.
            loop {
                match std::future::poll_fn(|context| driver.poll_message(context)).await {
                    Some(Ok(AsyncMessage::Notice(notice))) => heard.note(&notice),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        *heard.last.lock() = Some(words(&error));
                        return;
                    }
                    None => return,
                }
            }
        });
        Self { client, host, prepared: BTreeMap::new(), notices, _driver: tasks }
    }

    /// Sets the session up and asserts what durability depends on: a pooler in between may ignore
    /// settings.
    async fn set_up(&self, role: Role) -> Result<(), String> {
        self.client.batch_execute(&role.settings()).await.map_err(|e| words(&e))?;
        if role == Role::Foreign {
            return Ok(());
        }
        let asked = "SELECT current_setting('synchronous_commit'), \
                     current_setting('transaction_read_only'), current_setting('fsync'), \
                     current_setting('server_encoding')";
        let answer = self.client.simple_query(asked).await.map_err(|e| words(&e))?;
        let values = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some([0, 1, 2, 3].map(|i| row.get(i).unwrap_or(""))),
            _ => None,
        });
        let [synchronous_commit, read_only, fsync, encoding] = values.unwrap_or_default();
        if read_only != "off" {
            return Err("the server accepts no writes: it is a standby or read-only".to_owned());
        }
        let expected = role.synchronous_commit();
        if synchronous_commit != expected {
            return Err(format!(
                "synchronous_commit: must be {expected}; got {synchronous_commit:?}: connect \
                 without a pooler of transactions"
            ));
        }
        if encoding != "UTF8" {
            return Err(format!("server_encoding: must be UTF8; got {encoding:?}"));
        }
        if fsync != "on" {
            tracing::warn!(host = self.host, "server does not write to disk: fsync is off");
        }
        Ok(())
    }

    /// Name of the host, for errors.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs a statement that commits by itself.
    pub(super) async fn run(&mut self, query: &Query) -> Result<Vec<tokio_postgres::Row>, Failure> {
        let warned = self.notices.warnings.load(Ordering::SeqCst);
        let failed = |e| Failure::of(&e, &self.host);
        let statement = if let Some(prepared) = self.prepared.get(query.text) {
            prepared.clone()
        } else {
            let prepared = self.client.prepare_typed(&query.dialect(), &query.types()).await;
            let prepared = prepared.map_err(|e| failed(e).before_sending())?;
            self.prepared.insert(query.text, prepared.clone());
            prepared
        };
        let parameters: Vec<&(dyn ToSql + Sync)> =
            query.parameters.iter().map(|p| p as &(dyn ToSql + Sync)).collect();
        let rows = self.client.query(&statement, &parameters).await;
        let rows = rows.map_err(|e| self.with_last_words(failed(e)))?;
        self.without_warning(warned)?;
        Ok(rows)
    }

    /// Runs the statements of one transaction without preparing them for later.
    pub(super) async fn run_together(&mut self, queries: &[Query]) -> Result<(), Failure> {
        let warned = self.notices.warnings.load(Ordering::SeqCst);
        let transaction = async {
            let transaction = self.client.transaction().await?;
            transaction.batch_execute(MIGRATION_SETTINGS).await?;
            for query in queries {
                let statement = transaction.prepare_typed(&query.dialect(), &query.types()).await?;
                let parameters: Vec<&(dyn ToSql + Sync)> =
                    query.parameters.iter().map(|p| p as &(dyn ToSql + Sync)).collect();
                transaction.query(&statement, &parameters).await?;
            }
            transaction.commit().await
        };
        let ran = transaction.await;
        ran.map_err(|e| self.with_last_words(Failure::of(&e, &self.host)))?;
        self.without_warning(warned)
    }

    /// Checks that no warning came since there were `warned`: a commit whose wait for a standby was
    /// cancelled succeeds with a warning.
    fn without_warning(&self, warned: u64) -> Result<(), Failure> {
        if self.notices.warnings.load(Ordering::SeqCst) == warned {
            return Ok(());
        }
        let last = self.notices.last.lock().clone().unwrap_or_default();
        Err(Failure::Lost(format!("{}: {last}", self.host)))
    }

    /// Adds why the server ended the connection, which it says before it does so.
    fn with_last_words(&self, failure: Failure) -> Failure {
        match (failure, &*self.notices.last.lock()) {
            (Failure::Lost(text), Some(last)) => Failure::Lost(format!("{text}: {last}")),
            (failure, _) => failure,
        }
    }
}

impl Notices {
    fn note(&self, notice: &tokio_postgres::error::DbError) {
        use tokio_postgres::error::Severity::{Debug, Info, Log, Notice};
        if matches!(notice.parsed_severity(), Some(Debug | Info | Log | Notice)) {
            return;
        }
        *self.last.lock() = Some(of_server(notice));
        self.warnings.fetch_add(1, Ordering::SeqCst);
    }
}
