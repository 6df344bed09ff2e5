//! The direction of imports in src/: down the list of layers, and in no circle within a folder.
//!
//! A module is named by its path: `net/proxy/stream`, and `net/proxy` for the folder's own file.
//! The root of the crate is the empty path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The layers from top to bottom. Each may import those below it. Layers on one line do not know
/// each other. What is not listed is the base: every layer may import it, and it imports no layer.
const LAYERS: &[&[&str]] = &[
    // The crate's root: the front page, which re-exports the rest.
    &[""],
    &["server"],
    &["websocket"],
    &["options"],
    &["net", "pubsub"],
];

type Edge = (String, String);

#[test]
fn imports_lead_down_and_form_no_circle() {
    let mut sources = BTreeMap::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    read_folder(&src, "", &mut sources);
    assert!(sources.len() > 50, "{:?}", sources.keys());
    let found = violations(&edges(&sources));
    let lines = found
        .iter()
        .map(|((from, to), rule)| format!("{from} -> {to}: {rule}\n"));
    assert!(found.is_empty(), "{}", lines.collect::<String>());
}

fn read_folder(folder: &Path, name: &str, sources: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let module = match stem {
            "lib" | "mod" => name.to_owned(),
            _ => join(name, stem),
        };
        if path.is_dir() {
            read_folder(&path, &module, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.insert(module, fs::read_to_string(&path).unwrap());
        }
    }
}

fn edge(from: &str, to: &str) -> Edge {
    (from.to_owned(), to.to_owned())
}

fn join(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        _ => format!("{folder}/{name}"),
    }
}

fn parent(module: &str) -> &str {
    module.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Which module imports which.
fn edges(sources: &BTreeMap<String, String>) -> BTreeSet<Edge> {
    let mut codes = BTreeMap::new();
    let mut of_tests = BTreeSet::new();
    for (module, text) in sources {
        let (code, tests) = without_tests(&code_of(text));
        codes.insert(module.as_str(), code);
        of_tests.extend(tests.iter().map(|name| join(module, name)));
    }
    codes.retain(|module, _| {
        let within = |folder: &String| module.starts_with(&format!("{folder}/"));
        !of_tests.contains(*module) && !of_tests.iter().any(within)
    });
    let mut edges = BTreeSet::new();
    for (module, code) in &codes {
        let imported = paths(code).into_iter().filter_map(|path| {
            let exists = |module: &str| codes.contains_key(module);
            resolve(module, &path, exists)
        });
        edges.extend(
            imported
                .filter(|to| to != module)
                .map(|to| edge(module, &to)),
        );
    }
    edges
}

/// The module that a path leads into.
fn resolve(module: &str, path: &str, exists: impl Fn(&str) -> bool) -> Option<String> {
    let mut names = path.split("::").peekable();
    let mut to = match *names.peek()? {
        "crate" => String::new(),
        "super" => parent(module).to_owned(),
        "self" => module.to_owned(),
        name if exists(&join(module, name)) => join(module, name),
        _ => return None,
    };
    names.next();
    for name in names {
        if name == "super" {
            to = parent(&to).to_owned();
        } else if exists(&join(&to, name)) {
            to = join(&to, name);
        } else {
            break;
        }
    }
    Some(to)
}

/// All paths in a piece of code, those of `use` declarations in full.
fn paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(|c: char| c.is_alphabetic() || c == '_') {
        let is_continued = rest[..start].trim_end().ends_with("::");
        rest = &rest[start..];
        if let Some(tree) = rest.strip_prefix("use ") {
            let end = tree.find(';').unwrap_or(tree.len());
            expand("", &tree[..end], &mut paths);
            rest = &tree[end..];
            continue;
        }
        let is_of_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let end = rest.find(|c| !is_of_path(c)).unwrap_or(rest.len());
        if !is_continued && rest[..end].contains("::") {
            paths.push(rest[..end].to_owned());
        }
        rest = &rest[end..];
    }
    paths
}

