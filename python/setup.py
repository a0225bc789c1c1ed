"""Builds libronde with cargo and puts it into the package. The wheel is for any Python 3 of this platform: nothing in it is compiled
against Python."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def version() -> str:
    """That of the Rust workspace."""
    found = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert found, "Cargo.toml has no version"
    return found[1]


def build_library(to: Path) -> None:
    """libronde.so, without what only a debugger reads."""
    if not shutil.which("cargo"):
        raise SystemExit("torch_ronde is built with Rust, and there is no cargo here: install it (https://rustup.rs), or a wheel")
    subprocess.run(["cargo", "build", "--release", "--locked", "-p", "ronde-ffi"], cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    to.mkdir(parents=True, exist_ok=True)
    library = to / "libronde.so"
    # Another file: a process may be using the one before.
    library.unlink(missing_ok=True)
    shutil.copyfile(target / "release" / "libronde.so", library)
    # What compiles the shim for a PyTorch that none was shipped for needs it.
    shutil.copyfile(ROOT / "include" / "ronde.h", to / "ronde.h")
    if shutil.which("strip"):
        subprocess.run(["strip", "--strip-debug", str(library)], check=True)


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        source = HERE / "src" / "ronde" / "_lib"
        build_library(source if self.editable_mode else Path(self.build_lib) / "ronde" / "_lib")


class Wheel(bdist_wheel):
    def get_tag(self) -> "tuple[str, str, str]":
        return "py3", "none", super().get_tag()[2]


class Binary(Distribution):
    def has_ext_modules(self) -> bool:
        return True


setup(version=version(), distclass=Binary, cmdclass={"build_py": BuildPy, "bdist_wheel": Wheel})
