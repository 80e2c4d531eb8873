//! What has to wait for somebody, in a thread of its own, so that no worker does.

/// Runs it there. Where no thread can be had it is dropped, with whatever answer it was to give: that answers with EIO.
pub fn beside(run: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name("waiter".into()).stack_size(256 * 1024);
    if let Err(e) = thread.spawn(run) {
        log::warn!("no thread to wait in: {e}");
    }
}
