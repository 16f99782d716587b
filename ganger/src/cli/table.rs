//! Tables that fit a terminal.

use std::env;

use comfy_table::{Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};

use super::failure::Failure;
use super::out::{Out, one_line};

/// A table: a heading for each column, then rows.
pub(crate) struct Rows {
    table: Table,
    right: Vec<usize>,
    whole: Vec<usize>,
}

impl Rows {
    /// A table with these headings.
    pub(crate) fn new(out: &Out, headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let bold = out.is_terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        table.set_content_arrangement(match out.is_terminal {
            true => ContentArrangement::Dynamic,
            // Whoever reads a pipe wants whole lines.
            false => ContentArrangement::Disabled,
        });
        if !bold {
            table.force_no_tty();
        }
        if out.is_terminal
            && let Some(width) = terminal_width()
        {
            table.set_width(width);
        }
        let heading = |text: &&str| {
            let cell = Cell::new(text.to_uppercase());
            if bold { cell.add_attribute(Attribute::Bold) } else { cell }
        };
        table.set_header(headings.iter().map(heading));
        Rows { table, right: Vec::new(), whole: Vec::new() }
    }

    /// Columns of numbers, by their places.
    pub(crate) fn right(mut self, columns: &[usize]) -> Self {
        self.right = columns.to_vec();
        self
    }

    /// Columns that are never broken, by their places: what people copy.
    pub(crate) fn whole(mut self, columns: &[usize]) -> Self {
        self.whole = columns.to_vec();
        self
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.table.add_row(cells.into_iter().map(|text| Cell::new(one_line(&text))));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.row_count() == 0
    }

    /// Prints it; nothing if it has no rows.
    pub(crate) fn print(mut self, out: &mut Out) -> Result<(), Failure> {
        if self.is_empty() {
            return Ok(());
        }
        for (at, column) in self.table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if self.whole.contains(&at) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
            if self.right.contains(&at) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for line in self.table.lines() {
            out.line(line.trim_end())?;
        }
        Ok(())
    }
}

fn terminal_width() -> Option<u16> {
    env::var("COLUMNS").ok()?.parse().ok()
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One or many: `1 job`, `2,000 jobs`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", grouped(number))
}

/// How long ago, or how long until: `3s`, `5m`, `2h`, `4d`.
pub(crate) fn span(millis: i64) -> String {
    let secs = millis.unsigned_abs() / 1000;
    match secs {
        0..60 => format!("{secs}s"),
        60..3600 => format!("{}m", secs / 60),
        3600..86_400 => format!("{}h", secs / 3600),
        _ => format!("{}d", secs / 86_400),
    }
}

/// A run's time: `850µs`, `12ms`, `3.4s`, `5m12s`.
pub(crate) fn took(nanos: u64) -> String {
    match nanos {
        0..1_000_000 => format!("{}µs", nanos / 1_000),
        1_000_000..1_000_000_000 => format!("{}ms", nanos / 1_000_000),
        1_000_000_000..60_000_000_000 => format!("{:.1}s", nanos as f64 / 1e9),
        _ => format!("{}m{:02}s", nanos / 60_000_000_000, nanos / 1_000_000_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            (grouped(0), grouped(999), grouped(1_234_567)),
            ("0".into(), "999".into(), "1,234,567".into())
        );
        assert_eq!((counted(1, "job"), counted(2_000, "job")), ("1 job".into(), "2,000 jobs".into()));
        assert_eq!(
            (took(850_000), took(3_400_000_000), took(312_000_000_000)),
            ("850µs".into(), "3.4s".into(), "5m12s".into())
        );
        assert_eq!((span(-59_000), span(3_600_000)), ("59s".into(), "1h".into()));
    }
}
