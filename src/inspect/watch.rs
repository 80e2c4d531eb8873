//! `shiftbind stat --watch`: asks again and again, and prints what happened in between.

use std::ffi::OsStr;
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ask::{Asked, LastChild, ask_again_all};
use super::elsewhere;
use super::report::Detail;
use super::told::{document, find, told_for_stat};
use super::view;
use crate::error::{Error, Result};
use crate::mount::{self, FoundMount, Registered};
use crate::sys::process::exit_at;
use crate::sys::terminal;

/// The size that a terminal is taken to have if it does not tell.
const USUAL_SIZE: (usize, usize) = (24, 80);

/// A mount that is asked again and again.
#[derive(Debug)]
pub struct Watched {
    place: Place,
    told: Value,
}

#[derive(Debug)]
enum Place {
    Here(Box<FoundMount>, LastChild),
    Elsewhere(Box<Registered>),
}

impl Watched {
    /// Finds it and asks it for the first time. `namespace` is the mount namespace that it is in, as `--namespace` names it.
    ///
    /// # Errors
    /// No mount of this program is there.
    pub fn find(mountpoint: &Path, namespace: Option<&OsStr>) -> Result<Self> {
        if let Some(value) = namespace {
            let mount = elsewhere::registered_at(value, mountpoint)?;
            let told = elsewhere::told_of(&mount, Detail::Stat);
            return Ok(Self { place: Place::Elsewhere(Box::new(mount)), told });
        }
        let mut child = LastChild::default();
        let (mount, answer) = find(mountpoint, Detail::Stat, &mut child)?;
        let told = told_for_stat(&mount, answer);
        Ok(Self { place: Place::Here(Box::new(mount), child), told })
    }

    /// What the mount tells now; `None` if it is gone.
    fn ask_again(&mut self) -> Result<Option<Value>> {
        match &mut self.place {
            Place::Here(mount, child) => ask_again(mount, child),
            Place::Elsewhere(mount) => elsewhere::stat_again(mount),
        }
    }
}

/// Prints what is known of a mount every `interval`, until the mount is gone, a signal asks for the end (SIGINT, SIGTERM,
/// SIGHUP), or no process reads the output any more. To be called where the process has one thread.
///
/// # Errors
/// The output cannot be written, or the mount table cannot be read.
pub fn watch(
    mut watched: Watched,
    as_json: bool,
    interval: Duration,
    out: &mut (impl Write + IsTerminal + AsFd),
) -> Result<()> {
    // A signal must end the process also where the output blocks (a pipe that is full) or an answer is awaited.
    exit_at(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP]).map_err(|e| Error::file("signals", e))?;
    let mut now = (Instant::now(), std::mem::take(&mut watched.told));
    let mut before: Option<(Instant, Value)> = None;
    let redraws = out.is_terminal() && !as_json;
    let (mut next, mut is_first) = (now.0, true);
    loop {
        let text = match as_json {
            true => document(&now.1).to_string() + "\n",
            false => view::view(&now.1, before.as_ref().map(|(at, told)| (told, now.0 - *at))),
        };
        let text = match (redraws, is_first) {
            (true, _) => screen(&text, is_first, terminal::size(&*out).unwrap_or(USUAL_SIZE)),
            (false, false) if !as_json => format!("\n{text}"),
            _ => text,
        };
        is_first = false;
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(()),
            result => result.map_err(|e| Error::file("standard output", e))?,
        }
        // An answer that came late delays the next question by whole intervals, not by all that was missed.
        while next <= Instant::now() {
            next += interval;
        }
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let Some(told) = watched.ask_again()? else { return Ok(()) };
        before = Some(std::mem::replace(&mut now, (Instant::now(), told)));
    }
}

/// What the mount tells now; `None` if it is gone.
fn ask_again(mount: &FoundMount, child: &mut LastChild) -> Result<Option<Value>> {
    let Some(mount) = mount::inventory()?.into_iter().find(|one| one.is_same_as(mount)) else {
        return Ok(None);
    };
    let answer = ask_again_all(std::slice::from_ref(&mount), Asked::Any, Detail::Stat, child).pop();
    Ok(answer.map(|answer| told_for_stat(&mount, answer)))
}

/// The text in the place of the last one, cut to the size of the terminal (lines and columns): a line that wraps or a
/// text that scrolls would leave parts of the last one behind.
fn screen(text: &str, is_first: bool, (rows, columns): (usize, usize)) -> String {
    let mut out = if is_first { "\x1b[H\x1b[2J" } else { "\x1b[H" }.to_owned();
    for line in text.lines().take(rows.saturating_sub(1)) {
        out.extend(line.chars().take(columns));
        out.push_str("\x1b[K\n");
    }
    out.push_str("\x1b[J");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_no_larger_than_the_terminal() {
        let text = screen("one\ntwö two\nthree\n", false, (3, 3));
        assert_eq!(text, "\x1b[Hone\x1b[K\ntwö\x1b[K\n\x1b[J");
        assert!(screen("", true, (0, 0)).starts_with("\x1b[H\x1b[2J"));
    }
}
