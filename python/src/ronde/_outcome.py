"""What calls that succeeded, and safe points, say of themselves."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from . import _library as c


@dataclass(frozen=True)
class Part:
    """A part of a vector with contributors of its own."""

    first: int
    count: int
    contributors: int
    absent: tuple[int, ...]


@dataclass(frozen=True)
class Hole:
    """Bytes `first` to `first + bytes` of an output that hold anything, since whoever was to give them is lost. `call`: in a
    commit which call's."""

    first: int
    bytes: int
    call: int


@dataclass(frozen=True)
class Outcome:
    """What a call that succeeded says of itself; the same everywhere, but for bytes and times. See ronde.h."""

    epoch: int
    seq: int
    contributors: int
    absent: tuple[int, ...]
    generation: int
    algorithm: str
    bytes_sent: int
    bytes_received: int
    interruptions: int
    interrupted_ns: int
    detected_ns: int
    stable_through: int
    weight: float
    holes: tuple[Hole, ...]
    parts: tuple[Part, ...]

    @staticmethod
    def of(o: c.Outcome) -> Outcome:
        return Outcome(
            epoch=o.epoch,
            seq=o.seq,
            contributors=o.contributors,
            absent=tuple(o.absent[: o.absent_count]) if o.absent_count else (),
            generation=o.generation,
            algorithm=(o.algorithm or b"").decode(),
            bytes_sent=o.bytes_sent,
            bytes_received=o.bytes_received,
            interruptions=o.interruptions,
            interrupted_ns=o.interrupted_ns,
            detected_ns=o.detected_ns,
            stable_through=o.stable_through,
            weight=o.weight,
            holes=tuple(Hole(h.first, h.bytes, h.call) for h in _entries(c.Hole, o.holes, o.hole_size, o.hole_count)),
            parts=tuple(
                Part(p.first, p.count, p.contributors, tuple(p.absent[: p.absent_count]) if p.absent_count else ())
                for p in _entries(c.Part, o.parts, o.part_size, o.part_count)
            ),
        )


def _entries(kind: Any, address: int | None, size: int, count: int) -> list[Any]:
    return [kind.from_address(address + i * size) for i in range(count)] if address else []


@dataclass(frozen=True)
class Change:
    """What a safe point changed. `joined` are the ranks of newcomers, the highest ones; `gone` those, as they were, of members
    that are not there any more."""

    changed: bool
    generation: int
    rank: int
    size: int
    joined: tuple[int, ...]
    gone: tuple[int, ...]

    @staticmethod
    def of(change: c.Change) -> Change:
        ranks, joined = change.ranks, change.joined
        gone = tuple(change.gone_ranks[: change.gone]) if change.gone else ()
        return Change(
            bool(change.changed), change.generation, change.rank, ranks, tuple(range(ranks - joined, ranks)), gone
        )


def new_outcome() -> c.Outcome:
    """A place for one."""
    return c.Outcome(weight=float("nan"))


def byref(struct: ctypes.Structure) -> Any:
    return ctypes.byref(struct)
