//! A model of fcntl(2) and flock(2) for a few owners, files and bytes.
//!
//! It records which owner holds which locks, and says what each call must return.

use std::collections::BTreeMap;

/// Number of bytes of a file that can be locked. A range that reaches the last one extends to the end of the file.
pub(crate) const BYTES: usize = 8;
pub(crate) const FILES: usize = 2;

/// The owner of a record lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    /// A POSIX lock of a descriptor table.
    Table(usize),
    /// A lock of an open file description.
    Description(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Shared,
    Exclusive,
    Unlock,
}

impl Kind {
    fn excludes(self, other: Self) -> bool {
        self == Self::Exclusive || other == Self::Exclusive
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Both,
}

/// A lock request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// fcntl(2), with the first byte and the number of bytes.
    Record { holder: Holder, file: usize, kind: Kind, start: usize, len: usize },
    /// flock(2).
    Whole { description: usize, file: usize, kind: Kind },
}

/// The result of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Granted,
    BadAccess,
    Conflict,
}

#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) file: usize,
    pub(crate) access: Access,
    descriptors: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) descriptions: Vec<Description>,
    bytes: [[BTreeMap<Holder, Kind>; BYTES]; FILES],
    whole: [BTreeMap<usize, Kind>; FILES],
    /// Whether an open file description with locks on it has had its last close.
    ///
    /// The kernel sends RELEASE some time after close(2) has returned, so its locks may still conflict for a moment.
    pub(crate) closed_late: bool,
}

impl Model {
    pub(crate) fn open(&mut self, file: usize, access: Access) -> usize {
        self.descriptions.push(Description { file, access, descriptors: 1 });
        self.descriptions.len() - 1
    }

    pub(crate) fn dup(&mut self, description: usize) {
        self.descriptions[description].descriptors += 1;
    }

    /// Closes a descriptor of a table.
    pub(crate) fn close(&mut self, table: usize, description: usize) {
        let Description { file, descriptors, .. } = &mut self.descriptions[description];
        let file = *file;
        *descriptors -= 1;
        let is_last = *descriptors == 0;
        for holders in &mut self.bytes[file] {
            holders.remove(&Holder::Table(table));
            if is_last {
                self.closed_late |= holders.remove(&Holder::Description(description)).is_some();
            }
        }
        if is_last {
            self.closed_late |= self.whole[file].remove(&description).is_some();
        }
    }

    /// Returns whether a lock of another owner conflicts.
    pub(crate) fn is_blocked(&self, ask: &Ask) -> bool {
        match *ask {
            Ask::Record { kind: Kind::Unlock, .. } | Ask::Whole { kind: Kind::Unlock, .. } => false,
            Ask::Record { holder, file, kind, start, len } => {
                let mut others = self.bytes[file].iter().skip(start).take(len).flatten();
                others.any(|(other, held)| *other != holder && held.excludes(kind))
            }
            Ask::Whole { description, file, kind } => {
                let mut others = self.whole[file].iter();
                others.any(|(other, held)| *other != description && held.excludes(kind))
            }
        }
    }

    /// Makes a call that does not wait, and returns its result.
    pub(crate) fn ask(&mut self, ask: &Ask, access: Access) -> Answer {
        if let Ask::Record { kind, .. } = ask {
            match (kind, access) {
                (Kind::Shared, Access::Write) | (Kind::Exclusive, Access::Read) => {
                    return Answer::BadAccess;
                }
                _ => {}
            }
        }
        // A conversion releases the old lock first, even if it fails (flock(2)).
        if let Ask::Whole { description, file, kind } = ask
            && self.whole[*file].get(description) != Some(kind)
        {
            self.whole[*file].remove(description);
        }
        if self.is_blocked(ask) {
            return Answer::Conflict;
        }
        self.grant(ask);
        Answer::Granted
    }

    pub(crate) fn grant(&mut self, ask: &Ask) {
        match *ask {
            Ask::Record { holder, file, kind, start, len } => {
                for holders in self.bytes[file].iter_mut().skip(start).take(len) {
                    match kind {
                        Kind::Unlock => drop(holders.remove(&holder)),
                        _ => drop(holders.insert(holder, kind)),
                    }
                }
            }
            Ask::Whole { description, file, kind: Kind::Unlock } => {
                self.whole[file].remove(&description);
            }
            Ask::Whole { description, file, kind } => {
                self.whole[file].insert(description, kind);
            }
        }
    }
}
