"""A small GPT learns to write like a book, letter by letter, on as many processes as there are, which come, go and die.

    ronde run -n 3 --keep-going --restarts 100 python examples/python/gpt.py

Kill any of the three (`kill -9`) and see the others go on; `curve.py` beside this does it, and plots what it costs.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

TEXT = Path(__file__).parent / "data/kjv.txt"


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        q, k, v = (
            part.view(rows, length, self.heads, -1).transpose(1, 2) for part in self.attend(self.before(x)).chunk(3, -1)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(seen.transpose(1, 2).reshape(rows, length, width))
        return x + self.think(self.between(x))


class GPT(nn.Module):
    """Decoder-only transformer (Radford et al. 2018, with the norms before, as in GPT-2)."""

    def __init__(self, words: int, width: int, layers: int, heads: int, length: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.last, self.out = nn.LayerNorm(width), nn.Linear(width, words, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        return self.out(self.last(self.blocks(x)))


def main() -> None:
    import torch_ronde

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8, help="pieces of text of each process in each step")
    parser.add_argument("--length", type=int, default=64, help="letters of a piece")
    parser.add_argument("--log", type=Path, help="a file per process: step, loss, members, process, seconds since 1970")
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = TEXT.read_text()
    letters = sorted(set(text))
    tokens = torch.tensor([letters.index(letter) for letter in text])
    pieces = tokens[: len(tokens) // options.length * options.length].view(-1, options.length)
    torch.manual_seed(1)
    model = GPT(len(letters), width=96, layers=3, heads=4, length=options.length)
    with torch_ronde.join() as world:
        world.elastic(model)
        opt = torch.optim.AdamW(model.parameters(), lr=2e-3)
        sampler = torch_ronde.ElasticSampler(len(pieces), options.batch)
        state = world.state(model=model, opt=opt, sampler=sampler)
        while state.step < options.steps:
            with world.step(state) as s:
                piece = pieces[sampler.take(s)]
                opt.zero_grad()
                loss = F.cross_entropy(model(piece[:, :-1]).flatten(0, 1), piece[:, 1:].flatten())
                loss.backward()
                s.commit(opt.step)
            if options.log:
                with open(f"{options.log}.{os.getpid()}", "a") as file:
                    print(state.step, loss.item(), s.size - len(s.absent), os.getpid(), time.time(), file=file)
            if state.step % 20 == 0 and world.rank == 0:
                print(f"step {state.step}: {loss.item():.3f} nats a letter, {s.size} members", flush=True)
        if world.rank == 0:
            print(write(model, letters, options.length))


@torch.no_grad()
def write(model: GPT, letters: list[str], length: int, count: int = 300) -> str:
    written = [letters.index("\n")]
    for _ in range(count):
        chances = model(torch.tensor([written[1 - length :]]))[0, -1].softmax(-1)
        written.append(int(torch.multinomial(chances, 1)))
    return "".join(letters[token] for token in written).strip()


if __name__ == "__main__":
    main()
