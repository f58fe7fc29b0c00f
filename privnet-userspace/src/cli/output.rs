//! What is printed and where: data to stdout, errors to stderr, each for people or for programs.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::args::Format;
use super::human;
use crate::api::ErrorBody;
use crate::api::{ControlError, ErrorCode};

/// Prints `value` as JSON, or the text that `table` makes.
///
/// # Errors
/// When stdout cannot be written. A reader that went away is no error.
pub fn print<T: Serialize + ?Sized>(
    format: Format,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<(), ControlError> {
    let text = match format {
        Format::Table => table(value),
        Format::Json => {
            let mut json = serde_json::to_string_pretty(value).map_err(|error| unwritable(&error))?;
            json.push('\n');
            json
        }
    };
    print_text(&text)
}

/// Prints `text` to stdout.
///
/// # Errors
/// When stdout cannot be written. A reader that went away is no error.
pub fn print_text(text: &str) -> Result<(), ControlError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unwritable(&error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints an error to stderr. A failure of that cannot be reported.
pub fn print_error(format: Format, error: &ControlError) {
    let text = match format {
        Format::Table if error.remedy.is_empty() => format!("error: {}\n", error.message),
        Format::Table => format!("error: {}\n  remedy: {}\n", error.message, error.remedy),
        Format::Json => {
            let body = ErrorBody { error: error.clone() };
            serde_json::to_string(&body).map_or_else(|error| format!("error: {error}\n"), |json| json + "\n")
        }
    };
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Says to a person, on stderr, that what was printed is not current. Programs have it in the JSON.
pub fn print_age(format: Format, age_seconds: Option<u64>) {
    if let (Format::Table, Some(age)) = (format, age_seconds) {
        let age = human::duration(age);
        let _ = writeln!(io::stderr().lock(), "note: the store answered last {age} ago, and this is from then");
    }
}

/// Rows under a header, in columns without borders; two spaces apart, without colours. Lines fold at the width of the
/// terminal, and nowhere when stdout is none.
#[must_use]
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header).add_rows(rows);
    lines(table, terminal_width())
}

/// Names with their values, one a line, folded as a table.
#[must_use]
pub fn fields(fields: &[(&str, String)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.add_rows(fields.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]));
    lines(table, terminal_width())
}

/// How many columns the terminal has that stdout leads to: as its user says with `COLUMNS`, else as the kernel says.
fn terminal_width() -> Option<u16> {
    let of_kernel = rustix::termios::tcgetwinsize(io::stdout()).ok()?.ws_col;
    width(of_kernel, std::env::var("COLUMNS").ok().as_deref())
}

fn width(of_kernel: u16, of_user: Option<&str>) -> Option<u16> {
    let of_user = of_user.and_then(|columns| columns.trim().parse().ok());
    // A serial line says 0.
    [of_user, Some(of_kernel)].into_iter().flatten().find(|columns| *columns > 0)
}

fn lines(mut table: Table, width: Option<u16>) -> String {
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn unwritable(error: &dyn std::fmt::Display) -> ControlError {
    ControlError::new(
        ErrorCode::Internal,
        format!("cannot write the result: {error}"),
        "check the file or pipe that stdout leads to",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_no_borders_no_colours_and_no_trailing_blanks() {
        let text =
            table(&["NAME", "VNI"], [vec!["shop".to_owned(), "1".to_owned()], vec!["a".to_owned(), String::new()]]);
        assert_eq!(text, "NAME  VNI\nshop  1\na\n");
    }

    #[test]
    fn a_table_folds_at_the_width_of_a_terminal_and_nowhere_else() {
        let remedy = "load the module with `modprobe wireguard`, or use a kernel that has it";
        let folded = |width| {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).add_row(vec!["warn", "wireguard_kernel", remedy]);
            lines(table, width)
        };
        assert_eq!(folded(None), format!("warn  wireguard_kernel  {remedy}\n"));
        let text = folded(Some(60));
        assert!(text.lines().count() > 1 && text.lines().all(|line| line.chars().count() <= 60), "{text}");
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words.join(" "), format!("warn wireguard_kernel {remedy}"), "no word is lost or cut");
    }

    #[test]
    fn the_width_is_the_users_else_the_terminals() {
        for (of_kernel, of_user, expected) in [
            (80, None, Some(80)),
            (80, Some("60"), Some(60)),
            (0, Some("60"), Some(60)),
            (80, Some("0"), Some(80)),
            (80, Some("wide"), Some(80)),
            (0, None, None),
        ] {
            assert_eq!(width(of_kernel, of_user), expected, "{of_kernel} {of_user:?}");
        }
    }

    #[test]
    fn fields_are_aligned() {
        assert_eq!(fields(&[("a", "1".to_owned()), ("long", "2".to_owned())]), "a     1\nlong  2\n");
    }
}
