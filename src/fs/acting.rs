//! With whose credentials a request changes the source: translates the caller's ids, and takes the guard.

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::killpriv::KillprivRights;
use super::mode_bits::{SETGID, SETUID};
use super::{Caller, Fs, Result};
use crate::idmap::{SourceGid, SourceUid, outside};
use crate::source::{ActingAs, Inode};
use crate::view::{CreatedBy, View};

impl Fs {
    /// Translates the caller's ids to the source. EOVERFLOW if one is unmapped, so that the caller cannot own anything, or
    /// if the kernel does not tell them.
    pub(super) fn source_ids(&self, caller: &Caller) -> Result<(SourceUid, SourceGid)> {
        let view = self.view();
        let (uid, gid) = caller.ids.ok_or(Errno::OVERFLOW)?;
        let uid = view.ids.uid_to_source(uid).ok_or(Errno::OVERFLOW)?;
        let gid = view.ids.gid_to_source(gid).ok_or(Errno::OVERFLOW)?;
        Ok((uid, gid))
    }

    /// Returns the source ids that own what a caller creates. EOVERFLOW if one that is needed is unmapped.
    pub(super) fn owner_of_new(
        &self,
        view: &View,
        caller: &Caller,
    ) -> Result<(SourceUid, SourceGid)> {
        let creation = &view.creation;
        let (uid, gid) = caller.creates_as.unzip();
        let (uid, gid) = match creation.by {
            CreatedBy::Caller => (
                uid.and_then(|uid| view.ids.uid_to_source(uid)),
                gid.and_then(|gid| view.ids.gid_to_source(gid)),
            ),
            CreatedBy::Mounter => {
                let (own_uid, own_gid) = self.credentials.own();
                (
                    uid.and_then(|uid| view.ids.uids.explicit_to_source(uid)).or(own_uid),
                    gid.and_then(|gid| view.ids.gids.explicit_to_source(gid)).or(own_gid),
                )
            }
        };
        let uid = creation.uid.or(uid).ok_or(Errno::OVERFLOW)?;
        let gid = creation.gid.or(gid).ok_or(Errno::OVERFLOW)?;
        Ok((uid, gid))
    }

    /// Checks that the caller may add a name for an existing inode.
    ///
    /// EOVERFLOW if the caller is unmapped (Linux `may_create`), unless the view allows that or the kernel does not tell
    /// the caller's ids.
    pub(super) fn may_add_names(&self, caller: &Caller) -> Result<()> {
        let view = self.view();
        match view.changes.names_by_unmapped || caller.ids.is_none() {
            true => Ok(()),
            false => self.owner_of_new(&view, caller).map(drop),
        }
    }

    /// Acts with the ids that are to own a new inode, and sets the umask for the source.
    ///
    /// The inode thus never has another owner, not even for a moment. Also returns the permission bits to create it
    /// with.
    pub(super) fn create_as(
        &self,
        caller: &Caller,
        kind: FileType,
        mode: u32,
        umask: u32,
    ) -> Result<(ActingAs<'_>, Mode)> {
        let view = self.view();
        let (uid, gid) = self.owner_of_new(&view, caller)?;
        let perms = &view.creation.perms;
        let mut mode = mode;
        // The setuid or setgid bit would let others act with an id that is not the caller's.
        let (own_uid, own_gid) = caller.creates_as.unzip();
        if own_uid.and_then(|own| view.ids.uid_to_source(own)) != Some(uid) {
            mode &= !SETUID;
        }
        if !kind.is_dir() && own_gid.and_then(|own| view.ids.gid_to_source(own)) != Some(gid) {
            mode &= !SETGID;
        }
        let (mode, umask) = match perms.is_empty() {
            true => (mode & 0o7777, umask),
            false => (perms.apply(kind, mode & 0o7777 & !umask), 0),
        };
        let mut acting = self.credentials.creator((uid, gid), umask)?;
        if mode & SETGID != 0 {
            // The kernel has already cleared the bit if the caller may not set it.
            acting.set_fsetid(true);
        }
        Ok((acting, Mode::from_raw_mode(mode)))
    }

    /// Acts with the caller's source ids where nothing is created.
    ///
    /// If the caller is unmapped, with ids that own nothing. A source with a server (another FUSE filesystem, NFS) may
    /// check the ids, so those of the previous request must not stay.
    pub(super) fn act_for(&self, caller: &Caller) -> Result<ActingAs<'_>> {
        self.credentials.on_behalf(self.source_ids(caller).ok())
    }

    /// Acts with the caller's source ids to read an inode, if a server may check them.
    ///
    /// On any other source reads may use whatever ids the thread has.
    pub(super) fn read_as(&self, caller: &Caller, inode: &Inode) -> Result<()> {
        if self.tree.is_server_backed(inode) {
            let _acting = self.act_for(caller)?;
        }
        Ok(())
    }

    /// Returns the caller's own ids, as the daemon's user namespace numbers them: root of a container is not root. `None`: the
    /// kernel does not tell them.
    pub(super) fn own_ids(&self, caller: &Caller) -> Result<Option<(u32, u32)>> {
        let Some((uid, gid)) = caller.ids else { return Ok(None) };
        let (uid, gid) = (uid.raw(), gid.raw());
        match &self.container {
            None => Ok(Some((uid, gid))),
            Some(ids) => {
                let own = outside(&ids.uids, uid).zip(outside(&ids.gids, gid));
                own.map(Some).ok_or(Errno::OVERFLOW)
            }
        }
    }

    /// Acts with the caller's own, untranslated ids to write to an inode.
    ///
    /// The source gives reserved blocks to the caller only if it is root at the mount, whatever it is mapped to. On a
    /// source with a server, acts with the caller's source ids. A caller whose ids the kernel does not tell acts with ids
    /// that own nothing.
    pub(super) fn write_as(
        &self,
        caller: &Caller,
        inode: &Inode,
        rights: KillprivRights,
    ) -> Result<ActingAs<'_>> {
        let mut acting = if self.tree.is_server_backed(inode) {
            self.act_for(caller)?
        } else {
            match self.own_ids(caller)? {
                Some((uid, gid)) => {
                    self.credentials.writer(uid, rights.membership.acting_gid(gid))?
                }
                None => {
                    self.credentials.ownerless_writer(|own| rights.membership.acting_gid(own))?
                }
            }
        };
        if let Some(fsetid) = rights.fsetid {
            acting.set_fsetid(fsetid);
        }
        Ok(acting)
    }
}
