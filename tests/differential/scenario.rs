//! The maps under test, and the tree of files that every case starts from.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use rustix::fs::{FileType, Mode, XattrFlags};

use crate::value::Value;

/// An owner's uid and gid, as stored on the source and as shown at the mount.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) source: (u32, u32),
    pub(crate) mount: (u32, u32),
}

/// A map, and the ids that the cases use with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// `(source, mount, count)`
    pub(crate) uids: &'static [(u32, u32, u32)],
    pub(crate) gids: &'static [(u32, u32, u32)],
    /// Two mapped owners.
    pub(crate) a: Owner,
    pub(crate) b: Owner,
    /// An owner on the source whose ids have no counterpart at the mount.
    pub(crate) unmapped_owner: (u32, u32),
    /// A caller at the mount whose ids have no counterpart on the source.
    pub(crate) unmapped_caller: (u32, u32),
    /// The size of the user namespace of some callers, which starts at `a`'s mount ids.
    pub(crate) namespace_size: u32,
}

/// The three maps.
pub(crate) const SCENARIOS: [Scenario; 3] = [
    Scenario {
        name: "container",
        uids: &[(0, 100_000, 65_536)],
        gids: &[(0, 100_000, 65_536)],
        a: Owner { source: (0, 0), mount: (100_000, 100_000) },
        b: Owner { source: (1000, 1000), mount: (101_000, 101_000) },
        unmapped_owner: (70_000, 70_000),
        unmapped_caller: (1000, 1000),
        namespace_size: 65_536,
    },
    Scenario {
        name: "permutation",
        uids: &[
            (0, 0, 1000),
            (1000, 1002, 1),
            (1001, 1000, 1),
            (1002, 1001, 1),
            (1003, 1003, 60_000),
        ],
        gids: &[
            (0, 0, 1000),
            (1000, 1001, 1),
            (1001, 1002, 1),
            (1002, 1000, 1),
            (1003, 1003, 60_000),
        ],
        a: Owner { source: (1000, 1000), mount: (1002, 1001) },
        b: Owner { source: (1001, 1001), mount: (1000, 1002) },
        unmapped_owner: (200_000, 200_000),
        unmapped_caller: (200_000, 200_000),
        namespace_size: 1,
    },
    Scenario {
        name: "holes",
        uids: &[(1000, 2000, 10), (1020, 500, 5), (5, 3000, 1)],
        gids: &[(1000, 7000, 5), (1010, 2000, 10), (100, 100, 1)],
        a: Owner { source: (1000, 1000), mount: (2000, 7000) },
        b: Owner { source: (1021, 1012), mount: (501, 2002) },
        unmapped_owner: (1015, 1007),
        unmapped_caller: (1000, 1000),
        namespace_size: 1,
    },
];

impl Scenario {
    /// The lines of a mount's `uid_map` and `gid_map`.
    pub(crate) fn kernel_maps(&self) -> (String, String) {
        let lines = |extents: &[(u32, u32, u32)]| {
            extents.iter().fold(String::new(), |mut text, (s, m, n)| {
                let _ = writeln!(text, "{s} {m} {n}");
                text
            })
        };
        (lines(self.uids), lines(self.gids))
    }

    /// The value of `-o`.
    pub(crate) fn options(&self) -> String {
        let list = |extents: &[(u32, u32, u32)]| {
            let parts: Vec<String> =
                extents.iter().map(|(s, m, n)| format!("{s}:{m}:{n}")).collect();
            parts.join(":")
        };
        format!("uidmap={},gidmap={}", list(self.uids), list(self.gids))
    }

    /// A text with ACLs (see `act::xattr_value`) as stored on the source, with each named id as shown at the mount.
    pub(crate) fn translate_acls(&self, text: &str) -> String {
        edit_named_ids(text, |is_group, id| {
            let extents = if is_group { self.gids } else { self.uids };
            let of =
                |(source, _, count): &&(u32, u32, u32)| (*source..source + count).contains(&id);
            let extent = extents.iter().find(of);
            extent.map_or("unmapped".into(), |(source, mount, _)| (id - source + mount).to_string())
        })
    }

    /// The same map with the unmapped owner added: a wrong map, which the harness must detect.
    pub(crate) fn with_the_unmapped_owner_mapped(mut self) -> Self {
        self.uids = match self.name {
            "container" => &[(0, 100_000, 65_536), (70_000, 300_000, 1)],
            other => unreachable!("no wrong map was written for {other}"),
        };
        self
    }

