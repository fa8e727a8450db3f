//! Text for people: tables, and numbers that fit their columns.

use crate::kernel::wall_clock;

/// Columns of text; the first line has the headings. Columns of numbers are aligned right.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let numbers: Vec<bool> = (0..headings.len())
        .map(|column| !rows.is_empty() && rows.iter().all(|row| is_number(&row[column])))
        .collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().enumerate().map(|(column, cell)| {
            let width = widths[column];
            if numbers[column] { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(headings.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

/// Whether a cell is right-aligned: `12`, `1.5k`, `16.7%`, `2/3`, `-`.
fn is_number(cell: &str) -> bool {
    let cell = cell.trim_end_matches(['k', 'M', 'G', 'T', 'P', 'E', '%']);
    cell == "-"
        || cell.starts_with(|c: char| c.is_ascii_digit())
            && cell.chars().all(|c| c.is_ascii_digit() || ".%/-".contains(c))
            && cell.matches('.').count() < 2
}

/// A number in at most five characters, more than four digits with a decimal unit: `9999`, `12.3k`,
/// `1.23M`.
pub fn count(number: u64) -> String {
    if number < 10_000 { number.to_string() } else { scaled(number as f64) }
}

/// As [`count`], for a rate; small ones to a tenth: `0.2`, `12`, `12.3k`. `-` for none.
pub fn rate(rate: Option<f64>) -> String {
    match rate {
        None => "-".into(),
        Some(0.0) => "0".into(),
        Some(rate) if rate < 9.95 => format!("{rate:.1}"),
        Some(rate) if rate < 9_999.5 => format!("{rate:.0}"),
        Some(rate) => scaled(rate),
    }
}

fn scaled(number: f64) -> String {
    const UNITS: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    let mut value = number;
    for unit in UNITS {
        value /= 1000.0;
        // As rounded: 999,950 is 1.00M, not 1000k.
        if value < 9.995 {
            return format!("{value:.2}{unit}");
        }
        if value < 99.95 {
            return format!("{value:.1}{unit}");
        }
        if value < 999.5 {
            return format!("{value:.0}{unit}");
        }
    }
    format!("{value:.0}E")
}

/// Seconds in at most five characters, in the one or two largest units: `12s`, `3m12s`, `2h5m`,
/// `3d4h`, `812d`.
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, 1..10) => format!("{minutes}m{}s", seconds % 60),
        (0, 0, _) => format!("{minutes}m"),
        (0, 1..10, _) => format!("{hours}h{minutes}m"),
        (0, _, _) => format!("{hours}h"),
        (1..10, _, _) => format!("{days}d{hours}h"),
        _ => format!("{days}d"),
    }
}

/// The time since `since`, seconds since 1970, as [`span`]. `-` for 0, which is unknown.
pub fn ago(since: u64) -> String {
    if since == 0 { "-".into() } else { span(wall_clock::now().saturating_sub(since)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_aligned_right() {
        let rows = vec![vec!["web".into(), "5".into()], vec!["dns".into(), "1.20k".into()]];
        assert_eq!(
            table(&["name", "packets"], &rows),
            "name  packets\nweb         5\ndns     1.20k"
        );
    }

    #[test]
    fn addresses_are_not_aligned_right() {
        let rows =
            vec![vec!["10.0.0.1".into(), "1/2".into()], vec!["10.0.0.10".into(), "-".into()]];
        assert_eq!(table(&["a", "up"], &rows), "a           up\n10.0.0.1   1/2\n10.0.0.10    -");
    }

    #[test]
    fn an_empty_table_has_only_headings() {
        assert_eq!(table(&["name", "packets"], &[]), "name  packets");
    }

    #[test]
    fn numbers_fit_five_characters() {
        for (number, text) in [
            (0, "0"),
            (9_999, "9999"),
            (10_000, "10.0k"),
            (99_960, "100k"),
            (999_400, "999k"),
            (999_600, "1.00M"),
            (12_345_678, "12.3M"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(count(number), text);
        }
        let mut number = 1_u64;
        while let Some(next) = number.checked_mul(3) {
            number = next;
            assert!(count(number).len() <= 5, "{number}: {}", count(number));
            assert!(rate(Some(number as f64)).len() <= 5);
        }
    }

    #[test]
    fn small_rates_are_not_rounded_to_zero() {
        let texts = [0.0, 0.1, 9.94, 9.96, 42.4, 9_999.6].map(|value| rate(Some(value)));
        assert_eq!(texts, ["0", "0.1", "9.9", "10", "42", "10.0k"]);
        assert_eq!(rate(None), "-");
    }

    #[test]
    fn spans_fit_five_characters() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (192, "3m12s"),
            (3_599, "59m"),
            (7_500, "2h5m"),
            (86_399, "23h"),
            (273_600, "3d4h"),
            (864_000, "10d"),
        ] {
            assert_eq!(span(seconds), text);
        }
        assert!((0..400_000).step_by(37).all(|seconds| span(seconds).len() <= 5));
    }
}
