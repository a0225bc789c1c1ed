"""torch_ronde beside Gloo, in one run, by turns: `python python/benches/compare.py [--ranks 2] [--rounds 7] [-J FILE]`.

One process per rank, all on this machine. Of each thing measured the median of the rounds is shown, with the lowest and the highest.
PyTorch's flight recorder is on, as it is by default; TORCH_FR_BUFFER_SIZE=0 turns it off.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F
import torch_ronde  # noqa: F401 - registers

sys.path.insert(0, str(Path(__file__).parents[2] / "examples/python"))
from gpt import GPT  # noqa: E402

SIZES = [8, 4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20]


def seconds(call: Callable[[], object], times: int) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - begin) / times


def by_turns(rounds: int, calls: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Each once per round; all ranks begin each together."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            dist.barrier()
            taken[name].append(call())
    return taken


def measure(rank: int, options: argparse.Namespace, results: object) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options.port))
    dist.init_process_group("gloo", rank=rank, world_size=options.ranks)
    groups = {name: dist.new_group(backend=name) for name in ("gloo", "ronde")}
    found: dict[str, dict[str, list[float]]] = {}
    if options.ranks > 1:
        for size in SIZES:
            data = torch.ones(size // 4)
            times = max(2, min(1000, (16 << 20) // size))

            def reduce(group: dist.ProcessGroup, data: torch.Tensor = data, times: int = times) -> float:
                dist.all_reduce(data, group=group)
                taken = seconds(lambda: dist.all_reduce(data, group=group), times)
                data.fill_(1)
                return taken

            found[f"all_reduce {size} B"] = by_turns(
                options.rounds, {name: (lambda g=group: reduce(g)) for name, group in groups.items()}
            )
        found |= train(groups, options.rounds)
    else:
        data = torch.ones(2)
        for name, group in groups.items():
            backend = group._get_backend(torch.device("cpu"))
            opts = dist.AllreduceOptions()
            opts.asyncOp = False

            def call(backend: object = backend, opts: object = opts) -> None:
                backend.allreduce([data], opts).wait()

            found.setdefault("backend.allreduce + wait, world 1", {})[name] = [
                seconds(call, 2000) for _ in range(options.rounds)
            ]
    if rank == 0:
        results.put(found)  # type: ignore[attr-defined]
    dist.barrier()
    dist.destroy_process_group()


def train(groups: dict[str, dist.ProcessGroup], rounds: int) -> dict[str, dict[str, list[float]]]:
    torch.manual_seed(0)
    tokens = torch.randint(96, (4, 129))
    runs: dict[str, Callable[[], float]] = {}
    for name, group in groups.items():
        model = nn.parallel.DistributedDataParallel(GPT(96, width=384, layers=6, heads=6, length=128), process_group=group)

        def step(model: nn.Module = model) -> None:
            model.zero_grad(set_to_none=True)
            F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()

        for _ in range(3):
            step()
        runs[name] = lambda step=step: seconds(step, 3)
        if name == "gloo":

            def local(model: nn.Module = model, step: Callable[[], None] = step) -> float:
                with model.no_sync():
                    return seconds(step, 3)

            runs["no communication"] = local
    return {"DDP step of a GPT with 10.7 M parameters": by_turns(rounds, runs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2, help="1: what the binding costs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--port", type=int, default=29533)
    parser.add_argument("-J", "--json", help="write all figures there, in seconds")
    options = parser.parse_args()
    results = mp.get_context("spawn").SimpleQueue()
    mp.spawn(measure, (options, results), options.ranks, join=False)
    found = results.get()
    for what, taken in found.items():
        shown = [
            f"{name} {1e6 * statistics.median(times):.1f} µs ({1e6 * min(times):.1f}–{1e6 * max(times):.1f})"
            for name, times in taken.items()
        ]
        ratio = statistics.median(taken["gloo"]) / statistics.median(taken["ronde"])
        print(f"{what}: {', '.join(shown)}; Gloo takes {ratio:.2f} times as long")
        if "no communication" in taken:
            # Of each round by itself: the machine is not always as fast.
            rest = {
                name: statistics.median(a - b for a, b in zip(taken[name], taken["no communication"]))
                for name in ("gloo", "ronde")
            }
            print(f"  of that in communication: gloo {1e3 * rest['gloo']:.1f} ms, ronde {1e3 * rest['ronde']:.1f} ms")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(found, file, indent=1)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
