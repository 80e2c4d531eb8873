//! The options of a mount in use, evaluated again: from the command line it was made with where that names a file of
//! options, else from its line in fstab.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::fstab::FstabEntry;
use super::{Command, parse};
use crate::config::Config;
use crate::error::{Error, Result};

const FSTAB: &str = "/etc/fstab";

/// What evaluates them, for a mount that was made by this command line. It takes where the mount is now: absolute, and
/// without symbolic links.
pub fn reload_options(
    argv: Vec<OsString>,
    config: &Config,
) -> impl Fn(&Path) -> Result<Config> + Send + use<> {
    let from_file = config.options_file.is_some();
    let source = fs::canonicalize(&config.source).ok();
    move |mountpoint| {
        if from_file {
            return parse_config(argv.clone());
        }
        let line = fstab_entry_of(mountpoint, source.as_deref())?;
        parse_config(line.argv(rustix::process::geteuid().is_root()))
    }
}

fn parse_config(argv: Vec<OsString>) -> Result<Config> {
    match parse(argv)? {
        Command::Mount(config) => Ok(config),
        _ => Err(Error::usage("the options no longer ask for a mount; take out what was added")),
    }
}

/// The line of a mount. Where several are for its place, the one of its source counts.
fn fstab_entry_of(mountpoint: &Path, source: Option<&Path>) -> Result<FstabEntry> {
    // As libmount has it.
    let fstab = env::var_os("LIBMOUNT_FSTAB").filter(|path| !path.is_empty());
    let fstab = fstab.map_or_else(|| PathBuf::from(FSTAB), PathBuf::from);
    let missing = |why: &str| {
        Error::usage(format!(
            "nothing says what the options are now: {} {why}; mount with config=FILE, or write a line there, of type \
             fuse.shiftbind",
            fstab.display(),
        ))
    };
    let text = match fs::read(&fstab) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(missing("does not exist"));
        }
        Err(e) => return Err(Error::system(fstab.display().to_string(), e)),
    };
    let mut lines: Vec<FstabEntry> =
        FstabEntry::all(&text).filter(|line| line.is_mounted_at(mountpoint)).collect();
    let same = |line: &FstabEntry| fs::canonicalize(&line.source).ok().as_deref() == source;
    let at = lines.iter().position(same).unwrap_or(0);
    if lines.is_empty() {
        return Err(missing(&format!("has no line for {}", mountpoint.display())));
    }
    Ok(lines.swap_remove(at))
}
