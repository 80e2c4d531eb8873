//! Hidden names: shell patterns, matched on bytes.
//!
//! A pattern without a slash hides a name in every directory. One with a slash is a path from the source's root, with
//! or without a leading slash; `**` as a whole component stands for any number of directories. What lies below a hidden
//! directory is hidden with it.

mod alias;
mod glob;

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

pub use alias::is_numbered_alias;
use glob::{Case, Glob};

/// The patterns of one mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Excluded {
    names: Vec<Glob>,
    paths: Vec<Vec<Component>>,
}

/// One component of a path pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Component {
    /// `**`.
    AnyDepth,
    Name(Glob),
}

/// What a name alone decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is visible.
    Shown,
    /// It is hidden in every directory.
    Hidden,
    /// It depends on the directory's path.
    ByPath,
}

impl Excluded {
    /// Adds a pattern. The error says what is wrong with the pattern.
    pub fn add(&mut self, pattern: &OsStr) -> Result<(), String> {
        let wrong = |what: &str| format!("'{}' {what}", pattern.display());
        let bytes = pattern.as_bytes();
        if bytes.is_empty() {
            return Err("an empty pattern hides nothing".to_owned());
        }
        let mut components = Vec::new();
        for component in bytes.strip_prefix(b"/").unwrap_or(bytes).split(|byte| *byte == b'/') {
            match component {
                b"" => {
                    return Err(wrong(
                        "has an empty component: write no slash at the end and none twice",
                    ));
                }
                b"." | b".." => {
                    return Err(wrong("is a path from the source's root: write neither . nor .."));
                }
                b"**" => components.push(Component::AnyDepth),
                component => {
                    components.push(Component::Name(Glob::parse(component).map_err(wrong)?))
                }
            }
        }
        if components.iter().all(|component| *component == Component::AnyDepth) {
            return Err(wrong("would hide everything"));
        }
        match components.as_slice() {
            [Component::Name(name)] if !bytes.contains(&b'/') => self.names.push(name.clone()),
            _ => self.paths.push(components),
        }
        Ok(())
    }

    /// The patterns, in the syntax of [`Self::add`].
    pub fn patterns(&self) -> impl Iterator<Item = String> {
        let path =
            |components: &Vec<Component>| components.iter().map(Component::to_string).collect();
        self.names.iter().map(Glob::to_string).chain(self.paths.iter().map(path))
    }

    /// Whether nothing is hidden.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.paths.is_empty()
    }

    /// Whether a path pattern exists: a directory that moves may then hide or reveal what is below it.
    #[must_use]
    pub fn has_paths(&self) -> bool {
        !self.paths.is_empty()
    }

    /// What the name alone decides.
    #[must_use]
    pub fn match_name(&self, name: &OsStr) -> Verdict {
        let name = name.as_bytes();
        if self.names.iter().any(|glob| glob.matches(name, Case::Exact)) {
            return Verdict::Hidden;
        }
        let is_open = |components: &Vec<Component>| components.last() == Some(&Component::AnyDepth);
        if self.ends_a_path(OsStr::from_bytes(name)) || self.paths.iter().any(is_open) {
            return Verdict::ByPath;
        }
        Verdict::Shown
    }

    /// Whether a path pattern ends in a component that this name matches; `**` does not count, since it matches every
    /// name.
    #[must_use]
    pub fn ends_a_path(&self, name: &OsStr) -> bool {
        let ends_so = |components: &Vec<Component>| match components.last() {
            Some(Component::Name(glob)) => glob.matches(name.as_bytes(), Case::Exact),
            _ => false,
        };
        self.paths.iter().any(ends_so)
    }

    /// Whether a name is hidden in a directory. `dir` is its path from the source's root: `a/b`, empty for the root.
    #[must_use]
    pub fn hides(&self, dir: &[u8], name: &OsStr) -> bool {
        match self.match_name(name) {
            Verdict::Shown => false,
            Verdict::Hidden => true,
            Verdict::ByPath => {
                let path: Vec<_> = split_path(dir).chain([name.as_bytes()]).collect();
                self.matches_path(&path, Case::Exact)
            }
        }
    }

    /// Whether a name in a directory would be hidden if the case of letters did not matter.
    ///
    /// The source may find a hidden name by another one then (ext4 with casefold, vfat). `dir`: as of [`Self::hides`];
    /// `None` if it is not known.
    #[must_use]
    pub fn would_hide(&self, dir: Option<&[u8]>, name: &OsStr) -> bool {
        let name = name.as_bytes();
        self.names.iter().any(|glob| glob.matches(name, Case::Ignored))
            || match dir {
                Some(dir) => {
                    let path: Vec<_> = split_path(dir).chain([name]).collect();
                    self.matches_path(&path, Case::Ignored)
                }
                None => self.has_paths(),
            }
    }

    /// Whether the name alone does not tell that [`Self::would_hide`] is false.
    #[must_use]
    pub fn may_hide(&self, name: &OsStr) -> bool {
        let matches = |glob: &Glob| glob.matches(name.as_bytes(), Case::Ignored);
        self.names.iter().any(matches)
            || self.paths.iter().any(|components| match components.last() {
                Some(Component::Name(glob)) => matches(glob),
                _ => true,
            })
    }

    fn matches_path(&self, path: &[&[u8]], case: Case) -> bool {
        self.paths.iter().any(|components| path_matches(components, path, case))
    }

    /// Whether a path from the source's root, or a directory on the path, is hidden.
    #[must_use]
    pub fn hides_path(&self, path: &[u8]) -> bool {
        let path: Vec<_> = split_path(path).collect();
        let name_hides =
            |name: &&[u8]| self.names.iter().any(|glob| glob.matches(name, Case::Exact));
        path.iter().any(name_hides)
            || (1..=path.len()).any(|end| self.matches_path(&path[..end], Case::Exact))
    }
}

