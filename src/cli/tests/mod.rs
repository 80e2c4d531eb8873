//! Tests whole command lines, of the ordinary command and of the mount helper.

mod bindfs;
mod engines;
mod idmappable;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::options::{Completion, OPTIONS, OptionDef};
use super::*;
use crate::accounts::TestAccounts;
use crate::config::{Access, Atime, CachePolicy};
use crate::idmap::{SourceUid, Unmapped};

fn command(argv: &[&str]) -> Result<Command> {
    parse_with(argv.iter().map(OsString::from), &TestAccounts)
}

/// Parses `shiftbind`, the arguments (separated by blanks), a source and a mount point.
fn ordinary(args: &str) -> Result<Command> {
    let argv: Vec<&str> =
        ["shiftbind", "/src", "/mnt"].into_iter().chain(args.split_whitespace()).collect();
    command(&argv)
}

fn config(args: &str) -> Config {
    match ordinary(args) {
        Ok(Command::Mount(config)) => config,
        other => panic!("{args}: {other:?}"),
    }
}

fn error(args: &str) -> String {
    let error = ordinary(args).expect_err(args);
    assert_eq!(error.exit().code(), 1, "{args}");
    error.to_string()
}

fn shown(config: &Config, uid: u32) -> Option<u32> {
    config.view.ids.uid_to_mount(SourceUid::new(uid).unwrap()).map(|id| id.raw())
}

/// The path of a mount namespace that is not ours: that of a thread, which lives as long as the process.
fn other_namespace() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            crate::sys::mount::unshare_mounts().expect("unshare");
            let (process, id) = (std::process::id(), rustix::thread::gettid());
            let path = format!("/proc/{process}/task/{}/ns/mnt", id.as_raw_nonzero());
            tell.send(path).expect("send");
            loop {
                thread::park();
            }
        });
        told.recv().expect("a namespace")
    })
}

/// A value that the option accepts.
fn sample(option: &OptionDef) -> String {
    let Some(value) = option.value else { return String::new() };
    match (value.placeholder, value.completion) {
        ("MAP", _) => "identity".to_owned(),
        // Not the default.
        ("ENGINE", _) => "fuse".to_owned(),
        ("TIME", _) => "9s".to_owned(),
        ("POLICY", _) => "pass".to_owned(),
        ("PAIRS", _) => "5/6:@5/@6".to_owned(),
        ("FILE", _) => SAMPLE_FILE.to_owned(),
        ("WORD:VALUE", _) => "foreign".to_owned(),
        ("PATH", _) => "/run/x".to_owned(),
        ("PID|NSPATH", _) => other_namespace().to_owned(),
        ("WHOSE", _) => "host".to_owned(),
        (_, Completion::Words(words)) => words[0].to_owned(),
        _ => "7".to_owned(),
    }
}

/// An empty file is valid for every option that reads one; other tests below check what is read.
const SAMPLE_FILE: &str = "/dev/null";

/// Options that state the default, or that need another option.
const IDLE: &[&str] = &[
    "default-permissions",
    "clone-fd",
    "idmap",
    "chown-normal",
    "chgrp-normal",
    "chmod-normal",
    "xattr-rw",
    "enable-lock-forwarding",
    "resolved-symlink-deletion",
];

/// The outcome of a command line as text, for comparison.
fn outcome(argv: &[String]) -> String {
    let both = ["--uidmap=0:5:1", "--gidmap=0:5:1"].map(str::to_owned);
    // A map for one kind of id is refused alone; the map for the other kind is added.
    let mut whole = vec!["shiftbind".to_owned(), "/dev".to_owned(), "/m".to_owned()];
    if argv.iter().any(|arg| arg.contains("uidmap")) {
        whole.push(both[1].clone());
    } else if argv.iter().any(|arg| arg.contains("gidmap")) {
        whole.push(both[0].clone());
    }
    if argv.iter().any(|arg| arg.contains("invert")) {
        whole.push("--map-from=foreign".to_owned());
    }
    if argv.iter().any(|arg| arg.contains("ids")) {
        whole.push(format!("--namespace={}", other_namespace()));
    }
    whole.extend_from_slice(argv);
    match parse_with(whole.iter().map(OsString::from), &TestAccounts) {
        // The options as they were given differ in any case.
        Ok(Command::Mount(config)) => {
            format!("{:?}", Config { given: Vec::new(), argv: Vec::new(), ..config })
        }
        Ok(command) => format!("{command:?}"),
        Err(error) => panic!("{argv:?}: {error}"),
    }
}

