//! `idmappable` beside every other option.

use super::*;

/// The options that depend on the caller, with their opposites, by their long names.
const REFUSED: [&str; 9] = [
    "allow-root",
    "chgrp-ignore",
    "chmod-ignore",
    "chown-ignore",
    "enable-ioctl",
    "mirror",
    "mirror-only",
    "no-allow-other",
    "resolved-symlink-deletion",
];

#[test]
fn idmappable_is_refused_with_each_option_that_depends_on_the_caller_and_with_no_other() {
    let mut refused = Vec::new();
    for option in OPTIONS.iter().filter(|option| option.mount_option.is_some()) {
        let value = sample(option);
        let equals = if value.is_empty() { String::new() } else { format!("={value}") };
        for name in [Some(option.long), option.opposite].into_iter().flatten() {
            let words = format!("idmappable,{name}{equals}");
            let Err(error) = ordinary(&format!("-o {words}")) else { continue };
            let text = error.to_string();
            let expected = format!(
                "option '{name}' depends on the caller, which the kernel does not tell with"
            );
            // An option may be refused for what its sample value lacks.
            if text.starts_with(&expected) {
                assert_eq!(error.exit().code(), 1, "{words}");
                refused.push(name);
            } else {
                assert!(ordinary(&format!("-o {name}{equals}")).is_err(), "{words}: {text}");
            }
        }
    }
    refused.sort_unstable();
    assert_eq!(refused, REFUSED);
}

#[test]
fn idmappable_is_an_option_of_the_mount_that_needs_the_daemon() {
    let config = config("-o idmappable,idmap=b:0:100000:10,allow_other");
    assert!(config.idmappable && config.daemon_options.contains(&"idmappable"));
    assert!(!super::config("-o allow_other").idmappable);
}
