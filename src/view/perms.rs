//! Rules for permission bits, in bindfs's syntax: `u=rwX:go-w`, `0640,ad+x`.

use std::fmt;
use std::str::FromStr;

use rustix::fs::FileType;

use super::PERMISSIONS;

const READ: u32 = 0o444;
const WRITE: u32 = 0o222;
const EXECUTE: u32 = 0o111;
const USER: u32 = 0o700;
const GROUP: u32 = 0o070;
const OTHERS: u32 = 0o007;
/// setuid, setgid and sticky.
const SPECIAL: u32 = 0o7000;

/// Rules, applied one after the other. Classes that they copy, and what `X` tests, are of the mode before the first
/// rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PermRules(Vec<Rule>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    files: bool,
    directories: bool,
    action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Sets these bits; `special` replaces setuid, setgid and sticky if any of it is set.
    Exactly { permissions: u32, special: u32 },
    /// Sets, adds or removes bits of these classes.
    Symbolic { classes: u32, operator: Operator, operand: Operand },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Set,
    Add,
    Take,
}

/// What stands to the right of the operator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Operand {
    /// r, w and x, for all classes.
    plain: u32,
    /// `X`: x for directories, and for files that anyone could execute.
    search: bool,
    /// `D`: x for directories.
    directory: bool,
    /// Copied from these classes.
    user: bool,
    group: bool,
    others: bool,
}

impl PermRules {
    /// One rule that sets exactly these permissions, for files, directories or both.
    #[must_use]
    pub fn exactly(permissions: u32, files: bool, directories: bool) -> Self {
        let action = Action::Exactly { permissions: permissions & PERMISSIONS, special: 0 };
        Self(vec![Rule { files, directories, action }])
    }

    /// Whether there are no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Rules that do nothing, because they name no class: `d+x`. Accepted, as in bindfs.
    pub fn no_ops(&self) -> impl Iterator<Item = String> {
        let is_no_op = |rule: &&Rule| matches!(rule.action, Action::Symbolic { classes: 0, .. });
        self.0.iter().filter(is_no_op).map(ToString::to_string)
    }

    /// Appends rules.
    pub fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// A mode (permission, setuid, setgid and sticky bits) after all rules.
    #[must_use]
    pub fn apply(&self, kind: FileType, mode: u32) -> u32 {
        let is_dir = kind == FileType::Directory;
        let applies = |rule: &&Rule| if is_dir { rule.directories } else { rule.files };
        self.0.iter().filter(applies).fold(mode, |now, rule| rule.apply(is_dir, now, mode))
    }
}

impl Rule {
    fn apply(&self, is_dir: bool, now: u32, original: u32) -> u32 {
        match self.action {
            Action::Exactly { permissions, special } => {
                permissions | if special == 0 { now & SPECIAL } else { special }
            }
            Action::Symbolic { classes, operator, operand } => {
                let bits = operand.bits(is_dir, original) & classes;
                match operator {
                    Operator::Set => (now & !(classes & PERMISSIONS)) | bits,
                    Operator::Add => now | bits,
                    Operator::Take => now & !bits,
                }
            }
        }
    }
}

impl Operand {
    fn bits(self, is_dir: bool, original: u32) -> u32 {
        let mut bits = self.plain;
        if (self.search && (is_dir || original & EXECUTE != 0)) || (self.directory && is_dir) {
            bits |= EXECUTE;
        }
        let spread = |class: u32| class | (class << 3) | (class << 6);
        for (copied, class) in [
            (self.user, (original & USER) >> 6),
            (self.group, (original & GROUP) >> 3),
            (self.others, original & OTHERS),
        ] {
            if copied {
                bits |= spread(class);
            }
        }
        bits
    }
}

impl FromStr for PermRules {
    type Err = String;

