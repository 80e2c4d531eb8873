//! Parses single values: durations, numbers, rates, masks, the cache mode, the policy for unmapped ids.

use std::time::Duration;

use super::maps::read_id;
use crate::accounts::Accounts;
use crate::config::EngineChoice;
use crate::idmap::{Group, MountGid, MountUid, Unmapped, User};
use crate::view::{LinkRemoval, PERMISSIONS};

type Parsed<T> = std::result::Result<T, String>;

/// Parses a duration: a number with an optional unit (`ms`, `s`, `m`, `h`, `d`), by default seconds.
pub(super) fn duration(text: &str) -> Parsed<Duration> {
    let bad = || format!("'{text}' is not a time; give for example 1s, 500ms or 2m");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(bad()),
    };
    let number: f64 = number.parse().map_err(|_| bad())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())
}

/// Parses a whole number from `min` to `max`.
pub(super) fn number(text: &str, min: u32, max: u32) -> Parsed<u32> {
    let parsed = if text.starts_with('+') { None } else { text.parse().ok() };
    parsed
        .filter(|n| (min..=max).contains(n))
        .ok_or_else(|| format!("'{text}' is not a number from {min} to {max}"))
}

/// The value of `cache=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CacheMode {
    Coherent { required: bool },
    None,
    Forever,
    Timeout(Duration),
}

pub(super) fn cache_mode(text: &str) -> Parsed<CacheMode> {
    match text {
        "coherent" => Ok(CacheMode::Coherent { required: true }),
        "none" => Ok(CacheMode::None),
        "forever" => Ok(CacheMode::Forever),
        _ => match text.strip_prefix("timeout=") {
            Some(time) => duration(time).map(CacheMode::Timeout),
            None => Err(format!("'{text}' is none of coherent, none, forever and timeout=TIME")),
        },
    }
}

/// Parses `container` or `host`. Whether it is the container.
pub(super) fn ids(text: &str) -> Result<bool, String> {
    match text {
        "container" => Ok(true),
        "host" => Ok(false),
        _ => Err(format!("'{text}' is not known; give container or host")),
    }
}

/// The value of `engine=`.
pub(super) fn engine(text: &str) -> Parsed<EngineChoice> {
    match text {
        "auto" => Ok(EngineChoice::Auto),
        "fuse" => Ok(EngineChoice::Fuse),
        "kernel" => Ok(EngineChoice::Kernel),
        _ => Err(format!("'{text}' is none of auto, fuse and kernel")),
    }
}

/// Parses the value of `passthrough=`: whether passthrough may be used.
pub(super) fn passthrough(text: &str) -> Parsed<bool> {
    match text {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("'{text}' is neither auto nor off")),
    }
}

/// Parses a rate in bytes per second: a positive number, with an optional fraction and unit (`k`, `M`, `G`, `T`, powers
/// of 1024).
pub(super) fn rate(text: &str) -> Parsed<f64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" => Some(1.0),
        "k" => Some(1024.0),
        "M" => Some(1024.0 * 1024.0),
        "G" => Some(1024.0 * 1024.0 * 1024.0),
        "T" => Some(1024.0 * 1024.0 * 1024.0 * 1024.0),
        _ => None,
    };
    let rate = number.parse::<f64>().ok().zip(factor).map(|(number, factor)| number * factor);
    rate.filter(|rate| rate.is_finite() && *rate > 0.0).ok_or_else(|| {
        format!("'{text}' is not a rate; give bytes per second, for example 500k or 1.5M")
    })
}

/// Parses a mask of permission bits: octal, up to 0777.
pub(super) fn mask(text: &str) -> Parsed<u32> {
    let is_octal = !text.is_empty() && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mask = if is_octal { u32::from_str_radix(text, 8).ok() } else { None };
    mask.filter(|mask| *mask <= PERMISSIONS)
        .ok_or_else(|| format!("'{text}' is not a mask; give an octal number from 0 to 777"))
}

/// Parses the value of `resolved-symlink-deletion=`.
pub(super) fn link_removal(text: &str) -> Parsed<LinkRemoval> {
    match text {
        "deny" => Ok(LinkRemoval::Deny),
        "symlink-only" => Ok(LinkRemoval::SymlinkOnly),
        "symlink-first" => Ok(LinkRemoval::SymlinkFirst),
        "target-first" => Ok(LinkRemoval::TargetFirst),
        _ => Err(format!("'{text}' is none of deny, symlink-only, symlink-first and target-first")),
    }
}

/// The value of `unmapped=`, for uids and gids.
pub(super) type UnmappedPolicies = (Unmapped<User>, Unmapped<Group>);

pub(super) fn unmapped(text: &str, accounts: &dyn Accounts) -> Parsed<UnmappedPolicies> {
    match text {
        "deny" => return Ok((Unmapped::Deny, Unmapped::Deny)),
        "pass" => return Ok((Unmapped::Pass, Unmapped::Pass)),
        _ => {}
    }
    let Some(ids) = text.strip_prefix("squash=") else {
        return Err(format!("'{text}' is none of deny, pass and squash=UID[:GID]"));
    };
    let (uid, gid) = user_and_group(ids, accounts)?;
    match (MountUid::new(uid), MountGid::new(gid)) {
        (Some(uid), Some(gid)) => Ok((Unmapped::Squash(uid), Unmapped::Squash(gid))),
        _ => Err(format!("'{text}' names no id")),
    }
}

