//! What a process may still write after another process has taken its alert over.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_superseded_process_records_a_cancel_and_no_end() {
    let (store, clock) = store().await;
    let former = Process::serving(&store, clock).await;
    let alert = created(&store).await;
    former.reconciler.hand_over(Arc::clone(&alert), bands(&alert).await);
    let next = Process::over(&store, clock);
    assert_eq!(next.starts().await.plan.epoch, Epoch(2));

    // The former process has lost its nodes: for it, none sends any more, and it has not heard of
    // the other process yet, whose nodes do send.
    let reason = "found".to_owned();
    let cancelling = former.reconciler.record(&alert.name, Event::Cancel { reason }).await;
    assert_eq!(cancelling.expect("any process may").state, State::Cancelling);
    let end = || Event::End(State::Cancelled);
    for heard in [false, true] {
        if heard {
            former.starts().await.superseded.cancel();
            former.reconciler.all_ended().await;
        }
        let refused = former.reconciler.record(&alert.name, end()).await;
        assert!(matches!(refused, Err(StoreError::Superseded { .. })), "{heard} {refused:?}");
        assert_eq!(read(&store).await.state, State::Cancelling);
    }
    let ended = next.reconciler.record(&alert.name, end()).await.expect("its own run");
    assert_eq!(ended.state, State::Cancelled);
}
