//! Aligned buffers, for O_DIRECT on the source.

use rustix::io::Errno;

/// A buffer whose first byte is aligned.
#[derive(Debug)]
pub(super) struct AlignedBuffer {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// Creates a buffer of zeros. ENOMEM if there is no memory for it.
    pub(super) fn new(len: usize, align: usize) -> Result<Self, Errno> {
        let capacity = len.checked_add(align).ok_or(Errno::NOMEM)?;
        let mut storage = Vec::new();
        storage.try_reserve_exact(capacity).map_err(|_| Errno::NOMEM)?;
        storage.resize(capacity, 0);
        let address = storage.as_ptr().addr();
        // The vector is never resized, so the address stays.
        let start = match address % align {
            0 => 0,
            beyond => align - beyond,
        };
        Ok(Self { storage, start, len })
    }

    /// Creates a buffer with a copy of some bytes.
    pub(super) fn holding(bytes: &[u8], align: usize) -> Result<Self, Errno> {
        let mut buffer = Self::new(bytes.len(), align)?;
        buffer.bytes_mut().copy_from_slice(bytes);
        Ok(buffer)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_lies_at_a_multiple_of_its_alignment() {
        for align in [1, 2, 512, 1000, 4096, 1 << 20] {
            for len in [0, 1, 511, 100_000] {
                let bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
                let mut buffer = AlignedBuffer::holding(&bytes, align).expect("there is room");
                assert_eq!(buffer.bytes().as_ptr().addr() % align, 0, "{align}, {len}");
                assert_eq!(buffer.bytes(), bytes);
                assert_eq!(buffer.bytes_mut().len(), len);
            }
        }
    }

    #[test]
    fn an_alignment_beyond_all_memory_is_refused() {
        for align in [usize::MAX, usize::MAX / 2] {
            assert_eq!(AlignedBuffer::new(4096, align).err(), Some(Errno::NOMEM));
        }
    }
}
