//! Standard output and errors. A reader that has seen enough, such as `head`, ends nobody's measurement: what is printed after
//! that is lost, and files and exit code are as they would have been. What is lost for another reason, such as a full disk, makes
//! the exit code that of a failure.

use std::fmt::Arguments;
use std::io::{Error, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether output was lost, which was said then.
static LOST: AtomicBool = AtomicBool::new(false);

/// As `print!`, which would panic.
macro_rules! say {
    ($($text:tt)*) => { $crate::say::print(format_args!($($text)*)) };
}
pub(crate) use say;

/// As `eprint!`, which would panic, and in one write: the ranks of a job often complain together, onto one terminal.
macro_rules! complain {
    ($($text:tt)*) => { $crate::say::print_error(format_args!($($text)*)) };
}
pub(crate) use complain;

pub(crate) fn print(text: Arguments) {
    print_to(&mut std::io::stdout().lock(), text);
}

pub(crate) fn print_error(text: Arguments) {
    // There is nowhere left to say it.
    let _ = std::io::stderr().write_all(text.to_string().as_bytes());
}

fn print_to(out: &mut dyn Write, text: Arguments) {
    if let Err(error) = out.write_fmt(text).and_then(|()| out.flush()) {
        note_lost(&error);
    }
}

/// Output was lost. It is said once, and not at all of a reader that has gone.
pub(crate) fn note_lost(error: &Error) {
    if error.kind() != ErrorKind::BrokenPipe && !LOST.swap(true, Ordering::Relaxed) {
        complain!("ronde: cannot write the output: {error}\n");
    }
}

/// Whether output was lost that somebody may miss.
pub(crate) fn is_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        drop(reader);
        print_to(&mut writer, format_args!("lost"));
        assert!(!is_lost());
        let mut full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        print_to(&mut full, format_args!("lost"));
        assert!(is_lost());
    }
}
