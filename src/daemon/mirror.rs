//! Who the mirror is for, by the user database: asked before the mount goes into service, and again on SIGUSR1 in a
//! thread of its own. No request ever waits for it: the database may lie on the mount.

use std::collections::HashSet;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::accounts::SystemAccounts;
use crate::error::{Error, Result};
use crate::fuse::LiveUpdate;
use crate::idmap::MountUid;
use crate::view::View;

/// Asks for the mirror's users to be looked up again.
#[derive(Debug, Clone)]
pub(super) struct RefreshHandle(Option<SyncSender<()>>);

impl RefreshHandle {
    /// Where it is asked for already and has not begun, that serves this request, too. Nothing without a mirror.
    pub(super) fn request(&self) {
        if let Some(sender) = &self.0 {
            let _ = sender.try_send(());
        }
    }
}

/// The users that a view's mirror is for.
pub(super) fn users(view: &View) -> Result<HashSet<MountUid>> {
    let Some(mirror) = &view.mirror else { return Ok(HashSet::new()) };
    SystemAccounts.members(&mirror.principals).map_err(|e| {
        let option = if mirror.only { "mirror-only" } else { "mirror" };
        Error::system(format!("option '{option}': cannot ask the user database"), e)
    })
}

/// Starts the thread, where there is a mirror.
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
                log::info!("mirror: {} users", users.len());
                live.set_mirrored(users);
            }
            Err(e) => log::error!("{e}; the mirror's users stay as they were"),
        }
    }
}
