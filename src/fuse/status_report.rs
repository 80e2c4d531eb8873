//! The report ioctl on the mount's root: what `shiftbind list` and `stat` are told, as JSON text. It changes nothing.
//!
//! The text may be longer than what one ioctl transfers, so it is read in parts. A text of more than one part is kept
//! until a few others were asked for, so that the parts belong together.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use serde_json::{Map, Value, json};

use super::status::pid_namespace;
use crate::config::{CachePolicy, Config};
use crate::describe::describe;
use crate::sync::Mutex;
use crate::sys;

/// The size of a request and of an answer, in bytes: a page, which the kernel always transfers.
const SIZE: usize = 4096;

/// The ioctl's number: `_IOWR(0xbc, 0x74, [u8; 4096])`.
pub(super) const REPORT_IOCTL: u32 = 3 << 30 | (SIZE as u32) << 16 | 0xbc << 8 | 0x74;

/// Magic number at the start of an answer: another filesystem may use the same ioctl number.
const MAGIC: [u8; 8] = *b"shiftrpt";

/// Magic number, then numbers of 64 bits. Request: text, offset. Answer: text, its length in bytes.
const HEADER: usize = 24;

/// How many texts of more than one part are kept. Chosen: so many processes may ask at once.
const KEPT: usize = 4;

/// How often a text is asked for again, if others have displaced it meanwhile.
const TRIES: usize = 8;

/// Makes the report of a mount.
#[derive(Debug)]
pub(super) struct StatusReport {
    since: Instant,
    mounted_at: SystemTime,
    cache: CachePolicy,
    config: Mutex<Map<String, Value>>,
    texts: Mutex<Texts>,
}

#[derive(Debug, Default)]
struct Texts {
    /// The number of the text that was made last. Numbers begin with 1.
    last: u64,
    kept: Vec<(u64, Arc<[u8]>)>,
}

impl StatusReport {
    /// The report of a mount that is made now, with the cache policy in force.
    pub(super) fn new(cache: CachePolicy) -> Self {
        Self {
            since: Instant::now(),
            mounted_at: SystemTime::now(),
            cache,
            config: Mutex::default(),
            texts: Mutex::default(),
        }
    }

    /// Tells this configuration from now on.
    pub(super) fn describe(&self, config: &Config) {
        if let Value::Object(told) = describe(config) {
            *self.config.lock() = told;
        }
    }

    /// The answer to [`REPORT_IOCTL`]. `numbers` is asked for what changes all the time.
    ///
    /// # Errors
    /// EINVAL for a malformed request, ESTALE if the text is kept no more: ask for a new one.
    pub(super) fn answer(
        &self,
        request: &[u8],
        numbers: impl FnOnce() -> Map<String, Value>,
    ) -> Result<Vec<u8>, Errno> {
        let (number, offset) = decode(request).ok_or(Errno::INVAL)?;
        if number == 0 {
            let text: Arc<[u8]> = self.text(numbers()).into_bytes().into();
            let number = self.keep(&text);
            return encode(number, &text, 0);
        }
        let texts = self.texts.lock();
        let kept = texts.kept.iter().find(|(one, _)| *one == number);
        let text = kept.map(|(_, text)| Arc::clone(text)).ok_or(Errno::STALE)?;
        drop(texts);
        encode(number, &text, usize::try_from(offset).map_err(|_| Errno::INVAL)?)
    }

    /// Gives a text its number, and keeps it if it has more than one part.
    fn keep(&self, text: &Arc<[u8]>) -> u64 {
        let mut texts = self.texts.lock();
        texts.last += 1;
        let number = texts.last;
        if text.len() > SIZE - HEADER {
            if texts.kept.len() == KEPT {
                texts.kept.remove(0);
            }
            texts.kept.push((number, Arc::clone(text)));
        }
        number
    }

    /// The whole text.
    pub(super) fn text(&self, numbers: Map<String, Value>) -> String {
        let mut told = self.config.lock().clone();
        let since_epoch = self.mounted_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        told.insert("mounted_at".to_owned(), since_epoch.as_secs().into());
        told.insert("uptime_seconds".to_owned(), self.since.elapsed().as_secs().into());
        told.insert("cache".to_owned(), describe_cache(self.cache).into());
        told.insert("daemon".to_owned(), describe_process());
        told.extend(numbers);
        Value::Object(told).to_string()
    }
}

fn describe_cache(cache: CachePolicy) -> &'static str {
    match cache {
        CachePolicy::Coherent { .. } => "coherent",
        CachePolicy::Timeouts { .. } => "timeout",
        CachePolicy::None => "none",
        CachePolicy::Forever => "forever",
    }
}

fn describe_process() -> Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let descriptors = std::fs::read_dir("/proc/self/fd").map(Iterator::count).ok();
    json!({
        "pid": std::process::id(),
        "pid_namespace": pid_namespace(),
        "resident_kib": resident,
        "descriptors": descriptors,
    })
}

