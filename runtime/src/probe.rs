//! The subcommand `probe`: checks the health of a process from inside its container.
//!
//! Every binary has the subcommand: `coordinator probe 7401`. It is for images without a shell or
//! another program. It speaks `grpc.health.v1` in plaintext, as Kubernetes' own gRPC probes do, and
//! serves where those are not available: Docker's HEALTHCHECK, a Kubernetes older than 1.24, a
//! person with `kubectl exec`.

use std::{error::Error, ffi::OsString, net::SocketAddr, process::ExitCode, time::Duration};

use clap::Parser;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    channel::{self, ChannelLimits},
    world::World,
};

/// Limits of the connection: longer than every deadline of a probe, so that a probe of a process
/// that hangs reports the deadline.
const CONNECTION: ChannelLimits = ChannelLimits {
    connect_within: Duration::from_secs(120),
    window_bytes: 65_535,
    ping_every: Duration::from_secs(120),
    pong_within: Duration::from_secs(120),
};

/// Name of the subcommand on the command line.
pub const NAME: &str = "probe";
/// Paragraph about the subcommand in the `--help` of every binary.
pub const HELP: &str = "`probe PORT` checks the health of a running process (grpc.health.v1) and exits with 0 if the \
process serves, 1 if not; see `probe --help`.";

/// Check the health of a Clarion process through its health port (grpc.health.v1, plaintext).
///
/// Prints one line. Exit code 0: the process serves. 1: it does not serve, or did not answer before
/// the deadline. 2: the command line is wrong.
#[derive(Debug, Parser)]
#[command(name = NAME, max_term_width = 120)]
struct Arguments {
    /// Health port on the loopback interface, or ADDRESS:PORT
    #[arg(value_name = "PORT|ADDRESS", value_parser = address)]
    address: SocketAddr,
    /// Service to check, such as clarion.shard.v1.ShardService (readiness); empty: the process itself
    /// (liveness)
    #[arg(long, default_value = "")]
    service: String,
    /// Time limit for the connection and the answer together, milliseconds, 1 to 60000
    #[arg(
        long,
        value_name = "MS",
        default_value_t = 1_000,
        value_parser = clap::value_parser!(u64).range(1..=60_000)
    )]
    deadline_ms: u64,
}

/// Runs the subcommand if it is the first argument after the program's name.
pub fn requested(args: &[OsString]) -> Option<ExitCode> {
    let (_, rest) = args.split_first()?;
    rest.first().filter(|first| *first == NAME)?;
    Some(match Arguments::try_parse_from(rest) {
        Ok(arguments) => main(&arguments),
        Err(usage) => {
            // Nobody is left to tell if standard error is closed.
            let _ = usage.print();
            ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2))
        }
    })
}

fn main(arguments: &Arguments) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let deadline = Duration::from_millis(arguments.deadline_ms);
    let world = World::system();
    match runtime.block_on(check(&world, arguments.address, &arguments.service, deadline)) {
        Ok(()) => {
            println!("SERVING");
            ExitCode::SUCCESS
        }
        Err(sick) => {
            eprintln!("{sick}");
            ExitCode::FAILURE
        }
    }
}

/// Why a process does not serve.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Sick {
    /// The process answers with a status other than SERVING.
    #[error("{0}")]
    Status(&'static str),
    /// The process has no service of that name.
    #[error("SERVICE_UNKNOWN: the process does not serve {0}")]
    UnknownService(String),
    /// No answer arrived within the deadline.
    #[error("no answer within {} ms", .0.as_millis())]
    Deadline(Duration),
    /// No process listens at the address, or the process speaks another protocol.
    #[error("{0}")]
    Unreachable(String),
}

/// Sends one health request over a new connection.
///
/// # Errors
/// Any result other than SERVING within `deadline`.
pub async fn check(
    world: &World,
    address: SocketAddr,
    service: &str,
    deadline: Duration,
) -> Result<(), Sick> {
    tokio::time::timeout(deadline, ask(world, address, service))
        .await
        .unwrap_or(Err(Sick::Deadline(deadline)))
}

