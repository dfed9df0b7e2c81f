use std::{collections::VecDeque, io::Write as _, sync::Arc, time::Duration};

use super::{
    super::{
        activity::{Activity, Stage, Stream},
        meter::{Metered, Method},
    },
    *,
};
use crate::world::Clock;

const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A body of frames, which ends after the last one.
struct Frames(VecDeque<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
    }
}

fn compressed(encoding: Encoding, message: &[u8]) -> Vec<u8> {
    match encoding {
        Encoding::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            gzip.write_all(message).expect("memory");
            gzip.finish().expect("memory")
        }
        Encoding::Zstd => zstd::encode_all(message, 3).expect("memory"),
    }
}

/// A message with its head.
fn framed(flag: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("short").to_be_bytes();
    [&[flag][..], &length, bytes].concat()
}

fn inflation(bytes: usize) -> Inflation {
    Inflation::new(Budget {
        bytes,
        peer_bytes_max: bytes,
        free_bytes: 0,
        streams_max: 0,
        waiting_max: 1,
        message_bytes_max: MESSAGE_BYTES_MAX,
    })
}

fn inflated(encoding: Encoding, stream: &[u8], frame_bytes: usize) -> Inflated<Frames> {
    let frames = stream.chunks(frame_bytes).map(Bytes::copy_from_slice).collect();
    Inflated::new(Frames(frames), encoding, inflation(8 << 20), PeerKey::NONE)
}

async fn next<B>(body: &mut B) -> Option<Result<Bytes, Status>>
where
    B: Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>> + Unpin,
{
    let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
    Some(
        frame
            .map(|frame| frame.into_data().expect("no trailers"))
            .map_err(|error| *error.downcast::<Status>().expect("a status")),
    )
}

async fn all(mut body: Inflated<Frames>) -> Result<Vec<u8>, Status> {
    let mut bytes = Vec::new();
    while let Some(frame) = next(&mut body).await {
        bytes.extend_from_slice(&frame?);
    }
    Ok(bytes)
}

#[tokio::test]
async fn messages_come_out_as_they_were_before_compression() {
    let large: Vec<u8> = (0..200_000_u32).flat_map(|n| (n / 7).to_be_bytes()).collect();
    let messages: [&[u8]; 4] = [b"", b"small", &large, b"last"];
    let expected: Vec<u8> = messages.iter().flat_map(|message| framed(0, message)).collect();
    for encoding in [Encoding::Gzip, Encoding::Zstd] {
        // The third message is not compressed: a caller may decide so for each message.
        let stream: Vec<u8> = (0..)
            .zip(messages)
            .flat_map(|(i, message)| match i {
                2 => framed(0, message),
                _ => framed(1, &compressed(encoding, message)),
            })
            .collect();
        for frame_bytes in [1, 5, 1_000, usize::MAX] {
            let inflated = inflated(encoding, &stream, frame_bytes.min(stream.len()));
            assert!(all(inflated).await.expect("valid") == expected, "{encoding:?} {frame_bytes}");
        }
        let whole = framed(1, &compressed(encoding, &large));
        assert!(all(inflated(encoding, &whole, 1_000)).await.expect("valid") == framed(0, &large));
        let empty = [framed(1, b""), framed(1, &compressed(encoding, b"x"))].concat();
        let out = all(inflated(encoding, &empty, 3)).await.expect("valid");
        assert_eq!(out, [framed(0, b""), framed(0, b"x")].concat());
    }
}

#[tokio::test]
async fn a_bomb_is_announced_one_byte_too_large_and_never_made() {
    // A thousand times the limit, in a megabyte of gzip and in 33 kB of zstd.
    let bombs = [
        (Encoding::Gzip, compressed(Encoding::Gzip, &vec![0; 200 << 20])),
        (Encoding::Zstd, compressed(Encoding::Zstd, &vec![0; 1_000 << 20])),
    ];
    for (encoding, bomb) in bombs {
        assert!(bomb.len() <= MESSAGE_BYTES_MAX, "{}", bomb.len());
        let mut body = inflated(encoding, &framed(1, &bomb), 16 << 10);
        let head = next(&mut body).await.expect("a head").expect("no error");
        assert_eq!(head, announced(MESSAGE_BYTES_MAX + 1), "{encoding:?}");
    }
    // What is too large before it is decompressed is announced as it is.
    let raw = [&[1][..], &u32::MAX.to_be_bytes()].concat();
    let mut body = inflated(Encoding::Gzip, &raw, 5);
    assert_eq!(
        next(&mut body).await.expect("a head").expect("no error")[..],
        framed_head(u32::MAX)
    );
}