fn split_path(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
}

/// Whether a path matches a pattern, in one pass that backtracks to the last `**` only. A `**` at the end stands for at
/// least one component: for what is in a directory, and not for the directory.
fn path_matches(components: &[Component], path: &[&[u8]], case: Case) -> bool {
    let (mut at, mut matched) = (0, 0);
    let mut retry = None;
    loop {
        match components.get(at) {
            None if matched == path.len() => return true,
            Some(Component::AnyDepth) => {
                if at + 1 == components.len() {
                    return matched < path.len();
                }
                at += 1;
                retry = Some((at, matched));
                continue;
            }
            Some(Component::Name(glob))
                if path.get(matched).is_some_and(|name| glob.matches(name, case)) =>
            {
                at += 1;
                matched += 1;
                continue;
            }
            _ => {}
        }
        // The last `**` takes one component more.
        match retry {
            Some((after, from)) if from < path.len() => {
                retry = Some((after, from + 1));
                (at, matched) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyDepth => f.write_str("/**"),
            Self::Name(glob) => write!(f, "/{glob}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluded(patterns: &[&str]) -> Excluded {
        let mut excluded = Excluded::default();
        for pattern in patterns {
            excluded.add(OsStr::new(pattern)).unwrap();
        }
        excluded
    }

    fn hides(pattern: &str, dir: &str, name: &str) -> bool {
        excluded(&[pattern]).hides(dir.as_bytes(), OsStr::new(name))
    }

    #[test]
    fn a_pattern_without_a_slash_hides_a_name_everywhere_and_needs_no_path() {
        let all = excluded(&["*.o", ".git"]);
        assert_eq!(all.match_name(OsStr::new("a.o")), Verdict::Hidden);
        assert_eq!(all.match_name(OsStr::new("a.c")), Verdict::Shown);
        assert!(all.hides(b"", OsStr::new(".git")) && all.hides(b"a/b", OsStr::new(".git")));
        assert!(!all.has_paths());
    }

    #[test]
    fn a_pattern_with_a_slash_is_a_path_from_the_root() {
        for pattern in ["/a/b", "a/b"] {
            assert!(hides(pattern, "a", "b"), "{pattern}");
            assert!(!hides(pattern, "", "b") && !hides(pattern, "x/a", "b"), "{pattern}");
            assert!(!hides(pattern, "a/b", "b") && !hides(pattern, "", "a"), "{pattern}");
        }
        assert!(hides("/b", "", "b") && !hides("/b", "a", "b"));
        assert!(
            hides("*/b", "x", "b") && !hides("*/b", "x/y", "b"),
            "a star stays in its component"
        );
        assert_eq!(excluded(&["/a/b"]).match_name(OsStr::new("b")), Verdict::ByPath);
        assert_eq!(excluded(&["/a/b"]).match_name(OsStr::new("a")), Verdict::Shown);
    }

    #[test]
    fn two_stars_stand_for_any_number_of_directories() {
        for dir in ["", "a", "a/b/c"] {
            assert!(hides("**/x", dir, "x"), "{dir}");
        }
        assert!(hides("/a/**/x", "a", "x") && hides("/a/**/x", "a/b/c", "x"));
        assert!(!hides("/a/**/x", "b/a", "x"));
        assert!(hides("/a/**", "a", "x") && hides("/a/**", "a/b", "x") && !hides("/a/**", "", "a"));
        assert!(hides("**/a/**/b/c", "a/b/a/b/b", "c"), "going back to an earlier try");
        assert!(!hides("**/a/**/b/c", "a/b/a/b/d", "c"));
    }

    #[test]
    fn a_path_is_hidden_with_any_directory_on_it() {
        let all = excluded(&["secret", "/a/b"]);
        assert!(
            all.hides_path(b"x/secret/y") && all.hides_path(b"a/b") && all.hides_path(b"a/b/c")
        );
        assert!(!all.hides_path(b"b/a") && !all.hides_path(b""));
    }

    #[test]
    fn patterns_that_mean_nothing_are_refused() {
        for pattern in ["", "/", "a/", "a//b", "./a", "a/..", "**", "**/**", "[", "a\\"] {
            assert!(Excluded::default().add(OsStr::new(pattern)).is_err(), "{pattern}");
        }
    }

    #[test]
    fn patterns_are_written_as_they_are_read() {
        let patterns: Vec<_> = excluded(&["x/**/y\\*", "a*[!b-d]?"]).patterns().collect();
        assert_eq!(patterns, ["a*[!b-d]?", "/x/**/y\\*"]);
    }

    #[test]
    fn many_stars_take_no_longer_than_few() {
        let pattern = format!("{}b", "**/a*a*a*ab/".repeat(20));
        let dir = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaac/".repeat(100);
        assert!(!hides(&pattern, &dir, "b"));
    }
}
