//! Combines all options about the view, except ids, into a [`View`].

use std::ffi::OsStr;

use super::dialect::Dialect;
use super::maps::read_id;
use super::options::Opt;
use super::{bindfs_map, values};
use crate::accounts::Accounts;
use crate::error::{Error, Result};
use crate::idmap::{Group, IdView, MountId, SourceId, User};
use crate::view::{
    AttrOverrides, ChangePolicies, ChangePolicy, CreatedBy, Creation, Excluded, Forced,
    LinkRemoval, Mirror, PERMISSIONS, PermRules, Principal, View, Xattrs,
};

type Parsed<T> = std::result::Result<T, String>;

/// The last value of each option that was read so far.
#[derive(Debug, Default)]
pub(super) struct ViewOptions {
    forced: Forced,
    mirror: Option<Vec<Principal>>,
    mirror_only: Option<Vec<Principal>>,
    perms: PermRules,
    umask: Option<u32>,
    fmask: Option<u32>,
    dmask: Option<u32>,
    attr_overrides: AttrOverrides,
    by: Option<CreatedBy>,
    creation: Creation,
    changes: ChangePolicies,
    resolve_symlinks: bool,
    link_removal: LinkRemoval,
    excluded: Excluded,
    /// Warnings for the user.
    warnings: Vec<String>,
}

impl ViewOptions {
    /// Applies an option of the view. Any other option is an error.
    pub(super) fn apply(&mut self, id: Opt, text: &str, accounts: &dyn Accounts) -> Parsed<()> {
        let user = || read_id::<User>(text, accounts);
        let group = || read_id::<Group>(text, accounts);
        match id {
            Opt::ForceUser => self.forced.uid = MountId::new(user()?),
            Opt::ForceGroup => self.forced.gid = MountId::new(group()?),
            Opt::Mirror => self.mirror = Some(bindfs_map::parse_principals(text, accounts)?),
            Opt::MirrorOnly => {
                self.mirror_only = Some(bindfs_map::parse_principals(text, accounts)?)
            }
            Opt::CreateAsUser => self.by = Some(CreatedBy::Caller),
            Opt::CreateAsMounter => self.by = Some(CreatedBy::Mounter),
            Opt::CreateForUser => self.creation.uid = SourceId::new(user()?),
            Opt::CreateForGroup => self.creation.gid = SourceId::new(group()?),
            Opt::CreateWithPerms => self.creation.perms = self.rules("create-with-perms", text)?,
            Opt::Perms => self.perms = self.rules("perms", text)?,
            Opt::Umask => self.umask = Some(values::mask(text)?),
            Opt::Fmask => self.fmask = Some(values::mask(text)?),
            Opt::Dmask => self.dmask = Some(values::mask(text)?),
            Opt::RealisticPermissions => self.attr_overrides.realistic_permissions = true,
            Opt::HideHardLinks => self.attr_overrides.hide_hard_links = true,
            Opt::CtimeFromMtime => self.attr_overrides.ctime_from_mtime = true,
            Opt::BlockDevicesAsFiles => self.attr_overrides.block_devices_as_files = true,
            Opt::ResolveSymlinks => self.resolve_symlinks = true,
            Opt::ResolvedSymlinkDeletion => self.link_removal = values::link_removal(text)?,
            Opt::Exclude => self.excluded.add(OsStr::new(text))?,
            _ => return self.apply_change(id, text),
        }
        Ok(())
    }

    fn rules(&mut self, option: &str, text: &str) -> Parsed<PermRules> {
        let rules: PermRules = text.parse()?;
        self.warnings.extend(rules.no_ops().map(|rule| {
            format!("option '{option}': '{rule}' names none of u, g, o and a, and so does nothing")
        }));
        Ok(rules)
    }

