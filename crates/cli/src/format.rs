//! Numbers as people read them, and plain tables.

use comfy_table::{CellAlignment, Table};
pub use quern_inspect::words::escape;
pub use quern_inspect::words::{bytes, bytes_as, count, digits, shape};

/// As a word of a shell's command line.
pub fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:@=,+%^".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// A size in bytes: `8GiB`, `1.5 GB`, `600MiB`, `1000` (bytes). Units of any case; `G` is `GiB`.
///
/// # Errors
/// In words, if it is no size above 0.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => f64::from(1 << 10),
        "m" | "mib" => f64::from(1 << 20),
        "g" | "gib" => f64::from(1 << 30),
        "t" | "tib" => (1u64 << 40) as f64,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ if number.is_empty() => 0.0,
        _ => return Err(format!("{text}: {unit} is no unit of memory; take MiB, GiB, MB or GB")),
    };
    match number.parse::<f64>() {
        // Beyond 2^63 nobody has memory.
        Ok(number) if number * factor >= 1.0 && number * factor < 9.2e18 => Ok((number * factor) as u64),
        _ => Err(format!("{text} is no size; examples are 8GiB, 600MiB, 1.5GB")),
    }
}

/// A table with a header; the columns in `right` are right-aligned. Cells have one line each.
pub fn table(header: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.to_vec());
    let shown = |cell: String| escape::line(&cell).into_owned();
    table.add_rows(rows.into_iter().map(|row| row.into_iter().map(shown).collect::<Vec<_>>()));
    for &column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_read_in_all_usual_spellings() {
        for (text, bytes) in [
            ("8GiB", 8 << 30),
            ("8g", 8 << 30),
            ("600 MiB", 600 << 20),
            ("1.5GB", 1_500_000_000),
            ("0.5TiB", 1 << 39),
            ("4096", 4096),
            ("12b", 12),
        ] {
            assert_eq!(super::parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "0", "0.2B", "-1GiB", "1.2.3GiB", "8 apples", "1e5", "99999999TiB", "nan"] {
            assert!(super::parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn words_with_spaces_are_quoted() {
        assert_eq!(super::quoted("a/b-c.gguf"), "a/b-c.gguf");
        assert_eq!(super::quoted("my model"), "'my model'");
        assert_eq!(super::quoted("it's"), r"'it'\''s'");
    }
}
