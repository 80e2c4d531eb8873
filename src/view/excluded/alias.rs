//! Names by which a filesystem may find a file that it lists under another one, beside those that differ in case.

/// Whether a name has the form that DOS and Windows make of a long one: at most 8 characters and 3 more behind a dot, with
/// `~` and a letter or digit before the dot (`SECRET~1.TXT`; Samba's `mangled names` have letters behind `~`).
#[must_use]
pub fn is_numbered_alias(name: &[u8]) -> bool {
    let base = name.split(|byte| *byte == b'.').next().unwrap_or_default();
    let mut pairs = base.windows(2);
    is_short(name) && pairs.any(|pair| pair[0] == b'~' && pair[1].is_ascii_alphanumeric())
}

fn is_short(name: &[u8]) -> bool {
    let mut parts = name.split(|byte| *byte == b'.');
    let (base, extension) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    (1..=8).contains(&base.len()) && extension.len() <= 3 && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_aliases_are_told_by_their_form() {
        for name in ["SECRET~1.TXT", "secret~1.txt", "S~1", "AB12CD~9", "SE~X0.T", "A~1.B"] {
            assert!(is_numbered_alias(name.as_bytes()), "{name}");
        }
        for name in
            ["secret", "x~", "x.c~", "f.txt~1", "long-name~1.txt", "a~1.b.c", "a~1.html", "", "~"]
        {
            assert!(!is_numbered_alias(name.as_bytes()), "{name}");
        }
    }
}
