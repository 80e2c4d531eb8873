//! The option table. The parser, `--help`, the man page and the completions are all generated from it.
//!
//! Each module below holds the options of one subject.

mod access;
mod caching;
mod changes;
mod commands;
mod creation;
mod maps;
mod mount;
mod other;
mod owners;
mod perms;
mod process;
mod view;

use super::{Category, Completion, Opt, OptionDef, ValueDef};

const fn flag(
    id: Opt,
    long: &'static str,
    mount_option: &'static str,
    category: Category,
    help: &'static str,
    about: &'static str,
) -> OptionDef {
    OptionDef {
        id,
        long,
        short: None,
        mount_option: Some(mount_option),
        aliases: &[],
        long_aliases: &[],
        opposite: None,
        opposite_short: None,
        value: None,
        default: "",
        category,
        help,
        about,
    }
}

const fn value(placeholder: &'static str) -> Option<ValueDef> {
    Some(ValueDef { placeholder, completion: Completion::None, if_bare: None })
}

const fn file(placeholder: &'static str) -> Option<ValueDef> {
    Some(ValueDef { placeholder, completion: Completion::File, if_bare: None })
}

const fn one_of(placeholder: &'static str, words: &'static [&'static str]) -> Option<ValueDef> {
    Some(ValueDef { placeholder, completion: Completion::Words(words), if_bare: None })
}

/// Every option.
pub(in crate::cli) static OPTIONS: &[OptionDef] = &ALL;

const SECTIONS: [&[OptionDef]; 12] = [
    maps::MAPS,
    owners::OWNERS,
    creation::CREATION,
    perms::PERMS,
    changes::CHANGES,
    view::VIEW,
    mount::MOUNT,
    access::ACCESS,
    caching::CACHING,
    process::PROCESS,
    other::OTHER,
    commands::COMMANDS,
];

static ALL: [OptionDef; COUNT] = {
    let mut all = [maps::MAPS[0]; COUNT];
    let (mut next, mut section) = (0, 0);
    while section < SECTIONS.len() {
        let mut at = 0;
        while at < SECTIONS[section].len() {
            all[next] = SECTIONS[section][at];
            next += 1;
            at += 1;
        }
        section += 1;
    }
    all
};

const COUNT: usize = {
    let (mut count, mut section) = (0, 0);
    while section < SECTIONS.len() {
        count += SECTIONS[section].len();
        section += 1;
    }
    count
};
