//! For tests alone: committed files that are made from the code.

use std::path::Path;

/// Demands that the committed file at `path` (from the project's folder) is `made`. With `UPDATE=1`
/// in the environment it is written instead:
///
/// ```sh
/// UPDATE=1 cargo test --lib -- config:: cli::
/// ```
pub fn committed(path: &str, made: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        let folder = file.parent().expect("a file lies in a folder");
        std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&file, made)).expect("the file can be written");
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(there == made, "{path} is not what the code makes; run: UPDATE=1 cargo test --lib -- config:: cli::");
}
