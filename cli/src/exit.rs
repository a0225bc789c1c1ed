//! Exit codes: those of nccl-tests, and one of our own.

use ronde::{Aborted, Error};

/// What the process returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Code {
    /// Everything went well.
    Ok = 0,
    /// A broken invariant, or an output that could not be written.
    Internal = 1,
    /// The library could not do it: no coordinator, a lost peer, a local resource.
    Library = 3,
    /// A deadline was missed.
    Timeout = 4,
    /// The request cannot be met as it was made.
    InvalidUsage = 6,
    /// Wrong values, or slower than the least bandwidth asked for.
    Wrong = 7,
    /// It ended with fewer ranks than it started with.
    FewerRanks = 8,
    /// The command line is wrong (-1, as nccl-tests has it).
    BadArguments = 255,
}

impl From<Code> for std::process::ExitCode {
    fn from(code: Code) -> Self {
        std::process::ExitCode::from(code as u8)
    }
}

/// A failure that the user caused, with its own code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(code: Code, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into() }
    }

    pub(crate) fn usage(text: impl Into<String>) -> Failure {
        Failure::new(Code::InvalidUsage, text)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// The code of an error.
pub(crate) fn code_of(error: &anyhow::Error) -> Code {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.code;
        }
        if let Some(error) = cause.downcast_ref::<Error>() {
            return code_of_library(error);
        }
    }
    Code::Internal
}

fn code_of_library(error: &Error) -> Code {
    match error {
        Error::Misuse(_) => Code::InvalidUsage,
        Error::Internal(_) => Code::Internal,
        Error::Aborted(aborted) if matches!(**aborted, Aborted::Timeout { .. }) => Code::Timeout,
        _ => Code::Library,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn errors_have_the_codes_of_nccl_tests() {
        let cases = [
            (Error::from(ronde::Misuse::Closed), 6),
            (Error::internal("x"), 1),
            (Error::join("no coordinator"), 3),
            (Error::resource("memory"), 3),
        ];
        for (error, code) in cases {
            let wrapped = Err::<(), _>(error).context("while measuring").unwrap_err();
            assert_eq!(code_of(&wrapped) as u8, code, "{wrapped:#}");
        }
        assert_eq!(code_of(&Failure::usage("x").into()) as u8, 6);
        assert_eq!(code_of(&anyhow::anyhow!("disk")) as u8, 1);
    }
}