fn decode(bytes: &[u8]) -> Option<(u64, u64)> {
    let number = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    bytes.starts_with(&MAGIC).then_some(())?;
    Some((number(8)?, number(16)?))
}

fn encode(number: u64, text: &[u8], offset: usize) -> Result<Vec<u8>, Errno> {
    let part = text.get(offset..).ok_or(Errno::INVAL)?;
    let mut bytes = Vec::with_capacity(SIZE);
    bytes.extend(MAGIC);
    bytes.extend(number.to_ne_bytes());
    bytes.extend((text.len() as u64).to_ne_bytes());
    bytes.extend(part.iter().take(SIZE - HEADER));
    bytes.resize(SIZE, 0);
    Ok(bytes)
}

/// Reads the text of the report of a mount through its root, which is open for reading.
///
/// # Errors
/// ENOTTY where it is no mount of shiftbind, EPERM for users other than root and the mounter, EFBIG for a text of more than
/// `limit` bytes, EPROTO for an answer that is no part of a text: the server of a mount may answer anything.
pub fn fetch(root: impl AsFd, limit: usize) -> Result<Vec<u8>, Errno> {
    for _ in 0..TRIES {
        match fetch_once(root.as_fd(), limit) {
            Err(Errno::STALE) => {}
            text => return text,
        }
    }
    Err(Errno::AGAIN)
}

fn fetch_once(root: impl AsFd, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut text = Vec::new();
    let mut number = 0;
    loop {
        let mut bytes = [0; SIZE];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&u64::to_ne_bytes(number));
        bytes[16..HEADER].copy_from_slice(&(text.len() as u64).to_ne_bytes());
        sys::file::ioctl(root.as_fd(), REPORT_IOCTL, &mut bytes)?;
        let (answered, len) = decode(&bytes).ok_or(Errno::NOTTY)?;
        let len = usize::try_from(len).ok().filter(|len| *len <= limit).ok_or(Errno::FBIG)?;
        if answered == 0 || (number != 0 && answered != number) || len < text.len() {
            return Err(Errno::PROTO);
        }
        number = answered;
        text.extend(&bytes[HEADER..][..(SIZE - HEADER).min(len - text.len())]);
        if text.len() == len {
            return Ok(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: u64, offset: u64) -> Vec<u8> {
        [&MAGIC[..], &number.to_ne_bytes(), &offset.to_ne_bytes()].concat()
    }

    fn long() -> Map<String, Value> {
        Map::from_iter([("x".to_owned(), "y".repeat(3 * SIZE).into())])
    }

    /// The number, the length and the part of an answer.
    fn parts(answer: &[u8]) -> (u64, usize, &[u8]) {
        let (number, len) = decode(answer).unwrap();
        (number, len as usize, &answer[HEADER..])
    }

    #[test]
    fn a_long_report_is_read_in_parts_of_one_text() {
        let report = StatusReport::new(CachePolicy::Forever);
        let first = report.answer(&request(0, 0), long).unwrap();
        let (number, len, part) = parts(&first);
        let mut text = part.to_vec();
        while text.len() < len {
            let more = report.answer(&request(number, text.len() as u64), Map::new).unwrap();
            assert_eq!(parts(&more).0, number);
            text.extend(parts(&more).2);
        }
        let told: Value = serde_json::from_slice(&text[..len]).unwrap();
        assert_eq!(told["cache"], "forever");
        assert_eq!(told["daemon"]["pid"], std::process::id());
        assert_eq!(told["x"].as_str().map(str::len), Some(3 * SIZE));
    }

    #[test]
    fn only_some_texts_are_kept() {
        let report = StatusReport::new(CachePolicy::None);
        let ask = || parts(&report.answer(&request(0, 0), long).unwrap()).0;
        let numbers: Vec<u64> = (0..=KEPT).map(|_| ask()).collect();
        let part = |number| report.answer(&request(number, 1), Map::new).map(drop);
        assert_eq!(part(numbers[0]), Err(Errno::STALE));
        assert_eq!(part(numbers[1]), Ok(()));
        // A short one takes the place of none.
        report.answer(&request(0, 0), Map::new).unwrap();
        assert_eq!(part(numbers[1]), Ok(()));
    }

    #[test]
    fn a_malformed_request_is_refused() {
        let report = StatusReport::new(CachePolicy::None);
        for bytes in [&b""[..], b"shiftrpt", &[0; 24]] {
            assert_eq!(report.answer(bytes, Map::new), Err(Errno::INVAL));
        }
        let number = parts(&report.answer(&request(0, 0), long).unwrap()).0;
        assert_eq!(report.answer(&request(number, u64::MAX), Map::new), Err(Errno::INVAL));
    }
}
