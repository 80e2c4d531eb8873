//! Resource limits, memory and privileges of the daemon: what it inherited from a shell must not become a limit of the
//! mount.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// Settles them for this thread and all that it will start.
pub(super) fn apply() {
    crate::sys::memory::use_single_arena();
    // A privileged process may go beyond its hard limit, as far as the system goes.
    if let Some(max) = max_open_files() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(max), maximum: Some(max) });
    }
    let files = getrlimit(Resource::Nofile);
    report(
        "the limit of open files",
        setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum }),
    );
    // `ulimit -f` of the shell that mounted would cut the files that others write.
    let unlimited = Rlimit { current: None, maximum: None };
    let size = getrlimit(Resource::Fsize);
    report(
        "the limit of file sizes",
        setrlimit(Resource::Fsize, unlimited).or_else(|_| {
            setrlimit(Resource::Fsize, Rlimit { current: size.maximum, maximum: size.maximum })
        }),
    );
    // The callers' umasks count, not ours.
    umask(rustix::fs::Mode::empty());
    report("the capability to exceed quotas (CAP_SYS_RESOURCE)", drop_quota_override());
}

/// How many files a process may have open at the very most (proc_sys_fs(5), nr_open).
fn max_open_files() -> Option<u64> {
    std::fs::read_to_string("/proc/sys/fs/nr_open").ok()?.trim().parse().ok()
}

/// With CAP_SYS_RESOURCE a filesystem lets one exceed quotas and use its reserved blocks: callers must not gain that.
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
        log::warn!("cannot change {what}: {e}");
    }
}
