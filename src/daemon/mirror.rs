//! The users of the mirror, from the user database.
//!
//! They are looked up before the mount is attached, and again on SIGUSR1. Later lookups run on a thread of their own,
//! so that no worker waits for them: the database may lie on the mount.

use std::collections::HashSet;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::accounts::SystemAccounts;
use crate::error::{Error, Result};
use crate::fuse::LiveUpdate;
use crate::idmap::MountUid;
use crate::view::View;

/// Requests a new lookup of the mirror's users. Without a mirror it does nothing.
#[derive(Debug, Clone)]
pub(super) struct RefreshHandle(Option<SyncSender<()>>);

impl RefreshHandle {
    /// Requests a lookup. A pending request that has not begun covers this one.
    pub(super) fn request(&self) {
        if let Some(sender) = &self.0 {
            let _ = sender.try_send(());
        }
    }
}

/// Looks up the users of a view's mirror.
pub(super) fn users(view: &View) -> Result<HashSet<MountUid>> {
    let Some(mirror) = &view.mirror else { return Ok(HashSet::new()) };
    SystemAccounts.members(&mirror.principals).map_err(|e| {
        let option = if mirror.only { "mirror-only" } else { "mirror" };
        Error::system(format!("option '{option}': cannot ask the user database"), e)
    })
}

/// Starts the thread that looks them up again, if the view has a mirror.
pub(super) fn spawn_refresher(live: LiveUpdate, view: &View) -> io::Result<RefreshHandle> {
    if view.mirror.is_none() {
        return Ok(RefreshHandle(None));
    }
    let (sender, requests) = sync_channel(1);
    thread::Builder::new()
        .name("mirror-refresh".to_owned())
        .spawn(move || serve(&live, &requests))?;
    Ok(RefreshHandle(Some(sender)))
}

fn serve(live: &LiveUpdate, requests: &Receiver<()>) {
    while let Ok(()) = requests.recv() {
        let Some(view) = live.view() else { return };
        match users(&view) {
            Ok(users) => {
                log::info!("mirror: looked up its users: users={}", users.len());
                live.set_mirrored(users);
            }
            Err(e) => log::error!("{e}; the mirror keeps its previous users"),
        }
    }
}
