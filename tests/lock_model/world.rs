//! Makes the steps for real, with descriptor tables of this process as lock owners.
//!
//! Each table opens its files either at the mount or on the source.

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::model::{Access, Answer, Ask, BYTES, FILES, Holder, Kind, Model};
use crate::support::{FdTable, patience, sys};

/// A random number for each decision, taken modulo the number of choices.
pub(crate) type Step = [u8; 7];

const TABLES: usize = 4;
const SLOTS: usize = 6;
/// The thread of a table that makes calls that wait.
const WAITS: usize = 1;

/// A descriptor table and its open files.
struct Owner {
    table: FdTable,
    /// The side on which it opens files: 0 or 1.
    side: usize,
    slots: Vec<Slot>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    fd: i32,
    description: usize,
}

/// The one call that waits.
struct Wait {
    owner: usize,
    fd: i32,
    ask: Ask,
    result: Receiver<io::Result<()>>,
}

pub(crate) struct World {
    model: Model,
    owners: Vec<Option<Owner>>,
    wait: Option<Wait>,
    /// The paths of the files on both sides.
    paths: [[PathBuf; FILES]; 2],
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(wait) = self.wait.take()
            && let Some(owner) = &self.owners[wait.owner]
        {
            interrupt(&owner.table, &wait.result);
        }
    }
}

/// Sends signals until the wait has ended.
fn interrupt(table: &FdTable, result: &Receiver<io::Result<()>>) -> Option<io::Result<()>> {
    let start = Instant::now();
    while start.elapsed() < patience(Duration::from_secs(10)) {
        table.signal(WAITS, libc::SIGUSR1);
        match result.recv_timeout(Duration::from_millis(20)) {
            Ok(result) => return Some(result),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
    None
}

fn call(ask: Ask, fd: i32, wait: bool) -> io::Result<()> {
    match ask {
        Ask::Record { holder, kind, start, len, .. } => {
            let command = match (holder, wait) {
                (Holder::Table(_), false) => libc::F_SETLK,
                (Holder::Table(_), true) => libc::F_SETLKW,
                (Holder::Description(_), false) => libc::F_OFD_SETLK,
                (Holder::Description(_), true) => libc::F_OFD_SETLKW,
            };
            sys::fcntl_lock_raw(fd, command, &mut record(kind, start, len))
        }
        Ask::Whole { kind, .. } => {
            let operation = match kind {
                Kind::Shared => libc::LOCK_SH,
                Kind::Exclusive => libc::LOCK_EX,
                Kind::Unlock => libc::LOCK_UN,
            };
            sys::flock_raw(fd, operation | if wait { 0 } else { libc::LOCK_NB })
        }
    }
}

fn record(kind: Kind, start: usize, len: usize) -> libc::flock {
    let kind = match kind {
        Kind::Shared => libc::F_RDLCK,
        Kind::Exclusive => libc::F_WRLCK,
        Kind::Unlock => libc::F_UNLCK,
    };
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start as i64,
        l_len: if start + len >= BYTES { 0 } else { len as i64 },
        l_pid: 0,
    }
}

fn answer(result: &io::Result<()>) -> Result<Answer, i32> {
    match result.as_ref().err().and_then(io::Error::raw_os_error) {
        None => Ok(Answer::Granted),
        Some(libc::EBADF) => Ok(Answer::BadAccess),
        Some(libc::EAGAIN) => Ok(Answer::Conflict),
        Some(error) => Err(error),
    }
}

fn same<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, not {expected:?}")) }
}

impl World {
    /// Takes the paths of the files by side and number.
    pub(crate) fn new(paths: [[PathBuf; FILES]; 2]) -> Self {
        let owners = (0..TABLES).map(|_| None).collect();
        Self { model: Model::default(), owners, wait: None, paths }
    }

