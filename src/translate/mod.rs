//! Translates values that contain ids, POSIX ACLs and file capabilities, through an [`IdView`] and back.
//!
//! Pure: bytes in, bytes out. The owner of a file is not translated here, since stat(2) has it in fields of its own.
//!
//! A translation may change the length of a capability, so the size of an extended attribute at the mount is known only
//! after its value was read from the source and translated.

mod acl;
mod caps;

use std::borrow::Cow;

use rustix::io::Errno;

use crate::idmap::IdView;

pub use acl::{AclTag, MountAcl, SourceAcl};
pub use caps::{Caps, UNMAPPED_CAPS};

#[cfg(test)]
pub(crate) use acl::{Acl, AclEntry};

/// What ids the value of an extended attribute contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrKind {
    /// `system.posix_acl_access`
    AclAccess,
    /// `system.posix_acl_default`
    AclDefault,
    /// `security.capability`
    Capability,
    /// No ids: the value passes unchanged.
    Other,
}

impl XattrKind {
    /// Whether it is a POSIX ACL.
    #[must_use]
    pub fn is_acl(self) -> bool {
        matches!(self, Self::AclAccess | Self::AclDefault)
    }
}

/// Tells which extended attributes contain ids.
#[must_use]
pub fn classify(name: &[u8]) -> XattrKind {
    match name {
        b"system.posix_acl_access" => XattrKind::AclAccess,
        b"system.posix_acl_default" => XattrKind::AclDefault,
        b"security.capability" => XattrKind::Capability,
        _ => XattrKind::Other,
    }
}

/// Translates a value of the source into that of the mount. An errno when the source's value is malformed.
///
/// Where the source itself refuses to show a capability with EOVERFLOW (its root id has no meaning to the daemon), the
/// caller returns [`UNMAPPED_CAPS`], so that the file can still be executed.
pub fn value_to_mount<'a>(
    kind: XattrKind,
    value: &'a [u8],
    view: &IdView,
) -> Result<Cow<'a, [u8]>, Errno> {
    match kind {
        XattrKind::Other => Ok(Cow::Borrowed(value)),
        _ if value.is_empty() => Ok(Cow::Borrowed(value)),
        XattrKind::AclAccess | XattrKind::AclDefault => {
            Ok(Cow::Owned(SourceAcl::parse(value)?.to_mount(view).print()))
        }
        XattrKind::Capability => Ok(Cow::Owned(Caps::parse(value)?.to_mount(view).print())),
    }
}

/// Translates a value that was set at the mount into the one to store on the source. To be called before the source is
/// changed.
///
/// An empty value passes: the kernel takes an empty ACL as none at all, and refuses to read an empty capability.
///
/// # Errors
/// EINVAL for an id that cannot be stored or a malformed value; EOPNOTSUPP for an ACL of another version than 2.
pub fn value_to_source<'a>(
    kind: XattrKind,
    value: &'a [u8],
    view: &IdView,
) -> Result<Cow<'a, [u8]>, Errno> {
    match kind {
        XattrKind::Other => Ok(Cow::Borrowed(value)),
        _ if value.is_empty() => Ok(Cow::Borrowed(value)),
        XattrKind::AclAccess | XattrKind::AclDefault => {
            Ok(Cow::Owned(MountAcl::parse(value)?.to_source(view)?.print()))
        }
        XattrKind::Capability => Ok(Cow::Owned(Caps::parse(value)?.to_source(view)?.print())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idmap::{Extent, IdMap, Translation, Unmapped};
    use proptest::prelude::*;

    fn view() -> IdView {
        IdView {
            uids: Translation::new(
                IdMap::new(vec![Extent::new(0, 100_000, 10).unwrap()]).unwrap(),
                Unmapped::Deny,
            ),
            gids: Translation::new(
                IdMap::new(vec![Extent::new(0, 200_000, 10).unwrap()]).unwrap(),
                Unmapped::Deny,
            ),
        }
    }

    #[test]
    fn only_the_three_attributes_with_ids_are_told_apart() {
        assert_eq!(classify(b"system.posix_acl_access"), XattrKind::AclAccess);
        assert_eq!(classify(b"system.posix_acl_default"), XattrKind::AclDefault);
        assert_eq!(classify(b"security.capability"), XattrKind::Capability);
        for other in [&b"user.x"[..], b"", b"trusted.overlay.opaque", b"security.capability\0"] {
            assert_eq!(classify(other), XattrKind::Other);
        }
    }

    #[test]
    fn other_values_and_empty_values_pass_untouched() {
        assert_eq!(value_to_mount(XattrKind::Other, b"\x01x", &view()).unwrap(), &b"\x01x"[..]);
        assert_eq!(value_to_source(XattrKind::Other, b"\x01x", &view()).unwrap(), &b"\x01x"[..]);
        for kind in [XattrKind::AclAccess, XattrKind::AclDefault, XattrKind::Capability] {
            assert!(value_to_mount(kind, b"", &view()).unwrap().is_empty());
            assert!(value_to_source(kind, b"", &view()).unwrap().is_empty());
        }
    }

    #[test]
    fn errors_are_the_kernels() {
        let acl = |value: &[u8]| value_to_source(XattrKind::AclAccess, value, &view()).map(drop);
        assert_eq!(acl(&[2, 0, 0]), Err(Errno::INVAL), "shorter than a header");
        assert_eq!(acl(&[1, 0, 0, 0]), Err(Errno::OPNOTSUPP), "another version");
        assert_eq!(acl(&[2, 0, 0, 0, 9]), Err(Errno::INVAL), "half an entry");
        let wrong_version_and_length = [1, 0, 0, 0, 9];
        assert_eq!(
            acl(&wrong_version_and_length),
            Err(Errno::OPNOTSUPP),
            "the version is looked at first"
        );
        let caps = |value: &[u8]| value_to_source(XattrKind::Capability, value, &view()).map(drop);
        assert_eq!(caps(&[0; 20]), Err(Errno::INVAL));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer_or_an_errno(value in proptest::collection::vec(any::<u8>(), 0..60), version in 0u8..4) {
            let mut with_header = vec![version, 0, 0, 0];
            with_header.extend(&value);
            let mut capability = vec![value.len() as u8 & 1, 0, 0, version];
            capability.extend(&value);
            for bytes in [&value, &with_header, &capability] {
                for kind in [XattrKind::AclAccess, XattrKind::AclDefault, XattrKind::Capability, XattrKind::Other] {
                    for errno in [value_to_mount(kind, bytes, &view()).err(), value_to_source(kind, bytes, &view()).err()] {
                        prop_assert!(matches!(errno, None | Some(Errno::INVAL | Errno::OPNOTSUPP)));
                    }
                }
            }
        }
    }
}
