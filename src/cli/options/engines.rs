//! Which options only the FUSE daemon can serve. A new option does not compile before it is decided here.

use super::Opt;

impl Opt {
    /// Whether only the FUSE daemon can serve the option, `on` or its opposite. Maps are not counted: the view that they
    /// make tells whether the kernel could.
    #[rustfmt::skip] // A table: one option a line would hide it.
    pub(in crate::cli) fn needs_daemon(self, on: bool) -> bool {
        match self {
            // Maps, and what is shown of ids without one.
            Self::UidMap | Self::GidMap | Self::IdMap | Self::MapFrom | Self::InvertMap | Self::OwnerAs
            | Self::Unmapped | Self::Map | Self::MapPasswd | Self::MapGroup | Self::MapPasswdRev
            | Self::MapGroupRev | Self::UidOffset | Self::GidOffset => false,
            // Options of mount(8), which every mount has. sync and dirsync are the superblock's, which is the source's.
            Self::ReadOnly | Self::NoSuid | Self::NoDev | Self::NoExec | Self::NoSymFollow | Self::NoAtime
            | Self::RelAtime | Self::StrictAtime | Self::NoDirAtime | Self::Remount => false,
            // Where it is made.
            Self::Namespace | Self::Ids | Self::MakeDir => false,
            Self::Sync | Self::DirSync => on,
            // Who makes the mount, what is printed, and what is no option of a mount.
            Self::Engine | Self::Verbose | Self::Config | Self::Reload | Self::Explain | Self::Json
            | Self::Lazy | Self::HookConfig | Self::Watch | Self::Prometheus | Self::Options | Self::Help | Self::Version
            | Self::FuseVersion | Self::Generate => false,
            // What the kernel does anyway: its mounts are open to all users, and it checks permissions and stores changes.
            Self::AllowOther => !on,
            Self::DirectIo | Self::SingleThread => on,
            Self::DefaultPermissions | Self::ChownNormal | Self::ChgrpNormal | Self::ChmodNormal
            | Self::XattrRw => false,
            // Changed owners, permissions and attributes.
            Self::RootAs | Self::ForceUser | Self::ForceGroup | Self::Mirror | Self::MirrorOnly
            | Self::CreateAsUser | Self::CreateAsMounter | Self::CreateForUser | Self::CreateForGroup
            | Self::CreateWithPerms | Self::Perms | Self::Umask | Self::Fmask | Self::Dmask
            | Self::RealisticPermissions | Self::HideHardLinks | Self::CtimeFromMtime
            | Self::BlockDevicesAsFiles => true,
            // Changes that are refused, ignored or filtered, and requests that a filesystem of the kernel takes anyway.
            Self::ChownIgnore | Self::ChownDeny | Self::ChgrpIgnore | Self::ChgrpDeny | Self::ChmodIgnore
            | Self::ChmodDeny | Self::ChmodFilter | Self::ChmodAllowX | Self::XattrRo | Self::XattrNone
            | Self::DeleteDeny | Self::RenameDeny | Self::EnableIoctl => true,
            // Which names are there.
            Self::Exclude | Self::FollowSource | Self::ResolveSymlinks | Self::ResolvedSymlinkDeletion
            | Self::OneFileSystem => true,
            // How the daemon serves, and columns of the mount table that are the source's with the kernel.
            Self::AllowRoot | Self::Idmappable | Self::AutoUnmount | Self::FsName | Self::Subtype | Self::Cache
            | Self::EntryTimeout | Self::NegativeTimeout | Self::AttrTimeout | Self::Passthrough
            | Self::ForwardOdirect | Self::ReadRate | Self::WriteRate | Self::LockForwarding | Self::MaxRead
            | Self::Threads | Self::Foreground | Self::Debug | Self::PidFile | Self::CloneFd => true,
        }
    }
}