    /// Creates the directory, owned by `a` and writable for all, and fills it with files of every owner.
    pub(crate) fn build_tree(&self, root: &Path) {
        let (a, b, lost) = (self.a.source, self.b.source, self.unmapped_owner);
        let file = |name: &str, owner: (u32, u32), mode: u32| {
            let path = root.join(name);
            fs::write(&path, format!("this is {name}\n")).expect("write");
            own(&path, owner, mode);
        };
        fs::create_dir(root).expect("mkdir");
        own(root, a, 0o777);
        for (name, owner, mode) in [
            ("d755", a, 0o755),
            ("d777", a, 0o777),
            ("dst", a, 0o1777),
            ("dsg", (a.0, b.1), 0o2777),
            ("dsgu", (a.0, lost.1), 0o2777),
            ("dgrp", (b.0, a.1), 0o770),
            ("dacl", a, 0o775),
            ("dun755", lost, 0o755),
            ("dun777", lost, 0o777),
        ] {
            let dir = root.join(name);
            fs::create_dir(&dir).expect("mkdir");
            file(&format!("{name}/fa"), a, 0o644);
            file(&format!("{name}/fb"), b, 0o644);
            file(&format!("{name}/fu"), lost, 0o644);
            own(&dir, owner, mode);
        }
        for (name, owner, mode) in [
            ("f644", a, 0o644),
            ("f600", a, 0o600),
            ("fb664", b, 0o664),
            ("fu600", lost, 0o600),
            ("fu644", lost, 0o644),
            ("fu666", lost, 0o666),
            ("fu777", lost, 0o777),
            ("fua664", (lost.0, a.1), 0o664),
            ("fau664", (a.0, lost.1), 0o664),
            ("froot", (0, 0), 0o644),
            ("facl", a, 0o640),
            ("fsuid", a, 0o6777),
            ("fsgid", a, 0o2767),
            ("fset", a, 0o6666),
        ] {
            file(name, owner, mode);
        }
        for (name, owner, mode) in [
            ("suid", (a.0, b.1), 0o6755),
            ("suidu", lost, 0o6755),
            ("capa", a, 0o755),
            ("cap2", b, 0o755),
        ] {
            let path = root.join(name);
            fs::copy("/bin/cat", &path).expect("copy cat");
            own(&path, owner, mode);
        }
        let link = |name: &str, owner: (u32, u32)| {
            symlink("f644", root.join(name)).expect("symlink");
            lchown(root.join(name), Some(owner.0), Some(owner.1)).expect("lchown");
        };
        link("ln", a);
        link("lnu", lost);
        fs::hard_link(root.join("fb664"), root.join("hl")).expect("link");
        let fifo = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), FileType::Fifo, fifo, 0)
            .expect("mkfifo");
        own(&root.join("fifo"), a, 0o666);

        let set = |path: &str, name: &str, value: Value| {
            let value = value.bytes(&|id, group| id.on_source(self, group));
            rustix::fs::lsetxattr(root.join(path), name, &value, XattrFlags::empty())
                .unwrap_or_else(|e| panic!("{name} on {path}: {e}"));
        };
        set("f644", "user.k", Value::Text("v"));
        set("f644", "trusted.t", Value::Text("secret"));
        set("d777", "user.k", Value::Text("dir"));
        set("fu644", "user.k", Value::Text("lost"));
        set("facl", "system.posix_acl_access", Value::NamedAndUnmapped);
        set("dacl", "system.posix_acl_default", Value::NamedAndUnmapped);
        set("dacl", "system.posix_acl_access", Value::Named);
        set("capa", "security.capability", Value::Caps3A);
        set("cap2", "security.capability", Value::Caps2);
    }
}

/// A text with ACLs whose named ids are left out.
pub(crate) fn without_named_ids(text: &str) -> String {
    edit_named_ids(&text.replace(":unmapped", ":0"), |_, _| String::new())
}

/// Replaces the ids of named users and groups, `02PPPPPP:ID` and `08PPPPPP:ID`; `edit` is told whether it is a group.
fn edit_named_ids(text: &str, edit: impl Fn(bool, u32) -> String) -> String {
    let word = |word: &str| {
        let (entry, id) = word.split_once(':').filter(|(entry, _)| entry.len() == 8)?;
        let is_group = match entry.get(..4)? {
            "0200" => false,
            "0800" => true,
            _ => return None,
        };
        Some(format!("{entry}:{}", edit(is_group, id.parse().ok()?)))
    };
    let words = text.split(' ').map(|text| word(text).unwrap_or_else(|| text.to_owned()));
    words.collect::<Vec<_>>().join(" ")
}

fn own(path: &Path, owner: (u32, u32), mode: u32) {
    chown(path, Some(owner.0), Some(owner.1)).expect("chown");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}
