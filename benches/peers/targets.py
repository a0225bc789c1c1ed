"""What Ronde has to reach against its peers, and whether it does. Ratios are of medians of one run."""

import statistics
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
    # Median of the ratios of each round: the machine may change its state between two rounds, seldom within one.
    by_round: float | None = None
    # Ratio of the least values: what each can do where nothing else wants the machine.
    by_least: float | None = None

    @property
    def met(self):
        if self.factor is None:
            return None
        return self.suffices(self.ratio)

    @property
    def met_at_best(self):
        return self.suffices(self.by_least)

    def suffices(self, ratio):
        return ratio >= self.factor if self.more_is_better else ratio <= self.factor


def verdicts(rows, cores):
    """Every comparison that the samples allow. `rows`: (collective, ranks, size) → system → side → one of each round."""
    found = []
    for (collective, ranks, size), samples in rows.items():
        name = f"{collective} {ranks} ranks {human(size)}"
        if ranks > cores:
            found += oversubscribed(name, samples)
        else:
            found += pairwise(name, size, samples)
        found += cost_of_tolerance(name, size, samples)
    return found


def by_round(samples, above, below):
    """Median of the ratios of two systems, each a name and a side, round by round."""
    pairs = zip(*(samples.get(name, {}).get(side) or [] for name, side in (above, below)))
    ratios = [one / other for one, other in pairs]
    return statistics.median(ratios) if ratios else None


def by_least(samples, above, below):
    """Ratio of the least values of two systems, each a name and a side."""
    one, other = (min(samples[name][side]) for name, side in (above, below))
    return one / other


def pairwise(name, size, samples):
    for target in PAIRWISE:
        for side in ("out_of_place", "in_place"):
            at = peer_side(samples, target.theirs, side)
            ours, theirs = median(samples, target.ours, side), median(samples, target.theirs, at)
            if ours and theirs:
                factor = target.factor(size) if side == "out_of_place" else None
                # Its ring holds copies: it says nothing of registered memory.
                plain = "bare-" + target.ours.split("-")[1] if not target.ours.endswith("registered") else ""
                bare = by_round(samples, (target.theirs, at), (plain, side))
                paired = by_round(samples, (target.theirs, at), (target.ours, side))
                ratio = theirs / ours
                least = by_least(samples, (target.theirs, at), (target.ours, side))
                pair = (target.ours, target.theirs)
                yield Verdict(name, side, *pair, ratio, factor, bare=bare, by_round=paired, by_least=least)


def oversubscribed(name, samples):
    for ours_name, peers in OVERSUBSCRIBED:
        for side in ("out_of_place", "in_place"):
            ours = median(samples, ours_name, side)
            sides = {peer: peer_side(samples, peer, side) for peer in peers}
            theirs = [(median(samples, peer, at), peer) for peer, at in sides.items()]
            theirs = [(value, peer) for value, peer in theirs if value]
            if ours and theirs:
                best, peer = min(theirs)
                paired = by_round(samples, (peer, sides[peer]), (ours_name, side))
                factor = 1 if side == "out_of_place" else None
                least = by_least(samples, (peer, sides[peer]), (ours_name, side))
                pair = (ours_name, peer)
                yield Verdict(name, side, *pair, best / ours, factor, by_round=paired, by_least=least)


def cost_of_tolerance(name, size, samples):
    """`recover` over `none`: at most 10 % out of place from 1 MiB up and 15 % below; more in place."""
    for transport, in_place in (("tcp", 1.15), ("shm", 1.30)):
        limits = {"out_of_place": 1.10 if size >= MIB else 1.15, "in_place": in_place}
        for side, limit in limits.items():
            ours, theirs = f"ronde-{transport}-recover", f"ronde-{transport}-none"
            recover, none = median(samples, ours, side), median(samples, theirs, side)
            if recover and none:
                paired = by_round(samples, (ours, side), (theirs, side))
                least = by_least(samples, (ours, side), (theirs, side))
                ratio, pair = recover / none, (ours, theirs)
                yield Verdict(name, side, *pair, ratio, limit, more_is_better=False, by_round=paired, by_least=least)


def median(samples, system, side):
    times = samples.get(system, {}).get(side)
    return statistics.median(times) if times else None


def peer_side(samples, system, side):
    """A peer that lacks a side is compared by the other one: at best its own copy comes on top."""
    other = "in_place" if side == "out_of_place" else "out_of_place"
    return side if samples.get(system, {}).get(side) else other


def human(size):
    for unit, name in ((MIB, "MiB"), (KIB, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"
