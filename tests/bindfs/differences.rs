//! Where bindfs is wrong, and this program is not like it.

/// A difference that is meant.
pub(crate) struct Difference {
    /// The option with which it shows; `*` for any.
    pub(crate) option: &'static str,
    /// What differs: questions of a sweep (`create`, `create by root`), or words of a test.
    pub(crate) operations: &'static [&'static str],
    /// Why.
    pub(crate) why: &'static str,
    /// What the man page says of it, in its section DIFFERENCES FROM BINDFS.
    pub(crate) man: &'static str,
}

/// Those who are not the owner, whom the kernel refuses before bindfs is asked.
const IGNORES: &str = "what is to be ignored has to succeed for everybody; with bindfs the kernel refuses strangers first";

/// Who is only shown as the owner.
const SHOWN: &str =
    "who is only shown as the owner must not lend the real one's rights to a program of his own";

pub(crate) const DIFFERENCES: &[Difference] = &[
    Difference {
        option: "--force-user",
        operations: &[
            "chmod with setuid by a member",
            "chmod with setuid by a stranger",
            "chmod with setgid by a stranger",
            "chmod with setgid by a member",
        ],
        why: SHOWN,
        man: "gives no setuid or setgid bit to what is another's",
    },
    Difference {
        option: "--mirror",
        operations: &[
            "chmod with setuid by a mirrored user",
            "chmod with setgid by a mirrored user",
        ],
        why: SHOWN,
        man: "gives no setuid or setgid bit to what is another's",
    },
    Difference {
        option: "--mirror-only",
        operations: &[
            "chmod with setuid by a mirrored user",
            "chmod with setgid by a mirrored user",
        ],
        why: SHOWN,
        man: "gives no setuid or setgid bit to what is another's",
    },
    Difference {
        option: "-m",
        operations: &[
            "chmod with setuid by a mirrored user",
            "chmod with setgid by a mirrored user",
        ],
        why: SHOWN,
        man: "gives no setuid or setgid bit to what is another's",
    },
    Difference {
        option: "-M",
        operations: &[
            "chmod with setuid by a mirrored user",
            "chmod with setgid by a mirrored user",
        ],
        why: SHOWN,
        man: "gives no setuid or setgid bit to what is another's",
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
        man: "whoever may not write anyway",
    },
    Difference {
        option: "--uid-offset",
        operations: &["create", "create, read only", "mkdir", "mkfifo", "symlink", "chgrp to 60"],
        why: "who has no counterpart on the source owns nothing; bindfs leaves files of root",
        man: "If no owner can be stored nothing is created",
    },
    Difference {
        option: "--uid-offset",
        operations: &["make a file below"],
        why: "who has no counterpart on the source owns nothing; bindfs leaves files of root",
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
        operations: &["created by who has no counterpart"],
        why: "who has no counterpart on the source owns nothing; bindfs leaves files of root",
        man: "If no owner can be stored nothing is created",
    },
    Difference {
        option: "create-for-group",
        operations: &["in a directory with setgid"],
        why: "the directory's group is everybody's choice on the source",
        man: "In a directory with the setgid bit the directory's group wins",
    },
    Difference {
        option: "map",
        operations: &["an empty value"],
        why: "nobody means root by it",
        man: "An empty value, a user whom nobody knows, and a number above 4294967294 are errors",
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
        why: "who may, can",
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
        why: "a failure is one to whoever looks at the status",
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
        operations: &["by strangers"],
        why: "what is to be ignored has to succeed for everybody",
        man: "succeed for everybody",
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
        operations: &["chown to the owner", "chown to a stranger", "chown the other's"],
        why: IGNORES,
        man: "succeed for everybody",
    },
    Difference {
        option: "--chgrp-ignore",
        operations: &["chgrp to 60", "chgrp to 4000"],
        why: IGNORES,
        man: "succeed for everybody",
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
        man: "succeed for everybody",
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

/// An entry that a test relies on.
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
        // `.BR renameat2 (2),` is set without a blank; `.B` and `.I` keep theirs.
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
