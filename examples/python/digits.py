"""A model learns handwritten digits on as many processes as there are, which come, go and die.

    ronde run -n 3 --keep-going --restarts 100 python examples/python/digits.py --pause 0.05

Kill any of the three (`kill -9`), the first too: the others go on with the step that they are in, and another comes in its place,
which receives the model and trains along.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch_ronde

# 1,797 images of 8 x 8 (cli/data/README.md says from where): 64 values from 0 to 16, then the digit.
RECORDS = torch.frombuffer(
    bytearray((Path(__file__).parents[2] / "cli/data/digits.bin").read_bytes()), dtype=torch.uint8
).view(-1, 65)
ORDER = torch.randperm(len(RECORDS), generator=torch.Generator().manual_seed(1))
TEST = len(RECORDS) // 5


def images(which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return RECORDS[which, :64].float() / 16, RECORDS[which, 64].long()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that each step takes longer, to watch it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, test = ORDER[TEST:], ORDER[:TEST]
    with torch_ronde.join() as world:
        model = world.elastic(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)))
        opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
        sampler = torch_ronde.ElasticSampler(len(train), batch_size=32)
        state = world.state(model=model, opt=opt, sampler=sampler)
        seen = None
        while sampler.epoch < options.epochs:
            with world.step(state) as s:
                if (s.rank, s.size) != seen:
                    seen = s.rank, s.size
                    print(f"step {state.step}: rank {s.rank} of {s.size} (process {os.getpid()})", flush=True)
                x, y = images(train[sampler.take(s)])
                opt.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                s.commit(opt.step)
            if s.absent:
                print(f"step {state.step - 1}: went on without rank {', '.join(map(str, s.absent))}", flush=True)
            if state.step % 100 == 0 and s.rank == 0:
                print(f"step {state.step}, epoch {sampler.epoch}: loss {loss.item():.3f}", flush=True)
            time.sleep(options.pause)
        with torch.no_grad():
            x, y = images(test)
            right = (model(x).argmax(1) == y).float().mean().item()
        print(f"rank {world.rank}: {state.step} steps, {right:.1%} of {len(test)} test images right", flush=True)


if __name__ == "__main__":
    main()
