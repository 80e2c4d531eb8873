//! Matches one component of a pattern: `*`, `?`, `[a-z]`, `[!x]`, `\x` (glob(7)).
//!
//! A leading dot is matched like any other character.
//!
//! Not by a crate: fast-glob and gix-glob match bytes, but their `?` and `[…]` take a byte where a shell's take a
//! character (`ä` has two bytes). fast-glob also expands `{a,b}`, and a leading `!` negates; gix-glob also knows
//! classes such as `[[:alpha:]]`.

use std::fmt;

/// A pattern of one component. See the module's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob {
    tokens: Vec<Token>,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// `*`: any number of characters.
    Any,
    /// `?`: one character.
    One,
    /// This character.
    Character(u32),
    /// A character in one of these ranges, or in none of them.
    Set { ranges: Vec<(u32, u32)>, is_negated: bool },
}

/// The first character of some bytes and its length in bytes. A byte that is not part of valid UTF-8 is a character by
/// itself, equal to no other.
fn first(bytes: &[u8]) -> Option<(u32, usize)> {
    let lead = *bytes.first()?;
    let len = match lead {
        0xC0..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF7 => 4,
        _ => 1,
    };
    let text = bytes.get(..len).and_then(|bytes| std::str::from_utf8(bytes).ok());
    match text.and_then(|text| text.chars().next()) {
        Some(c) => Some((u32::from(c), len)),
        None => Some((0x11_0000 + u32::from(lead), 1)),
    }
}

impl Glob {
    /// Parses a pattern without slashes.
    pub(super) fn parse(pattern: &[u8]) -> Result<Self, &'static str> {
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let Some((c, len)) = first(rest) {
            rest = &rest[len..];
            tokens.push(match char::from_u32(c) {
                Some('*') if tokens.last() == Some(&Token::Any) => continue,
                Some('*') => Token::Any,
                Some('?') => Token::One,
                Some('\\') => Token::Character(quoted(&mut rest)?),
                Some('[') => set(&mut rest)?,
                _ => Token::Character(c),
            });
        }
        Ok(Self { tokens, text: String::from_utf8_lossy(pattern).into_owned() })
    }

    /// Whether a name matches, in one pass that backtracks to the last `*` only.
    pub(super) fn matches(&self, name: &[u8], case: Case) -> bool {
        let (mut at, mut rest) = (0, name);
        let mut retry: Option<(usize, &[u8])> = None;
        loop {
            match (self.tokens.get(at), first(rest)) {
                (Some(Token::Any), _) => {
                    at += 1;
                    retry = Some((at, rest));
                    continue;
                }
                (Some(token), Some((c, len))) if token.accepts(c, case) => {
                    at += 1;
                    rest = &rest[len..];
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            // The last star takes one character more.
            let Some((after, from)) = retry else { return false };
            let Some((_, len)) = first(from) else { return false };
            retry = Some((after, &from[len..]));
            (at, rest) = (after, &from[len..]);
        }
    }
}

/// How a pattern's letters are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    Exact,
    /// Upper and lower case letters are the same.
    Ignored,
}

impl Token {
    fn accepts(&self, c: u32, case: Case) -> bool {
        match self {
            Self::Any => false,
            Self::One => true,
            Self::Character(own) => {
                *own == c || (case == Case::Ignored && folded(*own) == folded(c))
            }
            Self::Set { ranges, is_negated } => {
                let accepts =
                    |c| ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *is_negated;
                accepts(c) || (case == Case::Ignored && variants(c).any(accepts))
            }
        }
    }
}

/// The lower case letter of a character's upper case one: so the long s and the Kelvin sign become s and k.
fn folded(c: u32) -> u32 {
    let Some(c) = char::from_u32(c) else { return c };
    let upper = c.to_uppercase().next().unwrap_or(c);
    u32::from(upper.to_lowercase().next().unwrap_or(upper))
}

/// A character's upper and lower case letters.
fn variants(c: u32) -> impl Iterator<Item = u32> {
    let letter = char::from_u32(c);
    let both = letter.into_iter().flat_map(|c| c.to_uppercase().chain(c.to_lowercase()));
    both.map(u32::from).chain([folded(c)])
}

/// The character after a backslash.
fn quoted(rest: &mut &[u8]) -> Result<u32, &'static str> {
    let (c, len) = first(rest).ok_or("ends in a backslash: write two to mean one")?;
    *rest = &rest[len..];
    Ok(c)
}

/// The rest of a set after its `[`. A `]` that comes first is a member.
fn set(rest: &mut &[u8]) -> Result<Token, &'static str> {
    const OPEN: &str = "has a [ without a ]: write \\[ to mean the character";
    let is_negated = matches!(rest.first(), Some(b'!' | b'^'));
    if is_negated {
        *rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        let low = member(rest)?.ok_or(OPEN)?;
        let high = match rest {
            [b'-', next, ..] if *next != b']' => {
                *rest = &rest[1..];
                member(rest)?.ok_or(OPEN)?
            }
            _ => low,
        };
        if high < low {
            return Err("has a range that ends before it begins");
        }
        ranges.push((low, high));
        if rest.first() == Some(&b']') {
            *rest = &rest[1..];
            return Ok(Token::Set { ranges, is_negated });
        }
    }
}

