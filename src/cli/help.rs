//! The output of `--help` and `--version`, made from the option table.

use super::dialect::Dialect;
use super::options::{Category, OPTIONS, OptionDef, SUBCOMMANDS};

const HEAD: &str = "\
Usage: shiftbind [OPTIONS] SOURCE MOUNTPOINT
       shiftbind COMMAND [ARGUMENTS]

Shows SOURCE at MOUNTPOINT with every uid and gid translated: the map
0:100000:65536 shows files of uid 0 on the source as files of 100000 at the
mount, and stores files that 100000 creates there as files of 0. Without a map
ids are unchanged.

Every long option is also allowed within -o, without its dashes:
  shiftbind /srv/data /mnt/data -o idmap=0:100000:65536,ro
";

const FOOT: &str = "
See shiftbind(8) for details.
";

/// The column at which descriptions begin, and the width of a line, in characters.
const COLUMN: usize = 30;
const WIDTH: usize = 80;

const BINDFS_HEAD: &str = "\
Usage: bindfs [options] dir mountpoint

This is shiftbind in place of bindfs: every option of bindfs has the same
meaning, and ids that no map lists are unchanged. Every long option is also
allowed within -o, without its dashes.
";

/// The output of `--help`.
#[must_use]
pub fn help(dialect: Dialect) -> String {
    let mut out = match dialect {
        Dialect::Shiftbind => HEAD.to_owned(),
        Dialect::Bindfs => BINDFS_HEAD.to_owned(),
    };
    if dialect == Dialect::Shiftbind {
        out.push_str("\nCommands (shiftbind COMMAND --help tells more):\n");
        for command in SUBCOMMANDS {
            push_line(&mut out, &format!("  {}", command.usage()), command.help);
        }
    }
    for category in Category::SHOWN {
        out.push_str(&format!("\n{}:\n", category.title()));
        for option in OPTIONS.iter().filter(|option| option.category == category) {
            push_option(&mut out, option);
        }
    }
    out.push_str(FOOT);
    out
}

/// The version of bindfs whose options and defaults are implemented.
const BINDFS_VERSION: &str = "1.18.4";

/// The output of `--version`. Scripts parse the second word as bindfs's version.
#[must_use]
pub fn version(dialect: Dialect) -> String {
    let ours = concat!("shiftbind ", env!("CARGO_PKG_VERSION"));
    match dialect {
        Dialect::Shiftbind => format!("{ours}\n"),
        Dialect::Bindfs => format!("bindfs {BINDFS_VERSION} ({ours})\n"),
    }
}

/// The output of `--fuse-version`, for the major and minor version of the FUSE protocol.
#[must_use]
pub fn fuse_version((major, minor): (u32, u32)) -> String {
    format!("FUSE protocol {major}.{minor}, spoken without libfuse\n")
}

pub(super) fn push_option(out: &mut String, option: &OptionDef) {
    let short = option.short.map_or_else(|| "    ".to_owned(), |letter| format!("-{letter}, "));
    let value = option.value.map_or_else(String::new, |value| value.suffix(("", "")));
    let opposite = option.opposite.map_or_else(String::new, |name| {
        let short = option.opposite_short.map_or_else(String::new, |letter| format!("-{letter}, "));
        format!(", {short}--{name}")
    });
    let left = format!("  {short}--{}{value}{opposite}", option.long);
    let mut text = option.help.to_owned();
    if !option.default.is_empty() {
        text.push_str(&format!(" [default: {}]", option.default));
    }
    push_line(out, &left, &text);
}

/// Adds a description beside what it describes, or below that where it is too long.
fn push_line(out: &mut String, left: &str, text: &str) {
    let mut lines = wrap(text, WIDTH - COLUMN).into_iter();
    if left.len() + 2 > COLUMN {
        out.push_str(left);
    } else {
        out.push_str(&format!("{left:COLUMN$}{}", lines.next().unwrap_or_default()));
    }
    out.push('\n');
    for line in lines {
        out.push_str(&format!("{:COLUMN$}{line}\n", ""));
    }
}

/// Breaks a text at blanks into lines of at most `width` bytes; a longer word has a line to itself.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shown_option_is_in_the_help_with_its_opposite() {
        let help = help(Dialect::Shiftbind);
        let words: Vec<&str> = help
            .split(|c: char| !c.is_alphanumeric() && c != '-')
            .filter(|w| w.starts_with('-'))
            .collect();
        for option in OPTIONS {
            let shown = option.is_shown();
            for name in std::iter::once(option.long).chain(option.opposite) {
                assert_eq!(words.contains(&format!("--{name}").as_str()), shown, "{name}");
            }
            for letter in option.short.into_iter().chain(option.opposite_short) {
                assert_eq!(words.contains(&format!("-{letter}").as_str()), shown, "-{letter}");
            }
        }
    }

    #[test]
    fn the_help_fits_a_terminal() {
        for dialect in [Dialect::Shiftbind, Dialect::Bindfs] {
            let help = help(dialect);
            assert!(help.lines().all(|line| line.len() <= WIDTH && line.trim_end() == line));
        }
    }
}
