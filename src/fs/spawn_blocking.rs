//! What has to wait for somebody, in a thread of its own, so that no worker does.

/// Runs it there. Where no thread can be had it is dropped, with whatever answer it was to give, which answers with EIO;
/// and this is false.
pub fn spawn_blocking(run: impl FnOnce() + Send + 'static) -> bool {
    let thread = std::thread::Builder::new().name("blocking-op".into()).stack_size(256 * 1024);
    let started = thread.spawn(run);
    if let Err(e) = &started {
        log::warn!("no thread to wait in: {e}");
    }
    started.is_ok()
}