    /// Makes a step and compares its result with the model.
    pub(crate) fn step(&mut self, step: Step) -> Result<(), String> {
        let [what, owner, rest @ ..] = step;
        let owner = usize::from(owner) % TABLES;
        let Some(known) = &self.owners[owner] else {
            let side = usize::from(rest[0]) % 3 % 2;
            self.owners[owner] = Some(Owner { table: FdTable::new(2), side, slots: Vec::new() });
            return self.open(owner, rest);
        };
        match what % 32 {
            0..4 => self.open(owner, rest)?,
            _ if known.slots.is_empty() => self.open(owner, rest)?,
            4..6 => self.dup(owner, rest)?,
            6..9 => self.close(owner, rest)?,
            9..19 => self.lock(owner, rest, false)?,
            19..24 => self.lock(owner, rest, true)?,
            24..27 => self.query(owner, rest)?,
            27..29 => self.fork(owner, rest),
            29 => self.exit(owner),
            _ => self.interrupt()?,
        }
        self.settle()
    }

    fn open(&mut self, owner: usize, [file, access, ..]: [u8; 5]) -> Result<(), String> {
        let own = self.owners[owner].as_mut().expect("an owner");
        if own.slots.len() == SLOTS {
            return Ok(());
        }
        let file = usize::from(file) % FILES;
        let (access, flags) = match access % 5 {
            0 | 1 => (Access::Read, libc::O_RDONLY),
            2 | 3 => (Access::Both, libc::O_RDWR),
            _ => (Access::Write, libc::O_WRONLY),
        };
        let fd = own.table.open(&self.paths[own.side][file], flags).map_err(|e| e.to_string())?;
        own.slots.push(Slot { fd, description: self.model.open(file, access) });
        Ok(())
    }

    fn dup(&mut self, owner: usize, [slot, ..]: [u8; 5]) -> Result<(), String> {
        let own = self.owners[owner].as_mut().expect("an owner");
        if own.slots.len() < SLOTS {
            let Slot { fd, description } = own.slots[usize::from(slot) % own.slots.len()];
            let fd = own.table.dup(fd).map_err(|e| e.to_string())?;
            self.model.dup(description);
            own.slots.push(Slot { fd, description });
        }
        Ok(())
    }

    fn close(&mut self, owner: usize, [slot, ..]: [u8; 5]) -> Result<(), String> {
        let own = self.owners[owner].as_mut().expect("an owner");
        let at = usize::from(slot) % own.slots.len();
        let Slot { fd, description } = own.slots[at];
        // Not the descriptor through which a thread waits: its call would fail with EBADF.
        if self.wait.as_ref().is_none_or(|wait| (wait.owner, wait.fd) != (owner, fd)) {
            own.table.close(fd).map_err(|e| e.to_string())?;
            own.slots.remove(at);
            self.model.close(owner, description);
        }
        Ok(())
    }

    /// Returns the lock request of a step, and the slot through which to make it.
    fn ask(&self, owner: usize, [slot, how, kind, start, len]: [u8; 5]) -> (Ask, Slot) {
        let own = self.owners[owner].as_ref().expect("an owner");
        let slot = own.slots[usize::from(slot) % own.slots.len()];
        let file = self.model.descriptions[slot.description].file;
        let kind = [Kind::Shared, Kind::Exclusive, Kind::Unlock, Kind::Exclusive, Kind::Shared]
            [usize::from(kind) % 5];
        let start = usize::from(start) % BYTES;
        let len = 1 + usize::from(len) % (BYTES - start);
        let record = |holder| Ask::Record { holder, file, kind, start, len };
        let ask = match how % 8 {
            0..5 => record(Holder::Table(owner)),
            5 | 6 => record(Holder::Description(slot.description)),
            _ => Ask::Whole { description: slot.description, file, kind },
        };
        (ask, slot)
    }

    fn lock(&mut self, owner: usize, rest: [u8; 5], wait: bool) -> Result<(), String> {
        let (ask, Slot { fd, description }) = self.ask(owner, rest);
        let access = self.model.descriptions[description].access;
        let is_blocked = self.model.is_blocked(&ask);
        let table = &self.owners[owner].as_ref().expect("an owner").table;
        let is_ambiguous = self.wait.as_ref().is_some_and(|wait| match (wait.ask, ask) {
            // Of two concurrent conversions, either may come last.
            (Ask::Whole { description: one, .. }, Ask::Whole { description: two, .. }) => {
                one == two
            }
            _ => false,
        });
        if is_ambiguous {
            return Ok(());
        }
        let expected = self.model.ask(&ask, access);
        if wait && is_blocked && expected == Answer::Conflict {
            if self.wait.is_none() {
                let result = table.send(WAITS, move || call(ask, fd, true));
                self.wait = Some(Wait { owner, fd, ask, result });
            } else if let Ask::Whole { .. } = ask {
                // The model has made the conversion's unlock, so the kernel must make it as well.
                same("flock", answer(&table.run(move || call(ask, fd, false))), Ok(expected))?;
            }
            return Ok(());
        }
        let start = Instant::now();
        loop {
            let found = answer(&table.run(move || call(ask, fd, false)));
            let may_come = expected == Answer::Granted && self.model.closed_late;
            if found != Ok(Answer::Conflict) || !may_come || start.elapsed() > LATE {
                return same(&format!("{ask:?} of {owner}"), found, Ok(expected));
            }
        }
    }

