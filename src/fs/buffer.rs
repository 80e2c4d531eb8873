//! Buffers whose size a client chooses.
//!
//! If there is no memory for one, the request fails and the daemon goes on.

use rustix::io::Errno;

use super::Result;

/// Returns `len` zero bytes. ENOMEM if there is no memory for them.
pub fn zeroed(len: usize) -> Result<Vec<u8>> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|_| Errno::NOMEM)?;
    buffer.resize(len, 0);
    Ok(buffer)
}

/// Copies a slice. ENOMEM if there is no memory for the copy.
pub fn copied(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(bytes.len()).map_err(|_| Errno::NOMEM)?;
    buffer.extend_from_slice(bytes);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_larger_than_memory_is_enomem() {
        assert_eq!(zeroed(isize::MAX as usize).unwrap_err(), Errno::NOMEM);
        assert_eq!(zeroed(3).unwrap(), [0; 3]);
        assert_eq!(copied(b"abc").unwrap(), b"abc");
    }
}
