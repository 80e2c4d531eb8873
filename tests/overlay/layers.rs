//! The layers of an overlay, on a directory or on a mount of it, and the changes that are made in the overlay.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, XattrFlags};
use rustix::mount::{UnmountFlags, unmount};

use crate::support::{Mount, Scratch, as_user, kernel_mount, scratch, sh};

/// What the layers lie on.
#[derive(Debug, Clone)]
pub(crate) enum Below {
    /// The directory itself.
    Bare,
    /// The kernel's idmapped mount of it, with this map.
    Kernel(&'static str),
    /// A shiftbind mount of it, with this map and these options.
    Mount { map: Option<&'static str>, options: Vec<&'static str> },
}

impl Below {
    /// A mount without a map.
    pub(crate) fn mount(options: &[&'static str]) -> Self {
        Self::Mount { map: None, options: options.to_vec() }
    }

    /// A mount with a map.
    pub(crate) fn shifted(map: &'static str, options: &[&'static str]) -> Self {
        Self::Mount { map: Some(map), options: options.to_vec() }
    }

    /// Whether this kernel has such a mount.
    pub(crate) fn can_be_made(&self) -> bool {
        let Self::Mount { options, .. } = self else { return true };
        options
            .iter()
            .fold(Mount::builder(), |builder, option| builder.arg(*option))
            .try_start()
            .is_ok()
    }

    /// The first source id and the first mount id of the map.
    fn map(&self) -> (u32, u32) {
        let map = match self {
            Self::Bare => None,
            Self::Kernel(map) => Some(*map),
            Self::Mount { map, .. } => *map,
        };
        let mut ids =
            map.unwrap_or("b:0:0").split(':').skip(1).map(|id| id.parse().expect("an id"));
        (ids.next().expect("a source id"), ids.next().expect("a mount id"))
    }
}

/// Where the upper layer lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upper {
    /// On the same mount as the lower layer.
    WithTheLower,
    /// On a bare directory.
    Bare,
}

/// The layers of one overlay.
pub(crate) struct Layers {
    upper: Upper,
    /// The first source id and the first mount id.
    map: (u32, u32),
    mount: Option<Mount>,
    /// The directory of the layers, on the source and as the overlay sees it.
    source: PathBuf,
    at: PathBuf,
    is_idmapped: bool,
    room: Scratch,
}

impl Layers {
    /// Makes a lower layer, which is shown with the ids from `first` on, and an empty upper one.
    pub(crate) fn new(below: &Below, upper: Upper, first: u32) -> Self {
        let room = scratch();
        let source = room.dir("source");
        for name in ["bare", "bare/upper", "bare/work", "merged", "at"] {
            room.dir(name);
        }
        for name in ["lower", "upper", "work"] {
            fs::create_dir(source.join(name)).expect("mkdir");
        }
        let map = below.map();
        let of_source = |id: u32| id + first + map.0 - map.1;
        fill(&source.join("lower"), &of_source);
        for name in ["", "lower", "upper", "work"] {
            let id = of_source(0);
            chown(source.join(name), Some(id), Some(id)).expect("chown");
        }
        for name in ["bare/upper", "bare/work"] {
            chown(room.join(name), Some(first), Some(first)).expect("chown");
        }
        let mut layers =
            Self { upper, map, mount: None, source, at: room.join("at"), is_idmapped: false, room };
        match below {
            Below::Bare => layers.at = layers.source.clone(),
            Below::Kernel(map) => {
                kernel_mount(&layers.source, &layers.at, &[(*map).to_owned()]);
                layers.is_idmapped = true;
            }
            Below::Mount { map, options } => {
                let builder =
                    Mount::builder().source(&layers.source).mountpoint(&layers.at).arg("-osuid");
                let builder = options.iter().fold(builder, |builder, option| builder.arg(*option));
                let builder = map.iter().fold(builder, |builder, map| builder.map(map));
                layers.mount = Some(builder.start());
            }
        }
        layers
    }

