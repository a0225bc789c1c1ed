"""Trains `gpt.py` twice: undisturbed, and while its processes are killed one after the other and others take their places. Plots both
losses, and says what the kills cost.

    python examples/python/curve.py --ronde target/release/ronde          # writes curve.png; needs matplotlib
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


def rows(log: Path) -> list[tuple[int, float, int, int, float]]:
    found = []
    for file in sorted(log.parent.glob(log.name + ".*")):
        for line in file.read_text().splitlines():
            step, loss, members, process, when = line.split()
            found.append((int(step), float(loss), int(members), int(process), float(when)))
    return found


def by_step(log: Path) -> dict[int, list[float]]:
    losses: dict[int, list[float]] = {}
    for step, loss, *_ in rows(log):
        losses.setdefault(step, []).append(loss)
    return losses


def run(options: argparse.Namespace, log: Path, kills: int) -> list[int]:
    """Gives the steps at which somebody was killed."""
    command = [options.ronde, "run", "-n", str(options.ranks), "--keep-going", "--restarts", str(kills), sys.executable]
    command += [str(HERE / "gpt.py"), "--steps", str(options.steps), "--log", str(log)]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    killed: list[int] = []
    choice = random.Random(1)
    while job.poll() is None:
        time.sleep(0.2)
        done = rows(log)
        newest = max((row[0] for row in done), default=0)
        # The next one when the one before has a successor that trains along.
        here = {row[3] for row in done if row[0] == newest}
        due = (len(killed) + 1) * options.steps // (kills + 1)
        if len(killed) < kills and newest >= due and len(here) == options.ranks:
            os.kill(choice.choice(sorted(here)), signal.SIGKILL)
            killed.append(newest)
    if job.returncode not in (0, 128 + signal.SIGKILL):
        raise SystemExit(f"the job ended with {job.returncode}: run {' '.join(command)} to see why")
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ronde", default="ronde", help="the program")
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("-o", "--output", default="curve.png")
    options = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / name for name in ("undisturbed", "killed")]
        run(options, logs[0], 0)
        killed = run(options, logs[1], options.kills)
        curves = [by_step(log) for log in logs]
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for curve, label in zip(curves, ("undisturbed", f"{len(killed)} processes killed, others come")):
        axes.plot(list(curve), [sum(curve[step]) / len(curve[step]) for step in curve], lw=1, label=label)
    for step in killed:
        axes.axvline(step, color="red", lw=0.6, ls=":")
    axes.set(xlabel="step", ylabel="loss (nats a letter)", title=f"A small GPT on {options.ranks} processes")
    axes.legend()
    figure.savefig(options.output, dpi=120, bbox_inches="tight")
    lost = [step for step in range(1, options.steps + 1) if step not in curves[1]]
    ends = [sum(sum(curve[step]) / len(curve[step]) for step in sorted(curve)[-20:]) / 20 for curve in curves]
    print(f"killed at steps {killed}: {len(lost)} steps lost; loss at the end {ends[0]:.3f} undisturbed, {ends[1]:.3f} with kills")


if __name__ == "__main__":
    main()
