//! The `h2` crate as an independent client that reads the server's bytes. It exists for this
//! comparison only.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::{Conversation, Fate, Step};
use crate::{
    lane::provider::answer,
    outcome::{Answer, Platform, RETRY_AFTER_MAX, Reason},
};

/// Returns for each request, in order, the result that `h2` reports: one, or several if `h2` does
/// not distinguish them.
pub(super) fn replay(conversation: &Conversation) -> Vec<Vec<Fate>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), hear(conversation)).await.expect("it ends")
    })
}

async fn hear(conversation: &Conversation) -> Vec<Vec<Fate>> {
    let (near, far) = duplex(1 << 20);
    // As our own SETTINGS, for which the server wrote its answers.
    let (send, connection) = h2::client::Builder::new()
        .header_table_size(0)
        .enable_push(false)
        .initial_window_size(16_384)
        .initial_connection_window_size(1 << 20)
        .max_header_list_size(8_192)
        .initial_max_send_streams(10_000)
        .handshake::<_, Bytes>(near)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    // Streams are numbered in the order of requests, by us as by h2; they are all open before the
    // server's first word, as h2 would else hold some back by the server's limit.
    let mut responses = Vec::new();
    for step in &conversation.steps {
        if let Step::Push(_) = step {
            let request = Request::post("https://localhost/3/device/00").body(()).unwrap();
            let mut ready = send.clone().ready().await.unwrap();
            responses.push(ready.send_request(request, true).unwrap().0);
        }
    }
    let (mut from, mut to) = tokio::io::split(far);
    let drained = tokio::spawn(async move {
        let mut bytes = vec![0; 65_536];
        while matches!(from.read(&mut bytes).await, Ok(1..)) {}
    });
    // h2 must have written all requests before it hears of them.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let said: Vec<u8> = conversation
        .steps
        .iter()
        .flat_map(|step| if let Step::Hear(bytes) = step { &bytes[..] } else { &[] })
        .copied()
        .collect();
    let speaker = tokio::spawn(async move {
        // An h2 that has closed, because it was told to go away, need not hear the rest.
        let _ = to.write_all(&said).await;
        let _ = to.shutdown().await;
    });
    let mut fates = Vec::new();
    for response in responses {
        fates.push(fate(conversation.platform, response).await);
    }
    speaker.await.unwrap();
    drop(send);
    let _ = connection.await.unwrap();
    drained.await.unwrap();
    fates
}

async fn fate(platform: Platform, response: h2::client::ResponseFuture) -> Vec<Fate> {
    let response = match response.await {
        Ok(response) => response,
        Err(error) if error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM) => {
            return vec![Fate::Unprocessed];
        }
        // Above the last stream, or not answered by the end: h2 says the same of both.
        Err(error) if error.is_go_away() => return vec![Fate::Unprocessed, Fate::Unanswered],
        Err(_) => return vec![Fate::Unanswered],
    };
    let (head, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
        bytes.extend_from_slice(&piece);
    }
    let status = head.status.as_u16();
    let retry_after = if status == 200 { None } else { wait(&head.headers) };
    let kept = if bytes.len() > answer::body_bytes_max(platform) { &[][..] } else { &bytes };
    let answer = answer::read(platform, status, kept, retry_after);
    // Of a body that is too long nobody reads a reason.
    vec![Fate::Answer(if kept.len() < bytes.len() {
        Answer { reason: Reason::None, ..answer }
    } else {
        answer
    })]
}

fn wait(headers: &http::HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let date = |name| -> Option<SystemTime> { httpdate::parse_http_date(text(name)?).ok() };
    let seconds = text("retry-after")?.parse().ok().map(Duration::from_secs);
    let wait = seconds
        .or_else(|| Some(date("retry-after")?.duration_since(date("date")?).unwrap_or_default()))?;
    Some(wait.min(RETRY_AFTER_MAX))
}
