//! The structure of `src/` stays as ARCHITECTURE.md says: imports lead downward, files that lie beside each other import
//! each other in no cycle, and no file grows beyond what one reads at a sitting.
//!
//! It reads the sources as text: `use` declarations, and paths that begin with `crate::` or `super::`. Unit tests and
//! comments do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The folders and files directly below `src/`, lowest first: each imports only what stands before it.
const LAYERS: &[&str] = &[
    "sync",
    "sys",
    "error",
    "idmap",
    "view",
    "translate",
    "config",
    "accounts",
    "describe",
    "hook",
    "map_from",
    "source",
    "watch",
    "fs",
    "fuse",
    "namespace",
    "mount",
    "inspect",
    "daemon",
    "cli",
    "main",
];

/// Files of a folder that may import each other in a cycle, and why.
const CYCLES: &[(&str, &[&str])] = &[
    // The pool's state is one value; its methods are in the file of their subject.
    ("fuse", &["worker_pool", "growth", "interrupts"]),
    // A reply logs itself, and the log reads the request's structures.
    ("fuse", &["protocol", "request_log"]),
];

/// The most lines of a file.
const MAX_LINES: usize = 510;

/// A module, by its path below `crate::`.
type Module = Vec<String>;

#[derive(Default)]
struct Sources {
    /// The text of each module without comments and unit tests.
    texts: BTreeMap<Module, String>,
    /// The names that a module hands on (`pub use`), with the module and the name behind each.
    reexports: BTreeMap<(Module, String), (Module, String)>,
}

impl Sources {
    fn read() -> Self {
        let mut sources = Self::default();
        for (path, text) in rust_files("src") {
            let path = path.strip_prefix("src/").expect("below src").strip_suffix(".rs");
            let mut module: Module =
                path.expect("a Rust file").split('/').map(str::to_owned).collect();
            if module.iter().any(|part| part == "tests") || module == ["lib"] {
                continue;
            }
            module.retain(|part| part != "mod");
            sources.texts.insert(module, without_comments_and_tests(&text));
        }
        for (module, text) in &sources.texts {
            for (is_public, path) in uses(text).into_iter().filter(|(is_public, _)| *is_public) {
                assert!(is_public);
                if let Some((mut of, mut names)) = sources.start(module, &path)
                    && let Some(name) = names.pop()
                {
                    of.extend(names);
                    sources.reexports.insert((module.clone(), name.clone()), (of, name));
                }
            }
        }
        sources
    }

    /// The module where a path begins, and the names that follow. `None` for a path of another crate.
    fn start(&self, module: &Module, path: &str) -> Option<(Module, Vec<String>)> {
        let mut names: Vec<String> = path.split("::").map(|name| name.trim().to_owned()).collect();
        let mut at = module.clone();
        match names.first().map(String::as_str)? {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                while names.get(1).is_some_and(|name| name == "super") {
                    names.remove(0);
                    at.pop();
                }
                at.pop();
            }
            child => {
                self.texts.get(&[&at[..], &[child.to_owned()]].concat())?;
                return Some((at, names));
            }
        }
        names.remove(0);
        Some((at, names))
    }

    /// The module that defines what a path names, through all that hand it on.
    fn target(&self, module: &Module, path: &str) -> Option<Module> {
        let (mut at, mut names) = self.start(module, path)?;
        loop {
            let child = names.first().map(|name| [&at[..], std::slice::from_ref(name)].concat());
            if let Some(child) = child.filter(|child| self.texts.contains_key(child)) {
                at = child;
                names.remove(0);
                continue;
            }
            let handed =
                names.first().and_then(|name| self.reexports.get(&(at.clone(), name.clone())));
            let Some((of, name)) = handed.filter(|(of, _)| *of != at) else { break };
            at.clone_from(of);
            names[0].clone_from(name);
        }
        self.texts.contains_key(&at).then_some(at)
    }

    /// What each module imports, with the paths by which it does.
    fn imports(&self) -> BTreeMap<(Module, Module), BTreeSet<String>> {
        let mut imports: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for (module, text) in &self.texts {
            let declared = uses(text).into_iter().filter(|(is_public, _)| !is_public);
            let declared = declared.map(|(_, path)| path);
            for path in declared.chain(inline_paths(text)) {
                if let Some(target) = self.target(module, &path).filter(|target| target != module) {
                    imports.entry((module.clone(), target)).or_default().insert(path);
                }
            }
        }
        imports
    }
}

fn rust_files(dir: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("the sources are here") {
        let path = entry.expect("an entry").path();
        let name = path.to_str().expect("UTF-8").to_owned();
        if path.is_dir() {
            files.extend(rust_files(&name));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let text = fs::read_to_string(&path).expect("readable");
            files.push((name, text));
        }
    }
    files
}

fn without_comments_and_tests(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    text.lines().filter(is_code).flat_map(|line| [line, "\n"]).collect()
}

/// The paths of all `use` declarations, each with whether it hands the name on.
fn uses(text: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let code = line.trim_start();
        let is_public = code.starts_with("pub");
        let Some((before, mut tree)) = code.split_once("use ").map(|(b, t)| (b, t.to_owned()))
        else {
            continue;
        };
        let is_use = before.is_empty() || (before.starts_with("pub") && before.ends_with(' '));
        if !is_use {
            continue;
        }
        while !tree.contains(';') {
            tree.push_str(lines.next().unwrap_or(";"));
        }
        let tree = tree.split(';').next().unwrap_or_default();
        found.extend(expand(tree).into_iter().map(|path| (is_public, path)));
    }
    found
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((prefix, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().trim().to_owned()];
    };
    let inner = rest.trim_end().strip_suffix('}').unwrap_or(rest);
    let (mut depth, mut part, mut parts) = (0, String::new(), Vec::new());
    for c in inner.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    parts.push(part);
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| expand(&format!("{prefix}{}", part.trim()))).collect()
}

