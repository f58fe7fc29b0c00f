//! A file of the tree, and its code without comments and strings.

/// A text file.
pub struct SourceFile {
    /// Relative to the root, with `/`.
    pub path: String,
    /// As it is.
    pub text: String,
    /// For a Rust file: the text with the inside of comments, strings and characters replaced by spaces; lines stay.
    pub code: String,
}

/// An identifier or keyword in code.
pub struct Word<'a> {
    /// The word.
    pub text: &'a str,
    /// Counted from 1.
    pub line: usize,
    /// The code behind it.
    pub rest: &'a str,
    /// The code before it.
    pub before: &'a str,
}

impl SourceFile {
    /// Reads `text`.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let code = if path.ends_with(".rs") { blanked(&text) } else { String::new() };
        Self { path, text, code }
    }

    /// Whether this is Rust.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The words of the code, in order.
    pub fn words(&self) -> impl Iterator<Item = Word<'_>> {
        words(&self.code)
    }
}

/// The words of `code`.
pub fn words(code: &str) -> impl Iterator<Item = Word<'_>> {
    let mut position = 0;
    let mut line = 1;
    std::iter::from_fn(move || {
        let skipped = code[position..].find(is_word)?;
        let start = position + skipped;
        line += code[position..start].matches('\n').count();
        let end = code[start..].find(|c| !is_word(c)).map_or(code.len(), |length| start + length);
        position = end;
        Some(Word { text: &code[start..end], line, rest: &code[end..], before: &code[..start] })
    })
}

/// Whether `character` is part of an identifier.
pub fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Replaces the inside of comments, strings and characters by spaces.
fn blanked(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut position = 0;
    while let Some(&character) = characters.get(position) {
        let end = match token(&characters, position) {
            Some(end) => end,
            None => {
                code.push(character);
                position += 1;
                continue;
            }
        };
        for &inside in &characters[position..end] {
            code.push(if inside == '\n' { '\n' } else { ' ' });
        }
        position = end;
    }
    code
}

/// The end of the comment, string or character that starts at `start`; `None` if none does.
fn token(text: &[char], start: usize) -> Option<usize> {
    let at = |offset: usize| text.get(start + offset).copied();
    match (at(0)?, at(1)) {
        ('/', Some('/')) => Some(find(text, start, |rest| rest[0] == '\n')),
        ('/', Some('*')) => Some(end_of_block_comment(text, start)),
        ('"', _) => Some(end_of_string(text, start + 1)),
        ('r', Some('"' | '#')) if !follows_word(text, start) => end_of_raw_string(text, start),
        ('\'', Some('\\')) => Some(find(text, start + 3, |rest| rest[0] == '\'') + 1),
        ('\'', Some(_)) if at(2) == Some('\'') => Some(start + 3),
        _ => None,
    }
}

/// The first position from `start` on where `matches` holds, or the end.
fn find(text: &[char], start: usize, matches: impl Fn(&[char]) -> bool) -> usize {
    (start..text.len()).find(|position| matches(&text[*position..])).unwrap_or(text.len())
}

fn end_of_block_comment(text: &[char], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut position = start;
    while position < text.len() {
        match (text[position], text.get(position + 1)) {
            ('/', Some('*')) => (depth, position) = (depth + 1, position + 2),
            ('*', Some('/')) => (depth, position) = (depth - 1, position + 2),
            _ => position += 1,
        }
        if depth == 0 {
            return position;
        }
    }
    text.len()
}

fn end_of_string(text: &[char], start: usize) -> usize {
    let mut position = start;
    while position < text.len() {
        match text[position] {
            '"' => return position + 1,
            '\\' => position += 2,
            _ => position += 1,
        }
    }
    text.len()
}

fn end_of_raw_string(text: &[char], start: usize) -> Option<usize> {
    let hashes = text[start + 1..].iter().take_while(|character| **character == '#').count();
    let open = start + 1 + hashes;
    if text.get(open) != Some(&'"') {
        return None; // a raw identifier, r#type
    }
    let is_end = |rest: &[char]| rest[0] == '"' && rest[1..].iter().take_while(|c| **c == '#').count() >= hashes;
    Some((find(text, open + 1, is_end) + 1 + hashes).min(text.len()))
}

/// Whether the `r` at `start` ends a word; the prefixes `br` and `cr` of strings are no words.
fn follows_word(text: &[char], start: usize) -> bool {
    let before = |offset: usize| start.checked_sub(offset).map(|position| text[position]);
    match before(1) {
        Some('b' | 'c') => before(2).is_some_and(is_word),
        Some(character) => is_word(character),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Vec<String> {
        SourceFile::new("a.rs", text).words().map(|word| word.text.to_owned()).collect()
    }

    #[test]
    fn comments_strings_and_characters_are_no_code() {
        assert_eq!(code("//! bad\nlet a = 1; // bad"), ["let", "a", "1"]);
        assert_eq!(code("a /* bad /* bad */ bad */ b"), ["a", "b"]);
        assert_eq!(code(r#"a("bad \" bad"); b"#), ["a", "b"]);
        assert_eq!(code("a(r#\"bad \" bad\"#, br\"bad\\\"); c"), ["a", "b", "c"]);
        assert_eq!(code(r"a('x', '\'', '\u{1f}', 'c')"), ["a"]);
    }

    #[test]
    fn lifetimes_raw_identifiers_and_names_that_end_in_r_are_code() {
        assert_eq!(code("fn f<'a>(x: &'a str) -> &'a str"), ["fn", "f", "a", "x", "a", "str", "a", "str"]);
        assert_eq!(code("r#type + for"), ["r", "type", "for"]);
        assert_eq!(code("letter\"bad\" z"), ["letter", "z"]);
    }

    #[test]
    fn a_word_knows_its_line_also_behind_a_string_of_several() {
        let file = SourceFile::new("a.rs", "let a = \"x\ny\n\";\nfound");
        assert_eq!(file.words().last().map(|word| (word.text, word.line)), Some(("found", 4)));
    }
}
