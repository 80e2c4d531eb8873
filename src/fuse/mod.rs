//! The transport: fuser's requests in, its replies out. No fuser type leaves this folder, so that another transport can
//! take its place.

mod adapter;
mod answers;
mod backing;
mod convert;
mod data;
mod live;
mod notices;
mod opening;
mod pace;
mod server;
mod status;
mod times;
mod wire;

pub use live::Live;
pub use server::Server;
pub use status::{Reloads, Status, pid_namespace};
