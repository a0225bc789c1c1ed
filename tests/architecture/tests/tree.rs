//! The rules, applied to this source tree.

use ronde_architecture_tests::layers::Arrow;
use ronde_architecture_tests::sources::{MAX_LINES, may_hold_unsafe, unsafe_lines};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders that hold no source of ours.
const SKIPPED: [&str; 3] = ["target", ".git", "corpus"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the root of the workspace")
}

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let done = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).expect("JSON from cargo metadata")
}

/// Packages of the workspace: name → (folder from the root, package).
fn packages(metadata: &Value) -> BTreeMap<String, (String, Value)> {
    let root = root();
    let all = metadata["packages"].as_array().expect("packages");
    let entry = |package: &Value| {
        let manifest = Path::new(package["manifest_path"].as_str().expect("manifest_path"));
        let folder = manifest.parent().expect("a folder").strip_prefix(&root).expect("below the root");
        let name = package["name"].as_str().expect("name").to_owned();
        (name, (folder.to_str().expect("UTF-8").to_owned(), package.clone()))
    };
    all.iter().map(entry).collect()
}

fn arrows(packages: &BTreeMap<String, (String, Value)>) -> Vec<Arrow> {
    let mut arrows = Vec::new();
    for (from, package) in packages.values() {
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let Some((to, _)) = dependency["name"].as_str().and_then(|name| packages.get(name)) else {
                continue;
            };
            let for_development = dependency["kind"] == "dev";
            arrows.push(Arrow { from: from.clone(), to: to.clone(), for_development });
        }
    }
    arrows
}

/// Rust files below the root, as paths from there, with their text.
fn sources() -> Vec<(String, String)> {
    let root = root();
    let (mut folders, mut found) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && !SKIPPED.contains(&name) {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a readable file");
                let relative = path.strip_prefix(&root).expect("below the root");
                found.push((relative.to_str().expect("UTF-8").to_owned(), text));
            }
        }
    }
    found
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn dependencies_follow_the_layers() {
    let arrows = arrows(&packages(&metadata()));
    assert!(arrows.iter().any(|arrow| arrow.from == "runtime" && arrow.to == "core"), "{arrows:?}");
    assert_none(&arrows.iter().filter_map(Arrow::fault).collect::<Vec<_>>());
}

#[test]
fn crates_for_development_are_not_published() {
    let faults: Vec<String> = packages(&metadata())
        .values()
        .filter(|(folder, package)| {
            let development = ["tests/", "benches/", "examples/"].iter().any(|part| folder.starts_with(part));
            development && package["publish"].as_array().is_none_or(|registries| !registries.is_empty())
        })
        .map(|(folder, _)| format!("{folder}/Cargo.toml lacks `publish = false`"))
        .collect();
    assert_none(&faults);
}

#[test]
fn unsafe_stands_only_where_it_may() {
    let sources = sources();
    assert!(
        sources.iter().any(|(path, text)| path == "core/src/memory.rs" && !unsafe_lines(text).is_empty())
    );
    let faults: Vec<String> = sources
        .iter()
        .filter(|(path, _)| !may_hold_unsafe(path))
        .flat_map(|(path, text)| {
            unsafe_lines(text)
                .into_iter()
                .map(move |line| format!("{path}:{line}: unsafe outside its places"))
        })
        .collect();
    assert_none(&faults);
}

#[test]
fn no_file_is_too_long() {
    let faults: Vec<String> = sources()
        .iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(path, lines)| format!("{path}: {lines} lines, more than {MAX_LINES}"))
        .collect();
    assert_none(&faults);
}

#[test]
fn documents_agree_with_the_manifest() {
    let metadata = metadata();
    let packages = packages(&metadata);
    let msrv = packages["ronde"].1["rust_version"].as_str().expect("rust_version").to_owned();
    let read = |name: &str| std::fs::read_to_string(root().join(name)).expect(name);
    assert!(read("CONTRIBUTING.md").contains(&format!("Rust {msrv}")), "CONTRIBUTING.md names another MSRV");
    assert!(read("README.md").contains(&format!("Rust {msrv}")), "README.md names another MSRV");
    let map = read("ARCHITECTURE.md");
    let missing: Vec<String> = packages
        .values()
        .filter(|(folder, _)| !map.contains(&format!("`{folder}/`")))
        .map(|(folder, _)| format!("ARCHITECTURE.md does not mention `{folder}/`"))
        .collect();
    assert_none(&missing);
}