#[test]
fn every_option_means_the_same_as_a_flag_and_within_o() {
    let nothing = outcome(&[]);
    for option in OPTIONS.iter().filter(|option| option.mount_option.is_some()) {
        let value = sample(option);
        let equals = if value.is_empty() { String::new() } else { format!("={value}") };
        let names = option.names().map(|(name, _)| name.to_owned());
        let underscored = option.names().map(|(name, _)| name.replace('-', "_"));
        let mut outcomes: Vec<(bool, String)> = Vec::new();
        for name in names.chain(underscored).chain(option.mount_option.map(str::to_owned)) {
            let is_on = option.opposite.is_none_or(|no| no != name.replace('_', "-"));
            outcomes.push((is_on, outcome(&[format!("--{name}{equals}")])));
            outcomes.push((is_on, outcome(&["-o".to_owned(), format!("{name}{equals}")])));
            if !value.is_empty() {
                outcomes.push((is_on, outcome(&[format!("--{name}"), value.clone()])));
            }
        }
        for name in option.long_aliases {
            outcomes.push((true, outcome(&[format!("--{name}{equals}")])));
        }
        if let Some(letter) = option.short {
            outcomes.push((true, outcome(&[format!("-{letter}{value}")])));
            if !value.is_empty() {
                outcomes.push((true, outcome(&[format!("-{letter}"), value.clone()])));
            }
        }
        if let Some(letter) = option.opposite_short {
            outcomes.push((false, outcome(&[format!("-{letter}")])));
        }
        for one in &outcomes {
            for other in outcomes.iter().filter(|other| other.0 == one.0) {
                assert_eq!(one, other, "{}", option.long);
            }
            for other in outcomes.iter().filter(|other| other.0 != one.0) {
                // async is the default, and norelatime asks for relatime.
                assert!(one.1 != other.1 || option.long == "relatime", "{}", option.long);
            }
        }
        let idle = IDLE.contains(&option.long);
        let map = option.long.ends_with("map");
        assert!(idle || map || outcomes[0].1 != nothing, "{} does nothing", option.long);
    }
}

#[test]
fn without_options_ids_are_shown_as_they_are() {
    let config = config("");
    assert_eq!((config.source.to_str(), config.mountpoint.to_str()), (Some("/src"), Some("/mnt")));
    assert!(config.view.ids.uids.map().is_identity() && config.view.ids.gids.map().is_identity());
    assert_eq!(config.flags, MountFlags::default());
    assert_eq!((config.access, config.fsname, config.max_read), (None, None, None));
    assert_eq!(config.subtype, "shiftbind");
    assert!((2..=16).contains(&config.threads.get()));
    assert_eq!(config.cache, CachePolicy::Coherent { required: false });
}

#[test]
fn the_last_of_contradicting_options_wins_across_both_spellings() {
    assert_eq!(config("--ro -o rw").flags.read_only, Some(false));
    assert_eq!(config("-o rw --ro").flags.read_only, Some(true));
    assert_eq!(config("--ro --rw --ro").flags.read_only, Some(true));
    assert_eq!(config("-o ro,rw -o ro").flags.read_only, Some(true));
    assert_eq!(config("-o fsname=a --fsname=b -o ro").fsname.as_deref(), Some("b".as_ref()));
    assert_eq!(config("-o allow_other,no-allow-other").access, Some(Access::Owner));
    assert_eq!(config("-o allow_other,allow_root").access, Some(Access::OwnerAndRoot));
    assert_eq!(config("-o noatime,strictatime").flags.atime, Some(Atime::Strict));
    assert_eq!(config("-o noatime,atime").flags.atime, Some(Atime::Relative));
    assert_eq!(config("--threads=4 -s").threads.get(), 1);
}

