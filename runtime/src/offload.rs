//! Work that occupies a thread: computations of milliseconds, files, name resolution.
//!
//! It runs on tokio's pool of blocking threads, and the caller waits for it. Nothing else may use
//! that pool, so that every piece of work has a task that waits for its result. While such work
//! runs, a paused clock stands still: a test or a simulator sees no time pass.

use tokio::task::JoinError;

/// Runs work on a thread that may block, and returns its result.
///
/// A caller that stops waiting abandons the result; work that has begun runs to its end.
///
/// # Errors
/// The work has panicked, or the runtime shuts down.
#[allow(clippy::disallowed_methods, reason = "the only place that uses the blocking threads")]
pub async fn offload<T, W>(work: W) -> Result<T, JoinError>
where
    W: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    tokio::task::spawn_blocking(work).await
}
