//! The output of `shiftbind COMMAND --help`.

use super::SUBCOMMANDS;
use crate::cli::help::{push_option, wrap};

/// The width of a line, in characters.
const WIDTH: usize = 80;

/// The help of a subcommand. Empty for a name that is none.
#[must_use]
pub fn help(name: &str) -> String {
    let Some(definition) = SUBCOMMANDS.iter().find(|one| one.name == name) else {
        return String::new();
    };
    let mut out = format!("Usage: shiftbind {} [OPTIONS]\n", definition.usage());
    for paragraph in definition.about.split("\n\n") {
        out.push('\n');
        for line in wrap(paragraph, WIDTH) {
            out.push_str(&line);
            out.push('\n');
        }
    }
    out.push_str("\nOptions:\n");
    for option in definition.options().filter(|option| option.is_shown() || !option.is_of_mount()) {
        push_option(&mut out, option);
    }
    out
}