/// The paths that a tree of a `use` declaration stands for.
fn expand(before: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((stem, inner)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return paths.push(format!("{before}{}", path.trim()));
    };
    let inner = inner.trim_end().strip_suffix('}').unwrap();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[start..at].trim().is_empty() {
                    expand(&format!("{before}{stem}"), &inner[start..at], paths);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// A file's code, without comments and with empty strings.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let is_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let hashes = rest.strip_prefix('r').and_then(|raw| {
            let hashes = raw.len() - raw.trim_start_matches('#').len();
            (!is_word && raw[hashes..].starts_with('"')).then_some(hashes)
        });
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if c == '"' {
            code.push_str("\"\"");
            end_of_string(rest)
        } else if let Some(hashes) = hashes {
            code.push_str("\"\"");
            let (start, end) = (2 + hashes, format!("\"{}", "#".repeat(hashes)));
            let length = rest[start..].find(&end);
            length.map_or(rest.len(), |length| start + length + end.len())
        } else if c == '\'' && rest[1..].starts_with(['"', '\\']) {
            // A character that would look like the beginning of a string, or escaped.
            let start = if rest[1..].starts_with('\\') { 3 } else { 2 };
            rest[start..]
                .find('\'')
                .map_or(rest.len(), |at| start + at + 1)
        } else {
            code.push(c);
            c.len_utf8()
        };
        rest = &rest[skipped..];
    }
    code
}

fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    text.len()
}

/// Code without what is only compiled for tests and fuzzers; and the names of modules among that.
fn without_tests(code: &str) -> (String, Vec<String>) {
    let code = code.replace("#[cfg(any(test, fuzzing))]", "#[cfg(test)]");
    let mut parts = code.split("#[cfg(test)]");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    let mut modules = Vec::new();
    for item in parts {
        let declared = item.split_once("mod ").filter(|(before, _)| {
            // Only attributes and a visibility come before it.
            !before.contains(['{', ';'])
        });
        if let Some((_, module)) = declared {
            modules.extend(module.split([';', ' ']).next().map(str::to_owned));
        }
        let mut depth = 0;
        let end = item.find(|c| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            depth == 0 && matches!(c, '}' | ';')
        });
        kept.push_str(&item[end.map_or(item.len(), |end| end + 1)..]);
    }
    (kept, modules)
}

/// The edges that break a rule, each with the rule.
fn violations(edges: &BTreeSet<Edge>) -> BTreeMap<Edge, String> {
    let mut found = BTreeMap::new();
    for (from, to) in edges {
        let (above, below) = (layer_of(from), layer_of(to));
        if above != below && level(above) >= level(below) && level(below) < LAYERS.len() {
            found.insert(
                edge(from, to),
                format!("{above:?} may not import {below:?}"),
            );
        }
    }
    // One edge that leads up would make a circle of all the layers between.
    let down = edges.iter().filter(|edge| !found.contains_key(edge));
    let edges: BTreeSet<Edge> = down.cloned().collect();
    let folders: BTreeSet<&str> = edges.iter().map(|(from, _)| parent(from)).collect();
    for folder in folders {
        // Only the edges within the folder, between its own file, its files and its folders.
        let within: BTreeSet<(Edge, Edge)> = edges
            .iter()
            .filter_map(|(from, to)| {
                let nodes = edge(&child(folder, from)?, &child(folder, to)?);
                (nodes.0 != nodes.1).then(|| (nodes, edge(from, to)))
            })
            .collect();
        let nodes: BTreeSet<&Edge> = within.iter().map(|(nodes, _)| nodes).collect();
        for ((from, to), edge) in &within {
            if leads_to(to, from, &nodes) {
                found.insert(edge.clone(), format!("a circle in {folder:?}"));
            }
        }
    }
    found
}

fn layer_of(module: &str) -> &str {
    module.split('/').next().unwrap_or_default()
}

/// How far down a layer is.
fn level(layer: &str) -> usize {
    let found = LAYERS.iter().position(|layers| layers.contains(&layer));
    found.unwrap_or(LAYERS.len())
}

/// The part of a folder that a module is in. The folder's own file is a part as well.
fn child(folder: &str, module: &str) -> Option<String> {
    let inside = match folder {
        "" => module,
        _ if module == folder => "",
        _ => module.strip_prefix(folder)?.strip_prefix('/')?,
    };
    Some(layer_of(inside).to_owned())
}

