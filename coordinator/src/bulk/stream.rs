//! Writes batches over `RegistryService.WriteDevices`: carries what [`flow`](super::flow) decides.
//!
//! One stream is enough: the coordinator works on one batch while the next ones travel. A lost
//! connection, a coordinator that is busy, shuts down or has no room leads to another stream, after
//! the time that the coordinator names.

use std::time::Duration;

use bytes::{BufMut, Bytes};
use clarion_proto::wire::v1::{WriteDevicesRequest, WriteDevicesResponse};
use clarion_runtime::{
    channel::{self, ChannelLimits},
    world::World,
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, EncodeBuf, Encoder},
    transport::Channel,
};
use tonic_prost::{ProstCodec, ProstDecoder};

use super::{
    batch::Batch,
    error::ImportError,
    flow::{Flow, Step, WINDOW, retry},
    ledger::{Acknowledged, JournalEnded},
};

/// Method that writes devices.
const PATH: &str = "/clarion.v1.RegistryService/WriteDevices";
/// Settings of the connection; answers are small.
const CONNECTION: ChannelLimits = ChannelLimits {
    connect_within: Duration::from_secs(5),
    window_bytes: 1 << 20,
    ping_every: Duration::from_secs(10),
    pong_within: Duration::from_secs(10),
};
/// Time without an answer after which a stream is lost: a store may take 10 s to write a batch.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Batches of the files, and the error that ended their reading.
pub(super) struct Batches {
    from: mpsc::Receiver<Result<Batch, ImportError>>,
    /// The first batch, if it was waited for.
    first: Option<Batch>,
    failed: Option<ImportError>,
    has_ended: bool,
}

impl Batches {
    /// The batches of a reader.
    pub(super) fn new(from: mpsc::Receiver<Result<Batch, ImportError>>) -> Self {
        Self { from, first: None, failed: None, has_ended: false }
    }

    /// The next batch; `None` after the last one, and after an error.
    pub(super) async fn next(&mut self) -> Option<Batch> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        match self.from.recv().await {
            Some(Ok(batch)) => return Some(batch),
            Some(Err(error)) => self.failed = Some(error),
            None => {}
        }
        self.has_ended = true;
        None
    }

    /// Waits for the first batch; false: there is none.
    pub(super) async fn wait(&mut self) -> bool {
        self.first = self.next().await;
        self.first.is_some()
    }

    /// Takes no more batches: their reader is not held up by a writer that has ended.
    pub(super) fn close(&mut self) {
        self.from.close();
    }

    /// The error that ended the reading, if one did.
    pub(super) fn end(self) -> Result<(), ImportError> {
        self.failed.map_or(Ok(()), Err)
    }
}

/// How a stream has ended.
enum Ended {
    /// All batches are answered.
    Done,
    /// Another stream may help, after a time that the coordinator named.
    Broken(Option<Duration>, String),
    /// No other stream can help.
    Refused(ImportError),
    /// Nothing more can be acknowledged.
    Journal(JournalEnded),
}

/// Reason why the writer has ended.
pub(super) enum WriteError {
    /// The import has failed.
    Import(ImportError),
    /// The journal's thread has ended.
    Journal(JournalEnded),
}

/// Writes all batches to the coordinator at `host:port`.
///
/// # Errors
/// The coordinator refuses them, or does not take any for long.
pub(super) async fn write_all(
    world: &World,
    host: &str,
    batches: &mut Batches,
    ledger: &mut impl Acknowledged,
) -> Result<(), WriteError> {
    let mut flow = Flow::default();
    loop {
        let ended = match open(world, host).await {
            Ok((requests, answers)) => {
                let carried = carry(&mut flow, batches, ledger, &requests, answers).await;
                carried.map_err(WriteError::Import)?
            }
            Err(ended) => ended,
        };
        let (after, problem) = match ended {
            Ended::Done => return Ok(()),
            Ended::Broken(after, problem) => (after, problem),
            Ended::Refused(error) => return Err(WriteError::Import(error)),
            Ended::Journal(ended) => return Err(WriteError::Journal(ended)),
        };
        let after = flow.broken(after, &problem).map_err(WriteError::Import)?;
        ledger.say(&format!("{problem}; trying again in {} ms", after.as_millis()));
        sleep(after).await;
    }
}