#[test]
fn options_may_stand_anywhere() {
    for argv in [
        ["shiftbind", "--ro", "/src", "/mnt"],
        ["shiftbind", "/src", "-oro", "/mnt"],
        ["shiftbind", "/src", "/mnt", "-r"],
    ] {
        assert!(matches!(command(&argv), Ok(Command::Mount(c)) if c.flags.read_only == Some(true)));
    }
    let dashes = command(&["shiftbind", "--", "-src", "/mnt"]);
    assert!(matches!(dashes, Ok(Command::Mount(c)) if c.source.to_str() == Some("-src")));
}

#[test]
fn maps_add_up_in_the_order_given() {
    let config = config("--uidmap=0:10:1 -o idmap=5:10:1,ro --uidmap 7:70:1");
    let uids: Vec<String> =
        config.view.ids.uids.map().extents().iter().map(ToString::to_string).collect();
    assert_eq!(uids, ["0:10:1", "5:10:1", "7:70:1"]);
    assert_eq!(config.view.ids.gids.map().extents().len(), 1);
    assert_eq!(shown(&config, 7), Some(70));
    assert_eq!(shown(&config, 8), None);
}

#[test]
fn a_blank_within_a_map_comes_through_fstab_as_octal() {
    let config = config(r"-o idmap=u:0:10:1\040g:0:20:1");
    assert_eq!(config.view.ids.gids.map().extents()[0].to_string(), "0:20:1");
}

#[test]
fn a_map_for_one_kind_only_is_an_error_unless_the_other_is_identity() {
    assert!(error("--uidmap=0:10:1").contains("--gidmap=identity"));
    assert!(error("-o idmap=g:0:10:1").contains("--uidmap=identity"));
    assert!(config("--uidmap=0:10:1 --gidmap=identity").view.ids.gids.map().is_identity());
}

#[test]
fn the_unmapped_policy_is_for_both_kinds() {
    let config = config("--idmap=0:10:1 --unmapped=squash=alice");
    assert!(matches!(config.view.ids.uids.unmapped(), Unmapped::Squash(id) if id.raw() == 1000));
    assert!(matches!(config.view.ids.gids.unmapped(), Unmapped::Squash(id) if id.raw() == 100));
    assert_eq!(shown(&config, 5), Some(1000));
}

#[test]
fn libfuse_timeouts_replace_their_part() {
    let millis = Duration::from_millis;
    let expected =
        CachePolicy::Timeouts { entry: millis(5000), negative: millis(0), attr: millis(1500) };
    assert_eq!(config("-o attr_timeout=1.5,negative_timeout=0 --cache=timeout=5s").cache, expected);
    assert_eq!(config("--cache=coherent").cache, CachePolicy::Coherent { required: true });
    assert_eq!(config("--cache=forever").cache, CachePolicy::Forever);
    assert_eq!(config("--cache=forever --cache=none").cache, CachePolicy::None);
    assert!(error("--cache=none --attr-timeout=1").contains("attr-timeout"));
}

#[test]
fn debug_is_foreground_with_every_request() {
    let process = config("-d").process;
    assert!(process.foreground);
    assert_eq!(process.verbosity, 2);
    assert_eq!(config("-v").process.verbosity, 1);
    assert_eq!(config("-vv -o verbose").process.verbosity, 2);
    assert!(!config("-vv").process.foreground);
}

#[test]
fn errors_name_the_option_and_the_remedy() {
    for (args, message) in [
        ("--uidmpa=0:1:1", "unknown option '--uidmpa'; did you mean '--uidmap'?"),
        ("-o uidmpa=0:1:1", "unknown option 'uidmpa' in -o; did you mean 'uidmap'?"),
        ("--frobnicate", "unknown option '--frobnicate'; see shiftbind --help"),
        ("-z", "unknown option '-z'; see shiftbind --help"),
        ("third", "unexpected argument 'third'; give one SOURCE and one MOUNTPOINT"),
        ("--ro=yes", "option '--ro' takes no value"),
        ("--uidmap", "option '--uidmap' needs a value"),
        ("--uidmap=", "option 'uidmap': the value is empty"),
        ("-o subtype=", "option 'subtype': the value is empty"),
        ("--threads=0", "option 'threads': '0' is not a number from 1 to 1024"),
        ("--cache=5", "option 'cache': '5' is none of coherent, none, forever and timeout=TIME"),
        (
            "--unmapped=allow",
            "option 'unmapped': 'allow' is none of deny, pass and squash=UID[:GID]",
        ),
        ("--idmap=0:1", "idmap: extent 0:1 is cut short; give SOURCE:MOUNT:COUNT"),
        ("-o", "option '--options' needs a value"),
    ] {
        assert_eq!(error(args), message);
    }
    let message = command(&["shiftbind"]).unwrap_err().to_string();
    assert_eq!(message, "SOURCE and MOUNTPOINT are missing; see shiftbind --help");
    let message = command(&["shiftbind", "/src"]).unwrap_err().to_string();
    assert_eq!(message, "MOUNTPOINT is missing; give SOURCE and MOUNTPOINT");
    let message = command(&["shiftbind", "", "/mnt"]).unwrap_err().to_string();
    assert_eq!(message, "SOURCE is empty");
}

