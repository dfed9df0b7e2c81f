//! The blocks of the benchmark, their rounds, and the table of results.

use std::{io, path::Path, time::Duration};

use clap::Args;

use crate::{
    client::{Client, Kind, TOPIC},
    measure::{Usage, measured},
    servers::{Ask, Running, Server},
};

/// Duration of a run in which distance and not the processor decides.
const FAR_RUN: Duration = Duration::from_millis(1_500);

/// Arguments of the blocks.
#[derive(Debug, Args)]
pub(crate) struct Blocks {
    /// Rounds; medians are printed
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Every block: all servers, both transports, near and far
    #[arg(long)]
    all: bool,
    #[arg(long, value_delimiter = ',', default_value = "sink")]
    server: Vec<Server>,
    #[arg(
        long = "client",
        value_delimiter = ',',
        default_value = "h2load,h2,h2-tuned,hyper,lane,core"
    )]
    clients: Vec<Kind>,
    #[arg(long, value_delimiter = ',', default_value = "4")]
    connections: Vec<usize>,
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    streams: Vec<usize>,
    #[arg(long, value_delimiter = ',', default_value = "250")]
    body_bytes: Vec<usize>,
    /// From a request to its answer, milliseconds
    #[arg(long, value_delimiter = ',', default_value = "0")]
    delay_ms: Vec<u64>,
    /// Without TLS
    #[arg(long)]
    cleartext: bool,
    /// Pushes of a run; by default as many as take about a second
    #[arg(long)]
    requests: Option<u64>,
}

/// Block of one server and one setting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub(crate) ask: Ask,
    pub(crate) connections: usize,
    pub(crate) body_bytes: usize,
}

/// Row of a block: a client, and whether it sends `authorization` as a literal. (`h2load` and the
/// crates choose by themselves: by the bytes of their requests they send it as a literal, in
/// Huffman code.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) literal: bool,
}

/// Cost of one push in one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) cpu_us: f64,
    bytes: Option<f64>,
    rate: f64,
    rss_bytes: u64,
}

impl Blocks {
    fn blocks(&self) -> Vec<Block> {
        let block = |server, tls, connections, streams, body_bytes, delay_ms| {
            let ask = Ask { server, tls, streams, delay: Duration::from_millis(delay_ms) };
            Block { ask, connections, body_bytes }
        };
        let mut blocks = Vec::new();
        if self.all {
            for tls in [true, false] {
                for connections in [1, 4, 10] {
                    for streams in [1_000, 100] {
                        for body_bytes in [250, 4_096] {
                            blocks.push(block(
                                Server::Sink,
                                tls,
                                connections,
                                streams,
                                body_bytes,
                                0,
                            ));
                        }
                    }
                }
            }
            for (streams, delay_ms) in [(1_000, 50), (100, 100)] {
                blocks.push(block(Server::Sink, true, 10, streams, 250, delay_ms));
            }
            for server in [Server::Emulator, Server::Nginx, Server::Nghttpd] {
                blocks.push(block(server, true, 4, 100, 250, 0));
                blocks.push(block(server, true, 4, 1_000, 250, 0));
            }
            return blocks;
        }
        for &server in &self.server {
            for &connections in &self.connections {
                for &streams in &self.streams {
                    for &body_bytes in &self.body_bytes {
                        for &delay_ms in &self.delay_ms {
                            blocks.push(block(
                                server,
                                !self.cleartext,
                                connections,
                                streams,
                                body_bytes,
                                delay_ms,
                            ));
                        }
                    }
                }
            }
        }
        blocks
    }

    fn rows(&self, block: &Block) -> Vec<Row> {
        let ours = |kind| matches!(kind, Kind::Lane | Kind::Core);
        let can = |kind: &&Kind| match kind {
            Kind::H2load => is_installed("h2load"),
            // The driver supports TLS only. It counts acceptances, and nghttpd sends none.
            Kind::Core => block.ask.tls && block.ask.server != Server::Nghttpd,
            _ => true,
        };
        let rows = self.clients.iter().filter(can).flat_map(|&kind| {
            [Row { kind, literal: false }]
                .into_iter()
                .chain(ours(kind).then_some(Row { kind, literal: true }))
        });
        rows.collect()
    }
}

