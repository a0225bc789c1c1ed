"""One rank of one collective over Gloo (torch.distributed), measured as `ronde bench` measures it.

usage: gloo_bench.py COLLECTIVE SIZE:ITERATIONS...   (RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set)

Vectors are rewritten before use, as many at once as fit into BATCH_BYTES; then the ranks meet and run the
operations of the batch one after another. An operation's time is the largest over the ranks, a row's time
the median over the operations. Rank 0 prints one JSON object per size. Gloo's all-reduce works in place
only and its all-to-all out of place only: what is not offered is null.
"""

import json
import os
import statistics
import sys
import time

import torch
import torch.distributed as dist

BATCH_BYTES = 1 << 20
PATTERN_ELEMENTS = 16 << 10


def warm_up(size):
    """As warm_up of systems.py, but fewer small ones: each takes 100 times as long, so that the time is longer all the same."""
    return max(1, min(1000, (16 << 20) // size))


SIDES = {
    "all-reduce": ("in_place",),
    "all-gather": ("out_of_place", "in_place"),
    "reduce-scatter": ("out_of_place",),
    "all-to-all": ("out_of_place",),
}


class Layout:
    """Lengths, in elements, of the vectors of one operation."""

    def __init__(self, collective, size, side, world):
        self.collective, self.in_place = collective, side == "in_place"
        whole = size // 4
        self.block = whole // world
        if collective != "all-reduce":
            whole = self.block * world
        self.send = self.block if collective == "all-gather" and not self.in_place else whole
        self.recv = self.block if collective == "reduce-scatter" else whole
        self.send_stride, self.recv_stride = -(-self.send // 16) * 16, -(-self.recv // 16) * 16
        bytes_each = 4 * (self.recv_stride + (0 if self.in_place else self.send_stride))
        self.operations = max(1, BATCH_BYTES // bytes_each)


def value_of(rank, indices):
    """Small integers, different on each rank: their sums are exact."""
    return ((indices * 7 + rank * 13) % 31 - 15).to(torch.float32)


def views(layout, rank, send, recv, at):
    output = recv[at * layout.recv_stride :][: layout.recv]
    if not layout.in_place:
        return send[at * layout.send_stride :][: layout.send], output
    if layout.collective == "all-gather":
        return output[rank * layout.block :][: layout.block], output
    return output, output


def operate(collective, source, target):
    if collective == "all-reduce":
        dist.all_reduce(target)
    elif collective == "all-gather":
        dist.all_gather_into_tensor(target, source)
    elif collective == "reduce-scatter":
        dist.reduce_scatter_tensor(target, source)
    else:
        dist.all_to_all_single(target, source)


def measure(layout, rank, send, recv, pattern, iterations):
    times = []
    while len(times) < iterations:
        operations = min(iterations - len(times), layout.operations)
        for part in (recv if layout.in_place else send).split(PATTERN_ELEMENTS):
            part.copy_(pattern[: len(part)])
        calls = [views(layout, rank, send, recv, at) for at in range(operations)]
        dist.barrier()
        last = time.perf_counter()
        for source, target in calls:
            operate(layout.collective, source, target)
            now = time.perf_counter()
            times.append(now - last)
            last = now
    return times


def expected(layout, rank, world):
    block = layout.block
    whole = torch.arange(layout.recv)
    if layout.collective == "all-gather":
        own = torch.arange(block)
        parts = [value_of(r, own + (r * block if layout.in_place else 0)) for r in range(world)]
        return torch.cat(parts)
    if layout.collective == "all-to-all":
        return torch.cat([value_of(r, torch.arange(block) + rank * block) for r in range(world)])
    first = rank * block if layout.collective == "reduce-scatter" else 0
    return sum(value_of(r, whole + first) for r in range(world))


def wrong_elements(layout, rank, world, send, recv):
    recv[: layout.recv] = float("nan")
    filled = recv if layout.in_place else send
    length = layout.recv if layout.in_place else layout.send
    filled[:length] = value_of(rank, torch.arange(length))
    source, target = views(layout, rank, send, recv, 0)
    operate(layout.collective, source, target)
    wrong = (target != expected(layout, rank, world)).sum()
    dist.all_reduce(wrong)
    return int(wrong)


def side(collective, size, name, iterations, rank, world):
    """Median time in microseconds and the number of wrong elements."""
    layout = Layout(collective, size, name, world)
    layout.operations = min(layout.operations, iterations)
    send = torch.zeros(0 if layout.in_place else layout.send_stride * layout.operations)
    recv = torch.zeros(layout.recv_stride * layout.operations)
    pattern = value_of(rank, torch.arange(PATTERN_ELEMENTS))
    left = warm_up(size)
    while left > 0:
        measure(layout, rank, send, recv, pattern, min(left, iterations))
        left -= iterations
    times = torch.tensor(measure(layout, rank, send, recv, pattern, iterations), dtype=torch.float64)
    dist.all_reduce(times, op=dist.ReduceOp.MAX)
    return 1e6 * statistics.median(times.tolist()), wrong_elements(layout, rank, world, send, recv)


def main():
    collective, rows = sys.argv[1], [tuple(map(int, row.split(":"))) for row in sys.argv[2:]]
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    for size, iterations in rows:
        row = {"size": size, "out_of_place": None, "in_place": None, "wrong": 0}
        for name in SIDES[collective]:
            row[name], wrong = side(collective, size, name, iterations, rank, world)
            row["wrong"] += wrong
        if rank == 0:
            print(json.dumps(row), flush=True)
    dist.destroy_process_group()


main()
