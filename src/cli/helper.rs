//! The command line of a mount helper (mount(8), EXTERNAL HELPERS): `mount.shiftbind SOURCE DIR [-sfnv] [-N ns] [-o
//! opts] [-t type.subtype]`, and the same for `mount.bindfs`.
//!
//! Its flags differ from the ordinary command line: `-f` is "fake", `-s` is "sloppy".

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::arguments::Invocation;
use super::mount_options::{self, OnUnknown};
use super::options::{self, Given, Opt};
use crate::error::{Error, Result};
use crate::sys::mountinfo::{self, MountInfo};

/// The result of parsing a helper's argument vector.
pub(super) struct HelperInvocation {
    pub(super) invocation: Invocation,
    /// Check everything, mount nothing (`-f`).
    pub(super) fake: bool,
}

fn unknown_option(arg: &OsStr) -> Error {
    Error::usage(format!(
        "unknown option '{}'; a helper of mount(8) takes -sfnv, -N, -o, -t",
        arg.to_string_lossy()
    ))
}

/// Parses an argument vector, whose first element is the program's name.
pub(super) fn parse(argv: Vec<OsString>) -> Result<HelperInvocation> {
    let mut lists: Vec<OsString> = Vec::new();
    let mut operands = Vec::new();
    let mut given: Vec<Given> = Vec::new();
    let (mut fake, mut sloppy) = (false, false);
    let mut subtype = None;
    let mut args = argv.into_iter().skip(1);
    let mut only_operands = false;
    while let Some(arg) = args.next() {
        let bytes = arg.as_bytes();
        if only_operands || bytes.len() < 2 || bytes[0] != b'-' {
            operands.push(arg);
            continue;
        }
        if bytes == b"--" {
            only_operands = true;
            continue;
        }
        let mut letters = &bytes[1..];
        while let Some((&letter, rest)) = letters.split_first() {
            letters = rest;
            match letter {
                b's' => sloppy = true,
                b'f' => fake = true,
                b'n' => {}
                b'v' => given
                    .extend(mount_options::parse_list(OsStr::new("verbose"), OnUnknown::Refuse)?),
                b'o' | b'N' | b't' => {
                    let attached = OsString::from_vec(std::mem::take(&mut letters).to_vec());
                    let value = if attached.is_empty() { args.next() } else { Some(attached) };
                    let Some(value) = value else {
                        let letter = char::from(letter);
                        return Err(Error::usage(format!("option '-{letter}' needs a value")));
                    };
                    match letter {
                        b'o' => lists.push(value),
                        b't' => subtype = subtype_of(&value),
                        _ => {
                            let option = options::by_id(Opt::Namespace);
                            given.push(Given { option, on: true, value: Some(value) });
                        }
                    }
                }
                _ => return Err(unknown_option(&arg)),
            }
        }
    }
    if let Some(subtype) = subtype {
        // `-t` comes first, so that an explicit subtype= in a list overrides it.
        given.extend(mount_options::parse_list(&subtype, OnUnknown::Refuse)?);
    }
    let unknown = if sloppy { OnUnknown::Skip } else { OnUnknown::Refuse };
    let in_table = match lists.iter().any(|list| mount_options::is_remount(list)) {
        true => options_in_table(operands.last().map_or(Path::new(""), Path::new)),
        false => HashSet::new(),
    };
    for list in lists {
        given.extend(mount_options::parse_remount(&list, unknown, &in_table)?);
    }
    Ok(HelperInvocation { invocation: Invocation { given, operands }, fake })
}

/// The options in the mount table of what is mounted there, each with its value.
fn options_in_table(mountpoint: &Path) -> HashSet<Vec<u8>> {
    let (Ok(table), Ok(at)) = (mountinfo::read(), std::fs::canonicalize(mountpoint)) else {
        return HashSet::new();
    };
    let is_there = |line: &MountInfo| line.mountpoint == at.as_os_str().as_bytes();
    let words = |line: MountInfo| [line.options, b",".to_vec(), line.super_options].concat();
    let lists = table.into_iter().filter(is_there).map(words);
    lists
        .flat_map(|list| list.split(|b| *b == b',').map(<[u8]>::to_vec).collect::<Vec<_>>())
        .collect()
}

/// Turns `type.subtype` into the option `subtype=…`. `None` for a type without a subtype.
fn subtype_of(name: &OsStr) -> Option<OsString> {
    let bytes = name.as_bytes();
    let dot = bytes.iter().position(|&b| b == b'.')?;
    let mut option = b"subtype=".to_vec();
    for &byte in &bytes[dot + 1..] {
        if matches!(byte, b',' | b'\\' | b'"') {
            option.push(b'\\');
        }
        option.push(byte);
    }
    Some(OsString::from_vec(option))
}
