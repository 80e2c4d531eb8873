//! What the measurements of scale and of coherence share: a place of their own to work in, daemons that are started as users
//! start them, what processes and kernel use, and tables.

// Every benchmark compiles this module for itself and uses a part of it.
#![allow(dead_code)]

pub mod daemon;
pub mod figures;
pub mod filesystem;
pub mod namespace;
pub mod resources;
pub mod scratch_dir;
