//! Runs the tables of doc/SEMANTICS.md: a mount does what they promise, or the test fails and names the row.
//!
//! A comment before a table says how to run it: `<!-- run: OPTIONS -->` runs it at a mount with these options, for
//! the callers in the head; `and the kernel` also runs it at the kernel's idmapped mount of the same map. After `<!--
//! differs: OPTIONS -->` the rows have the results of both. Tables that are run at the kernel's idmapped mount are run
//! with `idmappable` as well, and at the kernel's idmapped mount of a mount with `idmappable`; the table after
//! `<!-- idmappable: OPTIONS -->` has the rows that differ there. In a table without such a comment, every cell in
//! backquotes that looks like the name of a test must be one.

mod support;

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{self as unix, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use support::{Mount, as_user, kernel_mount, mount_by_engine, posix_acl, scratch};

const DOCUMENT: &str = include_str!("../doc/SEMANTICS.md");
const ACL: &str = "system.posix_acl_access";
const CAPABILITY: &str = "security.capability";

/// A table that is run.
struct Table {
    options: String,
    kernel: bool,
    differs: bool,
    /// It lists what differs with `idmappable`.
    idmappable: bool,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
    inner.split('|').map(|cell| cell.trim().to_owned()).collect()
}

fn tables() -> Vec<Table> {
    let mut found: Vec<Table> = Vec::new();
    let mut lines = DOCUMENT.lines();
    while let Some(line) = lines.next() {
        let Some(words) = line.strip_prefix("<!-- ").and_then(|l| l.strip_suffix(" -->")) else {
            continue;
        };
        let Some((kind, options)) = words.split_once(": ") else { continue };
        let (options, kernel) = match options.split_once(" and the kernel") {
            Some((options, _)) => (options, true),
            None => (options, false),
        };
        let mut rows: Vec<Vec<String>> = lines
            .by_ref()
            .skip_while(|line| line.is_empty())
            .take_while(|line| line.starts_with('|'))
            .filter(|line| !line.starts_with("|-"))
            .map(cells)
            .collect();
        let head = rows.remove(0);
        let differs = kind == "differs";
        found.push(Table {
            options: options.to_owned(),
            kernel: kernel || differs,
            differs,
            idmappable: kind == "idmappable",
            head,
            rows,
        });
    }
    found
}

/// Creates what every row starts from; the document describes it.
fn fill(dir: &Path) {
    let own = |path: &Path, uid, gid, mode| {
        unix::chown(path, Some(uid), Some(gid)).expect("chown");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    };
    let file = |name: &str, uid, gid, mode| {
        fs::write(dir.join(name), "text").expect("write");
        own(&dir.join(name), uid, gid, mode);
    };
    own(dir, 1000, 1000, 0o777);
    for (name, uid, gid, mode) in [
        ("map644", 1000, 1000, 0o644),
        ("map600", 1000, 1000, 0o600),
        ("map666", 1000, 1000, 0o666),
        ("un644", 5000, 5000, 0o644),
        ("un600", 5000, 5000, 0o600),
        ("un666", 5000, 5000, 0o666),
        ("un-map664", 5000, 1000, 0o664),
        ("map-un664", 1000, 5000, 0o664),
        ("root644", 0, 0, 0o644),
        ("suid", 1000, 1000, 0o6777),
        ("acl", 1000, 1000, 0o640),
        ("acl-un", 1000, 1000, 0o640),
        ("cap0", 1000, 1000, 0o755),
        ("cap1003", 1000, 1000, 0o755),
        ("cap-un", 1000, 1000, 0o755),
    ] {
        file(name, uid, gid, mode);
    }
    for (name, uid, gid, mode) in [
        ("dmap755", 1000, 1000, 0o755),
        ("dmap777", 1000, 1000, 0o777),
        ("dun755", 5000, 5000, 0o755),
        ("dun777", 5000, 5000, 0o777),
        ("dsgid", 1000, 1003, 0o2777),
    ] {
        let at = dir.join(name);
        fs::create_dir(&at).expect("mkdir");
        file(&format!("{name}/map"), 1000, 1000, 0o644);
        file(&format!("{name}/un"), 5000, 5000, 0o644);
        own(&at, uid, gid, mode);
    }
    let set = |name: &str, attribute: &str, value: &[u8]| {
        rustix::fs::setxattr(dir.join(name), attribute, value, XattrFlags::empty())
            .expect("setxattr");
    };
    set("acl", ACL, &acl(&[1001]));
    set("acl-un", ACL, &acl(&[1001, 5000]));
    set("cap0", CAPABILITY, &capability(None));
    set("cap1003", CAPABILITY, &capability(Some(1003)));
    set("cap-un", CAPABILITY, &capability(Some(5000)));
}

/// The ACL `user::rw-,user:ID:rw-…,group::r--,mask::rw-,other::---`.
fn acl(users: &[u32]) -> Vec<u8> {
    let mut entries = vec![(1_u16, 6_u16, u32::MAX)];
    entries.extend(users.iter().map(|id| (2, 6, *id)));
    entries.extend([(4, 4, u32::MAX), (0x10, 6, u32::MAX), (0x20, 0, u32::MAX)]);
    posix_acl(&entries)
}

/// A capability set of CAP_NET_BIND_SERVICE, for root or for the root of a user namespace.
fn capability(root: Option<u32>) -> Vec<u8> {
    let revision: u32 = if root.is_some() { 3 } else { 2 };
    let words = [revision << 24 | 1, 1 << 10, 0, 0, 0];
    words.into_iter().chain(root).flat_map(u32::to_le_bytes).collect()
}

fn word(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_le_bytes)
}

