//! Finds out whether the kernel and the machine have what a test needs.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::skipped;

/// Whether the kernel has these filesystems and the machine these programs. If not, the test is reported as skipped.
pub(crate) fn has(filesystems: &[&str], programs: &[&str]) -> bool {
    if let Some(missing) = filesystems.iter().find(|name| !kernel_has(name)) {
        skipped(&format!("this kernel has no {missing}"));
        return false;
    }
    if let Some(missing) = programs.iter().find(|name| !is_installed(name)) {
        skipped(&format!("{missing} is not installed"));
        return false;
    }
    true
}

/// Whether the kernel has a filesystem, built in or as a module.
fn kernel_has(name: &str) -> bool {
    let is_registered = || {
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        known.lines().any(|line| line.split('\t').nth(1) == Some(name))
    };
    is_registered() || (load_module(name) && is_registered())
}

/// Loads a module of the kernel. Returns whether it is there.
pub(crate) fn load_module(name: &str) -> bool {
    let done = Command::new("modprobe").arg("-q").arg(name).stdin(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

fn is_installed(name: &str) -> bool {
    let dirs = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    dirs.iter().any(|dir| Path::new(dir).join(name).is_file())
}
