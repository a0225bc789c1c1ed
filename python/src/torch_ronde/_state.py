"""What members of an elastic job have in common, and how those who come receive it."""

from __future__ import annotations

import hashlib
import io
import logging
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import ronde
import torch
from torch.utils import _pytree as pytree

_log = logging.getLogger("torch_ronde")
# What one message of a transfer carries at most, and how many of them a process has on their way.
PIECE = 16 << 20
_IN_FLIGHT = 8
# Digests of the whole state are compared when it has come.
_DIGEST_BYTES = 16
# A transfer that takes longer shows how far it is, if there is a terminal.
_SHOWN_AFTER = 0.5


class State:
    """The parts of a training run that all members have alike: whatever has `state_dict` and `load_state_dict`, such as the
    model, the optimizer, a schedule, an [`ElasticSampler`]; and `step`, the number of steps that have been made.

    Whoever comes receives it from those who are the most advanced, before its first step. At the very start that is the
    lowest rank, unless somebody has loaded a checkpoint: then call [`loaded`] there.
    """

    def __init__(self, parts: dict[str, Any]) -> None:
        for name, part in parts.items():
            if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
                raise TypeError(f"{name} has no state_dict and load_state_dict, by which its state could go to newcomers")
        self.parts = parts
        self.step = 0
        self._is_new = True

    def loaded(self, step: int) -> None:
        """What is here was loaded, after so many steps: it counts for the others too, unless they are further."""
        self.step, self._is_new = step, False

    def tree(self) -> dict[str, Any]:
        """All that is to be the same everywhere."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load(self, tree: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(tree[name])


class Buffers:
    """The memory of all tensors of a state, as pieces of bytes in host memory."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        # Copies of those that are elsewhere, or not in a row.
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._bytes = [self._row(local(tensor.detach())) for tensor in tensors]
        self.pieces = [part for whole in self._bytes for part in whole.split(PIECE)]

    def _row(self, tensor: torch.Tensor) -> torch.Tensor:
        row = tensor
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            row = tensor.cpu().contiguous().clone()
            self._copies.append((tensor, row))
        return row.reshape(-1).view(torch.uint8)

    def bring_back(self) -> None:
        """What came is where it belongs."""
        for tensor, copy in self._copies:
            tensor.copy_(copy)

    def total(self) -> int:
        return sum(whole.numel() for whole in self._bytes)

    def digest(self) -> bytes:
        hashed = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for whole in self._bytes:
            hashed.update(whole.numpy())
        return hashed.digest()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a DTensor; anything else as it is."""
    return getattr(tensor, "_local_tensor", tensor)


def synchronize(group: ronde.Group, state: State) -> None:
    """Everybody gets the state of the most advanced. All members call it, at the same place."""
    best = _most_advanced(group, state)
    tree = state.tree()
    leaves, shape = pytree.tree_flatten(tree)
    mine = _skeleton(leaves, shape)
    theirs = bytes(_share_bytes(group, mine if best.has_it else None))
    if not best.has_it:
        leaves, shape = _fitted(theirs, leaves, shape)
        tree = pytree.tree_unflatten(leaves, shape)
    buffers = Buffers([leaf for leaf in leaves if isinstance(leaf, torch.Tensor)])
    _transfer(group, buffers, best.has_it)
    _compare(group, buffers, best.has_it)
    if not best.has_it:
        buffers.bring_back()
        state.load(tree)
        _log.info("received the state of step %d: %.1f MB", best.step, buffers.total() / 1e6)
    state.step, state._is_new = best.step, False


class _Best:
    def __init__(self, step: int, has_it: bool) -> None:
        self.step, self.has_it = step, has_it


def _most_advanced(group: ronde.Group, state: State) -> _Best:
    # What was made or loaded is worth more than what is new, however far that says it is.
    worth = 0 if state._is_new else 1 + state.step
    table = _gathered(group, torch.tensor([worth], dtype=torch.int64))
    most = max(int(row[0]) for row in table.values())
    holders = [rank for rank, row in table.items() if int(row[0]) == most]
    if most == 0:
        # Nobody has anything: that of the lowest rank it is.
        holders = holders[:1]
    return _Best(max(0, most - 1), group.rank in holders)


def _gathered(group: ronde.Group, mine: torch.Tensor) -> dict[int, torch.Tensor]:
    """What each member gives, by rank, of those who are there; the same everywhere."""
    every = torch.zeros(group.size * mine.numel(), dtype=mine.dtype)
    outcome = group.all_gather(mine, every, strict=True)
    rows = every.view(group.size, -1)
    return {rank: rows[rank] for rank in range(group.size) if rank not in outcome.absent}


def _skeleton(leaves: list[Any], shape: Any) -> bytes:
    """The state without the contents of its tensors."""
    hollow = [torch.empty_like(local(x), device="meta") if isinstance(x, torch.Tensor) else x for x in leaves]
    file = io.BytesIO()
    torch.save(pytree.tree_unflatten(hollow, shape), file)
    return file.getvalue()


def _fitted(skeleton: bytes, leaves: list[Any], shape: Any) -> tuple[list[Any], Any]:
    """Another's state, with a place for the contents of each tensor: the one here, if it is alike. An optimizer that has made no
    step has none."""
    # Of what comes from others nothing is executed.
    theirs, their_shape = pytree.tree_flatten(torch.load(io.BytesIO(skeleton), weights_only=True))
    mine = leaves if shape == their_shape else [None] * len(theirs)
    return [_place(there, here) for there, here in zip(theirs, mine)], their_shape


def _place(there: Any, here: Any) -> Any:
    if not isinstance(there, torch.Tensor):
        return there
    if isinstance(here, torch.Tensor):
        own = local(here)
        if own.shape == there.shape and own.dtype == there.dtype:
            return here
    return torch.empty_like(there, device="cpu")


def _share_bytes(group: ronde.Group, mine: bytes | None) -> bytearray:
    length = torch.tensor([len(mine or b"")], dtype=torch.int64)
    group.all_reduce(length, op="max", strict=True)
    # Those who have it may differ in what does not matter, such as the order of keys: that of one counts.
    room = bytearray(int(length))
    has_it = mine is not None and len(mine) == len(room)
    if has_it and mine is not None:
        room[:] = mine
    group.share(room, has_it)
    return room


def _transfer(group: ronde.Group, buffers: Buffers, has_it: bool) -> None:
    """Pieces go from those who have them to those who do not, several givers at once; what a loss interrupts comes from another."""
    have = torch.full((len(buffers.pieces),), int(has_it), dtype=torch.uint8)
    shown = _Shown(sum(piece.numel() for piece in buffers.pieces) if not has_it else 0)
    while True:
        table = _gathered(group, have)
        plan = list(_plan(table))
        if not plan:
            return shown.end()
        if not all(any(int(row[piece]) for row in table.values()) for _, _, piece in plan):
            raise ronde.PeerLost("those who had the state of this job are lost, and nobody has all of it")
        _exchange(group, buffers, plan, have, shown)


def _plan(table: dict[int, torch.Tensor]) -> Iterator[tuple[int, int, int]]:
    """Who gives whom which piece; the same everywhere, and pieces in order, so that no two wait for each other."""
    pieces = len(next(iter(table.values())))
    for piece in range(pieces):
        givers = [rank for rank, row in table.items() if int(row[piece])]
        for turn, to in enumerate(rank for rank, row in table.items() if not int(row[piece])):
            yield (givers[(piece + turn) % len(givers)] if givers else -1), to, piece


def _exchange(
    group: ronde.Group, buffers: Buffers, plan: list[tuple[int, int, int]], have: torch.Tensor, shown: _Shown
) -> None:
    flying: deque[tuple[ronde.Op, int | None]] = deque()
    lost: set[int] = set()

    def land() -> None:
        op, piece = flying.popleft()
        try:
            op.wait()
        except ronde.PeerLost:
            # The next round plans without that one.
            return
        if piece is not None:
            have[piece] = 1
            shown.add(buffers.pieces[piece].numel())

    for giver, to, piece in plan:
        data = buffers.pieces[piece]
        other = to if giver == group.rank else giver
        if group.rank not in (giver, to) or other in lost:
            continue
        try:
            if giver == group.rank:
                flying.append((group.send(data, to, wait=False), None))
            else:
                flying.append((group.recv(data, giver, wait=False), piece))
        except ronde.PeerLost:
            lost.add(other)
        if len(flying) >= _IN_FLIGHT:
            land()
    while flying:
        land()


def _compare(group: ronde.Group, buffers: Buffers, has_it: bool) -> None:
    """All have the same, to the bit."""
    digest = buffers.digest()
    table = _gathered(group, torch.frombuffer(bytearray(bytes([has_it]) + digest), dtype=torch.uint8))
    digests = {rank: bytes(row.tolist()) for rank, row in table.items()}
    holders = {rank: d[1:] for rank, d in digests.items() if d[0]}
    if not holders:
        return
    first = min(holders)
    wrong = sorted(rank for rank, d in digests.items() if d[1:] != holders[first])
    if wrong:
        raise ronde.Diverged(
            f"the state of ranks {wrong} is not that of rank {first}: "
            + ("those had made the same number of steps" if set(wrong) & set(holders) else "it was changed on its way")
        )


class _Shown:
    """How far a transfer is, for people who look at a terminal."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._began, self._bar = total, 0, time.monotonic(), None

    def add(self, count: int) -> None:
        self._done += count
        if self._bar is None and time.monotonic() - self._began > _SHOWN_AFTER and sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(
                total=self._total, initial=self._done, unit="B", unit_scale=True, desc="receiving the state"
            )
        elif self._bar is not None:
            self._bar.update(count)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()
