//! A tree of millions of names: creating it, find, du and rm -rf, and the memory that the daemon and the kernel keep
//! for it.
//!
//! The tree grows by tenths, on the bare source and through the mount in turns. At a tenth, at half and at its full
//! size fresh mounts without cached entries walk it, tenth by tenth, in turns again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Setup;
use crate::arguments::Arguments;
use crate::common::daemon::{Daemon, finish};
use crate::common::resources;
use crate::figures::{Table, micros, short, thousands};

/// Files per directory, and directories per parent.
const FILES: u64 = 100;
const TENTHS: u64 = 10;
/// The sizes, in tenths, at which the tree is walked.
const SIZES: [u64; 3] = [1, 5, 10];

/// What is done to the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Make,
    FindCold,
    DuCold,
    Find,
    Du,
    Remove,
}

impl Operation {
    const ALL: [Self; 6] =
        [Self::Make, Self::FindCold, Self::DuCold, Self::Find, Self::Du, Self::Remove];

    fn name(self) -> &'static str {
        match self {
            Self::Make => "make (mkdir, open O_CREAT, close)",
            Self::FindCold => "`find`, fresh mount",
            Self::DuCold => "`du`, fresh mount",
            Self::Find => "`find` again",
            Self::Du => "`du` again",
            Self::Remove => "`rm -rf`, the kernel's caches dropped before",
        }
    }
}

/// The time of one operation on the source and at the mount.
struct Took {
    operation: Operation,
    size: u64,
    names: u64,
    times: [Duration; 2],
    /// Processor time of the client and the daemon.
    processor: [Duration; 2],
}

/// The results so far.
struct Measured {
    took: Vec<Took>,
    memory: Table,
}

struct Tree<'a> {
    setup: &'a Setup<'a>,
    /// Directories in a tenth.
    folders: u64,
    /// Whether both sides walk the same tree, on the source and at the mount.
    source_is_bare: bool,
    quick: bool,
}

impl Tree<'_> {
    fn names_in_tenth(&self) -> u64 {
        let above = self.folders.div_ceil(FILES) + 1;
        self.folders * (FILES + 1) + above
    }

    fn tenth(&self, number: u64) -> [PathBuf; 2] {
        let name = format!("tree/{number}");
        match self.source_is_bare {
            true => [self.setup.source.join(&name), self.setup.mountpoint.join(&name)],
            false => self.setup.both(name),
        }
    }

    /// Creates a tenth at a path that does not exist.
    fn make(&self, tenth: &Path) -> io::Result<()> {
        fs::create_dir(tenth)?;
        for above in 0..self.folders.div_ceil(FILES) {
            let above_path = tenth.join(above.to_string());
            fs::create_dir(&above_path)?;
            let here = (self.folders - above * FILES).min(FILES);
            for folder in 0..here {
                let folder = above_path.join(folder.to_string());
                fs::create_dir(&folder)?;
                for file in 0..FILES {
                    File::create_new(folder.join(format!("file-{file}")))?;
                }
            }
        }
        Ok(())
    }

    /// Times an operation on some tenths, on both sides in turns.
    fn time(
        &self,
        mount: &Daemon,
        operation: Operation,
        size: u64,
        tenths: impl IntoIterator<Item = u64>,
        run: impl Fn(&Path) -> io::Result<()>,
    ) -> io::Result<Took> {
        let none = [Duration::ZERO; 2];
        let mut took = Took { operation, size, names: 0, times: none, processor: none };
        let daemon = mount.pid().to_string();
        let used = || -> io::Result<Duration> {
            let client = resources::processor_time("self", true)?;
            Ok(client + resources::processor_time(&daemon, false)?)
        };
        for tenth in tenths {
            for (side, path) in self.tenth(tenth).iter().enumerate() {
                let (start, before) = (Instant::now(), used()?);
                run(path)?;
                took.times[side] += start.elapsed();
                took.processor[side] += used()?.saturating_sub(before);
            }
            took.names += self.names_in_tenth();
        }
        Ok(took)
    }
}

