//! Operations that create: mknod, mkdir, symlink, link, create. The caller owns the new inode from the start.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::shares::Share;
use super::{
    CacheValidity, Caller, DirEntryRef, Entry, Fs, NewEntry, OpenedFile, Result, decode_dev,
};
use crate::source::{ActingAs, Inode, NewNode, NodeId, component, reopen};

/// How often to try to create a name that a process on the source creates and removes (chosen).
const MAX_ATTEMPTS: u32 = 100;

impl Fs {
    /// Creates a file, FIFO, socket or device. EOVERFLOW if the caller is unmapped.
    pub fn mknod(&self, caller: &Caller, new: &NewEntry<'_>, rdev: u32) -> Result<Entry> {
        let kind = FileType::from_raw_mode(new.mode);
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        if self.container.is_some() && is_device && decode_dev(rdev) != (0, 0) {
            // Root of a container may make no device (`vfs_mknod`); the source would get one of the machine's.
            return Err(Errno::PERM);
        }
        self.make(caller, new, kind, |acting, dir, name, mode| {
            let (major, minor) = decode_dev(rdev);
            acting.mknod(
                dir,
                name,
                NewNode { kind, mode, device: rustix::fs::makedev(major, minor) },
            )
        })
    }

    /// Creates a directory.
    pub fn mkdir(&self, caller: &Caller, new: &NewEntry<'_>) -> Result<Entry> {
        self.make(caller, new, FileType::Directory, |acting, dir, name, mode| {
            self.check_reserved_blocks(caller, dir)?;
            acting.mkdir(dir, name, mode)
        })
    }

