//! Requests that are blocked on the source do not delay other clients: the pool of workers grows, and a client that
//! waits can be killed.

mod support;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::process::Signal;
use support::{
    LoopFs, Mount, Process, Stopped, as_user, become_user, eventually, lists_into, loop_fs,
    patience, program, state_of,
};

/// A filesystem that is frozen (fsfreeze(8)) until this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(filesystem: &LoopFs) -> Self {
        let frozen = Self(filesystem.path().to_owned());
        let status = program("fsfreeze").arg("-f").arg(filesystem.path()).status();
        assert!(status.expect("run fsfreeze").success(), "freeze");
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let thawed = program("fsfreeze").arg("-u").arg(&self.0).status();
        assert!(thawed.expect("run fsfreeze").success(), "thaw");
    }
}

/// A mount whose source has another FUSE filesystem as a submount, at `below`.
struct Stacked {
    outer: Option<Mount>,
    // After the outer mount, which lets go of a submount that is unmounted.
    _below: Bind,
    inner: Mount,
    _source: Mount,
}

/// A bind mount. Detached when dropped.
struct Bind(PathBuf);

impl Drop for Bind {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

impl Stacked {
    fn new() -> Self {
        Self::with(&[]).unwrap_or_else(|why| panic!("{why}"))
    }

    /// With more options.
    fn with(options: &[&str]) -> Result<Self, String> {
        let inner = Mount::identity();
        let source = Mount::identity();
        for name in ["below", "other"] {
            fs::create_dir(source.in_source(name)).expect("mkdir");
        }
        fs::write(source.in_source("f"), "x").expect("write");
        let below = Bind(source.in_source("below"));
        mount_bind(inner.path(), &below.0).expect("bind");
        let builder = Mount::builder().source(source.source()).arg("--threads=2");
        let outer =
            options.iter().fold(builder, |builder, option| builder.arg(*option)).try_start();
        let outer = outer?;
        // The inodes above the submount are looked up, as those of a mount in use.
        fs::read_dir(outer.join("below")).expect("list").count();
        Ok(Self { outer: Some(outer), _below: below, inner, _source: source })
    }

    fn outer(&self) -> &Mount {
        self.outer.as_ref().expect("it is mounted")
    }
}

/// Uses a mount as other clients do; fails if that takes longer than 2 s.
#[track_caller]
fn is_responsive(mount: &Mount, what: &str) {
    let start = Instant::now();
    for round in 0..20 {
        fs::read_dir(mount.path()).expect("ls").count();
        fs::metadata(mount.join("f")).expect("stat");
        let missing = fs::metadata(mount.join(format!("other/missing-{what}-{round}")));
        assert!(missing.is_err(), "a lookup of a new name fails");
        rustix::fs::statfs(mount.path()).expect("df");
    }
    let took = start.elapsed();
    assert!(took < patience(Duration::from_secs(2)), "{what}: {took:?} for 20 rounds");
}

/// Starts a process that looks up a name and exits with 1 if that fails.
fn looks_up(path: &Path) -> Process {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    Process::on(Path::new("/dev/null"), move |_| u8::from(rustix::fs::stat(&path).is_err()))
}

/// Starts a process that creates a file and exits with 1 if that fails.
fn creates(path: &Path) -> Process {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    Process::on(Path::new("/dev/null"), move |_| {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        u8::from(rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).is_err())
    })
}

/// The number of the daemon's threads whose name begins with `name`.
fn threads_of(mount: &Mount, name: &str) -> usize {
    let pid = mount.pid().expect("a daemon runs");
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("list the threads");
    let named = threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok())
        .filter(|comm| comm.starts_with(name));
    named.count()
}

#[track_caller]
fn is_killed_soon(client: Process, what: &str) {
    let start = Instant::now();
    client.signal(Signal::KILL);
    assert_eq!(client.wait(), None, "{what}: it was killed");
    let took = start.elapsed();
    assert!(took < patience(Duration::from_secs(5)), "{what}: {took:?}");
}

