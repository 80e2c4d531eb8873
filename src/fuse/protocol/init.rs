//! FUSE_INIT: negotiates the version and the flags.

use std::sync::Arc;

use rustix::io::Errno;

use super::layout::{InitIn, InitOut};
use super::{Reply, Request, opcode};
use crate::fuse::device::Device;

/// The protocol version of this code. The kernel's may be older or newer.
pub(in crate::fuse) const MAJOR: u32 = 7;
pub(in crate::fuse) const MINOR: u32 = 44;
/// Linux 6.1's, the oldest kernel that is tested; it has FUSE_TMPFILE. The version of the protocol decides and not that
/// of the kernel: a kernel to which a distributor has added FUSE_TMPFILE is accepted.
const OLDEST_MINOR: u32 = 37;

/// What the kernel supports and this code uses: `FUSE_…` of `fuse_init_in.flags` and, from bit 32 on, `flags2`.
pub(in crate::fuse) mod flag {
    pub const ASYNC_READ: u64 = 1 << 0;
    pub const POSIX_LOCKS: u64 = 1 << 1;
    pub const BIG_WRITES: u64 = 1 << 5;
    pub const DONT_MASK: u64 = 1 << 6;
    pub const FLOCK_LOCKS: u64 = 1 << 10;
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub const ASYNC_DIO: u64 = 1 << 15;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const POSIX_ACL: u64 = 1 << 20;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    pub const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub const SETXATTR_EXT: u64 = 1 << 29;
    pub const INIT_EXT: u64 = 1 << 30;
    pub const HAS_EXPIRE_ONLY: u64 = 1 << 35;
    pub const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    pub const PASSTHROUGH: u64 = 1 << 37;
    pub const ALLOW_IDMAP: u64 = 1 << 40;
}

/// What this server asks for in FUSE_INIT.
#[derive(Debug, Clone, Copy)]
pub(in crate::fuse) struct InitParams {
    /// Bits of [`flag`].
    pub(in crate::fuse) flags: u64,
    /// The largest write, in bytes.
    pub(in crate::fuse) max_write: u32,
    /// The largest readahead, in bytes; the kernel may use less.
    pub(in crate::fuse) max_readahead: u32,
    /// The most background requests at a time.
    pub(in crate::fuse) max_background: u16,
    /// The number of background requests from which on the kernel does no readahead.
    pub(in crate::fuse) congestion_threshold: u16,
    /// With passthrough: the stacking depth of this filesystem (`max_stack_depth`), one more than the source's.
    pub(in crate::fuse) stack_depth: u32,
}

/// The flags of one connection, bits of [`flag`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fuse) struct Negotiated {
    /// The flags that the kernel has.
    pub(in crate::fuse) offered: u64,
    /// The flags that both sides have.
    pub(in crate::fuse) agreed: u64,
}

/// Answers FUSE_INIT, which must be queued or come soon.
///
/// # Errors
/// EPROTONOSUPPORT for a FUSE protocol older than Linux 6.1's; EPROTO when the first request is another; ENODEV when
/// the mount is gone already.
pub(in crate::fuse) fn negotiate(
    device: &Arc<Device>,
    params: &InitParams,
) -> Result<Negotiated, Errno> {
    let mut buffer = vec![0; super::MIN_BUFFER];
    loop {
        let len = match device.receive(&mut buffer) {
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => continue,
            received => received?,
        };
        let request = Request::parse(&buffer[..len]).ok_or(Errno::PROTO)?;
        let reply = Reply::new(device, request.header.unique);
        if request.header.opcode != opcode::INIT {
            reply.error(Errno::IO);
            return Err(Errno::PROTO);
        }
        let (init, rest) = request.argument::<InitIn>()?;
        if init.major > MAJOR {
            // The kernel repeats FUSE_INIT in this version.
            reply.out(Ok(InitOut { major: MAJOR, minor: MINOR, ..InitOut::default() }));
            continue;
        }
        if init.major < MAJOR || init.minor < OLDEST_MINOR {
            reply.error(Errno::PROTO);
            log::debug!("the kernel's FUSE is too old: version={}.{}", init.major, init.minor);
            return Err(Errno::PROTONOSUPPORT);
        }
        // A kernel without FUSE_INIT_EXT sends no second word.
        let flags2 = rest.argument::<u32>().map_or(0, |(flags2, _)| flags2);
        let (answer, negotiated) = init_out(&init, flags2, params);
        reply.out(Ok(answer));
        return Ok(negotiated);
    }
}