fn framed_head(length: u32) -> Vec<u8> {
    [&[0][..], &length.to_be_bytes()].concat()
}

#[tokio::test]
async fn what_is_no_compression_is_refused() {
    let gzip = compressed(Encoding::Gzip, &[7; 10_000]);
    let mut wide = zstd::Encoder::new(Vec::new(), 3).expect("valid");
    wide.window_log(27).expect("valid");
    wide.write_all(&vec![7; 200_000]).expect("memory");
    let wide = wide.finish().expect("memory");
    let cases = [
        (Encoding::Gzip, b"not gzip".to_vec()),
        (Encoding::Zstd, gzip.clone()),
        (Encoding::Gzip, gzip[..gzip.len() - 9].to_vec()),
        (Encoding::Zstd, wide),
    ];
    for (encoding, bytes) in cases {
        let refused = all(inflated(encoding, &framed(1, &bytes), 1_000)).await.expect_err("wrong");
        assert_eq!(refused.code(), tonic::Code::Internal);
        assert!(refused.message().starts_with("the message cannot be decompressed: "));
    }
    // Half a message is passed on, for the service to refuse.
    let half = &framed(1, &gzip)[..20];
    assert_eq!(all(inflated(Encoding::Gzip, half, 7)).await.expect("passed on").len(), 20);
}

/// A compressed message behind both meters, as a connection has them.
fn metered(inflation: &Inflation, message: &[u8]) -> (Metered<Inflated<Frames>>, Arc<Stream>) {
    let stream = Arc::new(Activity::new(Clock::start())).open();
    let bytes = framed(1, &compressed(Encoding::Gzip, message));
    let frames = Frames([Bytes::from(bytes)].into());
    let body = Inflated::new(frames, Encoding::Gzip, inflation.clone(), PeerKey::NONE);
    let (meter, charged) = (inflation.meter.clone(), (Arc::clone(&stream), Stage::Inflated));
    (Metered::new(body, Method::Answer, meter, PeerKey::NONE, charged), stream)
}

#[tokio::test]
async fn the_decompressed_bytes_are_charged_before_they_take_memory() {
    let message = vec![0; 1 << 20];
    // Room for two messages with their copies; compressed, they have 1 kB each.
    let inflation = inflation(2 * 3 * message.len());
    let (mut first, first_stream) = metered(&inflation, &message);
    let (mut second, _second_stream) = metered(&inflation, &message);
    let (mut third, _third_stream) = metered(&inflation, &message);
    let (mut fourth, _fourth_stream) = metered(&inflation, &message);
    for body in [&mut first, &mut second] {
        assert_eq!(next(body).await.expect("a head").expect("room"), announced(message.len()));
        assert_eq!(next(body).await.expect("a message").expect("valid").len(), message.len());
    }
    // The third waits at its head, and the fourth finds no place to wait.
    let waits = tokio::time::timeout(Duration::from_millis(200), next(&mut third)).await;
    assert!(waits.is_err(), "no room");
    let busy = next(&mut fourth).await.expect("an answer").expect_err("no place");
    assert_eq!(busy.code(), tonic::Code::ResourceExhausted);
    assert!(busy.metadata().contains_key("grpc-retry-pushback-ms"));
    first_stream.release_all();
    assert_eq!(next(&mut third).await.expect("a head").expect("room"), announced(message.len()));
}

#[tokio::test]
async fn a_pass_that_nobody_waits_for_keeps_its_turn_until_it_ends() {
    use futures_util::FutureExt as _;
    let body = inflated(Encoding::Gzip, b"", 1);
    let (end, ended) = std::sync::mpsc::sync_channel::<()>(0);
    let mut pass = body.pass(move |_| {
        let _ = ended.recv();
        Ok(())
    });
    assert!((&mut pass).now_or_never().is_none());
    drop(pass);
    assert_eq!(body.inflation.turns.used(), 1, "the thread still works");
    drop(end);
    while body.inflation.turns.used() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
