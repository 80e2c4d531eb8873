//! Entries of fstab(5) for shiftbind and bindfs mounts, and the command line that mount(8) makes of them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::sys::mountinfo::unescape;

/// An entry of fstab(5) that mounts shiftbind or bindfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FstabEntry {
    /// The name that mount(8) or mount.fuse3(8) calls this program by.
    program: &'static str,
    pub(super) source: PathBuf,
    pub(super) mountpoint: PathBuf,
    options: Vec<u8>,
}

impl FstabEntry {
    /// Parses the entries for this program, and skips all other lines.
    pub(super) fn all(text: &[u8]) -> impl Iterator<Item = Self> {
        text.split(|byte| *byte == b'\n').filter_map(Self::parse)
    }

    /// Parses `SOURCE MOUNTPOINT TYPE OPTIONS [DUMP [PASS]]`.
    fn parse(line: &[u8]) -> Option<Self> {
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let mut fields = line.split(blank).filter(|field| !field.is_empty());
        let source = fields.next().filter(|first| !first.starts_with(b"#"))?;
        let source = unescape(source);
        let mountpoint = unescape(fields.next()?);
        let fs_type = unescape(fields.next()?);
        let options = fields.next().map(unescape).unwrap_or_default();
        let (program, source) = match fs_type.as_slice() {
            b"fuse.shiftbind" | b"shiftbind" => ("mount.shiftbind", source),
            b"bindfs" => ("mount.bindfs", source),
            b"fuse.bindfs" => ("bindfs", source),
            b"fuse" => {
                let named = |name: &'static str| {
                    let source = source.strip_prefix(name.as_bytes())?.strip_prefix(b"#")?;
                    Some((name, source.to_vec()))
                };
                named("shiftbind").or_else(|| named("bindfs"))?
            }
            _ => return None,
        };
        Some(Self { program, source: path(source), mountpoint: path(mountpoint), options })
    }

    /// Whether the entry is for `mountpoint`, which is absolute and has no symbolic links.
    pub(super) fn is_mounted_at(&self, mountpoint: &Path) -> bool {
        self.mountpoint == mountpoint
            || fs::canonicalize(&self.mountpoint).is_ok_and(|own| own == mountpoint)
    }

    /// The argument vector that mount(8) would pass for this entry.
    ///
    /// mount(8) puts `rw` first, and adds `noexec,nosuid,nodev` or `nosuid,nodev` for the options `user`, `users`,
    /// `owner` and `group` (mount(8)). mount.fuse3(8) adds `suid,dev` when root mounts (`is_root`).
    pub(super) fn argv(&self, is_root: bool) -> Vec<OsString> {
        let has = |name: &str| {
            let mut list = self.options.split(|byte| *byte == b',');
            list.any(|option| {
                option == name.as_bytes() || option.starts_with(&[name.as_bytes(), b"="].concat())
            })
        };
        let mut list: Vec<&[u8]> = vec![b"rw"];
        if has("user") || has("users") {
            list.push(b"noexec,nosuid,nodev");
        } else if has("owner") || has("group") {
            list.push(b"nosuid,nodev");
        } else if is_root && !self.program.starts_with("mount.") {
            list.push(b"suid,dev");
        }
        list.push(&self.options);
        let options = OsString::from_vec(list.join(&b','));
        let (source, mountpoint) = (self.source.clone(), self.mountpoint.clone());
        vec![
            self.program.into(),
            "-o".into(),
            options,
            "--".into(),
            source.into(),
            mountpoint.into(),
        ]
    }
}

fn path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(text: &str) -> Option<FstabEntry> {
        FstabEntry::all(text.as_bytes()).next()
    }

    fn options(text: &str) -> String {
        line(text).unwrap().argv(true)[2].clone().into_string().unwrap()
    }

    #[test]
    fn every_fstab_type_of_shiftbind_and_bindfs_is_recognised() {
        for (text, program) in [
            ("/a /m fuse.shiftbind ro 0 0", "mount.shiftbind"),
            ("/a /m shiftbind ro", "mount.shiftbind"),
            ("/a\t/m   fuse.bindfs\tro 0 0", "bindfs"),
            ("  /a /m bindfs ro", "mount.bindfs"),
            ("shiftbind#/a /m fuse ro", "shiftbind"),
            ("bindfs#/a /m fuse ro", "bindfs"),
        ] {
            let line = line(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((line.program, line.source), (program, PathBuf::from("/a")), "{text}");
        }
        for text in ["# /a /m shiftbind ro", "/a /m ext4 ro", "sshfs#/a /m fuse ro", "", "/a /m"] {
            assert_eq!(line(text), None, "{text}");
        }
    }

    #[test]
    fn octal_escapes_are_decoded() {
        let line = line(r"/a\040b /m\011\134n shiftbind fsname=x\054y").unwrap();
        assert_eq!(line.source, PathBuf::from("/a b"));
        assert_eq!(line.mountpoint, PathBuf::from("/m\t\\n"));
        assert_eq!(line.argv(false)[2], OsString::from(r"rw,fsname=x,y"));
    }

    #[test]
    fn fstab_options_become_those_that_mount8_passes() {
        assert_eq!(options("/a /m shiftbind nodev"), "rw,nodev");
        assert_eq!(options("/a /m fuse.bindfs nodev"), "rw,suid,dev,nodev");
        assert_eq!(options("/a /m shiftbind user,exec"), "rw,noexec,nosuid,nodev,user,exec");
        assert_eq!(options("/a /m shiftbind user=al"), "rw,noexec,nosuid,nodev,user=al");
        assert_eq!(options("/a /m shiftbind group"), "rw,nosuid,nodev,group");
        assert_eq!(options("shiftbind#/a /m fuse"), "rw,suid,dev,");
        let argv = line("-a /m shiftbind ro").unwrap().argv(false);
        assert_eq!(argv, ["mount.shiftbind", "-o", "rw,ro", "--", "-a", "/m"]);
    }

    #[test]
    fn a_mount_point_is_recognised_through_a_symbolic_link() {
        let dir = tempfile::tempdir().unwrap();
        let mountpoint = fs::canonicalize(dir.path()).unwrap();
        std::os::unix::fs::symlink(&mountpoint, mountpoint.join("link")).unwrap();
        for path in [mountpoint.display().to_string(), format!("{}/link/", mountpoint.display())] {
            assert!(
                line(&format!("/a {path} shiftbind ro")).unwrap().is_mounted_at(&mountpoint),
                "{path}"
            );
        }
        assert!(!line("/a /nowhere shiftbind ro").unwrap().is_mounted_at(&mountpoint));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(text in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = FstabEntry::all(&text).count();
        }
    }
}
