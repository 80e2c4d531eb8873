//! What root permits annotations to mount: lines of a file.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use crate::sys::user_namespace::is_initial;

/// The most bytes that are read. Chosen.
const MAX_TEXT: u64 = 1 << 20;

/// One line: `allow SOURCE [OPTIONS] [with OPTIONS]`.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    source: PathBuf,
    /// Whether any directory or file below the source is meant as well.
    below: bool,
    /// The names of the options that an annotation may give.
    options: Vec<String>,
    /// The options that are added.
    with: String,
}

/// All rules, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Policy(Vec<Rule>);

impl Policy {
    /// Reads a file.
    ///
    /// # Errors
    /// It does not exist, is no regular file of root's that root alone may write, or a line of it is malformed.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        check_parents(path)?;
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = File::options().read(true).custom_flags(flags).open(path);
        let file = file.map_err(|e| {
            let why = e.raw_os_error().map_or_else(|| e.to_string(), crate::error::strerror);
            format!("{why}; it says which sources may be mounted")
        })?;
        let meta = file.metadata().map_err(|e| e.to_string())?;
        if !meta.is_file() || !is_root(meta.uid()) || meta.mode() & 0o022 != 0 {
            return Err("it must be a regular file of root's that root alone may write".to_owned());
        }
        let mut text = String::new();
        file.take(MAX_TEXT).read_to_string(&mut text).map_err(|e| e.to_string())?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut rules = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            rules.push(Rule::parse(line).map_err(|e| format!("line {}: {e}", at + 1))?);
        }
        Ok(Self(rules))
    }

    /// The options to mount a source with, if a rule permits it.
    pub(super) fn permit(&self, source: &Path, options: &str) -> Result<String, String> {
        if source.components().any(|part| matches!(part, Component::ParentDir)) {
            return Err(format!("source {}: it has a component ..", source.display()));
        }
        let mut why = format!("source {} is not permitted", source.display());
        // The most specific line decides: a wider one gives no option that it refuses.
        let rules = || self.0.iter().filter(|rule| rule.is_of(source));
        let most = rules().map(Rule::rank).max();
        for rule in rules().filter(|rule| Some(rule.rank()) == most) {
            match rule.refused(options) {
                None => return Ok(joined(options, &rule.with)),
                Some(option) => {
                    why = format!("option '{option}' is not permitted for {}", source.display());
                }
            }
        }
        Err(why)
    }
}

impl Rule {
    fn parse(line: &str) -> Result<Self, String> {
        let wrong = "give allow SOURCE [OPTION,…] [with OPTION,…]";
        let mut words = line.split_whitespace();
        if words.next() != Some("allow") {
            return Err(wrong.to_owned());
        }
        let source = words.next().ok_or(wrong)?;
        let (source, below) = match source.strip_suffix("/*") {
            Some(dir) => (if dir.is_empty() { "/" } else { dir }, true),
            None => (source, false),
        };
        if !source.starts_with('/') {
            return Err(format!("source {source} is no absolute path"));
        }
        let mut rule =
            Self { source: source.into(), below, options: Vec::new(), with: String::new() };
        let mut next = words.next();
        if let Some(options) = next.filter(|word| *word != "with") {
            rule.options = options.split(',').map(str::to_owned).collect();
            next = words.next();
        }
        match (next, words.next(), words.next()) {
            (None, ..) => {}
            (Some("with"), Some(with), None) => rule.with = with.to_owned(),
            _ => return Err(wrong.to_owned()),
        }
        Ok(rule)
    }

    fn is_of(&self, source: &Path) -> bool {
        match self.below {
            true => source != self.source && source.starts_with(&self.source),
            false => source == self.source,
        }
    }

    /// How specific it is.
    fn rank(&self) -> (bool, usize) {
        (!self.below, self.source.components().count())
    }

    /// The first option that an annotation may not give.
    fn refused<'a>(&self, options: &'a str) -> Option<&'a str> {
        let names = options.split(',').filter(|option| !option.is_empty());
        let mut names = names.map(|option| option.split('=').next().unwrap_or(option));
        // A backslash or a quote would make the list mean something else where it is parsed.
        names
            .find(|name| name.contains(['\\', '"']) || !self.options.iter().any(|one| one == name))
            .or_else(|| options.contains(['\\', '"']).then_some(options))
    }
}

