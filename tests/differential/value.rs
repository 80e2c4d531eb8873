//! Ids and extended attribute values by their role in the scenario, so that one operation fits every map.

use crate::scenario::Scenario;

/// An id by its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Id {
    /// -1: no change.
    Keep,
    A,
    B,
    /// Root in the caller's user namespace.
    Zero,
    /// The caller without a counterpart on the source.
    UnmappedCaller,
    /// The source's owner without a counterpart at the mount; the number is the source's.
    UnmappedOwner,
    /// 65534, the overflow id.
    Overflow,
}

impl Id {
    fn pick(self, scenario: &Scenario, a: (u32, u32), b: (u32, u32), group: bool) -> u32 {
        let of = |pair: (u32, u32)| if group { pair.1 } else { pair.0 };
        match self {
            Self::Keep => u32::MAX,
            Self::A => of(a),
            Self::B => of(b),
            Self::Zero => 0,
            Self::UnmappedCaller => of(scenario.unmapped_caller),
            Self::UnmappedOwner => of(scenario.unmapped_owner),
            Self::Overflow => 65_534,
        }
    }

    /// The id at the mount.
    pub(crate) fn at_mount(self, scenario: &Scenario, group: bool) -> u32 {
        self.pick(scenario, scenario.a.mount, scenario.b.mount, group)
    }

    /// The id on the source.
    pub(crate) fn on_source(self, scenario: &Scenario, group: bool) -> u32 {
        self.pick(scenario, scenario.a.source, scenario.b.source, group)
    }
}

/// The value of an extended attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    Text(&'static str),
    /// That many bytes.
    Long(usize),
    /// An ACL equivalent to a mode.
    Minimal,
    /// An ACL with b as a named user and group.
    Named,
    /// An ACL with root as a named user.
    NamedZero,
    /// An ACL with b and the source's unmapped owner.
    NamedAndUnmapped,
    /// An ACL with the unmapped caller.
    NamedUnmappedCaller,
    /// An ACL with 65534.
    NamedOverflow,
    /// An ACL with 4294967295.
    NamedInvalid,
    /// An ACL with b twice.
    NamedTwice,
    /// An ACL with entries in the wrong order.
    Disordered,
    /// An ACL with a named user and no mask.
    Maskless,
    /// A header without entries.
    HeaderOnly,
    WrongVersion,
    HalfAnEntry,
    Caps2,
    Caps3A,
    Caps3B,
    Caps3Zero,
    Caps3UnmappedCaller,
    Caps3Invalid,
    CapsShort,
}

type Acl = Vec<(u16, u16, u32)>;

impl Value {
    /// The bytes of the value; `id` returns the number of a user id or, if `true`, of a group id.
    pub(crate) fn bytes(self, id: &dyn Fn(Id, bool) -> u32) -> Vec<u8> {
        let user = |id_| (2, 6, id(id_, false));
        let group = |id_| (8, 5, id(id_, true));
        let acl = |named: &[(u16, u16, u32)]| {
            let (users, groups): (Acl, Acl) = named.iter().partition(|e| e.0 == 2);
            let mut entries = vec![(1, 7, u32::MAX)];
            entries.extend(users);
            entries.push((4, 5, u32::MAX));
            entries.extend(groups);
            if !named.is_empty() {
                entries.push((0x10, 7, u32::MAX));
            }
            entries.push((0x20, 4, u32::MAX));
            entries
        };
        match self {
            Self::Text(text) => text.as_bytes().to_vec(),
            Self::Long(size) => vec![b'x'; size],
            Self::Minimal => print_acl(2, &acl(&[])),
            Self::Named => print_acl(2, &acl(&[user(Id::B), group(Id::B)])),
            Self::NamedZero => print_acl(2, &acl(&[user(Id::Zero)])),
            Self::NamedAndUnmapped => print_acl(
                2,
                &acl(&[
                    user(Id::B),
                    user(Id::UnmappedOwner),
                    group(Id::B),
                    group(Id::UnmappedOwner),
                ]),
            ),
            Self::NamedUnmappedCaller => print_acl(2, &acl(&[user(Id::UnmappedCaller)])),
            Self::NamedOverflow => print_acl(2, &acl(&[group(Id::Overflow)])),
            Self::NamedInvalid => print_acl(2, &acl(&[user(Id::Keep)])),
            Self::NamedTwice => print_acl(2, &acl(&[user(Id::B), user(Id::B)])),
            Self::Disordered => {
                let mut entries = acl(&[user(Id::B)]);
                entries.reverse();
                print_acl(2, &entries)
            }
            Self::Maskless => {
                let mut entries = acl(&[user(Id::B)]);
                entries.retain(|e| e.0 != 0x10);
                print_acl(2, &entries)
            }
            Self::HeaderOnly => print_acl(2, &[]),
            Self::WrongVersion => print_acl(1, &acl(&[])),
            Self::HalfAnEntry => print_acl(2, &acl(&[]))[..9].to_vec(),
            Self::Caps2 => caps(None),
            Self::Caps3A => caps(Some(id(Id::A, false))),
            Self::Caps3B => caps(Some(id(Id::B, false))),
            Self::Caps3Zero => caps(Some(0)),
            Self::Caps3UnmappedCaller => caps(Some(id(Id::UnmappedCaller, false))),
            Self::Caps3Invalid => caps(Some(u32::MAX)),
            Self::CapsShort => caps(None)[..19].to_vec(),
        }
    }
}

fn print_acl(version: u32, entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = version.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// A capability set of CAP_NET_BIND_SERVICE, permitted and effective.
fn caps(root: Option<u32>) -> Vec<u8> {
    let revision: u32 = if root.is_some() { 3 } else { 2 };
    let words = [revision << 24 | 1, 1 << 10, 0, 0, 0];
    words.into_iter().chain(root).flat_map(u32::to_le_bytes).collect()
}
