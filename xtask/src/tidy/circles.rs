//! No circle of files: of two files that use each other, neither can be read, tested or replaced without the other.
//!
//! A file uses another one where its code names a path that leads there, from the crate's root or from itself. Its unit
//! tests may.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::source::{SourceFile, Word, is_word, words};

/// The roots of the crates where the rule holds.
const RULED: [&str; 3] = ["privnet-userspace/src/", "privnet-userspace/demo/src/", "xtask/src/"];

/// What each module uses.
type Uses<'a> = BTreeMap<Vec<&'a str>, BTreeSet<Vec<&'a str>>>;

pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    RULED.into_iter().flat_map(|root| circles(&uses(files, root), root)).collect()
}

/// The modules of a crate, with the modules that each one uses.
fn uses<'a>(files: &'a [SourceFile], root: &str) -> Uses<'a> {
    let module = |file: &'a SourceFile| Some((module_of(file.path.strip_prefix(root)?.strip_suffix(".rs")?), file));
    let modules: BTreeMap<Vec<&str>, &SourceFile> = files.iter().filter_map(module).collect();
    let uses_of = |own: &Vec<&'a str>, file: &&'a SourceFile| -> BTreeSet<Vec<&'a str>> {
        let code = file.code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let roots = words(code).filter(|word| matches!(word.text, "crate" | "super" | "self"));
        let is_path = |word: &Word<'_>| !word.before.ends_with("::") && !word.before.ends_with("(in ");
        let named = roots.filter(is_path).flat_map(|word| paths(own, &word));
        named.filter_map(|path| longest(&path, &modules)).filter(|used| used != own).collect()
    };
    modules.iter().map(|(own, file)| (own.clone(), uses_of(own, file))).collect()
}

/// `a/b/mod` and `a/b` are the module a::b; `main` and `lib` are the root.
fn module_of(path: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = path.split('/').collect();
    if matches!(parts.last(), Some(&"mod" | &"main" | &"lib")) {
        parts.pop();
    }
    parts
}

/// The paths that begin at a root word, from the crate's root: one, or those of a group.
fn paths<'a>(own: &[&'a str], root: &Word<'a>) -> Vec<Vec<&'a str>> {
    let mut base: Vec<&str> = match root.text {
        "crate" => Vec::new(),
        "super" => own[..own.len().saturating_sub(1)].to_vec(),
        _ => own.to_vec(),
    };
    let mut rest = root.rest;
    while let Some(more) = rest.strip_prefix("::super") {
        base.pop();
        rest = more;
    }
    let Some(rest) = rest.strip_prefix("::") else { return Vec::new() };
    let mut found = Vec::new();
    tree(&base, rest, &mut found);
    found
}

/// Reads a path or a group behind `base`, and returns what follows it.
fn tree<'a>(base: &[&'a str], text: &'a str, found: &mut Vec<Vec<&'a str>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut inside) = text.strip_prefix('{') {
        loop {
            inside = inside.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            match inside.strip_prefix('}') {
                Some(rest) => return rest,
                None if inside.is_empty() => return inside,
                None => {
                    let rest = tree(base, inside, found);
                    // `as name`, or what is no path.
                    inside = rest.find([',', '}', '{']).map_or("", |at| &rest[at..]);
                }
            }
        }
    }
    let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
    let (segment, rest) = text.split_at(end);
    let path = [base, &[segment]].concat();
    match rest.strip_prefix("::") {
        Some(rest) => tree(&path, rest, found),
        None => {
            found.push(path);
            rest
        }
    }
}

/// The module that a path leads into.
fn longest<'a>(path: &[&'a str], modules: &BTreeMap<Vec<&'a str>, &SourceFile>) -> Option<Vec<&'a str>> {
    (1..=path.len()).rev().map(|length| path[..length].to_vec()).find(|module| modules.contains_key(module))
}

/// A finding for each module that uses itself by way of others.
fn circles(uses: &Uses<'_>, root: &str) -> Vec<Finding> {
    let reaches = |from: &Vec<&str>| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<_> = uses.get(from).into_iter().flatten().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module.clone()) {
                next.extend(uses.get(module).into_iter().flatten());
            }
        }
        seen
    };
    let reached: BTreeMap<_, _> = uses.keys().map(|module| (module, reaches(module))).collect();
    let in_circle = uses.keys().filter(|module| reached[module].contains(*module));
    let finding = |module: &Vec<&str>| {
        let others = reached[module].iter().filter(|other| *other != module && reached[other].contains(module));
        let others: Vec<String> = others.map(|other| other.join("::")).collect();
        Finding::new(&format!("{root}{}", module.join("/")), 0, format!("is in a circle with {}", others.join(", ")))
    };
    in_circle.map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files = files.iter().map(|(path, text)| SourceFile::new(format!("xtask/src/{path}.rs"), *text));
        let found = check(&files.collect::<Vec<_>>());
        found.into_iter().map(|finding| finding.path.replace("xtask/src/", "")).collect()
    }

    #[test]
    fn files_that_use_each_other_are_a_circle_and_a_chain_is_none() {
        assert_eq!(found(&[("a", "use crate::b::B;"), ("b", "use crate::c;"), ("c", "struct C;")]), [""; 0]);
        assert_eq!(found(&[("a", "use crate::b::B;"), ("b", "fn f() { crate::a::g() }")]), ["a", "b"]);
        let three = [("a", "use crate::b;"), ("b", "use super::c::C;"), ("c", "use crate::{d::D, a::{X, Y as Z}};")];
        assert_eq!(found(&three), ["a", "b", "c"]);
    }

    #[test]
    fn a_folder_and_its_files_are_modules_of_each_other() {
        let folder = |of_child: &'static str| [("a/mod", "mod b;\npub use self::b::B;"), ("a/b", of_child)];
        assert_eq!(found(&folder("use super::A;")), ["a", "a/b"]);
        assert_eq!(found(&folder("use super::super::c::C;")), [""; 0]);
    }

    #[test]
    fn the_path_of_a_visibility_and_another_crate_are_no_use() {
        assert_eq!(found(&[("a", "use crate::b::B;"), ("b", "pub(in crate::a) fn f() {}")]), [""; 0]);
        let tests = ["a", "b"].map(|own| {
            let other = if own == "a" { "b" } else { "a" };
            SourceFile::new(format!("tests/src/{own}.rs"), format!("use crate::{other}::X;"))
        });
        assert_eq!(check(&tests), []);
    }

    #[test]
    fn unit_tests_comments_and_fields_are_no_use() {
        let b = ("b", "use crate::a::A;");
        let tests = "struct A;\n#[cfg(test)]\nmod tests {\n    use crate::b::B;\n}\n";
        assert_eq!(found(&[("a", tests), b]), [""; 0]);
        assert_eq!(found(&[("a", "// crate::b\nfn f(&self) { self.b.crate_b() }"), b]), [""; 0]);
    }
}