fn leads_to(from: &str, to: &str, edges: &BTreeSet<&Edge>) -> bool {
    let mut reached = BTreeSet::from([from]);
    let mut next = vec![from];
    while let Some(node) = next.pop() {
        let after = edges.iter().filter(|(from, _)| from == node);
        next.extend(
            after
                .map(|(_, to)| to.as_str())
                .filter(|to| reached.insert(to)),
        );
    }
    reached.contains(to)
}

/// The violations of a crate with these modules.
fn violations_of(sources: &[(&str, &str)]) -> Vec<Edge> {
    let sources = sources.iter();
    let sources = sources.map(|(module, text)| edge(module, text)).collect();
    violations(&edges(&sources)).into_keys().collect()
}

#[test]
fn an_import_that_leads_up_is_found() {
    let found = violations_of(&[
        ("", "pub use server::Server;"),
        (
            "server",
            "use crate::websocket::Websocket; use crate::error::Error;",
        ),
        ("websocket", "use crate::net::dial;"),
        ("net/dial", "use crate::pubsub::Queue;"),
        ("net", "fn f() { crate::server::stop(); }"),
        ("pubsub", "use crate::error::Error;"),
        ("error", "use crate::Websocket;"),
    ]);
    let expected = [
        edge("error", ""),
        edge("net", "server"),
        edge("net/dial", "pubsub"),
    ];
    for edge in &expected {
        assert!(found.contains(edge), "{edge:?} in {found:?}");
    }
}

#[test]
fn a_circle_is_found_in_every_folder() {
    let circle = [
        ("net", "pub mod proxy; pub mod socket;"),
        ("net/proxy", "mod url; pub use self::url::Proxy;"),
        ("net/proxy/url", "use super::Proxy;"),
        ("net/socket", "use super::proxy::Proxy;"),
    ];
    let in_proxy = [
        edge("net/proxy", "net/proxy/url"),
        edge("net/proxy/url", "net/proxy"),
    ];
    assert_eq!(violations_of(&circle), in_proxy);
    // Folders are parts of a circle as files are; so is the base.
    let found = violations_of(&[
        ("net", ""),
        ("net/proxy", ""),
        ("net/proxy/url", "use crate::net::socket::Socket;"),
        ("net/socket", "use super::proxy::url::Proxy;"),
        ("log", "use crate::panics::catch;"),
        ("panics", "fn f() { crate::log::error(1) }"),
    ]);
    assert_eq!(found.len(), 4, "{found:?}");
    // Who imports the same is in no circle.
    let found = violations_of(&[
        ("net/a", "use super::c::C; use super::b::B;"),
        ("net/b", "use super::c::C;"),
        ("net/c", ""),
    ]);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn paths_are_read_wherever_they_stand() {
    let code = "use a::{b, c::{self, D as E}, f};\npub(crate) use self::g;
        fn h(x: crate::i::J) -> Vec<super::k::L> { m::n() }";
    let expected = [
        "a::b",
        "a::c::self",
        "a::c::D",
        "a::f",
        "self::g",
        "crate::i::J",
        "super::k::L",
        "m::n",
    ];
    assert_eq!(paths(code), expected);
}

#[test]
fn comments_strings_and_tests_import_nothing() {
    let text = r##"
        //! [`crate::server`]
        /* crate::server */
        fn f() -> char { let _ = ("crate::server \" crate::server", r#""crate::server"#); '"' }
        fn g<'a>(x: &'a str) {} // crate::server
        #[cfg(any(test, fuzzing))]
        #[doc(hidden)]
        pub mod testing;
        #[cfg(test)]
        use crate::server::Server;
        use crate::net::socket;
        #[cfg(test)]
        mod tests {
            fn f() { crate::server::bind(); }
        }
        use crate::net::dial;
    "##;
    let (code, modules) = without_tests(&code_of(text));
    assert_eq!(paths(&code), ["crate::net::socket", "crate::net::dial"]);
    assert_eq!(modules, ["testing", "tests"]);
}
