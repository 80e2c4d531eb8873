//! Id translation. Pure: no I/O, no FUSE.

mod ids;
mod inside;
mod map;
mod view;

pub use ids::{
    Group, Kind, MAX_ID, MountGid, MountId, MountUid, NO_ID, SourceGid, SourceId, SourceUid, User,
};
pub use inside::{IdRange, UserNamespaceIds, inside, outside};
pub use map::{Extent, IdMap, MapError};
pub use view::{IdView, Translation, Unmapped};
