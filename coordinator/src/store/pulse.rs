//! Whether the store answers: asked once a second, so that health and the end of the process do not
//! depend on callers.
//!
//! | Answer | Effect |
//! |---|---|
//! | in time | reachable |
//! | none, or a failure that may pass, for [`AWAY_AFTER`] | not reachable, until the next answer |
//! | another process writes, or the store is broken | the end: the error is returned |

use std::{future::Future, time::Duration};

use clarion_proto::time::Time;
use clarion_runtime::{repeated::Repeated, world::Clock};
use tokio::{sync::watch, time::timeout};

use super::StoreError;

/// Time without an answer after which the store is not reachable.
pub const AWAY_AFTER: Duration = Duration::from_secs(5);
/// Pause between an answer and the next question.
const EVERY: Duration = Duration::from_secs(1);
/// Time after which a question is given up and asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Asks the store until it can be used no more, and returns the error of its last answer. Sets
/// `reachable` at each change.
pub(crate) async fn follow<F>(
    ask: impl Fn() -> F,
    clock: Clock,
    reachable: &watch::Sender<bool>,
) -> StoreError
where
    F: Future<Output = Result<(), StoreError>>,
{
    let set = |now: bool| {
        reachable.send_if_modified(|told| std::mem::replace(told, now) != now);
    };
    let (mut answered, mut failures) = (clock.now(), Repeated::default());
    loop {
        let mut answer = std::pin::pin!(timeout(ANSWER_WITHIN, ask()));
        let result = tokio::select! {
            biased;
            result = &mut answer => result,
            () = clock.sleep_until(Some(answered + AWAY_AFTER)) => {
                set(false);
                answer.await
            }
        };
        let now = clock.now();
        let reason = match result {
            Ok(Ok(())) => {
                (answered, failures) = (now, Repeated::default());
                set(true);
                None
            }
            Ok(Err(error)) if error.ends_process() => return error,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer for {} s", ANSWER_WITHIN.as_secs())),
        };
        if let Some(reason) = reason
            && let Some(times) = failures.note(&reason, now.since(Time(0)))
        {
            tracing::warn!(reason, times, "store does not answer; asking again");
        }
        let pause = match now.since(answered) {
            // The change comes at its time, not at the next question.
            since if since < AWAY_AFTER => EVERY.min(AWAY_AFTER - since),
            _ => {
                set(false);
                EVERY
            }
        };
        clock.sleep_until(Some(now + pause)).await;
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests have tasks of their own")]
mod tests {
    use std::sync::Arc;

    use clarion_proto::ids::Epoch;
    use parking_lot::Mutex;

    use super::*;

    /// A store that answers as it is told; `None`: not at all.
    type Script = Arc<Mutex<Option<Result<(), StoreError>>>>;

    fn away() -> StoreError {
        StoreError::Away("no route to it".to_owned())
    }

    /// Follows a store, and returns what it is told through and what it tells.
    fn followed() -> (Script, watch::Receiver<bool>, tokio::task::JoinHandle<StoreError>) {
        let script: Script = Arc::new(Mutex::new(Some(Ok(()))));
        let (told, heard) = watch::channel(true);
        let asked = Arc::clone(&script);
        let ask = move || {
            let answer = asked.lock().clone();
            async move {
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            }
        };
        let clock = Clock::start();
        let following = tokio::spawn(async move { follow(ask, clock, &told).await });
        (script, heard, following)
    }

    async fn pass(seconds: f64) {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_is_away_after_five_seconds_and_back_with_its_first_answer() {
        for silence in [None, Some(Err(away()))] {
            let (script, mut heard, following) = followed();
            pass(10.5).await;
            *script.lock() = silence.clone();
            pass(4.0).await;
            assert!(
                *heard.borrow_and_update(),
                "{silence:?}: a short failure is nobody's business"
            );
            pass(1.5).await;
            assert!(!*heard.borrow_and_update(), "{silence:?}");
            *script.lock() = Some(Ok(()));
            // A question without an answer is asked again after its deadline.
            pass(if silence.is_none() { 30.0 } else { 1.5 }).await;
            assert!(*heard.borrow_and_update(), "{silence:?}");
            pass(100.0).await;
            assert!(!heard.has_changed().expect("it goes on"));
            following.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_of_another_process_ends_it() {
        let (script, heard, following) = followed();
        let taken = StoreError::TakenOver { stored: Epoch(3), epoch: Epoch(2) };
        *script.lock() = Some(Err(taken.clone()));
        assert_eq!(following.await.expect("no panic"), taken);
        drop(heard);
    }
}
