//! The differences from bindfs, where bindfs is wrong.

/// An intended difference.
pub(crate) struct Difference {
    /// The option that shows it; `*` for any.
    pub(crate) option: &'static str,
    /// What differs: questions of a sweep (`create`, `create by root`), or the description that a test uses.
    pub(crate) operations: &'static [&'static str],
    /// Why shiftbind differs.
    pub(crate) why: &'static str,
    /// The words of the man page's section DIFFERENCES FROM BINDFS.
    pub(crate) man: &'static str,
}

/// The changes of users other than the owner, which the kernel refuses before it sends bindfs a request.
const IGNORES: &str = "an ignored change has to succeed for every user; with bindfs the kernel first refuses users who do not own the file";

/// The callers that only the mount shows as the owner.
const SHOWN: &str = "a caller that only the mount shows as the owner must not run a program with the real owner's rights";

pub(crate) const DIFFERENCES: &[Difference] = &[
    Difference {
        option: "--force-user",
        operations: &[
            "chmod with setuid by a member",
            "chmod with setuid by another user",
            "chmod with setgid by another user",
            "chmod with setgid by a member",
        ],
        why: SHOWN,
        man: "gives no setuid or setgid bit to a file of another user",
    },
    Difference {
        option: "--mirror",
        operations: &[
            "chmod with setuid by a mirrored user",
            "chmod with setgid by a mirrored user",
        ],
        why: SHOWN,
        man: "gives no setuid or setgid bit to a file of another user",
    },
    Difference {
        option: "--mirror-only",
        operations: &[
            "chmod with setuid by a mirrored user",
            "chmod with setgid by a mirrored user",
        ],
        why: SHOWN,
        man: "gives no setuid or setgid bit to a file of another user",
    },
    Difference {
        option: "-m",
        operations: &[
            "chmod with setuid by a mirrored user",
            "chmod with setgid by a mirrored user",
        ],
        why: SHOWN,
        man: "gives no setuid or setgid bit to a file of another user",
    },
    Difference {
        option: "-M",
        operations: &[
            "chmod with setuid by a mirrored user",
            "chmod with setgid by a mirrored user",
        ],
        why: SHOWN,
        man: "gives no setuid or setgid bit to a file of another user",
    },
    Difference {
        option: "*",
        operations: &["exchange"],
        why: "bindfs knows no flag of renameat2",
        man: "renameat2(2)",
    },
    Difference {
        option: "*",
        operations: &["set one time to now"],
        why: "bindfs drops a time that is to be now",
        man: "set one of a file's times to now",
    },
    Difference {
        option: "(a user's mount)",
        operations: &["touch the other's"],
        why: "bindfs makes a time of \"now\", which only the owner may set",
        man: "set one of a file's times to now",
    },
    Difference {
        option: "-r",
        operations: &["access W", "open rw", "open a", "truncate"],
        why: "ours is read-only as a bind mount is: permissions are looked at first",
        man: "a user without write permission",
    },
    Difference {
        option: "--uid-offset",
        operations: &["create", "create, read only", "mkdir", "mkfifo", "symlink", "chgrp to 60"],
        why: "an unmapped caller owns nothing on the source; bindfs leaves files of root",
        man: "If no owner can be stored nothing is created",
    },
    Difference {
        option: "--uid-offset",
        operations: &["make a file below"],
        why: "an unmapped caller owns nothing on the source; bindfs leaves files of root",
        man: "If no owner can be stored nothing is created",
    },
    Difference {
        option: "--uid-offset",
        operations: &["large ids"],
        why: "every id that can be stored can be shown",
        man: "Every id up to 4294967294 can be shown and stored",
    },
    Difference {
        option: "--uid-offset",
        operations: &["chown with a negative offset", "created with a negative offset"],
        why: "what is shown with an offset is stored without it",
        man: "A negative offset counts on the way back",
    },
    Difference {
        option: "--uid-offset",
        operations: &["created by an unmapped caller"],
        why: "an unmapped caller owns nothing on the source; bindfs leaves files of root",
        man: "If no owner can be stored nothing is created",
    },
    Difference {
        option: "create-for-group",
        operations: &["in a directory with setgid"],
        why: "on the source a setgid directory passes on its group, too",
        man: "In a directory with the setgid bit the directory's group wins",
    },
    Difference {
        option: "map",
        operations: &["an empty value"],
        why: "no user means root by it",
        man: "An empty value, an unknown user or group, and a number above 4294967294 are errors",
    },
    Difference {
        option: "map-passwd",
        operations: &["an empty field, a blank line"],
        why: "the third column is the third",
        man: "an empty field is a field",
    },
    Difference {
        option: "*",
        operations: &["rm of an open file"],
        why: "libfuse renames it to .fuse_hidden for as long as it is open",
        man: "as one that is closed",
    },
    Difference {
        option: "--delete-deny",
        operations: &["rm of an open file"],
        why: "bindfs renames it, which is allowed",
        man: "as one that is closed",
    },
    Difference {
        option: "--rename-deny",
        operations: &["rm of an open file"],
        why: "bindfs renames it, which is refused",
        man: "as one that is closed",
    },
    Difference {
        option: "*",
        operations: &["an open file whose name was taken"],
        why: "bindfs goes by path",
        man: "An open file is that file",
    },
    Difference {
        option: "*",
        operations: &["lsattr"],
        why: "a caller that may set flags can do so",
        man: "flags of chattr(1)",
    },
    Difference {
        option: "--enable-lock-forwarding",
        operations: &["a second client's lock"],
        why: "bindfs takes all locks for itself",
        man: "two clients exclude each other",
    },
    Difference {
        option: "--resolved-symlink-deletion",
        operations: &["a broken link"],
        why: "a broken link is shown as a link",
        man: "a broken link, which is shown as a link",
    },
    Difference {
        option: "mirror",
        operations: &["an unknown user"],
        why: "a failure must show in the exit status",
        man: "an unknown user in mirror",
    },
    Difference {
        option: "map",
        operations: &["an ACL"],
        why: "an ACL names ids",
        man: "Access control lists and file capabilities are translated",
    },
    Difference {
        option: "--chown-ignore",
        operations: &["by other users"],
        why: "an ignored change has to succeed for every user",
        man: "succeed for all users",
    },
    Difference {
        option: "perms",
        operations: &["a mistyped rule"],
        why: "a mistyped rule should not share files",
        man: "a mistyped rule should not share files",
    },
    Difference {
        option: "perms",
        operations: &["four octal digits"],
        why: "chmod takes them as well",
        man: "Four octal digits set setuid, setgid and sticky bits",
    },
    Difference {
        option: "--chown-ignore",
        operations: &["chown to the owner", "chown to another user", "chown the other's"],
        why: IGNORES,
        man: "succeed for all users",
    },
    Difference {
        option: "--chgrp-ignore",
        operations: &["chgrp to 60", "chgrp to 4000"],
        why: IGNORES,
        man: "succeed for all users",
    },
    Difference {
        option: "--chmod-ignore",
        operations: &[
            "chmod",
            "chmod with setgid",
            "chmod with setuid",
            "chmod of the directory",
            "chmod of the other's",
        ],
        why: IGNORES,
        man: "succeed for all users",
    },
    Difference {
        option: "--chmod-ignore",
        operations: &["set the ACL"],
        why: "an ACL sets permissions",
        man: "an access control list cannot set them either",
    },
    Difference {
        option: "--chmod-deny",
        operations: &["set the ACL"],
        why: "an ACL sets permissions",
        man: "an access control list cannot set them either",
    },
    Difference {
        option: "--delete-deny",
        operations: &["rename over the other's", "rename to here"],
        why: "what is renamed over is gone",
        man: "refuses to rename a file over another",
    },
];