#[test]
fn help_and_version_need_nothing_else() {
    for (flag, version) in [("-h", false), ("--help", false), ("-V", true), ("--version", true)] {
        let found = command(&["shiftbind", flag]);
        assert_eq!(matches!(found, Ok(Command::Version(_))), version);
        assert_eq!(matches!(found, Ok(Command::Help(_))), !version);
    }
    assert!(matches!(
        command(&["shiftbind", "--generate=man"]),
        Ok(Command::Generate(Artifact::Man))
    ));
    assert!(command(&["shiftbind", "--generate=elvish"]).is_err());
}

#[test]
fn paths_need_not_be_utf8() {
    let path = OsString::from_vec(b"/s\xff".to_vec());
    let argv = ["shiftbind".into(), path.clone(), "/mnt".into()];
    assert!(matches!(parse_with(argv, &TestAccounts), Ok(Command::Mount(c)) if c.source == path));
    let fsname = OsString::from_vec(b"fsname=\xff".to_vec());
    let argv = ["shiftbind".into(), "/s".into(), "/m".into(), "-o".into(), fsname];
    assert!(matches!(parse_with(argv, &TestAccounts), Ok(Command::Mount(c)) if c.fsname.is_some()));
    let map = OsString::from_vec(b"--idmap=\xff".to_vec());
    let argv = ["shiftbind".into(), "/s".into(), "/m".into(), map];
    let message = parse_with(argv, &TestAccounts).unwrap_err().to_string();
    assert_eq!(message, "option 'idmap': the value is not valid UTF-8");
}

#[test]
fn mount_fuse3_calls_it_in_the_ordinary_grammar() {
    let argv = ["shiftbind", "/src", "/mnt", "-o", "rw,idmap=0:100000:65536,dev,suid"];
    let Ok(Command::Mount(config)) = command(&argv) else { panic!() };
    assert_eq!((config.flags.read_only, config.flags.nosuid), (Some(false), Some(false)));
    assert_eq!(shown(&config, 1000), Some(101_000));
}

#[test]
fn a_remount_changes_flags_only() {
    for argv in [
        &["shiftbind", "/mnt", "-o", "remount,ro"] as &[&str],
        &["shiftbind", "/src", "/mnt", "-o", "remount,ro,idmap=0:1:1"],
        &[
            "mount.shiftbind",
            "/src",
            "/mnt",
            "-o",
            "ro,remount,relatime,user_id=0,group_id=0,allow_other",
        ],
    ] {
        let found = command(argv);
        let Ok(Command::Remount { mountpoint, flags }) = found else { panic!("{found:?}") };
        assert_eq!(mountpoint.to_str(), Some("/mnt"));
        assert_eq!((flags.read_only, flags.nosuid), (Some(true), None));
    }
}

