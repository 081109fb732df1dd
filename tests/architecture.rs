//! Holds the source to the house of docs/ARCHITECTURE.md: who may import whom, what the pure parts
//! may not touch, how long a file may be.
//!
//! The table of levels is read from that document, so the two cannot drift apart. The source is read
//! as text: comments, strings and what is compiled for tests alone are blanked out first, and then
//! every path that begins with `crate::` or `super::` counts, wherever it stands.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// More lines than this are two modules.
const MOST_LINES: usize = 600;

/// Files that are longer for a reason that is written here.
const LONGER: &[(&str, &str)] = &[];

/// What decides and what translates takes the time, chance and bytes that it is given.
const PURE: &[&str] = &["chat", "wire"];
const IMPURE: &[&str] = &[
    "SystemTime::now",
    "Instant",
    "tokio",
    "tracing",
    "std::env",
    "std::fs",
    "std::io",
    "std::process",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "ToSocketAddrs",
    "make_rng",
    "ThreadRng",
    "println!",
    "eprintln!",
    "dbg!",
];

/// Where a stranger's bytes arrive: an `unwrap` there is a way to stop the daemon.
const EXPOSED: &[&str] = &["net", "wire", "control"];

/// A source file: its module, as a path below the crate, and its text without comments, strings and
/// tests.
struct Source {
    file: String,
    module: Vec<String>,
    code: String,
}

/// The level of each module that the document names.
type Levels = BTreeMap<Vec<String>, u32>;

#[test]
fn a_module_imports_only_from_below() {
    let levels = levels();
    let found = violations(&sources(), &levels);
    assert!(found.is_empty(), "against the table in docs/ARCHITECTURE.md:\n{}", found.join("\n"));
}

#[test]
fn the_document_has_a_row_for_each_module_and_no_other() {
    let levels = levels();
    let sources = sources();
    let tops: BTreeSet<&str> = sources.iter().map(|source| source.module[0].as_str()).collect();
    for top in &tops {
        assert!(levels.contains_key(&vec![top.to_string()]), "docs/ARCHITECTURE.md has no row for `{top}`");
    }
    for named in levels.keys() {
        let there = sources.iter().any(|source| source.module.starts_with(named));
        assert!(there, "docs/ARCHITECTURE.md has a row for `{}`, which is not there", named.join("::"));
    }
}

#[test]
fn what_decides_touches_no_clock_no_socket_no_file_and_no_log() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| PURE.contains(&source.module[0].as_str())) {
        for word in IMPURE {
            found.extend(lines_with(&source.code, word).map(|line| format!("{}:{line}: {word}", source.file)));
        }
    }
    assert!(found.is_empty(), "hand it in as a parameter instead:\n{}", found.join("\n"));
}

#[test]
fn nothing_is_unwrapped_where_strangers_are_heard() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| EXPOSED.contains(&source.module[0].as_str())) {
        found.extend(lines_with(&source.code, ".unwrap()").map(|line| format!("{}:{line}", source.file)));
    }
    assert!(found.is_empty(), "say what happens instead:\n{}", found.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    let mut found = Vec::new();
    for path in ["src", "tests", "benches"].iter().flat_map(|folder| rust_files(&root().join(folder))) {
        let file = relative(&path);
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        if lines > MOST_LINES && !LONGER.iter().any(|(known, _)| *known == file) {
            found.push(format!("{file}: {lines}"));
        }
    }
    assert!(found.is_empty(), "more than {MOST_LINES} lines; find the seam:\n{}", found.join("\n"));
}

// --- the reader itself -------------------------------------------------------------------------

#[test]
fn the_reader_finds_what_breaks_the_rule() {
    let levels: Levels = [("low", 0), ("low::part", 2), ("mid", 1), ("mate", 1), ("top", 3)]
        .map(|(name, level)| (name.split("::").map(str::to_owned).collect(), level))
        .into();
    let found = |module: &str, code: &str| {
        let module = module.split("::").map(str::to_owned).collect();
        let (code, _) = without_tests(&blanked(code));
        violations(&[Source { file: "f".into(), module, code }], &levels)
    };
    assert!(found("mid::a", "use crate::low::X; use super::b; use crate::mid::c;").is_empty());
    assert_eq!(found("mid", "use crate::top::X;").len(), 1);
    assert_eq!(found("mid", "use crate::{low, top::{self, X}};").len(), 2);
    assert_eq!(found("mid::a::b", "fn f() { super::super::super::top::g() }").len(), 1);
    assert_eq!(found("mid", "fn f(x: &crate::mate::X) {}").len(), 1, "a neighbour is not below");
    assert_eq!(found("mid", "use crate::low::{self, other, part::X};").len(), 1, "a part with a level of its own");
    assert_eq!(found("mid", "use crate::nowhere::X;").len(), 1);
    assert!(found("mid", "// crate::top\n/* crate::top /* */ */ const A: &str = \"crate::top\";").is_empty());
    assert!(found("mid", "const A: &str = r#\"\"crate::top\"#; const B: char = '\"'; fn f<'a>() {}").is_empty());
    assert!(found("mid", "#[cfg(test)]\nmod tests {\n use crate::top; fn f() { {} }\n}").is_empty());
    assert_eq!(found("mid", "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::top;").len(), 1);
}

