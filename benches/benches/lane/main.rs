//! Cost of one push for the client: `h2load`, the crates `h2` and `hyper`, and the lane.
//!
//! ```text
//! cargo bench -p clarion-benches --bench lane                      # TLS, near, 4 connections, 1,000 streams
//! cargo bench -p clarion-benches --bench lane -- --all             # every block
//! cargo bench -p clarion-benches --bench lane -- --server nginx --client h2load,lane --streams 100
//! cargo bench -p clarion-benches --bench lane -- pairs             # a whole shard process beside h2load
//! ```
//!
//! A block is one server and one setting; its rows are clients. Machines drift within the hour, so
//! the clients of a block run in turn, round by round, and the ratio to `h2load` within a round
//! counts: the table shows the median over rounds of each figure and of that ratio. Client and
//! server are processes, pinned to a core each. CPU is user and system time of the whole client
//! process (for `core`, of its wave, without filling the partitions). Bytes are frames of requests
//! as the server counts them, without TLS and TCP.

#![allow(clippy::disallowed_methods, reason = "a bench has clocks and sockets of its own")]

mod client;
mod core;
mod library;
mod measure;
mod ours;
mod pairs;
mod servers;
mod sink;
mod table;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};

use client::{Client, Kind};
use servers::{Ask, Server};

#[derive(Debug, Parser)]
#[command(
    about = "CPU per push of HTTP/2 clients against one server",
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(flatten)]
    blocks: table::Blocks,
    #[command(subcommand)]
    part: Option<Part>,
    /// Option that `cargo bench` adds
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

/// Subcommands: pairs, and the parts that run in processes of their own.
#[derive(Debug, Subcommand)]
enum Part {
    /// The whole shard process beside h2load, in turn
    Pairs(pairs::Pairs),
    /// Runs a server.
    #[command(hide = true)]
    Serve {
        server: Server,
        #[arg(long)]
        directory: PathBuf,
        #[arg(long)]
        streams: usize,
        #[arg(long)]
        delay_us: u64,
        #[arg(long)]
        tls: bool,
    },
    /// Runs a client.
    #[command(hide = true)]
    Push {
        kind: Kind,
        #[command(flatten)]
        client: Client,
    },
    /// Runs a program and prints its resource use.
    #[command(hide = true)]
    Measure {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.part {
        None => table::run(&arguments.blocks),
        Some(Part::Pairs(pairs)) => pairs::run(&pairs),
        Some(Part::Serve { server, directory, streams, delay_us, tls }) => servers::serve(
            &Ask { server, tls, streams, delay: Duration::from_micros(delay_us) },
            &directory,
        ),
        Some(Part::Push { kind, client }) => push(kind, &client),
        Some(Part::Measure { command }) => measure::measure(&command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one client, and prints its time and, for `core`, its CPU time.
fn push(kind: Kind, client: &Client) -> io::Result<()> {
    let begun = std::time::Instant::now();
    match kind {
        Kind::Core => {
            let took = core::run(client)?;
            println!("took: {} {}", took.wall.as_micros(), took.cpu.as_micros());
            return Ok(());
        }
        Kind::Lane => ours::run(client)?,
        Kind::H2 | Kind::H2Tuned | Kind::Hyper => library::run(client, kind)?,
        Kind::H2load => return Err(io::Error::other("h2load is a program of its own")),
    }
    println!("took: {}", begun.elapsed().as_micros());
    Ok(())
}
