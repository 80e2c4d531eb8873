//! An overlay with layers on a mount does what it does with layers on the bare directory, or on the kernel's idmapped
//! mount of it: the merged tree, the layers that it leaves, and both once more after it was mounted again.

mod layers;
#[path = "../support/mod.rs"]
mod support;
mod tree;

use std::fs;

use layers::{Below, Layers, Upper};
use rustix::mount::OpenTreeFlags;
use support::{scratch, sh, sh_output, skipped};
use tree::{Tree, tree};

/// The map of a container whose root is root of the mount as well.
const ROOT_IN_MAP: &str = "b:1000:0:65536";
/// The map of a container at the mount; root is not in it.
const ROOT_OUTSIDE: &str = "b:0:100000:65536";

/// What a run leaves: the result of each step, the merged tree, the upper layer, and the merged tree after one more mount.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    said: Vec<String>,
    merged: Tree,
    upper: Tree,
    again: Tree,
}

/// Runs all changes on an overlay with these options.
fn run(below: &Below, upper: Upper, options: &str, first: u32) -> Left {
    let layers = Layers::new(below, upper, first);
    let overlay = layers.mount(options).unwrap_or_else(|e| panic!("{below:?} {options}: {e}"));
    let said = layers::change(overlay.path(), first);
    let merged = tree(overlay.path(), 0);
    drop(overlay);
    let upper = tree(&layers.upper(), layers.offset(upper));
    if options.contains("volatile") {
        // The kernel refuses to mount it again until this directory is removed (overlayfs.rst).
        fs::remove_dir_all(layers.work().join("work/incompat")).expect("a mark of volatile");
    }
    let again = layers.mount(options).expect("mount again");
    let again_tree = tree(again.path(), 0);
    drop(again);
    Left { said, merged, upper, again: again_tree }
}

#[track_caller]
fn assert_same(what: &str, expected: &Left, got: &Left) {
    assert_eq!(expected.said, got.said, "{what}: results of the changes");
    tree::assert_same(&format!("{what}: the merged tree"), &expected.merged, &got.merged);
    tree::assert_same(&format!("{what}: the upper layer"), &expected.upper, &got.upper);
    tree::assert_same(&format!("{what}: mounted again"), &expected.again, &got.again);
}

const OPTIONS: [&str; 6] = [
    "index=off,metacopy=off,redirect_dir=off",
    "metacopy=on,redirect_dir=on",
    "index=on",
    "xino=on",
    "nfs_export=on,index=on,redirect_dir=nofollow,metacopy=off",
    "volatile",
];

#[test]
fn all_layers_on_a_mount_are_as_on_the_bare_directory() {
    for options in OPTIONS {
        let bare = run(&Below::Bare, Upper::WithTheLower, options, 0);
        let mount = run(&Below::mount(&[]), Upper::WithTheLower, options, 0);
        assert_same(options, &bare, &mount);
    }
}

#[test]
fn a_lower_layer_on_a_mount_is_as_on_the_bare_directory() {
    for options in [OPTIONS[0], OPTIONS[1], OPTIONS[2]] {
        let bare = run(&Below::Bare, Upper::Bare, options, 0);
        let mount = run(&Below::mount(&[]), Upper::Bare, options, 0);
        assert_same(options, &bare, &mount);
    }
}

#[test]
fn layers_on_a_shifted_mount_are_as_on_an_idmapped_mount() {
    for (upper, options) in [(Upper::WithTheLower, OPTIONS[0]), (Upper::Bare, OPTIONS[1])] {
        let kernel = run(&Below::Kernel(ROOT_IN_MAP), upper, options, 0);
        let mount = run(&Below::shifted(ROOT_IN_MAP, &[]), upper, options, 0);
        assert_same(options, &kernel, &mount);
    }
}

#[test]
fn layers_on_an_idmappable_mount_are_as_on_the_bare_directory() {
    let below = Below::mount(&["-oidmappable"]);
    if !below.can_be_made() {
        return skipped("this kernel's FUSE has no idmapped mounts");
    }
    let mut bare = run(&Below::Bare, Upper::WithTheLower, OPTIONS[0], 0);
    let mount = run(&below, Upper::WithTheLower, OPTIONS[0], 0);
    // No request says that the overlay asks as root, so a user's copy-up does not see the trusted.* names.
    for trees in [&mut bare.merged, &mut bare.upper, &mut bare.again] {
        let copied = trees.get_mut("by-user").expect("the user has copied it up");
        assert!(copied.contains(" trusted.mine=76"), "{copied}");
        *copied = copied.replace(" trusted.mine=76", "");
    }
    assert_same("idmappable", &bare, &mount);
}