    /// Parses rules separated by `,` or `:`; a separator may end the list.
    ///
    /// A rule is octal or `[ugoafd]*[=+-][rwxXDstugo]*`. An octal rule has up to four digits; a first of four other
    /// than 0 sets setuid, setgid and sticky, which otherwise stay. `f` and `d` restrict a rule to files or
    /// directories, also before an octal number.
    fn from_str(text: &str) -> Result<Self, String> {
        let inner = text.strip_suffix([',', ':']).unwrap_or(text);
        if inner.is_empty() {
            return if text.is_empty() { Ok(Self::default()) } else { Err(bad(text, "")) };
        }
        inner
            .split([',', ':'])
            .map(|rule| parse(rule).ok_or_else(|| bad(text, rule)))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn bad(list: &str, rule: &str) -> String {
    if rule.is_empty() {
        return format!("'{list}' has an empty rule");
    }
    format!("'{rule}' is not a permission rule; give for example 0640, a+rX or d=rwx")
}

fn parse(rule: &str) -> Option<Rule> {
    let at = rule.find(|c: char| !matches!(c, 'u' | 'g' | 'o' | 'a' | 'f' | 'd'))?;
    let (left, right) = rule.split_at(at);
    let mut classes = 0;
    let (mut files, mut directories) = (false, false);
    for letter in left.chars() {
        match letter {
            'u' => classes |= USER,
            'g' => classes |= GROUP,
            'o' => classes |= OTHERS,
            'a' => classes |= PERMISSIONS,
            'f' => files = true,
            _ => directories = true,
        }
    }
    let restricted = files || directories;
    let (files, directories) = (files || !restricted, directories || !restricted);
    if right.starts_with(|c: char| c.is_ascii_digit()) {
        let action = if classes == 0 { octal(right)? } else { return None };
        return Some(Rule { files, directories, action });
    }
    if left.is_empty() {
        classes = PERMISSIONS;
    }
    let operator = match right.as_bytes()[0] {
        b'=' => Operator::Set,
        b'+' => Operator::Add,
        b'-' => Operator::Take,
        _ => return None,
    };
    let mut operand = Operand::default();
    for letter in right[1..].chars() {
        match letter {
            'r' => operand.plain |= READ,
            'w' => operand.plain |= WRITE,
            'x' => operand.plain |= EXECUTE,
            'X' => operand.search = true,
            'D' => operand.directory = true,
            'u' => operand.user = true,
            'g' => operand.group = true,
            'o' => operand.others = true,
            // Accepted, as in bindfs: setuid, setgid and sticky stay as they are.
            's' | 't' => {}
            _ => return None,
        }
    }
    Some(Rule { files, directories, action: Action::Symbolic { classes, operator, operand } })
}

fn octal(digits: &str) -> Option<Action> {
    let number = (digits.len() <= 4).then(|| u32::from_str_radix(digits, 8).ok()).flatten()?;
    Some(Action::Exactly { permissions: number & PERMISSIONS, special: number & SPECIAL })
}

impl fmt::Display for PermRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, rule) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(":")?;
            }
            write!(f, "{rule}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |f: &mut fmt::Formatter<'_>, given: bool, letter: &str| {
            if given { f.write_str(letter) } else { Ok(()) }
        };
        if !(self.files && self.directories) {
            one(f, self.files, "f")?;
            one(f, self.directories, "d")?;
        }
        match self.action {
            Action::Exactly { permissions, special } => write!(f, "{:04o}", permissions | special),
            Action::Symbolic { classes, operator, operand } => {
                one(f, classes & USER != 0, "u")?;
                one(f, classes & GROUP != 0, "g")?;
                one(f, classes & OTHERS != 0, "o")?;
                f.write_str(match operator {
                    Operator::Set => "=",
                    Operator::Add => "+",
                    Operator::Take => "-",
                })?;
                one(f, operand.plain & READ != 0, "r")?;
                one(f, operand.plain & WRITE != 0, "w")?;
                one(f, operand.plain & EXECUTE != 0, "x")?;
                one(f, operand.search, "X")?;
                one(f, operand.directory, "D")?;
                one(f, operand.user, "u")?;
                one(f, operand.group, "g")?;
                one(f, operand.others, "o")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn both(rules: &str) -> (u32, u32) {
        let rules: PermRules = rules.parse().unwrap();
        (rules.apply(FileType::RegularFile, 0o640), rules.apply(FileType::Directory, 0o750))
    }

    /// What bindfs 1.18.4 makes of 640 (a file) and 750 (a directory), measured; and rules of our own.
    #[test]
    fn rules_do_what_bindfs_does() {
        for (rules, file, directory) in [
            ("g=rD", 0o640, 0o750),
            ("0644,a+X", 0o644, 0o755),
            ("og-x:og+rD:u=rwX:g+rw", 0o664, 0o775),
            ("=r", 0o444, 0o444),
            ("a=u", 0o666, 0o777),
            ("g=u", 0o660, 0o770),
            ("o=g", 0o644, 0o755),
            ("uf=x", 0o140, 0o750),
            ("f=r", 0o640, 0o750),
            ("d=rx", 0o640, 0o750),
            ("af=r", 0o444, 0o750),
            ("u+s", 0o640, 0o750),
            ("0", 0, 0),
            ("", 0o640, 0o750),
            ("0600,", 0o600, 0o600),
            ("f0600:d0700", 0o600, 0o700),
            ("2750", 0o2750, 0o2750),
        ] {
            assert_eq!(both(rules), (file, directory), "{rules}");
        }
    }

    #[test]
    fn setuid_and_its_kin_stay_unless_four_digits_say_otherwise() {
        let apply =
            |rules: &str| rules.parse::<PermRules>().unwrap().apply(FileType::RegularFile, 0o4755);
        assert_eq!(apply("0600"), 0o4600);
        assert_eq!(apply("600"), 0o4600);
        assert_eq!(apply("2600"), 0o2600);
        assert_eq!(apply("a="), 0o4000);
    }

    #[test]
    fn rules_that_name_no_class_do_nothing() {
        let rules: PermRules = "f=r:ad+x:0600:=w:d-x".parse().unwrap();
        assert_eq!(rules.no_ops().collect::<Vec<_>>(), ["f=r", "d-x"]);
    }

    #[test]
    fn malformed_rules_are_refused() {
        for rules in [
            ",", "a,,b", "0649", "01777x", "0644junk", "12345", "a", "ug", "z=r", "a=q", "a=r=w",
            "u0600", "a++",
        ] {
            assert!(rules.parse::<PermRules>().is_err(), "{rules}");
        }
    }

    proptest! {
        #[test]
        fn printed_rules_are_read_as_the_same(rules in "([ugo]{1,3}[fd]?[=+-][rwxXDugo]{0,4}|[fd]?[0-7]{1,4})([,:]([ugo]{1,3}[=+-][rwxXDugo]{0,4}|[0-7]{3})){0,3}") {
            let rules: PermRules = rules.parse().unwrap();
            prop_assert_eq!(&rules.to_string().parse::<PermRules>().unwrap(), &rules);
        }

        #[test]
        fn no_text_makes_them_panic(text in ".{0,20}|[ugoafdrwxXDst=+,:0-9-]{0,20}", mode in 0u32..0o10000) {
            if let Ok(rules) = text.parse::<PermRules>() {
                let shown = rules.apply(FileType::RegularFile, mode);
                prop_assert!(shown <= 0o7777);
            }
        }
    }
}
