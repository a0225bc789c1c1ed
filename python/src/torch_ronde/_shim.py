"""The C++ between PyTorch and libronde, for the PyTorch that is here.

c10d has no stable binary interface: what was compiled for one minor version crashes in another. So there is one library for each,
and where none came with the package it is compiled once, from the source that did, and kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from ronde import _library

_HERE = Path(__file__).parent
_SOURCES = _HERE / "csrc"
_loaded = False


def load() -> None:
    """Loads the shim; compiles it where none fits."""
    global _loaded
    if not _loaded:
        torch.ops.load_library(str(_find()))
        _loaded = True


def version() -> str:
    """Major and minor version of the PyTorch that is here: 2.15."""
    found = re.match(r"(\d+\.\d+)", torch.__version__)
    if not found:
        raise ImportError(f"torch has the version {torch.__version__!r}, of which torch_ronde knows nothing")
    return found[1]


def _find() -> Path:
    shipped = _HERE / "_lib" / f"libronde_torch_{version()}.so"
    return shipped if shipped.exists() else _kept()


def _kept() -> Path:
    """What was compiled here before, of this very source and for this very PyTorch."""
    digest = hashlib.sha256(f"{torch.__version__} {platform.machine()} {platform.libc_ver()}".encode())
    for source in [*sorted(_SOURCES.iterdir()), header_folder() / "ronde.h"]:
        digest.update(source.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_ronde"
    library = cache / f"libronde_torch_{version()}-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with open(library.with_suffix(".lock"), "w") as lock:
            # Of the ranks of one machine the first one compiles. Some shared file systems have no locks: there each does.
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not library.exists():
                compile_to(library)
    return library


def header_folder() -> Path:
    """Where ronde.h is: in the package, or in the repository."""
    packaged = Path(_library.__file__).parent / "_lib"
    return packaged if (packaged / "ronde.h").exists() else _HERE.parents[2] / "include"


def compile_to(library: Path) -> None:
    """Compiles the shim for the PyTorch that is here."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        raise ImportError(
            f"torch_ronde has no library for torch {torch.__version__}, and there is no C++ compiler to make one: install one "
            "(Debian: apt install g++), or a torch_ronde that was made for this torch"
        )
    torch_folder = Path(torch.__file__).parent
    include, libraries = torch_folder / "include", torch_folder / "lib"
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        command = [
            *shlex.split(compiler), "-std=c++20", "-O2", "-fPIC", "-shared", "-fvisibility=hidden",
            f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
            "-isystem", str(include), "-isystem", str(include / "torch" / "csrc" / "api" / "include"), "-I", str(header_folder()),
            str(_SOURCES / "shim.cpp"), "-o", str(made), f"-L{libraries}", "-ltorch_cpu", "-lc10", "-ldl", "-s",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ImportError(
                f"torch_ronde could not be compiled for torch {torch.__version__}:\n{' '.join(command)}\n{done.stderr[-4000:]}"
            )
        # What is there stays: others may run it.
        with contextlib.suppress(FileExistsError):
            os.link(made, library)
