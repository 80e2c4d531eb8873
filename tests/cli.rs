//! The command line: exit statuses, one-line errors, and output. Nothing is mounted here.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

#[allow(dead_code)]
#[path = "support/machine.rs"]
mod machine;
use machine::program;

const PROGRAM: &str = env!("CARGO_BIN_EXE_shiftbind");

fn shiftbind(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).stdin(Stdio::null()).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// The standard output of a run that succeeded without a message on standard error.
fn printed(args: &[&str]) -> String {
    let output = shiftbind(args);
    assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    text(&output.stdout)
}

/// The one-line error of a run that ended with status 1 and printed nothing.
fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let stderr = text(&output.stderr);
    assert!(stderr.ends_with('\n') && stderr.lines().count() == 1, "one line: {stderr:?}");
    stderr.trim_end().strip_prefix("shiftbind: ").expect("the program's name first").to_owned()
}

#[test]
fn a_wrong_invocation_is_one_line_and_status_1() {
    for args in [
        &[] as &[&str],
        &["/src"],
        &["/src", "/mnt", "third"],
        &["/src", "/mnt", "--frobnicate"],
        &["/src", "/mnt", "-z"],
        &["/src", "/mnt", "-o", "frobnicate"],
        &["/src", "/mnt", "--idmap=1:2"],
        &["/src", "/mnt", "--idmap=0:0:10", "--idmap=5:100:1"],
        &["/src", "/mnt", "--idmap=0:4294967295:1"],
        &["/src", "/mnt", "--uidmap=0:1:1"],
        &["/src", "/mnt", "--idmap=u:no\nsuch\nuser:0:1"],
        &["/src", "/mnt", "--unmapped=squash="],
        &["/src", "/mnt", "--cache=of\ntwo lines\r"],
        &["/src", "/mnt", "--threads=none"],
        &["--generate=elvish"],
    ] {
        assert!(!complaint(&shiftbind(args)).is_empty(), "{args:?}");
    }
}

#[test]
fn a_mistyped_option_gets_the_nearest_as_a_suggestion() {
    let hint = |args: &[&str]| complaint(&shiftbind(&[&["/src", "/mnt"], args].concat()));
    assert_eq!(hint(&["--idmpa=0:1:1"]), "unknown option '--idmpa'; did you mean '--idmap'?");
    assert_eq!(
        hint(&["-o", "allow_othr"]),
        "unknown option 'allow_othr' in -o; did you mean 'allow_other'?"
    );
}

#[test]
fn explaining_a_map_needs_no_source_and_no_mount_point() {
    for args in [&["--explain"][..], &["explain"]] {
        let lines = printed(&[args, &["-o", "idmap=0:100000:65536"]].concat());
        assert!(lines.contains("\nuid: source 0 (root) is shown as 100000\n"), "{lines}");
        assert!(
            lines.ends_with("kernel: an idmapped mount of the kernel could express this map\n"),
            "{lines}"
        );
    }
}

#[test]
fn explaining_mounts_nothing_and_ends_with_the_status_of_the_mount() {
    let args = ["--explain", "/no/source", "/no/mount", "-o", "idmap=0:100000:65536"];
    let output = shiftbind(&args);
    assert_eq!(output.status.code(), Some(32), "{output:?}");
    assert_eq!(text(&output.stderr), "shiftbind: source /no/source: No such file or directory\n");
    let lines = text(&output.stdout);
    for line in [
        "uid: source 0..65535 is shown as 100000..165535",
        "uid: source 0 (root) is shown as 100000",
        "gid: source 0..65535 is shown as 100000..165535",
        "engine: fuse, because the kernel cannot make this mount: source /no/source: No such file or directory",
        "kernel: an idmapped mount of the kernel could express this map",
    ] {
        assert!(lines.lines().any(|one| one == line), "{line}\nis not in\n{lines}");
    }
    assert!(
        lines.lines().any(|one| one.starts_with("uid: source 65536..4294967294 is unmapped: "))
    );
    assert!(lines.lines().any(|one| one.starts_with("cache: coherent: ")));
}

#[test]
fn a_reader_that_stops_early_is_no_failure() {
    let mut child = Command::new(PROGRAM)
        .args(["--explain", "--gidmap=identity"])
        .args((0..8).map(|part| {
            let extents: Vec<String> =
                (0..2000).map(|i| format!("{}:0:1", part * 2000 + i)).collect();
            format!("--uidmap={}", extents.join(":"))
        }))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn help_and_version_are_printed() {
    assert!(printed(&["--help"]).starts_with("Usage: shiftbind [OPTIONS] SOURCE MOUNTPOINT\n"));
    assert_eq!(printed(&["-h"]), printed(&["--help"]));
    assert_eq!(printed(&["--version"]), format!("shiftbind {}\n", env!("CARGO_PKG_VERSION")));
}

/// Runs a program with a text as its standard input; returns whether it succeeded, and its output and errors.
fn fed(program: &str, args: &[&str], input: &str) -> (bool, String) {
    let mut child = self::program(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn completions_are_valid_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&[&format!("--generate={shell}")]);
        assert!(script.contains("one-file-system"), "{shell}");
        assert_eq!(fed(shell, &["-n"], &script), (true, String::new()), "{shell}");
    }
}

#[test]
fn bash_offers_the_options_and_the_words_of_a_value() {
    let script = printed(&["--generate=bash"])
        + "\nCOMP_WORDS=(shiftbind --uidm); COMP_CWORD=1; _shiftbind shiftbind --uidm shiftbind; echo \"${COMPREPLY[@]}\""
        + "\nCOMP_WORDS=(shiftbind --cache f); COMP_CWORD=2; _shiftbind shiftbind f --cache; echo \"${COMPREPLY[@]}\"\n";
    assert_eq!(fed("bash", &["-s"], &script), (true, "--uidmap\nforever\n".to_owned()));
}

