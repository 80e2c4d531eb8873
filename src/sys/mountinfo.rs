//! The mount table (proc_pid_mountinfo(5)).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};

/// A line of /proc/self/mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// The mount id.
    pub id: u64,
    /// The id of the mount that this one is mounted on.
    pub parent: u64,
    /// Major and minor number of the filesystem's device.
    pub device: (u32, u32),
    /// The directory of the filesystem that is mounted.
    pub root: Vec<u8>,
    /// The mount point, as a path from this process's root.
    pub mountpoint: Vec<u8>,
    /// Options of the mount, not of the filesystem, separated by commas.
    pub options: Vec<u8>,
    /// The filesystem type.
    pub fs_type: Vec<u8>,
    /// The source column.
    pub source: Vec<u8>,
    /// Options of the filesystem, separated by commas.
    pub super_options: Vec<u8>,
    /// Whether what is mounted on it arrives in other mount namespaces as well (`shared:N`, mount_namespaces(7)).
    pub is_shared: bool,
}

impl MountInfo {
    /// Parses `36 35 98:0 /root /mnt\040point options [optional fields] - type source superoptions`.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let (id, parent) = (number(fields.next()?)?, number(fields.next()?)?);
        let device = fields.next()?;
        let colon = device.iter().position(|byte| *byte == b':')?;
        let device = (
            number(&device[..colon])?.try_into().ok()?,
            number(&device[colon + 1..])?.try_into().ok()?,
        );
        let (root, mountpoint) = (unescape(fields.next()?), unescape(fields.next()?));
        let options = fields.next()?.to_vec();
        // A dash ends the optional fields.
        let optional: Vec<&[u8]> = fields.by_ref().take_while(|field| *field != b"-").collect();
        let is_shared = optional.iter().any(|field| field.starts_with(b"shared:"));
        let fs_type = unescape(fields.next()?);
        let source = unescape(fields.next().unwrap_or_default());
        let super_options = fields.next().unwrap_or_default().to_vec();
        Some(Self {
            id,
            parent,
            device,
            root,
            mountpoint,
            options,
            fs_type,
            source,
            super_options,
            is_shared,
        })
    }

    /// Whether the filesystem has an option.
    #[must_use]
    pub fn has_super_option(&self, option: &str) -> bool {
        self.super_options.split(|byte| *byte == b',').any(|word| word == option.as_bytes())
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Reads the mounts of this process's mount namespace. Lines that cannot be parsed are left out.
pub fn read() -> io::Result<Vec<MountInfo>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// Reads an open mount table from its start. It is that of the mount namespace in which it was opened.
pub fn read_open(mut table: &File) -> io::Result<Vec<MountInfo>> {
    let mut text = Vec::new();
    table.rewind()?;
    table.read_to_end(&mut text)?;
    Ok(parse(&text))
}

/// Parses a mount table. Lines that cannot be parsed are left out.
#[must_use]
pub fn parse(table: &[u8]) -> Vec<MountInfo> {
    table.split(|byte| *byte == b'\n').filter_map(MountInfo::parse).collect()
}

/// The mount points in the filesystem with this device, as paths from the filesystem's root.
///
/// Only mounts in this process's mount namespace are found.
pub fn mountpoints_in(device: (u32, u32)) -> io::Result<Vec<Vec<u8>>> {
    Ok(nested_mountpoints(&read()?, device))
}

fn nested_mountpoints(table: &[MountInfo], device: (u32, u32)) -> Vec<Vec<u8>> {
    let below = |mount: &MountInfo| {
        let upper = table.iter().find(|it| it.device == device && it.id == mount.parent)?;
        let below = mount.mountpoint.strip_prefix(&upper.mountpoint[..])?;
        Some([&upper.root[..], b"/", below].concat())
    };
    table.iter().filter_map(below).collect()
}

/// The type of the filesystem with this device. `None` if it is not mounted in this process's mount namespace.
pub fn fs_type_of(device: (u32, u32)) -> io::Result<Option<Vec<u8>>> {
    Ok(read()?.into_iter().find(|mount| mount.device == device).map(|mount| mount.fs_type))
}

/// Lists the mounts below a path in the mount with this id, and those below them, also where another mount covers them.
pub fn mounts_below(id: u64, path: &[u8]) -> io::Result<Vec<MountInfo>> {
    Ok(find_mounts_below(read()?, id, path))
}

/// As [`mounts_below`], in a mount table that was read before.
#[must_use]
pub fn find_mounts_below(table: Vec<MountInfo>, id: u64, path: &[u8]) -> Vec<MountInfo> {
    let mut children: HashMap<u64, Vec<MountInfo>> = HashMap::new();
    for mount in table {
        children.entry(mount.parent).or_default().push(mount);
    }
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let mut next = children.remove(&id).unwrap_or_default();
    next.retain(|it| it.mountpoint.strip_prefix(path).is_some_and(|rest| rest.starts_with(b"/")));
    let mut found = Vec::new();
    while let Some(mount) = next.pop() {
        next.extend(children.remove(&mount.id).unwrap_or_default());
        found.push(mount);
    }
    found.sort_by(|one, other| one.mountpoint.cmp(&other.mountpoint));
    found
}

/// Decodes the octal escapes of fstab(5) and /proc/self/mountinfo for blanks, line ends and backslashes (getmntent(3)).
///
/// A backslash that begins no escape is kept.
pub fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_by_their_path_in_a_filesystem() {
        let table = br"20 1 8:1 / / rw - ext4 /dev/x rw
30 20 0:50 / /m\040n rw - fuse.shiftbind /s rw
31 30 0:51 / /m\040n/a/b rw - tmpfs t rw
32 20 0:50 /a /bound rw - fuse.shiftbind /s rw
33 32 0:51 / /bound/c rw - tmpfs t rw
34 20 0:51 / /other rw - tmpfs t rw";
        assert_eq!(nested_mountpoints(&parse(table), (0, 50)), [&b"///a/b"[..], b"/a//c"]);
        let below = find_mounts_below(parse(table), 20, b"/m\x20n");
        assert!(below.is_empty(), "its own place is not below it: {below:?}");
        let below = find_mounts_below(parse(table), 20, b"/");
        let at: Vec<&[u8]> = below.iter().map(|mount| &mount.mountpoint[..]).collect();
        let expected: [&[u8]; 5] = [b"/bound", b"/bound/c", b"/m n", b"/m n/a/b", b"/other"];
        assert_eq!(at, expected);
        assert_eq!(
            (&below[0].options[..], &below[0].fs_type[..]),
            (&b"rw"[..], &b"fuse.shiftbind"[..])
        );
        assert_eq!(find_mounts_below(parse(table), 20, b"/bound").len(), 0);
        assert_eq!(find_mounts_below(parse(table), 32, b"/bound").len(), 1);
        assert!(nested_mountpoints(&[], (0, 50)).is_empty());
    }

    #[test]
    fn a_line_of_the_mount_table_is_read() {
        let line = br"36 35 0:98 / /mnt/a\040b\012c\134d rw,nosuid shared:1 master:2 - fuse.shiftbind /a,b rw,dirsync";
        let expected = MountInfo {
            id: 36,
            parent: 35,
            device: (0, 98),
            root: b"/".to_vec(),
            mountpoint: b"/mnt/a b\nc\\d".to_vec(),
            options: b"rw,nosuid".to_vec(),
            fs_type: b"fuse.shiftbind".to_vec(),
            source: b"/a,b".to_vec(),
            super_options: b"rw,dirsync".to_vec(),
            is_shared: true,
        };
        assert_eq!(parse(line), [expected]);
        let slave = br"36 35 0:98 / /mnt rw master:2 - ext4 /dev/x rw";
        assert!(parse(slave).iter().all(|it| !it.is_shared && it.fs_type == b"ext4"));
    }

    #[test]
    fn a_broken_line_is_skipped() {
        for line in [&b""[..], b"x", b"36 35", b"36 35 98 / /mnt", b"36 35 0:x / /mnt"] {
            assert_eq!(parse(line), []);
        }
    }

    #[test]
    fn a_backslash_that_starts_no_escape_stays() {
        assert_eq!(unescape(br"a\b\0"), br"a\b\0");
    }
}
