//! Which crate may depend on which.

/// The part that a crate plays, which follows from the folder of its manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layer {
    /// `core/`
    Core,
    /// `algorithms/`
    Algorithms,
    /// `transports/*/`
    Transport,
    /// `runtime/`
    Runtime,
    /// `ffi/`
    Ffi,
    /// `cli/`
    Cli,
    /// `tests/*/`, `benches/*/` and `examples/*/`, which nobody depends on and nothing publishes.
    Development,
}

/// Folders and the layer of the crates in them.
const FOLDERS: [(&str, Layer); 9] = [
    ("core", Layer::Core),
    ("algorithms", Layer::Algorithms),
    ("transports", Layer::Transport),
    ("runtime", Layer::Runtime),
    ("ffi", Layer::Ffi),
    ("cli", Layer::Cli),
    ("tests", Layer::Development),
    ("benches", Layer::Development),
    ("examples", Layer::Development),
];

impl Layer {
    /// The layer of the crate whose folder, seen from the root, is `path`.
    pub fn of(path: &str) -> Option<Layer> {
        let first = path.split('/').next()?;
        FOLDERS.iter().find(|(folder, _)| *folder == first).map(|(_, layer)| *layer)
    }

    /// Whether a crate of this layer may depend on one of `other`, in its library and programs.
    pub fn may_use(self, other: Layer) -> bool {
        use Layer::*;
        match self {
            Core => false,
            Algorithms | Transport => other == Core,
            Runtime => matches!(other, Core | Algorithms | Transport),
            Ffi | Cli => other == Runtime,
            Development => true,
        }
    }
}

/// One dependency between two crates of the workspace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrow {
    /// Folder of the crate that depends, from the root.
    pub from: String,
    /// Folder of the crate it depends on.
    pub to: String,
    /// Whether only tests, examples and benchmarks of `from` use it.
    pub for_development: bool,
}

impl Arrow {
    /// What is wrong with it, if anything. Tests of a crate may use any crate.
    pub fn fault(&self) -> Option<String> {
        let (Some(from), Some(to)) = (Layer::of(&self.from), Layer::of(&self.to)) else {
            return Some(format!("{} → {}: a crate outside the known folders", self.from, self.to));
        };
        let allowed = self.for_development || from.may_use(to);
        (!allowed).then(|| format!("{} → {}: {from:?} may not depend on {to:?}", self.from, self.to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(from: &str, to: &str) -> bool {
        Arrow { from: from.into(), to: to.into(), for_development: false }.fault().is_some()
    }

    #[test]
    fn arrows_point_to_the_core() {
        for (from, to) in [
            ("algorithms", "core"),
            ("transports/tcp", "core"),
            ("runtime", "transports/shm"),
            ("runtime", "algorithms"),
            ("runtime", "core"),
            ("ffi", "runtime"),
            ("cli", "runtime"),
            ("tests/sim", "transports/tcp"),
        ] {
            assert!(!fault(from, to), "{from} → {to}");
        }
    }

    #[test]
    fn no_other_arrow() {
        for (from, to) in [
            ("core", "algorithms"),
            ("algorithms", "transports/tcp"),
            ("transports/tcp", "transports/shm"),
            ("transports/tcp", "runtime"),
            ("runtime", "cli"),
            ("runtime", "tests/sim"),
            ("ffi", "core"),
            ("cli", "ffi"),
            ("cli", "core"),
            ("elsewhere", "core"),
        ] {
            assert!(fault(from, to), "{from} → {to}");
        }
    }

    #[test]
    fn tests_of_a_crate_may_use_any() {
        let arrow = Arrow { from: "core".into(), to: "algorithms".into(), for_development: true };
        assert_eq!(arrow.fault(), None);
    }
}