    fn apply_change(&mut self, id: Opt, text: &str) -> Parsed<()> {
        if id == Opt::ChmodFilter {
            self.changes.chmod_filter = self.rules("chmod-filter", text)?;
        }
        let changes = &mut self.changes;
        match id {
            Opt::ChownNormal => changes.chown = ChangePolicy::Normal,
            Opt::ChownIgnore => changes.chown = ChangePolicy::Ignore,
            Opt::ChownDeny => changes.chown = ChangePolicy::Deny,
            Opt::ChgrpNormal => changes.chgrp = ChangePolicy::Normal,
            Opt::ChgrpIgnore => changes.chgrp = ChangePolicy::Ignore,
            Opt::ChgrpDeny => changes.chgrp = ChangePolicy::Deny,
            Opt::ChmodNormal => changes.chmod = ChangePolicy::Normal,
            Opt::ChmodIgnore => changes.chmod = ChangePolicy::Ignore,
            Opt::ChmodDeny => changes.chmod = ChangePolicy::Deny,
            Opt::ChmodFilter => {}
            Opt::ChmodAllowX => changes.chmod_allow_x = true,
            Opt::XattrRw => changes.xattrs = Xattrs::ReadWrite,
            Opt::XattrRo => changes.xattrs = Xattrs::ReadOnly,
            Opt::XattrNone => changes.xattrs = Xattrs::None,
            Opt::DeleteDeny => changes.deny_delete = true,
            Opt::RenameDeny => changes.deny_rename = true,
            Opt::EnableIoctl => changes.forward_ioctls = true,
            _ => return Err("shiftbind lists this option but does not implement it".to_owned()),
        }
        Ok(())
    }

    /// The options given that bindfs restricts to root as well.
    pub(super) fn root_only(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.by == Some(CreatedBy::Caller), "create-as-user"),
            (self.creation.uid.is_some(), "create-for-user"),
            (self.creation.gid.is_some(), "create-for-group"),
        ]
        .into_iter()
        .filter_map(|(given, option)| given.then_some(option))
    }

    /// Takes the warnings, with those about options that have no effect.
    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        let changes = &self.changes;
        let is_plain = changes.chmod == ChangePolicy::Normal;
        let idle = [
            (changes.chmod_allow_x && is_plain, "chmod-allow-x", "chmod-ignore or chmod-deny"),
            (
                !changes.chmod_filter.is_empty() && !is_plain,
                "chmod-filter",
                "neither chmod-ignore nor chmod-deny",
            ),
            (
                self.link_removal != LinkRemoval::default() && !self.resolve_symlinks,
                "resolved-symlink-deletion",
                "resolve-symlinks",
            ),
        ];
        for (is_idle, option, with) in idle {
            if is_idle {
                self.warnings.push(format!("option '{option}' does nothing but with {with}"));
            }
        }
        std::mem::take(&mut self.warnings)
    }

    /// Builds the view.
    pub(super) fn finish(self, ids: IdView, dialect: Dialect) -> Result<View> {
        let mirror = match (self.mirror, self.mirror_only) {
            (Some(_), Some(_)) => {
                return Err(Error::usage(
                    "option 'mirror-only' contradicts mirror; give one of them",
                ));
            }
            (Some(principals), None) => Some(Mirror { only: false, principals }),
            (None, Some(principals)) => Some(Mirror { only: true, principals }),
            (None, None) => None,
        };
        let mut perms = self.perms;
        // libfuse applies umask, fmask and dmask after all changes that bindfs makes.
        let masks = [(self.fmask.or(self.umask), true), (self.dmask.or(self.umask), false)];
        for (mask, files) in masks {
            if let Some(mask) = mask {
                perms.extend(PermRules::exactly(PERMISSIONS & !mask, files, !files));
            }
        }
        let unprivileged = !rustix::process::geteuid().is_root();
        let by = self.by.unwrap_or(if dialect == Dialect::Bindfs && unprivileged {
            CreatedBy::Mounter
        } else {
            CreatedBy::Caller
        });
        Ok(View {
            ids,
            forced: self.forced,
            mirror,
            perms,
            attr_overrides: self.attr_overrides,
            creation: Creation { by, ..self.creation },
            changes: self.changes,
            resolve_symlinks: self.resolve_symlinks.then_some(self.link_removal),
            excluded: self.excluded,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::TestAccounts;

    #[test]
    fn an_option_that_no_settings_implement_is_an_error() {
        let mut options = ViewOptions::default();
        assert_eq!(options.apply(Opt::HideHardLinks, "", &TestAccounts), Ok(()));
        let error = options.apply(Opt::Threads, "2", &TestAccounts).unwrap_err();
        assert!(error.ends_with("does not implement it"), "{error}");
    }
}
