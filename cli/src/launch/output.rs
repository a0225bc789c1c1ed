//! Output of the ranks, line by line, with the rank in front.

use std::io::{BufRead, BufReader, Read, Result, Write};

/// A line longer than this is passed on in parts.
const MAX_LINE: u64 = 64 << 10;

/// Copies lines until the end of `from`, each in one write so that lines of different ranks never mix.
/// What cannot be written any more is read all the same: a rank must not block on a closed terminal. The error is why.
pub(super) fn copy_lines(from: impl Read, mut to: impl Write, prefix: &str) -> Result<()> {
    let mut reader = BufReader::with_capacity(MAX_LINE as usize, from);
    let mut line = Vec::new();
    let mut written = Ok(());
    loop {
        line.clear();
        line.extend_from_slice(prefix.as_bytes());
        match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return written,
            Ok(_) => {}
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        written = written.and_then(|()| to.write_all(&line)).and_then(|()| to.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_gets_its_prefix() {
        let mut out = Vec::new();
        copy_lines(&b"one\n\ntwo"[..], &mut out, "[3] ").unwrap();
        assert_eq!(out, b"[3] one\n[3] \n[3] two\n");
    }

    #[test]
    fn long_lines_and_odd_bytes_pass() {
        let mut input = vec![0xffu8; MAX_LINE as usize + 1];
        input.push(b'\n');
        let mut out = Vec::new();
        copy_lines(&input[..], &mut out, "[0] ").unwrap();
        assert_eq!(out.len(), input.len() + 2 * "[0] ".len() + 1);
    }

    #[test]
    fn what_cannot_be_written_is_read_and_known() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut input = &b"one\ntwo\n"[..];
        assert_eq!(copy_lines(&mut input, full, "").unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        assert!(input.is_empty());
    }
}
