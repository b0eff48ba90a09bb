//! The project's own source files, for tests that read them.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the `gateway` crate.
pub(crate) fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A source file: where it is and what is in it.
pub(crate) struct Source {
    /// Relative to the folder of the crate.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// Every Rust file under `folder` of the crate, in order of path; none if the folder is not there.
pub(crate) fn rust_files(folder: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    walk(&crate_folder().join(folder), &mut |path, is_folder| {
        if !is_folder && path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path.to_path_buf());
        }
    });
    paths.sort();
    paths.into_iter().map(read).collect()
}

/// Every folder under `folder` of the crate, relative to `folder`, with `/` between names.
///
/// Without those that are there for a `tests.rs` alone.
pub(crate) fn folders(folder: &str) -> Vec<String> {
    let root = crate_folder().join(folder);
    let mut found = Vec::new();
    walk(&root, &mut |path, is_folder| {
        if is_folder && !holds_only_tests(path) {
            let relative = path.strip_prefix(&root).expect("it was found there");
            found.push(relative.display().to_string());
        }
    });
    found.sort();
    found
}

fn holds_only_tests(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).expect("the folder can be read");
    entries.map(|entry| entry.expect("the folder can be read").file_name()).eq(["tests.rs"])
}

fn read(path: PathBuf) -> Source {
    let text = fs::read_to_string(&path).expect("a source file can be read");
    let path = path.strip_prefix(crate_folder()).expect("it was found there").to_path_buf();
    Source { path, text }
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path, bool)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("the folder can be read").path();
        let is_folder = path.is_dir();
        visit(&path, is_folder);
        if is_folder {
            walk(&path, visit);
        }
    }
}
