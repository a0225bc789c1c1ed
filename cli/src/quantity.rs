//! Sizes on the command line: `8`, `32K`, `1M`, `4G`, binary as in nccl-tests.

/// Parses a number of bytes with an optional binary suffix K, M, G or T (also `KiB`, `MB` and so on;
/// all of them mean powers of 1024). Before a suffix it may be a decimal fraction, `1.5M`; what it comes to is rounded down.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, suffix) = trimmed.split_at(digits);
    let (whole, decimals) = match number.split_once('.') {
        Some((whole, "")) => (whole, "missing"),
        Some(("", decimals)) => ("0", decimals),
        Some(both) => both,
        None => (number, "0"),
    };
    let is_no_size = || format!("`{text}` is not a size such as 8, 32K or 1.5M");
    let whole: u64 = whole.parse().map_err(|_| is_no_size())?;
    let fraction: f64 = format!("0.{decimals}").parse().map_err(|_| is_no_size())?;
    let shift = match suffix.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        other => return Err(format!("`{other}` is not a unit of size; use K, M or G")),
    };
    if shift == 0 && number.contains('.') {
        return Err(format!("`{text}` is no whole number of bytes; a fraction takes a unit, such as 1.5M"));
    }
    let fraction = (fraction * (1u64 << shift) as f64) as u64;
    let bytes = whole.checked_mul(1 << shift).and_then(|bytes| bytes.checked_add(fraction));
    let bytes = bytes.filter(|&bytes| bytes <= isize::MAX as u64);
    bytes.ok_or_else(|| format!("`{text}` is more than the address space holds"))
}

/// A number of bytes for people.
pub(crate) fn show_bytes(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => {
            let value = bytes as f64 / (1u64 << shift) as f64;
            format!("{value:.1} {unit}")
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_binary_suffixes() {
        for (text, bytes) in [
            ("0", 0),
            ("8", 8),
            ("8b", 8),
            ("32K", 32 << 10),
            ("64k", 64 << 10),
            ("1M", 1 << 20),
            ("3MiB", 3 << 20),
            ("2G", 2 << 30),
            ("1 T", 1 << 40),
            ("1.5M", 3 << 19),
            ("0.25K", 256),
            ("2.0 GiB", 2 << 30),
            ("0.3K", 307),
            (".5K", 512),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_and_overflow_are_named() {
        for text in ["", "K", ".", ".K", "8.K", "1.5.5M", "1.5", "1.5B", "-1", "8Q", "1,5M"] {
            assert!(parse_bytes(text).is_err(), "{text} was accepted");
        }
        for text in ["9999999T", "8388608.5T", "18446744073709551615", "99999999999999999999"] {
            assert!(parse_bytes(text).is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn shown_in_the_largest_unit() {
        assert_eq!(show_bytes(1023), "1023 B");
        assert_eq!(show_bytes(1536), "1.5 KiB");
        assert_eq!(show_bytes(64 << 20), "64.0 MiB");
    }
}
