//! Watchers beside a wave: many clients that watch one alert, some of them slowly.
//!
//! The test must show that watchers do not affect the wave, that the coordinator's memory does not
//! grow with slow readers, and that every watcher's last message is the final state. To keep the
//! cost of this program low, messages are kept as bytes, and only the last one of each watcher is
//! decoded.
//!
//! Slow watchers have connections of their own: an unread message fills the window of its
//! connection, and the other watchers on it would be slow too.

use std::time::Duration;

use bytes::{Buf, Bytes};
use clarion_proto::wire::v1 as wire;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder},
    transport::{Channel, Endpoint},
};
use tonic_prost::{ProstCodec, ProstEncoder};

use super::DriveError;
use crate::scenario::WatchersSpec;

/// Watchers on one connection: a coordinator allows 256 streams.
const PER_CONNECTION: u32 = 250;
/// Time in which a slow watcher reads one message.
const SLOW: Duration = Duration::from_secs(1);

/// Observations of all watchers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Number of watchers.
    pub watchers: u64,
    /// Number of slow watchers.
    pub slow: u64,
    /// Messages to all watchers.
    pub messages: u64,
    /// Watchers whose last message was not the final state, or whose stream ended with an error.
    pub stale: u64,
}

/// Opens all watchers, and reads until each stream has ended. The last messages of a slow watcher
/// are read without pauses, once other watchers have seen the end.
///
/// # Errors
/// If the coordinator refuses a watcher, or a stream has not ended at `deadline`.
pub async fn watch(
    coordinator: &str,
    alert: &str,
    spec: WatchersSpec,
    deadline: Instant,
) -> Result<Seen, DriveError> {
    let slow = spec.slow();
    let (over, ended) = tokio::sync::watch::channel(false);
    let mut tasks = JoinSet::new();
    for (is_slow, count) in [(true, slow), (false, spec.count - slow)] {
        for first in (0..count).step_by(PER_CONNECTION as usize) {
            let channel = connect(coordinator).await?;
            for _ in first..count.min(first + PER_CONNECTION) {
                // Opened one after the other: a thousand at the same moment would be another
                // scenario.
                let stream = open(&channel, alert).await?;
                let (over, ended) = (over.clone(), ended.clone());
                tasks.spawn(async move {
                    if is_slow {
                        read_slowly(stream, ended).await
                    } else {
                        read(stream, over).await
                    }
                });
            }
        }
    }
    let mut seen = Seen { watchers: spec.count.into(), slow: slow.into(), ..Seen::default() };
    let mut finals = Vec::with_capacity(spec.count as usize);
    while let Some(one) =
        timeout_at(deadline, tasks.join_next()).await.map_err(|_| DriveError::Late {
            what: "the end of every watcher's stream",
            seconds: 0,
            state: format!("{} of {} have ended", finals.len(), spec.count),
        })?
    {
        let (messages, last) = one.map_err(|e| DriveError::Defect(e.to_string()))?;
        seen.messages += messages;
        finals.push(last);
    }
    seen.stale = stale(&finals);
    Ok(seen)
}

/// Returns the number of watchers whose last message is not the most frequent one, or is not final.
fn stale(finals: &[Option<Bytes>]) -> u64 {
    let mut counts = std::collections::BTreeMap::<&Bytes, u64>::new();
    finals.iter().flatten().for_each(|last| *counts.entry(last).or_default() += 1);
    let is_final = |bytes: &Bytes| match prost::Message::decode(bytes.clone()) {
        Ok(progress) => super::alert::has_ended(wire::AlertProgress::state(&progress)),
        Err(_) => false,
    };
    let agreed =
        counts.into_iter().filter(|(bytes, _)| is_final(bytes)).map(|(_, count)| count).max();
    finals.len() as u64 - agreed.unwrap_or(0)
}

type Read = (u64, Option<Bytes>);

/// Reads messages as fast as they arrive.
async fn read(mut stream: Streaming<Bytes>, over: tokio::sync::watch::Sender<bool>) -> Read {
    let (mut messages, mut last) = (0, None);
    loop {
        match stream.message().await {
            Ok(Some(message)) => (messages, last) = (messages + 1, Some(message)),
            Ok(None) => {
                over.send_replace(true);
                return (messages, last);
            }
            // The stream failed, so the last message was not the end.
            Err(_) => return (messages, None),
        }
    }
}

/// Reads a message, then pauses. The pauses end once another watcher has seen the end, or no other
/// watcher is left.
async fn read_slowly(
    mut stream: Streaming<Bytes>,
    mut ended: tokio::sync::watch::Receiver<bool>,
) -> Read {
    let (mut messages, mut last) = (0, None);
    loop {
        match stream.message().await {
            Ok(Some(message)) => (messages, last) = (messages + 1, Some(message)),
            Ok(None) => return (messages, last),
            Err(_) => return (messages, None),
        }
        tokio::select! {
            () = sleep(SLOW) => {}
            _ = ended.wait_for(|ended| *ended) => {}
        }
    }
}

async fn connect(coordinator: &str) -> Result<Channel, DriveError> {
    // Each stream has the default window (64 KiB); the window of the connection is large enough for
    // all of them, so that none waits for another.
    let endpoint = Endpoint::from_shared(coordinator.to_owned())?
        .connect_timeout(Duration::from_secs(10))
        .tcp_nodelay(true)
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(PER_CONNECTION * 65_536);
    Ok(endpoint.connect().await?)
}

async fn open(channel: &Channel, alert: &str) -> Result<Streaming<Bytes>, DriveError> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await?;
    let request = Request::new(wire::WatchAlertRequest { name: alert.to_owned(), cells: false });
    let path = http::uri::PathAndQuery::from_static("/clarion.v1.AlertService/WatchAlert");
    Ok(grpc.server_streaming(request, path, Undecoded).await?.into_inner())
}

/// Codec that encodes requests as usual, and returns answers as bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Undecoded;

impl Codec for Undecoded {
    type Encode = wire::WatchAlertRequest;
    type Decode = Bytes;
    type Encoder = ProstEncoder<wire::WatchAlertRequest>;
    type Decoder = AsItIs;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<wire::WatchAlertRequest, wire::AlertProgress>::default().encoder()
    }

    fn decoder(&mut self) -> AsItIs {
        AsItIs
    }
}

#[derive(Debug)]
struct AsItIs;

impl Decoder for AsItIs {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn who_did_not_see_the_last_state_is_stale() {
        let of = |state: wire::State, handed| {
            let progress = Some(wire::Progress { handed, ..Default::default() });
            let message =
                wire::AlertProgress { state: state.into(), progress, ..Default::default() };
            Some(Bytes::from(message.encode_to_vec()))
        };
        let (last, before) = (of(wire::State::Resolved, 9), of(wire::State::Resolved, 8));
        assert_eq!(stale(&[last.clone(), last.clone(), last.clone()]), 0);
        assert_eq!(stale(&[last.clone(), before, last.clone(), None]), 2);
        let active = of(wire::State::Active, 9);
        assert_eq!(stale(&[active.clone(), active]), 2, "they agree, but not on an end");
    }
}
