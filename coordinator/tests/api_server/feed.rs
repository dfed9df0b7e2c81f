//! The feed over the wire: the generated client reads what the hand-written server sends.

use std::collections::BTreeMap;

use clarion_coordinator::{config::Args, store::RecordBatch};
use clarion_proto::{
    device::{Change, Record},
    ids::{ClusterName, DeviceId, LogId, Position, UnixMillis, log_of, partition_of},
    wire::shard_v1::{self as wire, feed_service_client::FeedServiceClient},
};
use tonic::{Code, Streaming};

use crate::support::{Server, busy, soon};

fn record(n: u8) -> Record {
    Record {
        device: DeviceId([n; 16]),
        observed: UnixMillis(u64::from(n) + 1),
        change: Change::Mute(true),
    }
}

/// Appends each record to its own log as a batch of its own.
async fn append(server: &Server, records: impl IntoIterator<Item = u8>) {
    let (config, logs) = (&server.context.config, server.context.log.logs());
    for record in records.into_iter().map(record) {
        let log = log_of(partition_of(record.device, config.partitions), logs);
        let batch = (log, RecordBatch::from_records(&[record]));
        server.context.log.append_all(vec![batch]).await.expect("room");
    }
}

/// A node's question for everything of these partitions.
fn request(server: &Server, node: &str, partitions: Vec<u32>) -> wire::FeedRequest {
    wire::FeedRequest {
        node: node.into(),
        partitions,
        positions: vec![],
        cluster: ClusterName::DEFAULT.into(),
        log_identity: server.context.log.identity().to_wire(),
    }
}

/// A feed whose start has been read.
async fn feed(
    server: &Server,
    partitions: Vec<u32>,
    positions: &[(u32, u64)],
) -> Streaming<wire::FeedResponse> {
    let mut stream = opened(server, partitions, positions).await;
    let start = next(&mut stream).await.start.expect("the start comes first");
    assert_eq!(start.log_identity, server.context.log.identity().to_wire());
    stream
}

async fn opened(
    server: &Server,
    partitions: Vec<u32>,
    positions: &[(u32, u64)],
) -> Streaming<wire::FeedResponse> {
    let positions =
        positions.iter().map(|&(log, position)| wire::LogPosition { log, position }).collect();
    let request = wire::FeedRequest { positions, ..request(server, "node-1", partitions) };
    soon(FeedServiceClient::new(server.feeds().await).feed(request))
        .await
        .expect("valid")
        .into_inner()
}

async fn next(stream: &mut Streaming<wire::FeedResponse>) -> wire::FeedResponse {
    soon(stream.message()).await.expect("no error").expect("without end")
}

#[tokio::test]
async fn everything_comes_dense_in_order_and_goes_on() {
    let args = Args { partitions: Some(8), logs: Some(4), ..Args::default() };
    let server = Server::start_with(args).await;
    append(&server, 0..=199).await;
    let mut stream = feed(&server, (0..8).collect(), &[]).await;
    let mut heads: BTreeMap<u32, u64> = BTreeMap::new();
    let mut devices = Vec::new();
    for _ in 0..=199 {
        let batch = next(&mut stream).await;
        let head = heads.entry(batch.log).or_default();
        assert_eq!(batch.position, *head + 1, "dense");
        *head = batch.position;
        assert!(batch.append_time_ms > 0);
        let records: Vec<Record> =
            batch.records.into_iter().map(|r| Record::from_wire(r).expect("valid")).collect();
        assert!(
            records.iter().all(|r| u32::from(log_of(partition_of(r.device, 8), 4).0) == batch.log)
        );
        devices.extend(records);
    }
    devices.sort_by_key(|r| r.device);
    assert_eq!(devices, (0..=199).map(record).collect::<Vec<_>>());
    // What comes later comes too.
    append(&server, [200]).await;
    assert_eq!(next(&mut stream).await.records, [record(200).to_wire()]);
}

#[tokio::test]
async fn a_reader_goes_on_where_it_was_with_its_own_partitions() {
    let args = Args { partitions: Some(8), logs: Some(2), ..Args::default() };
    let server = Server::start_with(args).await;
    append(&server, 0..=99).await;
    let head = server.context.log.heads().await.expect("up")[0].0;
    let mut stream = feed(&server, vec![4], &[(0, head - 10), (1, 0)]).await;
    for position in head - 9..=head {
        let batch = next(&mut stream).await;
        assert_eq!(
            (batch.log, batch.position),
            (0, position),
            "a position without its records is sent too"
        );
        for record in batch.records {
            assert_eq!(partition_of(Record::from_wire(record).expect("valid").device, 8).0, 4);
        }
    }
}

