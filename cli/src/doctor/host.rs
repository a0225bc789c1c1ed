//! The machine: processors, limits, devices, and what decides who shares it.

use super::{Files, Finding, Verdict};
use crate::quantity::show_bytes;
use rustix::process::{Resource, getrlimit};

const HOST: &str = "Host";
const LIMITS: &str = "Limits";
const DEVICES: &str = "Devices";

/// Fewer open files than this are too few for a job of some hundred processes.
const FILES_WANTED: u64 = 4096;
/// Less lockable memory than this is too little for registered vectors of RDMA.
const MEMLOCK_WANTED: u64 = 1 << 30;

pub(super) fn examine(files: &Files) -> Vec<Finding> {
    let uname = rustix::system::uname();
    let mut findings = vec![
        Finding::new(HOST, "name", uname.nodename().to_string_lossy()),
        Finding::new(HOST, "kernel", uname.release().to_string_lossy()),
        processors(),
        Finding::new(HOST, "vector instructions", vector_level()),
    ];
    findings.extend(identity(files));
    findings.extend([open_files(), locked_memory(), rdma(files), cuda(files)]);
    findings
}

fn processors() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Finding::new(HOST, "processors", cores.to_string()).when(
        cores == 1,
        Verdict::Warning,
        "with one processor, ranks on this machine take turns; expect times of the scheduler",
    )
}

/// The best vector instructions that reductions can use here.
fn vector_level() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512bw") {
            return "AVX-512";
        }
        if std::is_x86_feature_detected!("avx2") {
            return "AVX2";
        }
        "SSE2 (portable code)"
    }
    #[cfg(target_arch = "aarch64")]
    {
        "NEON"
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        "portable code"
    }
}

/// Processes with the same boot and namespaces share memory; others talk over the network.
fn identity(files: &Files) -> Vec<Finding> {
    let boot = files.text("/proc/sys/kernel/random/boot_id");
    let namespace = |kind: &str| {
        let link = std::fs::read_link(files.path(&format!("/proc/self/ns/{kind}")));
        link.map_or("unknown".to_owned(), |target| target.to_string_lossy().into_owned())
    };
    let advice = "processes in other namespaces (containers) do not count as local: they use the network";
    vec![
        Finding::new(HOST, "boot", boot.unwrap_or("unknown".into())),
        Finding::new(HOST, "namespaces", format!("{} {}", namespace("pid"), namespace("net")))
            .with(Verdict::Note, advice),
    ]
}

fn open_files() -> Finding {
    let limit = getrlimit(Resource::Nofile).current;
    let few = limit.is_some_and(|limit| limit < FILES_WANTED);
    let value = limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
    Finding::new(LIMITS, "open files", value).when(
        few,
        Verdict::Warning,
        format!("each peer takes a few; raise it for large jobs: ulimit -n {FILES_WANTED}"),
    )
}

fn locked_memory() -> Finding {
    let limit = getrlimit(Resource::Memlock).current;
    let small = limit.is_some_and(|limit| limit < MEMLOCK_WANTED);
    Finding::new(LIMITS, "locked memory", limit.map_or("unlimited".to_owned(), show_bytes)).when(
        small,
        Verdict::Note,
        "enough for shared memory and TCP; RDMA pins its vectors and wants more: ulimit -l unlimited",
    )
}

fn rdma(files: &Files) -> Finding {
    let devices = files.names("/sys/class/infiniband");
    match devices.is_empty() {
        true => Finding::new(DEVICES, "RDMA", "none: /sys/class/infiniband has no device")
            .with(Verdict::Note, "shared memory and TCP are used"),
        false => Finding::new(DEVICES, "RDMA", devices.join(", "))
            .with(Verdict::Note, "this build has no RDMA transport: shared memory and TCP are used"),
    }
}

fn cuda(files: &Files) -> Finding {
    const LIBRARY: &str = "libcuda.so.1";
    const FOLDERS: [&str; 5] = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/lib/wsl/lib",
    ];
    let driver = files.text("/proc/driver/nvidia/version");
    let library = FOLDERS.iter().map(|folder| format!("{folder}/{LIBRARY}")).find(|p| files.path(p).exists());
    let value = match (&driver, &library) {
        (None, None) => format!("none: no driver is loaded and no {LIBRARY} is found"),
        (None, Some(path)) => format!("{path}, but no driver is loaded"),
        (Some(_), None) => format!("a driver is loaded, but no {LIBRARY} is found"),
        (Some(version), Some(_)) => version.lines().next().unwrap_or_default().to_owned(),
    };
    let finding = Finding::new(DEVICES, "CUDA", value);
    let advice = "this build has no CUDA transport: copy vectors to host memory before a call";
    finding.when(driver.is_some() && library.is_some(), Verdict::Note, advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::{find, root};

    #[test]
    fn devices_are_found_or_said_why_not() {
        let (_folder, files) = root(&[]);
        assert!(rdma(&files).value.starts_with("none"));
        assert!(cuda(&files).value.starts_with("none"));
        let (_folder, files) = root(&[
            ("/sys/class/infiniband/mlx5_0", ""),
            ("/proc/driver/nvidia/version", "NVRM version: 1\nGCC"),
            ("/usr/lib64/libcuda.so.1", ""),
        ]);
        assert_eq!(rdma(&files).value, "mlx5_0");
        assert_eq!(cuda(&files).value, "NVRM version: 1");
        std::fs::remove_file(files.path("/usr/lib64/libcuda.so.1")).unwrap();
        assert!(cuda(&files).value.contains("no libcuda.so.1"));
    }

    #[test]
    fn the_boot_is_shown() {
        let (_folder, files) = root(&[("/proc/sys/kernel/random/boot_id", "abc\n")]);
        assert_eq!(find(&identity(&files), "boot").value, "abc");
    }
}
