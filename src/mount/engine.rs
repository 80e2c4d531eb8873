//! Which engine makes a mount: the kernel's own idmapped mounts, or the FUSE daemon.
//!
//! The kernel is taken where it answers the same, which is found out by doing it: a detached clone of the source, with all
//! that is mounted below, is given the map (mount_setattr(2), MOUNT_ATTR_IDMAP). Neither a list of filesystems nor a
//! version of the kernel decides.

use std::ffi::OsStr;

use crate::config::{Config, EngineChoice};
use crate::error::{Error, Result};
use crate::idmap::{IdMap, Kind, Translation, Unmapped};
use crate::source::SourceMounts;
use crate::view::View;

use super::idmapped::IdmappedMount;
use super::is_already_mounted;
use super::point::MountPoint;
use super::privileges::may_mount;
use super::record;

/// The kernel's limits for a uid_map (user_namespaces(7)): extents, and bytes of text, which must be fewer than a page.
const MAX_EXTENTS: usize = 340;
const MAX_TEXT: usize = 4096;

/// Makes the mount by the kernel's engine, where that is asked for or `auto` finds that it serves. `false`: the FUSE daemon
/// is to make it.
///
/// # Errors
/// With `engine=kernel`, what stands in the way; with either, that the mount could not be attached.
pub fn mount_by_kernel(config: &Config) -> Result<bool> {
    let Some(mount) = make(config)? else { return Ok(false) };
    let point = MountPoint::of(config, mount.is_dir())?;
    point.check_kind(&config.source, mount.is_dir())?;
    if config.process.called_by_mount8 && is_already_mounted(config, &point, mount.source_inode())?
    {
        return Ok(true);
    }
    mount.attach(config, &point)?;
    log::info!(
        "engine: kernel: {} is mounted on {}",
        config.source.display(),
        point.path().display()
    );
    Ok(true)
}

/// As [`mount_by_kernel`], but attaches nothing.
///
/// # Errors
/// Those of [`mount_by_kernel`].
pub fn check_kernel(config: &Config) -> Result<bool> {
    let Some(mount) = make(config)? else { return Ok(false) };
    match MountPoint::existing(config)? {
        Some(point) => point.check_kind(&config.source, mount.is_dir()).map(|()| true),
        None => Ok(true),
    }
}

/// Makes the mount, attached nowhere. `None`: the FUSE daemon is to make it.
fn make(config: &Config) -> Result<Option<IdmappedMount>> {
    if config.engine == EngineChoice::Fuse {
        return Ok(None);
    }
    let obstacles = obstacles_now(config);
    let made = match obstacles.is_empty() {
        true => IdmappedMount::make(config),
        false => Err(Error::refused(obstacles.join("; "))),
    };
    match made {
        Ok(mount) => Ok(Some(mount)),
        Err(e) if config.engine == EngineChoice::Kernel => Err(Error::refused(format!(
            "option 'engine=kernel': {e}; use engine=auto or engine=fuse"
        ))),
        Err(e) => {
            log::info!("engine: fuse, because the kernel cannot make this mount: {e}");
            Ok(None)
        }
    }
}

/// Adds to an error of the daemon's mount what keeps the kernel from making it, which may be the easier to change.
#[must_use]
pub fn with_obstacle(error: Error, config: &Config) -> Error {
    if config.engine != EngineChoice::Auto || !config.daemon_options.is_empty() || !may_mount() {
        return error;
    }
    match obstacle(config) {
        None => error,
        Some(why) => Error::reported(
            error.exit(),
            format!(
                "{error}; the daemon was to serve, because the kernel cannot make this mount: {why}"
            ),
        ),
    }
}

/// What keeps the kernel from making a mount, found out by trying.
fn obstacle(config: &Config) -> Option<String> {
    let obstacles = obstacles_now(config);
    match obstacles.is_empty() {
        true => IdmappedMount::make(config).err().map(|e| e.to_string()),
        false => Some(obstacles.join("; ")),
    }
}