pub fn measure(setup: &Setup<'_>, arguments: &Arguments) -> io::Result<()> {
    let folders = (arguments.names / TENTHS).div_ceil(FILES + 1).max(1);
    let tree = Tree { setup, folders, source_is_bare: arguments.walk_only, quick: arguments.quick };
    let inode = setup.filesystem.kind.inode_cache();
    let kinds = format!("fuse_inode + dentry + {inode}");
    let mut measured = Measured {
        took: Vec::new(),
        memory: Table::new(
            "What is kept of a tree that was walked twice",
            &[
                "names",
                "daemon, KiB (idle, walked)",
                "bytes a name",
                "descriptors",
                "kernel: FUSE inodes",
                "kernel, bytes a name: all slabs",
                &kinds,
                "daemon after dropping caches, KiB",
                "descriptors then",
            ],
        ),
    };
    setup.both_dirs("tree")?;
    if arguments.walk_only {
        for tenth in 0..TENTHS {
            let start = Instant::now();
            tree.make(&setup.source.join(format!("tree/{tenth}")))?;
            eprintln!("scale: made {} of {TENTHS} tenths, {:.0?}", tenth + 1, start.elapsed());
        }
        setup.filesystem.sync()?;
        walk(&tree, &mut measured, TENTHS)?;
    } else {
        let mut done = 0;
        for size in SIZES {
            let mount = setup.mount()?;
            let made =
                tree.time(&mount, Operation::Make, size, done..size, |path| tree.make(path))?;
            measured.took.push(made);
            mount.stop()?;
            done = size;
            walk(&tree, &mut measured, size)?;
        }
        let mount = setup.mount()?;
        for (at, size) in SIZES.into_iter().enumerate().rev() {
            let rest = at.checked_sub(1).map_or(0, |below| SIZES[below]);
            resources::drop_inodes(tree.quick)?;
            let gone = tree.time(&mount, Operation::Remove, size, rest..size, |path| {
                finish(Command::new("rm").arg("-rf").arg(path))
            })?;
            measured.took.push(gone);
        }
        mount.stop()?;
    }
    report(&tree, &measured, arguments);
    Ok(())
}

/// Walks the tree at fresh mounts and measures the memory that stays.
fn walk(tree: &Tree<'_>, measured: &mut Measured, size: u64) -> io::Result<()> {
    let find = |path: &Path| finish(Command::new("find").arg(path));
    let du = |path: &Path| finish(Command::new("du").arg("-s").arg(path));
    tree.setup.filesystem.sync()?;
    // Fills the caches of the source's filesystem, so that both sides find them filled.
    for tenth in 0..size {
        for path in [tree.setup.bare.join("tree"), tree.setup.source.join("tree")]
            .iter()
            .skip(tree.source_is_bare.into())
        {
            du(&path.join(tenth.to_string()))?;
        }
    }
    let mount = tree.setup.mount()?;
    measured.took.push(tree.time(&mount, Operation::DuCold, size, 0..size, du)?);
    mount.stop()?;
    let mount = tree.setup.mount()?;
    let before = State::of(tree, &mount)?;
    measured.took.push(tree.time(&mount, Operation::FindCold, size, 0..size, find)?);
    measured.took.push(tree.time(&mount, Operation::Find, size, 0..size, find)?);
    measured.took.push(tree.time(&mount, Operation::Du, size, 0..size, du)?);
    let walked = State::of(tree, &mount)?;
    resources::drop_inodes(tree.quick)?;
    let dropped = State::of(tree, &mount)?;
    measured.memory.row(kept(size * tree.names_in_tenth(), before, walked, dropped));
    mount.stop()?;
    Ok(())
}

