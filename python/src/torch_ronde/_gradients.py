"""Gradients that are averaged over the members while the backward pass goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ._state import local

if TYPE_CHECKING:
    from ._elastic import Step, World

# As PyTorch's DDP has it.
BUCKET = 25 << 20


class _Bucket:
    """Gradients of one type that travel together."""

    def __init__(self, parameters: list[torch.nn.Parameter], wire: torch.dtype | None) -> None:
        self.parameters = parameters
        parts = [local(parameter) for parameter in parameters]
        self.flat = torch.zeros(sum(part.numel() for part in parts), dtype=wire or parts[0].dtype)
        split = self.flat.split([part.numel() for part in parts])
        self.views = [piece.view(part.shape) for piece, part in zip(split, parts)]
        self.missing: set[int] = set()

    def fill(self, index: int) -> None:
        """Takes a gradient in; zeros for one that there is not."""
        gradient = self.parameters[index].grad
        if gradient is None:
            self.views[index].zero_()
        elif local(gradient).data_ptr() != self.views[index].data_ptr():
            self.views[index].copy_(local(gradient))
        self.missing.discard(index)

    def hand_out(self) -> None:
        for parameter, view in zip(self.parameters, self.views):
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            is_alike = parameter.device.type == "cpu" and parameter.dtype == view.dtype
            if is_alike and type(parameter.grad) is torch.Tensor:
                parameter.grad = view
            else:
                local(parameter.grad).copy_(view)


class Gradients:
    """All gradients of a module, in buckets that start as soon as they are complete, in the same order on every member: the
    parameters' own from the last to the first, which is about that of the backward pass."""

    def __init__(
        self, world: World, module: torch.nn.Module, bucket_bytes: int, wire: torch.dtype | None = None
    ) -> None:
        self._world = world
        self.buckets: list[_Bucket] = []
        gathered: list[torch.nn.Parameter] = []
        size = 0
        for parameter in reversed([p for p in module.parameters() if p.requires_grad]):
            if gathered and (parameter.dtype != gathered[0].dtype or size >= bucket_bytes):
                self.buckets.append(_Bucket(gathered, wire))
                gathered, size = [], 0
            gathered.append(parameter)
            size += local(parameter).numel() * parameter.element_size()
        if gathered:
            self.buckets.append(_Bucket(gathered, wire))
        for at, bucket in enumerate(self.buckets):
            for index, parameter in enumerate(bucket.parameters):
                parameter.register_post_accumulate_grad_hook(self._hook(at, index))
        self._next = 0

    def begin(self) -> None:
        self._next = 0
        for bucket in self.buckets:
            bucket.missing = set(range(len(bucket.parameters)))

    def _hook(self, at: int, index: int) -> Any:
        def ready(_: torch.nn.Parameter) -> None:
            step = self._world._current
            if step is None or step._accumulates:
                return
            bucket = self.buckets[at]
            if index not in bucket.missing:
                raise RuntimeError(
                    "a second backward pass in one step: put all but the last one in `with s.accumulate():`, or call "
                    "backward once, on the sum of the losses"
                )
            bucket.fill(index)
            while self._next < len(self.buckets) and not self.buckets[self._next].missing:
                self._start(step)

        return ready

    def _start(self, step: Step) -> None:
        step.average(self.buckets[self._next].flat)
        self._next += 1

    def finish(self, step: Step) -> None:
        """What the backward pass has not reached counts as zeros."""
        while self._next < len(self.buckets):
            bucket = self.buckets[self._next]
            for index in sorted(bucket.missing):
                bucket.fill(index)
            self._start(step)

    def hand_out(self) -> None:
        for bucket in self.buckets:
            bucket.hand_out()