/// Refuses a file that another user than root could replace: one below a directory that is not root's, or that others may
/// write in, unless they may not rename there what is root's (the sticky bit).
fn check_parents(file: &Path) -> Result<(), String> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let Ok(parent) = parent.unwrap_or(Path::new(".")).canonicalize() else {
        // Opening the file says why.
        return Ok(());
    };
    for dir in parent.ancestors() {
        let meta = dir.symlink_metadata().map_err(|e| e.to_string())?;
        if !is_root(meta.uid()) || (meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0) {
            return Err(format!(
                "{}: each directory above it must be root's, and root alone may write there",
                dir.display()
            ));
        }
    }
    Ok(())
}

fn joined(options: &str, with: &str) -> String {
    let lists = [options, with];
    let lists: Vec<&str> = lists.into_iter().filter(|list| !list.is_empty()).collect();
    lists.join(",")
}

/// Whether a file of this uid is root's. In a user namespace root of the machine has no number, and is shown as the overflow
/// id; a user of such a namespace mounts with the user's own rights only, whatever the file says.
fn is_root(uid: u32) -> bool {
    uid == 0 || (uid == 65534 && !is_initial())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permit(text: &str, source: &str, options: &str) -> Result<String, String> {
        Policy::parse(text).unwrap().permit(Path::new(source), options)
    }

    #[test]
    fn the_most_specific_line_decides() {
        let text = "allow /srv/* ro,idmap\nallow /srv/secret ro with ro\nallow /srv/a/*\n";
        assert_eq!(permit(text, "/srv/x", "idmap=0:1:1"), Ok("idmap=0:1:1".to_owned()));
        assert_eq!(permit(text, "/srv/secret", ""), Ok("ro".to_owned()));
        assert!(permit(text, "/srv/secret", "idmap=0:1:1").is_err());
        assert!(permit(text, "/srv/a/b", "ro").is_err());
        assert!(permit(text, "/srv/a", "ro").is_ok());
    }

    #[test]
    fn what_no_line_permits_is_refused() {
        let text = "# comment\n\nallow /srv/www ro,idmap with nosuid\nallow /home/*\n";
        assert_eq!(permit(text, "/srv/www", ""), Ok("nosuid".to_owned()));
        let options = "ro,idmap=0:1:1";
        assert_eq!(permit(text, "/srv/www", options), Ok("ro,idmap=0:1:1,nosuid".to_owned()));
        assert_eq!(permit(text, "/home/a/b", ""), Ok(String::new()));
        for source in ["/home", "/srv", "/srv/www/x", "/srv/www2", "/homes", "/", "/etc"] {
            let error = permit(text, source, "").unwrap_err();
            assert_eq!(error, format!("source {source} is not permitted"));
        }
        let error = permit(text, "/srv/www", "suid").unwrap_err();
        assert_eq!(error, "option 'suid' is not permitted for /srv/www");
        assert!(permit(text, "/home/../etc", "").unwrap_err().contains("component .."));
        assert!(permit(text, "/srv/www", "ro,id\\map=1").is_err());
        assert!(permit(text, "/srv/www", "idmap=\"0:1:1,suid\"").is_err());
    }

    #[test]
    fn a_malformed_line_is_named() {
        for line in
            ["deny /x", "allow", "allow x", "allow /x a b", "allow /x with", "allow /x a with b c"]
        {
            let error = Policy::parse(&format!("\n{line}")).unwrap_err();
            assert!(error.starts_with("line 2: "), "{line}: {error}");
        }
    }

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hook.conf");
        std::fs::write(&file, "allow /srv\n").unwrap();
        let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode));
        mode(0o644).unwrap();
        assert!(Policy::read(&file).is_ok());
        mode(0o664).unwrap();
        assert!(Policy::read(&file).unwrap_err().contains("root alone may write"));
        mode(0o644).unwrap();
        std::os::unix::fs::chown(&file, Some(1000), None).unwrap();
        assert!(Policy::read(&file).unwrap_err().contains("root alone may write"));
        assert!(Policy::read(dir.path()).is_err());
        assert!(Policy::read(Path::new("/no/such")).unwrap_err().contains("which sources"));
    }
}
