//! The FUSE transport: reads the kernel's requests, sends replies and notifications.
//!
//! No type of the wire protocol leaves this module.

mod backing_ids;
mod backlog;
mod busy_poll;
mod convert;
mod data_path;
mod device;
mod eviction;
mod growth;
mod interrupts;
mod inval_hold;
mod kernel_cache;
mod kernel_features;
mod latency;
mod live_update;
mod node_ids;
mod operations;
mod pending_closes;
mod protocol;
mod rate_limit;
mod request_counts;
mod request_log;
mod server;
mod status;
mod status_report;
mod ttl;
mod worker_pool;
mod worker_shares;
mod worker_slot;

pub use kernel_features::KernelFeatures;
pub use live_update::LiveUpdate;
pub use operations::may_register_backing_files;
pub use server::{Connection, Server, cache_verdict};
pub use status::{Status, pid_namespace};
pub use status_report::fetch as fetch_report;

/// The major and minor version of the FUSE protocol that is spoken with the kernel.
pub const PROTOCOL_VERSION: (u32, u32) = (protocol::init::MAJOR, protocol::init::MINOR);
