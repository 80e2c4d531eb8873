//! `shiftbind oci-hook`: what the annotations of a container that is being created ask for, and what root permits.
//!
//! The state comes from the runtime, the annotations from the user of the container engine: they are not trusted. What may be
//! mounted is said by a file that root alone may write (`policy`).

mod policy;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use serde_json::Value;

use crate::error::{Error, Result};
use policy::Policy;

/// The name of the annotation; others have a suffix after a dot.
const ANNOTATION: &str = "org.shiftbind.mount";

/// The file that says what may be mounted.
const DEFAULT_POLICY: &str = "/etc/shiftbind/oci-hook.conf";

/// The most bytes of a state or a configuration that are read. Chosen: they are some ten KiB.
const MAX_TEXT: u64 = 16 << 20;

/// A mount that an annotation asks for, and that is permitted.
#[derive(Debug)]
pub struct HookMount {
    /// The source as the annotation names it.
    pub source: PathBuf,
    /// The same, opened: no name can come to mean something else.
    opened: OwnedFd,
    /// Where to mount in the container.
    pub target: PathBuf,
    /// Options as in `-o`. Empty: none.
    pub options: String,
    /// A process in the container's namespaces.
    pub pid: u32,
    /// The directory that will be the container's root, in the container's mount namespace.
    pub root: PathBuf,
}

impl HookMount {
    /// A path of the opened source.
    #[must_use]
    pub fn opened_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.opened.as_raw_fd()))
    }
}

/// Reads the state of a container, and returns what its annotations ask for. `policy`: the file that permits it; `None`: the
/// default.
///
/// # Errors
/// The state or the bundle cannot be read; an annotation is malformed; root does not permit it.
pub fn mounts(state: impl Read, policy: Option<&Path>) -> Result<Vec<HookMount>> {
    let refused = |why: String| Error::refused(format!("oci-hook: {why}"));
    if policy.is_some() && !rustix::process::geteuid().is_root() {
        return Err(Error::usage("option 'hook-config': only root may give it"));
    }
    let state = json(state).map_err(|e| refused(format!("the container's state: {e}")))?;
    let bundle =
        state["bundle"].as_str().ok_or_else(|| refused("the state has no bundle".into()))?;
    let file = Path::new(bundle).join("config.json");
    let config = File::open(&file).map_err(|e| Error::mount(file.display().to_string(), e))?;
    let config = json(config).map_err(|e| refused(format!("{}: {e}", file.display())))?;
    let wanted = wanted(&state, &config).map_err(refused)?;
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let pid = state["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
    let pid =
        pid.ok_or_else(|| refused("the state has no pid; is it a hook createRuntime?".into()))?;
    let root = config["root"]["path"].as_str().unwrap_or("rootfs");
    let root = Path::new(bundle).join(root);
    let file = policy.unwrap_or(Path::new(DEFAULT_POLICY));
    let policy = Policy::read(file).map_err(|e| refused(format!("{}: {e}", file.display())))?;
    let permitted = |one: Wanted| {
        let name = one.annotation.clone();
        let named = |why: String| refused(format!("annotation '{name}': {why}"));
        let options = policy.permit(&one.source, &one.options).map_err(named)?;
        let opened = open_source(&one.source).map_err(named)?;
        let Wanted { source, target, .. } = one;
        Ok(HookMount { source, opened, target, options, pid, root: root.clone() })
    };
    wanted.into_iter().map(permitted).collect()
}

/// What an annotation asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    annotation: String,
    source: PathBuf,
    target: PathBuf,
    options: String,
}