/// Sends and receives until the stream ends.
async fn carry(
    flow: &mut Flow,
    batches: &mut Batches,
    ledger: &mut impl Acknowledged,
    requests: &mpsc::Sender<Bytes>,
    mut answers: Streaming<WriteDevicesResponse>,
) -> Result<Ended, ImportError> {
    loop {
        while let Some(request) = flow.next_to_send() {
            // There is room for the whole window. If the stream has ended, `answers` says why.
            drop(requests.try_send(request));
        }
        if flow.is_empty() && batches.has_ended {
            return Ok(Ended::Done);
        }
        let answer = tokio::select! {
            biased;
            answer = timeout(ANSWER_WITHIN, answers.message()), if !flow.is_empty() => answer,
            next = batches.next(), if flow.has_room() && !batches.has_ended => {
                if let Some(batch) = next {
                    flow.push(batch);
                }
                continue;
            }
        };
        let lost = |problem: &str| Ok(Ended::Broken(None, problem.to_owned()));
        let answer = match answer {
            Err(_) => return lost("no answer came for 60 s"),
            Ok(Ok(None)) => return lost("the coordinator ended the stream"),
            Ok(Err(status)) => return Ok(broken(status)),
            Ok(Ok(Some(answer))) => answer,
        };
        match flow.answered(answer)? {
            Step::Written(batch, outcome) => {
                if let Err(ended) = ledger.take(&batch, outcome).await {
                    return Ok(Ended::Journal(ended));
                }
            }
            Step::NoRoom(after) => {
                return Ok(Ended::Broken(after, "the store of the coordinator is full".to_owned()));
            }
        }
    }
}

/// Connects and opens a stream.
async fn open(
    world: &World,
    host: &str,
) -> Result<(mpsc::Sender<Bytes>, Streaming<WriteDevicesResponse>), Ended> {
    let lost = |problem: String| Ended::Broken(None, format!("{host}: {problem}"));
    let channel = connect(world, host).await.map_err(lost)?;
    let (requests, receiver) = mpsc::channel(WINDOW);
    let call = async move {
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let request = Request::new(ReceiverStream::new(receiver));
        grpc.streaming(request, http::uri::PathAndQuery::from_static(PATH), Encoded).await
    };
    match timeout(ANSWER_WITHIN, call).await {
        Ok(Ok(answers)) => Ok((requests, answers.into_inner())),
        Ok(Err(status)) => Err(broken(status)),
        Err(_) => Err(lost("the stream was not opened in 60 s".to_owned())),
    }
}

/// What a status asks for.
fn broken(status: Status) -> Ended {
    match retry(&status) {
        Some(after) => Ended::Broken(after, format!("{:?}: {}", status.code(), status.message())),
        None => Ended::Refused(ImportError::Refused(Box::new(status))),
    }
}

async fn connect(world: &World, host: &str) -> Result<Channel, String> {
    let resolved = timeout(CONNECTION.connect_within, world.resolve(host)).await;
    let addresses = match resolved {
        Ok(addresses) => addresses.map_err(|e| format!("cannot be resolved: {e}"))?,
        Err(_) => return Err("the name server does not answer".to_owned()),
    };
    let mut problem = "the name has no address".to_owned();
    for address in addresses {
        match channel::connect(world, address, CONNECTION).await {
            Ok(channel) => return Ok(channel),
            Err(error) => problem = format!("cannot connect to {address}: {}", root(&error)),
        }
    }
    Err(problem)
}

/// The first cause of an error: that of the transport says nothing itself.
fn root(error: &dyn std::error::Error) -> &dyn std::error::Error {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error)
}

/// Codec of requests that are encoded already.
#[derive(Debug, Clone, Copy, Default)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = WriteDevicesResponse;
    type Encoder = Self;
    type Decoder = ProstDecoder<WriteDevicesResponse>;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<WriteDevicesRequest, WriteDevicesResponse>::default().decoder()
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, request: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(request);
        Ok(())
    }
}
