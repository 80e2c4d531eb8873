//! The transport: the kernel's requests in, answers and notices out. Nothing of the protocol leaves this folder.

mod backing;
mod convert;
mod crew;
mod data;
mod device;
mod kernel;
mod live;
mod lull;
mod notices;
mod numbers;
mod operations;
mod pace;
mod protocol;
mod request_log;
mod server;
mod spin;
mod status;
mod times;

pub use kernel::KernelTraits;
pub use live::Live;
pub use server::{Connection, Server};
pub use status::{Reloads, Status, pid_namespace};
