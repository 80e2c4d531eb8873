//! The one table of options. Parser, `--help`, man page and completions are made from it; nothing else lists options.
//! Its parts, by subject, are the modules below.

mod access;
mod changes;
mod creation;
mod looks;
mod maps;
mod mount;
mod other;
mod owners;
mod perms;
mod process;
mod speed;

use super::{Category, Completion, Opt, OptionDef, ValueDef};

const fn flag(
    id: Opt,
    long: &'static str,
    word: &'static str,
    category: Category,
    help: &'static str,
    about: &'static str,
) -> OptionDef {
    OptionDef {
        id,
        long,
        short: None,
        word: Some(word),
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
    Some(ValueDef { placeholder, completion: Completion::None })
}

const fn file(placeholder: &'static str) -> Option<ValueDef> {
    Some(ValueDef { placeholder, completion: Completion::File })
}

const fn one_of(placeholder: &'static str, words: &'static [&'static str]) -> Option<ValueDef> {
    Some(ValueDef { placeholder, completion: Completion::Words(words) })
}

/// Every option.
pub(in crate::cli) static OPTIONS: &[OptionDef] = &ALL;

const PARTS: [&[OptionDef]; 11] = [
    maps::MAPS,
    owners::OWNERS,
    creation::CREATION,
    perms::PERMS,
    changes::CHANGES,
    looks::LOOKS,
    mount::MOUNT,
    access::ACCESS,
    speed::SPEED,
    process::PROCESS,
    other::OTHER,
];

static ALL: [OptionDef; COUNT] = {
    let mut all = [maps::MAPS[0]; COUNT];
    let (mut next, mut part) = (0, 0);
    while part < PARTS.len() {
        let mut at = 0;
        while at < PARTS[part].len() {
            all[next] = PARTS[part][at];
            next += 1;
            at += 1;
        }
        part += 1;
    }
    all
};

const COUNT: usize = {
    let (mut count, mut part) = (0, 0);
    while part < PARTS.len() {
        count += PARTS[part].len();
        part += 1;
    }
    count
};
