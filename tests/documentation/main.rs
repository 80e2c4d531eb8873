//! Runs the examples of the README, of the man page and of `contrib/` in a private mount namespace, with the files
//! that `make install` installs and the directories that the examples name.
//!
//! An example that [`KNOWN`] lacks fails the test: a new example needs an entry with its checks.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;

#[allow(dead_code)]
#[path = "../support/machine.rs"]
mod machine;
use machine::program;

/// Commands that are not run, each by its beginning.
const NOT_RUN: &[(&str, &str)] = &[
    ("apt-get ", "changes the machine"),
    ("curl ", "downloads a toolchain"),
    (". ~/.cargo/env", "belongs to the toolchain"),
    ("make install", "done before, with DESTDIR: every example runs what it installed"),
    ("cargo test ", "is what runs this"),
    ("podman unshare ", "takes a storage of the user; tests/containers runs it"),
    ("podman run ", "loads an image; a user namespace with the same map stands in"),
    ("docker run ", "loads an image; a user namespace with the same map stands in"),
];

/// The environment of every example. `/srv/data` belongs to 0 and holds `f` of 5:6 and `o` of 70000:70000.
const WORLD: &str = r#"
mount -t overlay -o "lowerdir=$DEST/sbin:/usr/sbin" sbin /usr/sbin
mount -t overlay -o "lowerdir=$DEST/usr/local:/usr/local" local /usr/local
mkdir "$DEST/etc" "$DEST/dev"
mknod -m 666 "$DEST/dev/fuse" c 10 229
mount --bind "$DEST/dev/fuse" /dev/fuse
for file in passwd group; do grep -v -e ^alice: -e :1000: "/etc/$file" > "$DEST/etc/$file"; done
echo alice:x:1000:1000::/home/alice:/bin/sh >> "$DEST/etc/passwd"
echo alice:x:1000: >> "$DEST/etc/group"
for file in passwd group; do chmod 644 "$DEST/etc/$file"; mount --bind "$DEST/etc/$file" "/etc/$file"; done
for dir in /srv /mnt /home /var /run; do mount -t tmpfs -o mode=755 world "$dir"; done
cd /
mkdir -p /srv/data /srv/pool /srv/images/debian /home/alice/site /home/alice/view /var/www/site
mkdir -p /var/lib/box/rootfs /run/rootfs /mnt/data /mnt/one /mnt/two /mnt/pool /mnt/box
touch /srv/data/f /srv/data/o /srv/pool/f /srv/images/debian/f /home/alice/site/f /var/lib/box/rootfs/f
chown 5:6 /srv/data/f
chown 70000:70000 /srv/data/o
chown -R 1000:1000 /home/alice
owner() { stat -c %u:%g "$1"; }
# A command that has to fail: after `!` a shell goes on whatever the command does.
fails() { if "$@"; then echo "this should fail: $*" >&2; exit 1; fi; }
is() { test "$1" = "$2" || { echo "$1 is not $2" >&2; exit 1; }; }
maker() { uid=$1; shift; setpriv --reuid="$uid" --regid="$uid" --clear-groups touch "$@"; }
mounted() { shiftbind list | grep -q "^$1 " || { echo "$1 is no mount of shiftbind" >&2; exit 1; }; }
has() { findmnt -n -o OPTIONS "$1" | tr , '\n' | grep -qx "$2" || { echo "$1 is not $2" >&2; exit 1; }; }
in_container() {
    unshare --user --keep-caps sh -c 'until grep -q . /proc/self/gid_map; do sleep 0.02; done
        exec setpriv --reuid=0 --regid=0 --clear-groups sh -ec "$0"' "$1" &
    until test "$(readlink /proc/$!/ns/user)" != "$(readlink /proc/self/ns/user)"; do sleep 0.02; done
    echo 0 100000 65536 > /proc/$!/uid_map
    echo 0 100000 65536 > /proc/$!/gid_map
    wait $!
}
"#;

