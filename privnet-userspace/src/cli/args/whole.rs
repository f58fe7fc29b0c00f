//! Whole numbers.

/// Reads a whole number. Which ones the verb takes is for it to say; what is none is refused with the same bounds.
pub fn whole(first: u32, last: u32) -> impl Fn(&str) -> Result<u32, String> + Clone {
    move |text| text.parse().map_err(|_| format!("expected a whole number from {first} to {last}"))
}
