//! What a mount of the kernel's engine was made with: a reload evaluates the options again, without a daemon that remembers
//! them. Kept in the mount's record, which only root reads and writes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::full_path;
use crate::config::{Config, Found, NamespaceMap, SourceOwner};
use crate::idmap::{Extent, Kind};
use crate::source::Restrictions;

/// What a mount was made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The command line.
    pub argv: Vec<OsString>,
    /// The working directory that relative paths refer to. `None`: it was gone.
    pub directory: Option<PathBuf>,
    /// The source as typed.
    pub typed: PathBuf,
    /// The source's path, absolute.
    pub source: PathBuf,
    /// Whether the options are in a file that the command line names. Else they are in fstab(5).
    pub has_file: bool,
    /// The mount options that were given, as mount(8) spells them.
    pub flags: Vec<String>,
    /// What was found outside of the options.
    pub found: Found,
    /// What the source's own mount forbade. `None`: an older version did not record it.
    pub forbids: Option<Restrictions>,
}

impl Origin {
    /// What a mount that is made now is made with.
    #[must_use]
    pub(super) fn of(config: &Config, owner: SourceOwner, forbids: Restrictions) -> Self {
        Self {
            argv: config.argv.clone(),
            directory: std::env::current_dir().ok(),
            typed: config.source.clone(),
            source: full_path(&config.source).into(),
            has_file: config.options_file.is_some(),
            flags: config.flags.words(),
            found: Found { owner: Some(owner), ..config.found.clone() },
            forbids: Some(forbids),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let owner = self.found.owner.map(|it| json!([it.dev, it.ino, it.uid, it.gid]));
        let namespaces =
            self.found.namespaces.iter().map(|it| {
                json!([it.option, name(&it.value), extents(&it.uids), extents(&it.gids)])
            });
        json!({
            "argv": self.argv.iter().map(|one| name(one)).collect::<Vec<_>>(),
            "directory": self.directory.as_ref().map(|path| name(path.as_os_str())),
            "typed": name(self.typed.as_os_str()),
            "source": name(self.source.as_os_str()),
            "has_file": self.has_file,
            "flags": self.flags,
            "owner": owner,
            "namespaces": namespaces.collect::<Vec<_>>(),
            "forbids": self.forbids.map(Restrictions::words),
        })
    }

    pub(super) fn from_json(told: &Value) -> Option<Self> {
        let list = |key: &str| told.get(key)?.as_array();
        let text = |value: &Value| Some(value.as_str()?.to_owned());
        let directory = match told.get("directory")? {
            Value::Null => None,
            directory => Some(name_of(directory)?.into()),
        };
        let owner = match told.get("owner")? {
            Value::Null => None,
            owner => Some(owner_of(owner)?),
        };
        let forbids = match told.get("forbids") {
            None | Some(Value::Null) => None,
            Some(words) => {
                let words: Vec<&str> =
                    words.as_array()?.iter().map(Value::as_str).collect::<Option<_>>()?;
                Some(Restrictions::of_options(words.join(",").as_bytes()))
            }
        };
        let namespaces = list("namespaces")?.iter().map(namespace_of).collect::<Option<_>>()?;
        Some(Self {
            argv: list("argv")?.iter().map(name_of).collect::<Option<_>>()?,
            directory,
            typed: name_of(told.get("typed")?)?.into(),
            source: name_of(told.get("source")?)?.into(),
            has_file: told.get("has_file")?.as_bool()?,
            flags: list("flags")?.iter().map(text).collect::<Option<_>>()?,
            // That of a mount in another namespace is found again by what is registered of it.
            found: Found { owner, namespaces, target: None },
            forbids,
        })
    }
}

/// A name that is not UTF-8 is a list of its bytes.
fn name(name: &OsStr) -> Value {
    name.to_str().map_or_else(|| name.as_bytes().into(), Value::from)
}

fn name_of(told: &Value) -> Option<OsString> {
    match told {
        Value::String(text) => Some(text.into()),
        _ => {
            let byte = |value: &Value| u8::try_from(value.as_u64()?).ok();
            let bytes: Option<Vec<u8>> = told.as_array()?.iter().map(byte).collect();
            Some(OsString::from_vec(bytes?))
        }
    }
}

fn owner_of(told: &Value) -> Option<SourceOwner> {
    let id = |at: usize| u32::try_from(told.get(at)?.as_u64()?).ok();
    let (dev, ino) = (told.get(0)?.as_u64()?, told.get(1)?.as_u64()?);
    Some(SourceOwner { dev, ino, uid: id(2)?, gid: id(3)? })
}

fn extents<K: Kind>(extents: &[Extent<K>]) -> Value {
    let numbers = |it: &Extent<K>| json!([it.source().raw(), it.mount().raw(), it.count()]);
    extents.iter().map(numbers).collect()
}

fn extents_of<K: Kind>(told: &Value) -> Option<Vec<Extent<K>>> {
    let extent = |one: &Value| {
        let number = |at: usize| u32::try_from(one.get(at)?.as_u64()?).ok();
        Extent::new(number(0)?, number(1)?, number(2)?).ok()
    };
    told.as_array()?.iter().map(extent).collect()
}

fn namespace_of(told: &Value) -> Option<NamespaceMap> {
    Some(NamespaceMap {
        option: told.get(0)?.as_str()?.to_owned(),
        value: name_of(told.get(1)?)?,
        uids: extents_of(told.get(2)?)?,
        gids: extents_of(told.get(3)?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_survives_writing_and_reading() {
        let odd = OsString::from_vec(b"/a\xff\n".to_vec());
        let namespace = NamespaceMap {
            option: "map-from".to_owned(),
            value: odd.clone(),
            uids: vec![Extent::new(0, 100_000, 10).unwrap()],
            gids: vec![Extent::new(1, 2, 3).unwrap()],
        };
        let owner = SourceOwner { dev: u64::MAX, ino: 2, uid: 3, gid: 4 };
        let origin = Origin {
            argv: vec!["shiftbind".into(), odd.clone()],
            directory: Some("/\u{1}".into()),
            typed: odd.clone().into(),
            source: odd.into(),
            has_file: true,
            flags: vec!["ro".to_owned()],
            found: Found { owner: Some(owner), namespaces: vec![namespace], target: None },
            forbids: Some(Restrictions { nodev: true, ..Restrictions::NONE }),
        };
        let bare =
            Origin { directory: None, found: Found::default(), forbids: None, ..origin.clone() };
        for one in [origin, bare] {
            let text = one.to_json().to_string();
            assert!(!text.contains('\0'));
            assert_eq!(Origin::from_json(&serde_json::from_str(&text).unwrap()), Some(one));
        }
        assert_eq!(Origin::from_json(&json!({"argv": []})), None);
    }
}
