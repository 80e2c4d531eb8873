//! fuser's calls, each handed to the filesystem and its answer to the reply. Nothing is decided here.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags,
    PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;

use super::answers::{NOTHING, caller, empty, is_direct, lock_kind, open_flags, xattr};
use super::backing::Backings;
use super::convert::{errno, file_attr, file_type, set_time};
use super::data::Data;
use super::notices::KernelCache;
use super::opening::beside;
use super::status::{REQUEST as STATUS, Reloads};
use super::times::Times;
use super::wire::Wire;
use crate::config::CachePolicy;
use crate::fs::{
    Attr, Entry, Fs, Ioctl, LockKind, LockRange, LockRequest, Lookup, Moved, Read, Result, SetAttr,
    Write,
};
use crate::idmap::{MountGid, MountUid};
use crate::source::NodeId;
use crate::view::Checks;

/// Requests that the kernel may have under way in the background.
const MAX_BACKGROUND: u16 = 64;

/// The filesystem as fuser calls it.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) fs: Arc<Fs>,
    pub(super) times: Times,
    pub(super) notices: Arc<KernelCache>,
    pub(super) backings: Arc<Backings>,
    pub(super) data: Arc<Data>,
    wire: Wire,
    /// What is told to whoever asks for a reload.
    reloads: Arc<Reloads>,
    /// Whether the kernel keeps directory listings until it is told that they changed.
    keeps_listings: bool,
    /// How deep the source is stacked: 1, or 2 where it is stacked itself.
    stack_depth: u32,
}

impl Adapter {
    pub(super) fn new(
        fs: Arc<Fs>,
        cache: CachePolicy,
        backings: Arc<Backings>,
        notices: Arc<KernelCache>,
        data: Arc<Data>,
        reloads: Arc<Reloads>,
        wire: Wire,
    ) -> Self {
        let stack_depth = if fs.tree().is_stacked() { 2 } else { 1 };
        let needs = fs.needs();
        // Where we check permissions, we must see who opens a directory.
        let keeps_listings = needs.checks == Checks::Kernel
            && matches!(cache, CachePolicy::Coherent { .. } | CachePolicy::Forever);
        let times = Times::of(cache, needs);
        Self { fs, times, backings, notices, data, wire, reloads, keeps_listings, stack_depth }
    }

    fn answer_entry(&self, reply: ReplyEntry, entry: Result<Entry>) {
        match entry {
            Ok(entry) => {
                let (name, attr) = (self.times.name(entry.name), self.times.attr(&entry.attr));
                reply.entry_with_ttls(&attr, &name, &file_attr(&entry.attr), Generation(0));
            }
            Err(e) => reply.error(errno(e)),
        }
    }

