//! Tables that fit a terminal.

use std::env;

use comfy_table::{
    Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets,
};

use super::failure::Failure;
use super::out::{Out, one_line};

/// A table: a heading for each column, then rows.
pub(crate) struct Rows {
    table: Table,
    right: Vec<usize>,
    whole: Vec<usize>,
    /// How wide each column's widest cell is, without its heading.
    widest: Vec<usize>,
    is_terminal: bool,
}

/// A column of a terminal's table is not made narrower than this: the terminal breaks what is too wide for it, which
/// reads better than columns of single letters.
const NARROWEST: usize = 10;

/// The space after each column.
const GAP: u16 = 2;

impl Rows {
    /// A table with these headings.
    pub(crate) fn new(out: &Out, headings: &[&str]) -> Self {
        Rows::shaped(out.is_terminal, terminal_width(), headings)
    }

    fn shaped(is_terminal: bool, width: Option<u16>, headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let bold = is_terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        table.set_content_arrangement(match is_terminal {
            true => ContentArrangement::Dynamic,
            // Whoever reads a pipe wants whole lines.
            false => ContentArrangement::Disabled,
        });
        if !bold {
            table.force_no_tty();
        }
        if is_terminal && let Some(width) = width {
            table.set_width(width);
        }
        let heading = |text: &&str| {
            let cell = Cell::new(text.to_uppercase());
            if bold { cell.add_attribute(Attribute::Bold) } else { cell }
        };
        table.set_header(headings.iter().map(heading));
        let widest = vec![0; headings.len()];
        Rows { table, right: Vec::new(), whole: Vec::new(), widest, is_terminal }
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
        let cells: Vec<String> = cells.into_iter().map(|text| one_line(&text)).collect();
        for (widest, text) in self.widest.iter_mut().zip(&cells) {
            *widest = (*widest).max(text.chars().count());
        }
        self.table.add_row(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.row_count() == 0
    }

    /// Prints it; nothing if it has no rows.
    pub(crate) fn print(self, out: &mut Out) -> Result<(), Failure> {
        self.lines().into_iter().try_for_each(|line| out.line(line))
    }

    fn lines(mut self) -> Vec<String> {
        if self.is_empty() {
            return Vec::new();
        }
        for (at, column) in self.table.column_iter_mut().enumerate() {
            column.set_padding((0, GAP));
            let widest = self.widest.get(at).copied().unwrap_or_default();
            if self.is_terminal && widest == 0 {
                // Its room is for the others.
                column.set_constraint(ColumnConstraint::Hidden);
            } else if self.whole.contains(&at) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            } else {
                let least = widest.min(NARROWEST) as u16 + GAP;
                column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least)));
            }
            if self.right.contains(&at) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self.table.lines().map(|line| line.trim_end().to_owned()).collect()
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

    fn jobs(is_terminal: bool, width: u16) -> Vec<String> {
        let mut rows =
            Rows::shaped(is_terminal, Some(width), &["id", "state", "type", "name", "what"]).whole(&[0, 1]);
        let id = "01a20f50-72d9-75a2-aefd-3f1b136fc8b1";
        rows.row([id, "done", "http", "the deferred one", ""].map(str::to_owned));
        rows.lines()
    }

    #[test]
    fn a_narrow_terminal_breaks_lines_rather_than_words() {
        for width in [40, 80, 200] {
            let lines = jobs(true, width);
            assert!(lines[1].contains("01a20f50-72d9-75a2-aefd-3f1b136fc8b1  done   http"), "{lines:#?}");
            assert!(lines.iter().any(|line| line.contains("deferred")), "{lines:#?}");
            assert!(lines.len() <= 4, "{lines:#?}");
        }
    }

    #[test]
    fn a_column_with_nothing_in_it_is_left_out_on_a_terminal_and_stays_for_programs() {
        assert!(!jobs(true, 80)[0].contains("WHAT"));
        assert!(jobs(false, 80)[0].contains("WHAT"));
    }

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
