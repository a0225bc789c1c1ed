//! Shared memory and large pages.

use super::{Files, Finding, Verdict};
use crate::quantity::show_bytes;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

const MEMORY: &str = "Shared memory";

/// What the test file is grown to.
const PROBE_BYTES: u64 = 1 << 20;

pub(super) fn examine(files: &Files) -> Vec<Finding> {
    let mut findings = vec![memfd(), available(files)];
    findings.extend(huge_pages(files));
    findings.push(ptrace_scope(files));
    findings
}

/// Local peers share memory through anonymous files, which leave nothing behind when a process dies.
fn memfd() -> Finding {
    let tried =
        memfd_create("ronde-doctor", MemfdFlags::CLOEXEC).and_then(|file| ftruncate(&file, PROBE_BYTES));
    match tried {
        Ok(()) => Finding::new(MEMORY, "memfd", "works: local peers share memory"),
        Err(error) => Finding::new(MEMORY, "memfd", format!("fails: {error}"))
            .with(Verdict::Warning, "local peers will use TCP; allow memfd_create(2) in this sandbox"),
    }
}

fn available(files: &Files) -> Finding {
    let kilobytes = files.text("/proc/meminfo").and_then(|text| field(&text, "MemAvailable:"));
    let value = kilobytes.map_or("unknown".to_owned(), |kilobytes| show_bytes(kilobytes << 10));
    Finding::new(MEMORY, "memory available", value)
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn huge_pages(files: &Files) -> [Finding; 2] {
    const FOLDER: &str = "/sys/kernel/mm/transparent_hugepage";
    let setting = |name: &str| {
        let text = files.text(&format!("{FOLDER}/{name}"))?;
        text.split('[').nth(1)?.split(']').next().map(str::to_owned)
    };
    let (anonymous, shared) = (setting("enabled"), setting("shmem_enabled"));
    let show = |setting: &Option<String>| setting.clone().unwrap_or("unknown".into());
    [
        Finding::new(MEMORY, "large pages, private", show(&anonymous)).when(
            anonymous.as_deref() == Some("never"),
            Verdict::Warning,
            format!("vectors move faster on large pages: echo madvise > {FOLDER}/enabled"),
        ),
        Finding::new(MEMORY, "large pages, shared", show(&shared)).when(
            matches!(shared.as_deref(), Some("never" | "deny")),
            Verdict::Note,
            format!("registered vectors could use them: echo advise > {FOLDER}/shmem_enabled"),
        ),
    ]
}

/// Whether a process may copy straight out of another one's memory.
fn ptrace_scope(files: &Files) -> Finding {
    let scope = files.text("/proc/sys/kernel/yama/ptrace_scope");
    let value = match scope.as_deref() {
        None | Some("0") => "allowed",
        Some("1") => "only from a parent (ptrace_scope 1)",
        Some(_) => "forbidden (ptrace_scope)",
    };
    Finding::new(MEMORY, "copies between processes", value).when(
        value != "allowed",
        Verdict::Note,
        "large vectors in plain memory are copied twice; registered memory avoids it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::{find, root};

    #[test]
    fn settings_are_read_out_of_their_brackets() {
        let (_folder, files) = root(&[
            ("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]"),
            ("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "always within_size [advise] never"),
            ("/proc/meminfo", "MemTotal:  9 kB\nMemAvailable:    2048 kB\n"),
            ("/proc/sys/kernel/yama/ptrace_scope", "1"),
        ]);
        let findings = examine(&files);
        assert_eq!(find(&findings, "large pages, private").verdict, Verdict::Warning);
        assert_eq!(find(&findings, "large pages, shared").value, "advise");
        assert_eq!(find(&findings, "large pages, shared").verdict, Verdict::Ok);
        assert_eq!(find(&findings, "memory available").value, "2.0 MiB");
        assert_eq!(find(&findings, "copies between processes").verdict, Verdict::Note);
    }
}