fn init_out(init: &InitIn, flags2: u32, params: &InitParams) -> (InitOut, Negotiated) {
    let offered = match u64::from(init.flags) & flag::INIT_EXT {
        0 => u64::from(init.flags),
        _ => u64::from(init.flags) | u64::from(flags2) << 32,
    };
    let negotiated = offered & (params.flags | flag::INIT_EXT | flag::MAX_PAGES);
    let max_readahead = params.max_readahead.min(init.max_readahead);
    let page = rustix::param::page_size() as u32;
    let max_pages = params.max_write.max(max_readahead).max(1).div_ceil(page);
    let has_passthrough = negotiated & flag::PASSTHROUGH != 0;
    let answer = InitOut {
        major: MAJOR,
        minor: MINOR.min(init.minor),
        max_readahead,
        flags: negotiated as u32,
        max_background: params.max_background,
        congestion_threshold: params.congestion_threshold,
        max_write: params.max_write,
        time_gran: 1,
        max_pages: u16::try_from(max_pages).unwrap_or(u16::MAX),
        flags2: (negotiated >> 32) as u32,
        max_stack_depth: if has_passthrough { params.stack_depth } else { 0 },
        ..InitOut::default()
    };
    (answer, Negotiated { offered, agreed: negotiated })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::super::layout::InHeader;
    use super::*;

    const PARAMS: InitParams = InitParams {
        flags: flag::DONT_MASK | flag::PASSTHROUGH | flag::POSIX_ACL,
        max_write: 1 << 20,
        max_readahead: 1 << 20,
        max_background: 64,
        congestion_threshold: 48,
        stack_depth: 1,
    };

    fn init(flags: u64) -> InitIn {
        InitIn { major: 7, minor: 45, max_readahead: 128 << 10, flags: flags as u32 }
    }

    /// The result of negotiating with a kernel that sends this.
    fn negotiate_with(init: InitIn) -> Result<u64, Errno> {
        let (kernel, daemon) = UnixStream::pair().unwrap();
        let mut request = Vec::new();
        let len = (size_of::<InHeader>() + size_of::<InitIn>()) as u32;
        request.extend([len, opcode::INIT].iter().flat_map(|word| word.to_ne_bytes()));
        request.resize(size_of::<InHeader>(), 0);
        let words = [init.major, init.minor, init.max_readahead, init.flags];
        request.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        (&kernel).write_all(&request).unwrap();
        negotiate(&Arc::new(Device::new(daemon.into())), &PARAMS).map(|flags| flags.agreed)
    }

    #[test]
    fn a_kernel_whose_fuse_is_older_than_that_of_linux_6_1_is_refused() {
        let of = |major, minor| InitIn { major, minor, ..init(flag::DONT_MASK) };
        assert_eq!(negotiate_with(of(7, 36)), Err(Errno::PROTONOSUPPORT));
        assert_eq!(negotiate_with(of(6, 99)), Err(Errno::PROTONOSUPPORT));
        assert_eq!(negotiate_with(of(7, 37)), Ok(flag::DONT_MASK));
        assert_eq!(negotiate_with(of(7, 99)), Ok(flag::DONT_MASK));
    }

    #[test]
    fn only_flags_that_both_sides_have_are_negotiated() {
        let offered = flag::INIT_EXT | flag::DONT_MASK | flag::PASSTHROUGH | flag::ASYNC_READ;
        let (answer, negotiated) = init_out(&init(offered), (offered >> 32) as u32, &PARAMS);
        assert_eq!(negotiated.offered, offered);
        let negotiated = negotiated.agreed;
        assert_eq!(negotiated, flag::INIT_EXT | flag::DONT_MASK | flag::PASSTHROUGH);
        assert_eq!((answer.flags, answer.flags2), (negotiated as u32, (negotiated >> 32) as u32));
        assert_eq!((answer.minor, answer.max_readahead, answer.max_pages), (44, 128 << 10, 256));
        assert_eq!(answer.max_stack_depth, 1);
    }

    #[test]
    fn an_old_kernel_has_no_second_flags_word() {
        let (answer, negotiated) = init_out(&init(flag::DONT_MASK), u32::MAX, &PARAMS);
        assert_eq!(negotiated, Negotiated { offered: flag::DONT_MASK, agreed: flag::DONT_MASK });
        assert_eq!((answer.flags2, answer.max_stack_depth), (0, 0));
    }
}