#[test]
fn the_man_page_is_clean() {
    let page = printed(&["--generate=man"]);
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/shiftbind.8");
    assert!(
        page == std::fs::read_to_string(committed).unwrap(),
        "run `make man` and commit the page"
    );
    assert_eq!(fed("mandoc", &["-Tlint"], &page), (true, String::new()));
    assert_eq!(fed("groff", &["-man", "-Tutf8", "-ww", "-z"], &page), (true, String::new()));
}

#[test]
fn a_helper_of_mount_is_known_by_its_name() {
    let helper = |args: &[&str]| {
        Command::new(PROGRAM).arg0("/sbin/mount.shiftbind").args(args).output().unwrap()
    };
    let fake = helper(&["/no/source", "/no/mount", "-f", "-o", "rw,idmap=0:1:1"]);
    assert!(fake.status.success() && fake.stdout.is_empty() && fake.stderr.is_empty(), "{fake:?}");
    let wrong = helper(&["/no/source", "/no/mount", "-f", "-o", "nonsense"]);
    assert!(complaint(&wrong).starts_with("unknown option 'nonsense'"));
    let sloppy = helper(&["/no/source", "/no/mount", "-sf", "-o", "nonsense"]);
    assert!(sloppy.status.success(), "{sloppy:?}");
}

/// Every file and link below a directory.
fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            let below = files_below(&entry.path());
            let name = entry.file_name().into_string().unwrap();
            found.extend(below.into_iter().map(|path| format!("{name}/{path}")));
        } else {
            found.push(entry.file_name().into_string().unwrap());
        }
    }
    found.sort();
    found
}

#[test]
fn make_installs_where_mount_looks_and_uninstalls_everything() {
    let root = tempfile::tempdir().unwrap();
    let make = |target: &str| {
        let status = program("make")
            .args(["-s", "-C", env!("CARGO_MANIFEST_DIR"), target, "PREFIX=/usr"])
            .arg(format!("BINARY={PROGRAM}"))
            .arg(format!("DESTDIR={}", root.path().display()))
            .env_remove("MAKEFLAGS")
            .status();
        assert!(status.unwrap().success(), "make {target}");
    };
    make("install");
    make("install");
    assert_eq!(
        files_below(root.path()),
        [
            "sbin/mount.fuse.shiftbind",
            "sbin/mount.shiftbind",
            "usr/bin/shiftbind",
            "usr/share/bash-completion/completions/shiftbind",
            "usr/share/fish/vendor_completions.d/shiftbind.fish",
            "usr/share/man/man8/mount.fuse.shiftbind.8",
            "usr/share/man/man8/mount.shiftbind.8",
            "usr/share/man/man8/shiftbind.8",
            "usr/share/zsh/site-functions/_shiftbind",
        ]
    );
    let link = std::fs::read_link(root.path().join("sbin/mount.shiftbind")).unwrap();
    assert_eq!(link, Path::new("/usr/bin/shiftbind"));
    let completion = root.path().join("usr/share/zsh/site-functions/_shiftbind");
    assert!(std::fs::read_to_string(completion).unwrap().starts_with("#compdef shiftbind"));
    make("uninstall");
    assert_eq!(files_below(root.path()), [] as [String; 0]);
}

#[test]
fn make_links_bindfs_on_request_and_leaves_an_existing_program_alone() {
    let root = tempfile::tempdir().unwrap();
    let make = |target: &str| {
        program("make")
            .args(["-s", "-C", env!("CARGO_MANIFEST_DIR"), target, "PREFIX=/usr"])
            .arg(format!("DESTDIR={}", root.path().display()))
            .env_remove("MAKEFLAGS")
            .output()
            .unwrap()
    };
    assert!(make("install-bindfs").status.success());
    assert!(make("install-bindfs").status.success());
    assert_eq!(files_below(root.path()), ["sbin/mount.bindfs", "usr/bin/bindfs"]);
    let link = std::fs::read_link(root.path().join("sbin/mount.bindfs")).unwrap();
    assert_eq!(link, Path::new("/usr/bin/shiftbind"));
    assert!(make("uninstall-bindfs").status.success());
    assert_eq!(files_below(root.path()), [] as [String; 0]);
    std::fs::write(root.path().join("usr/bin/bindfs"), "theirs").unwrap();
    let refused = make("install-bindfs");
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("usr/bin/bindfs is another program"));
    assert!(make("uninstall-bindfs").status.success());
    assert_eq!(files_below(root.path()), ["usr/bin/bindfs"]);
}

#[test]
fn under_the_name_bindfs_it_speaks_as_bindfs() {
    let bindfs = |args: &[&str]| Command::new(PROGRAM).arg0("bindfs").args(args).output().unwrap();
    let printed = |args: &[&str]| {
        let output = bindfs(args);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        text(&output.stdout)
    };
    assert_eq!(
        printed(&["-V"]),
        format!("bindfs 1.18.4 (shiftbind {})\n", env!("CARGO_PKG_VERSION"))
    );
    assert!(printed(&["-h"]).starts_with("Usage: bindfs [options] dir mountpoint\n"));
    let (major, minor) = shiftbind::PROTOCOL_VERSION;
    let version = printed(&["--fuse-version"]);
    assert_eq!(version, format!("FUSE protocol {major}.{minor}, spoken without libfuse\n"));
    let wrong = bindfs(&["/src", "/mnt", "-m", "nosuchuser"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert_eq!(text(&wrong.stderr), "bindfs: option 'mirror': there is no user 'nosuchuser'\n");
}
