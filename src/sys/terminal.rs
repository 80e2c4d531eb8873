//! The size of a terminal.

use std::os::fd::{AsFd, AsRawFd};

/// The lines and columns of a terminal (`TIOCGWINSZ`). `None` if it is no terminal, or one of unknown size.
pub fn size(terminal: impl AsFd) -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request writes a `winsize`, to which the pointer leads.
    let result =
        unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    let is_known = result == 0 && size.ws_row > 0 && size.ws_col > 0;
    is_known.then(|| (usize::from(size.ws_row), usize::from(size.ws_col)))
}
