use std::path::Path;

use super::*;
use crate::accounts::TestAccounts;
use crate::cli::parse_with;

fn parsed(words: &str) -> Result<Command> {
    parse_with(words.split(' ').map(OsString::from), &TestAccounts)
}

fn refused(words: &str) -> String {
    parsed(words).unwrap_err().to_string()
}

#[test]
fn each_subcommand_is_parsed() {
    assert!(matches!(parsed("shiftbind list").unwrap(), Command::List { json: false }));
    assert!(matches!(parsed("shiftbind list --json").unwrap(), Command::List { json: true }));
    match parsed("shiftbind stat --json /m").unwrap() {
        Command::Stat { mountpoint, json: true, .. } => assert_eq!(mountpoint, Path::new("/m")),
        other => panic!("{other:?}"),
    }
    match parsed("/usr/bin/shiftbind umount -l /m").unwrap() {
        Command::Umount { mountpoint, lazy: true, .. } => assert_eq!(mountpoint, Path::new("/m")),
        other => panic!("{other:?}"),
    }
    for words in ["shiftbind reload /m", "shiftbind --reload /m"] {
        match parsed(words).unwrap() {
            Command::Reload { mountpoint, namespace: None } => {
                assert_eq!(mountpoint, Path::new("/m"))
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(parsed("shiftbind explain /m").unwrap(), Command::ExplainMounted { .. }));
    assert!(matches!(
        parsed("shiftbind explain /s /m -o idmap=0:1:1").unwrap(),
        Command::Explain(_)
    ));
    assert!(matches!(parsed("shiftbind umount --help").unwrap(), Command::HelpOf("umount")));
}

#[test]
fn a_source_with_the_name_of_a_subcommand_is_mounted_where_it_cannot_be_one() {
    for words in [
        "shiftbind ./list /m",
        "shiftbind -- list /m",
        "bindfs list /m",
        "mount.shiftbind list /m -o rw",
    ] {
        match parsed(words).unwrap() {
            Command::Mount(config) => assert!(config.source.ends_with("list"), "{words}"),
            other => panic!("{words}: {other:?}"),
        }
    }
}

#[test]
fn the_name_of_a_subcommand_always_selects_it() {
    assert!(refused("shiftbind list /m -o rw,dev").starts_with("list: "));
    assert!(matches!(parsed("shiftbind explain /s /m -o rw,dev").unwrap(), Command::Explain(_)));
    for words in ["shiftbind -r list /m", "shiftbind -o rw,dev list /m", "shiftbind --ro list"] {
        let error = refused(words);
        let expected =
            "'list' is a command: give it as the first argument, or the source as ./list";
        assert_eq!(error, expected, "{words}");
    }
}

#[test]
fn a_word_that_is_no_source_has_a_command_suggested() {
    for (words, meant) in [
        ("shiftbind unmount /m", "umount"),
        ("shiftbind ls", "list"),
        ("shiftbind lst", "list"),
        ("shiftbind help", "--help"),
        ("shiftbind relaod /m", "reload"),
    ] {
        let error = refused(words);
        assert!(error.ends_with(&format!("; did you mean 'shiftbind {meant}'?")), "{error}");
    }
    for words in ["shiftbind ./unmount /m", "bindfs unmount /m", "shiftbind -- ls /m"] {
        assert!(matches!(parsed(words).unwrap(), Command::Mount(_)), "{words}");
    }
    assert!(refused("shiftbind x").starts_with("MOUNTPOINT is missing"));
}

#[test]
fn a_wrong_argument_is_refused_with_the_subcommands_name() {
    assert_eq!(refused("shiftbind stat"), "stat: MOUNTPOINT is missing");
    assert_eq!(refused("shiftbind umount "), "umount: MOUNTPOINT is empty");
    assert!(refused("shiftbind list /m").starts_with("list: unexpected argument '/m'"));
    assert!(refused("shiftbind list --jsn").starts_with("list: unknown option '--jsn'; did you"));
    assert!(refused("shiftbind stat /m --idmap=0:1:1").starts_with("stat: unknown option"));
    assert!(refused("shiftbind explain /m --ro").starts_with("explain: option 'ro': "));
    assert!(refused("shiftbind /s /m --json").starts_with("unknown option '--json'"));
}

#[test]
fn stat_goes_on_with_an_interval() {
    let interval = |words: &str| match parsed(words).unwrap() {
        Command::Watch { mountpoint, json, interval, namespace: None } => {
            assert_eq!(
                (mountpoint.to_str(), json),
                (Some("/m"), words.contains("json")),
                "{words}"
            );
            interval.as_secs_f64()
        }
        other => panic!("{words}: {other:?}"),
    };
    assert_eq!(interval("shiftbind stat --watch /m"), 2.0);
    assert_eq!(interval("shiftbind stat /m --watch=0.5"), 0.5);
    assert_eq!(interval("shiftbind stat --watch=7 --json /m"), 7.0);
    for value in ["0", "0.01", "-1", "x", "1s", "NaN", "inf", "86401", ""] {
        let error = refused(&format!("shiftbind stat --watch={value} /m"));
        assert!(error.starts_with("stat: option '--watch'"), "{error}");
    }
    assert_eq!(refused("shiftbind stat --watch"), "stat: MOUNTPOINT is missing");
    assert!(refused("shiftbind list --watch").starts_with("list: unknown option '--watch'"));
}

#[test]
fn metrics_are_those_of_one_mount_or_of_all() {
    let metrics = |words: &str| match parsed(words).unwrap() {
        Command::Metrics { mountpoint, namespace: None } => mountpoint,
        other => panic!("{words}: {other:?}"),
    };
    assert_eq!(metrics("shiftbind stat --prometheus"), None);
    assert_eq!(metrics("shiftbind stat --prometheus /m"), Some("/m".into()));
    for words in ["stat --prometheus --json", "stat --prometheus --watch /m"] {
        let error = refused(&format!("shiftbind {words}"));
        assert!(error.contains("'--prometheus' goes with neither"), "{error}");
    }
}

#[test]
fn every_subcommand_has_a_help_that_fits_a_terminal() {
    for definition in SUBCOMMANDS {
        assert!(definition.about.ends_with('.') && !definition.help.ends_with('.'));
        let text = help(definition.name);
        assert!(text.starts_with(&format!("Usage: shiftbind {}", definition.name)), "{text}");
        assert!(text.lines().all(|line| line.len() <= 80 && line.trim_end() == line), "{text}");
        assert!(text.contains("--help"), "{text}");
    }
}
