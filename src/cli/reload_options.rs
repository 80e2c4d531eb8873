//! Evaluates the options of a live mount again.
//!
//! They come from its original command line if that names an options file, else from its fstab(5) entry.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::fstab::FstabEntry;
use super::input_file::InputFile;
use super::{Command, SystemAccounts, parse_again};
use crate::config::{Config, Found};
use crate::error::{Error, Result};

const FSTAB: &str = "/etc/fstab";

/// Returns the function that evaluates the options again for a mount made by this command line.
///
/// The function takes the current mount point, which is absolute and without symbolic links, and what the mount keeps.
pub fn reload_options(
    argv: Vec<OsString>,
    config: &Config,
) -> impl Fn(&Path, &Found) -> Result<Config> + Send + use<> {
    let from_file = config.options_file.is_some();
    let is_elsewhere = config.namespace.is_some();
    let again = options_again(argv, from_file, fs::canonicalize(&config.source).ok());
    move |mountpoint, kept| match is_elsewhere && !from_file {
        // The paths of fstab(5) are those of this namespace.
        true => Err(Error::usage(
            "cannot find the options of a mount in another namespace: mount with config=FILE",
        )),
        false => again(mountpoint, kept),
    }
}

/// As [`reload_options`], for a mount that another process made of this source.
pub fn options_again(
    argv: Vec<OsString>,
    from_file: bool,
    source: Option<PathBuf>,
) -> impl Fn(&Path, &Found) -> Result<Config> + Send + use<> {
    move |mountpoint, kept| {
        if from_file {
            return parse_config(argv.clone(), kept);
        }
        let line = fstab_entry_of(mountpoint, source.as_deref())?;
        parse_config(line.argv(rustix::process::geteuid().is_root()), kept)
    }
}

fn parse_config(argv: Vec<OsString>, kept: &Found) -> Result<Config> {
    match parse_again(argv, &SystemAccounts, Some(kept))? {
        Command::Mount(config) => Ok(config),
        _ => Err(Error::usage(
            "the options no longer ask for a mount; remove the options that were added",
        )),
    }
}

/// Finds the fstab(5) entry of a mount. Among several for the mount point, one with the same source is preferred.
fn fstab_entry_of(mountpoint: &Path, source: Option<&Path>) -> Result<FstabEntry> {
    // libmount reads the same variable.
    let fstab = env::var_os("LIBMOUNT_FSTAB").filter(|path| !path.is_empty());
    let fstab = fstab.map_or_else(|| PathBuf::from(FSTAB), PathBuf::from);
    let missing = |why: &str| {
        Error::usage(format!(
            "cannot find the options of this mount: {} {why}; mount with config=FILE, or add a line there, of type \
             fuse.shiftbind",
            fstab.display(),
        ))
    };
    let text = match (InputFile { path: &fstab, is_reload: true }).read() {
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
