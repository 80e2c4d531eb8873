//! A socket on which the daemon of a mount in another namespace is asked for its report and for a reload.
//!
//! Through the mount itself only processes of the container could ask, and they are told nothing. The socket lies in a
//! directory of root's alone (`mount/registry.rs`).

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::OptionsAgain;
use super::reload::{ReloadHandle, reload_elsewhere};
use crate::error::{Error, Exit, Result};
use crate::fuse::{LiveUpdate, Server};
use crate::mount::{self, RELOAD, REPORT, Registered, Registration};

/// How long a client may take to ask. Chosen: it asks at once.
const ASKING: Duration = Duration::from_secs(1);
/// How long a reload may take. Chosen, as for a mount in this namespace.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts the thread that answers, where the mount is registered.
pub(super) fn spawn(
    registration: Option<&Registration>,
    reload: &ReloadHandle,
    server: &Server,
) -> io::Result<()> {
    let Some(registration) = registration else { return Ok(()) };
    let (reload, live, report) = (reload.clone(), server.live_update(), server.reporter());
    // A daemon that was killed may have left one.
    let _ = std::fs::remove_file(registration.socket());
    let listener = UnixListener::bind(registration.socket())?;
    thread::Builder::new().name("control".to_owned()).spawn(move || {
        for client in listener.incoming().flatten() {
            // A client that has gone waits for nothing.
            let _ = serve(client, &reload, &live, &report);
        }
    })?;
    Ok(())
}

fn serve(
    mut client: UnixStream,
    reload: &ReloadHandle,
    live: &LiveUpdate,
    report: impl Fn() -> Option<String>,
) -> io::Result<()> {
    client.set_read_timeout(Some(ASKING))?;
    client.set_write_timeout(Some(ASKING))?;
    let mut word = [0; REPORT.len()];
    client.read_exact(&mut word)?;
    match &word[..] {
        REPORT => client.write_all(report().unwrap_or_default().as_bytes()),
        RELOAD => {
            let (code, text) = match reload_now(reload, live) {
                Ok(()) => (0, String::new()),
                Err(e) => (e.exit().code(), e.to_string()),
            };
            client.write_all(&[&[code], text.as_bytes()].concat())
        }
        _ => Ok(()),
    }
}

fn reload_now(reload: &ReloadHandle, live: &LiveUpdate) -> Result<()> {
    let (before, ..) = live.reloads().state();
    reload.request();
    let end = Instant::now() + RELOAD_TIMEOUT;
    loop {
        // A reload that had begun before may have read the previous options.
        let (_, ended, refused) = live.reloads().state();
        if ended > before {
            return refused.map_or(Ok(()), |(exit, text)| Err(Error::reported(exit, text)));
        }
        if Instant::now() > end {
            return Err(Error::refused("not done in time; see the daemon's log"));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Evaluates the options of a mount in another namespace again: its daemon does so or, where the kernel made it, this process.
///
/// # Errors
/// The mount is not found; the daemon cannot be reached; why the reload was refused.
pub fn reload_in(namespace: &OsStr, path: &Path, again: OptionsAgain) -> Result<()> {
    let name = path.display();
    let mut found = mount::mount_in(namespace, path)?;
    let message = |e: Error| Error::reported(e.exit(), format!("reload {name}: {e}"));
    let entry = found.take_registered().map_err(message)?;
    match entry.daemon {
        Some(_) => reload_daemon(&entry, &name.to_string()),
        None => reload_elsewhere(found, entry, again).map_err(message),
    }
}

/// Makes the daemon of a mount evaluate its options again. `name` is for messages.
fn reload_daemon(mount: &Registered, name: &str) -> Result<()> {
    let answer = mount
        .ask(RELOAD)
        .map_err(|e| Error::mount(format!("reload {name}: cannot reach the daemon"), e))?;
    match answer.split_first() {
        Some((0, _)) => Ok(()),
        Some((code, text)) => {
            let text = String::from_utf8_lossy(text);
            Err(Error::reported(Exit::from_code((*code).into()), format!("reload {name}: {text}")))
        }
        None => Err(Error::refused(format!("reload {name}: the daemon ended"))),
    }
}
