//! The mount options that apply per mount, as attributes for mount_setattr(2).

use rustix::mount::MountAttrFlags;

use crate::config::MountFlags;

/// The options that only forbid.
pub(super) const RESTRICTIONS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC)
    .union(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW);

/// The attributes that the options set, and those that they clear.
#[must_use]
pub(super) fn attr_masks(flags: &MountFlags) -> (MountAttrFlags, MountAttrFlags) {
    let (mut set, mut clear) = flags.access_times();
    for (option, bit) in [
        (flags.read_only, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (flags.nosuid, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (flags.nodev, MountAttrFlags::MOUNT_ATTR_NODEV),
        (flags.noexec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (flags.nosymfollow, MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW),
    ] {
        match option {
            Some(true) => set |= bit,
            Some(false) => clear |= bit,
            None => {}
        }
    }
    (set, clear)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Atime;

    #[test]
    fn an_option_that_is_not_given_is_neither_set_nor_cleared() {
        let (set, clear) =
            attr_masks(&MountFlags { read_only: Some(false), ..MountFlags::default() });
        assert_eq!((set, clear), (MountAttrFlags::empty(), MountAttrFlags::MOUNT_ATTR_RDONLY));
    }

    #[test]
    fn an_atime_mode_replaces_the_former_one() {
        let (set, clear) =
            attr_masks(&MountFlags { atime: Some(Atime::Relative), ..MountFlags::default() });
        assert_eq!((set, clear), (MountAttrFlags::empty(), MountAttrFlags::MOUNT_ATTR__ATIME));
    }
}
