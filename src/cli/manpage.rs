//! Generates the man page (prose from `man/shiftbind.8.in`, options from the table) and the shell completions.

use clap_complete::{Shell, generate as complete};

use super::Artifact;
use super::arguments::{Purpose, command};
use super::help::wrap;
use super::options::{Category, OPTIONS, OptionDef, SUBCOMMANDS};

const TEMPLATE: &str = include_str!("../../man/shiftbind.8.in");

/// The line of the template that the options replace.
const OPTIONS_MARK: &str = "@OPTIONS@\n";
/// The line of the template that the subcommands replace.
const COMMANDS_MARK: &str = "@COMMANDS@\n";
/// The text of the template that the version replaces.
const VERSION_MARK: &str = "@VERSION@";

/// Generates a file.
#[must_use]
pub fn generate(artifact: Artifact) -> String {
    let shell = match artifact {
        Artifact::Man => return man_page(),
        Artifact::Bash => Shell::Bash,
        Artifact::Zsh => Shell::Zsh,
        Artifact::Fish => Shell::Fish,
    };
    let mut out = Vec::new();
    complete(shell, &mut command(Purpose::Completing), "shiftbind", &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn man_page() -> String {
    TEMPLATE
        .replace(OPTIONS_MARK, &option_section())
        .replace(COMMANDS_MARK, &command_section())
        .replace(VERSION_MARK, env!("CARGO_PKG_VERSION"))
}

/// The options by category, in man(7) macros.
fn option_section() -> String {
    let mut out = String::new();
    for category in Category::SHOWN {
        out.push_str(&format!(".SS {}\n", category.title()));
        for option in OPTIONS.iter().filter(|option| option.category == category) {
            push_option(&mut out, option);
        }
    }
    out
}

/// The subcommands with their options, in man(7) macros.
fn command_section() -> String {
    let mut out = String::new();
    for definition in SUBCOMMANDS {
        out.push_str(&format!(".SS {}\n", definition.name));
        let usage = format!("shiftbind {}", definition.usage());
        out.push_str(&format!("\\fB{}\\fR\n.PP\n", usage.replace('-', "\\-")));
        push_paragraphs(&mut out, definition.about, ".PP\n");
        for option in definition.options().filter(|option| !option.is_of_mount()) {
            push_option(&mut out, option);
        }
    }
    out
}

fn push_option(out: &mut String, option: &OptionDef) {
    let value = option.value.map_or_else(String::new, |value| value.suffix(("\\fI", "\\fR")));
    let bold = |text: &str| format!("\\fB{}\\fR", text.replace('-', "\\-"));
    let flag = |name: &str| bold(&format!("--{name}")) + &value;
    let mut flags = Vec::new();
    if let Some(letter) = option.short {
        // The short form is "-o LIST", the long form "--options=LIST".
        flags.push(bold(&format!("-{letter}")) + &value.replacen('=', " ", 1));
    }
    flags.extend(option.names().filter(|(_, is_on)| *is_on).map(|(name, _)| flag(name)));
    flags.extend(option.long_aliases.iter().map(|name| flag(name)));
    flags.extend(option.opposite_short.map(|letter| bold(&format!("-{letter}"))));
    flags.extend(option.opposite.map(flag));
    // A man(7) tag is one line; the second tag lists the names within -o.
    out.push_str(&format!(".TP\n{}\n", flags.join(", ")));
    if let Some(name) = option.mount_option {
        let aliases = option.aliases.iter().map(|name| name.replace('-', "_"));
        let names: Vec<String> = std::iter::once(name.to_owned())
            .chain(aliases)
            .chain(option.opposite.map(str::to_owned))
            .map(|name| bold(&format!("-o {name}")) + &value)
            .collect();
        out.push_str(&format!(".TQ\n{}\n", names.join(", ")));
    }
    let mut about = option.about.to_owned();
    if !option.default.is_empty() {
        about.push_str(&format!("\n\nDefault: {}.", option.default));
    }
    push_paragraphs(out, &about, ".IP\n");
}

/// Adds paragraphs, with a macro between them.
fn push_paragraphs(out: &mut String, text: &str, between: &str) {
    for (number, paragraph) in text.split("\n\n").enumerate() {
        if number > 0 {
            out.push_str(between);
        }
        push_prose(out, paragraph);
    }
}

/// Formats plain text as roff: each sentence begins a line, lines are short, and none is parsed as a request.
fn push_prose(out: &mut String, text: &str) {
    for sentence in text.replace(". ", ".\n").lines() {
        for line in wrap(sentence, 72) {
            let line = line.replace('\\', "\\e");
            let words: Vec<String> = line.split(' ').map(escape_dashes).collect();
            let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
            out.push_str(&format!("{guard}{}\n", words.join(" ")));
        }
    }
}

/// Escapes leading dashes as minus signs; dashes within a word stay hyphens.
fn escape_dashes(word: &str) -> String {
    let name = word.trim_start_matches('-');
    "\\-".repeat(word.len() - name.len()) + name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_man_page_is_the_generated_one() {
        let committed = include_str!("../../man/shiftbind.8");
        assert!(committed == man_page(), "run `make man` and commit man/shiftbind.8");
    }

    #[test]
    fn the_template_has_its_marks() {
        assert_eq!(TEMPLATE.matches(OPTIONS_MARK).count(), 1);
        assert_eq!(TEMPLATE.matches(COMMANDS_MARK).count(), 1);
        assert!(TEMPLATE.contains(VERSION_MARK));
    }

    #[test]
    fn every_shown_option_is_in_the_man_page_in_every_spelling() {
        let page = man_page();
        for option in OPTIONS.iter().filter(|option| option.is_shown()) {
            for name in
                option.names().map(|(name, _)| name).chain(option.long_aliases.iter().copied())
            {
                let spelled = format!("\\fB\\-\\-{}\\fR", name.replace('-', "\\-"));
                assert!(page.contains(&spelled), "{name}");
            }
            if let Some(name) = option.mount_option {
                assert!(
                    page.contains(&format!("\\fB\\-o {}\\fR", name.replace('-', "\\-"))),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn every_subcommand_and_its_options_are_in_the_man_page_and_offered_by_the_shells() {
        let texts = [Artifact::Man, Artifact::Bash, Artifact::Zsh, Artifact::Fish].map(generate);
        for definition in SUBCOMMANDS {
            for text in &texts {
                assert!(text.contains(definition.name), "{}", definition.name);
            }
            assert!(texts[0].contains(&format!("\n.SS {}\n", definition.name)));
            for option in definition.options().filter(|option| !option.is_of_mount()) {
                let escaped = option.long.replace('-', "\\-");
                let has = |text: &String| text.contains(option.long) || text.contains(&escaped);
                assert!(texts.iter().all(has), "{}", option.long);
            }
        }
    }

    #[test]
    fn shells_are_offered_every_shown_long_option() {
        for shell in [Artifact::Bash, Artifact::Zsh, Artifact::Fish] {
            let script = generate(shell);
            for option in OPTIONS.iter().filter(|option| option.is_shown()) {
                assert!(script.contains(option.long), "{shell:?} {}", option.long);
            }
        }
    }

    #[test]
    fn prose_is_never_parsed_as_a_roff_request() {
        let mut out = String::new();
        push_prose(&mut out, ".so. 'x \\, --ro read-only.");
        assert_eq!(out, "\\&.so.\n\\&'x \\e, \\-\\-ro read-only.\n");
    }
}
