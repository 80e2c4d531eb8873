//! Resources that processes and the kernel use: memory, descriptors, threads, processor time.

use std::fs;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// Clock ticks per second in /proc/PID/stat (USER_HZ, 100 on every architecture that the benchmarks run on).
const TICKS: f64 = 100.0;

/// The anonymous resident memory of a process, in bytes (`RssAnon` in /proc/PID/status).
pub fn anon_rss(process: u32) -> io::Result<u64> {
    kibibytes(&fs::read_to_string(format!("/proc/{process}/status"))?, "RssAnon:")
}

/// The number of open descriptors of a process.
pub fn descriptors(process: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{process}/fd"))?.count())
}

/// The number of threads of a process.
pub fn threads(process: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{process}/task"))?.count())
}

/// User and system time of a process; `with_children` adds that of its reaped children.
///
/// The resolution is a hundredth of a second. Unlike elapsed time it does not depend on the machine's other load.
pub fn processor_time(process: &str, with_children: bool) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    let ticks = |number: usize| -> Option<u64> {
        // The first of these fields is field 3 of the file (proc_pid_stat(5)).
        fields?.split_whitespace().nth(number - 3)?.parse().ok()
    };
    let last = if with_children { 17 } else { 15 };
    let sum: Option<u64> = (14..=last).map(ticks).sum();
    let sum = sum.ok_or_else(|| io::Error::other("no processor time in /proc/PID/stat"))?;
    Ok(Duration::from_secs_f64(sum as f64 / TICKS))
}

/// What one slab cache holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Slab {
    /// Objects in use.
    pub objects: u64,
    /// The size of one object in bytes.
    pub size: u64,
}

/// The slab cache of that name; `None` without /sys/kernel/slab. The kernel merges caches whose objects have the same
/// size.
pub fn slab(kind: &str) -> Option<Slab> {
    let folder = Path::new("/sys/kernel/slab").join(kind);
    let number = |file: &str| -> Option<u64> {
        fs::read_to_string(folder.join(file)).ok()?.split_whitespace().next()?.parse().ok()
    };
    Some(Slab { objects: number("objects")?, size: number("slab_size")? })
}

/// The memory of all slab caches, in bytes.
pub fn slabs() -> io::Result<u64> {
    kibibytes(&fs::read_to_string("/proc/meminfo")?, "Slab:")
}

/// Makes the kernel free unused dentries and inodes, and gives daemons the time to handle the FORGET requests.
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
