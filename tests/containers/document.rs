//! The named blocks of doc/CONTAINERS.md: the word after a fence's language names a block.

use std::fs;
use std::path::Path;

/// What a block is called that no program here can run; its section says so.
const NOT_RUN: &str = "not-run";

/// The block of that name.
#[track_caller]
pub(crate) fn block(name: &str) -> String {
    let blocks = blocks();
    let mut named = blocks.iter().filter(|block| block.name == name);
    let found = named.next().unwrap_or_else(|| panic!("CONTAINERS.md has no block named {name}"));
    assert!(named.next().is_none(), "CONTAINERS.md has two blocks named {name}");
    found.text.clone()
}

struct Block {
    /// The heading above it.
    section: String,
    name: String,
    text: String,
}

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("doc/CONTAINERS.md");
    fs::read_to_string(path).expect("doc/CONTAINERS.md is there")
}

fn blocks() -> Vec<Block> {
    let (mut blocks, mut section, mut open) = (Vec::new(), String::new(), None::<Block>);
    for line in document().lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                let name = info.split_once(' ').map_or("", |(_, name)| name).to_owned();
                open = Some(Block { section: section.clone(), name, text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text.extend([line, "\n"]),
            (None, None) if line.starts_with('#') => section = line.to_owned(),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    blocks
}

#[test]
fn every_block_of_the_document_is_run_or_its_section_says_that_it_is_not() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/containers");
    let tests: String = fs::read_dir(here)
        .expect("list the tests")
        .map(|file| fs::read_to_string(file.expect("a name").path()).expect("read a test"))
        .collect();
    let document = document();
    let blocks = blocks();
    assert!(blocks.len() > 15, "{}", blocks.len());
    for Block { section, name, text } in &blocks {
        if name == NOT_RUN {
            let after = document.split(&format!("{section}\n")).nth(1).expect("the section");
            let body = after.split("\n#").next().expect("split gives one");
            assert!(
                body.contains("Not run"),
                "{section} does not say that this is not run:\n{text}"
            );
        } else {
            assert!(
                tests.contains(&format!("\"{name}\"")),
                "no test runs '{name}' of {section}:\n{text}"
            );
        }
    }
}
