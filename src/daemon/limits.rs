//! Resource limits, umask and capabilities of the daemon: those inherited from a shell must not restrict the mount's
//! clients.

use crate::error::errno_field;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// Sets them for this thread and the threads that it starts.
pub(super) fn apply() {
    crate::sys::memory::use_single_arena();
    // With CAP_SYS_RESOURCE the daemon may raise its hard limit up to fs.nr_open.
    if let Some(max) = max_open_files() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(max), maximum: Some(max) });
    }
    let files = getrlimit(Resource::Nofile);
    report(
        "the limit of open files",
        setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum }),
    );
    // The `ulimit -f` of the shell that mounted would limit the size of files that clients write.
    let unlimited = Rlimit { current: None, maximum: None };
    let size = getrlimit(Resource::Fsize);
    report(
        "the limit of file sizes",
        setrlimit(Resource::Fsize, unlimited).or_else(|_| {
            setrlimit(Resource::Fsize, Rlimit { current: size.maximum, maximum: size.maximum })
        }),
    );
    // Requests carry the umask of their caller; the daemon's must not apply.
    umask(rustix::fs::Mode::empty());
    report("the capability to exceed quotas (CAP_SYS_RESOURCE)", drop_quota_override());
}

/// The largest possible limit of open files per process (fs.nr_open, proc_sys_fs(5)).
fn max_open_files() -> Option<u64> {
    std::fs::read_to_string("/proc/sys/fs/nr_open").ok()?.trim().parse().ok()
}

/// Drops CAP_SYS_RESOURCE, with which filesystems ignore quotas and grant their reserved blocks (capabilities(7)).
fn drop_quota_override() -> rustix::io::Result<()> {
    let mut sets = capabilities(None)?;
    if !sets.permitted.contains(CapabilitySet::SYS_RESOURCE) {
        return Ok(());
    }
    sets.effective.remove(CapabilitySet::SYS_RESOURCE);
    sets.permitted.remove(CapabilitySet::SYS_RESOURCE);
    sets.inheritable.remove(CapabilitySet::SYS_RESOURCE);
    set_capabilities(None, sets)
}

fn report(what: &str, result: rustix::io::Result<()>) {
    if let Err(e) = result {
        log::warn!("cannot change {what}: {}", errno_field(e));
    }
}
