//! Figures as text.

/// A count: in binary units where it is a whole number of them, else with commas.
pub(crate) fn count(number: u64) -> String {
    match number {
        0 => "0".to_owned(),
        _ if number.is_multiple_of(1 << 20) => format!("{} Mi", number >> 20),
        _ if number.is_multiple_of(1 << 10) => format!("{} Ki", number >> 10),
        _ => commas(&number.to_string()),
    }
}

/// A figure of this unit, with reasonable precision.
pub(crate) fn figure(value: f64, unit: &str) -> String {
    let text = match unit {
        "bytes" => format!("{value:.0}"),
        "ms" if value.abs() < 99.995 => format!("{value:.2}"),
        _ if value.abs() >= 999.95 => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    };
    commas(&text)
}

/// A comma before every third digit of the whole part.
fn commas(number: &str) -> String {
    let (sign, rest) = number.strip_prefix('-').map_or(("", number), |rest| ("-", rest));
    let (whole, fraction) = rest.split_at(rest.find('.').unwrap_or(rest.len()));
    let mut text = sign.to_owned();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_readable() {
        assert_eq!(count(1), "1");
        assert_eq!(count(65_536), "64 Ki");
        assert_eq!(count(8 << 20), "8 Mi");
        assert_eq!(count(10_000), "10,000");
        assert_eq!(figure(49.26, "ns/packet"), "49.3");
        assert_eq!(figure(999.96, "ns/packet"), "1,000");
        assert_eq!(figure(-1234.5, ""), "-1,234");
        assert_eq!(figure(2907.536, "ms"), "2,908");
        assert_eq!(figure(262_148.4, "bytes"), "262,148");
    }
}