async fn ask(world: &World, address: SocketAddr, service: &str) -> Result<(), Sick> {
    let unreachable =
        |error: &dyn Error| Sick::Unreachable(format!("{address}: {}", with_causes(error)));
    let channel =
        channel::connect(world, address, CONNECTION).await.map_err(|e| unreachable(&e))?;
    let request = HealthCheckRequest { service: service.to_owned() };
    match HealthClient::new(channel).check(request).await {
        Ok(answer) => match answer.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            other => Err(Sick::Status(other.as_str_name())),
        },
        Err(status) if status.code() == Code::NotFound => {
            Err(Sick::UnknownService(service.to_owned()))
        }
        Err(status) => Err(unreachable(&status)),
    }
}

/// Parses an address; a bare port means the loopback interface, because probes run on the machine
/// of the process.
fn address(text: &str) -> Result<SocketAddr, String> {
    let port = text.parse::<u16>().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let address =
        port.or_else(|_| text.parse()).map_err(|_| "must be a port or ADDRESS:PORT".to_owned())?;
    if address.port() == 0 { Err("port: must not be 0".to_owned()) } else { Ok(address) }
}

/// Joins the causes of an error: tonic's own text is only `transport error`.
fn with_causes(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests have tasks of their own")]
mod tests {
    use std::future;

    use super::*;
    use crate::health::{self, HealthPort};

    const PATIENCE: Duration = Duration::from_secs(30);

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[tokio::test]
    async fn it_tells_whether_a_service_serves() {
        let port = HealthPort::bind(&World::system(), loopback()).await.unwrap();
        let address = port.address();
        let (reporter, service) = health::reporter().await;
        reporter.set_service_status("a.Ready", tonic_health::ServingStatus::Serving).await;
        reporter.set_service_status("a.Loading", tonic_health::ServingStatus::NotServing).await;
        let server = tokio::spawn(port.serve(service, future::pending()));
        assert_eq!(check(&World::system(), address, "", PATIENCE).await, Ok(()));
        assert_eq!(check(&World::system(), address, "a.Ready", PATIENCE).await, Ok(()));
        assert_eq!(
            check(&World::system(), address, "a.Loading", PATIENCE).await,
            Err(Sick::Status("NOT_SERVING"))
        );
        assert_eq!(
            check(&World::system(), address, "a.Other", PATIENCE).await,
            Err(Sick::UnknownService("a.Other".to_owned()))
        );
        server.abort();
    }

    #[tokio::test]
    async fn nobody_there_is_told_at_once_with_the_reason() {
        // A port that was bound and is free again.
        let address = HealthPort::bind(&World::system(), loopback()).await.unwrap().address();
        let Err(Sick::Unreachable(why)) = check(&World::system(), address, "", PATIENCE).await
        else {
            panic!("somebody answered")
        };
        assert!(why.starts_with(&address.to_string()) && why.contains("refused"), "{why}");
        assert_eq!(why.lines().count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_hangs_meets_the_deadline() {
        // Connections are accepted by the system and never served.
        let silent = std::net::TcpListener::bind(loopback()).unwrap();
        let deadline = Duration::from_millis(500);
        assert_eq!(
            check(&World::system(), silent.local_addr().unwrap(), "", deadline).await,
            Err(Sick::Deadline(deadline))
        );
    }

    #[test]
    fn only_the_first_argument_asks_for_it() {
        let args = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(requested(&args("shard --name probe")).is_none());
        assert!(requested(&args("shard")).is_none());
        // `ExitCode` compares by its debug text only.
        let code = requested(&args("shard probe nonsense")).unwrap();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(2)));
    }

    #[test]
    fn a_port_alone_is_on_this_machine() {
        assert_eq!(address("7401"), Ok("127.0.0.1:7401".parse().unwrap()));
        assert_eq!(address("[::1]:7401"), Ok("[::1]:7401".parse().unwrap()));
        assert!(
            address("0").is_err() && address("localhost:1").is_err() && address("70000").is_err()
        );
    }
}
