//! What cargo says about the executables it built, one JSON object per line.
//!
//! Reads the two fields that tasks need, and nothing else; a JSON library would double the time to build xtask.

use std::path::PathBuf;

/// An executable that cargo built or found up to date.
#[derive(Debug, PartialEq, Eq)]
pub struct Executable {
    /// Where it is.
    pub path: PathBuf,
    /// The manifest of its package.
    pub manifest: PathBuf,
    /// Whether it runs tests.
    pub is_test: bool,
}

impl Executable {
    /// The last part of its path; for a test, this ends in a hash.
    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What cargo named a test for: its file name without the hash.
    pub fn stem(&self) -> String {
        let name = self.file_name();
        name.rsplit_once('-').map_or(name.clone(), |(stem, _hash)| stem.to_owned())
    }
}

/// The executables in `cargo build --message-format=json`.
pub fn executables(messages: &str) -> Vec<Executable> {
    messages
        .lines()
        .filter(|line| line.contains(r#""reason":"compiler-artifact""#))
        .filter_map(|line| {
            let path = string_after(line, r#""executable":"#)?.into();
            let manifest = string_after(line, r#""manifest_path":"#)?.into();
            let profile = &line[line.find(r#""profile":{"#)?..];
            let is_test = profile[..profile.find('}')?].contains(r#""test":true"#);
            Some(Executable { path, manifest, is_test })
        })
        .collect()
}

/// The JSON string that follows `key`; `None` if something else (`null`) does.
fn string_after(line: &str, key: &str) -> Option<String> {
    let rest = &line[line.find(key)? + key.len()..];
    let mut characters = rest.strip_prefix('"')?.chars();
    let mut value = String::new();
    loop {
        match characters.next()? {
            '"' => return Some(value),
            // A path holds no other escape than these two.
            '\\' => value.push(characters.next()?),
            character => value.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_among_libraries_and_other_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml","target":{"test":true},"#,
            r#""profile":{"test":false},"filenames":["/t/liba.rlib"],"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml","target":{"test":true},"#,
            r#""profile":{"opt_level":"0","test":false},"executable":"/t/with \"quotes\"/x"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml","target":{"test":true},"#,
            r#""profile":{"opt_level":"0","test":true},"executable":"/t/y-1f"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let found = executables(messages);
        assert_eq!(found.iter().map(Executable::file_name).collect::<Vec<_>>(), ["x", "y-1f"]);
        assert_eq!(found[0].path, PathBuf::from("/t/with \"quotes\"/x"));
        assert_eq!(found.iter().map(|executable| executable.is_test).collect::<Vec<_>>(), [false, true]);
    }
}
