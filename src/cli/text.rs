//! Text for people: aligned tables, grouped numbers, durations, and colours on a terminal.
//!
//! Renders values. Writes to standard output in one place ([`print`]).

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    time::Duration,
};

use crate::{config::read_span, model::text::visible};

/// The colours of a text. Piped text has none, and `NO_COLOR` is obeyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// No colours.
    #[cfg(test)]
    pub const PLAIN: Self = Self { colour: false };

    /// The style for standard output; `no_colour` is the user's choice.
    #[must_use]
    pub fn of_stdout(no_colour: bool) -> Self {
        Self { colour: io::stdout().is_terminal() && !no_colour }
    }

    /// The style for standard error.
    #[must_use]
    pub fn of_stderr(no_colour: bool) -> Self {
        Self { colour: io::stderr().is_terminal() && !no_colour }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    #[must_use]
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    #[must_use]
    pub fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    #[must_use]
    pub fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }
}

/// The escape codes that a [`Style`] writes.
const PAINT: [&str; 6] = ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"];

/// The text with deceptive characters escaped. With `painted` the colours of a [`Style`] stay.
fn readable(text: &str, painted: bool) -> String {
    if !painted {
        return visible(text).into_owned();
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\x1b') {
        shown.push_str(&visible(&rest[..at]));
        // Any other escape sequence came from outside and is escaped.
        let code = PAINT.into_iter().find(|code| rest[at..].starts_with(code));
        let end = at + code.map_or(1, str::len);
        shown.push_str(&code.map_or_else(|| visible("\x1b"), Into::into));
        rest = &rest[end..];
    }
    shown.push_str(&visible(rest));
    shown
}

/// Writes to standard error, as [`print`] writes to standard output.
pub fn print_error(text: &str) {
    // Colours are kept only on a terminal, so a pipe never gets an escape code.
    eprintln!("{}", readable(text, io::stderr().is_terminal()));
}

/// Writes to standard output, and escapes there what comes from outside, whichever command shows it.
///
/// # Errors
/// When standard output is closed. A broken pipe is an ordinary end for a command, see [`super::main`].
pub fn print(text: &str) -> io::Result<()> {
    // `println!` would panic on a closed pipe.
    let mut out = io::stdout().lock();
    let is_terminal = out.is_terminal();
    out.write_all(readable(text, is_terminal).as_bytes())?;
    // A table without a final line break would stay in the buffer.
    out.flush()
}

/// The alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// A table of aligned columns, two spaces apart, indented by two.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty header makes a table without a header line.
    pub fn new<'a>(columns: impl IntoIterator<Item = (&'a str, Align)>) -> Self {
        Self { columns: columns.into_iter().map(|(name, align)| (name.to_owned(), align)).collect(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let cell = |cell: String| {
            // A line break in a cell would forge a row.
            if cell.contains(['\n', '\r', '\t']) {
                cell.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t")
            } else {
                cell
            }
        };
        self.rows.push(cells.into_iter().map(|text| cell(text.into())).collect());
    }

    #[must_use]
    pub fn render(&self, style: Style) -> String {
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| self.width(column)).collect();
        let mut text = String::new();
        if self.columns.iter().any(|(name, _)| !name.is_empty()) {
            let header: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
            let _ = writeln!(text, "{}", style.faint(&self.line(&header, &widths)));
        }
        for row in &self.rows {
            let _ = writeln!(text, "{}", self.line(row, &widths));
        }
        text
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([self.columns[column].0.chars().count()]).max().unwrap_or(0)
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, width), (_, align)) in cells.iter().zip(widths).zip(&self.columns) {
            line.push_str("  ");
            let _ = match align {
                Align::Left => write!(line, "{cell:<width$}"),
                Align::Right => write!(line, "{cell:>width$}"),
            };
        }
        // The last column may be empty, and trailing space breaks copied text.
        line.truncate(line.trim_end().len());
        line
    }
}

/// `12345` as `12,345`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 clan`, `2 clans`, `0 clans`.
#[must_use]
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A time span in its two largest units: `350 ms`, `10.6 s`, `4 min 12 s`, `3 h 05 min`, `2 d 4 h`.
#[must_use]
pub fn span(duration: Duration) -> String {
    let millis = duration.as_millis();
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{millis} ms"),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        // Seconds do not matter after an hour.
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Reads a time span: `90s`, `30m`, `12h`, `2d`, `1w`.
///
/// # Errors
/// When the text has another form.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number and a unit, such as 90s, 30m, 12h, 2d or 1w".to_owned();
    read_span(text).ok_or_else(expected)
}

/// `0.9871` as `98.7 %`.
#[must_use]
pub fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// `5300000` as `5.3 MB`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
pub fn bytes(number: u64) -> String {
    match number {
        0..1000 => format!("{number} B"),
        1000..1_000_000 => format!("{:.1} kB", number as f64 / 1e3),
        _ => format!("{:.1} MB", number as f64 / 1e6),
    }
}

/// The text on one line, at most this many characters.
#[must_use]
pub fn short(text: &str, most: usize) -> String {
    let clean: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // After the words are joined, since line breaks are control characters, too.
    let clean: String = clean.chars().filter(|character| !character.is_control()).collect();
    match clean.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &clean[..end]),
        None => clean,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_groups_thousands() {
        let shown: Vec<String> = [0, 7, 999, 1000, 123_456, 1_000_000].map(count).to_vec();
        assert_eq!(shown, ["0", "7", "999", "1,000", "123,456", "1,000,000"]);
    }

    #[test]
    fn span_shows_two_largest_units() {
        let shown: Vec<String> =
            [0, 350, 10_640, 252_000, 11_100_000, 187_200_000].map(|ms| span(Duration::from_millis(ms))).to_vec();
        assert_eq!(shown, ["0 ms", "350 ms", "10.6 s", "4 min 12 s", "3 h 05 min", "2 d 4 h"]);
    }

    #[test]
    fn table_aligns_columns_without_trailing_space() {
        let mut table = Table::new([("kind", Align::Left), ("stored", Align::Right), ("", Align::Left)]);
        table.row(["clan", "1,234,567", ""]);
        table.row(["pläyer", "8", "note"]);
        assert_eq!(table.render(Style::PLAIN), "  kind       stored\n  clan    1,234,567\n  pläyer          8  note\n");
    }

    #[test]
    fn plain_style_writes_no_escapes() {
        assert_eq!(Style::PLAIN.bad("x"), "x");
        assert_eq!(Style { colour: true }.bad("x"), "\x1b[31mx\x1b[0m");
        assert_eq!(Style { colour: true }.bad(""), "");
    }

    #[test]
    fn terminal_gets_only_our_colours() {
        let text = format!("{} \x1b[2J\u{202e}\x1b]0;x\x07\n", Style { colour: true }.bad("x"));
        assert_eq!(readable(&text, true), "\x1b[31mx\x1b[0m \\u001b[2J\\u202e\\u001b]0;x\\u0007\n");
        assert_eq!(readable("\x1b[31mx", false), "\\u001b[31mx");
        let mut table = Table::new([("", Align::Left)]);
        table.row(["a\nerror: b"]);
        assert_eq!(table.render(Style::PLAIN), "  a\\nerror: b\n");
    }

    #[test]
    fn short_drops_control_characters_and_line_breaks() {
        assert_eq!(short("a\n  b\x1b[31mc", 20), "a b[31mc");
        assert_eq!(short("äöü", 2), "äö...");
    }
}