fn member(rest: &mut &[u8]) -> Result<Option<u32>, &'static str> {
    let Some((c, len)) = first(rest) else { return Ok(None) };
    *rest = &rest[len..];
    if c == u32::from('\\') { quoted(rest).map(Some) } else { Ok(Some(c)) }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, name: impl AsRef<[u8]>) -> bool {
        Glob::parse(pattern.as_bytes()).unwrap().matches(name.as_ref(), Case::Exact)
    }

    #[test]
    fn stars_and_question_marks_match_characters() {
        assert!(matches("*", "") && matches("*", ".hidden") && matches("a*b*c", "a--b--b--c"));
        assert!(!matches("a*b*c", "a--c--b") && !matches("a", "ab") && !matches("", "a"));
        assert!(
            matches("?", "ä") && matches("?", "本") && !matches("?", "ab") && !matches("?", "")
        );
        assert!(matches("*~", "x~") && matches("**x", "yx"));
    }

    #[test]
    fn sets_match_one_of_their_characters_or_none() {
        assert!(matches("[a-cx]", "b") && matches("[a-cx]", "x") && !matches("[a-cx]", "d"));
        assert!(matches("[!a-c]", "d") && matches("[^a-c]", "d") && !matches("[!a-c]", "a"));
        assert!(matches("[]a]", "]") && matches("[a-]", "-") && matches("[!]]", "x"));
        assert!(matches("[ä-ö]", "å") && matches("[\\]x]", "]") && !matches("[!a]", ""));
    }

    #[test]
    fn a_backslash_takes_the_meaning_from_what_follows() {
        assert!(matches("\\*", "*") && !matches("\\*", "x") && matches("\\\\", "\\"));
        assert!(matches("\\[a]", "[a]"));
    }

    #[test]
    fn bytes_that_are_no_text_match_like_characters() {
        assert!(matches("?", [0xFF]) && matches("*", [0xFF, 0xC3]) && matches("a?", [b'a', 0xC3]));
        assert!(!matches("ÿ", [0xFF]), "the character of that number is another");
        let raw = Glob::parse(&[b'x', 0xFF]).unwrap();
        assert!(
            raw.matches(&[b'x', 0xFF], Case::Exact) && !raw.matches(&[b'x', 0xFE], Case::Exact)
        );
    }

    #[test]
    fn a_broken_pattern_says_what_is_wrong() {
        for pattern in ["[", "[a", "[]", "[!]", "\\", "[z-a]", "[a-", "[\\"] {
            assert!(Glob::parse(pattern.as_bytes()).is_err(), "{pattern}");
        }
    }

    /// A reference matcher: recursive and slow.
    fn slow(tokens: &[Token], name: &[u8]) -> bool {
        match (tokens.split_first(), first(name)) {
            (None, c) => c.is_none(),
            (Some((Token::Any, after)), c) => {
                slow(after, name) || c.is_some_and(|(_, len)| slow(tokens, &name[len..]))
            }
            (Some((token, after)), Some((c, len))) => {
                token.accepts(c, Case::Exact) && slow(after, &name[len..])
            }
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn it_matches_what_a_plain_matcher_matches(
            pattern in "[ab*?]{0,8}|[ab*?\\[\\]!\\\\-]{0,8}",
            name in "[ab-]{0,8}",
        ) {
            if let Ok(glob) = Glob::parse(pattern.as_bytes()) {
                prop_assert_eq!(glob.matches(name.as_bytes(), Case::Exact), slow(&glob.tokens, name.as_bytes()));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(
            pattern in proptest::collection::vec(any::<u8>(), 0..16),
            name in proptest::collection::vec(any::<u8>(), 0..16),
        ) {
            if let Ok(glob) = Glob::parse(&pattern) {
                let _ = glob.matches(&name, Case::Exact);
            }
        }
    }

    #[test]
    fn letters_of_another_case_match_where_case_is_ignored() {
        let matches = |pattern: &str, name: &str, case| {
            Glob::parse(pattern.as_bytes()).unwrap().matches(name.as_bytes(), case)
        };
        for (pattern, name) in [
            ("secret", "SeCReT"),
            (".Git*", ".gITignore"),
            ("[a-c]ä", "BÄ"),
            ("secret", "\u{17f}ecret"),
        ] {
            assert!(matches(pattern, name, Case::Ignored), "{pattern} {name}");
            assert!(!matches(pattern, name, Case::Exact), "{pattern} {name}");
        }
        assert!(!matches("secret", "secrets", Case::Ignored));
    }
}