#[test]
fn a_mount_helper_takes_the_flags_of_mount8() {
    for name in ["mount.shiftbind", "/sbin/mount.shiftbind", "/usr/sbin/mount.fuse.shiftbind"] {
        let argv = [name, "/src", "/mnt", "-n", "-v", "-o", "rw,idmap=0:100000:65536,nofail"];
        let Ok(Command::Mount(config)) = command(&argv) else { panic!() };
        assert!(!config.process.foreground);
        assert_eq!(config.process.verbosity, 1);
        assert_eq!(shown(&config, 0), Some(100_000));
    }
    let fake = command(&["mount.shiftbind", "/src", "/mnt", "-fn"]);
    assert!(matches!(fake, Ok(Command::Fake(c)) if !c.process.foreground));
    assert!(command(&["mount.shiftbind", "/src", "/mnt", "-o", "nonsense"]).is_err());
    let sloppy = command(&["mount.shiftbind", "/src", "/mnt", "-o", "nonsense,ro", "-s"]);
    assert!(matches!(sloppy, Ok(Command::Mount(c)) if c.flags.read_only == Some(true)));
}

/// The command lines that mount(8) of util-linux 2.38 was observed to pass to its helpers.
#[test]
fn the_command_lines_of_mount8_are_understood() {
    let call =
        |args: &[&str]| command(&[&["/sbin/mount.fuse.shiftbind", "/src", "/mnt"], args].concat());
    let options = "ro,noexec,nosuid,nodev,idmap=0:1:1,nofail,_netdev,user";
    let Ok(Command::Mount(config)) = call(&["-o", options]) else { panic!() };
    assert_eq!((config.flags.read_only, config.flags.noexec), (Some(true), Some(true)));
    let Ok(Command::Mount(config)) = call(&["-o", "rw,noatime,idmap=u:0:1:1 g:0:2:1"]) else {
        panic!()
    };
    assert_eq!(config.view.ids.gids.map().extents()[0].to_string(), "0:2:1");
    let Ok(Command::Fake(config)) = call(&["-s", "-f", "-n", "-v", "-o", "rw,fsname=\"a,b\""])
    else {
        panic!()
    };
    assert_eq!(config.fsname.as_deref(), Some("a,b".as_ref()));
    assert!(matches!(call(&["-o", "ro,remount"]), Ok(Command::Remount { .. })));
}

#[test]
fn the_subtype_of_a_helper_comes_with_t() {
    for (kind, options, expected) in [
        ("fuse.shiftbind", "rw", "shiftbind"),
        ("shiftbind", "rw", "shiftbind"),
        ("fuse.other", "rw", "other"),
        ("fuse.other", "subtype=mine", "mine"),
    ] {
        let argv = ["mount.fuse.shiftbind", "/src", "/mnt", "-t", kind, "-o", options];
        assert!(matches!(command(&argv), Ok(Command::Mount(c)) if c.subtype == expected), "{kind}");
    }
}

#[test]
fn a_helper_refuses_what_it_cannot_do() {
    let helper = |args: &[&str]| {
        let argv: Vec<&str> = [&["mount.shiftbind", "/src", "/mnt"], args].concat();
        command(&argv).unwrap_err().to_string()
    };
    assert!(
        helper(&["-N", "/dev/null"])
            .contains("option 'namespace': /dev/null: this is no mount namespace")
    );
    assert_eq!(helper(&["-o"]), "option '-o' needs a value");
    assert!(helper(&["--ro"]).starts_with("unknown option '--ro'"));
    assert!(helper(&["third"]).starts_with("too many arguments"));
}

#[test]
fn ten_thousand_extents_come_through() {
    let maps: Vec<String> = (0..20)
        .map(|part| {
            let extents =
                (0..500).map(|i| part * 500 + i).map(|i| format!("{}:{}:1", i * 3, i * 2));
            format!("--idmap={}", extents.collect::<Vec<_>>().join(":"))
        })
        .collect();
    let config = config(&maps.join(" "));
    assert_eq!(config.view.ids.uids.map().extents().len(), 10_000);
    assert_eq!(shown(&config, 9_999 * 3), Some(9_999 * 2));
}

proptest! {
    #[test]
    fn no_command_line_makes_it_panic(
        argv in prop::collection::vec("-?-?[a-z]{0,6}=?[a-z0-9:,=]{0,8}|.{0,12}", 0..6),
        helper in any::<bool>(),
    ) {
        let name = if helper { "mount.shiftbind" } else { "shiftbind" };
        let argv = std::iter::once(name.to_owned()).chain(argv).map(OsString::from);
        if let Err(error) = parse_with(argv, &TestAccounts) {
            prop_assert_eq!(error.exit().code(), 1);
        }
    }
}