/// Parses `UID[:GID]`, names or numbers. The default gid is the login group, or the same number for an unknown user.
pub(super) fn user_and_group(text: &str, accounts: &dyn Accounts) -> Parsed<(u32, u32)> {
    match text.split_once(':') {
        Some((uid, gid)) => Ok((read_id::<User>(uid, accounts)?, read_id::<Group>(gid, accounts)?)),
        None => {
            let uid = read_id::<User>(text, accounts)?;
            Ok((uid, accounts.login_group(uid).unwrap_or(uid)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::TestAccounts;
    use proptest::prelude::*;

    #[test]
    fn times_have_units_and_are_seconds_without() {
        for (text, millis) in [
            ("500ms", 500),
            ("1s", 1000),
            ("1.5s", 1500),
            ("2m", 120_000),
            ("3", 3000),
            ("0.25", 250),
            ("0", 0),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", "s", "-1", "1w", "1.2.3", "inf", "nan", "1e3", " 1", ".", "1 s", &"9".repeat(30)]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_keep_to_their_range() {
        assert_eq!(number("16", 1, 1024), Ok(16));
        for text in ["0", "1025", "-1", "+2", "x", "", "1.0", "99999999999"] {
            assert!(number(text, 1, 1024).is_err(), "{text}");
        }
    }

    #[test]
    fn cache_modes_are_three() {
        assert_eq!(cache_mode("none"), Ok(CacheMode::None));
        assert_eq!(cache_mode("forever"), Ok(CacheMode::Forever));
        assert_eq!(cache_mode("timeout=2m"), Ok(CacheMode::Timeout(Duration::from_secs(120))));
        assert!(cache_mode("always").unwrap_err().contains("'always'"));
        assert!(cache_mode("timeout=").is_err());
    }

    #[test]
    fn rates_are_powers_of_1024() {
        for (text, bytes) in [
            ("1", 1.0),
            ("0.5", 0.5),
            ("10k", 10_240.0),
            ("1M", 1_048_576.0),
            ("1.5M", 1_572_864.0),
            ("2G", 2_147_483_648.0),
            ("1T", 1_099_511_627_776.0),
        ] {
            assert_eq!(rate(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "0k", "-1", "1m", "1K", "k", "1kB", "1 k", "inf", "nan", "1e3", "."] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert!(rate(&"9".repeat(400)).is_err());
    }

    #[test]
    fn masks_are_octal_and_leave_special_bits_alone() {
        assert_eq!((mask("022"), mask("0"), mask("0777")), (Ok(0o22), Ok(0), Ok(0o777)));
        for text in ["", "8", "1000", "0o22", "-1", "+1", "u=r", &"7".repeat(30)] {
            assert!(mask(text).is_err(), "{text}");
        }
    }

    fn squashed(text: &str) -> (u32, u32) {
        match unmapped(text, &TestAccounts) {
            Ok((Unmapped::Squash(uid), Unmapped::Squash(gid))) => (uid.raw(), gid.raw()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn squash_takes_the_login_group_when_no_group_is_given() {
        assert_eq!(squashed("squash=1000:5"), (1000, 5));
        assert_eq!(squashed("squash=1000"), (1000, 100), "alice logs in with users");
        assert_eq!(squashed("squash=alice"), (1000, 100));
        assert_eq!(squashed("squash=alice:staff"), (1000, 50));
        assert_eq!(squashed("squash=4242"), (4242, 4242), "no user has this uid");
    }

    #[test]
    fn a_bad_unmapped_policy_lists_the_valid_ones() {
        for text in
            ["", "squash", "squash=", "squash=eve", "squash=1:", "squash=4294967295", "allow"]
        {
            assert!(unmapped(text, &TestAccounts).is_err(), "{text}");
        }
        assert!(unmapped("allow", &TestAccounts).unwrap_err().contains("squash=UID[:GID]"));
    }

    proptest! {
        #[test]
        fn a_printed_rate_parses_as_itself(number in 1u32..1_000_000, unit in 0usize..5) {
            let letters = ["", "k", "M", "G", "T"];
            let factor = 1024f64.powi(i32::try_from(unit).unwrap());
            prop_assert_eq!(rate(&format!("{number}{}", letters[unit])), Ok(f64::from(number) * factor));
        }

        #[test]
        fn no_text_makes_them_panic(text in ".{0,20}|(squash|timeout)=.{0,20}|[0-9.]{0,30}[a-z]{0,2}") {
            let _ = (rate(&text), mask(&text), link_removal(&text));
            let _ = (duration(&text), cache_mode(&text), unmapped(&text, &TestAccounts), number(&text, 1, 9));
        }
    }
}
