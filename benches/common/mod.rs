//! What the benchmarks share: a scratch directory, a filesystem, daemons started as users start them, the resources
//! that processes and the kernel use, and tables.

// Every benchmark compiles this module for itself and uses a part of it.
#![allow(dead_code)]

pub mod daemon;
pub mod figures;
pub mod filesystem;
pub mod namespace;
pub mod resources;
pub mod scratch_dir;
