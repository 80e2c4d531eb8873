//! What makes something: mknod, mkdir, symlink, link, create. Everything belongs to its creator from its first instant.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::{CacheValidity, Caller, DirEntryRef, Entry, Fs, OpenedFile, Result, decode_dev};
use crate::source::{ActingAs, Inode, NewNode, NodeId, component, reopen};

/// How often a name that comes and goes on the source is tried to be made.
const MAX_ATTEMPTS: u32 = 100;

impl Fs {
    /// Makes a file, FIFO, socket or device. EOVERFLOW when the caller has no counterpart on the source.
    pub fn mknod(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
    ) -> Result<Entry> {
        let kind = FileType::from_raw_mode(mode);
        self.make(caller, parent, name, (kind, mode, umask), |acting, dir, name, mode| {
            let (major, minor) = decode_dev(rdev);
            acting.mknod(
                dir,
                name,
                NewNode { kind, mode, device: rustix::fs::makedev(major, minor) },
            )
        })
    }

    /// Makes a directory.
    pub fn mkdir(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        umask: u32,
    ) -> Result<Entry> {
        let made = (FileType::Directory, mode, umask);
        self.make(caller, parent, name, made, |acting, dir, name, mode| {
            self.check_reserved_blocks(caller, dir)?;
            acting.mkdir(dir, name, mode)
        })
    }