    /// Creates a symbolic link. EPERM with resolve-symlinks, which would show its target.
    pub fn symlink(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<Entry> {
        if self.view().resolve_symlinks.is_some() {
            return Err(Errno::PERM);
        }
        let new = NewEntry { parent, name, mode: 0, umask: 0 };
        self.make(caller, &new, FileType::Symlink, |acting, dir, name, _| {
            acting.symlink(target, dir, name)
        })
    }

    /// Keeps a caller from the reserved blocks of a filesystem: ENOSPC if only those are left.
    ///
    /// It is for a caller that is stored as root on the source without being root at the mount. mkdir(2), which needs a
    /// block, would take a reserved one.
    fn check_reserved_blocks(&self, caller: &Caller, dir: &OwnedFd) -> Result<()> {
        let is_root = |uid: u32| uid == 0;
        let stored = self.owner_of_new(&self.view(), caller)?.0;
        if !is_root(stored.raw()) || self.own_ids(caller)?.is_some_and(|(uid, _)| is_root(uid)) {
            return Ok(());
        }
        let free = rustix::fs::fstatvfs(dir)?;
        if free.f_bavail == 0 && free.f_bfree > 0 { Err(Errno::NOSPC) } else { Ok(()) }
    }

    fn make(
        &self,
        caller: &Caller,
        new: &NewEntry<'_>,
        kind: FileType,
        make: impl FnOnce(&ActingAs<'_>, &OwnedFd, &std::ffi::CStr, Mode) -> Result<()>,
    ) -> Result<Entry> {
        let _change = self.prefetcher.begin_change();
        let dir = self.tree.inode(new.parent)?;
        self.read_as(caller, &dir)?;
        self.check_new_name(&dir, new.name)?;
        let dir_fd = self.tree.fd(&dir)?;
        let c_name = component(new.name)?;
        let (acting, mode) = self.create_as(caller, kind, new.mode, new.umask)?;
        self.may_make_in(caller, &dir)?;
        make(&acting, &dir_fd, &c_name, mode)?;
        self.names_changed(&[&dir])?;
        self.lookup_created(caller, &dir, new.name)
    }

    /// Returns the entry of what was just created.
    fn lookup_created(&self, caller: &Caller, dir: &Inode, name: &OsStr) -> Result<Entry> {
        let entry_ref = self.entry_ref(dir, name);
        Ok(self.entry(caller, &entry_ref, &self.find(dir, name)?))
    }

    /// Adds a name for an inode.
    ///
    /// EOVERFLOW if the caller is unmapped, as for any creation (Linux `may_create`), unless the view allows it.
    pub fn link(
        &self,
        caller: &Caller,
        node: NodeId,
        new_parent: NodeId,
        new_name: &OsStr,
    ) -> Result<Entry> {
        let _change = self.prefetcher.begin_change();
        self.may_add_names(caller)?;
        let inode = self.tree.inode(node)?;
        let dir = self.tree.inode(new_parent)?;
        self.read_as(caller, &dir)?;
        self.check_new_name(&dir, new_name)?;
        self.may_link(caller, &inode, &dir)?;
        self.may_link_hidden_bits(caller, &inode)?;
        let dir_fd = self.tree.fd(&dir)?;
        let name = component(new_name)?;
        let fd = self.tree.fd(&inode)?;
        self.act_for(caller)?.link(&fd, &dir_fd, &name)?;
        inode.note_change();
        self.names_changed(&[&dir])?;
        self.lookup_created(caller, &dir, new_name)
    }

    /// Creates a regular file and opens it.
    ///
    /// ESTALE if the name exists and the caller did not use O_EXCL: the kernel then looks the name up, checks
    /// permissions and sends an ordinary open.
    pub fn create(
        &self,
        caller: &Caller,
        new: &NewEntry<'_>,
        asked: OFlags,
    ) -> Result<(Entry, OpenedFile)> {
        let NewEntry { parent, name, mode, umask } = *new;
        let _change = self.prefetcher.begin_change();
        let dir = self.tree.inode(parent)?;
        self.read_as(caller, &dir)?;
        self.check_new_name(&dir, name)?;
        let share = self.take_open_share(caller)?;
        let dir_fd = self.tree.fd(&dir)?;
        let c_name = component(name)?;
        let (acting, mode) = self.create_as(caller, FileType::RegularFile, mode, umask)?;
        self.may_make_in(caller, &dir)?;
        let wanted = self.source_flags(asked);
        let flags = wanted | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let insists = asked.contains(OFlags::EXCL);
        let mut attempts = 0;
        let fd = loop {
            match acting.create(&dir_fd, &c_name, flags, mode) {
                Err(Errno::EXIST) if !insists => {}
                result => break result?,
            }
            // A process on the source has created the name first. If it has removed it again, the kernel's lookup would
            // find nothing, so try to create it again.
            attempts += 1;
            if attempts == MAX_ATTEMPTS || self.tree.has_name(&dir_fd, &c_name) {
                self.tree.keep_lookups_open();
                self.contended.found(parent, name);
                return Err(Errno::STALE);
            }
        };
        self.names_changed(&[&dir])?;
        let event_seq = self.event_seq(&dir);
        // The kernel's LOOKUP of the name has just marked the directory, if it can be marked.
        let validity = CacheValidity::of_names(dir.is_watched());
        let entry_ref = DirEntryRef { dir: &dir, name, validity, event_seq };
        self.opened_entry(caller, &entry_ref, (fd, share), wanted)
    }

    /// Creates a regular file without a name and opens it (open(2), O_TMPFILE).
    ///
    /// EOPNOTSUPP if the source has no O_TMPFILE, and for a caller that would not own the file: it could not link it to
    /// a name (proc_sys_fs(5), protected_hardlinks), and programs have a fallback for a missing O_TMPFILE.
    pub fn tmpfile(
        &self,
        caller: &Caller,
        parent: NodeId,
        mode: u32,
        umask: u32,
        asked: OFlags,
    ) -> Result<(Entry, OpenedFile)> {
        let share = self.take_open_share(caller)?;
        let dir = self.tree.inode(parent)?;
        let dir_fd = self.tree.fd(&dir)?;
        let (acting, mode) = self.create_as(caller, FileType::RegularFile, mode, umask)?;
        self.may_make_in(caller, &dir)?;
        let wanted = self.source_flags(asked);
        // With O_EXCL it can never be linked to a name.
        let flags = wanted | OFlags::TMPFILE | OFlags::CLOEXEC | (asked & OFlags::EXCL);
        let fd = acting.create(&dir_fd, c".", flags, mode)?;
        if !asked.contains(OFlags::EXCL) && !self.acts_as_owner_of(caller, &fd)? {
            return Err(Errno::OPNOTSUPP);
        }
        // No mark reports changes of an inode without a name.
        let entry_ref = DirEntryRef {
            dir: &dir,
            name: OsStr::new(""),
            validity: CacheValidity::Timeout,
            event_seq: 0,
        };
        self.opened_entry(caller, &entry_ref, (fd, share), wanted)
    }

    /// Returns whether a caller may act as the owner of a file, as shown to it.
    fn acts_as_owner_of(&self, caller: &Caller, fd: &OwnedFd) -> Result<bool> {
        let mask = StatxFlags::BASIC_STATS;
        let file = self.shown(caller, &rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, mask)?);
        let overrides = || self.creds_of(caller).overrides_owner(&file);
        let will_own = caller.creates_as.is_some_and(|(uid, _)| file.uid == Some(uid));
        Ok(will_own || overrides())
    }

    /// Returns the answer for a file that was just created and opened.
    fn opened_entry(
        &self,
        caller: &Caller,
        entry_ref: &DirEntryRef<'_>,
        (fd, share): (OwnedFd, Share),
        wanted: OFlags,
    ) -> Result<(Entry, OpenedFile)> {
        let found = self.tree.insert_created(entry_ref.dir.mount(), &fd)?;
        let mut entry = self.entry(caller, entry_ref, &found);
        if wanted & OFlags::ACCMODE == OFlags::RDWR {
            // See `keep_open`.
            entry.attr.validity = entry.attr.validity.min(CacheValidity::Timeout);
        }
        let fd = Arc::new(fd);
        let may_pass_through = self.may_pass_through(&found.inode, &found.stat);
        // A descriptor for writing must not stay open longer than the client's, because the file could not be executed
        // (ETXTBSY).
        let anchor = Arc::new(reopen(&fd, OFlags::PATH)?);
        let opened = self.keep_open(found.inode, anchor, Some(fd), wanted, share);
        Ok((entry, OpenedFile { may_pass_through, ..opened }))
    }
}
