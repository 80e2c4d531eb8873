//! The transport: fuser's requests in, its replies out. No fuser type leaves this folder, so that another transport can
//! take its place.

mod adapter;
mod backing;
mod convert;
mod server;

pub use server::Server;
