//! A change of owner that is refused changes nothing, and one that changes nothing is refused to a stranger where it would
//! take set bits.

mod support;

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, fchown, lchown};
use std::path::Path;

use support::{Mount, SHIFT, as_user, program, same_as_bare, sh};

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn has_capability(path: &Path) -> bool {
    rustix::fs::getxattr(path, "security.capability", &mut [0u8; 64][..]).is_ok()
}

/// A mount with a file that has a capability.
fn capable(options: &str) -> Mount {
    let mount = Mount::builder().map(SHIFT).arg(format!("-o{options}")).start();
    sh(mount.source(), "echo text > f; chmod 777 f; setcap cap_net_raw=ep f");
    assert!(has_capability(&mount.in_source("f")));
    mount
}

#[test]
fn a_chown_to_an_unmapped_id_takes_no_capability() {
    program("setcap");
    for options in ["passthrough=auto", "passthrough=off"] {
        let mount = capable(options);
        let path = mount.join("f");
        let open = OpenOptions::new().read(true).open(&path).expect("open");
        let overflow = Some(libc::EOVERFLOW);
        assert_eq!(errno(chown(&path, Some(5), None)), overflow, "chown");
        assert_eq!(errno(lchown(&path, None, Some(5))), overflow, "lchown");
        assert_eq!(errno(fchown(&open, Some(5), Some(5))), overflow, "fchown");
        assert!(has_capability(&mount.in_source("f")), "{options}");
        assert!(has_capability(&path), "{options}");
    }
}

#[test]
fn a_chown_that_is_made_takes_the_capability() {
    for (uid, gid) in [(Some(100_007), None), (None, Some(100_007)), (None, None)] {
        let mount = capable("passthrough=auto");
        chown(mount.join("f"), uid, gid).expect("chown");
        assert!(!has_capability(&mount.in_source("f")), "{uid:?} {gid:?}");
        assert!(!has_capability(&mount.join("f")), "{uid:?} {gid:?}");
    }
}

#[test]
fn what_else_takes_a_capability_does_so_still() {
    type Change = (&'static str, fn(&Path));
    let changes: &[Change] = &[
        ("setcap -r", |path| sh(path.parent().expect("a directory"), "setcap -r f")),
        ("write", |path| {
            let mut file = OpenOptions::new().append(true).open(path).expect("open");
            file.write_all(b"x").expect("write");
        }),
        ("truncate", |path| {
            let file = OpenOptions::new().write(true).open(path).expect("open");
            file.set_len(1).expect("truncate");
        }),
        ("chown by a program", |path| {
            sh(path.parent().expect("a directory"), "chown 100009 f");
        }),
    ];
    for (what, change) in changes {
        for options in ["passthrough=auto", "passthrough=off"] {
            let mount = capable(options);
            change(&mount.join("f"));
            assert!(!has_capability(&mount.in_source("f")), "{what}, {options}");
            assert!(!has_capability(&mount.join("f")), "{what}, {options}");
        }
    }
}

#[test]
fn a_chown_to_nobody_is_judged_as_on_a_plain_directory() {
    same_as_bare(|dir| {
        fs::set_permissions(dir, Permissions::from_mode(0o777)).expect("chmod");
        let mut said = Vec::new();
        for caller in [0, 1000, 1001] {
            for mode in [0o6777, 0o4777, 0o2777, 0o2767, 0o777] {
                let path = dir.join(format!("{caller} {mode:o}"));
                fs::write(&path, "text").expect("write");
                chown(&path, Some(1000), Some(1000)).expect("chown");
                fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
                // A file that is open for writing makes no difference.
                let open = OpenOptions::new().write(true).open(&path).expect("open");
                let results = as_user(caller, caller, &[], || {
                    let errnos =
                        [errno(chown(&path, None, None)), errno(lchown(&path, None, None))];
                    (errnos, errno(fchown(&open, None, None)))
                });
                said.push((caller, mode, results, fs::metadata(&path).expect("stat").mode()));
            }
        }
        said
    });
}