    /// Makes a symbolic link. EPERM where they are shown as what they lead to.
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
        self.make(caller, parent, name, (FileType::Symlink, 0, 0), |acting, dir, name, _| {
            acting.symlink(target, dir, name)
        })
    }

    /// ENOSPC where only the reserve is left that a filesystem keeps for root, for a caller who is stored as root
    /// without being it: what needs blocks, as a directory does, would get them from there.
    fn check_reserved_blocks(&self, caller: &Caller, dir: &OwnedFd) -> Result<()> {
        let is_root = |uid: u32| uid == 0;
        let stored = self.owner_of_new(&self.view(), caller)?.0;
        if !is_root(stored.raw()) || is_root(caller.uid.raw()) {
            return Ok(());
        }
        let free = rustix::fs::fstatvfs(dir)?;
        if free.f_bavail == 0 && free.f_bfree > 0 { Err(Errno::NOSPC) } else { Ok(()) }
    }

    fn make(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        (kind, mode, umask): (FileType, u32, u32),
        make: impl FnOnce(&ActingAs<'_>, &OwnedFd, &std::ffi::CStr, Mode) -> Result<()>,
    ) -> Result<Entry> {
        let _change = self.prefetcher.begin_change();
        let dir = self.tree.inode(parent)?;
        self.check_new_name(&dir, name)?;
        let dir_fd = self.tree.fd(&dir)?;
        let c_name = component(name)?;
        let (acting, mode) = self.create_as(caller, kind, mode, umask)?;
        self.may_make_in(caller, &dir)?;
        make(&acting, &dir_fd, &c_name, mode)?;
        self.lookup_created(caller, &dir, name)
    }

    /// The entry of what was just made.
    fn lookup_created(&self, caller: &Caller, dir: &Inode, name: &OsStr) -> Result<Entry> {
        let entry_ref = self.entry_ref(dir, name);
        Ok(self.entry(caller, &entry_ref, &self.find(dir, name)?))
    }

    /// Gives an inode one more name. EOVERFLOW when the caller has no counterpart on the source, as for anything that
    /// is made (Linux `may_create`), unless the view lets him.
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
        self.check_new_name(&dir, new_name)?;
        self.may_link(caller, &inode, &dir)?;
        self.may_link_hidden_bits(caller, &inode)?;
        let dir_fd = self.tree.fd(&dir)?;
        let name = component(new_name)?;
        let fd = self.tree.fd(&inode)?;
        self.act_for(caller)?.link(&fd, &dir_fd, &name)?;
        self.lookup_created(caller, &dir, new_name)
    }

    /// Makes a regular file and opens it. ESTALE when the name exists and the caller did not insist on a new file: the
    /// kernel then looks it up, checks his rights on it and opens it the ordinary way.
    pub fn create(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        umask: u32,
        asked: OFlags,
    ) -> Result<(Entry, OpenedFile)> {
        let _change = self.prefetcher.begin_change();
        let dir = self.tree.inode(parent)?;
        self.check_new_name(&dir, name)?;
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
            // Somebody was faster on the source. If he took it back as fast, the kernel's look-up would find nothing.
            attempts += 1;
            if attempts == MAX_ATTEMPTS || self.tree.has_name(&dir_fd, &c_name) {
                self.tree.keep_lookups_open();
                self.contended.found(parent, name);
                return Err(Errno::STALE);
            }
        };
        let event_seq = self.event_seq(&dir);
        // The kernel has just looked the name up.
        let validity =
            if dir.is_watched() { CacheValidity::WhileWatched } else { CacheValidity::Timeout };
        self.opened_entry(caller, &DirEntryRef { dir: &dir, name, validity, event_seq }, fd, wanted)
    }

    /// Makes a regular file without a name and opens it (open(2), O_TMPFILE). EOPNOTSUPP where the source has none, and
    /// for who would not own it: the kernel lets nobody link what is not his (proc_sys_fs(5), protected_hardlinks), and
    /// programs that could not give it its name know how to do without.
    pub fn tmpfile(
        &self,
        caller: &Caller,
        parent: NodeId,
        mode: u32,
        umask: u32,
        asked: OFlags,
    ) -> Result<(Entry, OpenedFile)> {
        let dir = self.tree.inode(parent)?;
        let dir_fd = self.tree.fd(&dir)?;
        let (acting, mode) = self.create_as(caller, FileType::RegularFile, mode, umask)?;
        self.may_make_in(caller, &dir)?;
        let wanted = self.source_flags(asked);
        // With O_EXCL it never gets a name.
        let flags = wanted | OFlags::TMPFILE | OFlags::CLOEXEC | (asked & OFlags::EXCL);
        let fd = acting.create(&dir_fd, c".", flags, mode)?;
        if !asked.contains(OFlags::EXCL) && !self.acts_as_owner_of(caller, &fd)? {
            return Err(Errno::OPNOTSUPP);
        }
        // No directory tells of it.
        let entry_ref = DirEntryRef {
            dir: &dir,
            name: OsStr::new(""),
            validity: CacheValidity::Timeout,
            event_seq: 0,
        };
        self.opened_entry(caller, &entry_ref, fd, wanted)
    }

    /// Whether a caller may do to a file what its owner may, as it is shown to him.
    fn acts_as_owner_of(&self, caller: &Caller, fd: &OwnedFd) -> Result<bool> {
        let mask = StatxFlags::BASIC_STATS;
        let file = self.shown(caller, &rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, mask)?);
        let overrides = || self.creds_of(caller).overrides_owner(&file);
        Ok(file.uid == Some(caller.uid) || overrides())
    }

    /// The answer for a file that was just made and opened.
    fn opened_entry(
        &self,
        caller: &Caller,
        entry_ref: &DirEntryRef<'_>,
        fd: OwnedFd,
        wanted: OFlags,
    ) -> Result<(Entry, OpenedFile)> {
        let found = self.tree.insert_created(entry_ref.dir.mount(), &fd)?;
        let mut entry = self.entry(caller, entry_ref, &found);
        if wanted & OFlags::ACCMODE == OFlags::RDWR
            && entry.attr.validity == CacheValidity::WhileWatched
        {
            // See `keep_open`.
            entry.attr.validity = CacheValidity::Timeout;
        }
        let fd = Arc::new(fd);
        let may_pass_through = self.may_pass_through(&found.inode, &found.stat);
        // Not the file itself: open for writing, it would keep others from running it for longer than its opener does.
        let anchor = Arc::new(reopen(&fd, OFlags::PATH)?);
        let opened = self.keep_open(found.inode, anchor, Some(fd), wanted);
        Ok((entry, OpenedFile { may_pass_through, ..opened }))
    }
}
