"""What Ronde has to reach against its peers, and whether it does. Ratios are of medians of one run."""

from dataclasses import dataclass

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Band:
    """The least factor for sizes from `first` to `last` bytes."""

    first: int
    last: int
    factor: float


@dataclass(frozen=True)
class Target:
    """`ours` has to be `factor` times as fast as `theirs`, out of place with two ranks."""

    ours: str
    theirs: str
    bands: tuple

    def factor(self, size):
        return next((band.factor for band in self.bands if band.first <= size <= band.last), None)


def up_to(last, factor):
    return Band(0, last, factor)


def at(size, factor):
    return Band(size, size, factor)


def above(first, factor):
    return Band(first, 1 << 62, factor)


# The smallest size of a row is 4 bytes a rank, so that "8 bytes" covers 16 on four ranks.
SMALLEST = 16

PAIRWISE = (
    Target("ronde-tcp-recover", "gloo-tcp", (up_to(32 * KIB, 20), at(MIB, 8), above(16 * MIB, 2))),
    Target(
        "ronde-tcp-recover",
        "openmpi-tcp",
        (up_to(SMALLEST, 1.2), at(32 * KIB, 2), at(MIB, 1.5), above(16 * MIB, 2)),
    ),
    Target(
        "ronde-shm-recover",
        "openmpi-shm",
        (up_to(SMALLEST, 1), at(32 * KIB, 5), at(MIB, 2), above(16 * MIB, 2.5)),
    ),
    Target("ronde-shm-recover-registered", "openmpi-shm", (at(MIB, 3), above(16 * MIB, 3.5))),
)

# Oversubscribed, Ronde only has to be ahead of the best on the same kind of transport.
OVERSUBSCRIBED = (
    ("ronde-tcp-recover", ("gloo-tcp", "openmpi-tcp")),
    ("ronde-shm-recover", ("openmpi-shm",)),
)


@dataclass(frozen=True)
class Verdict:
    """One comparison. A `factor` of `None` means that no target is set for the row."""

    row: str
    side: str
    ours: str
    theirs: str
    ratio: float
    factor: float | None
    more_is_better: bool = True
    # What the bare transport reaches of the same ratio.
    bare: float | None = None

    @property
    def met(self):
        if self.factor is None:
            return None
        return self.ratio >= self.factor if self.more_is_better else self.ratio <= self.factor


def verdicts(rows, cores):
    """Every comparison that the medians allow. `rows`: (collective, ranks, size) → system → side → median."""
    found = []
    for (collective, ranks, size), medians in rows.items():
        name = f"{collective} {ranks} ranks {human(size)}"
        if ranks > cores:
            found += oversubscribed(name, medians)
        else:
            found += pairwise(name, size, medians)
        found += cost_of_tolerance(name, size, medians)
    return found


def pairwise(name, size, medians):
    for target in PAIRWISE:
        for side in ("out_of_place", "in_place"):
            ours, theirs = median(medians, target.ours, side), peer_median(medians, target.theirs, side)
            if ours and theirs:
                factor = target.factor(size) if side == "out_of_place" else None
                bare = median(medians, "bare-" + target.ours.split("-")[1], side)
                reached = theirs / bare if bare else None
                yield Verdict(name, side, target.ours, target.theirs, theirs / ours, factor, bare=reached)


def oversubscribed(name, medians):
    for ours_name, peers in OVERSUBSCRIBED:
        for side in ("out_of_place", "in_place"):
            ours = median(medians, ours_name, side)
            theirs = [(peer_median(medians, peer, side), peer) for peer in peers]
            theirs = [(value, peer) for value, peer in theirs if value]
            if ours and theirs:
                best, peer = min(theirs)
                yield Verdict(name, side, ours_name, peer, best / ours, 1 if side == "out_of_place" else None)


def cost_of_tolerance(name, size, medians):
    """`recover` over `none`: at most 10 % out of place from 1 MiB up and 15 % below; more in place."""
    for transport, in_place in (("tcp", 1.15), ("shm", 1.30)):
        limits = {"out_of_place": 1.10 if size >= MIB else 1.15, "in_place": in_place}
        for side, limit in limits.items():
            recover = median(medians, f"ronde-{transport}-recover", side)
            none = median(medians, f"ronde-{transport}-none", side)
            if recover and none:
                ours, theirs = f"ronde-{transport}-recover", f"ronde-{transport}-none"
                yield Verdict(name, side, ours, theirs, recover / none, limit, more_is_better=False)


def median(medians, system, side):
    return medians.get(system, {}).get(side)


def peer_median(medians, system, side):
    """A peer that lacks a side is compared by the other one: at best its own copy comes on top."""
    other = "in_place" if side == "out_of_place" else "out_of_place"
    return median(medians, system, side) or median(medians, system, other)


def human(size):
    for unit, name in ((MIB, "MiB"), (KIB, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"
