"""The systems under comparison: how each is prepared and how one measurement of it is taken.

Every `measure` returns `{size: {"out_of_place": µs | None, "in_place": µs | None, "wrong": n}}` for one
collective and number of ranks.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
WORK = TARGET / "peers"
VENV = TARGET / "venv"
DEADLINE_S = 1200


def warm_up(size):
    """Operations before the measured ones: the system takes its time to give each rank a core of its own."""
    return max(1, min(20000, (16 << 20) // size))


class Failed(Exception):
    """A system that could not be prepared or measured."""


def output_of(command, env=None):
    """Standard output of a program that must succeed within the deadline."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            env={**os.environ, **(env or {})},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).splitlines()[-15:])
        raise Failed(f"{' '.join(map(str, command))}\nexit code {done.returncode}\n{tail}")
    return done.stdout


def rows_of(lines):
    """Rows by size from lines of JSON; other lines are the program's chatter."""
    rows = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    return {row.pop("size"): row for row in rows}


def arguments(iterations):
    return [f"{size}:{count}" for size, count in iterations.items()]


@dataclass(frozen=True)
class OpenMpi:
    """Open MPI over shared memory or TCP, with the collectives it chooses by itself."""

    transport: str
    library: str = "Open MPI"

    @property
    def name(self):
        return f"openmpi-{self.transport}"

    def prepare(self):
        if not (shutil.which("mpicc") and shutil.which("mpirun")):
            install_packages("openmpi-bin", "libopenmpi-dev")
        WORK.mkdir(parents=True, exist_ok=True)
        flags = ["-O3", "-march=native", "-Wall", "-Wextra", "-Werror"]
        output_of(["mpicc", *flags, "-o", WORK / "mpi_bench", HERE / "mpi_bench.c"])

    def version(self):
        return output_of(["mpirun", "--version"]).splitlines()[0]

    def measure(self, collective, ranks, iterations):
        btl = "self,vader" if self.transport == "shm" else "self,tcp"
        mca = ["--mca", "pml", "ob1", "--mca", "btl", btl]
        if self.transport == "tcp":
            mca += ["--mca", "btl_tcp_if_include", "lo"]
        root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        command = ["mpirun", *root, "--oversubscribe", "--bind-to", "none", "-n", ranks, *mca]
        return rows_of(output_of([*command, WORK / "mpi_bench", collective, *arguments(iterations)]))


@dataclass(frozen=True)
class Bare:
    """Two processes with a socket or a ring in shared memory and no library: what one can reach over it."""

    transport: str
    library: str = "none"

    @property
    def name(self):
        return f"bare-{self.transport}"

    def prepare(self):
        WORK.mkdir(parents=True, exist_ok=True)
        flags = ["-O3", "-march=native", "-Wall", "-Wextra", "-Werror", "-I", HERE / "bare"]
        output_of(["cc", *flags, "-o", WORK / "bare", HERE / "mpi_bench.c", HERE / "bare/bare.c"])

    def version(self):
        return output_of(["cc", "--version"]).splitlines()[0]

    def measure(self, collective, ranks, iterations):
        if ranks != 2:
            return {}
        command = [WORK / "bare", collective, *arguments(iterations)]
        return rows_of(output_of(command, {"BARE_TRANSPORT": self.transport}))


@dataclass(frozen=True)
class Gloo:
    """Gloo over TCP on loopback, through torch.distributed."""

    transport: str = "tcp"
    library: str = "Gloo"
    name: str = "gloo-tcp"

    def prepare(self):
        python_packages("torch", "numpy")

    def version(self):
        return "torch " + output_of([VENV / "bin/python", "-c", "import torch; print(torch.__version__)"]).strip()

    def measure(self, collective, ranks, iterations):
        command = [VENV / "bin/python", HERE / "gloo_bench.py", collective, *arguments(iterations)]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
        job |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        return rows_of(together([(command, {**job, "RANK": str(rank)}) for rank in range(ranks)]))


