/// The value of an extended attribute `system.posix_acl_*`: tag, permissions and id of each entry, -1 for an entry without
/// an id (linux/posix_acl_xattr.h).
pub(crate) fn posix_acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}