#[test]
fn an_upper_layer_on_a_mount_that_does_not_map_root_works_with_root_as_and_with_squash() {
    let bare = run(&Below::Bare, Upper::WithTheLower, OPTIONS[0], 100_000);
    for option in ["-oroot-as=0:0", "-ounmapped=squash=100000:100000"] {
        let below = Below::shifted(ROOT_OUTSIDE, &[option]);
        let mount = run(&below, Upper::WithTheLower, OPTIONS[0], 100_000);
        // What root makes belongs to the container's root.
        let as_container = |trees: &Tree| -> Tree {
            trees.iter().map(|(path, text)| (path.clone(), tree::root_as(text, 100_000))).collect()
        };
        let is_cap = |step: &&String| step.starts_with("setcap");
        let others = |left: &Left| -> Vec<String> {
            left.said.iter().filter(|step| !is_cap(step)).cloned().collect()
        };
        assert_eq!(others(&bare), others(&mount), "{option}");
        // The root of a capability is not squashed.
        let has_cap = mount.merged["prog2"].contains("security.capability");
        assert_eq!(has_cap, option.contains("root-as"), "{option}: {}", mount.merged["prog2"]);
        tree::assert_same(option, &as_container(&bare.merged), &as_container(&mount.merged));
        tree::assert_same(option, &as_container(&bare.again), &as_container(&mount.again));
    }
}

#[test]
fn without_root_in_the_map_an_overlay_is_read_only_as_on_an_idmapped_mount() {
    for below in [Below::Kernel(ROOT_OUTSIDE), Below::shifted(ROOT_OUTSIDE, &[])] {
        let layers = Layers::new(&below, Upper::WithTheLower, 100_000);
        let overlay = layers.mount(OPTIONS[0]).expect("mount");
        let made = fs::write(overlay.path().join("new"), "");
        assert_eq!(made.err().and_then(|e| e.raw_os_error()), Some(libc::EROFS), "{below:?}");
        assert!(overlay.path().join("file").exists(), "{below:?}");
    }
}

#[test]
fn what_changes_below_an_overlay_is_seen_when_it_is_mounted_again() {
    let layers = Layers::new(&Below::mount(&[]), Upper::WithTheLower, 0);
    let overlay = layers.mount(OPTIONS[0]).expect("mount");
    let at = |name: &str| overlay.path().join(name);
    assert_eq!(fs::read_to_string(at("file")).expect("read"), "lower file\n");
    // The kernel leaves open what the overlay shows of such changes, but neither it nor the mount may fail
    // (overlayfs.rst, "Changes to underlying filesystems").
    let lower = layers.lower_on_source();
    sh(&lower, "echo changed > file; rm gone; mkdir added; echo a > added/a; mv dir elsewhere");
    for name in ["file", "gone", "added/a", "dir/inner", "elsewhere/inner"] {
        let read = fs::read_to_string(at(name));
        let errno = read.err().and_then(|e| e.raw_os_error());
        assert!(matches!(errno, None | Some(libc::ENOENT | libc::ESTALE)), "{name}: {errno:?}");
    }
    fs::write(at("new"), "text").expect("the overlay still works");
    drop(overlay);
    let again = layers.mount(OPTIONS[0]).expect("mount again");
    let shown = sh_output(
        again.path(),
        "cat file added/a elsewhere/inner new; test ! -e gone; test ! -e dir",
    );
    assert_eq!(shown, "changed\na\ninner\ntext");
}

#[test]
fn an_overlay_of_a_user_namespace_has_its_layers_on_a_mount_made_there() {
    const CHANGES: &str = "cd merged; echo new > new; echo more >> file; rm gone; rm -r opaque; mkdir opaque; echo o > opaque/o; \
        mv file moved; mkdir d; ln moved d/link; chmod 700 d; setfattr -n user.k -v v moved; cd ..; \
        find merged -printf '%P %y %m %U %G %n %l\\n' | sort; cat merged/moved; getfattr -d merged/moved; \
        find top/upper -printf '%P %y %m %n\\n' | sort; getfattr -m user.overlay -d top/upper/opaque";
    let run = |top: &str| {
        let room = scratch();
        let fill = "mkdir -p bare/lower/opaque bare/upper bare/work merged top; echo f > bare/lower/file; \
            echo g > bare/lower/gone; echo l > bare/lower/opaque/l";
        sh(room.path(), fill);
        let mount = format!(
            "{top}; mount -t overlay -o userxattr,lowerdir=top/lower,upperdir=top/upper,workdir=top/work o merged; {CHANGES}"
        );
        fs::write(room.join("script"), mount).expect("write");
        let program = env!("CARGO_BIN_EXE_shiftbind");
        sh_output(
            room.path(),
            &format!("S={program} unshare --user --map-root-user --mount sh -eu script"),
        )
    };
    let bare = run("mount --bind bare top");
    assert!(bare.contains("user.overlay.opaque"), "{bare}");
    assert_eq!(run("$S bare top"), bare);
}

#[test]
fn an_idmapped_mount_of_an_overlay_above_a_mount_shows_shifted_ids() {
    let layers = Layers::new(&Below::mount(&[]), Upper::WithTheLower, 0);
    let overlay = layers.mount(OPTIONS[0]).expect("mount");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, overlay.path(), flags).expect("clone");
    let room = scratch();
    if let Err(e) = support::sys::idmap_mount(
        &tree,
        support::user_namespace("0 100000 65536\n", "0 100000 65536\n"),
    ) {
        assert_eq!(e.raw_os_error(), Some(libc::EINVAL));
        return skipped("this kernel has no idmapped mounts of an overlay");
    }
    let at = room.dir("at");
    let empty = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", rustix::fs::CWD, &at, empty).expect("attach");
    let shown = sh_output(&at, "stat -c %u:%g owner");
    let _ = rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH);
    assert_eq!(shown, "101000:101000");
}