/// The entry that a test relies on.
#[track_caller]
pub(crate) fn find(option: &str, operation: &str) -> &'static Difference {
    let is_it = |one: &&Difference| one.option == option && one.operations.contains(&operation);
    DIFFERENCES
        .iter()
        .find(is_it)
        .unwrap_or_else(|| panic!("DIFFERENCES lacks {option}, {operation}"))
}

/// The section of the man page, without its markup.
fn section() -> String {
    let page = include_str!("../../man/shiftbind.8");
    let from = page.find(".SH DIFFERENCES FROM BINDFS").expect("the man page has the section");
    let section = &page[from + 3..];
    let section = &section[..section.find("\n.SH ").expect("another section follows")];
    let mut words = String::new();
    for line in section.lines().filter(|line| !line.starts_with(".IP")) {
        // roff sets the arguments of `.BR` and its kin without spaces; `.B` and `.I` keep theirs.
        let (request, rest) = match line.strip_prefix('.').and_then(|line| line.split_once(' ')) {
            Some((request, rest)) => (request, rest.to_owned()),
            None => ("", line.to_owned()),
        };
        let rest = rest.replace("\\-", "-").replace("\\(lq", "\"").replace("\\(rq", "\"");
        let set: String = match request {
            "BR" | "RB" | "IR" | "RI" | "BI" => rest.split(' ').collect(),
            _ => rest,
        };
        words.push_str(set.trim_matches('"'));
        words.push(' ');
    }
    words
}

#[test]
fn every_difference_has_a_reason_and_is_told_in_the_man_page() {
    let section = section();
    for one in DIFFERENCES {
        assert!(!one.why.is_empty() && !one.operations.is_empty());
        assert!(
            section.contains(one.man),
            "{}, {:?}: the man page does not say: {}\n{section}",
            one.option,
            one.operations,
            one.man
        );
    }
}
