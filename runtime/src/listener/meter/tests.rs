use std::collections::VecDeque;

use tonic_types::StatusExt as _;

use super::{super::activity::Activity, *};
use crate::world::Clock;

/// A body of frames, which pends where there is none.
#[derive(Debug, Default)]
struct Frames(VecDeque<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.0.pop_front() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => Poll::Pending,
        }
    }
}

fn meter() -> Meter {
    Meter::new(Budget {
        bytes: 3_000,
        peer_bytes_max: 3_000,
        free_bytes: 100,
        streams_max: 10,
        waiting_max: 1,
        message_bytes_max: 1_000_000,
    })
}

fn peer(n: u8) -> PeerKey {
    PeerKey::of([10, 0, 0, n].into())
}

/// The beginning of a message.
fn begun(length: u32) -> Bytes {
    let [a, b, c, d] = length.to_be_bytes();
    Bytes::from(vec![0, a, b, c, d, 1])
}

struct Sent {
    body: Metered<Frames>,
    stream: Arc<Stream>,
}

impl Sent {
    fn new(meter: &Meter, method: Method, frames: impl IntoIterator<Item = Bytes>) -> Self {
        Self::of(peer(1), meter, method, frames)
    }

    fn of(
        peer: PeerKey,
        meter: &Meter,
        method: Method,
        frames: impl IntoIterator<Item = Bytes>,
    ) -> Self {
        let stream = Arc::new(Activity::new(Clock::start())).open();
        let frames = Frames(frames.into_iter().collect());
        Self {
            body: Metered::new(
                frames,
                method,
                meter.clone(),
                peer,
                (Arc::clone(&stream), Stage::Received),
            ),
            stream,
        }
    }

    async fn next(&mut self) -> Result<Bytes, Status> {
        let frame = std::future::poll_fn(|context| Pin::new(&mut self.body).poll_frame(context))
            .await
            .unwrap();
        frame
            .map(|frame| frame.into_data().unwrap())
            .map_err(|error| *error.downcast::<Status>().unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn small_messages_pass_while_large_ones_wait_and_then_are_refused() {
    let meter = meter();
    let mut first = Sent::new(&meter, Method::Answer, [begun(1_000)]);
    first.next().await.unwrap();
    assert_eq!(meter.bytes.used(), 3_000);
    let mut small = Sent::new(&meter, Method::Answer, [begun(100)]);
    small.next().await.unwrap();
    let mut waits = Sent::new(&meter, Method::Answer, [begun(200)]);
    let mut late = Sent::new(&meter, Method::Answer, [begun(200)]);
    let (waited, refused) = tokio::join!(waits.next(), late.next());
    for status in [waited.unwrap_err(), refused.unwrap_err()] {
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(RETRY));
        assert_eq!(status.get_details_error_info().unwrap().reason, "MESSAGES_BUSY");
    }
    drop(first);
    assert_eq!(meter.bytes.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_charge_is_held_until_the_answer_begins_or_the_next_message_is_asked_for() {
    let whole = |n: u32| Bytes::from([&[0][..], &n.to_be_bytes(), &vec![7; n as usize]].concat());
    let meter = meter();
    let mut unary = Sent::new(&meter, Method::Answer, [whole(200)]);
    unary.next().await.unwrap();
    assert!(futures_util::poll!(std::pin::pin!(unary.next())).is_pending());
    assert_eq!(meter.bytes.used(), 600, "the method works on it");
    unary.stream.release_all();
    assert_eq!(meter.bytes.used(), 0);
    let mut exchange = Sent::new(&meter, Method::Exchange, [whole(200)]);
    exchange.next().await.unwrap();
    assert_eq!(meter.bytes.used(), 600);
    assert!(futures_util::poll!(std::pin::pin!(exchange.next())).is_pending());
    assert_eq!(meter.bytes.used(), 0, "it has asked for the next");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_never_whole_ends_at_the_deadline_and_a_pause_between_messages_does_not()
{
    let meter = meter();
    let mut half = Sent::new(&meter, Method::Exchange, [begun(1_000)]);
    half.next().await.unwrap();
    assert_eq!(half.next().await.unwrap_err().code(), Code::DeadlineExceeded);
    let mut quiet = Sent::new(&meter, Method::Exchange, [begun(1)]);
    quiet.next().await.unwrap();
    let pause = tokio::time::timeout(10 * MESSAGE_WITHIN, quiet.next()).await;
    pause.expect_err("it may be silent between two messages");
}

/// Whoever begins many large messages has half of the budget; another peer does not wait for it.
#[tokio::test(start_paused = true)]
async fn one_peer_does_not_hold_the_whole_budget() {
    let meter =
        Meter::new(Budget { peer_bytes_max: 1_500, waiting_max: 8, ..(*meter().budget).clone() });
    let mut first = Sent::new(&meter, Method::Exchange, [begun(1_000)]);
    first.next().await.unwrap();
    assert_eq!(meter.bytes.used(), 1_500, "as much as one peer may have");
    let mut more: Vec<_> =
        (0..4).map(|_| Sent::new(&meter, Method::Exchange, [begun(1_000)])).collect();
    for waits in &mut more {
        assert!(futures_util::poll!(std::pin::pin!(waits.next())).is_pending());
    }
    let refused = Sent::new(&meter, Method::Exchange, [begun(1_000)]).next().await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "half of those who may wait");
    let mut other = Sent::of(peer(2), &meter, Method::Exchange, [begun(500)]);
    other.next().await.unwrap();
    assert_eq!(meter.bytes.used(), 3_000);
}
