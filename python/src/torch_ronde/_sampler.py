"""Every sample once per epoch, whoever comes and goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ._elastic import Step


class ElasticSampler:
    """Which samples each member works on in each step of an elastic job: every sample of a data set of `length` once per epoch,
    though members come, go and die. It is a part of the job's state (`world.state(…, sampler=sampler)`).

        with world.step(state) as s:
            samples = sampler.take(s)         # batch_size of them at most, this member's own
            loss(model, data[samples]).backward()
            s.commit(opt.step)

    What a member was to work on that is lost in the step comes again later in the epoch. The last step of an epoch has fewer
    samples: gradients are averaged over samples, not over members (`s.weight`). A member for which none is left gets one that
    does not count, so that all make the same calls.
    """

    def __init__(self, length: int, batch_size: int, *, shuffle: bool = True, seed: int = 0) -> None:
        if length < 1 or batch_size < 1:
            raise ValueError(f"{length} samples in batches of {batch_size}: give at least one of each")
        self.length, self.batch_size, self.shuffle, self.seed = length, batch_size, shuffle, seed
        self.epoch = 0
        self._order: list[int] | None = None
        self._position = 0
        # Of members that were lost.
        self._again: list[int] = []
        self._taken: list[list[int]] | None = None

    @property
    def left(self) -> int:
        """How many samples of this epoch are still to come."""
        return len(self._again) + self.length - self._position

    def take(self, step: Step) -> list[int]:
        """This member's samples of this step."""
        if self._taken is not None:
            raise RuntimeError("take was called twice in one step")
        queue = self._queue(step.size * self.batch_size)
        self._taken = _dealt(queue, step.size)
        mine = self._taken[step.rank]
        step.weight = float(len(mine))
        step._samplers.append(self)
        return mine or queue[:1]

    def _queue(self, most: int) -> list[int]:
        if self._order is None:
            self._order = list(range(self.length))
            if self.shuffle:
                random = torch.Generator().manual_seed(self.seed + self.epoch)
                self._order = torch.randperm(self.length, generator=random).tolist()
        fresh = max(0, most - len(self._again))
        return self._again[:most] + self._order[self._position : self._position + fresh]

    def _commit(self, absent: Sequence[int]) -> None:
        """The step counts, without what these were to work on."""
        assert self._taken is not None
        count = sum(len(part) for part in self._taken)
        from_before = min(count, len(self._again))
        missed = [sample for rank in absent for sample in self._taken[rank]]
        self._again = self._again[from_before:] + missed
        self._position += count - from_before
        self._taken = None
        if self.left == 0:
            self.epoch, self._position, self._order = self.epoch + 1, 0, None

    def _drop(self) -> None:
        """The step does not count."""
        self._taken = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "length": self.length, "shuffle": self.shuffle, "seed": self.seed, "epoch": self.epoch,
            "position": self._position, "again": list(self._again),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for what in ("length", "shuffle", "seed"):
            if state[what] != getattr(self, what):
                raise ValueError(f"the others' sampler has {what} {state[what]}, this one {getattr(self, what)}")
        self.epoch, self._position, self._again = state["epoch"], state["position"], list(state["again"])
        self._order = None


def _dealt(queue: list[int], size: int) -> list[list[int]]:
    """As even as can be, in order."""
    each, rest = divmod(len(queue), size)
    ends = [rank * each + min(rank, rest) for rank in range(size + 1)]
    return [queue[ends[rank] : ends[rank + 1]] for rank in range(size)]