#[test]
fn a_frozen_source_can_be_read_while_its_writers_wait() {
    let disk = loop_fs("ext4", 64);
    let source = disk.dir("source");
    for dir in ["other", "below"] {
        fs::create_dir(source.join(dir)).expect("mkdir");
    }
    fs::write(source.join("f"), "x").expect("write");
    let mount = Mount::builder().source(&source).arg("--threads=2").start();
    for n in 0..10 {
        fs::create_dir(mount.join(format!("below/{n}"))).expect("mkdir");
        fs::write(mount.join(format!("below/{n}/f")), "x").expect("write");
    }
    let dirty: Vec<File> = (0..10)
        .map(|n| {
            let mut file = File::create(mount.join(format!("below/{n}/f"))).expect("create");
            file.write_all(&[1; 4096]).expect("write");
            file
        })
        .collect();
    let frozen = Frozen::new(&disk);
    thread::scope(|scope| {
        for file in &dirty {
            scope.spawn(|| file.sync_all().expect("fsync"));
        }
        let creators: Vec<_> =
            (0..10).map(|n| creates(&mount.join(format!("below/{n}/new")))).collect();
        thread::sleep(Duration::from_millis(300));
        is_responsive(&mount, "frozen");
        let mut creators = creators;
        assert!(
            creators.iter_mut().all(Process::is_running),
            "they wait until the source is thawed"
        );
        is_killed_soon(creators.remove(0), "a client that creates a file");
        drop(frozen);
        for creator in creators {
            assert_eq!(creator.wait(), Some(0), "the file is created after the thaw");
        }
    });
    drop(dirty);
    // The file of the killed client is created all the same, as in a plain directory.
    eventually("the file of the killed client is visible", || {
        fs::metadata(mount.join("below/0/new")).is_ok()
    });
    eventually("it is listed once", || {
        let names = fs::read_dir(mount.join("below/0")).expect("list");
        names.filter(|name| name.as_ref().is_ok_and(|name| name.file_name() == "new")).count() == 1
    });
    fs::remove_file(mount.join("below/0/new")).expect("remove");
    assert!(mount.unmount().is_some_and(|status| status.success()));
}

#[test]
fn the_names_that_a_killed_client_has_added_or_removed_are_counted() {
    let disk = loop_fs("ext4", 64);
    let source = disk.dir("source");
    for dir in ["unlink", "rename", "link"] {
        let dir = disk.dir(&format!("source/{dir}"));
        fs::write(dir.join("f"), "x").expect("write");
        fs::write(dir.join("new"), "x").expect("write");
        fs::hard_link(dir.join("f"), dir.join("also f")).expect("link");
    }
    let mount = Mount::builder().source(&source).arg("--cache=coherent").start();
    let path = |name: &str| CString::new(mount.join(name).as_os_str().as_bytes()).expect("no NUL");
    let names = |dir: &str| fs::metadata(mount.join(dir).join("also f")).expect("stat").nlink();
    let client = |run: Box<dyn FnOnce() -> bool>| {
        Process::on(Path::new("/dev/null"), move |_| u8::from(!run()))
    };
    for dir in ["unlink", "rename", "link"] {
        fs::metadata(mount.join(dir).join("f")).expect("stat");
        fs::metadata(mount.join(dir).join("new")).expect("stat");
        assert_eq!(names(dir), 2);
    }
    let frozen = Frozen::new(&disk);
    let (f, new, over) = (path("unlink/f"), path("rename/new"), path("rename/f"));
    let (first, more) = (path("link/f"), path("link/more"));
    let clients = [
        client(Box::new(move || rustix::fs::unlink(&f).is_ok())),
        client(Box::new(move || rustix::fs::rename(&new, &over).is_ok())),
        client(Box::new(move || rustix::fs::link(&first, &more).is_ok())),
    ];
    thread::sleep(Duration::from_millis(300));
    for client in clients {
        is_killed_soon(client, "a client of the frozen source");
    }
    for dir in ["unlink", "rename", "link"] {
        assert_eq!(names(dir), 2, "{dir}: it has not happened yet");
    }
    drop(frozen);
    for (dir, count) in [("unlink", 1), ("rename", 1), ("link", 3)] {
        eventually(&format!("{dir}: {count} names"), || names(dir) == count);
    }
}

