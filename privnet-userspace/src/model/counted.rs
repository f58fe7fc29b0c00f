//! Numbers in sentences.

/// `1 record`, `2 records`: a number and its noun, for the nouns whose plural ends in s.
pub fn counted(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_every_other_number_is_plural() {
        for (number, text) in [(0, "0 records"), (1, "1 record"), (2, "2 records")] {
            assert_eq!(counted(number, "record"), text);
        }
    }
}
