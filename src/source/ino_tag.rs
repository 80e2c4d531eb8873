//! What the inode numbers of other devices, and those below a symbolic link, are combined with (`ino.rs`).

use super::node_id::DevNo;

/// The bits of a number that a server may choose: the others are those of its device.
const CHOSEN: u64 = (1 << 48) - 1;

/// Set in the numbers of all other devices, so that they differ from those of the root's device, which are mostly small.
const ELSEWHERE: u64 = 1 << 62;

/// Returns what the inode numbers of another device than the root's are combined with.
pub(super) fn device_tag((major, minor): DevNo) -> u64 {
    let device = u64::from(major) << 32 | u64::from(minor);
    // The highest bit is left to the source, since overlayfs uses it (xino).
    mix(device) >> 2 | ELSEWHERE
}

/// Returns what the inode numbers of directories below a symbolic link are combined with.
///
/// `dir` and `name`: the link's directory and name. `above`: the tag of the link through which that directory was reached.
pub(super) fn link_tag(dir: &[u8], name: &[u8], above: u64) -> u64 {
    let hash = |hash: u64, byte: &u8| mix(hash ^ u64::from(*byte));
    dir.iter().chain(b"/").chain(name).fold(mix(above), hash) >> 2
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): each bit of the result depends on all bits.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

/// Combines an inode number with the tag of its device. `is_chosen`: a server makes up the numbers, and could choose one that
/// the tag turns into that of a file on another device, which programs would take for the same file.
pub(super) fn combine(ino: u64, tag: u64, is_chosen: bool) -> u64 {
    match is_chosen && tag != 0 && ino > CHOSEN {
        true => (mix(ino) ^ tag) & CHOSEN | tag & !CHOSEN,
        false => ino ^ tag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_differ_in_the_upper_bits() {
        let mut tags: Vec<_> = (0..2000).map(|n| device_tag((n % 4 * 3, n)) >> 40).collect();
        tags.sort_unstable();
        let all = tags.len();
        tags.dedup();
        // Of 2^22 values.
        assert!(all - tags.len() < 10, "{} of {all} are the same", all - tags.len());
        assert!(device_tag((8, 1)) & ELSEWHERE != 0 && device_tag((8, 1)) >> 63 == 0);
    }

    #[test]
    fn a_server_cannot_choose_the_number_of_a_file_on_another_device() {
        let (tag, other) = (device_tag((0, 77)), device_tag((8, 1)));
        for victim in [2, 1 << 40, 5 ^ other, CHOSEN] {
            for ino in [victim, victim ^ tag, !victim ^ tag] {
                let shown = combine(ino, tag, true);
                assert!(shown != victim && shown & !CHOSEN == tag & !CHOSEN, "{shown:x}");
            }
        }
        assert_eq!(combine(1 << 50, tag, false), 1 << 50 ^ tag, "local numbers are distinct");
        assert_eq!(combine(1 << 50, 0, true), 1 << 50, "the root's own");
    }

    #[test]
    fn links_differ_by_their_places() {
        let tags = [
            link_tag(b"/a", b"l", 0),
            link_tag(b"/a", b"m", 0),
            link_tag(b"/b", b"l", 0),
            link_tag(b"/a", b"l", 1),
            link_tag(b"/", b"a/l", 1),
        ];
        assert!((0..5).all(|n| (0..n).all(|m| tags[n] != tags[m])), "{tags:x?}");
    }
}
