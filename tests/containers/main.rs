//! The commands of doc/CONTAINERS.md with the real programs: podman, crun, runc, LXC, systemd-nspawn and docker.
//!
//! Each test runs blocks of that document, word for word, on a machine of its own (`world.sh`): namespaces for mounts,
//! processes, network and cgroups, private accounts and a private storage. A flow whose program is missing or cannot run
//! here without shiftbind either is reported as skipped.

mod docker;
mod document;
mod flow;
mod idmap;
mod lxc;
mod nspawn;
mod oci;
mod others;
mod podman;
mod rootless;
mod running;