/// What keeps the kernel from making a mount now, without trying; with `auto` also that it would not follow an unmount.
fn obstacles_now(config: &Config) -> Vec<String> {
    let mounts = SourceMounts::of(config);
    let mut obstacles = obstacles(config, mounts.as_ref());
    // In a shared tree umount(8) unmounts the copies of `mount --rbind` as well, and the daemon lets go. A mount of the kernel
    // would keep the device in use without a process to be found.
    let below = mounts.iter().flat_map(|mounts| &mounts.below);
    let kept = below.filter(|mount| config.engine == EngineChoice::Auto && mount.is_shared);
    obstacles.extend(kept.take(1).map(|mount| {
        format!(
            "{} would stay in use after it is unmounted on the host, which engine=kernel accepts",
            mount.display_path()
        )
    }));
    obstacles
}

/// The command of mount(8) for the same mount, where the kernel can make it (util-linux 2.39 or newer).
#[must_use]
pub fn mount8_command(config: &Config) -> Option<String> {
    let (source, point) = (word(config.source.as_os_str())?, word(config.mountpoint.as_os_str())?);
    if config.namespace.is_some() {
        return None;
    }
    let mounts = SourceMounts::of(config)?;
    if !obstacles(config, Some(&mounts)).is_empty() || IdmappedMount::make(config).is_err() {
        return None;
    }
    let (uids, gids) = (config.view.ids.uids.map(), config.view.ids.gids.map());
    let mut options = config.flags.words();
    if !(uids.is_identity() && gids.is_identity()) {
        let list = |letter: char, extents: Vec<String>| {
            extents.iter().map(|extent| format!("{letter}:{extent}")).collect::<Vec<_>>().join(" ")
        };
        fn texts<K: Kind>(map: &IdMap<K>) -> Vec<String> {
            map.extents().iter().map(ToString::to_string).collect()
        }
        let (uids, gids) = (texts(uids), texts(gids));
        let map = match uids == gids {
            true => list('b', uids),
            false => format!("{} {}", list('u', uids), list('g', gids)),
        };
        options.push(format!("X-mount.idmap={map}"));
    }
    let bind = if mounts.below.is_empty() { "--bind" } else { "--rbind" };
    let options = match options.is_empty() {
        true => String::new(),
        false => format!(" -o {}", quoted(&options.join(","))),
    };
    let ends_options = match source.starts_with('-') || point.starts_with('-') {
        true => " --",
        false => "",
    };
    Some(format!("mount {bind}{options}{ends_options} {source} {point}"))
}

/// A name as a word for a shell. `None`: a line of text cannot hold the name.
fn word(name: &OsStr) -> Option<String> {
    name.to_str().filter(|text| !text.chars().any(char::is_control)).map(quoted)
}

/// A word for a shell (sh(1)).
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:=@%".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// The engine that a mount would have.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Whether the kernel makes the mount by itself.
    pub by_kernel: bool,
    /// Which engine it is and why, in words.
    pub text: String,
}

/// The engine that a mount would have and why; the kernel is tried on a detached clone of the source.
#[must_use]
pub fn verdict(config: &Config) -> Verdict {
    let obstacle = obstacle(config);
    let by_kernel = config.engine != EngineChoice::Fuse && obstacle.is_none();
    let text = match (config.engine, obstacle) {
        (EngineChoice::Fuse, None) => {
            // Under the name bindfs it is the default.
            "fuse, because engine=fuse was given or is the default; the kernel could make this mount as well"
                .to_owned()
        }
        (EngineChoice::Fuse | EngineChoice::Auto, Some(why)) => {
            format!("fuse, because the kernel cannot make this mount: {why}")
        }
        (EngineChoice::Auto, None) => {
            "kernel: an idmapped mount of the kernel's own; no daemon runs".to_owned()
        }
        (EngineChoice::Kernel, None) => "kernel, because engine=kernel was given".to_owned(),
        (EngineChoice::Kernel, Some(why)) => {
            format!("none: engine=kernel was given, and the kernel cannot make this mount: {why}")
        }
    };
    Verdict { by_kernel, text }
}