/// Checks the map of most examples in both directions.
const SHIFTED: &str =
    "mounted /mnt/data; is $(owner /mnt/data/f) 100005:100006; is $(owner /mnt/data/o) 65534:65534
    maker 100000 /mnt/data/made; is $(owner /srv/data/made) 0:0";

const NO_SETUID_NO_DEVICES: &str = "has /mnt/data nosuid; has /mnt/data nodev";

const CONTAINER: &str = r#"is "$(in_container 'stat -c %u:%g /mnt/data/f; touch /mnt/data/inside')" 5:6
    is $(owner /srv/data/inside) 0:0"#;

/// How an example is recognised, and what must hold after it has run.
struct Known {
    /// Words that the example contains.
    words: &'static str,
    /// Commands that run before it.
    before: &'static str,
    /// Shell commands that must succeed afterwards. `$OUT` is the example's output.
    then: &'static [&'static str],
}

const fn known(words: &'static str, then: &'static [&'static str]) -> Known {
    Known { words, before: "", then }
}

const KNOWN: &[Known] = &[
    // Examples of the README.
    known("make install && mkdir -p /srv/data", &[SHIFTED, "test -e /usr/local/share/man/man8/shiftbind.8"]),
    known("cargo test --locked", // Absent from the package that cargo makes.
        &[r#"test ! -e "$CI" || grep -q "^step .* cargo test --locked --no-fail-fast$" "$CI""#]),
    known(
        "shiftbind --explain /srv/data",
        &["grep -qx 'uid: source 0..65535 is shown as 100000..165535' $OUT", "fails mountpoint -q /mnt/data"],
    ),
    known(
        "--uidmap=alice:www-data:1",
        &["is $(owner /var/www/site/f) 33:33; maker 33 /var/www/site/made; is $(owner /home/alice/site/made) 1000:1000"],
    ),
    known(
        "--idmap=1000:2000:1 --unmapped=pass",
        &["is $(owner /mnt/data/f) 5:6; chown 2000:2000 /mnt/data/f; is $(owner /srv/data/f) 1000:1000"],
    ),
    known("/mnt/data\numount /mnt/data\n", &["fails mountpoint -q /mnt/data", "is $(owner /srv/data/seen) 0:0"]),
    Known {
        words: "shiftbind list\nshiftbind stat",
        before: "shiftbind --idmap=0:100000:65536 /srv/data /mnt/data",
        then: &["grep -Eq '^/mnt/data  */srv/data  *(kernel|fuse)  *0:100000:65536 ' $OUT; grep -Eq '^state: (mounted|serving)$' $OUT"],
    },
    known("/srv/data  /mnt/data  fuse.shiftbind  idmap=b:", &[SHIFTED, NO_SETUID_NO_DEVICES]),
    known(
        "/mnt/two",
        &["is $(owner /mnt/one/f) 100005:100006; is $(owner /mnt/two/f) 200005:200006
           maker 100000 /mnt/one/a; maker 200000 /mnt/two/b; is $(owner /mnt/one/b) 100000:100000
           is $(owner /mnt/two/a) 200000:200000; is $(owner /srv/data/b) 0:0"],
    ),
    known("podman unshare shiftbind", &[]),
    known("65536 -v /mnt/data:/data debian", &[CONTAINER]),
    known(
        "-v /mnt/data:/data:idmap",
        &["is $(owner /mnt/data/f) 5:6; shiftbind stat /mnt/data | grep -q idmappable"],
    ),
    known("docker run", &[CONTAINER]),
    Known {
        words: "--mkdir -N $CONTAINER",
        before: r#"unshare -U -m --propagation private sleep 60 &
            CONTAINER=$!
            until test "$(readlink /proc/$CONTAINER/ns/user)" != "$(readlink /proc/self/ns/user)"; do sleep 0.02; done
            echo 0 100000 65536 > /proc/$CONTAINER/uid_map
            echo 0 100000 65536 > /proc/$CONTAINER/gid_map
            until test "$(readlink /proc/$CONTAINER/ns/mnt)" != "$(readlink /proc/self/ns/mnt)"; do sleep 0.02; done
            inside() { nsenter -t $CONTAINER -U -m -S0 -G0 "$@"; }
            inside mount -t tmpfs -o mode=755 tmpfs /mnt"#,
        then: &["is $(inside stat -c %u:%g /mnt/data/f) 5:6; inside touch /mnt/data/made; is $(owner /srv/data/made) 0:0
            shiftbind umount -N $CONTAINER /mnt/data; fails inside test -e /mnt/data/f; kill $CONTAINER"],
    },
    known("Options=idmap=b:0:100000:65536,nosuid,nodev", &[SHIFTED, NO_SETUID_NO_DEVICES]),
    known(
        "-u www-data -g www-data -p u=rX:go=",
        &["is $(owner /mnt/data/f) 33:33; is $(stat -c %a /mnt/data/f) 400; has /mnt/data ro"],
    ),
    known(
        "setpriv --reuid=alice",
        &["mounted /home/alice/view; has /home/alice/view ro
           setpriv --reuid=1000 --regid=1000 --clear-groups test -e /home/alice/view/f"],
    ),
    // Examples of the man page.
    known(
        "shiftbind /home/alice/site /var/www/site -o idmap=1000:33:1",
        &["is $(owner /var/www/site/f) 33:33; maker 33 /var/www/site/made; is $(owner /home/alice/site/made) 1000:1000"],
    ),
    known(
        "shiftbind --explain --idmap=1000:33:1",
        &["grep -q '^uid: source 1000 (alice) is shown as 33 (www-data)$' $OUT", "fails mountpoint -q /var/www/site"],
    ),
    known(
        "--gidmap=staff:5000:1 --gidmap=100:5001:1",
        &["chown 7:staff /srv/pool/f; is $(owner /mnt/pool/f) 7:5000; chown 8:5001 /mnt/pool/f; is $(owner /srv/pool/f) 8:100
           chown 9:9 /mnt/pool/f; is $(owner /srv/pool/f) 9:9"],
    ),
    known(
        "--force-group=www-data --perms=u=rX:go=",
        &["is $(owner /mnt/pool/f) 33:33; is $(stat -c %a /mnt/pool) 500; has /mnt/pool ro"],
    ),
    known(
        "shiftbind /srv/images/debian /run/rootfs",
        &["is $(owner /run/rootfs/f) 100000:100000; maker 100000 /run/rootfs/made; is $(owner /srv/images/debian/made) 0:0"],
    ),
    known(
        "shiftbind --ro -o nosuid,nodev --idmap=100000:0:65536",
        &["chown 100005:100006 /var/lib/box/rootfs/f; is $(owner /mnt/box/f) 5:6; has /mnt/box ro; fails touch /mnt/box/made"],
    ),
    known("/srv/data  /mnt/data  fuse.shiftbind  idmap=0:", &[SHIFTED]),
    known("Options=idmap=0:100000:65536,nosuid,nodev", &[SHIFTED, NO_SETUID_NO_DEVICES]),
    Known {
        words: "mount -o remount,bind,ro /mnt/data",
        before: "mount -t shiftbind -o idmap=0:100000:65536,nosuid /srv/data /mnt/data",
        then: &[SHIFTED, "has /mnt/data rw; has /mnt/data nosuid"],
    },
    // Examples of doc/TROUBLESHOOTING.md: before each one, the symptom.
    Known {
        words: "shiftbind list\nshiftbind explain",
        before: "shiftbind --idmap=0:100000:65536 /srv/data /mnt/data",
        then: &["grep -q '^map: 0:100000:65536$' $OUT; grep -q '^uid: source 0..65535 is shown as 100000..165535$' $OUT"],
    },
    Known {
        words: "--idmap=70000:0:1 /srv/data",
        before: "shiftbind --idmap=0:100000:65536 /srv/data /mnt/data
            fails touch /mnt/data/new 2> $DEST/why; grep -q 'Value too large for defined data type' $DEST/why
            maker() { :; }",
        then: &["is $(owner /srv/data/new) 70000:70000"],
    },
    Known {
        words: "shiftbind list\numount /mnt/data",
        before: "shiftbind --engine=fuse --idmap=0:100000:65536 /srv/data /mnt/data
            kill -KILL $(shiftbind list | awk '$1 == \"/mnt/data\" { print $NF }')
            until shiftbind list | grep -q 'dead$'; do sleep 0.05; done
            fails ls /mnt/data 2> $DEST/why; grep -q 'Transport endpoint is not connected' $DEST/why
            maker() { :; }",
        then: &["grep -q '^/mnt/data .*dead$' $OUT; is $(owner /mnt/data/f) 100005:100006"],
    },
    Known {
        words: "umount --lazy",
        before: "shiftbind --idmap=0:100000:65536 /srv/data /mnt/data
            exec 9< /mnt/data/f; fails umount /mnt/data 2> $DEST/why; grep -q 'busy' $DEST/why",
        then: &["fails mountpoint -q /mnt/data; exec 9<&-"],
    },
    Known {
        words: "stat -c '%u:%g %n' /srv/data/o",
        before: "shiftbind --idmap=0:100000:65536 /srv/data /mnt/data",
        then: &["grep -qx '70000:70000 /srv/data/o' $OUT; grep -qx '65534:65534 /mnt/data/o' $OUT
            grep -q '^uid: source 65536..4294967294 is unmapped' $OUT"],
    },
    Known {
        words: "-o cache=timeout=1s /srv/data",
        before: "shiftbind --idmap=0:100000:65536 /srv/data /mnt/data",
        then: &["grep -q \"^engine: fuse, because .*option 'cache' needs the daemon\" $OUT; grep -q '^cache: timeout' $OUT"],
    },
    known("mount --version\nshiftbind --engine=kernel", &["grep -q '^mount from util-linux' $OUT", SHIFTED]),
    Known {
        words: "shiftbind stat /mnt/data\nshiftbind reload",
        before: "printf 'idmap=0:100000:65536\\ncache=forever\\n' > /srv/options
            shiftbind --engine=fuse -o config=/srv/options /srv/data /mnt/data
            fails test -e /mnt/data/late; touch /srv/data/late; fails test -e /mnt/data/late",
        then: &["grep -q '^cache: forever' $OUT; test -e /mnt/data/late"],
    },
    Known {
        words: "grep -e '^engine'",
        before: "shiftbind --engine=fuse --idmap=0:100000:65536 /srv/data /mnt/data",
        then: &["grep -qx 'engine: fuse' $OUT; grep -qx 'cache: coherent' $OUT"],
    },
    Known {
        words: "/proc/$CONTAINER/mountinfo",
        before: "unshare -m --propagation private sleep 60 &
            CONTAINER=$!
            until test \"$(readlink /proc/$CONTAINER/ns/mnt)\" != \"$(readlink /proc/self/ns/mnt)\"; do sleep 0.02; done
            shiftbind --idmap=0:100000:65536 /srv/data /mnt/data",
        then: &["grep -q '^namespace: ' $OUT; grep -q 'has no mount at /mnt/data$' $OUT; kill $CONTAINER"],
    },
    // Examples of contrib/.
    known(
        "ExecStart=",
        &[SHIFTED, NO_SETUID_NO_DEVICES, "kill -KILL $DAEMON; until ! mountpoint -q /mnt/data; do sleep 0.05; done"],
    ),
];

/// An example: the word after the fence (or a guess of the kind), and its text.
#[derive(Debug, PartialEq)]
struct Example {
    language: String,
    text: String,
}

/// The fenced blocks of a Markdown file.
fn of_markdown(text: &str) -> Vec<Example> {
    let mut examples = Vec::new();
    let (mut open, mut indent) = (None::<Example>, 0);
    for line in text.lines() {
        // A block within a list is indented.
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                indent = line.len() - line.trim_start().len();
                open = Some(Example { language: language.to_owned(), text: String::new() });
            }
            (Some(_), Some(_)) => examples.extend(open.take()),
            (None, Some(example)) => {
                example.text.extend([line.get(indent..).unwrap_or_default(), "\n"])
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    examples
}

/// The blocks of a man page's section EXAMPLES.
fn of_man_page(page: &str) -> Vec<Example> {
    let section = page.split("\n.SH EXAMPLES\n").nth(1).expect("a section EXAMPLES");
    let section = section.split("\n.SH ").next().unwrap_or(section);
    let mut examples = Vec::new();
    for block in section.split("\n.nf\n").skip(1) {
        let text = block
            .split("\n.fi")
            .next()
            .expect("split gives one")
            .replace("\\-", "-")
            .replace("\\e", "\\");
        let language = match text.as_bytes() {
            [b'[', ..] => "ini",
            [b'/', ..] => "fstab",
            _ => "sh",
        };
        examples.push(Example { language: language.to_owned(), text: text + "\n" });
    }
    examples
}

/// The value of a key in a unit.
fn value<'a>(unit: &'a str, key: &str) -> &'a str {
    let line = |line: &'a str| line.strip_prefix(key)?.strip_prefix('=');
    unit.lines().find_map(line).unwrap_or_else(|| panic!("no {key}= in:\n{unit}"))
}

/// The shell commands that do what the example says.
fn script(example: &Example) -> String {
    let text = &example.text;
    match example.language.as_str() {
        "sh" => {
            let joined = text.replace("\\\n", " ");
            let commands = joined.lines().flat_map(|line| line.split(" && ")).map(str::trim);
            let is_run =
                |command: &&str| !NOT_RUN.iter().any(|(start, _)| command.starts_with(start));
            commands
                .filter(is_run)
                // The checks run before the unmount.
                .map(|command| match command.starts_with("umount ") {
                    true => format!("maker 100000 /mnt/data/seen\n{command}\n"),
                    false => format!("{command}\n"),
                })
                .collect()
        }
        "fstab" => format!("cat > $DEST/fstab <<'END'\n{text}END\nmount -T $DEST/fstab -a\n"),
        // As systemd mounts it (systemd.mount(5)).
        "ini" if text.contains("[Mount]") => format!(
            "mount {} {} -t {} -o {}\n",
            value(text, "What"),
            value(text, "Where"),
            value(text, "Type"),
            value(text, "Options")
        ),
        "ini" if text.contains("Type=notify") => {
            let command = value(text, "ExecStart").replace("%f", "/mnt/data");
            format!(
                "SOURCE=/srv/data OPTIONS=idmap=b:0:100000:65536,nosuid,nodev\n{command} > /dev/null 2>&1 &\nDAEMON=$!\n\
                 until mountpoint -q /mnt/data; do sleep 0.02; done\n"
            )
        }
        other => panic!("an example in '{other}', which nothing here can run:\n{text}"),
    }
}

/// The directory below which everything is installed.
fn installed() -> TempDir {
    let dest = tempfile::tempdir().expect("make a directory");
    let output = program("make")
        .args(["install", &format!("BINARY={}", env!("CARGO_BIN_EXE_shiftbind"))])
        .arg(format!("DESTDIR={}", dest.path().display()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("run make");
    assert!(output.status.success(), "make install: {}", String::from_utf8_lossy(&output.stderr));
    dest
}

fn run(example: &Example) {
    let text = &example.text;
    let known: Vec<&Known> = KNOWN.iter().filter(|known| text.contains(known.words)).collect();
    let [known] = known[..] else {
        panic!(
            "{} entries of KNOWN fit this example; it takes one to say when it has worked:\n{text}",
            known.len()
        );
    };
    let dest = installed();
    let checks = known.then.join("\n");
    let script = format!(
        "set -e\ntrap 'umount -a -t fuse.shiftbind || umount -l -a -t fuse.shiftbind' EXIT\n{WORLD}\n{}\n\
         {{\n:\n{}}} > $DEST/out\nOUT=$DEST/out\n{checks}\n",
        known.before,
        self::script(example)
    );
    let output = program("timeout")
        .args(["60", "unshare", "--mount", "--propagation", "private", "sh", "-c", &script])
        .env("DEST", dest.path())
        .env("CI", Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/run"))
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .expect("run unshare");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}\n{text}", output.status);
}

fn project_file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn the_readmes_examples_work() {
    let examples = of_markdown(&project_file("README.md"));
    assert!(examples.len() > 8, "{examples:?}");
    examples.iter().for_each(run);
}

#[test]
fn the_man_pages_examples_work() {
    let examples = of_man_page(&project_file("man/shiftbind.8"));
    assert!(examples.len() > 7, "{examples:?}");
    examples.iter().for_each(run);
}

#[test]
fn the_remedies_of_troubleshooting_work() {
    let examples = of_markdown(&project_file("doc/TROUBLESHOOTING.md"));
    assert!(examples.len() > 9, "{examples:?}");
    examples.iter().for_each(run);
}

#[test]
fn the_units_of_contrib_work() {
    for name in ["contrib/mnt-data.mount", "contrib/shiftbind@.service"] {
        run(&Example { language: "ini".to_owned(), text: project_file(name) });
    }
}

#[test]
fn the_readmes_unit_is_the_one_in_contrib() {
    let said = |text: &str| -> Vec<String> {
        let is_said = |line: &&str| !line.starts_with('#') && !line.starts_with("Documentation=");
        text.lines().filter(is_said).map(str::to_owned).collect()
    };
    let readme = of_markdown(&project_file("README.md"));
    let unit =
        readme.iter().find(|example| example.language == "ini").expect("a unit in the README");
    assert_eq!(said(&unit.text), said(&project_file("contrib/mnt-data.mount")));
    // systemd accepts a mount unit only if its name matches the mount point.
    assert_eq!(value(&unit.text, "Where"), "/mnt/data");
}

#[test]
fn every_known_example_is_there() {
    let mut all: Vec<String> =
        of_markdown(&project_file("README.md")).into_iter().map(|example| example.text).collect();
    all.extend(
        of_man_page(&project_file("man/shiftbind.8")).into_iter().map(|example| example.text),
    );
    let troubles = of_markdown(&project_file("doc/TROUBLESHOOTING.md"));
    all.extend(troubles.into_iter().map(|example| example.text));
    all.push(project_file("contrib/shiftbind@.service"));
    for known in KNOWN {
        assert!(
            all.iter().any(|text| text.contains(known.words)),
            "no example has '{}'",
            known.words
        );
    }
}

#[test]
fn links_to_files_lead_somewhere() {
    for document in ["README.md", "ARCHITECTURE.md"] {
        let text = project_file(document);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let is_file = !target.starts_with("http") && !target.starts_with('#');
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(target);
            assert!(!is_file || path.exists(), "{document} links to {target}, which is not there");
        }
    }
}

#[test]
fn a_language_that_nothing_can_run_is_refused() {
    let example = Example { language: "console".to_owned(), text: "$ true\n".to_owned() };
    assert!(std::panic::catch_unwind(|| script(&example)).is_err());
}

#[test]
fn the_oldest_kernel_is_the_same_wherever_it_is_named() {
    let metadata = project_file("Cargo.toml");
    let oldest = metadata
        .lines()
        .find_map(|line| line.strip_prefix("minimum-linux = \"")?.strip_suffix('"'));
    let oldest = oldest.expect("Cargo.toml names the oldest kernel");
    for (file, words) in [
        ("README.md", format!("for Linux {oldest} and newer")),
        ("man/shiftbind.8.in", format!("Linux {oldest} or newer is needed.")),
        ("man/shiftbind.8", format!("Linux {oldest} or newer is needed.")),
        ("src/error.rs", format!("OLDEST_KERNEL: &str = \"{oldest}\";")),
    ] {
        assert!(project_file(file).contains(&words), "{file} does not say: {words}");
    }
}