    fn answer_attr(&self, reply: ReplyAttr, attr: Result<Attr>) {
        match attr {
            Ok(attr) => reply.attr(&self.times.attr(&attr), &file_attr(&attr)),
            Err(e) => reply.error(errno(e)),
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // ATOMIC_O_TRUNC is left out: the kernel then clears setuid bits of a truncated file by the caller's rights.
        let wanted = [
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            // Spares a getxattr for every write(2). Which bits a write takes is then ours to see to.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ];
        let needs = self.fs.needs();
        let kernel_checks = needs.checks == Checks::Kernel;
        // Without extended attributes there are no ACLs to look for. Where we check permissions we look at them: for the
        // kernel the flag implies that it checks.
        let acls = (needs.xattrs && kernel_checks).then_some(InitFlags::FUSE_POSIX_ACL);
        // Of no use where the kernel keeps no names.
        let listings = [InitFlags::FUSE_DO_READDIRPLUS, InitFlags::FUSE_READDIRPLUS_AUTO];
        let listings = listings.into_iter().filter(|_| kernel_checks);
        // Else the kernel keeps them, within the mount.
        let locks = self.data.locks_on_source.then_some(InitFlags::FUSE_POSIX_LOCKS);
        // Files past the page cache can be mapped all the same, also to be shared.
        let maps = self.data.direct_io.then_some(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);
        for flag in wanted.into_iter().chain(acls).chain(listings).chain(locks).chain(maps) {
            if config.add_capabilities(flag).is_err() {
                log::info!("the kernel's FUSE lacks {flag:?}");
            }
        }
        if config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_err()
            || config.set_max_stack_depth(self.stack_depth).is_err()
        {
            log::info!("the kernel's FUSE has no passthrough");
            self.backings.forbid();
        }
        // Each takes the nearest value that the kernel allows.
        if let Err(most) = config.set_max_write(self.data.most_written) {
            let _ = config.set_max_write(most);
        }
        if let Err(most) = config.set_max_readahead(self.data.most_readahead) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if let Some(root) = self.wire.root_at(parent, name) {
            let attr = caller(request).and_then(|caller| self.fs.getattr(&caller, NodeId::ROOT));
            return match attr {
                Ok(attr) => {
                    let time = self.times.attr(&attr);
                    let attr = FileAttr { ino: root, ..file_attr(&attr) };
                    reply.entry(&time, &attr, Generation(0));
                }
                Err(e) => reply.error(errno(e)),
            };
        }
        match caller(request)
            .and_then(|caller| self.fs.lookup(&caller, self.wire.node(parent), name))
        {
            Ok(Lookup::Found(entry)) => self.answer_entry(reply, Ok(entry)),
            Ok(Lookup::Missing(trust)) => match self.times.missing(trust) {
                Duration::ZERO => reply.error(Errno::ENOENT),
                // An entry without an inode: the kernel remembers that there is none.
                time => reply.entry(&time, &NOTHING, Generation(0)),
            },
            Err(e) => reply.error(errno(e)),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        if self.fs.forget(self.wire.node(ino), lookups) {
            self.backings.cool(self.wire.node(ino));
        }
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let attr = caller(request).and_then(|caller| self.fs.getattr(&caller, self.wire.node(ino)));
        self.answer_attr(reply, attr);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode,
            uid: uid.and_then(MountUid::new),
            gid: gid.and_then(MountGid::new),
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
        };
        let (node, handle) = (self.wire.node(ino), handle.map(|handle| handle.0));
        let caller = match caller(request) {
            Ok(caller) => caller,
            Err(e) => return reply.error(errno(e)),
        };
        match self.fs.setattr(&caller, node, handle, &set, false) {
            Err(rustix::io::Errno::AGAIN) => {
                let (fs, times) = (Arc::clone(&self.fs), self.times.clone());
                beside(move || match fs.setattr(&caller, node, handle, &set, true) {
                    Ok(attr) => reply.attr(&times.attr(&attr), &file_attr(&attr)),
                    Err(e) => reply.error(errno(e)),
                });
            }
            attr => self.answer_attr(reply, attr),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.fs.readlink(self.wire.node(ino)) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let made = caller(request).and_then(|caller| {
            self.fs.mknod(&caller, self.wire.node(parent), name, mode, umask, rdev)
        });
        self.answer_entry(reply, made);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let made = caller(request)
            .and_then(|caller| self.fs.mkdir(&caller, self.wire.node(parent), name, mode, umask));
        self.answer_entry(reply, made);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let gone = caller(request)
            .and_then(|caller| self.fs.unlink(&caller, self.wire.node(parent), name));
        empty(reply, gone);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let gone =
            caller(request).and_then(|caller| self.fs.rmdir(&caller, self.wire.node(parent), name));
        empty(reply, gone);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let made = caller(request).and_then(|caller| {
            self.fs.symlink(&caller, self.wire.node(parent), name, target.as_os_str())
        });
        self.answer_entry(reply, made);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        let result = caller(request).and_then(|caller| {
            self.fs.rename(
                &caller,
                self.wire.node(parent),
                name,
                self.wire.node(new_parent),
                new_name,
                flags,
            )
        });
        let moved = result.as_ref().copied().unwrap_or(Moved::Alone);
        empty(reply, result.map(drop));
        if moved == Moved::WithPaths {
            let notices = Arc::clone(&self.notices);
            let places = [
                (self.wire.node(parent), name.to_owned()),
                (self.wire.node(new_parent), new_name.to_owned()),
            ];
            // The kernel holds the directories until it has the reply.
            beside(move || notices.moved(&places));
        }
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let linked = caller(request).and_then(|caller| {
            self.fs.link(&caller, self.wire.node(ino), self.wire.node(new_parent), new_name)
        });
        self.answer_entry(reply, linked);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.answer_open(caller(request), self.wire.node(ino), open_flags(flags.0), reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let made = caller(request).and_then(|caller| {
            self.fs.create(&caller, self.wire.node(parent), name, mode, umask, open_flags(flags))
        });
        self.answer_create(made, reply);
    }

    fn read(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // Of what the page cache wants the kernel does not say whose it is.
        let for_cache = owner.is_none();
        let direct = is_direct(flags.0) && !for_cache;
        let read = Read { handle: handle.0, offset, direct, for_cache };
        self.data.read(&self.fs, request.pid(), read, size as usize, move |data| match data {
            Ok(data) => reply.data(data),
            Err(e) => reply.error(errno(e)),
        });
    }

    fn write(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let caller = match caller(request) {
            Ok(caller) => caller,
            Err(e) => return reply.error(errno(e)),
        };
        // What comes from the page cache goes where it was mapped, also in a file opened to append.
        let is_cached = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let how = Write {
            handle: handle.0,
            offset,
            direct: is_direct(flags.0) && owner.is_some(),
            appends: open_flags(flags.0).contains(OFlags::APPEND) && !is_cached,
            takes_privileges: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        self.data.write(&self.fs, caller, data, how, move |written| match written {
            Ok(count) => reply.written(count as u32),
            Err(e) => reply.error(errno(e)),
        });
    }

    fn flush(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        if !self.data.locks_on_source {
            // There is nothing to release; told so once, the kernel never asks.
            return reply.error(Errno::ENOSYS);
        }
        empty(reply, self.fs.flush(handle.0, owner.0));
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.close(handle.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        empty(reply, self.fs.fsync(handle.0, data_only));
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.keeps_listings {
            // Told so once, the kernel opens directories without us and keeps what they list.
            return reply.error(Errno::ENOSYS);
        }
        match caller(request).and_then(|caller| self.fs.opendir(&caller, self.wire.node(ino))) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let result = self.fs.readdir(self.wire.node(ino), handle.0, offset, |entry| {
            reply.add(INodeNo(entry.ino), entry.cookie, file_type(entry.kind), entry.name)
        });
        match result {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let generation = Generation(0);
        let caller = match caller(request) {
            Ok(caller) => caller,
            Err(e) => return reply.error(errno(e)),
        };
        let result =
            self.fs.readdirplus(&caller, self.wire.node(ino), handle.0, offset, |entry, found| {
                let attr = match found {
                    Some(found) => file_attr(&found.attr),
                    // Neither `.` nor `..` is looked up: the kernel takes only number and type from here.
                    None => {
                        FileAttr { ino: INodeNo(entry.ino), kind: file_type(entry.kind), ..NOTHING }
                    }
                };
                let ttl = found.map_or(Duration::ZERO, |found| self.times.both(found));
                reply.add(attr.ino, entry.cookie, entry.name, &ttl, &attr, generation)
            });
        match result {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        empty(reply, self.fs.releasedir(handle.0));
    }

    fn fsyncdir(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        empty(reply, self.fs.fsyncdir(self.wire.node(ino), handle.0, data_only));
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.fs.statfs(self.wire.node(ino)) {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                s.f_namemax as u32,
                s.f_frsize as u32,
            ),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let result = caller(request)
            .and_then(|caller| self.fs.setxattr(&caller, self.wire.node(ino), name, value, flags));
        empty(reply, result);
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        room: u32,
        reply: ReplyXattr,
    ) {
        let value =
            caller(request).and_then(|caller| self.fs.getxattr(&caller, self.wire.node(ino), name));
        xattr(reply, room, value);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, room: u32, reply: ReplyXattr) {
        xattr(
            reply,
            room,
            caller(request).and_then(|caller| self.fs.listxattr(&caller, self.wire.node(ino))),
        );
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let result = caller(request)
            .and_then(|caller| self.fs.removexattr(&caller, self.wire.node(ino), name));
        empty(reply, result);
    }

    fn access(&self, request: &Request, ino: INodeNo, wanted: AccessFlags, reply: ReplyEmpty) {
        if self.fs.needs().checks == Checks::Kernel {
            // With default_permissions the kernel answers by itself; told so once, it never asks.
            return reply.error(Errno::ENOSYS);
        }
        let wanted = rustix::fs::Access::from_bits_truncate(wanted.bits() as u32);
        let may =
            caller(request).and_then(|caller| self.fs.access(&caller, self.wire.node(ino), wanted));
        empty(reply, may);
    }

    fn getlk(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let conflict = lock_kind(kind).and_then(|kind| {
            let range = LockRange { start, end, kind };
            self.fs.getlk(&LockRequest { handle: handle.0, owner: owner.0, range, pid })
        });
        match conflict {
            Ok(None) => reply.locked(0, 0, libc::F_UNLCK, 0),
            Ok(Some(conflict)) => {
                let kind = match conflict.range.kind {
                    LockKind::Write => libc::F_WRLCK,
                    _ => libc::F_RDLCK,
                };
                let pid = conflict.pid.max(0) as u32;
                reply.locked(conflict.range.start, conflict.range.end, kind, pid);
            }
            Err(e) => reply.error(errno(e)),
        }
    }

    fn setlk(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let parts = caller(request).and_then(|caller| Ok((caller, lock_kind(kind)?)));
        match parts {
            Ok((caller, kind)) => {
                let range = LockRange { start, end, kind };
                let lock = LockRequest { handle: handle.0, owner: owner.0, range, pid };
                self.fs.setlk(&caller, lock, sleep, move |result| empty(reply, result));
            }
            Err(e) => reply.error(errno(e)),
        }
    }

    fn ioctl(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        flags: IoctlFlags,
        command: u32,
        input: &[u8],
        room: u32,
        reply: ReplyIoctl,
    ) {
        if command == STATUS && self.wire.node(ino) == NodeId::ROOT {
            return reply.ioctl(0, &self.reloads.answer());
        }
        let ioctl = Ioctl {
            node: self.wire.node(ino),
            handle: handle.0,
            is_dir: flags.contains(IoctlFlags::FUSE_IOCTL_DIR),
            is_compat: flags.contains(IoctlFlags::FUSE_IOCTL_COMPAT),
            command,
            room: room as usize,
        };
        if self.fs.forwards(&ioctl) {
            let caller = match caller(request) {
                Ok(caller) => caller,
                Err(e) => return reply.error(errno(e)),
            };
            let (fs, input) = (Arc::clone(&self.fs), input.to_vec());
            return beside(move || match fs.forward_ioctl(&caller, &ioctl, &input) {
                Ok((returned, output)) => reply.ioctl(returned, &output),
                Err(e) => reply.error(errno(e)),
            });
        }
        let node = self.wire.node(ino);
        let output = caller(request)
            .and_then(|caller| self.fs.ioctl(&caller, node, command, input, room as usize));
        match output {
            Ok(output) => reply.ioctl(0, &output),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        // Regular files are always ready (poll(2)); told so once, the kernel answers by itself.
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let result = caller(request)
            .and_then(|caller| self.fs.fallocate(&caller, handle.0, mode, offset, len));
        empty(reply, result);
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.fs.lseek(handle.0, offset, whence) {
            Ok(offset) => reply.offset(offset),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _: INodeNo,
        from: FileHandle,
        from_offset: u64,
        _: INodeNo,
        to: FileHandle,
        to_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        if self.data.is_counted() {
            // The kernel then reads and writes, which is counted.
            return reply.error(Errno::EOPNOTSUPP);
        }
        let copied = caller(request).and_then(|caller| {
            self.fs.copy_file_range(&caller, (from.0, from_offset), (to.0, to_offset), len)
        });
        match copied {
            Ok(count) => reply.written(count as u32),
            Err(e) => reply.error(errno(e)),
        }
    }
}