#[tokio::test]
async fn what_the_cluster_does_not_have_is_refused() {
    let server = Server::start().await;
    let refused = |partitions: Vec<u32>, positions: Vec<wire::LogPosition>| {
        let request = wire::FeedRequest { positions, ..request(&server, "node-1", partitions) };
        let server = &server;
        async move {
            soon(FeedServiceClient::new(server.feeds().await).feed(request))
                .await
                .expect_err("must be refused")
        }
    };
    let partition = refused(vec![64], vec![]).await;
    assert_eq!(crate::support::field(&partition), "partitions[0]");
    let ahead = refused(vec![0], vec![wire::LogPosition { log: 0, position: 1 }]).await;
    assert_eq!(ahead.code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_newer_feed_of_a_node_supersedes_the_older_and_callers_are_served_none() {
    let server = Server::start().await;
    let mut older = feed(&server, vec![0], &[]).await;
    let _newer = feed(&server, vec![0], &[]).await;
    assert_eq!(soon(older.message()).await.expect_err("superseded").code(), Code::Aborted);
    let request = request(&server, "node-1", vec![]);
    let refused = soon(FeedServiceClient::new(server.channel.clone()).feed(request))
        .await
        .expect_err("no feed there");
    assert_eq!(refused.code(), Code::Unimplemented);
}

#[tokio::test]
async fn strangers_cannot_take_the_places_of_nodes() {
    let server = Server::start().await;
    let mut open = Vec::new();
    let refused = loop {
        // A connection has few streams.
        let channel = server.feeds().await;
        let request = request(&server, &format!("stranger-{}", open.len()), vec![]);
        match soon(FeedServiceClient::new(channel).feed(request)).await {
            Ok(stream) => open.push(stream),
            Err(refused) => break refused,
        }
        assert!(open.len() <= 64);
    };
    assert_eq!(busy(&refused), (Code::ResourceExhausted, "FEEDS_MAX".to_owned()));
    feed(&server, vec![0], &[]).await;
}

#[tokio::test]
async fn a_stop_in_order_ends_the_feed() {
    let server = Server::start().await;
    let mut stream = feed(&server, vec![0], &[]).await;
    server.context.drain.token().cancel();
    assert_eq!(soon(stream.message()).await.expect_err("draining").code(), Code::Unavailable);
}

#[tokio::test]
async fn a_stream_begins_with_the_heads_of_its_logs() {
    let args = Args { partitions: Some(8), logs: Some(4), ..Args::default() };
    let server = Server::start_with(args).await;
    append(&server, 0..=49).await;
    let heads = server.context.log.heads().await.expect("up");
    let mut stream = opened(&server, vec![1, 2, 6], &[]).await;
    let first = next(&mut stream).await;
    assert!(first.position == 0 && first.records.is_empty(), "it is no batch");
    let start = first.start.expect("a start");
    let named: Vec<_> = start.heads.iter().map(|head| (head.log, head.position)).collect();
    assert_eq!(named, [(1, heads[1].0), (2, heads[2].0)]);
    assert!(next(&mut stream).await.start.is_none(), "once");
}

#[tokio::test]
async fn a_position_that_was_trimmed_away_ends_the_stream_with_an_answer_of_its_own() {
    let args = Args { partitions: Some(2), logs: Some(1), ..Args::default() };
    let server = Server::start_with(args).await;
    append(&server, 0..=9).await;
    server.context.log.trim(LogId(0), Position(5)).await.expect("up");
    let mut behind = feed(&server, vec![0, 1], &[(0, 2)]).await;
    let answer = next(&mut behind).await;
    assert_eq!(answer.trimmed, Some(wire::FeedTrimmed { log: 0, first: 5 }));
    assert!(answer.records.is_empty() && answer.position == 0);
    assert!(soon(behind.message()).await.expect("no error").is_none(), "it is the last");
    let mut ahead = feed(&server, vec![0, 1], &[(0, 4)]).await;
    assert_eq!(next(&mut ahead).await.position, 5);
}
