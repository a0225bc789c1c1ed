"""What goes wrong, each with the library's full text: what, which peer, since when, what to do."""

from __future__ import annotations

from ._library import STATUSES, library


class RondeError(RuntimeError):
    """Something of Ronde failed. `status` is its name in ronde.h, without the prefix."""

    status = "INTERNAL"


class InvalidArgument(RondeError, ValueError):
    """This call can never succeed: change it."""

    status = "INVALID_ARGUMENT"


class PeerLost(RondeError, ConnectionError):
    """A peer died, was cut off or has left."""

    status = "PEER_LOST"


class Timeout(RondeError, TimeoutError):
    """A deadline passed, on some rank."""

    status = "TIMEOUT"


class Mismatch(RondeError):
    """Ranks made different calls."""

    status = "MISMATCH"


class Aborted(RondeError):
    """Somebody ended the job."""

    status = "ABORTED"


class Expelled(RondeError):
    """The others went on without this process: it was silent, or out of their reach, for too long."""

    status = "EXPELLED"


class ResourceError(RondeError):
    """This machine: ports, descriptors, memory."""

    status = "RESOURCE"


class JoinFailed(RondeError):
    """Address, token, version, ranks, or time."""

    status = "JOIN_FAILED"


class Closed(RondeError):
    """The group was closed here."""

    status = "CLOSED"


class Diverged(RondeError):
    """Members hold different results of one call."""

    status = "DIVERGED"


class Cancelled(RondeError):
    """This receive was taken back."""

    status = "CANCELLED"


_BY_NAME = {kind.status: kind for kind in RondeError.__subclasses__()}


def last_error(status: int) -> RondeError:
    """The exception for what the library has just said on this thread."""
    name = STATUSES[status] if 0 <= status < len(STATUSES) else "INTERNAL"
    text = library.ronde_last_error().decode(errors="replace")
    error = _BY_NAME.get(name, RondeError)(text or name.lower().replace("_", " "))
    error.status = name
    return error


def check(status: int) -> None:
    """Raises what a status that is not 0 stands for."""
    if status:
        raise last_error(status)