/// Runs all blocks and prints the table.
pub(crate) fn run(blocks: &Blocks) -> io::Result<()> {
    if !is_installed("h2load") {
        println!("SKIPPED: h2load is not installed, so there are no ratios to it");
    }
    let directory = tempfile::tempdir()?;
    println!(
        "| server | transport | connections | streams | body | delay | client | CPU us/push | to h2load | bytes/push | pushes/s | peak RSS |"
    );
    println!("|---|---|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|");
    for block in blocks.blocks() {
        if matches!(block.ask.server, Server::Nginx | Server::Nghttpd)
            && !is_installed(block.ask.server.name())
        {
            println!("SKIPPED: {} is not installed", block.ask.server.name());
            continue;
        }
        let rows = blocks.rows(&block);
        let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); rows.len()];
        let mut failed: Vec<Option<String>> = vec![None; rows.len()];
        for round in 0..blocks.runs {
            for (n, row) in rows.iter().enumerate() {
                let directory =
                    directory.path().join(format!("{}-{round}-{n}", block.ask.server.name()));
                match one_run(blocks.requests, &block, *row, &directory) {
                    Ok(cost) => costs[n].push(cost),
                    Err(error) => failed[n] = Some(error.to_string()),
                }
            }
        }
        for (n, row) in rows.iter().enumerate() {
            match &failed[n] {
                Some(error) => println!("| {} {} failed: {error} |", block.title(), row.name()),
                None => println!("{}", line(&block, *row, &costs[n], yardstick(&rows, &costs))),
            }
        }
    }
    Ok(())
}

fn yardstick<'a>(rows: &[Row], costs: &'a [Vec<Cost>]) -> Option<&'a [Cost]> {
    rows.iter().position(|row| row.kind == Kind::H2load).map(|at| &costs[at][..])
}

/// Runs one client against a server of its own.
pub(crate) fn one_run(
    requests: Option<u64>,
    block: &Block,
    row: Row,
    directory: &Path,
) -> io::Result<Cost> {
    let server = Running::start(&block.ask, directory)?;
    let requests = requests.unwrap_or_else(|| block.requests(row.kind));
    let client = Client {
        address: server.address,
        ca_file: server.ca_file.clone(),
        authorization_file: server.authorization_file.clone(),
        connections: block.connections,
        streams: block.ask.streams,
        requests,
        body_bytes: block.body_bytes,
        literal: row.literal,
    };
    let usage = match row.kind {
        Kind::H2load => h2load(&client, directory)?,
        kind => {
            let mut arguments = vec!["push".to_owned(), kind.name().to_owned()];
            arguments.extend(client.arguments());
            measured(std::env::current_exe()?.as_os_str(), &arguments)?
        }
    };
    let served = server.stop()?;
    if let Some(served) = served
        && served.requests < requests
    {
        return Err(io::Error::other(format!(
            "the server saw {} of {requests} requests",
            served.requests
        )));
    }
    let (wall, own_cpu) = took(&usage)?;
    let pushes = requests as f64;
    Ok(Cost {
        cpu_us: own_cpu.unwrap_or(usage.cpu).as_secs_f64() * 1e6 / pushes,
        bytes: served.filter(|served| served.bytes > 0).map(|served| served.bytes as f64 / pushes),
        rate: pushes / wall.as_secs_f64().max(1e-9),
        rss_bytes: usage.rss_bytes,
    })
}

/// Returns the time that a client prints, and its CPU time, if it prints that too.
fn took(usage: &Usage) -> io::Result<(Duration, Option<Duration>)> {
    let unclear = || io::Error::other(format!("the client said {:?}", usage.said));
    if let Some(numbers) = usage.said.lines().find_map(|line| line.strip_prefix("took: ")) {
        let mut numbers = numbers.split(' ').map(str::parse).map(Result::ok);
        let wall = numbers.next().flatten().ok_or_else(unclear)?;
        return Ok((
            Duration::from_micros(wall),
            numbers.next().flatten().map(Duration::from_micros),
        ));
    }
    // h2load: `finished in 3.05s, 327868.85 req/s, ...`, seconds or milliseconds.
    let finished = usage
        .said
        .lines()
        .find_map(|line| line.strip_prefix("finished in "))
        .ok_or_else(unclear)?;
    let (time, _) = finished.split_once(',').ok_or_else(unclear)?;
    let seconds = match (time.strip_suffix("ms"), time.strip_suffix('s')) {
        (Some(ms), _) => ms.parse::<f64>().map_err(|_| unclear())? / 1e3,
        (None, Some(s)) => s.parse::<f64>().map_err(|_| unclear())?,
        (None, None) => return Err(unclear()),
    };
    Ok((Duration::from_secs_f64(seconds), None))
}

