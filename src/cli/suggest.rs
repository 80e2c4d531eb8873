//! Suggests the known name nearest to a mistyped one.

/// `did you mean 'x'?`, or a pointer to the help if no name is near. `dashes` go before the name.
pub(super) fn did_you_mean(
    typed: &str,
    known: impl Iterator<Item = &'static str>,
    dashes: &str,
) -> String {
    match nearest(typed, known) {
        Some(name) => format!("did you mean '{dashes}{name}'?"),
        None => "see shiftbind --help".to_owned(),
    }
}

/// The known name nearest to a typed one, if one is near enough for a typing error.
pub(super) fn nearest(
    typed: &str,
    known: impl Iterator<Item = &'static str>,
) -> Option<&'static str> {
    // A longer name is no typing error, and the cost grows with the product of the lengths.
    if typed.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let typed = plain(typed);
    known
        .map(|name| (edit_distance(&typed, &plain(name)), name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= (typed.len() / 3).max(1))
        .map(|(_, name)| name)
}

/// The number of letters to insert, delete, substitute or swap with a neighbour (optimal string alignment distance).
fn edit_distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let same = usize::from(from[i - 1] != to[j - 1]);
            let mut best = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_typing_errors() {
        for (from, to, expected) in [
            ("", "abc", 3),
            ("ro", "ro", 0),
            ("uidmpa", "uidmap", 1),
            ("idmap", "uidmap", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edit_distance(from, to), expected, "{from} {to}");
            assert_eq!(edit_distance(to, from), expected, "{to} {from}");
        }
    }

    #[test]
    fn only_near_names_are_suggested() {
        let known = || ["uidmap", "gidmap", "allow_other"].into_iter();
        assert_eq!(nearest("uid-map", known()), Some("uidmap"));
        assert_eq!(nearest("allow-othr", known()), Some("allow_other"));
        assert_eq!(nearest("nonempty", known()), None);
        assert_eq!(nearest("", known()), None);
    }
}
