//! Standard output. A reader that has seen enough, such as `head`, ends nobody's measurement: what is printed after that is lost,
//! and files and exit code are as they would have been.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether it was said that standard output cannot be written.
static COMPLAINED: AtomicBool = AtomicBool::new(false);

/// As `print!`, which would panic.
macro_rules! say {
    ($($text:tt)*) => { $crate::say::print(format_args!($($text)*)) };
}
pub(crate) use say;

pub(crate) fn print(text: Arguments) {
    print_to(&mut std::io::stdout().lock(), text);
}

fn print_to(out: &mut dyn Write, text: Arguments) {
    let Err(error) = out.write_fmt(text).and_then(|()| out.flush()) else { return };
    if error.kind() != ErrorKind::BrokenPipe && !COMPLAINED.swap(true, Ordering::Relaxed) {
        eprintln!("ronde: cannot write to standard output: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        drop(reader);
        print_to(&mut writer, format_args!("lost"));
        assert!(!COMPLAINED.load(Ordering::Relaxed));
        let mut full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        print_to(&mut full, format_args!("lost"));
        assert!(COMPLAINED.load(Ordering::Relaxed));
    }
}