#[test]
fn modules_for_tests_alone_are_left_out() {
    let (code, alone) = without_tests("#[cfg(test)]\npub(crate) mod testing;\n#[cfg(test)]\nmod tests;\nmod real;");
    assert_eq!(alone, ["testing", "tests"]);
    assert_eq!(code.trim(), "mod real;");
}

fn violations(sources: &[Source], levels: &Levels) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let Some((own, level)) = unit(&source.module, levels) else { continue };
        for path in paths(&source.code, &source.module) {
            let said = format!("{}: {} (level {level}) imports {}", source.file, own.join("::"), path.join("::"));
            match unit(&path, levels) {
                Some((other, _)) if other == own => {}
                Some((_, below)) if below < level => {}
                Some((_, other)) => found.push(format!("{said} (level {other})")),
                None => found.push(format!("{said}, which is in no row")),
            }
        }
    }
    found.dedup();
    found
}

/// The row that a path belongs to: the longest that it begins with.
fn unit<'a>(path: &[String], levels: &'a Levels) -> Option<(&'a [String], u32)> {
    let rows = levels.iter().filter(|(named, _)| path.starts_with(named));
    rows.max_by_key(|(named, _)| named.len()).map(|(named, level)| (named.as_slice(), *level))
}

/// Every path into this crate, from its root.
fn paths(code: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (word, names_crate) in [("crate", true), ("wschat", true), ("super", false)] {
        for (at, _) in code.match_indices(&format!("{word}::")) {
            // `super::super` is read from its first; `wschat` is the crate only for the programs.
            let before = code[..at].chars().next_back();
            let continues = before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$'));
            if continues || word == "wschat" && module[0] != "bin" {
                continue;
            }
            let mut base = module.to_vec();
            let mut rest = &code[at..];
            if names_crate {
                base.clear();
                rest = &rest[word.len() + 2..];
            }
            while let Some(outer) = rest.strip_prefix("super::") {
                base.pop();
                rest = outer;
            }
            tree(rest, &base, &mut found);
        }
    }
    found
}

