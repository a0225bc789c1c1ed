//! `ronde doctor`: what this machine offers, what Ronde would use of it and why, and what to change.

mod host;
mod memory;
mod network;
mod ports;

use crate::args::DoctorArgs;
use crate::bench::to_json;
use crate::exit::Code;
use crate::output_file::OutputFile;
use crate::say::say;
use anyhow::Result;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// How a fact is to be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing is wrong.
    Note,
    /// Works, but slower or less robustly than it could.
    Warning,
    /// A group cannot be started here.
    Problem,
}

/// One fact about this machine.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct Finding {
    topic: &'static str,
    name: String,
    value: String,
    verdict: Verdict,
    /// What to do about it.
    advice: Option<String>,
}

impl Finding {
    fn new(topic: &'static str, name: impl Into<String>, value: impl Into<String>) -> Finding {
        Finding { topic, name: name.into(), value: value.into(), verdict: Verdict::Ok, advice: None }
    }

    fn with(mut self, verdict: Verdict, advice: impl Into<String>) -> Finding {
        (self.verdict, self.advice) = (verdict, Some(advice.into()));
        self
    }

    /// Attaches advice if `applies`.
    fn when(self, applies: bool, verdict: Verdict, advice: impl Into<String>) -> Finding {
        if applies { self.with(verdict, advice) } else { self }
    }
}

/// The files under `/proc` and `/sys`, or a copy of them.
struct Files {
    root: PathBuf,
}

impl Files {
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The file without white space at its ends; `None` if it cannot be read.
    fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    /// Names in a folder, sorted; empty if there is none.
    fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(path)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    findings: Vec<Finding>,
    okay: bool,
}

/// Runs the command. The code is 0 unless a group cannot be started here.
pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    // A reader that has seen enough, such as `head`, ends this program as it would any other.
    signal_hook::flag::register_conditional_default(signal_hook::consts::SIGPIPE, Arc::new(true.into()))?;
    let findings = examine(&Files { root: Path::new("/").to_owned() });
    say!("{}", show(&findings));
    let okay = findings.iter().all(|finding| finding.verdict != Verdict::Problem);
    if let Some(path) = &args.output_file {
        let report = Report { version: env!("CARGO_PKG_VERSION"), findings, okay };
        let written = OutputFile::create(path)?.finish(&to_json(&report))?;
        say!("written to {}\n", written.display());
    }
    Ok(if okay { Code::Ok } else { Code::Library }.into())
}

fn examine(files: &Files) -> Vec<Finding> {
    let mut findings = host::examine(files);
    findings.extend(network::examine(files));
    findings.extend(memory::examine(files));
    findings
}

fn show(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut topic = "";
    for finding in findings {
        if finding.topic != topic {
            topic = finding.topic;
            text += &format!("{topic}\n");
        }
        let mark = match finding.verdict {
            Verdict::Ok => "ok     ",
            Verdict::Note => "note   ",
            Verdict::Warning => "warning",
            Verdict::Problem => "PROBLEM",
        };
        text += &format!("  {mark}  {:<26} {}\n", finding.name, finding.value);
        if let Some(advice) = &finding.advice {
            text += &format!("           {advice}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with the given files, as a root.
    pub(super) fn root(contents: &[(&str, &str)]) -> (tempfile::TempDir, Files) {
        let folder = tempfile::tempdir().unwrap();
        let files = Files { root: folder.path().to_owned() };
        for (path, text) in contents {
            let path = files.path(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        (folder, files)
    }

    pub(super) fn find<'a>(findings: &'a [Finding], name: &str) -> &'a Finding {
        findings.iter().find(|finding| finding.name == name).unwrap_or_else(|| panic!("no finding {name}"))
    }

    #[test]
    fn this_machine_can_be_examined() {
        let findings = examine(&Files { root: "/".into() });
        assert!(findings.iter().all(|finding| !finding.value.is_empty()), "{findings:#?}");
        for name in ["processors", "boot", "locked memory", "open files", "memfd", "RDMA", "CUDA"] {
            find(&findings, name);
        }
    }

    #[test]
    fn nothing_readable_is_no_panic() {
        let (_folder, files) = root(&[]);
        assert!(!show(&examine(&files)).is_empty());
    }

    #[test]
    fn topics_are_printed_once_and_advice_below() {
        let findings = [
            Finding::new("Host", "name", "x"),
            Finding::new("Host", "processors", "1").with(Verdict::Warning, "take more"),
        ];
        assert_eq!(
            show(&findings),
            "Host\n  ok       name                       x\n  warning  processors                 1\n           take more\n"
        );
    }
}
