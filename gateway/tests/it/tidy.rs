//! Rules of STYLE.md and ARCHITECTURE.md that the compiler cannot hold.

use crate::sources::{crate_folder, folders, rust_files};

/// What has no place in code that neither does I/O nor knows the time.
const NOT_SANS_IO: &[&str] = &[
    "glommio",
    "io_uring",
    "tokio",
    "std::net::Tcp",
    "std::net::Udp",
    "std::fs",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "async fn",
    "async move",
    ".await",
    "Rc<RefCell",
];

/// The layers of `src/`, read aloud: config decides, proto thinks, auth knows who is who,
/// upstream stores, shard moves bytes, node puts them together, admin shows it. A layer may use
/// those before it.
const LAYERS: &[&str] = &["config", "proto", "auth", "upstream", "shard", "node", "admin"];

/// Names that say nothing about what is inside.
const DRAWERS: &[&str] = &["types", "utils", "util", "common", "helpers", "impls", "misc"];

/// `line` up to a comment.
fn code_of(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

/// The lines of `text` whose code contains one of `words`, with their numbers.
fn lines_with<'t>(text: &'t str, words: &[&str]) -> Vec<(usize, &'t str)> {
    let lines = (1..).zip(text.lines());
    lines.filter(|(_, line)| words.iter().any(|word| code_of(line).contains(word))).collect()
}

/// The top-level modules of its own crate that `text` names, from `crate::name` and
/// `crate::{name, …}`.
fn modules_used(text: &str) -> Vec<String> {
    let code: String = text.lines().map(|line| code_of(line).to_owned() + "\n").collect();
    let mut used = Vec::new();
    for (at, path) in code.match_indices("crate::") {
        let rest = &code[at + path.len()..];
        match rest.strip_prefix('{') {
            Some(group) => used.extend(names_in_group(group)),
            None => used.extend(first_name(rest)),
        }
    }
    used
}

/// The first name of each path in an import group, up to its closing brace.
fn names_in_group(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut names = Vec::new();
    let mut at_start = true;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            _ if character.is_whitespace() => {}
            _ => {
                if at_start {
                    names.extend(first_name(&group[at..]));
                }
                at_start = false;
            }
        }
    }
    names
}

fn first_name(path: &str) -> Option<String> {
    let name: String =
        path.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// The first name of a path under `src/`: a folder's, or a file's without `.rs`.
fn top_level(path: &std::path::Path) -> String {
    let name = path.components().nth(1).expect("a path under src").as_os_str();
    name.to_string_lossy().trim_end_matches(".rs").to_owned()
}

#[test]
fn proto_stays_sans_io() {
    let files = rust_files("src/proto");
    assert!(!files.is_empty(), "proto has moved: tell this test");
    let mut faults = Vec::new();
    for file in files {
        for (number, line) in lines_with(&file.text, NOT_SANS_IO) {
            faults.push(format!("{}:{number}: {}", file.path.display(), line.trim()));
        }
    }
    assert!(faults.is_empty(), "proto neither does I/O nor waits:\n{}", faults.join("\n"));
}

#[test]
fn unsafe_is_forbidden_where_bytes_from_outside_are_understood() {
    for module in ["src/proto/mod.rs", "src/config/mod.rs"] {
        let text = std::fs::read_to_string(crate_folder().join(module)).expect("it is there");
        assert!(text.contains("#![forbid(unsafe_code)]"), "{module}");
    }
}

#[test]
fn dependencies_point_one_way() {
    let mut faults = Vec::new();
    for file in rust_files("src") {
        let layer = top_level(&file.path);
        let Some(place) = LAYERS.iter().position(|name| *name == layer) else { continue };
        for used in modules_used(&file.text) {
            if LAYERS.iter().position(|name| *name == used).is_some_and(|other| other > place) {
                faults.push(format!("{}: {layer} uses {used}", file.path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_folder_has_its_layer_and_its_place_on_the_map() {
    let architecture = std::fs::read_to_string(crate_folder().join("../ARCHITECTURE.md"))
        .expect("ARCHITECTURE.md can be read");
    let folders = folders("src");
    assert!(!folders.is_empty(), "src has moved: tell this test");
    for folder in folders {
        let named = if folder.contains('/') { folder.clone() } else { format!("{folder}/") };
        assert!(architecture.contains(&named), "ARCHITECTURE.md does not name src/{folder}");
        let layer = folder.split('/').next().expect("a first part");
        assert!(LAYERS.contains(&layer), "src/{layer} has no place in LAYERS of this test");
    }
}

#[test]
fn no_file_is_a_drawer() {
    for file in rust_files("src") {
        let stem = file.path.file_stem().expect("a file has a name").to_string_lossy();
        assert!(!DRAWERS.contains(&stem.as_ref()), "{} is no name", file.path.display());
    }
}

#[test]
fn code_is_searched_and_comments_are_not() {
    let text = "// no .await here\nlet a = b.await;\nlet c = 1; // async fn\n";
    assert_eq!(lines_with(text, NOT_SANS_IO), [(2, "let a = b.await;")]);
}

#[test]
fn imports_are_found_in_each_form() {
    let text = "use crate::proto::time;\nuse crate::{config, shard::{engine, clock}, upstream};\n\
                fn a() -> crate::auth::Acl { todo }\n// use crate::admin;\n";
    assert_eq!(modules_used(text), ["proto", "config", "shard", "upstream", "auth"]);
}
