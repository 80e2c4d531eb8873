//! The transport: fuser's requests in, its replies out. No fuser type leaves this folder, so that another transport can
//! take its place.

mod adapter;
mod answers;
mod backing;
mod convert;
mod data;
mod notices;
mod opening;
mod pace;
mod server;
mod times;

pub use server::Server;