    /// Mounts the overlay with more options.
    pub(crate) fn mount(&self, options: &str) -> Result<Overlay, String> {
        let merged = self.room.join("merged");
        let options = format!(
            "lowerdir={},upperdir={},workdir={},{options}",
            self.at.join("lower").display(),
            self.upper_at().join("upper").display(),
            self.upper_at().join("work").display()
        );
        let mut mount = Command::new("mount");
        let output = mount.args(["-t", "overlay", "test", "-o", &options]).arg(&merged).output();
        let output = output.expect("run mount");
        match output.status.success() {
            true => Ok(Overlay(merged)),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn upper_at(&self) -> PathBuf {
        match self.upper {
            Upper::WithTheLower => self.at.clone(),
            Upper::Bare => self.room.join("bare"),
        }
    }

    /// The upper layer on the source.
    pub(crate) fn upper(&self) -> PathBuf {
        match self.upper {
            Upper::WithTheLower => self.source.join("upper"),
            Upper::Bare => self.room.join("bare/upper"),
        }
    }

    /// The work directory on the source.
    pub(crate) fn work(&self) -> PathBuf {
        self.upper().with_file_name("work")
    }

    /// The lower layer on the source.
    pub(crate) fn lower_on_source(&self) -> PathBuf {
        self.source.join("lower")
    }

    /// By how much the ids in the upper layer are larger on the source than at the mount.
    pub(crate) fn offset(&self, upper: Upper) -> i64 {
        match upper {
            Upper::WithTheLower => i64::from(self.map.0) - i64::from(self.map.1),
            Upper::Bare => 0,
        }
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        if self.is_idmapped {
            let _ = unmount(&self.at, UnmountFlags::DETACH);
        }
    }
}

/// A mounted overlay.
pub(crate) struct Overlay(PathBuf);

impl Overlay {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if unmount(&self.0, UnmountFlags::empty()).is_err() {
            let _ = unmount(&self.0, UnmountFlags::DETACH);
        }
    }
}

/// Makes the lower layer. `of_source` is the source id of an id that the mount is to show, less the first one.
fn fill(lower: &Path, of_source: &impl Fn(u32) -> u32) {
    sh(
        lower,
        "for f in file mode owner times acl prog rename swap-a hard1 gone by-user in-dir; do echo lower $f > $f; done
         ln hard1 hard2; mkdir dir gonedir opaque open; echo inner > dir/inner; echo i > gonedir/i
         echo old > opaque/old; mkdir swap-b; echo b > swap-b/b; ln -s file link; mkfifo pipe
         head -c 3000000 /dev/zero | tr '\\0' x > big; truncate -s 8M sparse; cp big big2
         setfattr -n user.lower -v v acl; setfattr -n trusted.mine -v v by-user; setfattr -n user.mine -v v by-user
         chmod 666 by-user; chmod 777 open; chmod 4755 prog; setfacl -d -m g::rwx open",
    );
    let id = of_source(0);
    sh(
        lower,
        &format!("chown -h {id}:{id} * */* .; chmod 4755 prog; setcap cap_net_raw+ep in-dir"),
    );
    let other = of_source(1000);
    for name in ["owner", "acl", "by-user"] {
        chown(lower.join(name), Some(other), Some(other)).expect("chown");
    }
    sh(
        lower,
        &format!("setfacl -m u:{}:rw acl; setfacl -m u:{}:rw by-user", of_source(5), of_source(6)),
    );
}

fn told(name: &str, result: io::Result<()>) -> String {
    format!("{name}: {:?}", result.map_err(|e| e.raw_os_error()))
}

/// Changes everything in an overlay, as root and as the user `first` + 1000. Returns the result of each step.
pub(crate) fn change(merged: &Path, first: u32) -> Vec<String> {
    let mut said = Vec::new();
    let steps = [
        "echo new > new",
        "mkdir newdir",
        "echo x > newdir/x",
        "echo more >> file",
        "chmod 600 mode",
        "chown 5:6 owner",
        "touch -d @1000 times",
        "setfattr -n user.k -v v acl",
        "setfattr -n trusted.k -v v mode",
        "setfacl -m u:7:rw acl",
        "cp prog prog2",
        "setcap cap_net_raw+ep prog2",
        "echo x >> in-dir",
        "truncate -s 100 big",
        "echo end >> big2",
        "truncate -s 9M sparse",
        "echo via >> hard1",
        "rm gone",
        "rm -r gonedir",
        "rm -r opaque",
        "mkdir opaque",
        "echo o > opaque/o",
        "mv rename renamed",
        "mv dir moved",
        "ln new newlink",
        "ln hard2 hard3",
        "ln -s target symlink",
        "mkfifo fifo",
        "mknod dev c 1 3",
        "chown -h 8:9 link",
        "rm pipe",
        "setfacl -m d:u:5:rwx newdir",
        "mkdir newdir/inherits",
    ];
    for step in steps {
        let step_first = step.replace("5:6", &format!("{}:{}", first + 5, first + 6));
        let step_first = step_first.replace("8:9", &format!("{}:{}", first + 8, first + 9));
        let step_first = step_first.replace("u:7:", &format!("u:{}:", first + 7));
        let step_first = step_first.replace("u:5:", &format!("u:{}:", first + 5));
        let status = Command::new("sh").args(["-c", &step_first]).current_dir(merged).output();
        let status = status.expect("run sh");
        said.push(format!(
            "{step}: {:?} {}",
            status.status.code(),
            String::from_utf8_lossy(&status.stderr)
        ));
    }
    let exchanged = rustix::fs::renameat_with(
        CWD,
        merged.join("swap-a"),
        CWD,
        merged.join("swap-b"),
        RenameFlags::EXCHANGE,
    );
    said.push(told("exchange", exchanged.map_err(Into::into)));
    said.push(told("tmpfile", tmpfile(merged)));
    as_user(first + 1000, first + 1000, &[], || {
        let at = |name: &str| merged.join(name);
        let append = |name: &str| {
            let mut file = File::options().append(true).open(at(name))?;
            io::Write::write_all(&mut file, b"user\n")
        };
        said.push(told("append", append("by-user")));
        said.push(told("refused", append("mode")));
        said.push(told("create", fs::write(at("open/of-user"), "user")));
        said.push(told("mkdir", fs::create_dir(at("open/dir-of-user"))));
        said.push(told("symlink", symlink("to", at("open/link-of-user"))));
        said.push(told("create where it may not", fs::write(at("denied"), "")));
        said.push(told("remove where it may not", fs::remove_file(at("file"))));
        let set = rustix::fs::setxattr(at("by-user"), "user.u", b"v", XattrFlags::empty());
        said.push(told("setxattr", set.map_err(Into::into)));
        let set = rustix::fs::setxattr(at("by-user"), "trusted.u", b"v", XattrFlags::empty());
        said.push(told("setxattr trusted", set.map_err(Into::into)));
    });
    said
}

/// Makes a file without a name and gives it one.
fn tmpfile(merged: &Path) -> io::Result<()> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(merged, flags, Mode::from_raw_mode(0o640))?;
    rustix::io::write(&file, b"tmpfile")?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, path, CWD, merged.join("linked"), AtFlags::SYMLINK_FOLLOW)?;
    Ok(())
}
