//! Finds descriptors that a child process would inherit. Tests run as threads of one process, and the daemons that
//! they start live as long as a test: a descriptor without FD_CLOEXEC goes into the daemon of a concurrent test and
//! keeps its file busy (umount(2): EBUSY), locked or open for writing (execve(2): ETXTBSY).

use std::fs;

/// O_CLOEXEC as the line `flags:` of /proc/PID/fdinfo/N shows it.
const CLOEXEC: u32 = libc::O_CLOEXEC as u32;

/// The descriptors above standard error that children of the process inherit, as `NUMBER -> TARGET`. It leaves out
/// those that the process inherited itself: its own parent has the same target open under the same number.
pub(crate) fn inheritable(process: u32) -> Vec<String> {
    let parent = parent(process);
    let entries = fs::read_dir(format!("/proc/{process}/fdinfo")).expect("the process runs");
    let mut found = Vec::new();
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let is_standard = matches!(name.as_str(), "0" | "1" | "2");
        // A descriptor that was closed since the directory was read has no flags.
        let Ok(info) = fs::read_to_string(format!("/proc/{process}/fdinfo/{name}")) else {
            continue;
        };
        if is_standard || flags(&info).is_none_or(|flags| flags & CLOEXEC != 0) {
            continue;
        }
        let target = |process| fs::read_link(format!("/proc/{process}/fd/{name}")).ok();
        let Some(held) = target(process) else { continue };
        if parent.and_then(target).as_ref() != Some(&held) {
            found.push(format!("{name} -> {}", held.display()));
        }
    }
    found
}

fn flags(info: &str) -> Option<u32> {
    let octal = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    u32::from_str_radix(octal.trim(), 8).ok()
}

fn parent(process: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}