/// Reads `a::b::{c, d::e}` and what else may follow `crate::`; gives back how much of it was read.
fn tree(code: &str, base: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = base.to_vec();
    let mut at = 0;
    loop {
        at += code[at..].len() - code[at..].trim_start().len();
        if code[at..].starts_with('{') {
            at += 1;
            loop {
                at += code[at..].len() - code[at..].trim_start_matches([',', ' ', '\n', '\t']).len();
                if at >= code.len() || code[at..].starts_with('}') {
                    return at + 1;
                }
                let read = tree(&code[at..], &path, found);
                // ` as other` and whatever else is not a path ends with the piece.
                let rest = code[at + read..].find([',', '}']).unwrap_or(code.len() - at - read);
                at += read + rest;
            }
        }
        let name: String = code[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        at += name.len();
        if !name.is_empty() && name != "self" {
            path.push(name);
        }
        match code[at..].strip_prefix("::") {
            Some(_) => at += 2,
            None => {
                found.push(path);
                return at;
            }
        }
    }
}

#[test]
fn the_journals_fields_are_those_of_the_manual() {
    let emitted: BTreeSet<String> = sources().iter().flat_map(|source| fields(&source.code)).collect();
    let manual = fs::read_to_string(root().join("docs/OPERATING.md")).unwrap();
    let table = manual.lines().skip_while(|line| *line != "| field | |").skip(2);
    let described: BTreeSet<String> = table
        .take_while(|line| line.starts_with('|'))
        .flat_map(|line| line.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect();
    assert!(described.len() > 10, "docs/OPERATING.md has lost its table");
    let missing: Vec<_> = emitted.difference(&described).collect();
    assert!(missing.is_empty(), "docs/OPERATING.md says nothing of the fields {missing:?}");
    let gone: Vec<_> = described.difference(&emitted).collect();
    assert!(gone.is_empty(), "docs/OPERATING.md describes fields that nothing has: {gone:?}");
}

#[test]
fn fields_are_found() {
    let code =
        blanked("tracing::info!(uid, who = %a(b, c), ?text, end.code, \"{x} {y}\", z, y = 1); tracing::warn!(\"{q}\")");
    assert_eq!(fields(&code), ["UID", "WHO", "TEXT", "CODE"]);
}

/// The names that the journal's fields have: of what stands before the message in each event.
fn fields(code: &str) -> Vec<String> {
    let mut fields = Vec::new();
    for (at, _) in code.match_indices("tracing::") {
        let rest = &code[at + "tracing::".len()..];
        let Some((_, rest)) = rest.split_once("!(").filter(|(name, _)| name.chars().all(|c| c.is_ascii_lowercase()))
        else {
            continue;
        };
        let (mut depth, mut piece) = (0, String::new());
        for c in rest.chars() {
            match c {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth -= 1,
                _ => {}
            }
            if depth < 0 || (depth == 0 && c == ',') {
                // The message has been blanked, and is what a macro's fields end with.
                let name = piece.split('=').next().unwrap_or_default().trim().trim_start_matches(['%', '?']);
                if name.is_empty() || depth < 0 {
                    break;
                }
                fields.push(name.rsplit('.').next().unwrap_or(name).to_uppercase());
                piece.clear();
            } else {
                piece.push(c);
            }
        }
    }
    fields
}

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

/// The table in docs/ARCHITECTURE.md: rows that begin with a number and a module in backquotes.
fn levels() -> Levels {
    let document = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let mut levels = Levels::new();
    for line in document.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, level, modules, ..] = cells.as_slice() else { continue };
        let Ok(level) = level.parse() else { continue };
        for name in modules.split('`').skip(1).step_by(2) {
            let old = levels.insert(name.split("::").map(str::to_owned).collect(), level);
            assert!(old.is_none(), "docs/ARCHITECTURE.md names `{name}` twice");
        }
    }
    assert!(levels.len() > 10, "docs/ARCHITECTURE.md has lost its table");
    levels
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut sources = Vec::new();
    let mut for_tests: Vec<Vec<String>> = Vec::new();
    for path in rust_files(&src) {
        let mut module: Vec<String> = path
            .strip_prefix(&src)
            .unwrap()
            .with_extension("")
            .components()
            .map(|part| part.as_os_str().to_str().unwrap().to_owned())
            .collect();
        module.pop_if(|last| last == "mod");
        if module == ["lib"] {
            continue;
        }
        let (code, alone) = without_tests(&blanked(&fs::read_to_string(&path).unwrap()));
        for_tests.extend(alone.into_iter().map(|name| [module.clone(), vec![name]].concat()));
        sources.push(Source { file: relative(&path), module, code });
    }
    sources.retain(|source| !for_tests.iter().any(|alone| source.module.starts_with(alone)));
    assert!(sources.len() > 40, "the source is not where it was");
    sources
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn lines_with<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let stands = move |line: &str| {
        line.match_indices(word).any(|(at, _)| {
            let joined = |c: Option<char>, edge: Option<char>| c.is_some_and(is_name) && edge.is_some_and(is_name);
            !joined(line[..at].chars().next_back(), word.chars().next())
                && !joined(line[at + word.len()..].chars().next(), word.chars().next_back())
        })
    };
    code.lines().enumerate().filter(move |(_, line)| stands(line)).map(|(number, _)| number + 1)
}

/// Comments, strings and characters become blanks; lines stay where they are.
fn blanked(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment(rest),
            '"' => string(rest),
            'r' if !out.ends_with(|c: char| c.is_alphanumeric() || c == '_') => raw_string(rest),
            '\'' => character(rest),
            _ => 0,
        };
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    out
}

fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// 0 where it is a name that begins with r, or a raw name.
fn raw_string(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let begin = hashes + 2;
    text[begin..].find(&end).map_or(text.len(), |at| begin + at + end.len())
}

/// 0 where it is a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[3..].find('\'').map_or(0, |at| 3 + at + 1),
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// Blanks what stands behind `#[cfg(test)]`; gives back the names of modules in files of their own.
fn without_tests(code: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let (mut out, mut alone, mut rest) = (String::new(), Vec::new(), code);
    while let Some(at) = rest.find(MARK) {
        let (before, item) = rest.split_at(at);
        out.push_str(before);
        let length = item_length(item);
        let text = &item[MARK.len()..length];
        if let Some((_, name)) = text.strip_suffix(';').and_then(|text| text.rsplit_once("mod ")) {
            alone.push(name.trim().to_owned());
        }
        out.extend(item[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &item[length..];
    }
    (out + rest, alone)
}

/// Up to the `;` or the closing brace that ends the item.
fn item_length(item: &str) -> usize {
    let mut depth = 0;
    for (at, c) in item.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}
