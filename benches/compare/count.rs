//! Counts the requests that a FUSE daemon receives, by opcode, and the system calls that it makes, by name.
//!
//! The counts come from the kernel's trace points where tracefs is available: exact, except for FORGET, which has no
//! trace point. Otherwise the daemon's `syscr` in /proc/PID/io stands for the requests (approximate: any read(2)
//! counts).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};

use crate::syscalls;

const TRACEFS: &str = "/sys/kernel/tracing";
/// The size per processor, enough for about 300,000 events.
const BUFFER_KIB: u32 = 24 << 10;
/// The kernel sends RELEASE after close(2) has returned; counting starts and ends this much later.
const RELEASE_DELAY: Duration = Duration::from_millis(50);

/// Counts by name.
pub type Tally = BTreeMap<String, u64>;

/// The counts of one sample.
#[derive(Debug, Clone)]
pub struct Counts {
    /// The sample's operations.
    pub operations: u64,
    /// Requests by opcode; a single entry `read` when approximate.
    pub requests: Tally,
    /// The daemon's system calls by name; empty when approximate.
    pub syscalls: Tally,
    /// Whether events were lost or trace points are missing.
    pub approximate: bool,
}

impl Counts {
    /// Requests per operation.
    pub fn requests_per_operation(&self) -> f64 {
        per(self.requests.values().sum(), self.operations)
    }
}

/// A count per operation.
pub fn per(count: u64, operations: u64) -> f64 {
    count as f64 / operations.max(1) as f64
}

/// Counts requests and system calls of one daemon.
pub struct Counter {
    daemon: u32,
    /// The mount's device number, which is the FUSE connection's number.
    device: u64,
    trace: Option<Trace>,
    reads_before: Cell<u64>,
}

impl Counter {
    /// A counter for the daemon that serves the mount with this device number. Without trace points it counts
    /// approximately.
    pub fn new(daemon: u32, device: u64) -> Self {
        let trace = Trace::new()
            .inspect_err(|error| eprintln!("compare: no trace points ({error}): counting reads"))
            .ok();
        Self { daemon, device, trace, reads_before: Cell::new(0) }
    }

    /// Starts counting.
    pub fn start(&self) -> io::Result<()> {
        thread::sleep(RELEASE_DELAY);
        if let Some(trace) = &self.trace {
            return trace.start(self.daemon, self.device);
        }
        self.reads_before.set(reads(self.daemon)?);
        Ok(())
    }

    /// Stops counting and returns the counts.
    pub fn stop(&self, operations: u64) -> io::Result<Counts> {
        thread::sleep(RELEASE_DELAY);
        if let Some(trace) = &self.trace {
            return trace.stop(operations);
        }
        let reads = reads(self.daemon)? - self.reads_before.get();
        let requests = Tally::from([("read".to_owned(), reads)]);
        Ok(Counts { operations, requests, syscalls: Tally::new(), approximate: true })
    }
}

/// The read system calls of a process (`syscr`).
fn reads(process: u32) -> io::Result<u64> {
    fs::read_to_string(format!("/proc/{process}/io"))?
        .lines()
        .find_map(|line| line.strip_prefix("syscr: ")?.parse().ok())
        .ok_or_else(|| io::Error::other("no syscr in /proc/PID/io"))
}

/// A trace buffer (an instance of tracefs) of this process; removed when dropped.
struct Trace {
    instance: PathBuf,
}

/// The prefix of the buffers' names; this process's id follows.
const PREFIX: &str = "shiftbind-compare-";
const REQUESTS: &str = "events/fuse/fuse_request_send";
const SYSCALLS: &str = "events/raw_syscalls/sys_enter";

impl Trace {
    fn new() -> io::Result<Self> {
        if !Path::new(TRACEFS).join("instances").exists() {
            mount("tracefs", TRACEFS, "tracefs", MountFlags::empty(), None)?;
        }
        let instances = Path::new(TRACEFS).join("instances");
        // A killed run leaves its buffer, which occupies kernel memory.
        for left in fs::read_dir(&instances)?.flatten() {
            let name = left.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix(PREFIX);
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                fs::remove_dir(left.path())?;
            }
        }
        let instance = instances.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&instance)?;
        let trace = Self { instance };
        trace.set("tracing_on", "0")?;
        trace.set("buffer_size_kb", &BUFFER_KIB.to_string())?;
        trace.set(&format!("{REQUESTS}/enable"), "0")?;
        trace.set(&format!("{SYSCALLS}/enable"), "0")?;
        Ok(trace)
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.instance.join(file), value)
    }

    fn start(&self, daemon: u32, device: u64) -> io::Result<()> {
        // The kernel's encoding of a device number (`MKDEV`), which the trace point prints.
        let connection =
            (u64::from(rustix::fs::major(device)) << 20) | u64::from(rustix::fs::minor(device));
        let threads: Vec<String> = fs::read_dir(format!("/proc/{daemon}/task"))?
            .flatten()
            .map(|task| format!("common_pid == {}", task.file_name().to_string_lossy()))
            .collect();
        self.set(&format!("{REQUESTS}/filter"), &format!("connection == {connection}"))?;
        self.set(&format!("{SYSCALLS}/filter"), &threads.join(" || "))?;
        self.set(&format!("{REQUESTS}/enable"), "1")?;
        self.set(&format!("{SYSCALLS}/enable"), "1")?;
        // Opening the file with O_TRUNC empties the buffer.
        self.set("trace", "")?;
        self.set("tracing_on", "1")
    }

    fn stop(&self, operations: u64) -> io::Result<Counts> {
        self.set("tracing_on", "0")?;
        self.set(&format!("{REQUESTS}/enable"), "0")?;
        self.set(&format!("{SYSCALLS}/enable"), "0")?;
        let mut counts = Counts {
            operations,
            requests: Tally::new(),
            syscalls: Tally::new(),
            approximate: self.lost()?,
        };
        for line in BufReader::new(File::open(self.instance.join("trace"))?).lines() {
            let line = line?;
            if let Some(name) = request(&line) {
                *counts.requests.entry(name.to_owned()).or_default() += 1;
            } else if let Some(number) = system_call(&line) {
                *counts.syscalls.entry(syscalls::name(number)).or_default() += 1;
            }
        }
        self.set("trace", "")?;
        Ok(counts)
    }

    /// Whether the buffer overflowed.
    fn lost(&self) -> io::Result<bool> {
        for processor in fs::read_dir(self.instance.join("per_cpu"))? {
            let stats = fs::read_to_string(processor?.path().join("stats"))?;
            let overrun = stats.lines().find_map(|line| line.strip_prefix("overrun: "));
            if overrun.is_some_and(|count| count.trim() != "0") {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.instance) {
            eprintln!("compare: cannot remove {}: {error}", self.instance.display());
        }
    }
}

/// The opcode in `… fuse_request_send: connection 42 req 6 opcode 1 (FUSE_LOOKUP) len 48`.
fn request(line: &str) -> Option<&str> {
    let (_, event) = line.split_once(" fuse_request_send: ")?;
    let (_, named) = event.split_once('(')?;
    let (name, _) = named.split_once(')')?;
    Some(name.strip_prefix("FUSE_").unwrap_or(name))
}

/// The number in `… sys_enter: NR 262 (7, …)`.
fn system_call(line: &str) -> Option<i64> {
    let (_, event) = line.split_once(" sys_enter: NR ")?;
    event.split(' ').next()?.parse().ok()
}