/// The memory of the daemon and the kernel at one moment.
#[derive(Clone, Copy)]
struct State {
    daemon: u64,
    descriptors: usize,
    slabs: u64,
    /// FUSE inodes, dentries, the source's inodes.
    kinds: Option<[resources::Slab; 3]>,
}

impl State {
    fn of(tree: &Tree<'_>, mount: &Daemon) -> io::Result<Self> {
        let kind = tree.setup.filesystem.kind.inode_cache();
        let kinds = ["fuse_inode", "dentry", kind].map(resources::slab);
        let kinds = match kinds {
            [Some(fuse), Some(dentry), Some(inode)] => Some([fuse, dentry, inode]),
            _ => None,
        };
        Ok(Self {
            daemon: resources::anon_rss(mount.pid())?,
            descriptors: resources::descriptors(mount.pid())?,
            slabs: resources::slabs()?,
            kinds,
        })
    }
}

fn kept(names: u64, before: State, walked: State, dropped: State) -> [String; 9] {
    let per_name = |more: u64, less: u64| short(more.saturating_sub(less) as f64 / names as f64);
    let kinds = walked.kinds.zip(before.kinds);
    let grown =
        |at: usize| kinds.map_or(0, |(now, then)| now[at].objects.saturating_sub(then[at].objects));
    let size = |at: usize| kinds.map_or(0, |(now, _)| now[at].size);
    let bytes = (0..3).map(|at| grown(at) * size(at));
    let bytes: Vec<String> = bytes.map(|bytes| per_name(bytes, 0)).collect();
    [
        thousands(names),
        format!("{} → {}", thousands(before.daemon >> 10), thousands(walked.daemon >> 10)),
        per_name(walked.daemon, before.daemon),
        walked.descriptors.to_string(),
        kinds.map_or("–".into(), |_| thousands(grown(0))),
        per_name(walked.slabs, before.slabs),
        kinds.map_or("–".into(), |_| bytes.join(" + ")),
        thousands(dropped.daemon >> 10),
        dropped.descriptors.to_string(),
    ]
}

fn report(tree: &Tree<'_>, measured: &Measured, arguments: &Arguments) {
    let sizes: &[u64] = if arguments.walk_only { &SIZES[2..] } else { &SIZES };
    let names = |size: &u64| thousands(size * tree.names_in_tenth());
    let head = |what: &str| {
        let mut columns = vec![format!("{what}, µs a name")];
        for side in ["source", "mount", "ratio of rates"] {
            columns.extend(sizes.iter().map(|size| format!("{side}, {}", names(size))));
            if side != "ratio of rates" {
                columns.push(format!("{side}: growth"));
            }
        }
        columns
    };
    let of = format!("a tree of {} names, {FILES} files a directory", names(&TENTHS));
    let heads = [
        (format!("Time: {of}"), head("time")),
        (format!("Processor time of client and daemon: {of}"), head("processor time")),
    ];
    for (which, (heading, columns)) in heads.into_iter().enumerate() {
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let mut table = Table::new(heading, &columns);
        for operation in Operation::ALL {
            let took: Vec<&Took> =
                measured.took.iter().filter(|took| took.operation == operation).collect();
            if took.is_empty() {
                continue;
            }
            let cost = |size: u64, side: usize| -> f64 {
                let of_size = took.iter().filter(|took| took.size == size);
                let times =
                    of_size.map(|took| ([took.times, took.processor][which][side], took.names));
                times.map(|(time, names)| micros(time) / names as f64).sum()
            };
            let mut cells = vec![operation.name().to_owned()];
            for side in 0..2 {
                cells.extend(sizes.iter().map(|size| short(cost(*size, side))));
                let growth = cost(TENTHS, side) / cost(sizes[0], side);
                cells.push(format!("×{}", short(growth)));
            }
            cells.extend(sizes.iter().map(|size| short(cost(*size, 0) / cost(*size, 1))));
            table.cells(cells);
        }
        print!("{table}");
    }
    println!("{}", measured.memory);
}