#[test]
fn a_stalled_submount_delays_no_other_clients_and_its_own_can_be_killed() {
    let mut mounts = Stacked::new();
    let base = threads_of(mounts.outer(), "worker");
    let stopped = Stopped::new(&mounts.inner);
    let clients: Vec<_> =
        (0..10).map(|n| looks_up(&mounts.outer().join(format!("below/{n}")))).collect();
    thread::sleep(Duration::from_millis(300));
    is_responsive(mounts.outer(), "a submount");
    let mut clients = clients;
    assert!(clients.iter_mut().all(Process::is_running), "they wait for the submount");
    for client in clients.drain(..5) {
        is_killed_soon(client, "a client of the submount");
    }
    drop(stopped);
    for client in clients {
        assert_eq!(client.wait(), Some(1), "there is no such name");
    }
    let many = threads_of(mounts.outer(), "worker");
    assert!(many > base, "{many} workers, {base} before");
    let outer = mounts.outer();
    let start = Instant::now();
    while threads_of(outer, "worker") > base {
        assert!(start.elapsed() < patience(Duration::from_secs(30)), "the pool shrinks again");
        is_responsive(outer, "afterwards");
        thread::sleep(Duration::from_millis(500));
    }
    let outer = mounts.outer.take().expect("it is mounted");
    assert!(outer.unmount().is_some_and(|status| status.success()));
}

#[test]
fn a_user_whose_requests_all_wait_leaves_workers_to_other_users() {
    let mounts = Stacked::new();
    let outer = mounts.outer();
    let stopped = Stopped::new(&mounts.inner);
    thread::scope(|scope| {
        for n in 0..200 {
            let path = outer.join(format!("below/{n}"));
            scope.spawn(move || as_user(1000, 1000, &[], || fs::metadata(path).is_err()));
        }
        thread::sleep(Duration::from_secs(2));
        let workers = threads_of(outer, "worker");
        assert!((60..80).contains(&workers), "{workers} workers for one user's 200 requests");
        as_user(1001, 1001, &[], || is_responsive(outer, "another user"));
        is_responsive(outer, "root");
        // One more client of the first user waits in the backlog, and can be killed there.
        let path = CString::new(outer.join("below/killed").as_os_str().as_bytes()).expect("no NUL");
        let mut waits = Process::on(Path::new("/dev/null"), move |_| {
            become_user();
            u8::from(rustix::fs::stat(&path).is_err())
        });
        thread::sleep(Duration::from_millis(200));
        assert!(waits.is_running(), "the client waits");
        is_killed_soon(waits, "a client in the backlog");
        drop(stopped);
    });
}

#[test]
fn users_whose_requests_all_wait_leave_workers_to_a_new_user_and_to_root() {
    leaves_workers_to_a_new_user(&Stacked::new());
}

#[test]
fn users_that_the_kernel_does_not_tell_leave_workers_to_a_new_user_and_to_root() {
    match Stacked::with(&["-oidmappable"]) {
        Ok(mounts) => leaves_workers_to_a_new_user(&mounts),
        Err(why) => {
            assert!(why.contains("this kernel's FUSE has no idmapped mounts"), "{why}");
            support::skipped("this kernel's FUSE has no idmapped mounts");
        }
    }
}

fn leaves_workers_to_a_new_user(mounts: &Stacked) {
    const USERS: u32 = 5;
    let outer = mounts.outer();
    let stopped = Stopped::new(&mounts.inner);
    thread::scope(|scope| {
        for n in 0..USERS * 70 {
            let (uid, path) = (1000 + n % USERS, outer.join(format!("below/{n}")));
            scope.spawn(move || as_user(uid, uid, &[], || fs::metadata(path).is_err()));
        }
        eventually("the users have the workers that they may have", || {
            threads_of(outer, "worker") > 150
        });
        thread::sleep(Duration::from_millis(500));
        for round in 0..3 {
            as_user(2000 + round, 2000, &[], || is_responsive(outer, &format!("new-{round}")));
            is_responsive(outer, &format!("root-{round}"));
        }
        drop(stopped);
    });
}