/// The users that an ACL names.
fn named(path: &Path) -> io::Result<String> {
    let mut value = [0; 256];
    let len = rustix::fs::getxattr(path, ACL, &mut value[..])?;
    let users = value[4..len].chunks(8).filter(|entry| entry[0] == 2);
    let users: Vec<String> = users.map(|entry| word(&entry[4..]).to_string()).collect();
    Ok(users.join(","))
}

/// The root id of a capability set.
fn root_of(path: &Path) -> io::Result<String> {
    let mut value = [0; 24];
    let len = rustix::fs::getxattr(path, CAPABILITY, &mut value[..])?;
    Ok(if len == 24 { word(&value[20..]).to_string() } else { "0".to_owned() })
}

fn owner(path: &Path) -> io::Result<String> {
    let meta = fs::symlink_metadata(path)?;
    Ok(format!("{}:{}", meta.uid(), meta.gid()))
}

fn mode(path: &Path) -> io::Result<String> {
    Ok(format!("{:o}", fs::symlink_metadata(path)?.mode() & 0o7777))
}

fn id(text: &str) -> Option<u32> {
    (text != "-").then(|| text.parse().expect("an id"))
}

/// Does what a row says below a directory of the mount; returns the result that the caller got.
fn act(words: &[&str], dir: &Path) -> io::Result<String> {
    let at = |name: &str| dir.join(name);
    let silent = Ok(String::new());
    match *words {
        ["stat", name] => Ok(format!("{} {}", owner(&at(name))?, mode(&at(name))?)),
        ["read", name] => fs::read(at(name)).and(silent),
        ["list", name] => fs::read_dir(at(name)).and(silent),
        ["write", name] => {
            OpenOptions::new().write(true).open(at(name))?.write_all(b"x").and(silent)
        }
        ["truncate", name] => {
            OpenOptions::new().write(true).truncate(true).open(at(name)).and(silent)
        }
        ["access-w", name] => {
            let flags = AtFlags::EACCESS;
            rustix::fs::accessat(CWD, at(name), rustix::fs::Access::WRITE_OK, flags)?;
            silent
        }
        ["utimes-now", name] => {
            let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
            let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
            rustix::fs::utimensat(CWD, at(name), &times, AtFlags::empty())?;
            silent
        }
        ["utimes-set", name] => {
            let time = rustix::fs::Timespec { tv_sec: 1000, tv_nsec: 0 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(CWD, at(name), &times, AtFlags::empty())?;
            silent
        }
        ["chmod", bits, name] => {
            let bits = u32::from_str_radix(bits, 8).expect("a mode");
            fs::set_permissions(at(name), fs::Permissions::from_mode(bits)).and(silent)
        }
        ["chown", ids, name] => {
            let (uid, gid) = ids.split_once(':').expect("UID:GID");
            let (uid, gid) = (id(uid).map(Uid::from_raw), id(gid).map(Gid::from_raw));
            rustix::fs::chownat(CWD, at(name), uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            silent
        }
        ["create", name] => File::create_new(at(name)).and(silent),
        ["tmpfile", name] => {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            rustix::fs::open(at(name), flags, Mode::from_raw_mode(0o600))?;
            silent
        }
        ["mkdir", name] => fs::create_dir(at(name)).and(silent),
        ["symlink", name] => unix::symlink("target", at(name)).and(silent),
        ["mkfifo", name] => {
            let mode = Mode::from_raw_mode(0o666);
            rustix::fs::mknodat(CWD, at(name), FileType::Fifo, mode, 0)?;
            silent
        }
        ["link", old, new] => fs::hard_link(at(old), at(new)).and(silent),
        ["rename", old, new] => fs::rename(at(old), at(new)).and(silent),
        ["unlink", name] => fs::remove_file(at(name)).and(silent),
        ["rmdir", name] => fs::remove_dir(at(name)).and(silent),
        ["setxattr", name] => {
            rustix::fs::setxattr(at(name), "user.k", b"v", XattrFlags::empty())?;
            silent
        }
        ["setacl", user, name] => {
            let value = acl(&[user.parse().expect("an id")]);
            rustix::fs::setxattr(at(name), ACL, &value, XattrFlags::empty())?;
            silent
        }
        ["getacl", name] => named(&at(name)),
        ["setcap", root, name] => {
            let root = root.parse().expect("an id");
            let value = capability((root != 0).then_some(root));
            rustix::fs::setxattr(at(name), CAPABILITY, &value, XattrFlags::empty())?;
            silent
        }
        ["getcap", name] => root_of(&at(name)),
        _ => panic!("no operation: {words:?}"),
    }
}

/// What the source holds after a success.
fn stored(words: &[&str], source: &Path) -> io::Result<String> {
    let last = source.join(words.last().expect("an operation"));
    match words[0] {
        "chown" | "create" | "mkdir" | "symlink" | "mkfifo" => owner(&last),
        "chmod" | "write" | "truncate" => mode(&last),
        "setacl" => named(&last),
        "setcap" => root_of(&last),
        _ => Ok(String::new()),
    }
}

fn name_of(error: &io::Error) -> String {
    let known = [
        (Errno::PERM, "EPERM"),
        (Errno::ACCESS, "EACCES"),
        (Errno::EXIST, "EEXIST"),
        (Errno::INVAL, "EINVAL"),
        (Errno::OVERFLOW, "EOVERFLOW"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::NODATA, "ENODATA"),
    ];
    let errno = Errno::from_io_error(error);
    let name = known.iter().find(|(known, _)| Some(*known) == errno);
    name.map_or_else(|| error.to_string(), |(_, name)| (*name).to_owned())
}

/// A mount of either kind.
struct Side {
    source: PathBuf,
    mount: PathBuf,
    cases: u32,
}

impl Side {
    /// The result of an operation in the format of a cell.
    fn answer(&mut self, operation: &str, caller: &str) -> String {
        self.cases += 1;
        let case = format!("case{}", self.cases);
        let (source, dir) = (self.source.join(&case), self.mount.join(&case));
        fs::create_dir(&source).expect("mkdir");
        fill(&source);
        let words: Vec<&str> = operation.split(' ').collect();
        let ids = if caller == "root" { "0" } else { caller };
        let (uid, gid) = ids.split_once(':').unwrap_or((ids, ids));
        let (uid, gid) = (uid.parse().expect("a uid"), gid.parse().expect("a gid"));
        let told = as_user(uid, gid, &[], || act(&words, &dir));
        let told = match told {
            Err(error) => return name_of(&error),
            Ok(told) if !told.is_empty() => return told,
            Ok(_) => stored(&words, &source).expect("look at the source"),
        };
        format!("ok {told}").trim_end().to_owned()
    }
}

/// Runs a table at mounts of the kernel's and of both engines, or at the daemon's only.
fn check(table: &Table, wrong: &mut String) -> usize {
    let (scratch_dir, mut seen) = (scratch(), 0);
    // For hundreds of short-lived trees.
    let trees = scratch_dir.dir("trees");
    support::mount_small_filesystem(&trees, rustix::mount::MountFlags::empty());
    let source = |name: &str| {
        fs::create_dir(trees.join(name)).expect("mkdir");
        trees.join(name)
    };
    let ours =
        table.options.split(',').fold(Mount::builder().source(&source("ours")), |mount, option| {
            if option.is_empty() { mount } else { mount.arg("-o").arg(option) }
        });
    let ours = ours.start();
    let mut ours =
        (Side { source: ours.source().to_owned(), mount: ours.path().to_owned(), cases: 0 }, ours);
    let mut kernels = Vec::new();
    if table.kernel {
        let maps: Vec<String> = table
            .options
            .split(',')
            .filter_map(|o| o.strip_prefix("idmap="))
            .map(Into::into)
            .collect();
        let plain = Side { source: source("kernel"), mount: scratch_dir.dir("mount"), cases: 0 };
        kernel_mount(&plain.source, &plain.mount, &maps);
        kernels.push(("kernel", plain));
        let engine =
            Side { source: source("engine"), mount: scratch_dir.dir("engine-mount"), cases: 0 };
        mount_by_engine(&engine.source, &engine.mount, &table.options);
        kernels.push(("engine=kernel", engine));
    }
    let mut hold = |side: &str, row: &[String], caller: &str, got: String, cell: &str| {
        seen += 1;
        if got != cell.trim_matches('`') {
            let _ = writeln!(wrong, "{side}: {} by {caller}: {got}, not {cell}", row[0]);
        }
    };
    for row in &table.rows {
        assert_eq!(row.len(), table.head.len(), "{row:?}");
        let operation = row[0].trim_matches('`');
        if table.differs {
            let [_, caller, of_kernel, of_ours, ..] = &row[..] else { panic!("{row:?}") };
            for (name, kernel) in &mut kernels {
                hold(name, row, caller, kernel.answer(operation, caller), of_kernel);
            }
            hold("ours", row, caller, ours.0.answer(operation, caller), of_ours);
            assert_ne!(of_kernel, of_ours, "no difference: {row:?}");
            continue;
        }
        for (caller, cell) in table.head.iter().zip(row).skip(1) {
            let caller = caller.trim_matches('`');
            for (name, kernel) in &mut kernels {
                hold(name, row, caller, kernel.answer(operation, caller), cell);
            }
            hold("ours", row, caller, ours.0.answer(operation, caller), cell);
        }
    }
    for (_, kernel) in kernels {
        let _ = rustix::mount::unmount(&kernel.mount, rustix::mount::UnmountFlags::DETACH);
    }
    drop(ours);
    rustix::mount::unmount(&trees, rustix::mount::UnmountFlags::DETACH).expect("unmount");
    seen
}

#[test]
fn every_row_of_the_document_holds() {
    let mut wrong = String::new();
    let tables = tables().into_iter().filter(|table| !table.idmappable);
    let seen: usize = tables.map(|table| check(&table, &mut wrong)).sum();
    println!("{seen} answers");
    assert!(wrong.is_empty(), "doc/SEMANTICS.md is wrong:\n{wrong}");
    assert!(seen > 400, "only {seen} answers were found in the document");
}

/// What the document says of one operation and caller: the answers of a mount with `idmappable`, and of an idmapped
/// mount of such a mount.
fn expected(table: &Table, differences: &[Vec<String>]) -> Vec<(String, String, [String; 2])> {
    let mut found = Vec::new();
    for row in &table.rows {
        let plain: Vec<(&String, [&String; 2])> = match table.differs {
            // The idmapped mount of a mount answers as one of the source does.
            true => vec![(&row[1], [&row[3], &row[2]])],
            false => {
                table.head.iter().zip(row).skip(1).map(|(who, cell)| (who, [cell; 2])).collect()
            }
        };
        for (caller, answers) in plain {
            let other = differences.iter().find(|other| other[0] == row[0] && other[1] == *caller);
            let answers = match other {
                Some(other) => [&other[2], &other[3]],
                None => answers,
            };
            let clean = |text: &String| text.trim_matches('`').to_owned();
            found.push((clean(&row[0]), caller.clone(), answers.map(clean)));
        }
    }
    found
}

/// Holds both kinds of mount with `idmappable` against the document.
fn check_idmappable(trees: &Path, options: &str, rows: &[(String, String, [String; 2])]) -> String {
    let source = |name: &str| {
        fs::create_dir(trees.join(name)).expect("mkdir");
        trees.join(name)
    };
    let mount = |name: &str, options: &[&str]| {
        let builder = Mount::builder().source(&source(name)).arg("-oidmappable");
        options.iter().fold(builder, |mount, option| mount.arg("-o").arg(*option)).start()
    };
    let (plain, below) = (mount("plain", &[options]), mount("below", &[]));
    let room = scratch();
    let clone = room.dir("clone");
    let maps = options.strip_prefix("idmap=").expect("a map").to_owned();
    kernel_mount(below.path(), &clone, &[maps]);
    let side = |source: &Path, mount: &Path| Side {
        source: source.to_owned(),
        mount: mount.to_owned(),
        cases: 0,
    };
    let mut sides = [
        ("with idmappable", side(plain.source(), plain.path())),
        ("an idmapped clone", side(below.source(), &clone)),
    ];
    let mut wrong = String::new();
    for (operation, caller, answers) in rows {
        for ((name, side), cell) in sides.iter_mut().zip(answers) {
            let got = side.answer(operation, caller);
            if got != *cell {
                let _ = writeln!(wrong, "{name}: {operation} by {caller}: {got}, not {cell}");
            }
        }
    }
    rustix::mount::unmount(&clone, rustix::mount::UnmountFlags::DETACH).expect("unmount");
    wrong
}

#[test]
fn every_row_holds_where_the_kernel_does_not_tell_the_caller() {
    if let Err(why) = Mount::builder().arg("-oidmappable").try_start() {
        assert!(why.contains("this kernel's FUSE has no idmapped mounts"), "{why}");
        return support::skipped("this kernel's FUSE has no idmapped mounts");
    }
    let tables = tables();
    let differences: Vec<Vec<String>> = tables
        .iter()
        .filter(|table| table.idmappable)
        .flat_map(|table| table.rows.clone())
        .collect();
    let room = scratch();
    let (mut wrong, mut seen) = (String::new(), Vec::new());
    for (index, table) in tables.iter().filter(|table| table.kernel).enumerate() {
        let rows = expected(table, &differences);
        let trees = room.dir(&format!("trees{index}"));
        support::mount_small_filesystem(&trees, rustix::mount::MountFlags::empty());
        wrong += &check_idmappable(&trees, &table.options, &rows);
        rustix::mount::unmount(&trees, rustix::mount::UnmountFlags::DETACH).expect("unmount");
        seen.extend(rows.into_iter().map(|(operation, caller, _)| (operation, caller)));
    }
    assert!(wrong.is_empty(), "doc/SEMANTICS.md is wrong:\n{wrong}");
    assert!(seen.len() > 250, "only {} answers", seen.len());
    for row in &differences {
        let key = (row[0].trim_matches('`').to_owned(), row[1].clone());
        assert!(seen.contains(&key), "no table has the row {row:?}");
    }
}

#[test]
fn every_test_that_the_document_names_exists() {
    fn sources(dir: &Path, text: &mut String) {
        for entry in fs::read_dir(dir).expect("list") {
            let path = entry.expect("list").path();
            if path.is_dir() {
                sources(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                *text += &fs::read_to_string(&path).expect("read");
            }
        }
    }
    let mut text = String::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), &mut text);
    let named: Vec<&str> = DOCUMENT
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.matches('_').count() > 3 && !word.contains(['/', ' ', '(']))
        .collect();
    assert!(named.len() >= 8, "{named:?}");
    for name in named {
        assert!(text.contains(&format!("fn {name}(")), "no test is named {name}");
    }
}
