//! Sources with a server, without owners, or read-only: NFS, SMB, FAT, exFAT, NTFS, squashfs, erofs, autofs, mergerfs,
//! sshfs; and quotas, which need a module of the kernel.
//!
//! `tests/kernels/run --sources` runs these tests in guests that have all of it. Elsewhere each test finds out by trying
//! what the kernel and the machine have, and is skipped if something is missing. The lines `source: NAME | COLUMN | VALUE`
//! that the tests print become the table of doc/SOURCES.md.

#[path = "../support/mod.rs"]
mod support;

mod autofs;
mod disks;
mod nfs;
mod nfs_changes;
mod probe;
mod quotas;
mod servers;
mod smb;
mod survey;