#[test]
fn a_mount_can_be_unmounted_while_a_submount_does_not_answer() {
    let mut mounts = Stacked::new();
    let stopped = Stopped::new(&mounts.inner);
    let client = looks_up(&mounts.outer().join("below/x"));
    thread::sleep(Duration::from_millis(200));
    is_killed_soon(client, "a client of the submount");
    let outer = mounts.outer.take().expect("it is mounted");
    let start = Instant::now();
    // The daemon waits at most 10 s for the blocked worker, and `Mount` for the daemon twice as long.
    let status = unmount_patiently(outer);
    assert!(status, "the daemon ends with success");
    assert!(start.elapsed() < patience(Duration::from_secs(20)), "{:?}", start.elapsed());
    drop(stopped);
}

fn unmount_patiently(mount: Mount) -> bool {
    mount.unmount().is_some_and(|status| status.success())
}

#[test]
fn long_copies_do_not_delay_other_clients() {
    const SIZE: u64 = 256 << 20;
    let mount = Mount::builder().arg("--threads=2").start();
    fs::create_dir(mount.in_source("other")).expect("mkdir");
    fs::write(mount.in_source("f"), "x").expect("write");
    let data = vec![7; 1 << 20];
    let mut file = File::create(mount.in_source("from")).expect("create");
    (0..SIZE >> 20).for_each(|_| file.write_all(&data).expect("write"));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for n in 0..4 {
            let (mount, stop) = (&mount, &stop);
            scope.spawn(move || {
                let from = File::open(mount.join("from")).expect("open");
                while !stop.load(Ordering::Relaxed) {
                    let to = File::create(mount.join(format!("to-{n}"))).expect("create");
                    let copied = rustix::fs::copy_file_range(
                        &from,
                        Some(&mut 0),
                        &to,
                        Some(&mut 0),
                        SIZE as usize,
                    );
                    assert_eq!(copied, Ok(SIZE as usize), "a copy without a signal is complete");
                }
            });
        }
        thread::sleep(Duration::from_millis(200));
        is_responsive(&mount, "copies");
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::read(mount.in_source("to-3")).expect("read"), vec![7; SIZE as usize]);
}

#[test]
fn a_listing_into_memory_that_a_server_never_supplies_blocks_only_its_directory() {
    let server = Mount::builder().arg("--passthrough=off").start();
    let memory = server.in_source("memory");
    fs::write(&memory, vec![0; 1 << 16]).expect("write");
    fs::set_permissions(&memory, fs::Permissions::from_mode(0o666)).expect("chmod");
    let mount = Mount::builder().arg("--threads=2").start();
    for name in ["held", "other"] {
        fs::create_dir(mount.in_source(name)).expect("mkdir");
    }
    for name in ["f", "held/f", "other/f"] {
        fs::write(mount.in_source(name), "x").expect("write");
    }
    assert!(fs::metadata(mount.join("held/new")).is_err());
    let client = lists_into(&server.join("memory"), &mount.join("held"));
    let stopped = Stopped::new(&server);
    client.signal(Signal::CONT);
    eventually("the process waits for its memory", || matches!(state_of(&client), Some('S' | 'D')));
    thread::sleep(Duration::from_millis(100));
    // A process on the source makes a change: the invalidation waits for the directory's lock in the kernel.
    fs::write(mount.in_source("held/new"), "x").expect("write");
    thread::sleep(Duration::from_millis(200));
    for round in 0..3 {
        is_responsive(&mount, &format!("held-{round}"));
        let name = format!("other/new-{round}");
        assert!(fs::metadata(mount.join(&name)).is_err(), "the name does not exist yet");
        fs::write(mount.in_source(&name), "x").expect("write");
        eventually("a change in another directory is visible", || {
            fs::metadata(mount.join(&name)).is_ok()
        });
        fs::write(mount.join(format!("other/created-{round}")), "x").expect("create a file");
    }
    assert_eq!(state_of(&client), Some('D'), "the process still holds the directory's lock");
    // The process ends when its server has answered the READ (`request_wait_answer`).
    client.signal(Signal::KILL);
    drop(stopped);
    assert_eq!(client.wait(), None, "the process was killed");
    eventually("the change is visible", || fs::metadata(mount.join("held/new")).is_ok());
    assert!(mount.unmount().is_some_and(|status| status.success()));
}
