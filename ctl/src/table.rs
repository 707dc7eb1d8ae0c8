//! Tables and quantities as people read them. Plain text: it goes into pipes and tickets as well.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

/// A column's name and whether it holds numbers.
pub type Column = (&'static str, bool);

/// Rows under a header, columns two spaces apart.
pub fn render<T: AsRef<str>>(columns: &[Column], rows: &[Vec<T>]) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    let aligned = |text: &str, number: bool| {
        Cell::new(text).set_alignment(if number {
            CellAlignment::Right
        } else {
            CellAlignment::Left
        })
    };
    table.set_header(
        columns
            .iter()
            .map(|(name, number)| aligned(name, *number))
            .collect::<Vec<_>>(),
    );
    for row in rows {
        let number = |at: usize| columns.get(at).is_some_and(|(_, number)| *number);
        table.add_row(
            row.iter()
                .enumerate()
                .map(|(at, text)| aligned(text.as_ref(), number(at)))
                .collect::<Vec<_>>(),
        );
    }
    unpadded(&table)
}

/// Rows under a header that is only known at run time; everything is text.
pub fn render_text(header: &[String], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(Cell::new).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.iter().map(Cell::new).collect::<Vec<_>>());
    }
    unpadded(&table)
}

/// The preset pads the first column by one space.
fn unpadded(table: &Table) -> String {
    let text = table.trim_fmt();
    let lines = text
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// What can't be shown.
pub const NONE: &str = "-";

/// A value, or [`NONE`].
pub fn or_none<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

/// Bytes with a binary unit.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of a unit, so that no floating point is needed.
    let (mut tenths, mut unit) = (bytes.saturating_mul(10) / 1024, 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A duration by its two greatest units.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_text_left() {
        let table = render(
            &[("NAME", false), ("SIZE", true)],
            &[vec!["a", "7"], vec!["longer", "12345"]],
        );
        assert_eq!(table, "NAME     SIZE\na           7\nlonger  12345");
    }

    #[test]
    fn quantities_are_short() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1536)],
            ["0 B", "1023 B", "1.5 KiB"]
        );
        assert_eq!(
            [bytes(1 << 20), bytes(u64::MAX)],
            ["1.0 MiB", "1677721.5 TiB"]
        );
        let of = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(
            [of(0), of(61), of(3_700), of(90_000)],
            ["0s", "1m 1s", "1h 1m", "1d 1h"]
        );
        assert_eq!(or_none(None::<u64>), "-");
    }
}