fn h2load(client: &Client, directory: &Path) -> io::Result<Usage> {
    let body = directory.join("body");
    std::fs::write(&body, client.body())?;
    let scheme = if client.ca_file.is_some() { "https" } else { "http" };
    let mut arguments = vec![
        format!("--requests={}", client.requests),
        format!("--clients={}", client.connections),
        format!("--max-concurrent-streams={}", client.streams),
        "--threads=1".to_owned(),
        // Windows as in the other clients, so large that no request waits for them.
        "--window-bits=24".to_owned(),
        "--connection-window-bits=24".to_owned(),
        format!("--data={}", body.display()),
    ];
    for (name, value) in [
        ("authorization", client.authorization()?.as_str()),
        ("apns-topic", TOPIC),
        ("apns-push-type", "alert"),
        ("apns-priority", "10"),
        ("apns-expiration", "1900000000"),
        ("apns-collapse-id", "alert-0123456789"),
    ] {
        arguments.push(format!("--header={name}: {value}"));
    }
    arguments.push(format!(
        "{scheme}://127.0.0.1:{}/3/device/{}",
        client.address.port(),
        "0123456789abcdef".repeat(4)
    ));
    measured("h2load".as_ref(), &arguments)
}

impl Block {
    /// Returns the number of pushes for about a second: by the client's cost if the server is near,
    /// by distance if it is far.
    fn requests(&self, kind: Kind) -> u64 {
        let per_second = match (self.ask.server, kind) {
            (Server::Nginx | Server::Nghttpd, _) => 60_000,
            (_, Kind::Hyper) => 40_000,
            (_, Kind::H2 | Kind::H2Tuned | Kind::H2load) => 100_000,
            (_, Kind::Lane | Kind::Core) => 500_000,
        };
        // Large bodies fill the link instead.
        let near = per_second * 400 / (400 + self.body_bytes as u64 / 8);
        if self.ask.delay.is_zero() {
            return near;
        }
        let far = (self.ask.streams * self.connections) as f64 / self.ask.delay.as_secs_f64()
            * FAR_RUN.as_secs_f64();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a few hundred thousand
        let far = far as u64;
        near.min(far)
    }

    fn title(&self) -> String {
        let Self { ask, connections, body_bytes } = self;
        let transport = if ask.tls { "TLS" } else { "cleartext" };
        let delay = ask.delay.as_millis();
        format!(
            "{} | {transport} | {connections} | {} | {body_bytes} | {delay} ms |",
            ask.server.name(),
            ask.streams
        )
    }
}

impl Row {
    fn name(&self) -> String {
        match self.literal {
            true => format!("{}, literal", self.kind.name()),
            false => self.kind.name().to_owned(),
        }
    }
}

fn line(block: &Block, row: Row, costs: &[Cost], yardstick: Option<&[Cost]>) -> String {
    let of = |figure: fn(&Cost) -> f64| median(costs.iter().map(figure));
    let ratio = match yardstick.filter(|yardstick| yardstick.len() == costs.len()) {
        Some(yardstick) => {
            let ratio =
                median(costs.iter().zip(yardstick).map(|(own, its)| own.cpu_us / its.cpu_us));
            format!("{ratio:.3} (1/{:.1})", 1.0 / ratio)
        }
        None => String::new(),
    };
    let bytes = costs.iter().map(|cost| cost.bytes).collect::<Option<Vec<_>>>();
    format!(
        "| {} {} | {:.2} | {ratio} | {} | {:.0} | {:.1} MB |",
        block.title(),
        row.name(),
        of(|cost| cost.cpu_us),
        bytes.map_or(String::new(), |bytes| format!("{:.0}", median(bytes.into_iter()))),
        of(|cost| cost.rate),
        of(|cost| cost.rss_bytes as f64) / 1e6,
    )
}

/// Returns the median; for an even number of values, the mean of the two in the middle.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
