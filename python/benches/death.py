"""What a death in the backward pass costs the others: `python python/benches/death.py [--rounds 7]`.

Three processes train a GPT of 0.4 million parameters; the last one kills itself in the middle of the backward pass of step 20. Ronde: how
much longer that step takes the others than the median of those before, until their models have taken it. Gloo, by c10d's
reconfigure: how long until each has its error, then until the two of them are a group again; the step is lost, and made again.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "examples/python"))
from gpt import GPT  # noqa: E402

RANKS, FATAL = 3, 20
# After which Gloo gives a call up, where nothing else tells that a peer is gone.
TIMEOUT = 5.0


def trainer(rank: int, wrap: Callable[[torch.nn.Module], torch.nn.Module]) -> Callable[[], None]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = GPT(96, width=96, layers=3, heads=4, length=64)
    run = wrap(model)
    opt = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(96, (8, 65))
    made = 0

    def backward() -> torch.optim.Optimizer:
        nonlocal made
        if made == FATAL and rank == RANKS - 1:
            model.blocks[1].mix.weight.register_hook(lambda _: os.kill(os.getpid(), signal.SIGKILL))
        made += 1
        opt.zero_grad()
        F.cross_entropy(run(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        return opt

    return backward


def ronde(rank: int, address: str) -> list[float]:
    import torch_ronde

    with torch_ronde.join(address, rank=rank, size=RANKS) as world:
        backward = trainer(rank, lambda model: world.elastic(model, bucket_bytes=200_000))
        state = world.state()
        times = []
        while state.step <= FATAL:
            begin = time.perf_counter()
            with world.step(state) as s:
                s.commit(backward().step)
            times.append(time.perf_counter() - begin)
        assert s.absent == (RANKS - 1,)
    return [times[-1] - statistics.median(times[1:-1])]


def gloo(rank: int, address: str) -> list[float]:
    host, port = address.split(":")
    store = dist.TCPStore(host, int(port), None, rank == 0, timedelta(seconds=30), wait_for_workers=False)
    api = dist.distributed_c10d
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=TIMEOUT), enable_reconfigure=True
    )

    def meet(round: int, members: range) -> None:
        store.set(f"{round}/{rank}", api._get_reconfigure_handle())
        api._reconfigure(round, [store.get(f"{round}/{member}").decode() for member in members]).wait()

    meet(1, range(RANKS))
    backward = trainer(rank, lambda model: torch.nn.parallel.DistributedDataParallel(model, bucket_cap_mb=0.2))
    times = []
    for _ in range(FATAL):
        begin = time.perf_counter()
        backward().step()
        times.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    try:
        backward()
    except RuntimeError:
        noticed = time.perf_counter()
    meet(2, range(RANKS - 1))
    met = time.perf_counter()
    store.set(f"over/{rank}", "")
    store.wait([f"over/{member}" for member in range(RANKS - 1)])
    return [noticed - begin - statistics.median(times[1:]), met - noticed]


def process(rank: int, run: Callable[[int, str], list[float]], port: int, folder: str) -> None:
    found = run(rank, f"127.0.0.1:{port}")
    (Path(folder) / str(rank)).write_text(" ".join(map(str, found)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--port", type=int, default=29600, help="the first of twice as many as there are rounds")
    options = parser.parse_args()
    found: dict[str, list[list[float]]] = {"ronde": [], "gloo": []}
    for turn in range(options.rounds):
        for number, run in enumerate((ronde, gloo)):
            with tempfile.TemporaryDirectory() as folder:
                port = options.port + 2 * turn + number
                processes = [
                    mp.get_context("spawn").Process(target=process, args=(rank, run, port, folder))
                    for rank in range(RANKS)
                ]
                [each.start() for each in processes]
                [each.join() for each in processes]
                for rank in range(RANKS - 1):
                    found[run.__name__].append([float(x) for x in (Path(folder) / str(rank)).read_text().split()])
    step = [row[0] for row in found["ronde"]]
    print(f"ronde: the step took {1e3 * statistics.median(step):.0f} ms longer (to {1e3 * max(step):.0f}); no step lost")
    for what, column in (("noticed after", 0), ("a group again after", 1)):
        times = [row[column] for row in found["gloo"]]
        print(f"gloo: {what} {1e3 * statistics.median(times):.0f} ms ({1e3 * min(times):.0f} to {1e3 * max(times):.0f})")


if __name__ == "__main__":
    main()
