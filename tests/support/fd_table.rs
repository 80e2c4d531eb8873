//! Descriptor tables of threads, each of which is a lock owner of its own (fcntl(2)).
//!
//! The owner of a POSIX lock is a descriptor table. Threads of the test process that have called unshare(CLONE_FILES)
//! thus take locks as another process does, and the test passes them closures to run through channels.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use super::sys;

type Job = Box<dyn FnOnce() + Send>;

/// The threads of one descriptor table.
///
/// When it is dropped the threads end, and the kernel closes all files of the table, as when a process exits.
pub(crate) struct FdTable {
    threads: Vec<Worker>,
}

struct Worker {
    id: i32,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread that runs `first` and then the jobs that it is sent.
    fn start(first: impl FnOnce() + Send + 'static) -> Self {
        let (jobs, todo) = channel::<Job>();
        let (started, id) = channel();
        let thread = thread::spawn(move || {
            first();
            started.send(rustix::thread::gettid().as_raw_pid()).expect("send the id");
            todo.iter().for_each(|job| job());
        });
        Self { id: id.recv().expect("a thread"), jobs: Some(jobs), thread: Some(thread) }
    }

    fn send<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
        let (done, result) = channel();
        let job = move || drop(done.send(job()));
        self.jobs
            .as_ref()
            .expect("the thread runs")
            .send(Box::new(job))
            .expect("the thread takes jobs");
        result
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl FdTable {
    /// Makes an empty table with this number of threads.
    pub(crate) fn new(threads: usize) -> Self {
        Self::start(threads, || {
            sys::unshare_files();
            sys::close_from(3);
        })
    }

    fn start(threads: usize, first: impl FnOnce() + Send + 'static) -> Self {
        let leader = Worker::start(first);
        // The leader starts them, so that they share its table.
        let others = leader.send(move || (1..threads).map(|_| Worker::start(|| ())).collect());
        let others: Vec<_> = others.recv().expect("threads");
        Self { threads: std::iter::once(leader).chain(others).collect() }
    }

    /// Makes a copy of the table, as fork(2) does for a child.
    pub(crate) fn fork(&self, threads: usize) -> Self {
        let start = move || Self::start(threads, sys::unshare_files);
        self.threads[0].send(start).recv().expect("a copy")
    }

    /// Runs a job on one thread of the table. The result comes through the returned channel.
    pub(crate) fn send<T: Send + 'static>(
        &self,
        thread: usize,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Receiver<T> {
        self.threads[thread].send(job)
    }

    /// Runs a job on the first thread, and returns its result.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.send(0, job).recv().expect("a result")
    }

    /// Sends a signal to one thread.
    pub(crate) fn signal(&self, thread: usize, signal: i32) {
        sys::signal_thread(self.threads[thread].id, signal);
    }

    /// Opens a file in the table.
    pub(crate) fn open(&self, path: &Path, flags: i32) -> io::Result<i32> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        self.run(move || sys::open_raw(&path, flags))
    }

    /// dup(2).
    pub(crate) fn dup(&self, fd: i32) -> io::Result<i32> {
        self.run(move || sys::dup_raw(fd))
    }

    /// close(2).
    pub(crate) fn close(&self, fd: i32) -> io::Result<()> {
        self.run(move || sys::close_raw(fd))
    }
}