/// Whether the map alone could be an idmapped mount's, in words for `--explain`.
#[must_use]
pub fn map_verdict(config: &Config) -> String {
    let (uids, gids) = (&config.view.ids.uids, &config.view.ids.gids);
    if config.view != View::of_ids(config.view.ids.clone()) {
        return "no mount of the kernel's own could do this: more than ids is changed".to_owned();
    }
    if uids.map().is_identity() && gids.map().is_identity() {
        return "nothing is mapped: an ordinary bind mount shows the same".to_owned();
    }
    let mut obstacles = map_obstacles(config);
    if uids.root_as().is_some() || gids.root_as().is_some() {
        obstacles.push("option 'root-as' stores the mount id 0, which no extent holds".to_owned());
    }
    if obstacles.is_empty() {
        "an idmapped mount of the kernel could express this map".to_owned()
    } else {
        format!(
            "an idmapped mount of the kernel could not express this map: {}",
            obstacles.join("; ")
        )
    }
}

/// What keeps the kernel from making this mount, as far as it can be said without trying.
pub(super) fn obstacles(config: &Config, mounts: Option<&SourceMounts>) -> Vec<String> {
    let mut obstacles = Vec::new();
    if !may_mount() {
        obstacles.push("it takes CAP_SYS_ADMIN".to_owned());
    }
    obstacles.extend(
        config.daemon_options.iter().map(|option| format!("option '{option}' needs the daemon")),
    );
    let changes_more = config.view != View::of_ids(config.view.ids.clone());
    if changes_more && config.daemon_options.is_empty() {
        obstacles.push("more than ids is changed".to_owned());
    }
    obstacles.extend(map_obstacles(config));
    if mounts.is_some_and(SourceMounts::is_pseudo) {
        // The daemon refuses it as well.
        obstacles.push("the source is on a pseudo-filesystem".to_owned());
    }
    // Another call of this program would not know the mount, and would mount once more.
    if config.engine == EngineChoice::Auto
        && may_mount()
        && let Err(why) = record::check_directory()
    {
        obstacles.push(format!("no record of it can be kept: {why}"));
    }
    let hidden = mounts.into_iter().flat_map(SourceMounts::hidden);
    obstacles.extend(hidden.map(|mount| {
        format!("{} is a pseudo-filesystem, which only the daemon hides", mount.display_path())
    }));
    obstacles
}

fn map_obstacles(config: &Config) -> Vec<String> {
    let mut obstacles = Vec::new();
    add_map_obstacles(&config.view.ids.uids, &mut obstacles);
    add_map_obstacles(&config.view.ids.gids, &mut obstacles);
    obstacles
}

fn add_map_obstacles<K: Kind>(ids: &Translation<K>, obstacles: &mut Vec<String>) {
    let (map, word): (&IdMap<K>, _) = (ids.map(), K::WORD);
    if !map.is_one_to_one() {
        obstacles.push(format!("several {word}s are shown as one"));
    }
    let count = map.extents().len();
    if count > MAX_EXTENTS {
        obstacles.push(format!("{count} {word} extents are more than {MAX_EXTENTS}"));
    }
    // Each extent is a line of as many bytes as it has here.
    let text: usize = map.extents().iter().map(|extent| extent.to_string().len() + 1).sum();
    if text >= MAX_TEXT {
        obstacles.push(format!("its {word}_map of {text} bytes would not be below {MAX_TEXT}"));
    }
    if !map.is_identity() && ids.unmapped() != Unmapped::Deny {
        obstacles.push(format!("unmapped {word}s are not denied"));
    }
}
