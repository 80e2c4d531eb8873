//! The work area: a scratch directory with the source, the mount points and the daemons' logs.
//!
//! The data sets are created on the bare source, each when the first workload needs it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::scratch_dir::ScratchDir;
use crate::process;

/// The work area; removed when dropped.
pub struct Area {
    scratch: ScratchDir,
    /// Smaller data, for a run that only shows that everything works.
    pub quick: bool,
}

impl Area {
    /// Creates an empty area and removes those of killed runs.
    pub fn new(quick: bool) -> io::Result<Self> {
        let scratch = ScratchDir::new("compare")?;
        for name in ["source", "mount", "log", "other"] {
            scratch.dir(name)?;
        }
        Ok(Self { scratch, quick })
    }

    /// The directory that every contender shows.
    pub fn source(&self) -> PathBuf {
        self.scratch.path().join("source")
    }

    /// Creates the mount point of a contender.
    pub fn mount_point(&self, contender: &str) -> io::Result<PathBuf> {
        let point = self.scratch.path().join("mount").join(contender);
        fs::create_dir_all(&point)?;
        Ok(point)
    }

    /// Creates a directory on the same filesystem, outside the source.
    pub fn other(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.scratch.path().join("other").join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// The file for the messages of a contender's daemon.
    pub fn log(&self, contender: &str) -> PathBuf {
        self.scratch.path().join("log").join(contender)
    }

    /// Creates `tree`: 100 directories of 100 empty files (quick: 10 directories).
    pub fn tree(&self) -> io::Result<()> {
        let folders = self.tree_folders();
        self.once("tree", |tree| {
            for folder in 0..folders {
                let folder = tree.join(format!("{folder:03}"));
                fs::create_dir(&folder)?;
                files(&folder, TREE_FILES, b"")?;
            }
            Ok(())
        })
    }

    /// The paths of the tree's files, relative to the source.
    pub fn tree_paths(&self) -> Vec<PathBuf> {
        let in_folder = |folder| {
            (0..TREE_FILES).map(move |file| PathBuf::from(format!("tree/{folder:03}/{file:06}")))
        };
        (0..self.tree_folders()).flat_map(in_folder).collect()
    }

    fn tree_folders(&self) -> u32 {
        if self.quick { 10 } else { 100 }
    }

    /// Creates `small`: 100 files of 4 KiB.
    pub fn small_files(&self) -> io::Result<()> {
        self.once("small", |small| files(small, SMALL_FILES, &[b'x'; 4096]))
    }

    /// The paths of the small files, relative to the source.
    pub fn small_paths(&self) -> Vec<PathBuf> {
        (0..SMALL_FILES).map(|i| PathBuf::from(format!("small/{i:06}"))).collect()
    }

    /// Creates `long`: a directory of 100,000 empty files (quick: 10,000).
    pub fn long_directory(&self) -> io::Result<()> {
        let entries = if self.quick { 10_000 } else { 100_000 };
        self.once("long", |long| files(long, entries, b""))
    }

    /// Creates `short`: a directory of 1,000 empty files.
    pub fn short_directory(&self) -> io::Result<()> {
        self.once("short", |short| files(short, 1000, b""))
    }

    /// Creates `data/file`, 256 MiB (quick: 16 MiB), and syncs it.
    pub fn big_file(&self) -> io::Result<()> {
        self.once("data", |data| {
            let mut file = File::options().write(true).create_new(true).open(data.join("file"))?;
            let block = vec![0x5a; 1 << 20];
            for _ in 0..self.big_file_size() >> 20 {
                file.write_all(&block)?;
            }
            file.sync_all()
        })
    }

    /// The size of `data/file` in bytes.
    pub fn big_file_size(&self) -> u64 {
        if self.quick { 16 << 20 } else { 256 << 20 }
    }

    /// Creates `checkout`, a git checkout of real source files, and an archive of them outside the source.
    pub fn checkout(&self) -> io::Result<()> {
        self.once("checkout", |checkout| {
            let wanted = if self.quick { 200 } else { 2000 };
            let files = crate::sources::copy(checkout, wanted)?;
            fs::write(self.other("archive")?.join("count"), files.to_string())?;
            process::run(
                Command::new("tar")
                    .arg("-cf")
                    .arg(self.archive()?)
                    .arg("-C")
                    .arg(checkout)
                    .arg("."),
            )?;
            for arguments in [
                &["init", "--quiet", "--template="][..],
                // Contenders show other device and inode numbers; git would report every file as changed.
                &["config", "core.checkStat", "minimal"],
                &["config", "core.trustctime", "false"],
                &["add", "--all", "--force", "."],
                &[
                    "-c",
                    "user.name=bench",
                    "-c",
                    "user.email=bench@localhost",
                    "commit",
                    "-qm",
                    "all",
                ],
                // One pack, so that a copy measures the files and not git's objects.
                &["repack", "-adq"],
                &["prune-packed", "--quiet"],
            ] {
                process::run(process::git(checkout).args(arguments))?;
            }
            Ok(())
        })
    }

    /// The path of the archive of the checkout's files.
    pub fn archive(&self) -> io::Result<PathBuf> {
        Ok(self.other("archive")?.join("sources.tar"))
    }

    /// The number of files in the checkout and in the archive.
    pub fn checkout_files(&self) -> io::Result<u64> {
        let count = fs::read_to_string(self.other("archive")?.join("count"))?;
        count.parse().map_err(io::Error::other)
    }

    fn once(&self, name: &str, fill: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let path = self.source().join(name);
        if path.exists() {
            return Ok(());
        }
        fs::create_dir(&path)?;
        fill(&path)?;
        // Write-back must not run while something else is timed.
        rustix::fs::sync();
        Ok(())
    }
}

const TREE_FILES: u32 = 100;
const SMALL_FILES: u32 = 100;

fn files(folder: &Path, count: u32, content: &[u8]) -> io::Result<()> {
    for i in 0..count {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(folder.join(format!("{i:06}")))?;
        file.write_all(content)?;
    }
    Ok(())
}
