//! Attributes and errors as text that can be compared.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;

/// The name of an error number.
pub(crate) fn name(raw: i32) -> String {
    let errno = Errno::from_raw_os_error(raw);
    let known = [
        (Errno::PERM, "EPERM"),
        (Errno::ACCESS, "EACCES"),
        (Errno::NOENT, "ENOENT"),
        (Errno::EXIST, "EEXIST"),
        (Errno::NOTEMPTY, "ENOTEMPTY"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::NODATA, "ENODATA"),
        (Errno::INVAL, "EINVAL"),
        (Errno::ROFS, "EROFS"),
        (Errno::IO, "EIO"),
        (Errno::OVERFLOW, "EOVERFLOW"),
        (Errno::ISDIR, "EISDIR"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::AGAIN, "EAGAIN"),
        (Errno::NOTTY, "ENOTTY"),
        (Errno::NODEV, "ENODEV"),
        (Errno::NOSYS, "ENOSYS"),
        (Errno::LOOP, "ELOOP"),
    ];
    let found = known.iter().find(|(known, _)| *known == errno);
    found.map_or_else(|| format!("errno {raw}"), |(_, name)| (*name).to_owned())
}

/// Type, mode, owner, links, size, device and modification time; or the error.
pub(crate) fn stat(path: &Path) -> String {
    match fs::symlink_metadata(path) {
        Err(error) => name(error.raw_os_error().expect("an error of the kernel's")),
        Ok(meta) => {
            let device = meta.rdev();
            format!(
                "{:o} {}:{} links {} size {} device {:x} modified {}.{:09}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.nlink(),
                meta.size(),
                device,
                meta.mtime(),
                meta.mtime_nsec(),
            )
        }
    }
}

/// Owner and permission bits, as `stat -c %u:%g:%a`; or the error.
pub(crate) fn owner(path: &Path) -> String {
    match fs::symlink_metadata(path) {
        Err(error) => name(error.raw_os_error().expect("an error of the kernel's")),
        Ok(meta) => format!("{}:{}:{:o}", meta.uid(), meta.gid(), meta.mode() & 0o7777),
    }
}

/// Permission bits.
pub(crate) fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("stat").mode() & 0o7777
}
