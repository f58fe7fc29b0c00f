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
}

impl Executable {
    /// The last part of its path; for a test, this ends in a hash.
    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
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
            Some(Executable { path, manifest })
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
            r#"{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml","filenames":["/t/liba.rlib"],"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml","executable":"/t/with \"quotes\"/x-1f"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let path = PathBuf::from("/t/with \"quotes\"/x-1f");
        assert_eq!(executables(messages), [Executable { path, manifest: "/p/Cargo.toml".into() }]);
        assert_eq!(executables(messages)[0].file_name(), "x-1f");
    }
}
