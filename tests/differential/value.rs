//! Ids and extended attribute values as operations name them: by their part in the scenario, so that one operation fits
//! every map.

use crate::scenario::Scenario;

/// An id by its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Id {
    /// -1
    Keep,
    A,
    B,
    /// Root where the caller lives.
    Zero,
    /// The caller who cannot be stored.
    Stranger,
    /// The source's owner whom the mount cannot show, by his number there.
    Lost,
    /// 65534
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
            Self::Stranger => of(scenario.stranger),
            Self::Lost => of(scenario.lost),
            Self::Overflow => 65_534,
        }
    }

    /// Its number at the mount.
    pub(crate) fn at_mount(self, scenario: &Scenario, group: bool) -> u32 {
        self.pick(scenario, scenario.a.mount, scenario.b.mount, group)
    }

    /// Its number on the source.
    pub(crate) fn on_source(self, scenario: &Scenario, group: bool) -> u32 {
        self.pick(scenario, scenario.a.source, scenario.b.source, group)
    }
}

/// The value of an extended attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    Text(&'static str),
    /// As many bytes.
    Long(usize),
    /// An ACL that says no more than a mode.
    Minimal,
    /// With b as a named user and group.
    Named,
    /// With root as a named user.
    NamedZero,
    /// With b and an entry for the source's lost owner.
    NamedAndLost,
    /// With a caller who cannot be stored.
    NamedStranger,
    /// With 65534.
    NamedOverflow,
    /// With 4294967295.
    NamedNobody,
    /// b twice.
    NamedTwice,
    /// Entries in a wrong order.
    Disordered,
    /// No mask beside a named user.
    Maskless,
    /// A header and nothing else.
    HeaderOnly,
    WrongVersion,
    HalfAnEntry,
    Caps2,
    Caps3A,
    Caps3B,
    Caps3Zero,
    Caps3Stranger,
    Caps3Nobody,
    CapsShort,
}

type Acl = Vec<(u16, u16, u32)>;

impl Value {
    /// The bytes; `id` gives the number of an id of a user or, if `true`, of a group.
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
            Self::NamedAndLost => {
                print_acl(2, &acl(&[user(Id::B), user(Id::Lost), group(Id::B), group(Id::Lost)]))
            }
            Self::NamedStranger => print_acl(2, &acl(&[user(Id::Stranger)])),
            Self::NamedOverflow => print_acl(2, &acl(&[group(Id::Overflow)])),
            Self::NamedNobody => print_acl(2, &acl(&[user(Id::Keep)])),
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
            Self::Caps3Stranger => caps(Some(id(Id::Stranger, false))),
            Self::Caps3Nobody => caps(Some(u32::MAX)),
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

/// CAP_NET_BIND_SERVICE, permitted and effective.
fn caps(root: Option<u32>) -> Vec<u8> {
    let revision: u32 = if root.is_some() { 3 } else { 2 };
    let words = [revision << 24 | 1, 1 << 10, 0, 0, 0];
    words.into_iter().chain(root).flat_map(u32::to_le_bytes).collect()
}