/// The paths outside of `use` declarations that begin with `crate::` or `super::`.
fn inline_paths(text: &str) -> Vec<String> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.contains("use ") && !line.contains("pub(in")) {
        for word in line.split(|c| !is_path(c)) {
            if word.starts_with("crate::") || word.starts_with("super::") {
                found.push(word.trim_end_matches(':').to_owned());
            }
        }
    }
    found
}

/// A cycle in a graph, if there is one.
fn cycle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    for start in graph.keys() {
        let mut path = Vec::new();
        if let Some(found) = visit(graph, start, &mut path, &mut done) {
            return Some(found);
        }
    }
    None
}

fn visit(
    graph: &BTreeMap<String, BTreeSet<String>>,
    at: &str,
    path: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> Option<Vec<String>> {
    if let Some(begin) = path.iter().position(|one| one == at) {
        return Some(path[begin..].to_vec());
    }
    if done.contains(at) {
        return None;
    }
    path.push(at.to_owned());
    for next in graph.get(at).into_iter().flatten() {
        if let Some(found) = visit(graph, next, path, done) {
            return Some(found);
        }
    }
    path.pop();
    done.insert(at.to_owned());
    None
}

#[test]
fn files_beside_each_other_import_each_other_in_no_cycle() {
    let imports = Sources::read().imports();
    let folders: BTreeSet<Module> =
        imports.keys().map(|(of, _)| of[..of.len() - 1].to_vec()).collect();
    let mut wrong = Vec::new();
    for folder in folders {
        // What lies in a folder of this folder counts as that folder; the folder's own `mod.rs` is its face.
        let own = |module: &Module| {
            let is_below = module.len() > folder.len() && module.starts_with(&folder);
            is_below.then(|| module[folder.len()].clone())
        };
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (of, to) in imports.keys() {
            let (Some(of), Some(to)) = (own(of), own(to)) else { continue };
            let name = folder.join("/");
            let is_known = |(at, files): &(&str, &[&str])| {
                *at == name && files.contains(&&*of) && files.contains(&&*to)
            };
            if of != to && !CYCLES.iter().any(is_known) {
                graph.entry(of).or_default().insert(to);
            }
        }
        if let Some(files) = cycle(&graph) {
            wrong.push(format!("src/{}: {}", folder.join("/"), files.join(" -> ")));
        }
    }
    assert_eq!(wrong, [""; 0], "imports in a cycle");
}

#[test]
fn imports_lead_downward() {
    let layer = |module: &Module| {
        let at = LAYERS.iter().position(|name| *name == module[0]);
        at.unwrap_or_else(|| panic!("src/{}: no layer in tests/structure.rs", module[0]))
    };
    let mut wrong = Vec::new();
    for ((of, to), paths) in Sources::read().imports() {
        if of[0] != to[0] && layer(&of) <= layer(&to) {
            wrong.push(format!("{} imports {paths:?}", of.join("/")));
        }
    }
    assert_eq!(wrong, [""; 0], "imports that lead up");
}

#[test]
fn the_layers_are_those_of_the_architecture() {
    let text = fs::read_to_string("ARCHITECTURE.md").expect("readable");
    for name in LAYERS {
        let is_folder = Path::new("src").join(name).is_dir();
        let row =
            if is_folder { format!("| `src/{name}/` |") } else { format!("| `src/{name}.rs` |") };
        assert!(text.contains(&row), "ARCHITECTURE.md has no row {row}");
    }
}

#[test]
fn no_file_is_too_long() {
    let long = rust_files("src").into_iter().filter(|(_, text)| text.lines().count() > MAX_LINES);
    assert_eq!(long.map(|(name, _)| name).collect::<Vec<_>>(), [""; 0], "over {MAX_LINES} lines");
}

/// Messages about the whole mount or the whole kernel, each by its beginning: there is nothing more to name.
const WHOLE_MOUNT: &[&str] = &[
    "events of the source were lost: all dentries",
    "the source cannot be watched: this user has no fanotify(7) group left",
    "the kernel's FUSE has no passthrough",
    "a client holds the lock of a directory: former owners",
];

#[test]
fn a_message_of_the_log_names_what_it_is_about() {
    // A field, or an error or warning of the crate, whose text names the option or path.
    let named = [
        "={",
        "errno_field",
        "{errno}",
        ".field()",
        "{e}",
        "{error}",
        "{warning}",
        "display()",
        "display_path()",
        "{place}",
        "{mountpoints:?}",
    ];
    let mut wrong = Vec::new();
    for (name, text) in rust_files("src") {
        for message in text.split("log::").skip(1) {
            let is_message =
                ["error!(", "warn!(", "info!(", "debug!("].iter().any(|it| message.starts_with(it));
            let message = message.split(";\n").next().unwrap_or_default();
            let is_known = named.iter().chain(WHOLE_MOUNT).any(|part| message.contains(part));
            if is_message && !is_known {
                wrong.push(format!("{name}: {message}"));
            }
        }
    }
    assert_eq!(wrong, [""; 0], "messages without a field; see doc/LOGGING.md");
}
