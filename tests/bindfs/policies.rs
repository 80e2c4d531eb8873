//! A sweep for every option.

use super::caller::Caller;
use super::sweep::{MEMBER, MIRRORED, OTHER_USER, OWNER, ROOT, alike};
use super::twins::Mounter;

const ALL: &[Caller] = &[ROOT, OWNER, MEMBER, OTHER_USER, MIRRORED];

macro_rules! alike {
    ($($name:ident: $mounter:ident $options:expr;)*) => {
        $(
            #[test]
            fn $name() {
                alike(Mounter::$mounter, &$options, ALL);
            }
        )*
    };
}

alike! {
    without_options: Root [];
    read_only: Root ["-r"];
    force_user_and_group: Root ["--force-user=2100", "--force-group=60"];
    perms_that_take: Root ["--perms=go-rwx"];
    perms_that_give: Root ["--perms=a=rwX"];
    mirror: Root ["--mirror=1500"];
    mirror_only: Root ["--mirror-only=1500"];
    map: Root ["--map=1000/4000:@1000/@4000"];
    offsets: Root ["--uid-offset=1000", "--gid-offset=1000"];
    create_as_user: Root ["--create-as-user"];
    create_as_mounter: Root ["--create-as-mounter"];
    create_for: Root ["--create-for-user=77", "--create-for-group=78"];
    create_with_perms: Root ["--create-with-perms=u=rwX:go="];
    chown_normal: Root ["-o", "chown-ignore,chown-normal"];
    chown_ignore: Root ["--chown-ignore"];
    chown_deny: Root ["--chown-deny"];
    chgrp_normal: Root ["-o", "chgrp-deny,chgrp-normal"];
    chgrp_ignore: Root ["--chgrp-ignore"];
    chgrp_deny: Root ["--chgrp-deny"];
    chmod_normal: Root ["-o", "chmod-deny,chmod-normal,chmod-allow-x"];
    chmod_ignore: Root ["--chmod-ignore"];
    chmod_deny: Root ["--chmod-deny"];
    chmod_ignore_but_for_x: Root ["--chmod-ignore", "--chmod-allow-x"];
    chmod_deny_but_for_x: Root ["--chmod-deny", "--chmod-allow-x"];
    chmod_filter: Root ["--chmod-filter=o-x:g+w"];
    xattr_rw: Root ["-o", "xattr-none,xattr-rw"];
    xattr_ro: Root ["--xattr-ro"];
    xattr_none: Root ["--xattr-none"];
    delete_deny: Root ["--delete-deny"];
    rename_deny: Root ["--rename-deny"];
    hide_hard_links: Root ["--hide-hard-links"];
    realistic_permissions: Root ["--realistic-permissions"];
    ctime_from_mtime: Root ["--ctime-from-mtime"];
    multithreaded: Root ["--multithreaded"];
    no_allow_other: Root ["--no-allow-other"];

    as_a_user_without_options: User [];
    as_a_user_read_only: User ["-o", "ro"];
    as_a_user_force_user_and_group: User ["--force-user=4000", "--force-group=60"];
    as_a_user_perms_that_take: User ["-p", "go-rwx"];
    as_a_user_perms_that_give: User ["-p", "a=rwX"];
    as_a_user_mirror: User ["-m", "1500"];
    as_a_user_mirror_only: User ["-M", "1500"];
    as_a_user_create_as_mounter: User ["--create-as-mounter"];
    as_a_user_create_with_perms: User ["--create-with-perms=u=rwX:go="];
    as_a_user_chown_ignore: User ["--chown-ignore"];
    as_a_user_chown_deny: User ["--chown-deny"];
    as_a_user_chgrp_ignore: User ["--chgrp-ignore"];
    as_a_user_chgrp_deny: User ["--chgrp-deny"];
    as_a_user_chmod_ignore: User ["--chmod-ignore"];
    as_a_user_chmod_deny: User ["--chmod-deny"];
    as_a_user_chmod_filter: User ["--chmod-filter=o-x:g+w"];
    as_a_user_xattr_ro: User ["--xattr-ro"];
    as_a_user_xattr_none: User ["--xattr-none"];
    as_a_user_delete_deny: User ["--delete-deny"];
    as_a_user_rename_deny: User ["--rename-deny"];
    as_a_user_hide_hard_links: User ["--hide-hard-links"];
    as_a_user_realistic_permissions: User ["--realistic-permissions"];
    as_a_user_no_allow_other: User ["--no-allow-other"];
}
