//! Domains: parts of the tree within which inode numbers are unique.

use std::collections::{HashMap, HashSet};

use rustix::fs::Statx;

use super::ino_tag::device_tag;
use super::mounts::MountIndex;
use super::node_id::{DevNo, Domain, dev_no};
use crate::sync::RwLock;

/// A mount, a device in it, and the id of the symbolic link that led there (0: none).
type Key = (MountIndex, DevNo, u32);

/// Numbers the parts of the tree as lookups find them. The root's domain is 0.
#[derive(Debug)]
pub(super) struct Domains {
    root: (MountIndex, DevNo),
    map: RwLock<DomainMap>,
}

#[derive(Debug, Default)]
struct DomainMap {
    by_key: HashMap<Key, Domain>,
    /// For domains below a symbolic link: the domain of the same mount and device without the link.
    without_link: HashMap<Domain, Domain>,
    /// What the inode numbers that programs see are combined with (`ino.rs`), if that is not 0.
    tags: HashMap<Domain, u64>,
    last: u32,
}

impl DomainMap {
    fn of(&mut self, key: Key) -> Domain {
        let next = Domain(self.last + 1);
        let domain = *self.by_key.entry(key).or_insert(next);
        if domain == next {
            self.last = next.0;
        }
        domain
    }
}

impl Domains {
    pub(super) fn new(mount: MountIndex, dev_no: DevNo) -> Self {
        Self { root: (mount, dev_no), map: RwLock::default() }
    }

    /// Returns the device number of the root with which the mount began.
    pub(super) fn root_dev_no(&self) -> DevNo {
        self.root.1
    }

    /// Returns the domain of files on a mount, below the symbolic link with this id (0: none).
    pub(super) fn of(&self, mount: MountIndex, stat: &Statx, link: u32) -> Domain {
        let key = (mount, dev_no(stat), link);
        if (key.0, key.1) == self.root && link == 0 {
            return Domain(0);
        }
        let known = self.map.read().by_key.get(&key).copied();
        if let Some(domain) = known {
            return domain;
        }
        let without_link = match link {
            0 => None,
            _ => Some(self.of(mount, stat, 0)),
        };
        let mut map = self.map.write();
        let domain = map.of(key);
        if key.1 != self.root.1 {
            map.tags.insert(domain, device_tag(key.1));
        }
        if let Some(without_link) = without_link {
            map.without_link.insert(domain, without_link);
        }
        domain
    }

    /// Returns the domain of the same mount and device without a symbolic link.
    pub(super) fn without_link(&self, domain: Domain) -> Domain {
        if domain == Domain(0) {
            return domain;
        }
        let map = self.map.read();
        map.without_link.get(&domain).copied().unwrap_or(domain)
    }

    /// Returns what the inode numbers of a domain are combined with for programs: 0 on the root's own device.
    pub(super) fn tag(&self, domain: Domain) -> u64 {
        if domain == Domain(0) {
            return 0;
        }
        let map = self.map.read();
        map.tags.get(&domain).copied().unwrap_or(0)
    }

    /// Returns the number of domains below symbolic links.
    pub(super) fn link_count(&self) -> usize {
        self.map.read().without_link.len()
    }

    /// Removes the domains of all symbolic links but these. A link that is used again gets another domain.
    pub(super) fn keep_links(&self, links: &HashSet<u32>) {
        let mut map = self.map.write();
        let DomainMap { by_key, without_link, tags, .. } = &mut *map;
        by_key.retain(|(_, _, link), domain| {
            let stays = *link == 0 || links.contains(link);
            if !stays {
                without_link.remove(domain);
                tags.remove(domain);
            }
            stays
        });
    }
}