    fn query(&mut self, owner: usize, rest: [u8; 5]) -> Result<(), String> {
        let (ask, Slot { fd, .. }) = self.ask(owner, rest);
        let Ask::Record { holder, kind, start, len, .. } = ask else { return Ok(()) };
        if kind == Kind::Unlock {
            return Ok(());
        }
        let command = match holder {
            Holder::Table(_) => libc::F_GETLK,
            Holder::Description(_) => libc::F_OFD_GETLK,
        };
        let table = &self.owners[owner].as_ref().expect("an owner").table;
        let expected = self.model.is_blocked(&ask);
        let began = Instant::now();
        loop {
            let found = table.run(move || {
                let mut lock = record(kind, start, len);
                sys::fcntl_lock_raw(fd, command, &mut lock).map(|()| lock.l_type)
            });
            let found = found.map(|kind| i32::from(kind) != libc::F_UNLCK).map_err(|e| e.kind());
            let may_go = !expected && self.model.closed_late;
            if found != Ok(true) || !may_go || began.elapsed() > LATE {
                return same(&format!("GETLK {ask:?} of {owner}"), found, Ok(expected));
            }
        }
    }

    fn fork(&mut self, owner: usize, [child, ..]: [u8; 5]) {
        let child = usize::from(child) % TABLES;
        if self.owners[child].is_none() {
            let own = self.owners[owner].as_ref().expect("an owner");
            let (table, slots) = (own.table.fork(2), own.slots.clone());
            slots.iter().for_each(|slot| self.model.dup(slot.description));
            self.owners[child] = Some(Owner { table, side: own.side, slots });
        }
    }

    fn exit(&mut self, owner: usize) {
        if self.wait.as_ref().is_none_or(|wait| wait.owner != owner)
            && let Some(own) = self.owners[owner].take()
        {
            own.slots.iter().for_each(|slot| self.model.close(owner, slot.description));
            // The threads have ended, and the kernel closes their table a moment later.
            drop(own);
            self.model.closed_late = true;
        }
    }

    fn interrupt(&mut self) -> Result<(), String> {
        let Some(wait) = self.wait.take() else { return Ok(()) };
        let table = &self.owners[wait.owner].as_ref().expect("an owner").table;
        let result = interrupt(table, &wait.result);
        let error = result.map(|result| result.err().and_then(|e| e.raw_os_error()));
        same("an interrupted wait", error, Some(Some(libc::EINTR)))
    }

    /// Checks that the wait ends when no lock conflicts any more, and not before.
    fn settle(&mut self) -> Result<(), String> {
        let Some(wait) = &self.wait else { return Ok(()) };
        if self.model.is_blocked(&wait.ask) {
            sleep(Duration::from_micros(300));
            return match wait.result.try_recv() {
                Err(TryRecvError::Empty) => Ok(()),
                ended => Err(format!("{:?} of {} did not wait: {ended:?}", wait.ask, wait.owner)),
            };
        }
        let ended = wait.result.recv_timeout(patience(Duration::from_secs(10)));
        let Ok(ended) = ended else {
            return Err(format!("{:?} of {} still waits", wait.ask, wait.owner));
        };
        same(&format!("{:?} after its wait", wait.ask), answer(&ended), Ok(Answer::Granted))?;
        self.model.grant(&wait.ask);
        self.wait = None;
        Ok(())
    }
}

/// How long locks of an open file may still conflict after its last close. Chosen for a busy machine.
const LATE: Duration = Duration::from_secs(2);