/// The annotations of the state, or of the configuration where the state has none, in the order of their names.
fn wanted(state: &Value, config: &Value) -> std::result::Result<Vec<Wanted>, String> {
    let of =
        |value: &Value| value["annotations"].as_object().filter(|all| !all.is_empty()).cloned();
    let all = of(state).or_else(|| of(config)).unwrap_or_default();
    let ours = all.iter().filter(|(key, _)| {
        key.strip_prefix(ANNOTATION).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    });
    let mut found: Vec<Wanted> = ours
        .map(|(key, value)| {
            let text = value.as_str().unwrap_or_default();
            parse(text)
                .map(|(source, target, options)| Wanted {
                    annotation: key.clone(),
                    source: source.into(),
                    target: target.into(),
                    options,
                })
                .map_err(|e| format!("annotation '{key}': {e}"))
        })
        .collect::<std::result::Result<_, _>>()?;
    found.sort_by(|one, other| one.annotation.cmp(&other.annotation));
    Ok(found)
}

/// Parses `SOURCE:TARGET[:OPTIONS]`.
fn parse(text: &str) -> std::result::Result<(String, String, String), String> {
    let mut fields = vec![String::new()];
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let is_last = fields.len() == 3;
        match c {
            ':' if !is_last => fields.push(String::new()),
            '\\' if !is_last => {
                fields.last_mut().into_iter().for_each(|field| field.extend(rest.next()))
            }
            c => fields.last_mut().into_iter().for_each(|field| field.push(c)),
        }
    }
    let mut fields = fields.into_iter();
    let (source, target) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    if !source.starts_with('/') || !target.starts_with('/') {
        return Err("give SOURCE:TARGET or SOURCE:TARGET:OPTIONS, with absolute paths".to_owned());
    }
    Ok((source, target, fields.next().unwrap_or_default()))
}

/// Opens a source without following any symbolic link: below a permitted directory users may make some.
fn open_source(path: &Path) -> std::result::Result<OwnedFd, String> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).map_err(|e| {
        let why = match e {
            rustix::io::Errno::LOOP => "a symbolic link is on the path".to_owned(),
            e => crate::error::strerror(e.raw_os_error()),
        };
        format!("source {}: {why}", path.display())
    })
}

fn json(text: impl Read) -> std::result::Result<Value, String> {
    let mut bytes = Vec::new();
    text.take(MAX_TEXT + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(format!("longer than {MAX_TEXT} bytes"));
    }
    serde_json::from_slice(&bytes).map_err(|e| format!("not JSON: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_annotation_is_source_target_and_options() {
        let parts = |text| parse(text).map(|(s, t, o)| [s, t, o]).unwrap();
        assert_eq!(parts("/s:/t"), ["/s", "/t", ""]);
        assert_eq!(parts("/s:/t:ro,idmap=0:1:1"), ["/s", "/t", "ro,idmap=0:1:1"]);
        assert_eq!(parts(r"/a\:b:/c\\d:x\y"), ["/a:b", r"/c\d", r"x\y"]);
        for text in ["", "/s", "/s:", "s:/t", "/s:t", ":/t", "/s\\"] {
            assert!(parse(text).unwrap_err().starts_with("give SOURCE:TARGET"), "{text}");
        }
    }

    #[test]
    fn annotations_with_a_suffix_are_taken_in_order_and_others_are_not() {
        let state = json!({"annotations": {
            "org.shiftbind.mount.b": "/b:/b", "org.shiftbind.mount": "/a:/a", "org.shiftbind.mounts": "x", "other": "y",
        }});
        let names: Vec<String> =
            wanted(&state, &json!({})).unwrap().into_iter().map(|one| one.annotation).collect();
        assert_eq!(names, ["org.shiftbind.mount", "org.shiftbind.mount.b"]);
        let config = json!({"annotations": {"org.shiftbind.mount": "/c:/c"}});
        assert_eq!(wanted(&json!({"annotations": {}}), &config).unwrap().len(), 1);
        let error = wanted(&json!({"annotations": {"org.shiftbind.mount": 7}}), &config);
        assert!(error.unwrap_err().starts_with("annotation 'org.shiftbind.mount': give"));
    }

    proptest::proptest! {
        #[test]
        fn no_state_makes_it_panic(text in "\\PC{0,60}") {
            let _ = parse(&text);
            let _ = mounts(text.as_bytes(), None);
        }
    }
}
