//! What processes and the kernel use: memory, descriptors, threads, processor time.

use std::fs;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// What /proc counts processor time in, to the second: the same on all Linux.
const TICKS: f64 = 100.0;

/// Memory of a process that is its own, in bytes (`RssAnon` in /proc/PID/status).
pub fn anon_rss(process: u32) -> io::Result<u64> {
    kibibytes(&fs::read_to_string(format!("/proc/{process}/status"))?, "RssAnon:")
}

/// How many descriptors a process has open.
pub fn descriptors(process: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{process}/fd"))?.count())
}

/// How many threads it has.
pub fn threads(process: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{process}/task"))?.count())
}

/// Processor time that a process has used, also for system calls. With that of children that have ended, if wanted.
///
/// Exact to a hundredth of a second; unlike the time that passes it does not tell what else the machine is doing.
pub fn processor_time(process: &str, with_children: bool) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    let ticks = |number: usize| -> Option<u64> {
        // The first of these fields is the third of the file (proc_pid_stat(5)).
        fields?.split_whitespace().nth(number - 3)?.parse().ok()
    };
    let last = if with_children { 17 } else { 15 };
    let sum: Option<u64> = (14..=last).map(ticks).sum();
    let sum = sum.ok_or_else(|| io::Error::other("no processor time in /proc/PID/stat"))?;
    Ok(Duration::from_secs_f64(sum as f64 / TICKS))
}

/// What the kernel's slab allocator has for one kind of object.
#[derive(Debug, Clone, Copy, Default)]
pub struct Slab {
    /// Objects in use.
    pub objects: u64,
    /// The size of one.
    pub size: u64,
}

/// A kind of object, by its name. Kinds of one size may be counted as one by the kernel. `None` where it does not tell.
pub fn slab(kind: &str) -> Option<Slab> {
    let folder = Path::new("/sys/kernel/slab").join(kind);
    let number = |file: &str| -> Option<u64> {
        fs::read_to_string(folder.join(file)).ok()?.split_whitespace().next()?.parse().ok()
    };
    Some(Slab { objects: number("objects")?, size: number("slab_size")? })
}

/// All that the slab allocator has, in bytes.
pub fn slabs() -> io::Result<u64> {
    kibibytes(&fs::read_to_string("/proc/meminfo")?, "Slab:")
}

/// Has the kernel forget names and inodes that nobody uses, and gives daemons the time to hear of it.
pub fn drop_inodes(quick: bool) -> io::Result<()> {
    let (times, pause) = if quick { (1, 300) } else { (3, 1500) };
    for _ in 0..times {
        fs::write("/proc/sys/vm/drop_caches", "2")?;
        sleep(Duration::from_millis(pause));
    }
    Ok(())
}

fn kibibytes(text: &str, name: &str) -> io::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    Ok(number.ok_or_else(|| io::Error::other(format!("no {name}")))? << 10)
}