def together(programs):
    """Runs programs at once; the output of the first. When one fails, the others are ended."""
    with tempfile.TemporaryFile("w+") as first, tempfile.TemporaryFile("w+") as errors:
        running = [
            subprocess.Popen(
                [str(part) for part in command],
                env={**os.environ, **env},
                stdout=first if at == 0 else subprocess.DEVNULL,
                stderr=errors,
            )
            for at, (command, env) in enumerate(programs)
        ]
        end = time.monotonic() + DEADLINE_S
        try:
            codes = [program.wait(max(0.1, end - time.monotonic())) for program in running]
        except subprocess.TimeoutExpired as error:
            raise Failed(str(error)) from error
        finally:
            for program in running:
                program.kill()
                program.wait()
        first.seek(0)
        errors.seek(0)
        if any(codes):
            raise Failed(f"exit codes {codes}\n" + errors.read()[-2000:])
        return first.read()


@dataclass(frozen=True)
class Ronde:
    """`ronde bench`, over one transport and with or without tolerance."""

    transport: str
    tolerance: str
    registered: bool = False
    library: str = "Ronde"

    @property
    def name(self):
        return f"ronde-{self.transport}-{self.tolerance}" + ("-registered" if self.registered else "")

    def prepare(self):
        output_of(["cargo", "build", "--release", "--quiet", "-p", "ronde-cli"])

    def version(self):
        return output_of([TARGET / "release/ronde", "--version"]).strip()

    def measure(self, collective, ranks, iterations):
        return {size: self.row(collective, ranks, size, count) for size, count in iterations.items()}

    def row(self, collective, ranks, size, count):
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "bench.json"
            command = [TARGET / "release/ronde", "bench", collective, "--ranks", ranks, "-b", size, "-e", size]
            command += ["-n", count, "-w", warm_up(size), "-c", 1, "-I", 1, "-a", 3]
            command += ["--transports", self.transport, "--tolerance", self.tolerance]
            output_of([*command, *(["--registered"] if self.registered else []), "-J", report])
            result = json.loads(report.read_text())["results"][0]
        if result["size"] != size:
            raise Failed(f"asked for {size} bytes, measured {result['size']}")
        sides = {side: result.get(f"{side}_per_iter") for side in ("out_of_place", "in_place")}
        row = {side: figures["p50_us"] if figures else None for side, figures in sides.items()}
        wrong = [figures["nwrong"] for side in sides if (figures := result.get(side))]
        return {**row, "wrong": sum(wrong)}


class Distance:
    """How far apart the first two processors are, which the host of a virtual machine may change at any time."""

    def __init__(self):
        WORK.mkdir(parents=True, exist_ok=True)
        output_of(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", WORK / "cores", HERE / "bare/cores.c"])

    def ns(self):
        """For a cache line there and back."""
        return float(output_of([WORK / "cores", "0.03"]).split()[0])


ALL = (
    OpenMpi("shm"),
    OpenMpi("tcp"),
    Gloo(),
    Bare("shm"),
    Bare("tcp"),
    Ronde("shm", "recover"),
    Ronde("shm", "none"),
    Ronde("shm", "recover", registered=True),
    Ronde("tcp", "recover"),
    Ronde("tcp", "none"),
)


def install_packages(*names):
    """Installs Debian packages, which takes root."""
    print(f"installing {' '.join(names)}", file=sys.stderr)
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    output_of(["apt-get", "update", "-qq"], quiet)
    output_of(["apt-get", "install", "-y", "-qq", *names], quiet)


def python_packages(*names):
    """Installs Python packages into an environment of their own below the target folder."""
    if not (VENV / "bin/python").exists():
        output_of([sys.executable, "-m", "venv", VENV])
    try:
        output_of([VENV / "bin/python", "-c", f"import {', '.join(names)}"])
    except Failed:
        print(f"installing {' '.join(names)} into {VENV}", file=sys.stderr)
        output_of([VENV / "bin/pip", "install", "--quiet", *names])
