//! Runs blocking operations on threads of their own, so that workers never block.

use crate::error::errno_field;

/// Runs a blocking operation on a new thread. Returns whether the thread was started.
///
/// Otherwise `run` is dropped, together with any reply that it owns, which then answers with EIO.
pub fn spawn_blocking(run: impl FnOnce() + Send + 'static) -> bool {
    let thread = std::thread::Builder::new().name("blocking-op".into()).stack_size(256 * 1024);
    let started = thread.spawn(run);
    started
        .map_err(|e| {
            log::warn!("cannot start a thread for a blocking operation: {}", errno_field(e))
        })
        .is_ok()
}
