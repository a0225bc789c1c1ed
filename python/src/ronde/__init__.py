"""Collective communication that survives: all-reduce and its like among processes that come, go and die.

    import numpy, ronde

    with ronde.join() as group:               # where to meet comes from the environment: `ronde run -n 3 python this.py`
        x = numpy.full(4, group.rank, numpy.float32)
        outcome = group.all_reduce(x, op="avg")
        print(x, outcome.contributors)

No other package is needed: arrays of NumPy, JAX, PyTorch and of anything else with DLPack or the buffer protocol are used where they are.
"""

from ._group import Commit, Group, Op, Reduction, create_id, join, premul_sum, weighted_avg
from ._library import library
from ._outcome import Change, Hole, Outcome, Part
from .errors import (
    Aborted,
    Cancelled,
    Closed,
    Diverged,
    Expelled,
    InvalidArgument,
    JoinFailed,
    Mismatch,
    PeerLost,
    ResourceError,
    RondeError,
    Timeout,
)

__version__ = library.ronde_version_string().decode()

__all__ = [
    "Aborted",
    "Cancelled",
    "Change",
    "Closed",
    "Commit",
    "Diverged",
    "Expelled",
    "Group",
    "Hole",
    "InvalidArgument",
    "JoinFailed",
    "Mismatch",
    "Op",
    "Outcome",
    "Part",
    "PeerLost",
    "Reduction",
    "ResourceError",
    "RondeError",
    "Timeout",
    "create_id",
    "join",
    "premul_sum",
    "weighted_avg",
]
